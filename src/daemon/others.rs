//! The faces beside the one that events are about: each has a policy of its own, and is scored as often as time allows.

use crate::{
    cues::{self, ledger::Tracks},
    policy::{Limits, Observation, Policy},
    wire::{Face, NO_LABEL},
};

/// Faces beside the first.
const OTHERS_MAX: usize = cues::net::FACES_MAX - 1;

/// Numbers of faces, of which one comes after the other.
pub type Turns = heapless::Vec<u16, OTHERS_MAX>;

pub struct Others {
    limits: Limits,
    labels: usize,
    known: heapless::Vec<Other, OTHERS_MAX>,
}

struct Other {
    track: u16,
    policy: Policy,
    /// End of the window in which it was scored last.
    scored_ms: u64,
}

impl Others {
    pub fn new(limits: Limits, labels: usize) -> Others {
        Others { limits, labels, known: heapless::Vec::new() }
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.known.iter_mut().for_each(|other| other.policy.set_limits(limits.clone()));
        self.limits = limits;
    }

    /// Who is there now beside the first; what was known of anybody else is dropped. Who has waited longest comes first, then who is
    /// larger.
    pub fn turns(&mut self, tracks: &Tracks) -> Turns {
        let there = || tracks.iter().skip(1).copied().filter(|&track| track != 0);
        self.known.retain(|other| there().any(|track| track == other.track));
        for track in there() {
            if self.known.iter().all(|other| other.track != track) {
                let policy = Policy::new(self.limits.clone(), self.labels, 0);
                self.known.push(Other { track, policy, scored_ms: 0 }).ok();
            }
        }
        let mut turns: Turns = there().collect();
        turns.sort_by_key(|&track| self.of(track).map_or(0, |other| other.scored_ms));
        turns
    }

    /// A window of one of them.
    pub fn push(&mut self, track: u16, seen: &Observation<'_>) {
        if let Some(other) = self.known.iter_mut().find(|other| other.track == track) {
            other.policy.push(seen);
            other.scored_ms = seen.at_ms;
        }
    }

    /// What every face shows: the first by `policy`, the others by their own.
    pub fn faces(&self, tracks: &Tracks, policy: &Policy) -> heapless::Vec<Face, { crate::wire::FACES_MAX }> {
        let first = tracks.iter().take(1).map(|&track| (track, Some(policy)));
        let others = tracks.iter().skip(1).map(|&track| (track, self.of(track).map(|other| &other.policy)));
        let there = first.chain(others).filter(|(track, _)| *track != 0);
        there.map(|(track, policy)| face(track, policy)).collect()
    }

    pub fn forget(&mut self) {
        self.known.clear();
    }

    fn of(&self, track: u16) -> Option<&Other> {
        self.known.iter().find(|other| other.track == track)
    }
}

fn face(track: u16, policy: Option<&Policy>) -> Face {
    let holds = policy.and_then(|policy| Some((policy.holds()?.0, policy.smoothed())));
    match holds {
        Some((label, smoothed)) => {
            let confidence_permille = (smoothed[usize::from(label)] * 1000.0).round() as u16;
            Face { track, label, confidence_permille }
        }
        None => Face { track, label: NO_LABEL, confidence_permille: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::VIDEO;

    fn seen(at_ms: u64, scores: &[f32]) -> Observation<'_> {
        let (expected, present) = (VIDEO, VIDEO);
        Observation { at_ms, window_ms: 1_000, expected, present, nobody: false, scores: Some(scores) }
    }

    #[test]
    fn who_has_waited_longest_comes_first_and_who_left_is_forgotten() {
        let limits = Limits { dwell_ms: 0, ..Limits::default() };
        let mut others = Others::new(limits.clone(), 2);
        let first = Policy::new(limits, 2, 0);
        assert_eq!(others.turns(&[1, 2, 3, 0])[..], [2, 3]);
        others.push(2, &seen(1_000, &[0.1, 0.9]));
        assert_eq!(others.turns(&[1, 2, 3, 4])[..], [3, 4, 2]);
        let face = |track, label, confidence_permille| Face { track, label, confidence_permille };
        assert_eq!(
            others.faces(&[1, 2, 3, 0], &first)[..],
            [face(1, NO_LABEL, 0), face(2, 1, 900), face(3, NO_LABEL, 0)]
        );
        assert!(others.turns(&[1, 0, 0, 0]).is_empty());
        others.turns(&[1, 2, 0, 0]);
        assert_eq!(
            others.faces(&[1, 2, 0, 0], &first)[1],
            face(2, NO_LABEL, 0),
            "who comes back begins anew"
        );
    }
}
