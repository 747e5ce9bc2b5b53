//! What the device can do at most, measured: reading memory, and products on registers.
//!
//! Each figure is the best of several runs that are long enough for their launch not to count.

use super::{launches::Launcher, state::Cuda};
use crate::backend::Ceilings;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

const RUNS: usize = 8;
const LONG: Duration = Duration::from_millis(10);
const ROUNDS_MAX: i32 = 1 << 20;
/// More than the caches of the devices this is meant for, where there is room.
const READ_BYTES: usize = 512 << 20;
const READ_BYTES_MIN: usize = 4 << 20;

impl Launcher {
    fn timed(&self, work: impl Fn()) -> Result<Duration> {
        let begun = Instant::now();
        work();
        self.note("a ceiling", self.stream.synchronize());
        self.check()?;
        Ok(begun.elapsed())
    }

    /// Operations a second of `work`, which does `each` a round.
    fn rate(&self, each: usize, work: impl Fn(i32)) -> Result<f64> {
        let mut rounds = 16;
        while rounds < ROUNDS_MAX && self.timed(|| work(rounds))? < LONG {
            rounds *= 4;
        }
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            best = best.min(self.timed(|| work(rounds))?);
        }
        Ok(each as f64 * f64::from(rounds) / best.as_secs_f64())
    }
}

impl Cuda {
    pub fn ceilings(&mut self) -> Result<Ceilings> {
        let (out, device) = (self.parts, self.op());
        let blocks = (4 * device.multiprocessors, 1, 1);
        let threads = blocks.0 * 256;
        let f32_per_s = device.rate(threads * 16, |rounds| device.ceiling_f32(blocks, out, rounds))?;
        let int8_per_s = device.rate(threads * 64, |rounds| device.ceiling_int8(blocks, out, rounds))?;
        let f16_per_s = device.rate(threads * 1024, |rounds| device.ceiling_f16(blocks, out, rounds))?;
        Ok(Ceilings { int8_per_s, f16_per_s, f32_per_s, read_bytes_per_s: self.reading()? })
    }

    fn reading(&self) -> Result<f64> {
        let (out, device) = (self.parts, &self.device);
        let mut bytes = READ_BYTES;
        let room = loop {
            match device.take_alone(bytes, "the ceiling of reading") {
                Ok(room) => break room,
                Err(error) if bytes == READ_BYTES_MIN => return Err(error).context("measuring"),
                Err(_) => bytes /= 2,
            }
        };
        device.zero(room, bytes);
        let blocks = (8 * device.multiprocessors, 1, 1);
        let read = |bytes: usize| device.ceiling_read(blocks, room, (bytes / 16) as i64, out);
        let mut some = READ_BYTES_MIN;
        while some < bytes && device.timed(|| read(some))? < LONG / 5 {
            some *= 2;
        }
        let mut best = Duration::MAX;
        for _ in 0..RUNS {
            best = best.min(device.timed(|| read(some))?);
        }
        device.give_alone(room, bytes);
        Ok(some as f64 / best.as_secs_f64())
    }
}
