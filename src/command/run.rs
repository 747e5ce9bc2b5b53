//! `mien run`: run the daemon.

use anyhow::Result;

/// Run the daemon.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
