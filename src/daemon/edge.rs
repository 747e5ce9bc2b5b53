//! A source's thread: opens its device through the gate, reads it, and puts readings into the core's queue.

use super::{inbox::Inbox, newest::Newest, pace::Pace, status::Status};
use crate::{
    cues::Facts,
    outage::{self, Change, Outage},
    privacy::Gate,
    source::{self, Chunk, Gives, Modality, Pool, Reading, SAMPLE_RATE, Source, monotonic_ns},
};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(100);
const RETRY: outage::Limits = outage::Limits {
    pause_min: Duration::from_millis(250),
    pause_max: Duration::from_secs(5),
    stable: Duration::ZERO,
};
/// Live chunks are joined up to this many samples (100 ms), so that few wait in the queue.
const JOINED: usize = 1_600;
/// Stamps of chunks that follow on differ by less.
const JITTER_NS: u64 = 20_000_000;

/// What a source's thread works with.
pub struct Links {
    pub gate: Arc<Gate>,
    pub pool: Pool,
    pub inbox: Arc<Inbox>,
    pub status: Arc<Status>,
    pub newest: Arc<Newest>,
    pub done: Arc<AtomicBool>,
}

/// One source and its thread's state.
pub struct Intake {
    settings: source::Settings,
    gives: Gives,
    pace: Pace,
    /// Live frames nearer to each other than this are passed over.
    keep_ns: u64,
    links: Links,
    source: Option<Box<dyn Source>>,
    outage: Outage,
    /// Modalities that have not ended.
    left: Gives,
    /// A live chunk that waits for its successors.
    held: Option<Chunk>,
}

impl Intake {
    pub fn new(settings: source::Settings, gives: Gives, pace: Pace, keep_ns: u64, links: Links) -> Intake {
        Intake {
            outage: Outage::new(RETRY, monotonic_ns()),
            settings,
            gives,
            pace,
            keep_ns,
            links,
            source: None,
            left: gives,
            held: None,
        }
    }

    pub fn name(&self) -> &'static str {
        self.settings.name()
    }

    /// Reads until the run is done or every track has ended.
    pub fn run(mut self) {
        while !self.links.done.load(Ordering::Acquire) && (self.left.video || self.left.audio) {
            self.links.status.alive(self.settings.name());
            if self.links.gate.muted() {
                if self.source.take().is_some() {
                    log::info!("muted, device closed device={}", self.name());
                }
                thread::sleep(WAIT);
                continue;
            }
            let read = match &mut self.source {
                Some(source) => {
                    let read = source.read(WAIT);
                    self.links.status.set_source(self.settings.name(), source.counts());
                    read
                }
                None if !self.outage.is_due(Instant::now()) => {
                    self.lost();
                    thread::sleep(WAIT);
                    continue;
                }
                None => self.open(),
            };
            match self.joined(read) {
                Ok(reading) => reading.into_iter().for_each(|reading| self.take(reading)),
                Err(error) if self.pace != Pace::Live => return self.links.inbox.fail(error),
                Err(error) => self.fail(&error),
            }
        }
        self.links.status.ended(self.settings.name());
    }

    fn open(&mut self) -> Result<Option<Reading>> {
        let mut source = self.links.gate.open(&self.settings, &self.links.pool)?;
        if self.pace == Pace::Live {
            source.keep_apart(self.keep_ns);
        }
        self.source = Some(source);
        log::info!("device open device={}", self.name());
        Ok(None)
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.source = None;
        if self.outage.fails(Instant::now()) == Some(Change::Lost) {
            log::warn!("device is away, trying again device={}: {error:#}", self.name());
        }
        self.lost();
    }

    /// Live chunks go on joined; whatever else is not a frame sends the held one first.
    fn joined(&mut self, read: Result<Option<Reading>>) -> Result<Option<Reading>> {
        match read {
            Ok(Some(Reading::Chunk(chunk))) if self.pace == Pace::Live => {
                Ok(self.join(chunk).map(Reading::Chunk))
            }
            other => {
                if let Some(chunk) = self.held.take_if(|_| !matches!(other, Ok(Some(Reading::Frame(_))))) {
                    self.push(Reading::Chunk(chunk));
                }
                other
            }
        }
    }

    fn take(&mut self, reading: Reading) {
        match &reading {
            Reading::End { modality: Modality::Video } => self.left.video = false,
            Reading::End { modality: Modality::Audio } => self.left.audio = false,
            Reading::Frame(_) | Reading::Chunk(_) | Reading::Lost { .. } => {}
        }
        if !matches!(reading, Reading::Lost { .. })
            && let Some(Change::Back(away)) = self.outage.works(Instant::now())
        {
            log::warn!("device is back device={} away_s={}", self.name(), away.as_secs());
        }
        self.push(reading);
    }

    /// Adds a chunk to the held one, and returns what is ready to go.
    fn join(&mut self, chunk: Chunk) -> Option<Chunk> {
        let follows = |first: &Chunk| {
            let end_ns =
                first.captured_ns + first.samples.len() as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE);
            end_ns.abs_diff(chunk.captured_ns) < JITTER_NS
        };
        match &mut self.held {
            Some(first) if follows(first) => {
                first.samples.extend_from_slice(&chunk.samples);
                self.links.pool.give_samples(chunk.samples);
                self.held.take_if(|first| first.samples.len() >= JOINED)
            }
            _ => self.held.replace(chunk),
        }
    }

    /// Tells that nothing came until now, so that windows go on.
    fn lost(&self) {
        let at_ns = monotonic_ns();
        for (gives, modality) in [(self.gives.video, Modality::Video), (self.gives.audio, Modality::Audio)] {
            if gives {
                self.push(Reading::Lost { modality, at_ns });
            }
        }
    }

    fn push(&self, reading: Reading) {
        let links = &self.links;
        links.status.note(&reading);
        match reading {
            Reading::Frame(ref frame) => links.newest.note(Modality::Video, frame.captured_ns),
            Reading::Chunk(ref chunk) => links.newest.note(Modality::Audio, chunk.captured_ns),
            Reading::Lost { modality, at_ns } => links.newest.note(modality, at_ns),
            Reading::End { .. } => {}
        }
        links.inbox.push(reading, Facts::default());
    }
}
