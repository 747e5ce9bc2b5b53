//! `mien pack`: make a bundle from a published checkpoint.

use anyhow::Result;

/// Make a bundle from a published checkpoint.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
