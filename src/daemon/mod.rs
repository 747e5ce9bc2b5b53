//! Threads, bounded queues, counters, shutdown: the only room that names a thread or a channel.
//!
//! One thread per source, one per sink, one for the pulse (heartbeats, watchdog, the status line), and the caller's, which owns
//! window, model and policy and thus all state that changes.
//!
//! ```text
//! source threads -- Queue<Item> --> core (window, model, policy) -- Queue<Message>, one each --> sink threads
//!                                                     pulse (heartbeats) --^
//! ```
//!
//! Pace: live and paced, a full queue drops its oldest and counts, and a model that is late takes the newest window. A recording
//! that is played fast waits instead, nothing is dropped, and the same recording gives the same messages.
//! Limits: both kinds of queue have their length from the config; what circulates between them comes from one pool. From a reading to
//! the serial line nothing is allocated after the first windows (`tests/steady.rs`). What does allocate, for as long as it is told: a
//! reason its tokens and text, a line of JSON or an MQTT message its text, the state file and the minute's status line theirs.

mod core;
mod edge;
mod pulse;
mod queue;
mod state_file;

pub use queue::{Popped, Queue};

use crate::{
    config,
    model::Infer,
    policy, privacy,
    sink::{self, Message, Sink, Speaker},
    source::{Gives, Pool, Reading},
    window,
};
use anyhow::{Context, Result};
use pulse::Status;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Devices, on the machine's monotonic clock.
    Live,
    /// A recording at the speed of life.
    Paced,
    /// A recording as fast as it can be scored.
    Fast,
}

/// Everything a run is made of, but the model.
pub struct Plan {
    pub devices: Vec<(privacy::Device, Gives)>,
    pub gate: Arc<privacy::Gate>,
    pub pool: Pool,
    pub pace: Pace,
    pub window: window::Settings,
    /// Pictures per window.
    pub frames: usize,
    pub policy: policy::Limits,
    pub model: config::Model,
    pub daemon: config::Daemon,
    pub state_file: PathBuf,
    pub speaker: Arc<Speaker>,
    pub sinks: Vec<Box<dyn Sink>>,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub windows: u32,
    pub late: u32,
    pub events: u32,
    pub dropped: u32,
    /// From the start of the first window to the end of the last.
    pub media: Duration,
    pub took: Duration,
    /// Spent in the model.
    pub infer: Duration,
    pub sinks: Vec<(&'static str, sink::Counts)>,
}

/// What sources put into the core's queue.
enum Item {
    Reading(Reading),
    /// A recording cannot be read any further.
    Failed(anyhow::Error),
}

/// The way to every sink.
struct Exits {
    queues: Vec<Arc<Queue<Message>>>,
    pace: Pace,
    status: Arc<Status>,
}

impl Exits {
    fn send(&self, message: &Message) {
        for queue in &self.queues {
            if self.pace == Pace::Fast {
                queue.push_wait(message.clone());
            } else if queue.push(message.clone()).is_some() {
                self.status.drop_one();
            }
        }
    }
}

/// Runs until a recording is over or `stop` is set. An error is a recording that cannot be read; whatever else goes wrong is
/// coped with and counted.
pub fn run(plan: Plan, infer: &mut dyn Infer, stop: &Arc<AtomicBool>) -> Result<Summary> {
    let started = Instant::now();
    let status = Arc::new(Status::new(&plan));
    let readings = Arc::new(Queue::new(plan.daemon.readings_max));
    let done = Arc::new(AtomicBool::new(false));

    let mut exits = Exits { queues: Vec::new(), pace: plan.pace, status: Arc::clone(&status) };
    let mut sinks = Vec::new();
    for sink in plan.sinks {
        let queue = Arc::new(Queue::new(plan.daemon.messages_max));
        exits.queues.push(Arc::clone(&queue));
        sinks.push(start(&format!("sink-{}", sink.name()), move || edge::tell(sink, &queue))?);
    }
    let mut sources = Vec::new();
    for (device, gives) in plan.devices {
        let ear = edge::Ear {
            device,
            gives,
            gate: Arc::clone(&plan.gate),
            pool: plan.pool.clone(),
            pace: plan.pace,
            keep_ns: u64::from(plan.window.window_ms) * 1_000_000 / plan.frames as u64 / 4,
            readings: Arc::clone(&readings),
            status: Arc::clone(&status),
            done: Arc::clone(&done),
        };
        sources.push(start(&format!("source-{}", ear.device.name()), move || ear.listen())?);
    }
    let exits = Arc::new(exits);
    let pulse = match plan.pace {
        Pace::Fast => None,
        Pace::Live | Pace::Paced => {
            let (exits, status, done) = (Arc::clone(&exits), Arc::clone(&status), Arc::clone(&done));
            let (gate, daemon) = (Arc::clone(&plan.gate), plan.daemon.clone());
            Some(start("pulse", move || pulse::beat(&exits, &status, &gate, &daemon, &done))?)
        }
    };

    let mut core = core::Core::new(
        core::Parts {
            pace: plan.pace,
            window: plan.window,
            frames: plan.frames,
            limits: plan.policy,
            model: plan.model,
            heartbeat_ms: u64::from(plan.daemon.heartbeat_ms),
            state_file: plan.state_file,
            speaker: Arc::clone(&plan.speaker),
            gate: Arc::clone(&plan.gate),
            pool: plan.pool.clone(),
            exits: Arc::clone(&exits),
            status: Arc::clone(&status),
        },
        infer,
    )?;
    let outcome = core.attend(&readings, stop);
    let summary = core.summary(started.elapsed());

    done.store(true, Ordering::Release);
    readings.close();
    for source in sources {
        join(source);
    }
    if let Some(pulse) = pulse {
        join(pulse);
    }
    for queue in &exits.queues {
        queue.close();
    }
    let sinks = sinks.into_iter().filter_map(join).collect();
    outcome.map(|()| Summary { sinks, dropped: status.dropped(), took: started.elapsed(), ..summary })
}

fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("starting the thread {name}"))
}

/// A thread that panicked is a bug: it is said and not hidden.
fn join<T>(handle: thread::JoinHandle<T>) -> Option<T> {
    let name = handle.thread().name().unwrap_or_default().to_string();
    let done = handle.join();
    if done.is_err() {
        log::error!("the thread {name} panicked");
    }
    done.ok()
}
