//! `mien update`: install an update file, switch to it, and keep it only if it works.

use super::{Refused, say};
use crate::update::{
    STAGE, STORE, UNIT,
    engine::{self, CERTIFICATE, ENGINE, SYSTEM_CONFIG},
    service,
    slots::{Slot, Slots, Standing},
    stage::Places,
};
use anyhow::{Context, Error, Result, bail, ensure};
use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Install an update file, switch to it, and keep it only if it works.
///
/// RAUC checks who signed it and writes it into the slot that does not run. The new program then has three starts to score its first
/// window; if it does not, what ran before comes back by itself. Run as root. Exit codes: 0 the new program runs and is good, 78 the file is
/// refused and what runs stays, 1 anything else, with what ran before running again.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Update file of `tools/board/update-file`.
    #[arg(required_unless_present_any = ["status", "back"], conflicts_with_all = ["status", "back"])]
    file: Option<PathBuf>,
    /// Say what runs and what the slots hold.
    #[arg(long)]
    status: bool,
    /// Go back to what ran before the last update.
    #[arg(long, conflicts_with = "status")]
    back: bool,
}

/// Three starts with 120 seconds each for the gate, and their stops.
const SETTLED: Duration = Duration::from_secs(600);

pub fn run(args: Args) -> Result<()> {
    let places = Places { store: STORE.into(), stage: STAGE.into() };
    if args.status {
        return status(&places);
    }
    ensure!(rustix::process::geteuid().is_root(), "updating changes what the machine starts: run it as root");
    ensure!(
        places.stage.join("current").exists(),
        "the service {UNIT} was not started by the package mien-update yet: install it, then systemctl restart {UNIT}"
    );
    match args.file {
        Some(file) => install(&places, &file),
        None => back(&places),
    }
}

fn name(slot: Option<Slot>) -> String {
    slot.map_or("the package's program".into(), |slot| slot.to_string())
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

fn install(places: &Places, file: &Path) -> Result<()> {
    let refused = || Refused(format!("nothing was changed: {} is refused", file.display()));
    ensure!(file.is_file(), Refused(format!("there is no file {}", file.display())));
    ensure!(
        !Path::new(SYSTEM_CONFIG).exists(),
        Refused(format!("RAUC updates this board's own system ({SYSTEM_CONFIG}): put mien into its images"))
    );
    ensure!(
        Path::new(CERTIFICATE).is_file(),
        Refused(format!("put the certificate of who signs your updates at {CERTIFICATE}"))
    );
    let info = engine::info(file).with_context(refused)?;
    let compatible = engine::compatible()?;
    if info.compatible != compatible {
        let why = Error::msg(format!("it is for {}, this board is {compatible}", info.compatible));
        return Err(why.context(refused()));
    }
    engine::make_room(&places.store, info.bytes)?;

    let before = places.booted();
    let was_degraded = service::ask(UNIT)?.state() == "degraded";
    say(format_args!("{}: version {} over {}", file.display(), info.version, name(before)));
    // It learns when it starts which slot runs.
    service::control("restart", ENGINE, true)?;
    engine::install(file)
        .with_context(|| Refused(format!("{} is refused, and {} stays", file.display(), name(before))))?;
    let mut slots = Slots::load(&places.store);
    slots.was_degraded = was_degraded;
    slots.store(&places.store)?;
    let Some(target) = slots.chosen().filter(|&slot| Some(slot) != before) else {
        bail!("rauc installed the file, and no slot is on trial: mien update --status")
    };
    switch(places, target).with_context(|| {
        format!("version {} did not work here; journalctl -u {UNIT} says why", info.version)
    })?;
    say(format_args!("version {} runs in {target} and is good", info.version));
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

/// Starts the target and waits until it is found good, or something else runs.
fn switch(places: &Places, target: Slot) -> Result<()> {
    let start = Instant::now();
    say(format_args!("starting {target}; it is kept when it has scored a window"));
    service::control("restart", UNIT, false)?;
    loop {
        thread::sleep(Duration::from_millis(200));
        let standing = Slots::load(&places.store).standing(target);
        let running = places.booted();
        match standing {
            Standing::Good if running == Some(target) => return Ok(()),
            Standing::Bad | Standing::Trial(0) if running != Some(target) => {
                bail!("{} runs again", name(running));
            }
            _ if start.elapsed() > SETTLED => bail!("{target} is {standing} after {} s", SETTLED.as_secs()),
            _ => {}
        }
    }
}
