//! An edge that can be lost (a device, a line, a broker): when to try again, what to report once, what to count.
//!
//! Pure: the time is an argument. A loss is reported once, however many attempts fail after it, and the recovery once, when the
//! edge has worked for [`Limits::stable`]. An edge that works for a shorter time is still in the same outage: the pauses between
//! attempts keep growing, so that a broker that accepts and closes at once is not asked again and again.

use std::time::{Duration, Instant};

/// Pauses between attempts, and how long an edge must work to count as recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// Zero: the first sign of life is a recovery.
    pub stable: Duration,
}

/// A pause is drawn from its nominal length, minus and plus this share, so that many devices do not return at once.
const JITTER: f64 = 0.25;

/// What is to be reported, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Lost,
    /// How long the edge was away.
    Back(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Lost at `since`, nothing has worked yet.
    Away {
        since: Instant,
    },
    /// Lost at `since`, works again from `works`.
    Trial {
        since: Instant,
        works: Instant,
    },
}

/// One edge. It starts as working; the first attempt is due at once.
#[derive(Clone, Debug)]
pub struct Outage {
    limits: Limits,
    state: State,
    pause: Duration,
    retry_at: Option<Instant>,
    losses: u64,
    noise: u64,
}

impl Outage {
    /// `seed` draws the jitter.
    pub fn new(limits: Limits, seed: u64) -> Outage {
        let pause = limits.pause_min;
        Outage {
            limits,
            state: State::Up,
            pause,
            retry_at: None,
            losses: 0,
            noise: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// An attempt failed, or what worked has stopped. The next attempt is due after a pause.
    pub fn fails(&mut self, now: Instant) -> Option<Change> {
        let before = self.state;
        self.state = match before {
            State::Up => State::Away { since: now },
            State::Away { since } | State::Trial { since, .. } => State::Away { since },
        };
        self.retry_at = Some(now + self.pause.mul_f64(self.jitter()));
        self.pause = (self.pause * 2).min(self.limits.pause_max);
        (before == State::Up).then(|| {
            self.losses += 1;
            Change::Lost
        })
    }

    /// A sign of life. Call it for each one: the recovery is reported when the edge has worked long enough.
    pub fn works(&mut self, now: Instant) -> Option<Change> {
        let (since, works) = match self.state {
            State::Up => return None,
            State::Away { since } => (since, now),
            State::Trial { since, works } => (since, works),
        };
        if now.saturating_duration_since(works) < self.limits.stable {
            self.state = State::Trial { since, works };
            return None;
        }
        (self.state, self.pause, self.retry_at) = (State::Up, self.limits.pause_min, None);
        Some(Change::Back(now.saturating_duration_since(since)))
    }

    /// Time to the next attempt; zero when it is due.
    pub fn pause(&self, now: Instant) -> Duration {
        self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.pause(now).is_zero()
    }

    /// The edge is lost and nothing has worked since.
    pub fn is_away(&self) -> bool {
        matches!(self.state, State::Away { .. })
    }

    /// Times the edge was lost.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// From 1 - JITTER to 1 + JITTER, by xorshift64 (Marsaglia 2003).
    fn jitter(&mut self) -> f64 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        1.0 - JITTER + 2.0 * JITTER * (self.noise >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    const LIMITS: Limits = Limits { pause_min: ms(250), pause_max: ms(5_000), stable: ms(3_000) };

    #[test]
    fn a_loss_and_a_recovery_are_reported_once() {
        let (start, mut edge) = (Instant::now(), Outage::new(LIMITS, 7));
        assert!(edge.is_due(start) && !edge.is_away());
        assert_eq!(edge.works(start), None);
        assert_eq!(edge.fails(start), Some(Change::Lost));
        assert_eq!(edge.fails(start + ms(300)), None);
        assert!(edge.is_away());
        assert_eq!(edge.works(start + ms(1_000)), None);
        assert!(!edge.is_away());
        assert_eq!(edge.works(start + ms(3_999)), None);
        assert_eq!(edge.works(start + ms(4_000)), Some(Change::Back(ms(4_000))));
        assert_eq!(edge.works(start + ms(4_001)), None);
        assert_eq!(edge.losses(), 1);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_jitter_within_a_quarter() {
        let (mut now, mut edge) = (Instant::now(), Outage::new(LIMITS, 1));
        for nominal in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            edge.fails(now);
            let pause = edge.pause(now).as_secs_f64() * 1_000.0;
            assert!(
                (pause - f64::from(nominal)).abs() <= f64::from(nominal) / 4.0,
                "{pause} ms for {nominal}"
            );
            assert!(!edge.is_due(now));
            now += edge.pause(now);
            assert!(edge.is_due(now));
        }
        assert_ne!(Outage::new(LIMITS, 1).jitter(), Outage::new(LIMITS, 5).jitter());
    }

    #[test]
    fn an_edge_that_works_for_a_moment_stays_in_its_outage() {
        let (mut now, mut edge) = (Instant::now(), Outage::new(LIMITS, 3));
        let mut reported = 0;
        let mut attempts = 0;
        let end = now + ms(60_000);
        while now < end {
            attempts += 1;
            reported += usize::from(edge.works(now).is_some());
            reported += usize::from(edge.fails(now + ms(20)).is_some());
            now += ms(20) + edge.pause(now + ms(20));
        }
        assert_eq!(reported, 1);
        assert!(attempts < 20, "{attempts} attempts in a minute");
        assert_eq!(edge.losses(), 1);
    }

    #[test]
    fn without_a_stable_time_the_first_sign_of_life_is_a_recovery() {
        let (start, mut edge) = (Instant::now(), Outage::new(Limits { stable: ms(0), ..LIMITS }, 1));
        edge.fails(start);
        assert_eq!(edge.works(start + ms(700)), Some(Change::Back(ms(700))));
        assert_eq!(edge.pause(start + ms(700)), ms(0));
    }
}
