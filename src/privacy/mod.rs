//! Purpose, mute, and the one gate that opens a device.
//!
//! Invariant: no camera or microphone is opened but by [`Gate::open`], and never while muted; whoever holds a source asks
//! [`Gate::muted`] before each reading and drops the source, which closes the device.

mod purpose;

pub use purpose::{PURPOSES, Purpose};

#[cfg(feature = "camera")]
use crate::source::camera;
#[cfg(feature = "mic")]
use crate::source::mic;
use crate::source::{Gives, Pool, Source, clip, pipe};
use anyhow::{Context, Result, ensure};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the site uses emotion events for: a name of [`PURPOSES`], in one of its languages.
    pub purpose: String,
    /// The site's own words; they stay in the config.
    pub purpose_note: String,
    /// The site declares a medical or safety reason, which the law asks for at work and in education.
    pub medical_safety: bool,
    /// Devices stay closed until somebody unmutes.
    pub start_muted: bool,
    /// While this file exists, devices are closed.
    pub mute_file: PathBuf,
}

impl Settings {
    pub const PATHS: &[&str] = &["mute_file"];

    pub fn check(&self) -> Result<()> {
        self.purpose().map(drop)
    }

    /// The purpose that is meant; refuses what is none.
    pub fn purpose(&self) -> Result<&'static Purpose> {
        Purpose::find(&self.purpose, self.medical_safety)
    }
}

/// Where readings come from.
#[derive(Clone, Debug)]
pub enum Device {
    #[cfg(feature = "camera")]
    Camera(camera::Settings),
    #[cfg(feature = "mic")]
    Mic(mic::Settings),
    Clip(clip::Settings),
    Pipe(pipe::Settings),
}

impl Device {
    pub fn name(&self) -> &'static str {
        match self {
            #[cfg(feature = "camera")]
            Device::Camera(_) => "camera",
            #[cfg(feature = "mic")]
            Device::Mic(_) => "mic",
            Device::Clip(_) => "clip",
            Device::Pipe(_) => "pipe",
        }
    }

    /// Refuses impossible values by name; touches no device.
    pub fn check(&self) -> Result<()> {
        match self {
            #[cfg(feature = "camera")]
            Device::Camera(settings) => settings.check(),
            #[cfg(feature = "mic")]
            Device::Mic(settings) => settings.check(),
            Device::Clip(settings) => settings.check(),
            Device::Pipe(settings) => settings.check(),
        }
    }

    /// Modalities it sends; a clip is looked into for that.
    pub fn gives(&self) -> Result<Gives> {
        Ok(match self {
            #[cfg(feature = "camera")]
            Device::Camera(_) => Gives { video: true, audio: false },
            #[cfg(feature = "mic")]
            Device::Mic(_) => Gives { video: false, audio: true },
            Device::Clip(settings) => {
                clip::probe(settings).with_context(|| format!("clip.path = {}", settings.path.display()))?
            }
            Device::Pipe(settings) => {
                Gives { video: settings.video.is_some(), audio: settings.audio.is_some() }
            }
        })
    }

    /// Refuses by name what is missing or cannot be used now.
    pub fn probe(&self) -> Result<()> {
        match self {
            #[cfg(feature = "camera")]
            Device::Camera(settings) => camera::probe(settings),
            #[cfg(feature = "mic")]
            Device::Mic(settings) => mic::probe(settings),
            Device::Clip(settings) => clip::probe(settings).map(drop),
            Device::Pipe(settings) => pipe::probe(settings),
        }
    }
}

/// Opens devices, or not.
#[derive(Debug)]
pub struct Gate {
    muted: AtomicBool,
    mute_file: PathBuf,
}

impl Gate {
    /// Refuses a purpose that may not be.
    pub fn new(settings: &Settings) -> Result<Gate> {
        settings.check()?;
        Ok(Gate { muted: AtomicBool::new(settings.start_muted), mute_file: settings.mute_file.clone() })
    }

    pub fn muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
            || (!self.mute_file.as_os_str().is_empty() && self.mute_file.exists())
    }

    /// Mutes, or takes the mute back; the mute file stands above this.
    pub fn toggle(&self) {
        self.muted.fetch_xor(true, Ordering::AcqRel);
    }

    pub fn open(&self, device: &Device, pool: &Pool) -> Result<Box<dyn Source>> {
        ensure!(!self.muted(), "the {} stays closed: muted", device.name());
        match device {
            Device::Clip(settings) => {
                let clip = clip::Clip::open(settings, pool)
                    .with_context(|| format!("opening the clip {}", settings.path.display()))?;
                Ok(Box::new(clip))
            }
            #[cfg(feature = "camera")]
            Device::Camera(settings) => Ok(Box::new(camera::Camera::open(settings, pool)?)),
            #[cfg(feature = "mic")]
            Device::Mic(settings) => Ok(Box::new(mic::Mic::open(settings, pool)?)),
            Device::Pipe(settings) => Ok(Box::new(pipe::Pipe::open(settings, pool)?)),
        }
    }
}

/// No memory of this process ends in a file: core dumps are off, and other processes of the user cannot read it.
pub fn seal() -> Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("turning core dumps off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("turning core dumps off")
}
