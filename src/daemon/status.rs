//! What the threads know of each other, and one [`Snapshot`] of it: for the heartbeat, the status line, and the sinks that show it.

use super::plan::{Plan, STALL};
use crate::{
    sink::{
        self, Snapshot,
        snapshot::{Drawn, Passed, SINKS_MAX, SOURCES_MAX, Stages},
    },
    source::{self, Gives, Modality, Reading},
    wire::{Health, Heartbeat, NO_LABEL},
};
use heapless::Vec;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub struct Status {
    started: Instant,
    shared: Mutex<Shared>,
}

struct Shared {
    video: Edge,
    audio: Edge,
    beat: Heartbeat,
    sources: Vec<(&'static str, source::SourceCounts), SOURCES_MAX>,
    sinks: Vec<(&'static str, sink::SinkCounts), SINKS_MAX>,
    queue_drops: u32,
    stages: Stages,
    passed: Passed,
    drawn: Drawn,
    unlike: Option<f32>,
    /// When each source's thread gave a sign of life last.
    lives: Vec<(&'static str, Instant), SOURCES_MAX>,
    /// The core works on a window since then.
    busy: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Edge {
    health: Health,
    last: Option<Instant>,
}

impl Edge {
    fn now(&self, muted: bool) -> Health {
        match (self.health, self.last) {
            (Health::Ok | Health::Absent, _) if muted => Health::Muted,
            (Health::Ok, Some(last)) if last.elapsed() > STALL => Health::Stalled,
            (health, _) => health,
        }
    }
}

impl Status {
    pub fn new(plan: &Plan) -> Status {
        Status::of(plan.gives())
    }

    fn of(gives: Gives) -> Status {
        let edge =
            |given: bool| Edge { health: if given { Health::Absent } else { Health::Off }, last: None };
        let shared = Shared {
            video: edge(gives.video),
            audio: edge(gives.audio),
            beat: Heartbeat { label: NO_LABEL, ..Heartbeat::default() },
            sources: Vec::new(),
            sinks: Vec::new(),
            queue_drops: 0,
            stages: Stages::new(),
            passed: Passed::default(),
            drawn: Drawn::default(),
            unlike: None,
            lives: Vec::new(),
            busy: None,
        };
        Status { started: Instant::now(), shared: Mutex::new(shared) }
    }

    /// A reading was taken from a source.
    pub fn note(&self, reading: &Reading) {
        let (modality, health) = match *reading {
            Reading::Frame(_) => (Modality::Video, Health::Ok),
            Reading::Chunk(_) => (Modality::Audio, Health::Ok),
            Reading::Lost { modality, .. } => (modality, Health::Absent),
            Reading::End { modality } => (modality, Health::Ended),
        };
        *self.lock().edge(modality) = Edge { health, last: Some(Instant::now()) };
    }

    pub fn set_source(&self, name: &'static str, counts: source::SourceCounts) {
        set(&mut self.lock().sources, name, counts);
    }

    pub fn set_sink(&self, name: &'static str, counts: sink::SinkCounts) {
        set(&mut self.lock().sinks, name, counts);
    }

    pub fn set_unlike(&self, times: f64) {
        self.lock().unlike = Some(times as f32);
    }

    pub fn set_gate(&self, passed: Passed) {
        self.lock().passed = passed;
    }

    pub fn set_drawn(&self, drawn: Drawn) {
        self.lock().drawn = drawn;
    }

    pub fn drop_some(&self, count: u32) {
        let mut shared = self.lock();
        shared.queue_drops = shared.queue_drops.saturating_add(count);
    }

    /// A source's thread gives a sign of life: it waits for its device for a moment at a time.
    pub fn alive(&self, source: &'static str) {
        set(&mut self.lock().lives, source, Instant::now());
    }

    /// A source's thread has ended, as its recording has.
    pub fn ended(&self, source: &'static str) {
        self.lock().lives.retain(|(name, _)| *name != source);
    }

    /// The source whose thread has hung in its device for so long, where there is one.
    pub fn hung(&self, limit: Duration) -> Option<&'static str> {
        let shared = self.lock();
        shared.lives.iter().find(|(_, at)| at.elapsed() > limit).map(|(source, _)| *source)
    }

    pub fn set_stages(&self, stages: Stages) {
        self.lock().stages = stages;
    }

    pub fn set_busy(&self, busy: bool) {
        self.lock().busy = busy.then(Instant::now);
    }

    /// What the core counts; the rest of the heartbeat is filled in by [`Status::snapshot`].
    pub fn set_beat(&self, beat: Heartbeat) {
        self.lock().beat = beat;
    }

    pub fn snapshot(&self, muted: bool) -> Snapshot {
        let shared = self.lock();
        let sink_drops: u64 = shared.sinks.iter().map(|(_, counts)| counts.dropped).sum();
        let dropped = u64::from(shared.queue_drops) + sink_drops;
        Snapshot {
            heartbeat: Heartbeat {
                uptime_ms: self.started.elapsed().as_millis() as u64,
                dropped: u32::try_from(dropped).unwrap_or(u32::MAX),
                video: shared.video.now(muted),
                audio: shared.audio.now(muted),
                muted: u8::from(muted),
                ..shared.beat
            },
            sources: shared.sources.clone(),
            sinks: shared.sinks.clone(),
            queue_drops: shared.queue_drops,
            stages: shared.stages.clone(),
            passed: shared.passed,
            drawn: shared.drawn,
            unlike: shared.unlike,
            busy: shared.busy.map(|since| since.elapsed()).unwrap_or_default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn edge(&mut self, modality: Modality) -> &mut Edge {
        match modality {
            Modality::Video => &mut self.video,
            Modality::Audio => &mut self.audio,
        }
    }
}

/// Rows beyond the limit are not shown.
fn set<C, const N: usize>(rows: &mut Vec<(&'static str, C), N>, name: &'static str, counts: C) {
    match rows.iter_mut().find(|(row, _)| *row == name) {
        Some(row) => row.1 = counts,
        None => drop(rows.push((name, counts))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_a_sign_of_life_has_hung_and_one_that_ended_has_not() {
        let status = Status::of(Gives::default());
        let limit = Duration::from_millis(20);
        status.alive("camera");
        status.alive("mic");
        assert_eq!(status.hung(limit), None);
        std::thread::sleep(2 * limit);
        status.alive("mic");
        assert_eq!(status.hung(limit), Some("camera"));
        status.ended("camera");
        assert_eq!(status.hung(limit), None);
    }
}
