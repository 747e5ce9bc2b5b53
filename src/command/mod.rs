//! The commands, one file each: arguments in, work done, a result for the exit code.

use anyhow::{Context, Result};
use std::{fmt, path::Path};

pub mod bench;
pub mod check_config;
pub mod doctor;
pub mod draw;
pub mod infer;
pub mod inspect;
pub mod pack;
pub mod run;
pub mod watch;

/// A config or a bundle that cannot be used: the process ends with 78, and a service manager does not try again.
#[derive(Debug)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Opens a bundle, or refuses it by name.
pub fn open_bundle(path: &Path) -> Result<crate::bundle::Bundle> {
    crate::bundle::Bundle::open(path)
        .with_context(|| Refused(format!("cannot use the bundle {}", path.display())))
}
