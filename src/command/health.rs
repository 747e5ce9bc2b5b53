//! `mien health`: whether the daemon works, as an exit code for update engines and scripts.

use crate::update::{
    UNIT,
    service::{self, First},
};
use anyhow::Result;
use std::time::Duration;

/// Say whether the daemon that systemd runs works: 0 where it does, 1 where it does not.
///
/// It works when it has scored a window since its start with every device there, or when devices are closed by a mute. For the health
/// checks of Mender, SWUpdate and others.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Wait so many seconds for it.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    within: u64,
    /// An event has to be seen, not only a window.
    #[arg(long)]
    event: bool,
    /// A device may be missing.
    #[arg(long)]
    degraded: bool,
    /// Unit of the daemon.
    #[arg(long, default_value = UNIT)]
    unit: String,
}

pub fn run(args: Args) -> Result<()> {
    let first = if args.event { First::Event } else { First::Window };
    let shown = service::wait(&args.unit, first, args.degraded, Duration::from_secs(args.within))?;
    println!("{} is {}: {}", args.unit, shown.active, shown.line);
    Ok(())
}
