//! The events of a run as they hang together: episodes, unknown stretches, scores, missing modalities, reasons.
//!
//! Units: `_ms` as in the events.

use crate::{
    sink::{json, json::Line},
    wire::{Decoder, Message},
};
use std::fmt::Write;

/// JSON lines, or packets; what is neither is passed over.
pub fn lines(bytes: &[u8]) -> Vec<Line> {
    if bytes.first() == Some(&b'{') {
        let text = String::from_utf8_lossy(bytes);
        return text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    }
    let mut decoder = Decoder::new();
    let mut labels: Vec<String> = Vec::new();
    let mut boot = None;
    let mut lines = Vec::new();
    for &byte in bytes {
        let Some(Ok(packet)) = decoder.feed(byte) else { continue };
        match packet.message {
            Message::Hello(hello) => {
                boot = Some(hello.boot);
                let hello = json::Hello::of(&hello);
                labels = hello.labels.clone();
                lines.push(Line::Hello(hello));
            }
            Message::Event(event) => {
                let label = labels.get(usize::from(event.label)).map(String::as_str);
                lines.push(Line::Event(json::Event::of(&event, label, boot)));
            }
            Message::Heartbeat(_)
            | Message::Reason(_)
            | Message::Grounds(_)
            | Message::People(_)
            | Message::Faces(_)
            | Message::Second(_) => {}
        }
    }
    lines
}

pub struct Episode {
    pub id: u32,
    pub label: usize,
    pub begin_ms: u64,
    pub end_ms: u64,
    pub confidence: f64,
    pub cause: String,
}

/// A stretch of a recording of which it is known what was shown.
#[derive(serde::Deserialize)]
pub struct Truth {
    pub start_ms: u64,
    pub end_ms: u64,
    pub label: String,
}

/// A stretch in which something is unknown or missing.
pub struct Stretch {
    pub begin_ms: u64,
    pub end_ms: u64,
    pub why: String,
}

/// What there is to draw.
pub struct Story {
    pub title: String,
    pub labels: Vec<String>,
    pub start_ms: u64,
    pub end_ms: u64,
    pub episodes: Vec<Episode>,
    pub unknown: Vec<Stretch>,
    /// `(time, smoothed scores in the order of the labels)`.
    pub scores: Vec<(u64, Vec<f32>)>,
    /// Of `video` and `audio`: seen at all, and missing when.
    pub modalities: Vec<(&'static str, Vec<Stretch>)>,
    pub reasons: Vec<(u32, u64, String)>,
    pub truth: Vec<Truth>,
    pub window_ms: u64,
}

impl Story {
    pub fn of(lines: &[Line]) -> Story {
        let mut story = Story {
            title: "emotion events".into(),
            labels: Vec::new(),
            start_ms: u64::MAX,
            end_ms: 0,
            episodes: Vec::new(),
            unknown: Vec::new(),
            scores: Vec::new(),
            modalities: Vec::new(),
            reasons: Vec::new(),
            truth: Vec::new(),
            window_ms: 0,
        };
        let mut presence: Vec<(u64, Vec<String>, Vec<String>)> = Vec::new();
        for line in lines {
            match line {
                Line::Hello(hello) => {
                    story.title = format!("{} — {} ({})", hello.device, hello.bundle, hello.label_set);
                    story.labels.clone_from(&hello.labels);
                    story.window_ms = u64::from(hello.window_ms);
                }
                Line::Event(event) => {
                    story.span(event.at_ms);
                    story.take(event);
                    presence.push((event.at_ms, event.present.clone(), event.missing.clone()));
                }
                Line::Scores(scores) => {
                    story.span(scores.at_ms);
                    story.scores.push((scores.at_ms, scores.smoothed.clone()));
                    presence.push((scores.at_ms, scores.present.clone(), scores.missing.clone()));
                }
                Line::Reason(reason) => {
                    story.reasons.push((reason.episode, reason.at_ms, reason.text.clone()))
                }
                Line::State(_)
                | Line::Heartbeat(_)
                | Line::Grounds(_)
                | Line::People(_)
                | Line::Faces(_)
                | Line::Second(_) => {}
            }
        }
        let last_ms = story.end_ms;
        for episode in story.episodes.iter_mut().filter(|episode| episode.end_ms == u64::MAX) {
            episode.end_ms = last_ms;
        }
        for stretch in story.unknown.iter_mut().filter(|stretch| stretch.end_ms == u64::MAX) {
            stretch.end_ms = last_ms;
        }
        if story.start_ms < story.end_ms {
            story.start_ms = story.start_ms.saturating_sub(story.window_ms);
        }
        story.unknown.retain(|stretch| stretch.begin_ms < stretch.end_ms);
        story.modalities = modalities(&presence);
        story
    }

    fn span(&mut self, at_ms: u64) {
        self.start_ms = self.start_ms.min(at_ms);
        self.end_ms = self.end_ms.max(at_ms);
    }

    fn take(&mut self, event: &json::Event) {
        let label = event.label.as_deref().map(|label| self.lane(label));
        match (event.event.as_str(), label) {
            ("begin", Some(label)) => {
                if let Some(stretch) = self.unknown.last_mut() {
                    stretch.end_ms = stretch.end_ms.min(event.at_ms);
                }
                self.episodes.push(Episode {
                    id: event.episode,
                    label,
                    begin_ms: event.at_ms,
                    end_ms: u64::MAX,
                    confidence: event.confidence,
                    cause: String::new(),
                });
            }
            ("change" | "end", Some(_)) => {
                let Some(episode) =
                    self.episodes.iter_mut().rev().find(|episode| episode.id == event.episode)
                else {
                    return;
                };
                episode.confidence = episode.confidence.max(event.confidence);
                if event.event == "end" {
                    episode.end_ms = event.at_ms;
                    episode.cause = event.cause.clone().unwrap_or_default();
                }
            }
            ("unknown", _) => {
                if let Some(stretch) = self.unknown.last_mut() {
                    stretch.end_ms = stretch.end_ms.min(event.at_ms);
                }
                let why = event.cause.clone().unwrap_or_default().replace('_', " ");
                self.unknown.push(Stretch { begin_ms: event.at_ms, end_ms: u64::MAX, why });
            }
            _ => {}
        }
    }

    /// The label that was held longest in a stretch, and for how long. An event speaks of the middle of its window.
    fn held(&self, truth: &Truth) -> Option<(&str, u64)> {
        let mut held = vec![0; self.labels.len()];
        for episode in &self.episodes {
            let middle = |at_ms: u64| at_ms.saturating_sub(self.window_ms / 2);
            let begin = middle(episode.begin_ms).max(truth.start_ms);
            let end = middle(episode.end_ms).min(truth.end_ms);
            held[episode.label] += end.saturating_sub(begin);
        }
        let (label, &longest) = held.iter().enumerate().max_by_key(|(_, held)| **held)?;
        (longest > 0).then(|| (self.labels[label].as_str(), longest))
    }

    /// How long after a stretch began its label was told; none where it was told already, or not while the stretch lasted.
    fn reaction_ms(&self, truth: &Truth) -> Option<u64> {
        let shown = json::expression(&truth.label);
        let of_it = |episode: &&Episode| {
            json::expression(&self.labels[episode.label]) == shown && episode.end_ms > truth.start_ms
        };
        let begin_ms = self.episodes.iter().find(of_it)?.begin_ms;
        (truth.start_ms..truth.end_ms).contains(&begin_ms).then(|| begin_ms - truth.start_ms)
    }

    /// What was shown beside what was said of it, one line each, and how soon; empty without truth.
    pub fn compare(&self) -> String {
        let (mut right, mut said, mut after) = (0, String::new(), Vec::new());
        for truth in &self.truth {
            let held = self.held(truth);
            let same =
                held.is_some_and(|(label, _)| json::expression(label) == json::expression(&truth.label));
            right += usize::from(same);
            let reaction_ms = self.reaction_ms(truth).filter(|_| same);
            after.extend(reaction_ms);
            let begun =
                reaction_ms.map_or(String::new(), |ms| format!(", begun after {:.1} s", ms as f64 / 1000.0));
            let _ = writeln!(
                said,
                "{:>6.1} s to {:>5.1} s  shown {:9} said {:9} for {:.1} s  {}{begun}",
                truth.start_ms as f64 / 1000.0,
                truth.end_ms as f64 / 1000.0,
                truth.label,
                held.map_or("nothing", |(label, _)| label),
                held.map_or(0.0, |(_, ms)| ms as f64 / 1000.0),
                if same { "right" } else { "WRONG" }
            );
        }
        if !self.truth.is_empty() {
            let _ = write!(said, "{right} of {} right", self.truth.len());
            after.sort_unstable();
            if let (Some(low), Some(high)) =
                (after.get(after.len().saturating_sub(1) / 2), after.get(after.len() / 2))
            {
                let median = (low + high) as f64 / 2000.0;
                let _ = write!(said, "; a right label begins {median:.1} s after it is first shown (median)");
            }
            said.push('\n');
        }
        said
    }

    fn lane(&mut self, label: &str) -> usize {
        self.labels.iter().position(|known| known == label).unwrap_or_else(|| {
            self.labels.push(label.into());
            self.labels.len() - 1
        })
    }
}

/// Where each modality was missing. A mark holds until the next one.
fn modalities(presence: &[(u64, Vec<String>, Vec<String>)]) -> Vec<(&'static str, Vec<Stretch>)> {
    let mut found = Vec::new();
    for name in ["video", "audio"] {
        let expected = |(_, present, missing): &&(u64, Vec<String>, Vec<String>)| {
            present.iter().chain(missing).any(|known| known == name)
        };
        let marks: Vec<_> = presence.iter().filter(expected).collect();
        if marks.is_empty() {
            continue;
        }
        let mut gaps: Vec<Stretch> = Vec::new();
        for (i, (at_ms, _, missing)) in marks.iter().enumerate() {
            if !missing.iter().any(|known| known == name) {
                continue;
            }
            let end_ms = marks.get(i + 1).map_or(*at_ms, |next| next.0);
            match gaps.last_mut() {
                Some(gap) if gap.end_ms == *at_ms => gap.end_ms = end_ms,
                _ => gaps.push(Stretch { begin_ms: *at_ms, end_ms, why: format!("no {name}") }),
            }
        }
        found.push((name, gaps));
    }
    found
}
