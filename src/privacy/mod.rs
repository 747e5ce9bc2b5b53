//! Purpose, mute, and the one gate that opens a device.
//!
//! Invariant: no camera or microphone is opened but by [`Gate::open`], and never while muted; whoever holds a source asks
//! [`Gate::muted`] before each reading and drops the source, which closes the device.

mod purpose;

pub use purpose::{PURPOSES, Purpose};

use crate::source::{self, Pool, Source};
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

    pub fn open(&self, source: &source::Settings, pool: &Pool) -> Result<Box<dyn Source>> {
        ensure!(!self.muted(), "the {} stays closed: muted", source.name());
        source.open(pool)
    }
}

/// No memory of this process ends in a file: core dumps are off, and other processes of the user cannot read it.
pub fn seal() -> Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("turning core dumps off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("turning core dumps off")
}
