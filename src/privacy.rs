//! Purpose, mute, and the one gate that opens a device.
//!
//! The EU AI Act (Art. 5(1)(f)) forbids inferring emotions at work and in education, but for medical or safety reasons: a site
//! says what it is for, such purposes are refused, and the purpose travels in every hello.
//!
//! Invariant: no camera or microphone is opened but by [`Gate::open`], and never while muted; whoever holds a source asks
//! [`Gate::muted`] before each reading and drops the source, which closes the device.

#[cfg(feature = "camera")]
use crate::source::camera;
#[cfg(feature = "mic")]
use crate::source::mic;
use crate::source::{Gives, Pool, Source, clip, pipe};
use anyhow::{Context, Result, bail, ensure};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

/// Words in a purpose that mean a workplace or education.
const REFUSED: [&str; 18] = [
    "workplace",
    "work",
    "office",
    "employee",
    "employees",
    "employer",
    "staff",
    "worker",
    "workers",
    "hiring",
    "recruiting",
    "education",
    "school",
    "classroom",
    "university",
    "student",
    "students",
    "exam",
];

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the site uses emotion events for, in a word or two: `research`, `home-assistant`, `museum-guide`.
    pub purpose: String,
    /// The site declares a medical or safety reason, which the law asks for at work and in education.
    pub medical_safety: bool,
    /// Devices stay closed until somebody unmutes.
    pub start_muted: bool,
    /// While this file exists, devices are closed.
    pub mute_file: PathBuf,
}

impl Settings {
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.purpose.is_empty(),
            "privacy.purpose is not set: say in a word or two what emotion events are used for here, \
             for example purpose = \"research\""
        );
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            self.purpose.len() <= 20 && self.purpose.chars().all(plain),
            "privacy.purpose = {:?}: at most 20 of a-z, 0-9 and -",
            self.purpose
        );
        let refused = self.purpose.split('-').find(|word| REFUSED.contains(word));
        if let (Some(word), false) = (refused, self.medical_safety) {
            bail!(
                "privacy.purpose = {:?} is refused: `{word}` means a workplace or education, where inferring emotions is \
                 forbidden in the EU (AI Act, Art. 5(1)(f)) but for medical or safety reasons; where such a reason stands, \
                 declare it with privacy.medical_safety = true",
                self.purpose
            );
        }
        Ok(())
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
