//! The thread that owns window, model and policy: readings in, messages out.

use super::{Exits, Item, Pace, Popped, Queue, Summary, pulse::Status, state_file::StateFile};
use crate::{
    backend::Lost,
    config::{self, Explain},
    model::{Infer, Input},
    policy::{Limits, Observation, Policy},
    privacy::Gate,
    sink::{self, Message, Reason, Speaker, clock},
    source::{Gives, Modality, Pool, Reading, monotonic_ns},
    window::{self, Window, Windows},
    wire::{AUDIO, Cause, Event, Health, Heartbeat, Kind, LABELS_MAX, NO_LABEL, VIDEO},
};
use anyhow::{Result, ensure};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(50);
const NS_PER_MS: u64 = 1_000_000;

type Probabilities = heapless::Vec<f32, LABELS_MAX>;

/// What a core is made of, but the model.
pub struct Parts {
    pub pace: Pace,
    pub window: window::Settings,
    pub frames: usize,
    pub limits: Limits,
    pub model: config::Model,
    pub heartbeat_ms: u64,
    pub state_file: PathBuf,
    pub speaker: Arc<Speaker>,
    pub gate: Arc<Gate>,
    pub pool: Pool,
    pub exits: Arc<Exits>,
    pub status: Arc<Status>,
}

pub struct Core<'a> {
    parts: Parts,
    gives: Gives,
    windows: Option<Windows>,
    mind: Mind<'a>,
}

/// All that a window changes; apart from `Windows`, which lends the window.
struct Mind<'a> {
    infer: &'a mut dyn Infer,
    policy: Policy,
    model: config::Model,
    pace: Pace,
    hop_ns: u64,
    lateness_ns: u64,
    heartbeat_ms: u64,
    expected: u8,
    state_file: StateFile,
    speaker: Arc<Speaker>,
    exits: Arc<Exits>,
    status: Arc<Status>,
    beat: Heartbeat,
    beat_due_ms: u64,
    /// A failure of the model was said and has not passed.
    failing: bool,
    start_ns: Option<u64>,
    end_ns: u64,
    infer_time: Duration,
}

impl<'a> Core<'a> {
    pub fn new(parts: Parts, infer: &'a mut dyn Infer) -> Result<Core<'a>> {
        let labels = parts.speaker.labels.len();
        ensure!(
            (1..=LABELS_MAX).contains(&labels),
            "the label set {} has {labels} labels: events can name 1 to {LABELS_MAX}",
            parts.speaker.label_set
        );
        let gives = parts.status.gives();
        let expected = u8::from(gives.video) * VIDEO + u8::from(gives.audio) * AUDIO;
        let mut state_file = StateFile::new(parts.state_file.clone());
        let at_ms = match parts.pace {
            Pace::Live => monotonic_ns() / NS_PER_MS,
            Pace::Paced | Pace::Fast => 0,
        };
        let orphan = state_file.orphan(&parts.speaker, at_ms, expected);
        let policy = Policy::new(parts.limits.clone(), labels, u32::from(orphan.is_some()));
        let mut mind = Mind {
            infer,
            policy,
            model: parts.model.clone(),
            pace: parts.pace,
            hop_ns: u64::from(parts.window.hop_ms) * NS_PER_MS,
            lateness_ns: u64::from(parts.window.lateness_ms) * NS_PER_MS,
            heartbeat_ms: parts.heartbeat_ms,
            expected,
            state_file,
            speaker: Arc::clone(&parts.speaker),
            exits: Arc::clone(&parts.exits),
            status: Arc::clone(&parts.status),
            beat: Heartbeat { label: NO_LABEL, ..Heartbeat::default() },
            beat_due_ms: parts.heartbeat_ms,
            failing: false,
            start_ns: None,
            end_ns: 0,
            infer_time: Duration::ZERO,
        };
        if let Some(event) = orphan {
            mind.tell(event);
        }
        Ok(Core { parts, gives, windows: None, mind })
    }

    /// Takes readings until the recording is over or `stop` is set; what holds then is ended.
    pub fn attend(&mut self, readings: &Queue<Item>, stop: &AtomicBool) -> Result<()> {
        let mut left = self.gives;
        let mut muted = false;
        let (cause, outcome) = loop {
            if stop.load(Ordering::Acquire) {
                break (Cause::Shutdown, Ok(()));
            }
            if self.parts.gate.muted() != muted {
                muted = !muted;
                if muted {
                    self.mind.close(Cause::Muted);
                    self.windows = None;
                }
            }
            let reading = match readings.pop(WAIT) {
                Popped::Item(Item::Reading(reading)) => reading,
                Popped::Item(Item::Failed(error)) => break (Cause::InputEnd, Err(error)),
                Popped::Empty => continue,
                Popped::Closed => break (Cause::Shutdown, Ok(())),
            };
            if let Reading::End { modality } = reading {
                match modality {
                    Modality::Video => left.video = false,
                    Modality::Audio => left.audio = false,
                }
            }
            if muted {
                self.parts.pool.give(reading);
            } else if let Err(error) = self.push(reading) {
                break (Cause::Shutdown, Err(error));
            }
            if !left.video && !left.audio {
                break (Cause::InputEnd, Ok(()));
            }
        };
        self.mind.close(cause);
        outcome
    }

    fn push(&mut self, reading: Reading) -> Result<()> {
        let windows = match &mut self.windows {
            Some(windows) => windows,
            none => none.insert(Windows::new(
                self.parts.window,
                self.parts.frames,
                self.gives,
                self.parts.pool.clone(),
            )?),
        };
        let mind = &mut self.mind;
        windows.push(reading, |window| mind.see(window))
    }

    pub fn summary(&self, took: Duration) -> Summary {
        let mind = &self.mind;
        Summary {
            windows: mind.beat.windows,
            late: mind.beat.late,
            events: mind.policy.next_seq(),
            media: Duration::from_nanos(mind.end_ns - mind.start_ns.unwrap_or(mind.end_ns)),
            took,
            infer: mind.infer_time,
            ..Summary::default()
        }
    }
}

impl Mind<'_> {
    /// One window: scores, events, and perhaps a reason. A window whose successor is due as well is late and left out. Fails when the
    /// device of the model is lost.
    fn see(&mut self, window: &Window<'_>) -> Result<()> {
        if self.pace != Pace::Fast && self.status.passed(window.end_ns + self.hop_ns, self.lateness_ns) {
            self.beat.late += 1;
            self.status.set_beat(self.beat);
            return Ok(());
        }
        self.start_ns.get_or_insert(window.start_ns);
        self.end_ns = window.end_ns;
        let at_ms = window.end_ns / NS_PER_MS;
        let input = Input { frames: window.frames(), samples: window.samples() };
        let present = u8::from(input.frames.is_some()) * VIDEO + u8::from(input.samples.is_some()) * AUDIO;

        self.status.set_busy(true);
        let started = Instant::now();
        let scores = if self.policy.serves(present) { self.score(&input)? } else { None };
        self.note_time(started);
        self.beat.windows += 1;
        if let Some(scores) = &scores {
            log::debug!("window at_ms={at_ms} present={present} scores={scores:?}");
        }
        let events = self.policy.push(&Observation {
            at_ms,
            window_ms: self.speaker.window_ms,
            expected: self.expected,
            present,
            scores: scores.as_deref(),
        });
        if let Some(scores) = scores {
            self.tell_scores(at_ms, present, &scores);
        }
        let began = events.iter().find(|event| event.kind == Kind::Begin).map(|event| event.episode);
        for event in events {
            self.tell(event);
        }
        self.status.set_beat(self.beat);
        if let (Some(episode), Explain::OnChange) = (began, self.model.reason) {
            self.explain(episode, at_ms)?;
        }
        self.status.set_busy(false);
        self.beat_in_time(at_ms);
        Ok(())
    }

    /// Probabilities of the labels, or `None` where the model failed on this window.
    fn score(&mut self, input: &Input<'_>) -> Result<Option<Probabilities>> {
        let result = self
            .infer
            .see(&self.model.prompt, input)
            .and_then(|()| self.infer.score(&self.model.labels))
            .map(|scores| scores.probabilities.as_slice());
        let failure = match result {
            Ok(scores)
                if scores.len() == self.speaker.labels.len() && scores.iter().all(|p| p.is_finite()) =>
            {
                if std::mem::take(&mut self.failing) {
                    log::warn!("the model works again");
                }
                return Ok(Some(scores.iter().copied().collect()));
            }
            Ok(scores) => format!("scores {scores:?} for {} labels", self.speaker.labels.len()),
            Err(error) if error.is::<Lost>() => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        if !std::mem::replace(&mut self.failing, true) {
            log::error!("the model fails on windows: {failure}");
        }
        Ok(None)
    }

    fn explain(&mut self, episode: u32, at_ms: u64) -> Result<()> {
        let started = Instant::now();
        let said = self.infer.ask(&self.model.reason_prompt).and_then(|()| self.infer.reason(&mut |_| {}));
        self.infer_time += started.elapsed();
        match said {
            Ok(said) => {
                let text = said.think.unwrap_or(said.text);
                let reason = Reason { episode, at_ms, text, answer: said.answer };
                self.exits.send(&Message::Reason(Arc::new(reason)));
            }
            Err(error) if error.is::<Lost>() => return Err(error),
            Err(error) => log::error!("no reason for episode {episode}: {error:#}"),
        }
        Ok(())
    }

    fn note_time(&mut self, started: Instant) {
        let took = started.elapsed();
        self.infer_time += took;
        if self.pace != Pace::Fast {
            self.beat.infer_ms = took.as_millis() as u32;
        }
    }

    fn tell_scores(&self, at_ms: u64, present: u8, plain: &[f32]) {
        let mut scores = sink::Scores {
            at_ms,
            expected: self.expected,
            present,
            labels: plain.len(),
            plain: [0.0; LABELS_MAX],
            smoothed: [0.0; LABELS_MAX],
        };
        scores.plain[..plain.len()].copy_from_slice(plain);
        scores.smoothed[..plain.len()].copy_from_slice(self.policy.smoothed());
        self.exits.send(&Message::Scores(scores));
    }

    /// Stamps an event and sends it to every sink.
    fn tell(&mut self, mut event: Event) {
        if self.pace == Pace::Live {
            let wall = clock::wall();
            let age_ms = (monotonic_ns() / NS_PER_MS).saturating_sub(event.at_ms);
            event.age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
            event.wall_ms = wall.ms.saturating_sub(age_ms);
            event.wall_synced = u8::from(wall.synced);
        }
        self.state_file.keep(&event, &self.speaker);
        self.exits.send(&Message::Event(event));
        let holds = self.policy.holds();
        self.beat.label = holds.map_or(NO_LABEL, |(label, _)| label);
        self.beat.episode = holds.map_or(0, |(_, episode)| episode);
        self.beat.events = self.policy.next_seq();
    }

    /// Ends what holds.
    fn close(&mut self, cause: Cause) {
        let at_ms = match self.pace {
            Pace::Live => monotonic_ns() / NS_PER_MS,
            Pace::Paced | Pace::Fast => self.end_ns / NS_PER_MS,
        };
        for event in self.policy.close(at_ms, cause) {
            self.tell(event);
        }
        self.status.set_beat(self.beat);
    }

    /// Recordings that are played fast have their heartbeats at the recording's own time.
    fn beat_in_time(&mut self, at_ms: u64) {
        if self.pace != Pace::Fast || at_ms < self.beat_due_ms {
            return;
        }
        self.beat_due_ms = (at_ms / self.heartbeat_ms + 1) * self.heartbeat_ms;
        let health = |bit: u8| if self.expected & bit != 0 { Health::Ok } else { Health::Off };
        let beat = Heartbeat { uptime_ms: at_ms, video: health(VIDEO), audio: health(AUDIO), ..self.beat };
        self.exits.send(&Message::Heartbeat(beat));
    }
}
