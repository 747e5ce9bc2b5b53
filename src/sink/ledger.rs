//! What a receiver has been told: every begin that reached it is followed by exactly one end, over losses and restarts.
//!
//! A sink pushes each event, sends what is [`Ledger::due`] and says how that went. What cannot be sent is owed: after a loss the
//! receiver gets the end of what it has begun, then the begin of what holds now. What began and ended meanwhile is dropped as a
//! pair. What was told is kept in a file, so that a daemon that died has its last episode ended by its successor: just before a
//! begin is sent it is noted as `Sending`, afterwards as `Told`. A successor that finds `Sending` cannot know whether the begin
//! arrived, and sends the same begin once more before its end.
//!
//! Pure but for that file.

use super::clock::Wall;
use crate::{
    kept::{Durable, Kept},
    machine,
    wire::{Cause, Event, Kind},
};
use serde::{Deserialize, Serialize};

/// A begin that a receiver has, or may have, as the file keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The daemon's boot that told it, and the machine's: the latter names the monotonic clock of the event.
    pub boot: u64,
    pub system_boot: String,
    pub begin: Event,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Sending,
    Told,
}

pub struct Ledger {
    kept: Kept,
    boot: u64,
    /// What a predecessor told and did not end.
    left: Option<Told>,
    /// The begin that the receiver has and whose end it has not.
    told: Option<(Event, Phase)>,
    end: Option<Event>,
    /// The begin of what holds, or that nothing is known.
    now: Option<Event>,
    change: Option<Event>,
}

impl Ledger {
    pub fn new(mut kept: Kept, boot: u64) -> Ledger {
        let left: Option<Told> = kept.load();
        let told = left.as_ref().map(|left| (left.begin, left.phase));
        Ledger { kept, boot, left, told, end: None, now: None, change: None }
    }

    /// What a predecessor told and did not end.
    pub fn left(&self) -> Option<&Told> {
        self.left.as_ref()
    }

    /// Takes an event; returns how many events will not be sent because of it.
    pub fn push(&mut self, event: Event) -> u64 {
        let given_up = |owed: Option<Event>| u64::from(owed.is_some());
        let holds = self.now.filter(|now| now.kind == Kind::Begin);
        match event.kind {
            Kind::Begin | Kind::Unknown => given_up(self.now.replace(event)),
            Kind::End if holds.is_some_and(|begin| begin.episode == event.episode) => {
                self.now = None;
                2
            }
            Kind::End if self.has_told(event.episode) => {
                self.end = Some(event);
                given_up(self.change.take())
            }
            Kind::Change if self.has_told(event.episode) => given_up(self.change.replace(event)),
            Kind::End | Kind::Change | Kind::Other => 1,
        }
    }

    /// What is to be sent next.
    pub fn due(&self) -> Option<Event> {
        let unsure = self.told.filter(|(_, phase)| *phase == Phase::Sending && self.end.is_some());
        unsure.map(|(begin, _)| begin).or(self.change).or(self.end).or(self.now)
    }

    /// Notes that a due event is about to be sent.
    pub fn sending(&mut self, event: &Event) {
        if event.kind == Kind::Begin && !self.has_told(event.episode) {
            self.note(*event, Phase::Sending, Durable::Process);
        }
    }

    /// A due event has been sent.
    pub fn sent(&mut self, event: &Event) {
        match event.kind {
            Kind::Begin if self.now == Some(*event) => {
                self.now = None;
                self.note(*event, Phase::Told, Durable::Power);
            }
            Kind::Begin => self.told = Some((*event, Phase::Told)),
            Kind::End => {
                (self.end, self.told, self.left) = (None, None, None);
                self.kept.clear();
            }
            Kind::Change => self.change = None,
            Kind::Unknown | Kind::Other => self.now = None,
        }
    }

    /// A due event could not be sent; returns how many are given up.
    pub fn failed(&mut self) -> u64 {
        if self.now.is_some() && self.told == self.now.map(|begin| (begin, Phase::Sending)) {
            self.told = None;
            self.kept.clear();
        }
        u64::from(self.change.take().is_some())
    }

    fn has_told(&self, episode: u32) -> bool {
        self.told.is_some_and(|(begin, _)| begin.episode == episode)
    }

    fn note(&mut self, begin: Event, phase: Phase, durable: Durable) {
        self.told = Some((begin, phase));
        if self.kept.keeps() {
            let told = Told { boot: self.boot, system_boot: machine::system_boot(), begin, phase };
            self.kept.store(&told, durable);
        }
    }
}

impl Told {
    pub fn new(boot: u64, system_boot: &str, begin: Event) -> Told {
        Told { boot, system_boot: system_boot.into(), begin, phase: Phase::Told }
    }

    /// The end of a predecessor's episode. `begin_ms` counts on the clock of now, modulo 2^64, so that `at_ms - begin_ms` is how
    /// long the episode lasted also where it began before this machine was started; it is `at_ms` where nobody can tell.
    pub fn ended(&self, at_ms: u64, wall: Wall, system_boot: &str, expected: u8) -> Event {
        let begin = &self.begin;
        let same_clock = !system_boot.is_empty() && system_boot == self.system_boot;
        let lasted_ms = match (same_clock, begin.wall_ms) {
            (true, _) => at_ms.saturating_sub(begin.begin_ms),
            (false, 0) => 0,
            (false, wall_ms) => wall.ms.saturating_sub(wall_ms),
        };
        Event {
            seq: 0,
            kind: Kind::End,
            confidence_permille: 0,
            expected,
            present: 0,
            cause: Cause::Restart,
            at_ms,
            begin_ms: at_ms.wrapping_sub(lasted_ms),
            wall_ms: 0,
            wall_synced: 0,
            age_ms: 0,
            ..*begin
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::NO_LABEL;
    use std::path::Path;

    fn event(kind: Kind, episode: u32) -> Event {
        Event {
            seq: episode,
            episode,
            kind,
            label: if kind == Kind::Unknown { NO_LABEL } else { 1 },
            confidence_permille: 700,
            track: 0,
            expected: 3,
            present: 3,
            cause: Cause::None,
            at_ms: 1_000,
            begin_ms: 1_000,
            window_ms: 4_000,
            wall_ms: 50_000,
            wall_synced: 1,
            age_ms: 0,
        }
    }

    /// Sends all that is due; `line` says whether it takes an event.
    fn settle(ledger: &mut Ledger, mut line: impl FnMut() -> bool) -> Vec<(Kind, u32)> {
        let mut sent = Vec::new();
        while let Some(event) = ledger.due() {
            ledger.sending(&event);
            if !line() {
                ledger.failed();
                break;
            }
            ledger.sent(&event);
            sent.push((event.kind, event.episode));
        }
        sent
    }

    fn fresh(folder: &Path) -> Ledger {
        Ledger::new(Kept::new(folder, "line.json"), 9)
    }

    #[test]
    fn after_a_loss_the_end_that_is_owed_comes_before_the_begin_that_holds() {
        let mut ledger = fresh(Path::new(""));
        ledger.push(event(Kind::Begin, 1));
        assert_eq!(settle(&mut ledger, || true), [(Kind::Begin, 1)]);
        for (kind, episode) in [
            (Kind::Change, 1),
            (Kind::End, 1),
            (Kind::Begin, 2),
            (Kind::End, 2),
            (Kind::Unknown, 3),
            (Kind::Begin, 4),
        ] {
            ledger.push(event(kind, episode));
            assert_eq!(settle(&mut ledger, || false), []);
        }
        assert_eq!(settle(&mut ledger, || true), [(Kind::End, 1), (Kind::Begin, 4)]);
        ledger.push(event(Kind::End, 4));
        assert_eq!(settle(&mut ledger, || true), [(Kind::End, 4)]);
        assert_eq!(ledger.push(event(Kind::End, 4)), 1, "an end is told once");
    }

    #[test]
    fn dropped_events_are_counted() {
        let mut ledger = fresh(Path::new(""));
        assert_eq!(ledger.push(event(Kind::Begin, 1)), 0);
        assert_eq!(ledger.push(event(Kind::End, 1)), 2);
        assert_eq!(ledger.push(event(Kind::Unknown, 2)), 0);
        assert_eq!(ledger.push(event(Kind::Begin, 3)), 1);
        assert_eq!(settle(&mut ledger, || true), [(Kind::Begin, 3)]);
        assert_eq!(ledger.push(event(Kind::Change, 3)), 0);
        assert_eq!(ledger.failed(), 1);
        assert_eq!(settle(&mut ledger, || true), []);
    }

    #[test]
    fn a_successor_ends_what_was_told_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = fresh(folder.path());
        first.push(event(Kind::Begin, 1));
        settle(&mut first, || true);
        drop(first);

        let mut second = fresh(folder.path());
        let end =
            second.left().unwrap().ended(9_000, Wall { ms: 0, synced: false }, &machine::system_boot(), 3);
        assert_eq!((end.episode, end.at_ms, end.begin_ms, end.cause), (1, 9_000, 1_000, Cause::Restart));
        second.push(end);
        assert_eq!(settle(&mut second, || true), [(Kind::End, 1)]);
        assert!(fresh(folder.path()).left().is_none());
    }

    #[test]
    fn a_begin_that_may_not_have_arrived_is_told_again_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = fresh(folder.path());
        first.push(event(Kind::Begin, 1));
        first.sending(&event(Kind::Begin, 1));
        drop(first);
        let mut second = fresh(folder.path());
        second.push(Event { kind: Kind::End, ..event(Kind::Begin, 1) });
        assert_eq!(settle(&mut second, || true), [(Kind::Begin, 1), (Kind::End, 1)]);
        assert!(fresh(folder.path()).left().is_none());
    }

    #[test]
    fn a_begin_that_was_refused_is_not_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = fresh(folder.path());
        ledger.push(event(Kind::Begin, 1));
        assert_eq!(settle(&mut ledger, || false), []);
        assert!(fresh(folder.path()).left().is_none());
        assert_eq!(settle(&mut ledger, || true), [(Kind::Begin, 1)]);
    }

    #[test]
    fn an_end_over_a_reboot_takes_its_length_from_the_wall_clock() {
        let told = Told::new(4, "another", event(Kind::Begin, 1));
        let end = told.ended(200, Wall { ms: 57_000, synced: true }, "this", 3);
        assert_eq!(end.at_ms.wrapping_sub(end.begin_ms), 7_000);
        let unknown = Told { begin: Event { wall_ms: 0, ..told.begin }, ..told };
        let end = unknown.ended(200, Wall { ms: 57_000, synced: true }, "this", 3);
        assert_eq!(end.begin_ms, end.at_ms);
    }
}
