//! What this machine can do at most, measured: products on registers, reading memory.
//!
//! Each figure is the best of several short spins that all threads begin together, so that a busy machine disturbs it little.
//! Units: operations and bytes per second; a multiply-add is two operations.

use super::{
    Cpu,
    lanes::{Isa, Lanes, Work},
    memory::Memory,
};
use crate::backend::Ceilings;
use anyhow::Result;
use std::{
    hint::black_box,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::*},
    },
    time::Instant,
};

/// More than the caches of the machines this is meant for.
const READ_BYTES: usize = 192 << 20;
const READS: usize = 12;
const SPINS: usize = 40;
/// About two milliseconds of f32 products.
const ROUNDS: usize = 400_000;
const CHAINS: usize = 12;

struct SpinF32;

impl Work for SpinF32 {
    /// Operations done.
    type Out = usize;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> usize {
        // SAFETY: registers only.
        unsafe {
            let mut acc = [I::F::splat(1.0); CHAINS];
            let (a, b) = (I::F::splat(black_box(0.5)), I::F::splat(black_box(0.25)));
            let rounds = ROUNDS / CHAINS;
            for _ in 0..rounds {
                for acc in &mut acc {
                    *acc = acc.fma(a, b);
                }
            }
            black_box(acc.into_iter().map(|v| v.sum()).sum::<f32>());
            rounds * CHAINS * I::F::N * 2
        }
    }
}

struct SpinInt8;

impl Work for SpinInt8 {
    /// Operations done.
    type Out = usize;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> usize {
        // SAFETY: registers only.
        black_box(unsafe { I::spin_int8(ROUNDS / 12) });
        ROUNDS / 12 * I::SPIN_OPERATIONS
    }
}

struct Read<'a>(&'a [f32]);

impl Work for Read<'_> {
    type Out = f32;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> f32 {
        // SAFETY: whole lines of the slice; prefetches may lie beyond it.
        unsafe {
            let mut acc = [I::F::splat(0.0); 16];
            for at in (0..self.0.len() / 64 * 64).step_by(64) {
                let p = self.0.as_ptr().add(at);
                for i in 0..4 {
                    I::prefetch(p.wrapping_add(1024 + i * 16).cast());
                }
                for i in 0..64 / I::F::N {
                    acc[i] = acc[i].add(I::F::load(p.add(i * I::F::N)));
                }
            }
            acc.into_iter().map(|v| v.sum()).sum::<f32>()
        }
    }
}

impl Cpu {
    /// Measures for about a second with all threads of this backend.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let (level, threads) = (self.level, self.threads());
        let f32_per_s = self.best(SPINS, |_| level.run(SpinF32));
        let int8_per_s = self.best(SPINS, |_| level.run(SpinInt8)).max(f32_per_s);
        let memory = Memory::new(READ_BYTES)?;
        // SAFETY: READ_BYTES zeroed bytes, written here before they are shared.
        let values = unsafe { std::slice::from_raw_parts_mut(memory.ptr::<f32>(), READ_BYTES / 4) };
        values.fill(1.0);
        let (values, each) = (&*values, READ_BYTES / 4 / threads);
        let read_bytes_per_s = self.best(READS, |thread| {
            black_box(level.run(Read(&values[thread * each..][..each])));
            each * 4
        });
        Ok(Ceilings { int8_per_s, f16_per_s: f32_per_s, f32_per_s, read_bytes_per_s })
    }

    /// The best of several runs: the rates of all threads, added up.
    fn best(&self, runs: usize, work: impl Fn(usize) -> usize + Sync) -> f64 {
        let threads = self.threads();
        let rate = |_| {
            let (arrived, rates) = (AtomicUsize::new(0), Mutex::new(0.0));
            // Each thread takes one chunk, for it waits in there for the others.
            self.pool.run(threads, |chunk, _| {
                arrived.fetch_add(1, AcqRel);
                while arrived.load(Acquire) < threads {
                    std::hint::spin_loop();
                }
                let begun = Instant::now();
                let rate = work(chunk) as f64 / begun.elapsed().as_secs_f64();
                *rates.lock().unwrap_or_else(PoisonError::into_inner) += rate;
            });
            rates.into_inner().unwrap_or_else(PoisonError::into_inner)
        };
        (0..runs).map(rate).fold(0.0, f64::max)
    }
}
