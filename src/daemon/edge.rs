//! What the threads of sources and sinks do.

use super::{Item, Pace, Popped, Queue, pulse::Status};
use crate::{
    privacy::{Device, Gate},
    sink::{Counts, Message, Sink},
    source::{Chunk, Gives, Modality, Pool, Reading, SAMPLE_RATE, Source, monotonic_ns},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(100);
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Live chunks are joined up to this many samples (100 ms), so that few wait in the queue.
const JOINED: usize = 1_600;
/// Stamps of chunks that follow on differ by less.
const JITTER_NS: u64 = 20_000_000;

/// Tells a sink what comes through its queue, until the queue is closed and empty.
pub fn tell(mut sink: Box<dyn Sink>, messages: &Queue<Message>) -> (&'static str, Counts) {
    loop {
        match messages.pop(WAIT) {
            Popped::Item(message) => sink.send(&message),
            Popped::Empty => sink.tick(),
            Popped::Closed => break,
        }
    }
    sink.close();
    (sink.name(), sink.counts())
}

/// A source's thread: opens its device through the gate and reads it.
pub struct Ear {
    pub device: Device,
    pub gives: Gives,
    pub gate: Arc<Gate>,
    pub pool: Pool,
    pub pace: Pace,
    /// Live frames nearer to each other than this are let go: no window would show them.
    pub keep_ns: u64,
    pub readings: Arc<Queue<Item>>,
    pub status: Arc<Status>,
    pub done: Arc<AtomicBool>,
}

impl Ear {
    pub fn listen(self) {
        let mut source: Option<Box<dyn Source>> = None;
        let mut said = false;
        let mut pause = RETRY_MIN;
        let mut retry_at = Instant::now();
        let mut kept_ns = 0;
        let mut left = self.gives;
        let mut held: Option<Chunk> = None;
        while !self.done.load(Ordering::Acquire) && (left.video || left.audio) {
            if self.gate.muted() {
                if source.take().is_some() {
                    log::info!("muted, device closed device={}", self.device.name());
                }
                thread::sleep(WAIT);
                continue;
            }
            let result = match &mut source {
                Some(source) => source.read(WAIT),
                None if Instant::now() < retry_at => {
                    self.lost();
                    thread::sleep(WAIT);
                    continue;
                }
                None => match self.gate.open(&self.device, &self.pool) {
                    Ok(opened) => {
                        log::info!("device open device={}", self.device.name());
                        source = Some(opened);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let result = match result {
                Ok(Some(Reading::Chunk(chunk))) if self.pace == Pace::Live => {
                    Ok(self.join(&mut held, chunk).map(Reading::Chunk))
                }
                other => {
                    if let Some(chunk) = held.take_if(|_| !matches!(other, Ok(Some(Reading::Frame(_))))) {
                        self.push(Reading::Chunk(chunk));
                    }
                    other
                }
            };
            match result {
                Ok(None) => {}
                Ok(Some(Reading::End { modality })) => {
                    match modality {
                        Modality::Video => left.video = false,
                        Modality::Audio => left.audio = false,
                    }
                    self.push(Reading::End { modality });
                }
                Ok(Some(Reading::Frame(frame)))
                    if self.pace == Pace::Live
                        && frame.captured_ns < kept_ns + self.keep_ns
                        && kept_ns > 0 =>
                {
                    self.status.saw(Modality::Video);
                    self.pool.give_rgb(frame.rgb);
                }
                Ok(Some(reading)) => {
                    if let Reading::Frame(frame) = &reading {
                        kept_ns = frame.captured_ns;
                    }
                    if !matches!(reading, Reading::Lost { .. }) {
                        pause = RETRY_MIN;
                        if std::mem::take(&mut said) {
                            log::warn!("device is back device={}", self.device.name());
                        }
                    }
                    self.push(reading);
                }
                Err(error) if self.pace != Pace::Live => {
                    self.readings.push_wait(Item::Failed(error));
                    return;
                }
                Err(error) => {
                    source = None;
                    retry_at = Instant::now() + pause;
                    pause = (pause * 2).min(RETRY_MAX);
                    if !std::mem::replace(&mut said, true) {
                        log::warn!("device is away, trying again device={}: {error:#}", self.device.name());
                    }
                    self.lost();
                }
            }
        }
    }

    /// Adds a chunk to the held one, and returns what is ready to go.
    fn join(&self, held: &mut Option<Chunk>, chunk: Chunk) -> Option<Chunk> {
        let follows = |first: &Chunk| {
            let end_ns =
                first.captured_ns + first.samples.len() as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE);
            end_ns.abs_diff(chunk.captured_ns) < JITTER_NS
        };
        match held {
            Some(first) if follows(first) => {
                first.samples.extend_from_slice(&chunk.samples);
                self.pool.give_samples(chunk.samples);
                held.take_if(|first| first.samples.len() >= JOINED)
            }
            _ => held.replace(chunk),
        }
    }

    /// Says that nothing came until now, so that windows go on.
    fn lost(&self) {
        let at_ns = monotonic_ns();
        for (gives, modality) in [(self.gives.video, Modality::Video), (self.gives.audio, Modality::Audio)] {
            if gives {
                self.push(Reading::Lost { modality, at_ns });
            }
        }
    }

    fn push(&self, reading: Reading) {
        self.status.note(&reading);
        let item = Item::Reading(reading);
        let gone = match self.pace {
            Pace::Fast => self.readings.push_wait(item),
            Pace::Live | Pace::Paced => self.readings.push(item),
        };
        if let Some(Item::Reading(reading)) = gone {
            if !self.done.load(Ordering::Acquire) {
                self.status.drop_one();
            }
            // The end of a track is no reading that may be lost.
            if let Reading::End { .. } = reading {
                self.readings.push(Item::Reading(reading));
            } else {
                self.pool.give(reading);
            }
        }
    }
}
