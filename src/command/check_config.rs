//! `mien check-config`: check a config and print the limits it sets.

use anyhow::Result;

/// Check a config and print the limits it sets.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
