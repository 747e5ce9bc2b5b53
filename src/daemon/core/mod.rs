//! The thread that owns window, model and policy: readings in, messages out.

mod explain;

use super::{
    beside::Beside,
    exits::Exits,
    inbox::{Inbox, Item},
    newest::Newest,
    numbers::Numbers,
    others::Others,
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
        ledger::{Cues, Ledger, Presence, Tracks},
    },
    kept::Kept,
    machine,
    model::{
        Infer, Input,
        follow::{self, Follower},
    },
    policy::{self, Observation, Policy},
    privacy::Gate,
    sink::{self, Message, clock, ledger::Told, snapshot::Passed},
    source::{Frame, Pool, Reading, monotonic_ns},
    window::{Part, Window, Windows},
    wire::{
        self, AUDIO, Cause, Event, Face, Faces, Health, Heartbeat, Kind, LABELS_MAX, NO_LABEL, People, VIDEO,
    },
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
/// A place whose temperature is so many times the bundle's is unlike its clips.
const UNLIKE: f64 = 1.5;

type Probabilities = heapless::Vec<f32, LABELS_MAX>;

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
    /// How far scores are believed here.
    followers: Option<[Follower; 3]>,
    /// That scores are believed less here was said.
    told_unlike: bool,
    /// A failure of the model was reported and has not passed.
    failing: bool,
    shown: Shown,
    /// Faces and the largest one's track, as they were told last; `None` while nobody has looked.
    people: Option<(u8, u16)>,
    /// The faces beside it, where each is scored, and what was told last of all of them.
    others: Option<Others>,
    faces: heapless::Vec<Face, { wire::FACES_MAX }>,
    beside: Beside,
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
            followers: plan.followers,
            told_unlike: false,
            failing: false,
            shown: Shown::default(),
            people: None,
            others: plan.scores_each().then(|| Others::new(plan.policy.clone(), plan.speaker.labels.len())),
            faces: heapless::Vec::new(),
            beside: Beside::default(),
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
                if let Err(error) = self.push(reading, &facts.parts) {
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
        self.state.followers.iter_mut().flatten().for_each(Follower::forget);
        readings.forget();
        self.pool.wipe();
        self.state.gate.mute_began().store(false, Ordering::Release);
        if let Err(error) = rehearsal::rehearse(self.state.plan, self.state.infer, true) {
            log::error!("the model was not shown a grey window after the mute: {error:#}");
        }
    }

    fn push(&mut self, reading: Reading, parts: &[Part]) -> Result<()> {
        let windows = match &mut self.windows {
            Some(windows) => windows,
            none => {
                let plan = self.plan;
                let windows = Windows::new(plan.window, plan.frames, plan.gives(), self.pool.clone())?;
                let windows = windows.fit_to(plan.side);
                none.insert(if plan.scores_each() { windows.with_parts() } else { windows })
            }
        };
        let state = &mut self.state;
        windows.push_with(reading, parts, |window| state.see(window))
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
        let largest = window.frames_of(who.tracks[0]);
        let (input, nobody) = self.gated(window, &largest, who);
        let present = u8::from(input.frames.is_some()) * VIDEO + u8::from(input.samples.is_some()) * AUDIO;

        self.status.set_busy(true);
        self.timer.take();
        let started = Instant::now();
        let scores = if self.policy.serves(present) { self.score(&input)? } else { None };
        if scores.is_some() {
            let (start_ns, end_ns, people) = (window.start_ns, window.end_ns, who.people());
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
            self.tell_people(at_ms, who.people(), who.tracks[0]);
        }
        self.tell_scores(at_ms, present, nobody, scores.as_deref().unwrap_or_default());
        let began = events.iter().find(|event| event.kind == Kind::Begin).map(|event| event.episode);
        for event in events {
            self.tell(event);
        }
        self.tell_second(at_ms);
        self.status.set_beat(self.beat);
        self.cut_old_reason();
        if let (Some(episode), Explain::OnChange) = (began, plan.model.reason) {
            self.explain(episode, None)?;
        } else if plan.pace != Pace::Fast && self.newest.passed(window.end_ns + plan.hop_ns(), 0) {
            self.write_for(took)?;
        }
        self.see_others(window, who)?;
        self.status.set_busy(false);
        self.beat_in_time(at_ms);
        Ok(())
    }

    fn see_others(&mut self, window: &Window<'_>, who: Presence) -> Result<()> {
        self.score_others(window, who)?;
        self.tell_faces(window.end_ns / NS_PER_MS, &who.tracks);
        Ok(())
    }

    /// The other faces of a window, one after the other, until the next window is due. Not while a reason is written that may be asked
    /// for once more: that is about what the model was shown last.
    fn score_others(&mut self, window: &Window<'_>, who: Presence) -> Result<()> {
        let Some(others) = &mut self.others else { return Ok(()) };
        let turns = others.turns(&who.tracks);
        if self.writing.is_some() && self.plan.cues.ground == Ground::AskAgain {
            return Ok(());
        }
        for track in turns {
            let late = || self.newest.passed(window.end_ns + self.plan.hop_ns(), 0);
            if self.halt.raised() || (self.plan.pace != Pace::Fast && late()) {
                return Ok(());
            }
            let frames = window.frames_of(track);
            if frames.is_empty() {
                continue;
            }
            let started = Instant::now();
            let scores = self.score(&Input { frames: Some(&frames), samples: None, words: None })?;
            self.infer_time += started.elapsed();
            if self.gate.muted() || self.halt.raised() {
                return Ok(());
            }
            let seen = Observation {
                at_ms: window.end_ns / NS_PER_MS,
                window_ms: self.plan.window.window_ms,
                expected: VIDEO,
                present: VIDEO,
                nobody: false,
                scores: scores.as_deref(),
            };
            self.others.iter_mut().for_each(|others| others.push(track, &seen));
        }
        Ok(())
    }

    /// What the model is shown of a window: the largest face where it was cut out, and with a gate the modality in which somebody is
    /// there. True: nobody is.
    fn gated<'w>(
        &self,
        window: &'w Window<'w>,
        largest: &'w [(u64, &'w Frame)],
        who: Presence,
    ) -> (Input<'w>, bool) {
        let whole = window.frames();
        let mut frames = whole.map(|whole| if largest.is_empty() { whole } else { largest });
        let mut samples = window.samples();
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
            self.others.iter_mut().for_each(|others| others.set_limits(limits.clone()));
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

    /// Probabilities of the labels as far as they are believed here, or `None` where the model failed on this window.
    fn score(&mut self, input: &Input<'_>) -> Result<Option<Probabilities>> {
        let mut scores = self.score_plain(input)?;
        let kind = follow::kind(input.frames.is_some(), input.samples.is_some());
        if let (Some(followers), Some(scores), Some(kind), false) =
            (&mut self.followers, &mut scores, kind, self.halt.raised())
        {
            followers[kind].temper(scores);
            let times = followers.iter().map(Follower::unlike).fold(1.0, f64::max);
            self.status.set_unlike(times);
            if times >= UNLIKE && !std::mem::replace(&mut self.told_unlike, true) {
                log::warn!(
                    "labels lie closer together here than on the clips that the bundle was calibrated on: scores are believed less, at \
                     {times:.1} times its temperature"
                );
            }
        }
        Ok(scores)
    }

    /// At the temperature of the bundle.
    fn score_plain(&mut self, input: &Input<'_>) -> Result<Option<Probabilities>> {
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

    /// What every face shows, where that has changed: who is there, a label, or a label's confidence by as much as is worth a change.
    fn tell_faces(&mut self, at_ms: u64, tracks: &Tracks) {
        let Some(others) = &self.others else { return };
        let faces = others.faces(tracks, &self.policy);
        let step = (self.policy.limits().change * 1000.0) as u16;
        let moved = |(now, told): (&Face, &Face)| {
            let by = now.confidence_permille.abs_diff(told.confidence_permille);
            (now.track, now.label) != (told.track, told.label) || (step > 0 && by >= step)
        };
        if faces.len() != self.faces.len() || faces.iter().zip(&self.faces).any(moved) {
            self.faces = faces.clone();
            self.exits.send(&Message::Faces(Faces { at_ms, faces }));
        }
    }

    fn tell_second(&mut self, at_ms: u64) {
        if let Some(second) = self.beside.news(at_ms, &self.policy) {
            self.exits.send(&Message::Second(second));
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
        self.others.iter_mut().for_each(Others::forget);
        self.tell_faces(at_ms, &Tracks::default());
        for event in self.policy.close(at_ms, cause) {
            self.tell(event);
        }
        self.tell_second(at_ms);
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
