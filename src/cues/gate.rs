//! Whether somebody is there: probabilities and hits to yes and no, with the slowness that keeps both from flickering.
//!
//! Units: `_ns` on the capture clock.

use super::settings::Gate as Settings;

/// Milliseconds of sound behind one probability.
const VOICE_MS: f32 = 32.0;

/// Somebody speaks.
#[derive(Clone, Copy, Debug)]
pub struct Speaking {
    settings: Settings,
    active: bool,
    /// The last probability was high enough.
    once: bool,
    quiet_ms: f32,
}

impl Speaking {
    pub fn new(settings: Settings) -> Speaking {
        Speaking { settings, active: false, once: false, quiet_ms: 0.0 }
    }

    pub fn push(&mut self, probability: f32) -> bool {
        // A plucked string makes one high value, a voice makes several.
        let high = probability >= self.settings.voice_on;
        self.active |= high && self.once;
        self.once = high;
        self.quiet_ms = if probability >= self.settings.voice_off { 0.0 } else { self.quiet_ms + VOICE_MS };
        if self.quiet_ms >= self.settings.hangover_ms as f32 {
            self.active = false;
        }
        self.active
    }
}

/// Somebody is seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    settings: Settings,
    hits: [bool; 3],
    hit_ns: Option<u64>,
    looked_ns: Option<u64>,
    present: bool,
}

impl Seen {
    pub fn new(settings: Settings) -> Seen {
        Seen { settings, hits: [false; 3], hit_ns: None, looked_ns: None, present: false }
    }

    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Whether it is time to look. A stamp before the last one begins anew.
    pub fn due(&mut self, at_ns: u64) -> bool {
        let hz = if self.present || self.hits.contains(&true) {
            self.settings.face_hz
        } else {
            self.settings.idle_hz
        };
        // Pictures come when they come: a look may be a twentieth early.
        let step_ns = (0.95e9 / f64::from(hz)) as u64;
        let due = self.looked_ns.is_none_or(|looked| at_ns < looked || at_ns - looked >= step_ns);
        if due {
            self.looked_ns = Some(at_ns);
        }
        due
    }

    /// Takes a look's result.
    pub fn push(&mut self, hit: bool, at_ns: u64) -> bool {
        self.hits.rotate_left(1);
        self.hits[2] = hit;
        if hit {
            self.hit_ns = Some(at_ns);
        }
        let lost_ns = u64::from(self.settings.lost_ms) * 1_000_000;
        let lately = self.hit_ns.is_some_and(|hit| at_ns.saturating_sub(hit) < lost_ns);
        let twice = self.hits.iter().filter(|hit| **hit).count() >= 2;
        self.present = if self.present { lately } else { twice };
        self.present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voice_outlasts_a_short_silence() {
        let mut speaking = Speaking::new(Settings::default());
        assert!(!speaking.push(0.45), "below on");
        assert!(!speaking.push(0.6), "once is no voice");
        assert!(speaking.push(0.6));
        assert!(speaking.push(0.4), "between off and on it goes on");
        let quiet: Vec<bool> = (0..11).map(|_| speaking.push(0.1)).collect();
        assert_eq!(quiet.iter().filter(|active| **active).count(), 9, "300 ms are nine steps of 32 ms");
    }

    #[test]
    fn two_hits_of_three_are_a_face_and_two_seconds_without_are_none() {
        let mut seen = Seen::new(Settings::default());
        let at = |ms: u64| ms * 1_000_000;
        assert!(!seen.push(true, at(0)) && !seen.push(false, at(500)));
        assert!(seen.push(true, at(1_000)));
        assert!(seen.push(false, at(2_900)));
        assert!(!seen.push(false, at(3_000)));
    }

    #[test]
    fn looks_are_more_frequent_while_there_is_a_face() {
        let count = |face: bool| {
            let mut seen = Seen::new(Settings::default());
            let mut looks = 0;
            for at_ns in (0..300u64).map(|i| i * 33_333_333) {
                if seen.due(at_ns) {
                    seen.push(face, at_ns);
                    looks += 1;
                }
            }
            looks
        };
        assert_eq!((count(false), count(true)), (20, 50), "in ten seconds of 30 pictures each");
    }
}
