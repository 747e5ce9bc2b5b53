//! Tracks of a recorded clip, as its formats give them: pictures at a rate, sound as 16 kHz mono, each read forward once.

use crate::source::{Frame, Pool};
use anyhow::Result;
use std::time::Duration;

/// Pictures per second as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub num: u32,
    pub den: u32,
}

impl Rate {
    /// A fraction with a zero in it becomes 25.
    pub fn new(num: u32, den: u32) -> Self {
        if num == 0 || den == 0 { Self { num: 25, den: 1 } } else { Self { num, den } }
    }

    pub fn per_second(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }

    /// The time of picture `index`.
    pub fn at_ns(self, index: u64) -> u64 {
        let at = u128::from(index) * u128::from(self.den) * 1_000_000_000 / u128::from(self.num);
        at.try_into().unwrap_or(u64::MAX)
    }
}

/// One step along a track.
pub(in crate::source) enum Step<T> {
    Next(T),
    /// Nothing within the wait.
    Wait,
    End,
}

/// A picture track, read forward once.
pub(in crate::source) trait Pictures: Send {
    fn next(&mut self, pool: &Pool, wait: Duration) -> Result<Step<Frame>>;

    /// Passes over one picture without decoding; false at the end.
    fn skip(&mut self) -> Result<bool>;

    /// The number of the picture that `next` would look at first.
    fn position(&self) -> u64;

    /// Pictures that could not be decoded.
    fn broken(&self) -> u64 {
        0
    }

    /// Why the first of them could not.
    fn why_broken(&self) -> Option<String> {
        None
    }
}

/// A sound track, read forward once: appends 16 kHz mono.
pub(in crate::source) trait Sound: Send {
    fn next(&mut self, into: &mut Vec<f32>, wait: Duration) -> Result<Step<()>>;
}
