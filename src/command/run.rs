//! `mien run`: run the daemon.

use super::{Refused, open_bundle};
use crate::{
    bundle::Bundle,
    config::{self, Config, Explain},
    daemon::{self, Pace, Plan, Summary},
    model::{self, Decoding},
    privacy::{Device, Gate},
    sink::{Sink, Speaker, serial::Serial, stdout::Stdout},
    source::Pool,
    wire::LABELS_MAX,
};
use anyhow::{Context, Result, ensure};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    flag,
    iterator::Signals,
};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

/// Run the daemon.
///
/// SIGTERM and SIGINT end it cleanly, SIGUSR1 mutes and unmutes. Ends by itself when a recording is over.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file (TOML).
    config: PathBuf,
    /// Play the config's recording as fast as it can be scored, and the same way every time.
    #[arg(long)]
    fast: bool,
}

pub fn run(args: Args) -> Result<()> {
    let config =
        config::read(&args.config).with_context(|| refused("cannot use the config", &args.config))?;
    let bundle = open_bundle(&config.model.bundle)?;
    let ready = prepare(&config, &bundle, args.fast)
        .with_context(|| refused("cannot use the config", &args.config))?;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second one ends at once, whatever the first is waiting for.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop)).context("preparing for signals")?;
        flag::register(signal, Arc::clone(&stop)).context("preparing for signals")?;
    }
    mute_on_signal(&ready.gate)?;

    let mut infer =
        model::load(&bundle, model::Device::Auto, config.model.threads).context("loading the model")?;
    let decoding = Decoding { max_new_tokens: Some(config.model.reason_tokens), ..Decoding::default() };
    infer.set_decoding(decoding).context("model.reason_tokens")?;
    infer.set_audio_context(config.model.audio_context).context("model.audio_context")?;
    log::info!("{}", bundle.checked());
    drop(bundle);
    log::info!("{}", infer.describe());
    let summary = daemon::run(ready, infer.as_mut(), &stop)?;
    log::info!("{}", describe(&summary));
    Ok(())
}

fn refused(what: &str, path: &Path) -> Refused {
    Refused(format!("{what} {}", path.display()))
}

/// The config's model settings with every name looked up in the bundle.
pub fn answers(config: &Config, bundle: &Bundle) -> Result<config::Model> {
    let mut model = config.model.clone();
    if model.labels.is_empty() {
        let first = bundle.label_sets().first().context("the bundle has no label set")?;
        model.labels = first.name.clone();
    }
    let set = bundle.label_set(&model.labels).context("model.labels")?;
    ensure!(
        set.labels.len() <= LABELS_MAX,
        "the label set {} has {} labels: events can name {LABELS_MAX}",
        set.name,
        set.labels.len()
    );
    bundle.prompt(&model.prompt).context("model.prompt")?;
    if model.reason != Explain::Off {
        bundle.prompt(&model.reason_prompt).context("model.reason_prompt")?;
    }
    config.window.check(bundle.shape().frames).context("window")?;
    let (window_ms, hears_ms) = (config.window.window_ms, bundle.shape().hears_ms());
    ensure!(
        window_ms as usize <= hears_ms,
        "window: window_ms = {window_ms}, but the bundle hears {hears_ms} ms at once; set window_ms to {hears_ms} or less"
    );
    Ok(model)
}

/// Opens the exits. Nothing is captured yet.
pub fn prepare(config: &Config, bundle: &Bundle, fast: bool) -> Result<Plan> {
    let model = answers(config, bundle)?;
    let set = bundle.label_set(&model.labels)?;
    let frames = bundle.shape().frames;
    let readings_max = config.readings_max(frames);
    let mut devices = Vec::new();
    let mut pace = Pace::Live;
    for mut device in config.devices() {
        if let Device::Clip(settings) = &mut device {
            settings.paced &= !fast;
            pace = if settings.paced { Pace::Paced } else { Pace::Fast };
        }
        let gives = device.gives()?;
        devices.push((device, gives));
    }
    ensure!(!fast || pace == Pace::Fast, "--fast needs a recording: the config has no [clip]");

    let speaker = Arc::new(Speaker {
        boot: if pace == Pace::Fast { 0 } else { random()? },
        device: config.device_name(),
        purpose: config.privacy.purpose.clone(),
        bundle: bundle.header().name.clone(),
        bundle_hash: bundle.hash(),
        label_set: set.name.clone(),
        labels: set.labels.clone(),
        window_ms: config.window.window_ms,
        hop_ms: config.window.hop_ms,
        heartbeat_ms: config.daemon.heartbeat_ms,
    });
    Ok(Plan {
        gate: Arc::new(Gate::new(&config.privacy)?),
        pool: Pool::new(readings_max, readings_max),
        devices,
        pace,
        window: config.window,
        frames,
        policy: config.policy.clone(),
        model,
        daemon: config::Daemon { readings_max, ..config.daemon.clone() },
        state_file: state_file(config),
        sinks: sinks(config, &speaker)?,
        speaker,
    })
}

/// The configured sinks. An edge that is away is no error.
fn sinks(config: &Config, speaker: &Arc<Speaker>) -> Result<Vec<Box<dyn Sink>>> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if let Some(settings) = config.stdout() {
        sinks.push(Box::new(Stdout::new(settings.clone(), Arc::clone(speaker))));
    }
    if let Some(settings) = config.serial() {
        sinks.push(Box::new(Serial::new(settings.clone(), Arc::clone(speaker))));
    }
    #[cfg(feature = "mqtt")]
    if let Some(settings) = config.mqtt() {
        sinks.push(Box::new(crate::sink::mqtt::Mqtt::new(settings.clone(), Arc::clone(speaker))?));
    }
    Ok(sinks)
}

/// The configured one, or one in the runtime directory that systemd made for us.
fn state_file(config: &Config) -> PathBuf {
    match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(folder) if config.state_file.as_os_str().is_empty() => Path::new(&folder).join("holds.json"),
        _ => config.state_file.clone(),
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

fn mute_on_signal(gate: &Arc<Gate>) -> Result<()> {
    let mut signals = Signals::new([SIGUSR1]).context("preparing for SIGUSR1")?;
    let gate = Arc::clone(gate);
    std::thread::Builder::new()
        .name("mute".into())
        .spawn(move || {
            for _ in signals.forever() {
                gate.toggle();
                log::info!("muted={}", gate.muted());
            }
        })
        .context("starting the thread that mutes")?;
    Ok(())
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
        text +=
            &format!("; {name}: {} sent, {} dropped, {} losses", counts.sent, counts.dropped, counts.losses);
    }
    text
}
