//! `mien run`: run the daemon.

use super::{Refused, open_bundle};
use crate::{
    bundle::Bundle,
    config,
    daemon::{self, Controls, Pace, Plan, Summary},
    model::{Infer, self_test},
    privacy,
    sink::record::Record,
};
use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
    iterator::Signals,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGQUIT];

/// Run the daemon.
///
/// SIGTERM, SIGINT and SIGQUIT end it cleanly, SIGUSR1 mutes and unmutes, SIGUSR2 tells the status, SIGHUP reads the config
/// again and takes over its thresholds. Ends by itself when a recording is over.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file (TOML).
    config: PathBuf,
    /// Play the config's recording as fast as it can be scored, and the same way every time.
    #[arg(long)]
    fast: bool,
    /// Write what each window scored and what was told into this file, for `mien replay` and bug reports; no pictures, no sound.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let starting = end_at_once()?;
    let refuse = || Refused(format!("cannot use the config {}", args.config.display()));
    let source = config::Source::read(&args.config).with_context(refuse)?;
    let bundle = open_bundle(&source.config.model.bundle)?;
    let mut plan = daemon::prepare(&source.config, &bundle, args.fast).with_context(refuse)?;
    let measurer = plan.measurer().context("[nets]").with_context(refuse)?;
    tell_missing_nets(&plan);
    let controls = Controls::new(&plan).with_context(refuse)?;
    privacy::seal()?;
    for obligation in plan.privacy.purpose()?.obligations() {
        log::info!("purpose={}: {obligation}", plan.speaker.purpose);
    }
    if let Some(text) = plan.privacy.waits_for()?.filter(|_| plan.pace == Pace::Live) {
        log::info!("{text}");
    }
    listen_to_signals(&controls, source, &args.config)?;

    let mut infer = plan.model.load(&bundle).context("loading the model")?;
    log::info!("{}", bundle.checked());
    log::info!("{}", infer.describe());
    let live = plan.pace != Pace::Fast;
    let touched = live && self_test(&bundle, &plan, infer.as_mut())?;
    drop(bundle);
    infer = plan.told(infer).context("loading the speech recogniser")?;
    plan.model.apply(infer.as_mut())?;
    if live {
        let took = daemon::rehearse(&plan, infer.as_mut(), touched)?;
        daemon::keep_up(&mut plan, took).with_context(refuse)?;
        tell_lock();
    }
    starting.store(false, Ordering::Relaxed);
    let mut sinks = daemon::open_sinks(&plan).with_context(refuse)?;
    if let Some(path) = &args.record {
        sinks.push(Box::new(Record::new(path, &plan.speaker, &plan.policy)?));
    }
    let summary = daemon::run(&plan, &controls, measurer, sinks, infer.as_mut())?;
    log::info!("{}", describe(&summary));
    Ok(())
}

/// Keeps pictures and sound out of swap, or says that the system does not let it.
fn tell_lock() {
    match privacy::lock() {
        Ok(true) => log::info!("memory is locked: nothing of it goes to swap"),
        Ok(false) => {
            log::info!("memory is not locked: swap may hold pictures and sound (LimitMEMLOCK=infinity)")
        }
        Err(error) => log::warn!("swap may hold pictures and sound: {error:#}"),
    }
}

/// Says what a config asks for and has no net for.
fn tell_missing_nets(plan: &Plan) {
    for text in plan.without_nets() {
        log::warn!("{text}");
    }
}

/// Refuses a device that computes other scores than the one that packed the bundle. False where the bundle cannot tell.
fn self_test(bundle: &Bundle, plan: &Plan, infer: &mut dyn Infer) -> Result<bool> {
    let refuse = || Refused(format!("cannot trust this device with the bundle {}", plan.speaker.bundle));
    let off = self_test::check(bundle, infer).with_context(refuse)?;
    match off {
        Some(off) => log::info!("self-test passed: scores differ by {off:.4} at most"),
        None => log::warn!(
            "the bundle holds no self-test; `mien pack {0} -o {0}` adds one",
            plan.model.bundle.display()
        ),
    }
    Ok(off.is_some())
}

/// While the flag is up, nothing was said to anybody yet, and a signal that ends the run ends it at once.
fn end_at_once() -> Result<Arc<AtomicBool>> {
    let starting = Arc::new(AtomicBool::new(true));
    for signal in ENDING {
        flag::register_conditional_shutdown(signal, 0, Arc::clone(&starting))
            .context("preparing for signals")?;
    }
    Ok(starting)
}

/// Signals steer a run from now on. A second one that ends it ends at once, whatever the first is waiting for.
fn listen_to_signals(controls: &Controls, source: config::Source, path: &Path) -> Result<()> {
    for signal in ENDING {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&controls.stop))
            .context("preparing for signals")?;
        flag::register(signal, Arc::clone(&controls.stop)).context("preparing for signals")?;
    }
    let mut signals = Signals::new([SIGUSR1, SIGUSR2, SIGHUP]).context("preparing for signals")?;
    let (controls, path, mut source) = (controls.clone(), path.to_path_buf(), source);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGUSR1 => {
                        controls.gate.toggle();
                        log::info!("muted={}", controls.gate.muted());
                    }
                    SIGHUP => reload(&controls, &mut source, &path),
                    _ => controls.tell.store(true, Ordering::Release),
                }
            }
        })
        .context("starting the thread of the signals")?;
    Ok(())
}

/// Takes over the thresholds of a config that was edited; names what waits for a restart. A bad config changes nothing.
fn reload(controls: &Controls, source: &mut config::Source, path: &Path) {
    let newer = match config::Source::read(path) {
        Ok(newer) => newer,
        Err(error) => return log::error!("config not taken over, the last good one stays: {error:#}"),
    };
    let changes = source.changes(&newer);
    if changes.is_empty() {
        return log::info!("config read again, nothing changed file={}", path.display());
    }
    let (live, rest): (Vec<String>, Vec<String>) = changes.into_iter().partition(|name| name == "policy");
    if !live.is_empty() {
        let limits = newer.config.policy.clone();
        *controls.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
        log::info!("config taken over: policy");
    }
    if !rest.is_empty() {
        log::warn!("config changed, and waits for a restart: {}", rest.join(", "));
    }
    // What waits for a restart is compared with the start, not with the last reload.
    source.adopt(&newer, "policy");
}

fn describe(summary: &Summary) -> String {
    let per_window_ms = summary.infer.as_secs_f64() * 1000.0 / f64::from(summary.windows.max(1));
    let mut text = format!(
        "done: {} events from {} windows over {:.1} s, in {:.1} s ({per_window_ms:.0} ms per window in the model), {} late, {} dropped",
        summary.events,
        summary.windows,
        summary.media.as_secs_f64(),
        summary.took.as_secs_f64(),
        summary.late,
        summary.dropped
    );
    for (name, counts) in &summary.sinks {
        text += &format!(
            "; {name}: {} sent, {} dropped, {} waiting, {} losses",
            counts.sent, counts.dropped, counts.waiting, counts.losses
        );
    }
    text
}
