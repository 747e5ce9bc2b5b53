//! A record of a run for a bug report: what each window scored and what was said of it, and never a picture or a sound.
//!
//! JSON lines: one `policy` line with the thresholds, then a `window` line for each window in the order of time, and the events and
//! reasons as on standard output. `mien replay` puts the windows through the policy again and compares.
//! Limits: scores are whole `f32`; thresholds that a reload brings are not noted.

use super::{Message, Sink, SinkCounts, Speaker, json::Line};
use crate::policy::Limits;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

/// A line that only a record has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Noted {
    Policy {
        limits: Limits,
        labels: Vec<String>,
    },
    Window {
        at_ms: u64,
        window_ms: u32,
        expected: u8,
        present: u8,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        nobody: bool,
        /// Missing where the model gave none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores: Option<Vec<f32>>,
    },
}

impl Noted {
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers and text are JSON")
    }
}

pub struct Record {
    speaker: Arc<Speaker>,
    out: BufWriter<File>,
    counts: SinkCounts,
}

impl Record {
    /// Begins a new file.
    pub fn new(path: &Path, speaker: &Arc<Speaker>, limits: &Limits) -> Result<Record> {
        let file = File::create(path).with_context(|| format!("writing the record {}", path.display()))?;
        let (speaker, out) = (Arc::clone(speaker), BufWriter::new(file));
        let mut record = Record { speaker, out, counts: SinkCounts::default() };
        record.put(&Line::hello(&record.speaker).text());
        let labels = record.speaker.labels.clone();
        record.put(&Noted::Policy { limits: limits.clone(), labels }.text());
        Ok(record)
    }

    fn put(&mut self, text: &str) {
        match writeln!(self.out, "{text}").and_then(|()| self.out.flush()) {
            Ok(()) => self.counts.sent += 1,
            Err(error) => {
                if self.counts.dropped == 0 {
                    log::error!("the record has a hole from here on: {error}");
                }
                self.counts.dropped += 1;
            }
        }
    }
}

impl Sink for Record {
    fn name(&self) -> &'static str {
        "record"
    }

    fn send(&mut self, message: &Message) {
        match message {
            Message::Scores(scores) => {
                let window = Noted::Window {
                    at_ms: scores.at_ms,
                    window_ms: self.speaker.window_ms,
                    expected: scores.expected,
                    present: scores.present,
                    nobody: scores.nobody,
                    scores: (scores.labels > 0).then(|| scores.plain[..scores.labels].to_vec()),
                };
                self.put(&window.text());
            }
            Message::Event(_)
            | Message::Reason(_)
            | Message::People(_)
            | Message::Faces(_)
            | Message::Second(_) => {
                let text = Line::of(message, &self.speaker).text();
                self.put(&text);
            }
            Message::Heartbeat(_) => {}
        }
    }

    fn counts(&self) -> SinkCounts {
        self.counts
    }
}
