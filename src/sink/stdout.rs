//! Standard output: one JSON object per line, for people, pipes and `mien draw`.

use super::{Message, Setup, Sink, SinkCounts, Speaker, json::Line};
use anyhow::Result;
use std::{
    io::{self, Write},
    sync::Arc,
};

#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub enabled: bool,
    /// A line of scores for every window.
    pub scores: bool,
    pub heartbeats: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { enabled: true, scores: false, heartbeats: false }
    }
}

impl Settings {
    pub const PATHS: &[&str] = &[];

    pub fn check(&self) -> Result<()> {
        Ok(())
    }

    pub fn probe(&self, _: &Setup) -> Result<()> {
        Ok(())
    }

    pub fn open(&self, setup: &Setup) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Stdout::new(self.clone(), Arc::clone(&setup.speaker))))
    }
}

/// Writes lines to any stream; the daemon's is standard output.
pub struct Stdout {
    settings: Settings,
    speaker: Arc<Speaker>,
    out: Box<dyn Write + Send>,
    /// The reader is gone; nothing is written any more.
    closed: bool,
    counts: SinkCounts,
}

impl Stdout {
    pub fn new(settings: Settings, speaker: Arc<Speaker>) -> Stdout {
        Stdout::to(settings, speaker, Box::new(io::stdout()))
    }

    pub fn to(settings: Settings, speaker: Arc<Speaker>, out: Box<dyn Write + Send>) -> Stdout {
        let hello = Line::hello(&speaker);
        let mut stdout = Stdout { settings, speaker, out, closed: false, counts: SinkCounts::default() };
        stdout.print(&hello);
        stdout
    }

    fn print(&mut self, line: &Line) {
        if self.closed {
            self.counts.dropped += 1;
            return;
        }
        let mut text = line.text();
        text.push('\n');
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => self.counts.sent += 1,
            Err(error) => {
                self.closed = true;
                self.counts.losses += 1;
                self.counts.dropped += 1;
                log::warn!("standard output is gone, events no longer go there: {error}");
            }
        }
    }
}

impl Sink for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn send(&mut self, message: &Message) {
        let wanted = match message {
            Message::Scores(scores) => self.settings.scores && scores.labels > 0,
            Message::Heartbeat(_) => self.settings.heartbeats,
            Message::Event(_)
            | Message::Reason(_)
            | Message::People(_)
            | Message::Faces(_)
            | Message::Second(_) => true,
        };
        if wanted {
            let line = Line::of(message, &self.speaker);
            self.print(&line);
        }
    }

    fn counts(&self) -> SinkCounts {
        self.counts
    }
}
