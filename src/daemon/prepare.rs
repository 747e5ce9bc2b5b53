//! From a config and a bundle to a plan: names looked up, sizes resolved, nothing opened but the recording that a clip is.

use super::{pace::Pace, plan::Plan};
use crate::{
    bundle::{Bundle, Piece},
    config::{self, Config, Explain, Temperature},
    cues::Ground,
    machine,
    model::follow::Follower,
    sink::Speaker,
    source,
    wire::LABELS_MAX,
};
use anyhow::{Context, Result, ensure};
use std::{env, path::PathBuf, sync::Arc};

/// Refuses by name what the bundle cannot do. `fast` plays a recording as fast as it can be scored.
pub fn prepare(config: &Config, bundle: &Bundle, fast: bool) -> Result<Plan> {
    let model = resolve(config, bundle)?;
    let set = bundle.label_set(&model.labels)?;
    let frames = bundle.shape().frames;
    let mut sources = Vec::new();
    let mut pace = Pace::Live;
    for mut source in config.sources() {
        if let source::Settings::Clip(settings) = &mut source {
            settings.paced &= !fast;
            pace = if settings.paced { Pace::Paced } else { Pace::Fast };
        }
        let gives = source.gives()?;
        sources.push((source, gives));
    }
    ensure!(!fast || pace == Pace::Fast, "--fast needs a recording: the config has no [clip]");

    let recorded = pace == Pace::Fast;
    let speaker = Speaker {
        boot: if recorded { 0 } else { machine::random()? },
        machine: if recorded { String::new() } else { machine::id() },
        device: config.device_name(),
        purpose: config.privacy.purpose()?.name.into(),
        bundle: bundle.header().name.clone(),
        bundle_hash: bundle.hash(),
        label_set: set.name.clone(),
        labels: set.labels.clone(),
        window_ms: config.window.window_ms,
        hop_ms: config.window.hop_ms,
        heartbeat_ms: config.daemon.heartbeat_ms,
    };
    Ok(Plan {
        pace,
        sources,
        sinks: config.sink.all(),
        privacy: config.privacy.clone(),
        window: config.window,
        frames,
        side: bundle.shape().image,
        policy: config.policy.clone(),
        nets: config::nets(&config.nets)?,
        words: config.words.clone(),
        gate: config.gate,
        cues: config.cues,
        followers: Follower::all(set).filter(|_| model.temperature == Temperature::Followed),
        model,
        daemon: config::Daemon { readings_max: config.readings_max(frames), ..config.daemon.clone() },
        state_dir: state_dir(config),
        speaker: Arc::new(speaker),
        board: config.board.name.clone(),
        power: config.board.power.clone(),
        bundle_bytes: bundle.file_bytes(),
    })
}

/// The config's model settings with every name looked up in the bundle.
fn resolve(config: &Config, bundle: &Bundle) -> Result<config::Model> {
    let mut model = config.model.clone();
    if model.labels.is_empty() {
        let first = bundle.label_sets().first().context("the bundle has no label set")?;
        model.labels = first.name.clone();
    }
    let set = bundle.label_set(&model.labels).context("model.labels")?;
    ensure!(
        (1..=LABELS_MAX).contains(&set.labels.len()),
        "the label set {} has {} labels: events can name 1 to {LABELS_MAX}",
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
    if let Some(words) = &config.words {
        words.open(window_ms)?;
    }
    tell_of_words(config, &model, bundle)?;
    Ok(model)
}

/// Says where words are heard for nothing, or asked for and not heard.
fn tell_of_words(config: &Config, model: &config::Model, bundle: &Bundle) -> Result<()> {
    let reasons = model.reason != Explain::Off;
    let mut asked = bundle.prompt(&model.prompt)?.has(&Piece::Words);
    asked |= reasons && bundle.prompt(&model.reason_prompt)?.has(&Piece::Words);
    let held = reasons && config.cues.ground != Ground::Off;
    match &config.words {
        None if asked => log::warn!(
            "a prompt of the bundle has a place for what is said, which stays empty: [words] names a speech recogniser"
        ),
        Some(_) if !asked && !held => log::warn!(
            "[words] is heard and nothing uses it: no prompt has a place for it, and no reason is held against it"
        ),
        _ => {}
    }
    Ok(())
}

/// The configured one, or the one that systemd made for us.
fn state_dir(config: &Config) -> PathBuf {
    match env::var_os("STATE_DIRECTORY") {
        Some(folder) if config.state_dir.as_os_str().is_empty() => folder.into(),
        _ => config.state_dir.clone(),
    }
}
