//! `mien slot`: what the unit and RAUC ask about the two slots of updates.

use crate::update::{
    STAGE, STORE, UNIT,
    engine::ENGINE,
    service::{self, First},
    slots::{Slot, Slots, Standing},
    stage::Places,
};
use anyhow::{Context, Result, bail};
use rustix::fs::Mode;
use std::{path::PathBuf, time::Duration};

/// Which program a board starts: called by the unit and by RAUC.
///
/// `get-…` and `set-…` are RAUC's custom boot selection.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(long, default_value = STORE)]
    store: PathBuf,
    #[arg(long, default_value = STAGE)]
    stage: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Choose what starts, count it, lay it under `current`.
    Start,
    /// Find what runs good, where it is on trial.
    Gate {
        /// So many seconds it has for its first window.
        #[arg(long, default_value_t = 120)]
        within: u64,
    },
    /// The daemon has ended with this code: where no restart can help, a trial is over.
    Ended {
        code: String,
    },
    /// Print what runs: A, B, or `_external_` for the package.
    Booted,
    /// The package's program starts again, whatever the slots hold.
    Reset,
    GetCurrent,
    GetPrimary,
    SetPrimary {
        slot: String,
    },
    GetState {
        slot: String,
    },
    SetState {
        slot: String,
        state: String,
    },
}

/// The daemon's exit code for a config or a bundle that no restart can help.
const REFUSED: &str = "78";

fn named(name: &str) -> Result<Slot> {
    Slot::named(name).with_context(|| format!("there is no slot '{name}': there are A and B"))
}

pub fn run(args: Args) -> Result<()> {
    // The unit's mask would hide from others what runs.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let places = Places { store: args.store, stage: args.stage };
    match args.action {
        Action::Start => start(&places),
        Action::Gate { within } => gate(&places, Duration::from_secs(within)),
        Action::Ended { code } => ended(&places, &code),
        Action::Booted => say(places.booted().map_or("_external_", Slot::name)),
        Action::Reset if !places.store.is_dir() => Ok(()),
        Action::Reset => Slots::default().store(&places.store),
        Action::GetCurrent => say(places.booted().context("the package's program runs")?.name()),
        Action::GetPrimary => {
            say(Slots::load(&places.store).chosen().context("the package's program starts")?.name())
        }
        Action::GetState { slot } => {
            let standing = Slots::load(&places.store).standing(named(&slot)?);
            say(if standing.may_start() { "good" } else { "bad" })
        }
        Action::SetPrimary { slot } => {
            let slot = named(&slot)?;
            change(&places, |slots| slots.prefer(slot))
        }
        Action::SetState { slot, state } => {
            let slot = named(&slot)?;
            let standing = match state.as_str() {
                "good" => Standing::Good,
                "bad" => Standing::Bad,
                _ => bail!("a slot is good or bad, not '{state}'"),
            };
            change(&places, |slots| slots.set(slot, standing))
        }
    }
}

fn say(word: &str) -> Result<()> {
    println!("{word}");
    Ok(())
}

fn change(places: &Places, how: impl FnOnce(&mut Slots)) -> Result<()> {
    let mut slots = Slots::load(&places.store);
    how(&mut slots);
    slots.store(&places.store)
}

fn ended(places: &Places, code: &str) -> Result<()> {
    let Some(slot) = places.booted().filter(|_| code == REFUSED) else { return Ok(()) };
    let Standing::Trial(_) = Slots::load(&places.store).standing(slot) else { return Ok(()) };
    log::error!("{slot} refuses to run here: back to what ran before");
    change(places, |slots| slots.set(slot, Standing::Bad))?;
    // A start would be taken for the one that just failed.
    service::control("restart", UNIT, false)
}

/// RAUC learns when it starts what runs: after a change it starts again, unless it is not wanted yet.
fn start(places: &Places) -> Result<()> {
    let before = places.booted();
    let now = places.start()?;
    log::info!("starting {}", now.map_or("the package's program".into(), |slot| slot.to_string()));
    // The daemon starts, whatever becomes of that.
    if now != before
        && let Err(error) = service::control("try-restart", ENGINE, false)
    {
        log::warn!("{error:#}");
    }
    Ok(())
}

fn gate(places: &Places, within: Duration) -> Result<()> {
    let slots = Slots::load(&places.store);
    let Some(slot) = places.booted() else { return Ok(()) };
    let Standing::Trial(left) = slots.standing(slot) else { return Ok(()) };
    let shown = service::wait(UNIT, First::Window, slots.was_degraded, within)
        .with_context(|| format!("{slot} is not found good, {left} tries left"))?;
    // What RAUC wrote meanwhile counts.
    change(places, |slots| {
        slots.set(slot, Standing::Good);
        slots.was_degraded = false;
    })?;
    log::info!("{slot} is good: {}", shown.line);
    Ok(())
}
