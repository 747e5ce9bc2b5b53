//! `mien manual`: man pages, from the same texts as `--help`.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// Write the man pages into a folder: mien(1), and one for each command.
///
/// To read one: mien manual pages && man -l pages/mien-run.1
#[derive(clap::Args, Debug)]
pub struct Args {
    folder: PathBuf,
}

/// `program` is the whole command line of the program.
pub fn run(args: Args, program: clap::Command) -> Result<()> {
    let folder = &args.folder;
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(program, folder));
    written.with_context(|| format!("writing man pages into {}", folder.display()))
}
