//! Numbers of events: none comes back, also after a crash, as long as the state directory stays.
//!
//! The file holds a number above every one that may have been used. It is written at the start and again, a block ahead, when the
//! numbers come near it; a daemon that dies leaves at most a block of numbers unused.

use crate::kept::{Durable, Kept};

/// Numbers that are reserved at once.
const BLOCK: u32 = 4_096;

pub struct Numbers {
    kept: Kept,
    below: u32,
}

impl Numbers {
    /// The first number that no earlier run has used, too.
    pub fn new(mut kept: Kept) -> (Numbers, u32) {
        let first = kept.load().unwrap_or(0);
        let mut numbers = Numbers { kept, below: first };
        numbers.reserve(first);
        (numbers, first)
    }

    /// `next` is the number that will be used next.
    pub fn reach(&mut self, next: u32) {
        if self.below.wrapping_sub(next) < BLOCK / 4 {
            self.reserve(next);
        }
    }

    /// Everything below `next` was used and nothing above: a clean end wastes none.
    pub fn close(&mut self, next: u32) {
        self.kept.store(&next, Durable::Power);
    }

    fn reserve(&mut self, next: u32) {
        self.below = next.wrapping_add(BLOCK);
        self.kept.store(&self.below, Durable::Power);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn at(folder: &Path) -> (Numbers, u32) {
        Numbers::new(Kept::new(folder, "numbers.json"))
    }

    #[test]
    fn no_number_comes_back_however_a_run_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut used_below = 0;
        for run in 0..20u32 {
            let (mut numbers, first) = at(folder.path());
            assert!(first >= used_below, "run {run} begins at {first} and {used_below} were used");
            let mut next = first;
            for _ in 0..run * 700 {
                next += 1;
                numbers.reach(next);
            }
            if run % 3 == 0 {
                numbers.close(next);
            }
            used_below = next;
        }
    }

    #[test]
    fn a_clean_end_wastes_none_and_nowhere_begins_at_zero() {
        let folder = tempfile::tempdir().unwrap();
        let (mut numbers, _) = at(folder.path());
        numbers.close(17);
        assert_eq!(at(folder.path()).1, 17);
        assert_eq!(at(Path::new("")).1, 0);
    }

    #[test]
    fn numbers_go_on_beyond_the_largest() {
        let folder = tempfile::tempdir().unwrap();
        at(folder.path()).0.close(u32::MAX);
        let (mut numbers, first) = at(folder.path());
        assert_eq!(first, u32::MAX);
        numbers.reach(first.wrapping_add(3_500));
        assert_eq!(at(folder.path()).1, 3_499 + BLOCK);
    }
}
