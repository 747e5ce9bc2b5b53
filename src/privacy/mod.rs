//! Purpose, consent, mute, and the one gate that opens a device.
//!
//! Invariant: no camera or microphone is opened but by [`Gate::open`], never while muted, and never unless the capture indicator, where
//! there is one, could be switched on; whoever holds a source asks [`Gate::muted`] before each reading and drops the source, which
//! closes the device. A pin that cannot be read mutes.

mod journal;
pub mod pins;
mod purpose;

pub use journal::{Entry, Journal, check};
pub use pins::Switches;
pub use purpose::{PURPOSES, Purpose};

use crate::source::{self, Gives, Pool, Reading, Source, SourceCounts};
use anyhow::{Context, Result, ensure};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the site uses emotion events for: a name of [`PURPOSES`], in one of its languages.
    pub purpose: String,
    /// The site's own words; they stay in the config.
    pub purpose_note: String,
    /// The site declares a medical or safety reason, which the law asks for at work and in education.
    pub medical_safety: bool,
    /// How those agree whom the purpose asks for consent.
    pub consent: Consent,
    /// While this file exists, people agree; empty: a device that waits for consent is unmuted by a signal or a pin.
    pub consent_file: PathBuf,
    /// Devices stay closed until somebody unmutes.
    pub start_muted: bool,
    /// While this file exists, devices are closed.
    pub mute_file: PathBuf,
    /// A mute switch and a capture indicator on the board's pins.
    pub pins: Option<pins::Settings>,
    /// Who is responsible, and where people can read more: for `mien notice`.
    pub contact: String,
    pub notice_url: String,
}

/// How people agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// Devices stay closed until they do, where the purpose asks for it.
    #[default]
    Ask,
    /// The site has the consent of everybody whom its devices can see or hear.
    Standing,
}

impl Settings {
    pub const PATHS: &[&str] = &["mute_file", "consent_file"];

    pub fn check(&self) -> Result<()> {
        ensure!(self.contact.len() <= 200, "privacy.contact: at most 200 bytes");
        ensure!(
            self.notice_url.is_empty() || self.notice_url.starts_with("https://"),
            "privacy.notice_url = {:?}: it begins with https://",
            self.notice_url
        );
        if let Some(pins) = &self.pins {
            pins.check()?;
        }
        self.purpose().map(drop)
    }

    /// The purpose that is meant; refuses what is none.
    pub fn purpose(&self) -> Result<&'static Purpose> {
        Purpose::find(&self.purpose, self.medical_safety)
    }

    /// Devices stay closed until people agree.
    fn asks(&self) -> Result<bool> {
        Ok(self.consent == Consent::Ask && self.purpose()?.asks_consent())
    }

    /// In words, what devices wait for before they open, where the purpose asks for consent.
    pub fn waits_for(&self) -> Result<Option<String>> {
        let how = match self.consent_file.as_os_str().is_empty() {
            true => "somebody unmutes (SIGUSR1)".into(),
            false => format!("{} exists", self.consent_file.display()),
        };
        let text = format!("the purpose {} asks for consent: devices stay closed until {how}", self.purpose);
        Ok(self.asks()?.then_some(text))
    }
}

/// Opens devices, or not.
pub struct Gate {
    muted: AtomicBool,
    /// What `muted` said last.
    was_muted: AtomicBool,
    /// A mute has begun that nobody has heeded.
    began: Arc<AtomicBool>,
    mute_file: PathBuf,
    /// Where there is one, people agree while it exists.
    consent_file: Option<PathBuf>,
    switches: Option<Mutex<Box<dyn Switches>>>,
    /// A pin could not be used, and that was said.
    failed: AtomicBool,
    open: AtomicUsize,
    journal: Mutex<Journal>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("muted", &self.muted).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Gate {
    /// Refuses a purpose that may not be, and pins that are not there. `live`: there are devices, whose people are asked for consent
    /// where the purpose demands it. Changes of mode are noted in `state_dir`, where there is one.
    pub fn new(settings: &Settings, live: bool, state_dir: &Path) -> Result<Gate> {
        let pins = settings.pins.as_ref().filter(|_| live);
        let switches = pins.map(pins::Settings::open).transpose().context("privacy.pins")?;
        Gate::with(settings, live, state_dir, switches)
    }

    /// The same with these switches.
    pub fn with(
        settings: &Settings,
        live: bool,
        state_dir: &Path,
        switches: Option<Box<dyn Switches>>,
    ) -> Result<Gate> {
        settings.check()?;
        let asks = live && settings.asks()?;
        let file = Some(settings.consent_file.clone()).filter(|file| asks && !file.as_os_str().is_empty());
        let waits = asks && file.is_none();
        let gate = Gate {
            muted: AtomicBool::new(settings.start_muted || waits),
            was_muted: AtomicBool::new(false),
            began: Arc::default(),
            mute_file: settings.mute_file.clone(),
            consent_file: file,
            switches: switches.map(Mutex::new),
            failed: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            journal: Mutex::new(Journal::open(if live { state_dir } else { Path::new("") })),
        };
        gate.show(false)?;
        gate.note("start", if gate.muted() { "muted" } else { "open" });
        Ok(gate)
    }

    pub fn muted(&self) -> bool {
        let muted = self.muted.load(Ordering::Acquire)
            || (!self.mute_file.as_os_str().is_empty() && self.mute_file.exists())
            || self.consent_file.as_ref().is_some_and(|file| !file.exists())
            || self.switched_off();
        if muted && !self.was_muted.swap(muted, Ordering::AcqRel) {
            self.began.store(true, Ordering::Release);
        } else if !muted {
            self.was_muted.store(false, Ordering::Release);
        }
        muted
    }

    /// Raised when a mute begins; whoever has overwritten what was seen and heard lowers it. A source asks [`Gate::muted`] before each
    /// reading, so that is soon.
    pub fn mute_began(&self) -> &Arc<AtomicBool> {
        &self.began
    }

    /// Mutes, or takes the mute back; files and pins stand above this.
    pub fn toggle(&self) {
        let was = self.muted.fetch_xor(true, Ordering::AcqRel);
        self.note("signal", if was { "unmuted" } else { "muted" });
    }

    /// Opens a device, with the indicator on for as long as any is open.
    pub fn open(self: &Arc<Gate>, source: &source::Settings, pool: &Pool) -> Result<Box<dyn Source>> {
        ensure!(!self.muted(), "the {} stays closed: muted", source.name());
        let lit = Lit::new(self).with_context(|| format!("the {} stays closed", source.name()))?;
        Ok(Box::new(Watched { source: source.open(pool)?, _lit: lit }))
    }

    /// Notes a change of mode, by what and to what.
    pub fn note(&self, by: &str, to: &str) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).add(by, to);
    }

    fn switched_off(&self) -> bool {
        let Some(mut switches) = self.switches() else { return false };
        match switches.mute() {
            Ok(mute) => {
                self.failed.store(false, Ordering::Release);
                mute
            }
            Err(error) => {
                if !self.failed.swap(true, Ordering::AcqRel) {
                    log::error!("the mute switch cannot be read, and so devices are closed: {error:#}");
                }
                true
            }
        }
    }

    fn show(&self, capturing: bool) -> Result<()> {
        match self.switches() {
            Some(mut switches) => {
                switches.show(capturing).context("the capture indicator cannot be switched")
            }
            None => Ok(()),
        }
    }

    fn switches(&self) -> Option<MutexGuard<'_, Box<dyn Switches>>> {
        Some(self.switches.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The indicator is on as long as one of these is there.
struct Lit(Arc<Gate>);

impl Lit {
    fn new(gate: &Arc<Gate>) -> Result<Lit> {
        gate.open.fetch_add(1, Ordering::AcqRel);
        let lit = Lit(Arc::clone(gate));
        gate.show(true)?;
        Ok(lit)
    }
}

impl Drop for Lit {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1
            && let Err(error) = self.0.show(false)
        {
            log::error!("{error:#}");
        }
    }
}

/// An open device. Fields are dropped in their order: the device is closed before the indicator goes off.
struct Watched {
    source: Box<dyn Source>,
    _lit: Lit,
}

impl Source for Watched {
    fn gives(&self) -> Gives {
        self.source.gives()
    }

    fn read(&mut self, wait: Duration) -> Result<Option<Reading>> {
        self.source.read(wait)
    }

    fn counts(&self) -> SourceCounts {
        self.source.counts()
    }

    fn keep_apart(&mut self, apart_ns: u64) {
        self.source.keep_apart(apart_ns);
    }
}

/// Whether memory of this process stays out of swap from now on. That takes a limit of locked memory that is none (`LimitMEMLOCK=infinity`
/// of a unit): with another, memory that is asked for later would be refused.
pub fn lock() -> Result<bool> {
    use rustix::{
        mm::{MlockAllFlags, mlockall},
        process::{Resource, getrlimit},
    };
    if getrlimit(Resource::Memlock).current.is_some() {
        return Ok(false);
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).context("locking memory").map(|()| true)
}

/// No memory of this process ends in a file: core dumps are off, and other processes of the user cannot read it.
pub fn seal() -> Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("turning core dumps off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("turning core dumps off")
}
