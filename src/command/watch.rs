//! `mien watch`: decode and print events from a serial line or a broker.

use anyhow::Result;

/// Decode and print events from a serial line or a broker.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
