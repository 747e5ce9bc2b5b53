//! What holds, on disk, so that a daemon that died can have its last event ended by its successor.
//!
//! Limits: one small file, written when something begins and removed when it ends.

use crate::{
    sink::Speaker,
    wire::{Cause, Event, Kind, NO_LABEL},
};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};

#[derive(Serialize, Deserialize)]
struct Held {
    episode: u32,
    label: String,
}

/// Does nothing when it has no path.
pub struct StateFile {
    path: PathBuf,
    said: bool,
}

impl StateFile {
    pub fn new(path: PathBuf) -> StateFile {
        StateFile { path, said: false }
    }

    /// The end of what a predecessor left, once.
    pub fn orphan(&mut self, speaker: &Speaker, at_ms: u64, expected: u8) -> Option<Event> {
        let text = fs::read_to_string(self.kept()?).ok()?;
        self.remove();
        let held: Held = serde_json::from_str(&text).ok()?;
        let label = speaker.labels.iter().position(|label| *label == held.label);
        Some(Event {
            seq: 0,
            episode: held.episode,
            kind: Kind::End,
            label: label.map_or(NO_LABEL, |label| label as u8),
            confidence_permille: 0,
            track: 0,
            expected,
            present: 0,
            cause: Cause::Restart,
            at_ms,
            begin_ms: at_ms,
            window_ms: speaker.window_ms,
            wall_ms: 0,
            wall_synced: 0,
            age_ms: 0,
        })
    }

    pub fn keep(&mut self, event: &Event, speaker: &Speaker) {
        let Some(path) = self.kept() else { return };
        match event.kind {
            Kind::Begin => {
                let label = speaker.label(event.label).unwrap_or_default().to_string();
                let held = Held { episode: event.episode, label };
                let text = serde_json::to_string(&held).expect("a number and text are JSON");
                if let Err(error) = fs::write(path, text)
                    && !std::mem::replace(&mut self.said, true)
                {
                    log::warn!("what holds cannot be kept in {}: {error}", self.path.display());
                }
            }
            Kind::End => self.remove(),
            Kind::Change | Kind::Unknown | Kind::Other => {}
        }
    }

    fn kept(&self) -> Option<&PathBuf> {
        Some(&self.path).filter(|path| !path.as_os_str().is_empty())
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}
