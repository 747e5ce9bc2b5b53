//! Which program is started: a slot that holds what works, one that is on trial, or the package.

use crate::kept::{self, Durable, Kept};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};

/// So often a new image may start without being found good.
pub const TRIES: u8 = 3;

/// What is known of both slots, beside their images.
const FILE: &str = "slots.json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// The name that RAUC has for it.
    pub fn name(self) -> &'static str {
        match self {
            Slot::A => "A",
            Slot::B => "B",
        }
    }

    pub fn named(name: &str) -> Option<Slot> {
        Slot::ALL.into_iter().find(|slot| slot.name() == name)
    }

    pub fn file(self) -> &'static str {
        match self {
            Slot::A => "a.img",
            Slot::B => "b.img",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.name())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    #[default]
    Empty,
    /// It may start so many times more.
    Trial(u8),
    Good,
    Bad,
}

impl Standing {
    pub fn may_start(self) -> bool {
        matches!(self, Standing::Good | Standing::Trial(1..))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Empty => write!(f, "empty"),
            Standing::Trial(0) => write!(f, "did not start in {TRIES} tries"),
            Standing::Trial(left) => write!(f, "on trial, {left} of {TRIES} tries left"),
            Standing::Good => write!(f, "good"),
            Standing::Bad => write!(f, "bad"),
        }
    }
}

/// What is known of both slots. The default is a board that was never updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    first: Slot,
    a: Standing,
    b: Standing,
    /// A device was missing before the update: that it still is, is no fault of the new image.
    #[serde(default)]
    pub was_degraded: bool,
}

impl Default for Slots {
    fn default() -> Slots {
        Slots { first: Slot::A, a: Standing::Empty, b: Standing::Empty, was_degraded: false }
    }
}

impl Slots {
    /// What is stored in this folder. A damaged file is set aside, and the package's program runs.
    pub fn load(store: &Path) -> Slots {
        Kept::new(store, FILE).load().unwrap_or_default()
    }

    /// On the disk before this returns: a power cut loses no count. RAUC relies on it, so what cannot be stored is an error.
    pub fn store(&self, store: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).expect("plain fields are JSON");
        let path = store.join(FILE);
        kept::replace(&path, &text, Durable::Power)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn standing(&self, slot: Slot) -> Standing {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    pub fn set(&mut self, slot: Slot, standing: Standing) {
        match slot {
            Slot::A => self.a = standing,
            Slot::B => self.b = standing,
        }
    }

    /// The slot that the next start takes; `None`: the package's program.
    pub fn chosen(&self) -> Option<Slot> {
        [self.first, self.first.other()].into_iter().find(|&slot| self.standing(slot).may_start())
    }

    /// The next start takes this slot. What was not found good yet is on trial.
    pub fn prefer(&mut self, slot: Slot) {
        self.first = slot;
        self.was_degraded = false;
        if self.standing(slot) != Standing::Good {
            self.set(slot, Standing::Trial(TRIES));
        }
    }

    /// The slot that starts now; one that is on trial has a try less.
    pub fn begin(&mut self) -> Option<Slot> {
        let slot = self.chosen()?;
        if let Standing::Trial(left) = self.standing(slot) {
            self.set(slot, Standing::Trial(left - 1));
        }
        Some(slot)
    }

    /// Leaves this slot for what ran before: the other one where it is good, else the package.
    pub fn leave(&mut self, slot: Slot) {
        let other = slot.other();
        if self.standing(other) == Standing::Good {
            self.first = other;
        } else {
            self.set(slot, Standing::Bad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts until something other than `slot` starts; how often `slot` did.
    fn starts(slots: &mut Slots, slot: Slot) -> usize {
        (0..10).take_while(|_| slots.begin() == Some(slot)).count()
    }

    #[test]
    fn a_board_that_was_never_updated_starts_the_package() {
        let mut slots = Slots::default();
        assert_eq!((slots.chosen(), slots.begin()), (None, None));
        assert_eq!(slots, Slots::default());
    }

    #[test]
    fn a_trial_ends_after_three_starts_and_what_was_good_comes_back() {
        let mut slots = Slots::default();
        slots.prefer(Slot::A);
        assert_eq!(starts(&mut slots, Slot::A), 3);
        assert_eq!(slots.begin(), None, "the package, where no slot was good yet");
        slots.prefer(Slot::A);
        slots.begin();
        slots.set(Slot::A, Standing::Good);
        slots.prefer(Slot::B);
        assert_eq!(starts(&mut slots, Slot::B), 3);
        assert_eq!(slots.begin(), Some(Slot::A));
        assert_eq!(starts(&mut slots, Slot::A), 10, "what is good is not counted");
    }

    #[test]
    fn a_slot_that_is_being_written_never_starts() {
        let mut slots = Slots::default();
        for (target, running) in [(Slot::A, None), (Slot::B, Some(Slot::A)), (Slot::A, Some(Slot::B))] {
            slots.set(target, Standing::Bad);
            assert_eq!(slots.chosen(), running);
            slots.prefer(target);
            assert_eq!(slots.begin(), Some(target));
            slots.set(target, Standing::Good);
        }
    }

    #[test]
    fn leaving_a_slot_goes_back_to_what_ran_before() {
        let mut slots = Slots { a: Standing::Good, ..Slots::default() };
        slots.leave(Slot::A);
        assert_eq!((slots.chosen(), slots.standing(Slot::A)), (None, Standing::Bad));
        let mut slots = Slots { first: Slot::B, a: Standing::Good, b: Standing::Good, ..Slots::default() };
        slots.leave(Slot::B);
        assert_eq!(slots.chosen(), Some(Slot::A));
        slots.prefer(Slot::B);
        assert_eq!(slots.standing(Slot::B), Standing::Good, "forward again, without a trial");
    }

    #[test]
    fn every_state_survives_being_stored_and_damage_means_the_package() {
        let folder = tempfile::tempdir().unwrap();
        for standing in [Standing::Empty, Standing::Trial(2), Standing::Good, Standing::Bad] {
            let slots = Slots { first: Slot::B, b: standing, was_degraded: true, ..Slots::default() };
            slots.store(folder.path()).unwrap();
            assert_eq!(Slots::load(folder.path()), slots);
        }
        assert!(
            Slots::default().store(&folder.path().join("nowhere")).is_err(),
            "what is not stored is no success"
        );
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(Slots::load(folder.path()), Slots::default(), "{cut} bytes");
        }
    }
}
