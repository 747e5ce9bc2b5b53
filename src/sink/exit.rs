//! One sink as the daemon knows it, whatever its kind.

use crate::sink::{
    ledger::Told,
    message::{Message, Speaker},
};
use std::{path::PathBuf, sync::Arc};

/// What a sink has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    pub sent: u64,
    /// Messages that the edge did not take.
    pub dropped: u64,
    /// Times the edge was lost.
    pub losses: u64,
    /// Messages that wait for the edge.
    pub waiting: u64,
}

pub trait Sink: Send {
    /// `stdout`, `serial`, `mqtt`.
    fn name(&self) -> &'static str;
    /// The begin that an earlier run told here and did not end.
    fn left(&self) -> Option<&Told> {
        None
    }
    fn send(&mut self, message: &Message);
    /// Called a few times a second when there is nothing to send.
    fn tick(&mut self) {}
    fn counts(&self) -> SinkCounts;
    /// Sends what is still held, for at most about two seconds.
    fn close(&mut self) {}
}

/// What a sink is opened with, beside its own settings.
#[derive(Clone, Debug)]
pub struct Setup {
    pub speaker: Arc<Speaker>,
    /// Where a sink keeps what must survive a restart; empty: nowhere.
    pub state_dir: PathBuf,
}
