//! `mien check-config`: check a config and print the limits it sets.

use super::{Refused, open_bundle, run};
use crate::{
    bundle::Bundle,
    config::{self, Config},
    privacy::{Device, Gate},
    sink::{Message, serial},
    source::Pool,
    window::Windows,
    wire::LINE_BYTES_MAX,
};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Check a config and print the limits it sets.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file (TOML).
    config: PathBuf,
    /// Do not ask whether cameras, microphones, recordings and ttys are there.
    #[arg(long)]
    no_devices: bool,
}

pub fn run(args: Args) -> Result<()> {
    let refuse = || Refused(format!("cannot use the config {}", args.config.display()));
    let config = config::read(&args.config).with_context(refuse)?;
    let bundle = open_bundle(&config.model.bundle)?;
    run::answers(&config, &bundle).with_context(refuse)?;
    Gate::new(&config.privacy).with_context(refuse)?;
    if !args.no_devices {
        devices(&config).with_context(refuse)?;
    }
    print!("{}", table(&config, &bundle).with_context(refuse)?);
    println!(
        "{}: fine{}",
        args.config.display(),
        if args.no_devices { ", devices not looked at" } else { "" }
    );
    Ok(())
}

/// Everything that has to be plugged in.
fn devices(config: &Config) -> Result<()> {
    for device in config.devices() {
        device.probe().with_context(|| format!("[{}]", device.name()))?;
    }
    if let Some(settings) = config.serial() {
        serial::open(&settings.tty, settings.baud).map(drop).context("[sink.serial]")?;
    }
    #[cfg(feature = "mqtt")]
    if let Some(settings) = config.mqtt() {
        settings.options("check").map(drop).context("[sink.mqtt]")?;
    }
    Ok(())
}

/// Bytes of one picture of a device, where the config says.
fn picture_bytes(device: &Device) -> usize {
    match device {
        #[cfg(feature = "camera")]
        Device::Camera(camera) => camera.width as usize * camera.height as usize * 3,
        _ => 0,
    }
}

/// Rows of what, how many, and bytes at most.
fn table(config: &Config, bundle: &Bundle) -> Result<String> {
    let mut gives = crate::source::Gives::default();
    let devices = config.devices();
    let picture = devices.iter().map(picture_bytes).max().unwrap_or(0);
    for device in devices {
        match &device {
            // A recording says what it holds when it is opened.
            Device::Clip(_) => (gives.video, gives.audio) = (true, true),
            device => {
                let more = device.gives()?;
                gives.video |= more.video;
                gives.audio |= more.audio;
            }
        }
    }
    let frames = bundle.shape().frames;
    let windows = Windows::new(config.window, frames, gives, Pool::default()).context("window")?;
    ensure!(frames > 0, "the bundle looks at no pictures");

    let window = &config.window;
    let policy = &config.policy;
    let rows = [
        ("window", format!("{} ms every {} ms, {frames} pictures", window.window_ms, window.hop_ms), None),
        (
            "begin",
            format!(
                "score {:.2} for {} ms, smoothed over {} ms",
                policy.enter, policy.dwell_ms, policy.smooth_ms
            ),
            None,
        ),
        ("end", format!("score below {:.2}, or {} ms without input", policy.exit, policy.patience_ms), None),
        ("heartbeat", format!("every {} ms", config.daemon.heartbeat_ms), None),
        ("sound ring", format!("{} ms", window.window_ms + window.lateness_ms), Some(windows.sound_bytes())),
        ("pictures held", windows.frames_held_max().to_string(), Some(windows.frames_held_max() * picture)),
        (
            "readings queued",
            config.daemon.readings_max.to_string(),
            Some(config.daemon.readings_max * picture),
        ),
        (
            "messages queued per sink",
            config.daemon.messages_max.to_string(),
            Some(config.daemon.messages_max * size_of::<Message>()),
        ),
        ("packet", "1".into(), Some(LINE_BYTES_MAX)),
        ("bundle, mapped", bundle.header().name.clone(), Some(bundle.file_bytes())),
    ];
    let mut text = String::new();
    for (what, limit, bytes) in rows {
        let bytes = match bytes {
            Some(0) => "as the input".into(),
            Some(bytes) => size(bytes),
            None => String::new(),
        };
        text += format!("{what:<26}{limit:<52}{bytes:>14}").trim_end();
        text.push('\n');
    }
    Ok(text)
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
