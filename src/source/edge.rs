//! The edge of a live source: its outage in the log and in readings.
//!
//! While an edge is lost it is opened again after the pauses of [`crate::outage`], and a `Lost` reading with the time so far is told
//! twice a second, so that windows go on.

use super::{Modality, Reading, monotonic_ns};
use crate::outage::{Change, Limits, Outage};
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A device that opens and fails again within this is still in the same outage.
#[cfg(any(feature = "camera", feature = "mic"))]
pub(super) const DEVICE_STABLE: Duration = Duration::from_secs(2);
/// How often a `Lost` reading tells that nothing came.
const TELL: Duration = Duration::from_millis(500);

pub(super) struct Edge {
    name: &'static str,
    modality: Modality,
    outage: Outage,
    tell_at: Instant,
}

impl Edge {
    pub(super) fn new(name: &'static str, modality: Modality, stable: Duration) -> Edge {
        let limits = Limits { pause_min: PAUSE_MIN, pause_max: PAUSE_MAX, stable };
        Edge { name, modality, outage: Outage::new(limits, monotonic_ns()), tell_at: Instant::now() }
    }

    /// It is lost, was never there, or cannot be opened again.
    pub(super) fn fails(&mut self, why: &anyhow::Error) {
        let now = Instant::now();
        let was_away = self.outage.is_away();
        match self.outage.fails(now) {
            Some(_) => log::warn!("{}=lost why=\"{why:#}\"", self.name),
            None => log::debug!("{}=still-lost why=\"{why:#}\"", self.name),
        }
        if !was_away {
            self.tell_at = now + TELL;
        }
    }

    /// A reading came.
    pub(super) fn works(&mut self) {
        if let Some(Change::Back(away)) = self.outage.works(Instant::now()) {
            log::info!("{}=back away_s={:.1}", self.name, away.as_secs_f64());
        }
    }

    /// Nothing has come since it was lost.
    pub(super) fn is_away(&self) -> bool {
        self.outage.is_away()
    }

    /// It is time to try again.
    pub(super) fn is_due(&self) -> bool {
        self.outage.is_due(Instant::now())
    }

    /// Waits, at most `wait`: `None` when it is time to try again, else perhaps a `Lost` to tell.
    #[cfg(any(feature = "camera", feature = "mic"))]
    pub(super) fn wait(&mut self, wait: Duration) -> Option<Option<Reading>> {
        let now = Instant::now();
        let pause = self.outage.pause(now);
        if pause.is_zero() {
            return None;
        }
        let tell = self.tell_at.saturating_duration_since(now);
        std::thread::sleep(wait.min(pause).min(tell));
        Some(self.told())
    }

    /// A `Lost` with the time so far, if it is due.
    pub(super) fn told(&mut self) -> Option<Reading> {
        let now = Instant::now();
        if !self.outage.is_away() || now < self.tell_at {
            return None;
        }
        self.tell_at = now + TELL;
        Some(Reading::Lost { modality: self.modality, at_ns: monotonic_ns() })
    }

    pub(super) fn losses(&self) -> u64 {
        self.outage.losses()
    }
}
