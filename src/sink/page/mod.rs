//! A status page for people and metrics for Prometheus, over HTTP: `[sink.page]`.
//!
//! `/` is one self-contained page, `/events` what it shows as server-sent events (the last hour, then live), `/metrics` the counts in
//! Prometheus' text format, `/health` 200 while windows come and 503 while they do not. Nothing can be set here.
//!
//! Limits: `shown::HISTORY_BYTES_MAX` of history, `server::CONNECTIONS_MAX` connections; a reader that is too slow is dropped and
//! may come again.
//! Invariant: who is not on this machine needs the token, and a page of another site cannot read ours (`server`).

mod metrics;
mod server;
mod settings;
mod shown;

pub use settings::Settings;

use super::{Message, Setup, Sink, SinkCounts, Snapshot};
use anyhow::Result;
use shown::Shown;
use std::sync::Arc;

impl Settings {
    /// Refuses an address that cannot be listened at, and a token that cannot be read.
    pub fn probe(&self, _: &Setup) -> Result<()> {
        drop(self.listen()?);
        self.forget();
        self.token().map(drop)
    }

    pub fn open(&self, setup: &Setup) -> Result<Box<dyn Sink>> {
        let shown = Arc::new(Shown::new(&setup.speaker, self.history_s));
        let server = server::Server::start(self.listen()?, self.token()?, Arc::clone(&shown))?;
        log::info!("status page: {}", self.address());
        Ok(Box::new(Page { shown, server, settings: self.clone(), counts: SinkCounts::default() }))
    }
}

struct Page {
    shown: Arc<Shown>,
    server: server::Server,
    settings: Settings,
    counts: SinkCounts,
}

impl Sink for Page {
    fn name(&self) -> &'static str {
        "page"
    }

    fn send(&mut self, message: &Message) {
        self.shown.tell(message);
        self.counts.sent += 1;
    }

    fn watch(&mut self, run: &dyn Fn() -> Snapshot) {
        self.shown.watch(run());
    }

    fn counts(&self) -> SinkCounts {
        self.counts
    }

    fn close(&mut self) {
        self.server.stop();
        self.settings.forget();
    }
}
