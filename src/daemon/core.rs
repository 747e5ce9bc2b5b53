//! The thread that owns window, model and policy: readings in, messages out.

use super::{
    exits::Exits,
    inbox::{Inbox, Item},
    newest::Newest,
    numbers::Numbers,
    pace::Pace,
    plan::Plan,
    queue::Popped,
    rehearsal,
    status::Status,
    summary::Summary,
    thought::{Shown, Thought},
    timer::Timer,
};
use crate::{
    backend::{Halt, Lost},
    config::Explain,
    cues::{
        Ground,
        ledger::{self, Cues, Ledger, Presence},
    },
    kept::Kept,
    machine,
    model::{Decoding, Infer, Input, Reason, Sampling},
    policy::{self, Observation, Policy},
    privacy::Gate,
    sink::{self, Message, clock, ledger::Told, snapshot::Passed},
    source::{Pool, Reading, monotonic_ns},
    window::{Window, Windows},
    wire::{AUDIO, Cause, Event, Health, Heartbeat, Kind, LABELS_MAX, NO_LABEL, People, VIDEO},
};
use anyhow::Result;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(50);
const NS_PER_MS: u64 = 1_000_000;

type Probabilities = heapless::Vec<f32, LABELS_MAX>;

/// How a reason is asked for once more: not the likeliest words again, and without those that were contradicted.
const AGAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1 };

/// What the core shares with the other threads.
pub struct Links {
    pub gate: Arc<Gate>,
    pub pool: Pool,
    pub exits: Arc<Exits>,
    pub status: Arc<Status>,
    pub newest: Arc<Newest>,
    /// Thresholds that replace the plan's at the next window.
    pub limits: Arc<Mutex<Option<policy::Limits>>>,
    /// Raised when the run is to end: what the model says then is thrown away.
    pub stop: Arc<AtomicBool>,
}

pub struct Core<'a> {
    plan: &'a Plan,
    pool: Pool,
    windows: Option<Windows>,
    state: State<'a>,
}

/// All that a window changes; apart from `Windows`, which lends the window.
struct State<'a> {
    plan: &'a Plan,
    exits: Arc<Exits>,
    status: Arc<Status>,
    newest: Arc<Newest>,
    limits: Arc<Mutex<Option<policy::Limits>>>,
    stop: Arc<AtomicBool>,
    gate: Arc<Gate>,
    infer: &'a mut dyn Infer,
    /// The run is to end, or a mute has begun: what the model says then is thrown away.
    halt: Halt,
    timer: Timer,
    /// What was measured of voices and faces.
    ledger: Box<Ledger>,
    policy: Policy,
    numbers: Numbers,
    /// Bits of the wire: what the site has.
    expected: u8,
    beat: Heartbeat,
    beat_due_ms: u64,
    /// A failure of the model was reported and has not passed.
    failing: bool,
    shown: Shown,
    /// Faces and the largest one's track, as they were told last; `None` while nobody has looked.
    people: Option<(u8, u16)>,
    writing: Option<Writing>,
    /// Windows by what the gate let through, and what scoring took.
    passed: Passed,
    scored: u32,
    scored_time: Duration,
    start_ns: Option<u64>,
    end_ns: u64,
    infer_time: Duration,
}

/// A reason that is being written, a token at a time between the windows.
struct Writing {
    episode: u32,
    shown: Shown,
    /// What was measured of that.
    cues: Cues,
    /// The reason before, which had contradicted claims.
    first: Option<Thought>,
}

impl<'a> Core<'a> {
    /// Ends what an earlier run left: `left` are the begins that its sinks told and did not end.
    pub fn new(plan: &'a Plan, links: Links, infer: &'a mut dyn Infer, left: &[Told]) -> Core<'a> {
        let halt = Halt::from([Arc::clone(&links.stop), Arc::clone(links.gate.mute_began())]);
        infer.halt_when(halt.clone());
        let timer = Timer::default();
        if plan.pace != Pace::Fast {
            infer.observe(Some(Box::new(timer.clone())));
        }
        let gives = plan.gives();
        let (numbers, first) = Numbers::new(Kept::new(&plan.state_dir, "numbers.json"));
        // The ends of what was left take the first numbers.
        let seq = first.wrapping_add(left.len() as u32);
        let mut state = State {
            plan,
            exits: links.exits,
            status: links.status,
            newest: links.newest,
            limits: links.limits,
            stop: links.stop,
            gate: links.gate,
            infer,
            halt,
            timer,
            ledger: Box::default(),
            policy: Policy::new(plan.policy.clone(), plan.speaker.labels.len(), seq),
            numbers,
            expected: u8::from(gives.video) * VIDEO + u8::from(gives.audio) * AUDIO,
            beat: Heartbeat { label: NO_LABEL, ..Heartbeat::default() },
            beat_due_ms: u64::from(plan.daemon.heartbeat_ms),
            failing: false,
            shown: Shown::default(),
            people: None,
            writing: None,
            passed: Passed::default(),
            scored: 0,
            scored_time: Duration::ZERO,
            start_ns: None,
            end_ns: 0,
            infer_time: Duration::ZERO,
        };
        state.end_left(left, first);
        Core { plan, pool: links.pool, windows: None, state }
    }

    /// Takes readings until the recording is over or the run is stopped; what holds then is ended.
    pub fn attend(&mut self, readings: &Inbox) -> Result<()> {
        let mut left = self.plan.gives();
        let (cause, outcome) = loop {
            if self.state.stop.load(Ordering::Acquire) {
                break (Cause::Shutdown, Ok(()));
            }
            // A mute that is over already counts as well.
            let muted = self.state.gate.muted();
            if self.state.gate.mute_began().load(Ordering::Acquire) {
                self.state.give_reason_up();
                self.state.close(Cause::Muted);
                self.forget(readings);
                continue;
            }
            let wait = if self.state.writing.is_some() { Duration::ZERO } else { WAIT };
            let (reading, facts) = match readings.pop(wait) {
                Popped::Item(Item::Reading(reading, facts)) => (reading, facts),
                Popped::Item(Item::Failed(error)) => break (Cause::InputEnd, Err(error)),
                Popped::Empty => match self.state.write_on() {
                    Ok(()) => continue,
                    Err(error) => break (Cause::Shutdown, Err(error)),
                },
                Popped::Closed => break (Cause::Shutdown, Ok(())),
            };
            left.heed(&reading);
            if muted {
                self.pool.give(reading);
            } else {
                self.state.ledger.push(&facts);
                if let Err(error) = self.push(reading) {
                    break (Cause::Shutdown, Err(error));
                }
            }
            if left.nothing() {
                break (Cause::InputEnd, self.state.write_to_the_end());
            }
        };
        self.state.close(cause);
        self.windows = None;
        self.state.numbers.close(self.state.policy.next_seq());
        outcome
    }

    /// Overwrites what was seen and heard: in windows, in what waits, in spare buffers, and in the model, which is shown grey and
    /// silence instead.
    fn forget(&mut self, readings: &Inbox) {
        self.windows = None;
        *self.state.ledger = Ledger::default();
        readings.forget();
        self.pool.wipe();
        self.state.gate.mute_began().store(false, Ordering::Release);
        if let Err(error) = rehearsal::rehearse(self.state.plan, self.state.infer, true) {
            log::error!("the model was not shown a grey window after the mute: {error:#}");
        }
    }

    fn push(&mut self, reading: Reading) -> Result<()> {
        let windows = match &mut self.windows {
            Some(windows) => windows,
            none => {
                let plan = self.plan;
                let windows = Windows::new(plan.window, plan.frames, plan.gives(), self.pool.clone())?;
                none.insert(windows.fit_to(plan.side))
            }
        };
        let state = &mut self.state;
        windows.push(reading, |window| state.see(window))
    }

    pub fn summary(&self, took: Duration) -> Summary {
        let state = &self.state;
        Summary {
            windows: state.beat.windows,
            late: state.beat.late,
            events: state.beat.events,
            media: Duration::from_nanos(state.end_ns - state.start_ns.unwrap_or(state.end_ns)),
            took,
            infer: state.infer_time,
            ..Summary::default()
        }
    }
}

impl State<'_> {
    /// One window: scores, events, and perhaps a reason. A window whose successor is due as well is late and left out. Fails when the
    /// device of the model is lost.
    fn see(&mut self, window: &Window<'_>) -> Result<()> {
        let plan = self.plan;
        let lateness_ns = u64::from(plan.window.lateness_ms) * NS_PER_MS;
        if plan.pace != Pace::Fast && self.newest.passed(window.end_ns + plan.hop_ns(), lateness_ns) {
            self.beat.late += 1;
            self.status.set_beat(self.beat);
            return Ok(());
        }
        self.take_limits();
        self.start_ns.get_or_insert(window.start_ns);
        self.end_ns = window.end_ns;
        let at_ms = window.end_ns / NS_PER_MS;
        let who = self.ledger.presence(window.start_ns, window.end_ns);
        let (input, nobody) = self.gated(window, who);
        let present = u8::from(input.frames.is_some()) * VIDEO + u8::from(input.samples.is_some()) * AUDIO;

        self.status.set_busy(true);
        self.timer.take();
        let started = Instant::now();
        let scores = if self.policy.serves(present) { self.score(&input)? } else { None };
        if scores.is_some() {
            let (start_ns, end_ns, people) = (window.start_ns, window.end_ns, who.people);
            self.shown = Shown { start_ns, end_ns, present, people };
        }
        let took = self.note_time(started);
        self.count(nobody, present, scores.is_some(), took);
        self.status.set_stages(self.timer.take());
        // What a halted model says means nothing, and nothing is told of a window that a mute came upon.
        if self.gate.muted() || self.halt.raised() {
            self.status.set_busy(false);
            return Ok(());
        }
        self.beat.windows += 1;
        if let Some(scores) = &scores {
            log::debug!("window at_ms={at_ms} present={present} scores={scores:?}");
        }
        let events = self.policy.push(&Observation {
            at_ms,
            window_ms: plan.window.window_ms,
            expected: self.expected,
            present,
            nobody,
            scores: scores.as_deref(),
        });
        if who.face.is_some() {
            self.tell_people(at_ms, who.people, who.track);
        }
        self.tell_scores(at_ms, present, nobody, scores.as_deref().unwrap_or_default());
        let began = events.iter().find(|event| event.kind == Kind::Begin).map(|event| event.episode);
        for event in events {
            self.tell(event);
        }
        self.status.set_beat(self.beat);
        if self
            .writing
            .as_ref()
            .is_some_and(|writing| self.policy.holds().is_none_or(|(_, now)| now != writing.episode))
        {
            self.cut_reason();
        }
        if let (Some(episode), Explain::OnChange) = (began, plan.model.reason) {
            self.explain(episode, None)?;
        } else if plan.pace != Pace::Fast && self.newest.passed(window.end_ns + plan.hop_ns(), 0) {
            self.write_for(took)?;
        }
        self.status.set_busy(false);
        self.beat_in_time(at_ms);
        Ok(())
    }

    /// What the model is shown of a window: with a gate, the modality in which somebody is there. True: nobody is.
    fn gated<'w>(&self, window: &'w Window<'w>, who: Presence) -> (Input<'w>, bool) {
        let (mut frames, mut samples) = (window.frames(), window.samples());
        let had = frames.is_some() || samples.is_some();
        if self.plan.gate.is_some() {
            frames = frames.filter(|_| who.face != Some(false));
            samples = samples.filter(|_| who.voice != Some(false));
        }
        let nobody = had && frames.is_none() && samples.is_none();
        (Input { frames, samples, words: None }, nobody)
    }

    fn count(&mut self, nobody: bool, present: u8, scored: bool, took: Duration) {
        if self.plan.gate.is_none() {
            return;
        }
        match (present & VIDEO != 0, present & AUDIO != 0) {
            _ if nobody => self.passed.nobody += 1,
            (true, true) => self.passed.both += 1,
            (true, false) => self.passed.face += 1,
            (false, true) => self.passed.voice += 1,
            (false, false) => {}
        }
        if scored {
            self.scored_time += took;
            self.scored += 1;
        }
        self.passed.saved = self.scored_time / self.scored.max(1) * self.passed.nobody;
        self.status.set_gate(self.passed);
    }

    /// Thresholds that came with a new config.
    fn take_limits(&mut self) {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(limits) = limits {
            self.policy.set_limits(limits);
        }
    }

    /// Ends the episodes of an earlier run, numbered from `first`.
    fn end_left(&mut self, left: &[Told], first: u32) {
        let at_ms = self.now_ms();
        let system_boot = machine::system_boot();
        for (told, seq) in left.iter().zip(first..) {
            let known = self.plan.speaker.label(told.begin.label).is_some();
            let label = if known { told.begin.label } else { NO_LABEL };
            let end = told.ended(at_ms, clock::wall(), &system_boot, self.expected);
            self.tell(Event { seq, label, ..end });
        }
    }

    /// Probabilities of the labels, or `None` where the model failed on this window.
    fn score(&mut self, input: &Input<'_>) -> Result<Option<Probabilities>> {
        let result = self
            .infer
            .see(&self.plan.model.prompt, input)
            .and_then(|()| self.infer.score(&self.plan.model.labels))
            .map(|scores| scores.probabilities.as_slice());
        let failure = match result {
            Ok(scores)
                if scores.len() == self.plan.speaker.labels.len() && scores.iter().all(|p| p.is_finite()) =>
            {
                if std::mem::take(&mut self.failing) {
                    log::warn!("the model works again");
                }
                return Ok(Some(scores.iter().copied().collect()));
            }
            Ok(scores) => format!("scores {scores:?} for {} labels", self.plan.speaker.labels.len()),
            Err(error) if error.is::<Lost>() => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        if !self.halt.raised() && !std::mem::replace(&mut self.failing, true) {
            log::error!("the model fails on windows: {failure}");
        }
        Ok(None)
    }

    /// Begins a reason for what the model was shown last; a recording that is played fast waits for it. After a `first` one that had
    /// contradicted claims it is sampled.
    fn explain(&mut self, episode: u32, first: Option<Thought>) -> Result<()> {
        let shown = self.shown;
        let mut cues = self.ledger.cues(shown.start_ns, shown.end_ns);
        if let Some(said) = self.infer.heard() {
            cues.push(ledger::words(said)).ok();
        }
        let started = Instant::now();
        let decoding = match &first {
            Some(first) => Decoding {
                sampling: Some(AGAIN),
                avoid: first.contradictions(),
                ..self.plan.model.decoding()
            },
            None => self.plan.model.decoding(),
        };
        let asked = match self.plan.cues.ground {
            Ground::AskAgain => self.infer.set_decoding(decoding),
            _ => Ok(()),
        }
        .and_then(|()| self.infer.ask(&self.plan.model.reason_prompt));
        self.infer_time += started.elapsed();
        let writing = Writing { episode, shown, cues, first };
        match asked {
            Ok(()) => self.writing = Some(writing),
            Err(error) => return self.without_reason(writing, error),
        }
        match self.plan.pace {
            Pace::Fast => self.write_to_the_end(),
            // The first token comes from the prompt's last row, which another window would write over.
            Pace::Live | Pace::Paced => self.write_on(),
        }
    }

    /// The next token of the reason in the making, where there is one.
    fn write_on(&mut self) -> Result<()> {
        if self.writing.is_none() {
            return Ok(());
        }
        self.status.set_busy(true);
        let started = Instant::now();
        let said = self.infer.reason_on(&mut |_| {});
        self.infer_time += started.elapsed();
        self.status.set_busy(false);
        if matches!(said, Ok(None)) && !self.halt.raised() {
            return Ok(());
        }
        let Some(writing) = self.writing.take() else { return Ok(()) };
        match said {
            _ if self.halt.raised() => Ok(()),
            Ok(Some(said)) => self.finish(writing, said),
            Ok(None) => Ok(()),
            Err(error) => self.without_reason(writing, error),
        }
    }

    /// A machine that is behind always has a window to score: the reason gets as much time as the last one took.
    fn write_for(&mut self, time: Duration) -> Result<()> {
        let started = Instant::now();
        while self.writing.is_some() && started.elapsed() < time && !self.halt.raised() {
            self.write_on()?;
        }
        Ok(())
    }

    fn write_to_the_end(&mut self) -> Result<()> {
        while self.writing.is_some() {
            self.write_on()?;
        }
        Ok(())
    }

    /// The label is gone that the reason in the making is about.
    fn cut_reason(&mut self) {
        if let (Some(writing), Some(said)) = (self.writing.take(), self.infer.cut_reason()) {
            let Writing { episode, shown, cues, first } = writing;
            let mut cut = Thought::of(said, shown, &cues, self.plan);
            cut.cut = true;
            // A whole reason is worth more than half of another.
            self.tell_reason(episode, first.unwrap_or(cut));
        }
    }

    fn give_reason_up(&mut self) {
        self.writing = None;
        self.infer.cut_reason();
    }

    /// A reason is whole: it is told, or asked for once more where a claim of it is contradicted and the config says so.
    fn finish(&mut self, writing: Writing, said: Reason) -> Result<()> {
        let Writing { episode, shown, cues, first } = writing;
        let thought = Thought::of(said, shown, &cues, self.plan);
        match first {
            None if thought.contradicted() && self.plan.cues.ground == Ground::AskAgain => {
                return self.explain(episode, Some(thought));
            }
            Some(first) if !thought.better_than(&first) => self.tell_reason(episode, first),
            _ => self.tell_reason(episode, thought),
        }
        Ok(())
    }

    fn tell_reason(&self, episode: u32, thought: Thought) {
        self.exits.send(&Message::Reason(Arc::new(thought.reason(episode))));
    }

    fn without_reason(&mut self, writing: Writing, error: anyhow::Error) -> Result<()> {
        self.writing = None;
        let Writing { episode, first, .. } = writing;
        if let Some(first) = first {
            self.tell_reason(episode, first);
        }
        if error.is::<Lost>() {
            return Err(error);
        }
        log::error!("no reason for episode {episode}: {error:#}");
        Ok(())
    }

    fn note_time(&mut self, started: Instant) -> Duration {
        let took = started.elapsed();
        self.infer_time += took;
        if self.plan.pace != Pace::Fast {
            self.beat.infer_ms = took.as_millis() as u32;
        }
        took
    }

    /// Faces that are there, where that has changed.
    fn tell_people(&mut self, at_ms: u64, count: u8, track: u16) {
        if self.people.replace((count, track)) != Some((count, track)) {
            self.exits.send(&Message::People(People { at_ms, count, track }));
        }
    }

    fn tell_scores(&self, at_ms: u64, present: u8, nobody: bool, plain: &[f32]) {
        let mut scores = sink::WindowScores {
            at_ms,
            expected: self.expected,
            present,
            nobody,
            labels: plain.len(),
            plain: [0.0; LABELS_MAX],
            smoothed: [0.0; LABELS_MAX],
        };
        scores.plain[..plain.len()].copy_from_slice(plain);
        scores.smoothed[..plain.len()].copy_from_slice(&self.policy.smoothed()[..plain.len()]);
        self.exits.send(&Message::Scores(scores));
    }

    /// Stamps an event and sends it to every sink.
    fn tell(&mut self, mut event: Event) {
        if self.plan.pace == Pace::Live {
            let wall = clock::wall();
            let age_ms = (monotonic_ns() / NS_PER_MS).saturating_sub(event.at_ms);
            event.age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
            event.wall_ms = wall.ms.saturating_sub(age_ms);
            event.wall_synced = u8::from(wall.synced);
        }
        self.exits.send(&Message::Event(event));
        self.beat.events += 1;
        self.numbers.reach(self.policy.next_seq());
        let holds = self.policy.holds();
        self.beat.label = holds.map_or(NO_LABEL, |(label, _)| label);
        self.beat.episode = holds.map_or(0, |(_, episode)| episode);
    }

    /// Ends what holds; nobody is watched any more.
    fn close(&mut self, cause: Cause) {
        let at_ms = self.now_ms();
        if self.people.is_some() {
            self.tell_people(at_ms, 0, 0);
        }
        for event in self.policy.close(at_ms, cause) {
            self.tell(event);
        }
        self.status.set_beat(self.beat);
    }

    /// Now on the clock of the readings.
    fn now_ms(&self) -> u64 {
        match self.plan.pace {
            Pace::Live => monotonic_ns() / NS_PER_MS,
            Pace::Paced | Pace::Fast => self.end_ns / NS_PER_MS,
        }
    }

    /// Recordings that are played fast have their heartbeats at the recording's own time.
    fn beat_in_time(&mut self, at_ms: u64) {
        if self.plan.pace != Pace::Fast || at_ms < self.beat_due_ms {
            return;
        }
        let step_ms = u64::from(self.plan.daemon.heartbeat_ms);
        self.beat_due_ms = (at_ms / step_ms + 1) * step_ms;
        let health = |bit: u8| if self.expected & bit != 0 { Health::Ok } else { Health::Off };
        let beat = Heartbeat { uptime_ms: at_ms, video: health(VIDEO), audio: health(AUDIO), ..self.beat };
        self.exits.send(&Message::Heartbeat(beat));
    }
}
