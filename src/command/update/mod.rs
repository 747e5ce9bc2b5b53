//! `mien update`: install an update file, switch to it, and keep it only if it works.

#[cfg(feature = "mqtt")]
mod ask;
mod install;

use super::{Refused, say};
use crate::update::{
    STAGE, STORE, UNIT,
    engine::{self, SYSTEM_CONFIG},
    offer, service,
    slots::{Slot, Slots},
    stage::Places,
};
use anyhow::{Result, bail, ensure};
use install::{install, name};
use std::path::{Path, PathBuf};

/// Install an update file, switch to it, and keep it only if it works.
///
/// RAUC checks who signed it and writes it into the slot that does not run. The new program then has three starts to score its first
/// window; if it does not, what ran before comes back by itself. Run as root. Exit codes: 0 the new program runs and is good, 78 the file is
/// refused and what runs stays, 1 anything else, with what ran before running again.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Update file of `tools/board/update-file`.
    #[arg(required_unless_present_any = ["status", "back", "ask"], conflicts_with_all = ["status", "back", "ask"])]
    file: Option<PathBuf>,
    /// Say what runs and what the slots hold.
    #[arg(long)]
    status: bool,
    /// Go back to what ran before the last update.
    #[arg(long, conflicts_with = "status")]
    back: bool,
    /// Ask the config's broker for an offer of `tools/board/offer`, take it where it is this board's turn, and tell the broker what
    /// became of it.
    #[arg(long, conflicts_with_all = ["status", "back"])]
    ask: bool,
    /// Config of the daemon, where the broker stands.
    #[arg(long, requires = "ask", default_value = "/etc/mien/mien.toml")]
    config: PathBuf,
    /// Topic of the offer.
    #[arg(long, requires = "ask", default_value = offer::TOPIC)]
    topic: String,
}

pub fn run(args: Args) -> Result<()> {
    let places = Places { store: STORE.into(), stage: STAGE.into() };
    if args.status {
        return status(&places);
    }
    ensure!(
        !Path::new(SYSTEM_CONFIG).exists(),
        Refused(format!(
            "RAUC updates this board's own system ({SYSTEM_CONFIG}): rauc install FILE, then reboot"
        ))
    );
    ensure!(rustix::process::geteuid().is_root(), "updating changes what the machine starts: run it as root");
    ensure!(
        places.stage.join("current").exists(),
        "the service {UNIT} was not started by the package mien-update yet: install it, then systemctl restart {UNIT}"
    );
    match &args.file {
        Some(file) => install(&places, file),
        None if args.ask => ask(&places, &args),
        None => back(&places),
    }
}

#[cfg(feature = "mqtt")]
fn ask(places: &Places, args: &Args) -> Result<()> {
    ask::run(places, &args.config, &args.topic)
}

#[cfg(not(feature = "mqtt"))]
fn ask(_: &Places, _: &Args) -> Result<()> {
    bail!("--ask needs a build with the feature `mqtt`")
}

fn status(places: &Places) -> Result<()> {
    let slots = Slots::load(&places.store);
    let versions = engine::versions(&places.store);
    say(format_args!("runs     {}", name(places.booted())));
    say(format_args!("next     {}", name(slots.chosen())));
    for (slot, version) in Slot::ALL.into_iter().zip(versions) {
        say(format_args!("{slot}   {}, {}", version.as_deref().unwrap_or("nothing"), slots.standing(slot)));
    }
    Ok(())
}

fn back(places: &Places) -> Result<()> {
    let Some(running) = places.booted() else {
        bail!("the package's program runs: there is nothing to go back to")
    };
    let mut slots = Slots::load(&places.store);
    slots.leave(running);
    slots.store(&places.store)?;
    let next = slots.chosen();
    service::control("restart", UNIT, true)?;
    ensure!(places.booted() == next, "{} runs, not {}", name(places.booted()), name(next));
    say(format_args!("{} runs again", name(next)));
    Ok(())
}
