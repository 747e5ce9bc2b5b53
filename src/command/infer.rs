//! `mien infer`: answer one clip.

use anyhow::Result;

/// Answer one clip.
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("this command is not built yet")
}
