//! An edge that is away: said once when it goes and once when it is back, tried again with growing pauses, told as lost.

use super::{Modality, Reading, monotonic_ns};
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a `Lost` reading tells that nothing came.
const TELL: Duration = Duration::from_millis(500);

pub(super) struct Away {
    edge: &'static str,
    modality: Modality,
    /// The edge went away and no reading has come since.
    said: bool,
    pause: Duration,
    retry: Instant,
    tell: Instant,
}

impl Away {
    pub(super) fn new(edge: &'static str, modality: Modality) -> Self {
        let now = Instant::now();
        Self { edge, modality, said: false, pause: PAUSE_MIN, retry: now, tell: now }
    }

    /// The edge is lost, or was never there.
    pub(super) fn begin(&mut self, why: &anyhow::Error) {
        if self.said {
            return self.again(why);
        }
        log::warn!("{}=lost why=\"{why:#}\"", self.edge);
        let now = Instant::now();
        (self.said, self.pause, self.retry, self.tell) = (true, PAUSE_MIN, now + PAUSE_MIN, now + TELL);
    }

    /// It is still away.
    pub(super) fn again(&mut self, why: &anyhow::Error) {
        log::debug!("{}=still-lost why=\"{why:#}\"", self.edge);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.retry = Instant::now() + self.pause;
    }

    /// A reading came.
    pub(super) fn end(&mut self) {
        if self.said {
            log::info!("{}=back", self.edge);
            (self.said, self.pause) = (false, PAUSE_MIN);
        }
    }

    /// It is away, and that has been said.
    pub(super) fn is_said(&self) -> bool {
        self.said
    }

    /// It is time to try again.
    pub(super) fn due(&self) -> bool {
        Instant::now() >= self.retry
    }

    /// Waits, at most `wait`: `None` when it is time to try again, else perhaps a `Lost` to tell.
    #[cfg(any(feature = "camera", feature = "mic"))]
    pub(super) fn wait(&mut self, wait: Duration) -> Option<Option<Reading>> {
        let now = Instant::now();
        if now >= self.retry {
            return None;
        }
        let until = (now + wait).min(self.retry).min(self.tell);
        std::thread::sleep(until.saturating_duration_since(now));
        Some(self.told())
    }

    /// A `Lost` with the time so far, if it is due.
    pub(super) fn told(&mut self) -> Option<Reading> {
        let now = Instant::now();
        if !self.said || now < self.tell {
            return None;
        }
        self.tell = now + TELL;
        Some(Reading::Lost { modality: self.modality, at_ns: monotonic_ns() })
    }
}
