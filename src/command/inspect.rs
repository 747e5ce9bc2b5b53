//! `mien inspect`: print what a bundle holds.

use anyhow::Result;

/// Print what a bundle holds.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
