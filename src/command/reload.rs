//! `mien reload`: have a running daemon read its config again, after it was checked here.

use super::Refused;
use crate::{config, machine};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;

/// Have a running daemon take over what changed in its config.
///
/// The config is checked first; a bad one changes nothing. Thresholds are taken over at the next window, and the daemon's log names
/// what waits for a restart. Under systemd, `systemctl reload mien` does the same.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config that a daemon on this machine runs with.
    config: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    let name = args.config.display();
    config::read(&args.config)
        .with_context(|| Refused(format!("nothing was changed: cannot use the config {name}")))?;
    let path = args.config.canonicalize().with_context(|| name.to_string())?;
    let running = machine::running_with("run", &path);
    ensure!(!running.is_empty(), "no daemon runs with {name}; start one with `mien run {name}`");
    for &pid in &running {
        let Some(process) = Pid::from_raw(pid) else { bail!("process {pid} cannot be signalled") };
        kill_process(process, Signal::HUP)
            .with_context(|| format!("the daemon (process {pid}) belongs to another user: try it as root"))?;
        println!(
            "the daemon (process {pid}) reads {name} again; its log says what it took over and what waits for a restart"
        );
    }
    Ok(())
}
