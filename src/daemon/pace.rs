//! How time passes in a run.

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Devices, on the machine's monotonic clock.
    Live,
    /// A recording at the speed of life.
    Paced,
    /// A recording as fast as it can be scored.
    Fast,
}
