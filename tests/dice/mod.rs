//! Numbers that look random and are the same in every run (xorshift64).
#![allow(dead_code)]

pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        step(&mut self.0)
    }

    /// Below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// In `[0, 1)`.
    pub fn share(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

pub fn step(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
