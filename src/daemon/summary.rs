//! What a run did, for its last line.

use crate::sink::SinkCounts;
use std::time::Duration;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub windows: u32,
    pub late: u32,
    pub events: u32,
    pub dropped: u32,
    /// From the start of the first window to the end of the last.
    pub media: Duration,
    pub took: Duration,
    /// Spent in the model.
    pub infer: Duration,
    pub sinks: Vec<(&'static str, SinkCounts)>,
}
