//! An update file into the slot that does not run, the switch to it, and what comes of that.

use crate::{
    command::{Refused, say},
    update::{
        UNIT,
        engine::{self, CERTIFICATE, ENGINE},
        service,
        slots::{Slot, Slots, Standing},
        stage::Places,
    },
};
use anyhow::{Context, Error, Result, bail, ensure};
use std::{
    fmt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Three starts with 120 seconds each for the gate, and their stops.
const SETTLED: Duration = Duration::from_secs(600);

/// A version that was started and left again.
#[derive(Debug)]
pub struct Left(String);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub fn name(slot: Option<Slot>) -> String {
    slot.map_or("the package's program".into(), |slot| slot.to_string())
}

/// It is known who signs updates.
pub fn certified() -> Result<()> {
    let refused = || Refused(format!("put the certificate of who signs your updates at {CERTIFICATE}"));
    ensure!(Path::new(CERTIFICATE).is_file(), refused());
    Ok(())
}

/// Installs a file, and comes back when it was found good; or with [`Left`], or refused.
pub fn install(places: &Places, file: &Path) -> Result<()> {
    let refused = || Refused(format!("nothing was changed: {} is refused", file.display()));
    ensure!(file.is_file(), Refused(format!("there is no file {}", file.display())));
    certified()?;
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
        Left(format!("version {} did not work here; journalctl -u {UNIT} says why", info.version))
    })?;
    say(format_args!("version {} runs in {target} and is good", info.version));
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
