//! The commands, one file each: arguments in, work done, a result for the exit code. No command names another.

use anyhow::{Error, Result};
use std::{
    env, fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

pub mod bench;
mod broker;
pub mod calibrate;
pub mod check_config;
mod clips;
pub mod completions;
pub mod conformance;
pub mod cues;
pub mod doctor;
pub mod draw;
pub mod eval;
pub mod health;
pub mod infer;
pub mod inspect;
pub mod logging;
pub mod manual;
pub mod notice;
#[cfg(feature = "pack")]
pub mod pack;
pub mod reload;
pub mod replay;
pub mod run;
pub mod schema;
pub mod slot;
pub mod top;
pub mod update;
pub mod watch;

/// Prints a line of a command that goes on when nobody reads it any more.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A config or a bundle that cannot be used: the process ends with 78, and a service manager does not try again.
#[derive(Debug)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Opens a bundle, or refuses it by name. A machine without memory is no fault of the bundle: another try may help.
pub fn open_bundle(path: &Path) -> Result<crate::bundle::Bundle> {
    let cannot = || format!("cannot use the bundle {}", path.display());
    crate::bundle::Bundle::open(path).map_err(|error| match out_of_memory(&error) {
        true => error.context(format!("{}: free memory, and try again", cannot())),
        false => error.context(Refused(cannot())),
    })
}

fn out_of_memory(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::OutOfMemory)
}

/// The bundle to use when none is named: the only one, or `default.gguf`, in the first folder of models that holds any. Folders
/// are `$MIEN_MODELS`, `models` in the working directory, and `models` beside the program or up to three folders above it.
pub fn default_bundle() -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("MIEN_MODELS").map(PathBuf::from).into_iter().collect();
    folders.push("models".into());
    if let Ok(program) = env::current_exe() {
        folders.extend(program.ancestors().skip(1).take(4).map(|folder| folder.join("models")));
    }
    for folder in &folders {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut bundles: Vec<PathBuf> =
            files.filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
        bundles.sort();
        let default = folder.join("default.gguf");
        match bundles.as_slice() {
            [] => continue,
            [only] => return Ok(only.clone()),
            _ if bundles.contains(&default) => return Ok(default),
            _ => {
                let names = bundles.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
                return Err(Error::msg(Refused(format!("which bundle? Name one with --bundle: {names}"))));
            }
        }
    }
    let looked = folders.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(Error::msg(Refused(format!(
        "no bundle found in {looked}; make one with `mien pack`, or name one with --bundle"
    ))))
}
