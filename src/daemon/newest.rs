//! How far each modality has come, by the stamps of its readings: whether a window's successor is due as well.

use crate::source::{Gives, Modality};
use std::sync::atomic::{AtomicU64, Ordering};

/// Stamps of the newest readings: video, audio.
#[derive(Debug)]
pub struct Newest {
    gives: Gives,
    at_ns: [AtomicU64; 2],
}

impl Newest {
    pub fn new(gives: Gives) -> Newest {
        Newest { gives, at_ns: [AtomicU64::new(0), AtomicU64::new(0)] }
    }

    pub fn note(&self, modality: Modality, at_ns: u64) {
        self.at_ns[modality as usize].fetch_max(at_ns, Ordering::AcqRel);
    }

    /// Whether readings have passed a time: every modality, or one of them by `lateness_ns`.
    pub fn passed(&self, at_ns: u64, lateness_ns: u64) -> bool {
        let newest = |modality: Modality| self.at_ns[modality as usize].load(Ordering::Acquire);
        let (video, audio) = (newest(Modality::Video), newest(Modality::Audio));
        let all = (!self.gives.video || video >= at_ns) && (!self.gives.audio || audio >= at_ns);
        all || video.max(audio) >= at_ns + lateness_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_modalities_or_one_by_the_lateness() {
        let newest = Newest::new(Gives { video: true, audio: true });
        newest.note(Modality::Video, 10);
        assert!(!newest.passed(10, 5));
        newest.note(Modality::Audio, 10);
        assert!(newest.passed(10, 5) && !newest.passed(11, 5));
        newest.note(Modality::Video, 16);
        assert!(newest.passed(11, 5));
        assert!(Newest::new(Gives { video: false, audio: true }).at_ns[0].load(Ordering::Relaxed) == 0);
    }
}
