//! One team of threads, pinned, asleep between jobs.
//!
//! A job is a closure over `chunks` pieces; the caller works too, and whoever is free takes the next piece. A worker that is late
//! finds the job closed and goes back to sleep, so that a busy machine costs a share and not a stall.
//! Invariant: which thread computes a piece never changes what it computes; results depend on neither count nor luck.
//! Limits: a worker looks for the next job for a moment (`SPINS`) after one ends, then parks; an idle pool burns nothing.

use crate::backend::Halt;
use anyhow::{Context, Result};
use std::{
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*},
    },
    thread::{self, JoinHandle},
};

/// Looks at the gate before parking; tens of microseconds. An interpreter takes as long for a few.
const SPINS: u32 = if cfg!(miri) { 4 } else { 4000 };

type Job = dyn Fn(usize, usize) + Sync;

struct Shared {
    /// `job number << 16 | workers inside << 1 | open`
    gate: AtomicU64,
    job: UnsafeCell<*const Job>,
    chunks: AtomicUsize,
    next: AtomicUsize,
    left: AtomicU64,
    panicked: AtomicBool,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `job` is written while the gate is closed and nobody is inside, and read by workers that entered an open gate.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure.
unsafe impl Send for Shared {}

pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One caller at a time: not `Sync`.
    one_caller: PhantomData<Cell<()>>,
    jobs: Arc<AtomicU64>,
    /// While it is raised, jobs are taken and left undone.
    halt: Halt,
}

impl Pool {
    /// `threads` in all, the caller among them.
    pub fn new(threads: usize) -> Result<Pool> {
        let asleep = (1..threads).map(|_| AtomicBool::new(false)).collect();
        let nothing: &'static Job = &|_, _| {};
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(nothing),
            chunks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            left: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep,
        });
        let cpus = allowed_cpus();
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            one_caller: PhantomData,
            jobs: Arc::default(),
            halt: Halt::default(),
        };
        for i in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let cpu = (threads <= cpus.len()).then(|| cpus[i]);
            let work = move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                shared.work(i);
            };
            let worker = thread::Builder::new().name(format!("cpu-{i}")).spawn(work).with_context(|| {
                format!("starting worker {i} of {threads}: set model.threads lower, or free memory")
            })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// A team that leaves every job undone: what is asked for is sized, and nothing is computed or touched.
    pub fn idle() -> Result<Pool> {
        let mut pool = Pool::new(1)?;
        pool.halt = Halt::from([Arc::new(AtomicBool::new(true))]);
        Ok(pool)
    }

    /// Leaves jobs undone while it is raised.
    pub fn halt_when(&mut self, halt: Halt) {
        self.halt = halt;
    }

    /// Jobs so far.
    pub fn jobs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.jobs)
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(chunk, thread)` once for every chunk and returns when all are done.
    pub fn run(&self, chunks: usize, job: impl Fn(usize, usize) + Sync) {
        let shared = &*self.shared;
        self.jobs.fetch_add(1, Relaxed);
        if self.halt.raised() {
            return;
        }
        if chunks <= 1 || self.workers.is_empty() {
            (0..chunks).for_each(|chunk| job(chunk, 0));
            return;
        }
        let job: &(dyn Fn(usize, usize) + Sync) = &job;
        let closed = shared.gate.load(Acquire);
        assert_eq!(closed & 0xffff, 0, "the pool is already running a job");
        // SAFETY: the gate is closed and empty, so nobody reads `job`. The lifetime is erased, and every reader is out
        // before this function returns: it waits below until `left` counts all that entered.
        unsafe {
            *shared.job.get() =
                std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), *const Job>(job)
        };
        shared.chunks.store(chunks, Relaxed);
        shared.next.store(0, Relaxed);
        shared.left.store(0, Relaxed);
        shared.gate.store(closed + (1 << 16) + 1, SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers) {
            if asleep.load(SeqCst) {
                worker.thread().unpark();
            }
        }
        let leave = Leave(shared);
        shared.take(job, 0);
        drop(leave);
        assert!(!shared.panicked.load(Acquire), "a worker of the pool panicked");
    }
}

/// Closes the gate and waits for the workers inside, also when the caller's own piece panics.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let entered = (self.0.gate.fetch_and(!1, AcqRel) >> 1) & 0x7fff;
        let mut spins = 0;
        while self.0.left.load(Acquire) < entered {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
        self.0.gate.fetch_and(!0xffff, AcqRel);
    }
}

impl Shared {
    fn take(&self, job: &(dyn Fn(usize, usize) + Sync), thread: usize) {
        let chunks = self.chunks.load(Relaxed);
        loop {
            let chunk = self.next.fetch_add(1, Relaxed);
            if chunk >= chunks {
                return;
            }
            job(chunk, thread);
        }
    }

    /// Enters the open gate of a job other than `seen`; its number, or none.
    fn enter(&self, seen: u64) -> Option<u64> {
        let gate = self.gate.load(SeqCst);
        let open = gate & 1 == 1 && gate >> 16 != seen;
        (open && self.gate.compare_exchange(gate, gate + 2, AcqRel, Relaxed).is_ok()).then_some(gate >> 16)
    }

    fn work(&self, thread: usize) {
        let (mut seen, mut spins) = (0, 0);
        while !self.stop.load(Acquire) {
            if let Some(number) = self.enter(seen) {
                (seen, spins) = (number, 0);
                // SAFETY: inside the open gate; the caller keeps the closure alive until `left` counts this worker.
                let job = unsafe { &**self.job.get() };
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.take(job, thread)));
                if done.is_err() {
                    self.panicked.store(true, Release);
                }
                self.left.fetch_add(1, AcqRel);
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                let asleep = &self.asleep[thread - 1];
                asleep.store(true, SeqCst);
                let gate = self.gate.load(SeqCst);
                if (gate & 1 == 0 || gate >> 16 == seen) && !self.stop.load(SeqCst) {
                    thread::park();
                }
                asleep.store(false, SeqCst);
                spins = 0;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A panic of a worker was reported by `run`.
            let _ = worker.join();
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_else(|_| rustix::thread::CpuSet::new());
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[cfg(all(target_os = "linux", not(miri)))]
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        log::debug!("a worker stays unpinned: cpu={cpu} error={error}");
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn allowed_cpus() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn pin(_cpu: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        let pool = Pool::new(4).unwrap();
        for chunks in [0, 1, 2, 3, 7, 64, 1000] {
            for _ in 0..20 {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |chunk, thread| {
                    assert!(thread < 4);
                    counts[chunk].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1), "{chunks} chunks");
            }
        }
    }

    #[test]
    fn a_pause_parks_and_the_next_job_wakes() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            pool.run(100, |chunk, _| {
                sum.fetch_add(chunk, Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
        thread::sleep(std::time::Duration::from_millis(100));
        assert!(pool.shared.asleep.iter().all(|a| a.load(SeqCst)), "idle workers are parked");
    }
}
