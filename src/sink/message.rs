//! What sinks are told, and who speaks.
//!
//! Limits: a message is small and mostly `Copy`; only a reason carries text.

use crate::cues::ground::{Grounds, Verdict};
use crate::wire::{self, Event, Faces, Heartbeat, LABELS_MAX, People, Second};
use std::sync::Arc;

/// Who speaks: a hello that owns its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub boot: u64,
    /// Tells this machine from another with the same device name ([`crate::machine::id`]); empty for recordings.
    pub machine: String,
    pub device: String,
    pub purpose: String,
    pub bundle: String,
    pub bundle_hash: [u8; 8],
    pub label_set: String,
    /// At most [`LABELS_MAX`].
    pub labels: Vec<String>,
    pub window_ms: u32,
    pub hop_ms: u32,
    pub heartbeat_ms: u32,
}

/// What sinks are told.
#[derive(Clone, Debug)]
pub enum Message {
    Event(Event),
    Heartbeat(Heartbeat),
    Scores(WindowScores),
    Reason(Arc<EpisodeReason>),
    People(People),
    Faces(Faces),
    Second(Second),
}

/// Smoothed and plain scores of one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowScores {
    pub at_ms: u64,
    pub expected: u8,
    pub present: u8,
    /// A gate found nobody: the model was not asked.
    pub nobody: bool,
    /// How many of the arrays are labels; 0: the model gave no scores for this window.
    pub labels: usize,
    pub plain: [f32; LABELS_MAX],
    pub smoothed: [f32; LABELS_MAX],
}

/// What ends a reason that was cut short, where only text is shown.
pub const CUT: &str = " \u{2026}";

/// The model's reason for an episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpisodeReason {
    pub episode: u32,
    /// End of the window that it is about.
    pub at_ms: u64,
    pub text: String,
    /// Bits of the wire: what that window had.
    pub present: u8,
    /// The answer in it, where there was one.
    pub answer: Option<String>,
    /// Its label was gone before it was written to its end.
    pub cut: bool,
    /// Its claims held against what was measured; `None` where nothing was.
    pub grounds: Option<Grounds>,
    /// Faces in the window's last look.
    pub people: u8,
}

impl EpisodeReason {
    /// Its grounds as the wire says them, where there are any.
    pub fn grounds(&self) -> Option<wire::Grounds> {
        let grounds = self.grounds.as_ref()?;
        let count = |verdict| grounds.count(verdict).min(255) as u8;
        let claims = grounds.0.iter().take(32).zip(0..);
        let bits = claims.map(|(claim, i)| u32::from(claim.verdict == Verdict::Contradicted) << i);
        Some(wire::Grounds {
            episode: self.episode,
            claims: grounds.0.len().min(255) as u8,
            held: count(Verdict::True),
            contradicted: count(Verdict::Contradicted),
            unseen: count(Verdict::NotObservable),
            contradicted_bits: bits.sum(),
        })
    }
}

impl Speaker {
    pub fn label(&self, index: u8) -> Option<&str> {
        self.labels.get(usize::from(index)).map(String::as_str)
    }

    /// The hello for the wire; text that is too long for a packet is cut.
    pub fn hello(&self) -> wire::Hello<'_> {
        wire::Hello {
            minor: wire::MINOR,
            schema: wire::SCHEMA_HASH,
            boot: self.boot,
            device: cut(&self.device, 24),
            software: concat!("mien ", env!("CARGO_PKG_VERSION")),
            purpose: cut(&self.purpose, 20),
            bundle: cut(&self.bundle, 24),
            bundle_hash: self.bundle_hash,
            label_set: cut(&self.label_set, 12),
            labels: self.labels.iter().take(LABELS_MAX).map(|label| cut(label, 20)).collect(),
            window_ms: self.window_ms,
            hop_ms: self.hop_ms,
            heartbeat_ms: self.heartbeat_ms,
        }
    }
}

/// The longest start of `text` that has at most `bytes` and ends with a whole character.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
