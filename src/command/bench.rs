//! `mien bench`: time every stage of a bundle beside this machine's ceilings.

use anyhow::Result;

/// Time every stage of a bundle beside this machine's ceilings.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
