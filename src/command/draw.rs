//! `mien draw`: draw the events of a run as a picture.

use anyhow::Result;

/// Draw the events of a run as a picture.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
