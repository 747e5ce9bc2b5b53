//! One sink as the daemon knows it, whatever its kind.

use crate::sink::{
    ledger::Told,
    message::{Message, Speaker},
    snapshot::{SinkCounts, Snapshot},
};
use std::{path::PathBuf, sync::Arc};

pub trait Sink: Send {
    /// As its table in a config is named.
    fn name(&self) -> &'static str;
    /// The begin that an earlier run told here and did not end.
    fn left(&self) -> Option<&Told> {
        None
    }
    fn send(&mut self, message: &Message);
    /// Called a few times a second when there is nothing to send.
    fn tick(&mut self) {}
    /// Called several times a second with a way to the counts of the run, for whoever shows them.
    fn watch(&mut self, _run: &dyn Fn() -> Snapshot) {}
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
