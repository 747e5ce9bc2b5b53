//! `mien doctor`: say what this machine has and what is missing.

use anyhow::Result;

/// Say what this machine has and what is missing.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
