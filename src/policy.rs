//! Scores, one set per window, to events: few, late enough to be true, early enough to matter.
//!
//! Scores are smoothed by an exponential mean over time. A label begins when its mean stays at or above `enter` and on top for
//! `dwell_ms`; it ends when its mean falls below `exit`, when another label has begun, or when what it needs to be known is
//! missing for `patience_ms`. Between labels the policy says once that nothing is known, and why. Beside a label that holds there may be
//! a second one: the likeliest other whose mean reaches `second`, until it falls below the same share of `second` as `exit` is of `enter`.
//!
//! Shapes: scores are `(labels,)` probabilities that sum to 1.
//! Units: every time is `_ms` of the capture clock and arrives as an argument; this file never asks what time it is.
//! Invariant: for every `Begin` exactly one `End` with its episode, the last one from [`Policy::close`]; `seq` counts by one;
//! `at_ms` never falls; at most one label holds.
//! Limits: at most [`EVENTS_MAX`] events for one window; nothing is allocated after [`Policy::new`].

use crate::wire::{AUDIO, Cause, Event, Kind, NO_LABEL, VIDEO};
use anyhow::{Result, ensure};

/// Events that one window can cause: an end, and a begin or an unknown.
pub const EVENTS_MAX: usize = 2;
pub type Events = heapless::Vec<Event, EVENTS_MAX>;

/// Which modalities a window needs to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    Any,
    Video,
    Audio,
    Both,
}

impl Need {
    /// Whether pictures alone are enough.
    pub fn met_by_pictures(self) -> bool {
        matches!(self, Need::Any | Need::Video)
    }
}

/// Thresholds of behaviour.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Time constant of the mean; 0 takes each window as it is.
    pub smooth_ms: u64,
    pub enter: f32,
    pub exit: f32,
    /// How long a label leads before it begins.
    pub dwell_ms: u64,
    /// How long after its end a label may not begin again.
    pub refractory_ms: u64,
    /// How long a label holds without the modalities it needs.
    pub patience_ms: u64,
    /// Step of confidence that is worth a `Change`; 0 for none.
    pub change: f32,
    /// What another label needs to be told beside the one that holds; 0 tells of none.
    pub second: f32,
    pub need: Need,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            smooth_ms: 2_000,
            enter: 0.55,
            exit: 0.40,
            dwell_ms: 2_000,
            refractory_ms: 3_000,
            patience_ms: 3_000,
            change: 0.20,
            second: 0.0,
            need: Need::Any,
        }
    }
}

impl Limits {
    /// Refuses thresholds that cannot work together, by name.
    pub fn check(&self) -> Result<()> {
        let share = |name: &str, value: f32| {
            ensure!((0.0..=1.0).contains(&value), "policy.{name} = {value}: a probability, from 0 to 1");
            Ok(())
        };
        share("enter", self.enter)?;
        share("exit", self.exit)?;
        share("change", self.change)?;
        share("second", self.second)?;
        ensure!(
            self.exit < self.enter,
            "policy.exit = {} is not below policy.enter = {}: events would begin and end at every window",
            self.exit,
            self.enter
        );
        for (name, value) in [
            ("smooth_ms", self.smooth_ms),
            ("dwell_ms", self.dwell_ms),
            ("refractory_ms", self.refractory_ms),
            ("patience_ms", self.patience_ms),
        ] {
            ensure!(value <= 600_000, "policy.{name} = {value}: at most 600000 (ten minutes)");
        }
        Ok(())
    }
}

/// What one window says.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// End of the window.
    pub at_ms: u64,
    pub window_ms: u32,
    /// Bits of the wire: what the site has, what the window had.
    pub expected: u8,
    pub present: u8,
    /// The window had input, and a gate found nobody in it.
    pub nobody: bool,
    /// `None`: the model gave none for this window.
    pub scores: Option<&'a [f32]>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// `told` is the cause that was last given for knowing nothing.
    Closed {
        told: Option<Cause>,
    },
    Open {
        label: u8,
        episode: u32,
        begin_ms: u64,
        told: f32,
        told_ms: u64,
    },
}

/// The state machine of one track.
pub struct Policy {
    limits: Limits,
    smooth: Vec<f32>,
    /// End of the last window that counted.
    fed_ms: Option<u64>,
    last_ms: Option<u64>,
    started_ms: Option<u64>,
    candidate: Option<(u8, u64)>,
    ended_ms: Vec<Option<u64>>,
    second: Option<u8>,
    state: State,
    seq: u32,
    last: (u32, u8, u8),
}

impl Policy {
    /// `seq` is that of the first event.
    pub fn new(limits: Limits, labels: usize, seq: u32) -> Policy {
        assert!(labels > 0 && labels < usize::from(NO_LABEL), "{labels} labels: 1 to 254");
        Policy {
            limits,
            smooth: vec![0.0; labels],
            fed_ms: None,
            last_ms: None,
            started_ms: None,
            candidate: None,
            ended_ms: vec![None; labels],
            second: None,
            state: State::Closed { told: None },
            seq,
            last: (0, 0, 0),
        }
    }

    /// Replaces the thresholds from the next window on; what holds goes on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Smoothed scores, in the order of the labels; zeros before the first.
    pub fn smoothed(&self) -> &[f32] {
        &self.smooth
    }

    /// Label and episode of what holds now.
    pub fn holds(&self) -> Option<(u8, u32)> {
        match self.state {
            State::Open { label, episode, .. } => Some((label, episode)),
            State::Closed { .. } => None,
        }
    }

    /// What is shown beside the label that holds, and how likely it is.
    pub fn second(&self) -> Option<(u8, f32)> {
        let label = self.second?;
        Some((label, self.smooth[usize::from(label)]))
    }

    /// `seq` of the next event.
    pub fn next_seq(&self) -> u32 {
        self.seq
    }

    /// Whether a window with these modalities is worth scoring.
    pub fn serves(&self, present: u8) -> bool {
        self.missing(present).is_none()
    }

    /// Takes one window. A window that is not later than the last one is dropped.
    pub fn push(&mut self, seen: &Observation<'_>) -> Events {
        let mut events = Events::new();
        if self.last_ms.is_some_and(|last| seen.at_ms <= last) {
            return events;
        }
        self.last_ms = Some(seen.at_ms);
        let started_ms = *self.started_ms.get_or_insert(seen.at_ms);
        self.last = (seen.window_ms, seen.expected, seen.present);

        let missing = match (self.missing(seen.present), seen.scores) {
            (Some(Cause::NoInput), _) if seen.nobody => Some(Cause::Nobody),
            (Some(cause), _) => Some(cause),
            (None, None) => Some(Cause::ModelError),
            (None, Some(_)) => None,
        };
        if let Some(cause) = missing {
            let since_ms = self.fed_ms.unwrap_or(started_ms);
            if seen.at_ms - since_ms >= self.limits.patience_ms {
                self.candidate = None;
                self.fed_ms = None;
                self.smooth.fill(0.0);
                self.started_ms = Some(since_ms);
                self.end(seen.at_ms, cause, &mut events);
                self.unknown(seen.at_ms, cause, &mut events);
            }
            return events;
        }
        let Some(scores) = seen.scores else { return events };
        self.mix(seen.at_ms, scores);
        self.decide(seen.at_ms, &mut events);
        self.second = self.beside();
        events
    }

    /// Ends what holds, for a reason from outside (mute, shutdown, the end of a recording), and forgets what was seen.
    pub fn close(&mut self, at_ms: u64, cause: Cause) -> Events {
        let mut events = Events::new();
        let at_ms = self.last_ms.map_or(at_ms, |last| at_ms.max(last));
        self.last_ms = Some(at_ms);
        self.candidate = None;
        self.fed_ms = None;
        self.started_ms = None;
        self.smooth.fill(0.0);
        self.end(at_ms, cause, &mut events);
        self.unknown(at_ms, cause, &mut events);
        events
    }

    /// What a window lacks that the limits need.
    fn missing(&self, present: u8) -> Option<Cause> {
        let (video, audio) = (present & VIDEO != 0, present & AUDIO != 0);
        match (self.limits.need, video, audio) {
            (_, false, false) => Some(Cause::NoInput),
            (Need::Video | Need::Both, false, _) => Some(Cause::NoVideo),
            (Need::Audio | Need::Both, _, false) => Some(Cause::NoAudio),
            _ => None,
        }
    }

    fn mix(&mut self, at_ms: u64, scores: &[f32]) {
        assert_eq!(scores.len(), self.smooth.len(), "scores of another label set");
        let share = match self.fed_ms {
            Some(fed) if self.limits.smooth_ms > 0 => {
                1.0 - (-((at_ms - fed) as f32) / self.limits.smooth_ms as f32).exp()
            }
            _ => 1.0,
        };
        for (mean, &score) in self.smooth.iter_mut().zip(scores) {
            *mean += share * (score - *mean);
        }
        self.fed_ms = Some(at_ms);
    }

    fn decide(&mut self, at_ms: u64, events: &mut Events) {
        let top = self.top();
        let holds = self.holds().map(|(label, _)| label);
        let wanted = self.smooth[usize::from(top)] >= self.limits.enter && holds != Some(top);
        self.candidate = match self.candidate {
            Some((label, since_ms)) if wanted && label == top => Some((label, since_ms)),
            _ if wanted => Some((top, at_ms)),
            _ => None,
        };
        let ripe = self.candidate.filter(|&(label, since_ms)| {
            at_ms - since_ms >= self.limits.dwell_ms
                && self.ended_ms[usize::from(label)]
                    .is_none_or(|ended| at_ms - ended >= self.limits.refractory_ms)
        });

        if let Some((label, _)) = ripe {
            self.candidate = None;
            self.end(at_ms, Cause::Replaced, events);
            self.begin(at_ms, label, events);
            return;
        }
        match self.state {
            State::Open { label, .. } if self.smooth[usize::from(label)] < self.limits.exit => {
                self.end(at_ms, Cause::Faded, events);
                self.unknown(at_ms, Cause::LowConfidence, events);
            }
            State::Open { .. } => self.change(at_ms, events),
            State::Closed { .. } if self.candidate.is_none() => {
                self.unknown(at_ms, Cause::LowConfidence, events)
            }
            State::Closed { .. } => {}
        }
    }

    /// The likeliest label, the first of equals.
    fn top(&self) -> u8 {
        self.likeliest(None).expect("there is a label")
    }

    /// Leaving one out; `None` where there is no other.
    fn likeliest(&self, without: Option<u8>) -> Option<u8> {
        let others = (0..self.smooth.len() as u8).filter(|&label| Some(label) != without);
        others.reduce(|top, label| {
            if self.smooth[usize::from(label)] > self.smooth[usize::from(top)] { label } else { top }
        })
    }

    /// The second label of what holds now.
    fn beside(&self) -> Option<u8> {
        let (label, _) = self.holds().filter(|_| self.limits.second > 0.0)?;
        let other = self.likeliest(Some(label))?;
        let mean = self.smooth[usize::from(other)];
        let floor = self.limits.second * self.limits.exit / self.limits.enter;
        (mean >= self.limits.second || self.second == Some(other) && mean >= floor).then_some(other)
    }

    fn begin(&mut self, at_ms: u64, label: u8, events: &mut Events) {
        let told = self.smooth[usize::from(label)];
        self.state = State::Open { label, episode: self.seq, begin_ms: at_ms, told, told_ms: at_ms };
        self.say(Kind::Begin, label, told, self.seq, at_ms, at_ms, Cause::None, events);
    }

    fn change(&mut self, at_ms: u64, events: &mut Events) {
        let State::Open { label, episode, begin_ms, told, told_ms } = self.state else { return };
        let now = self.smooth[usize::from(label)];
        let step = self.limits.change;
        if step > 0.0 && (now - told).abs() >= step && at_ms - told_ms >= self.limits.dwell_ms {
            self.state = State::Open { label, episode, begin_ms, told: now, told_ms: at_ms };
            self.say(Kind::Change, label, now, episode, at_ms, begin_ms, Cause::None, events);
        }
    }

    fn end(&mut self, at_ms: u64, cause: Cause, events: &mut Events) {
        let State::Open { label, episode, begin_ms, told, .. } = self.state else { return };
        let mean = self.smooth[usize::from(label)];
        let confidence = if self.fed_ms.is_some() { mean } else { told };
        self.state = State::Closed { told: None };
        self.second = None;
        self.ended_ms[usize::from(label)] = Some(at_ms);
        self.say(Kind::End, label, confidence, episode, at_ms, begin_ms, cause, events);
    }

    fn unknown(&mut self, at_ms: u64, cause: Cause, events: &mut Events) {
        if self.state != (State::Closed { told: Some(cause) }) {
            self.state = State::Closed { told: Some(cause) };
            self.say(Kind::Unknown, NO_LABEL, 0.0, self.seq, at_ms, at_ms, cause, events);
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one line per event reads better than a struct of the same fields"
    )]
    fn say(
        &mut self,
        kind: Kind,
        label: u8,
        confidence: f32,
        episode: u32,
        at_ms: u64,
        begin_ms: u64,
        cause: Cause,
        events: &mut Events,
    ) {
        let (window_ms, expected, present) = self.last;
        let event = Event {
            seq: self.seq,
            episode,
            kind,
            label,
            confidence_permille: (confidence.clamp(0.0, 1.0) * 1000.0).round() as u16,
            track: 0,
            expected,
            present,
            cause,
            at_ms,
            begin_ms,
            window_ms,
            wall_ms: 0,
            wall_synced: 0,
            age_ms: 0,
        };
        self.seq = self.seq.wrapping_add(1);
        events.push(event).expect("a window causes an end and one more event, and there is room for two");
    }
}
