//! The run: threads, bounded queues, counters, shutdown.
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
//! reason its tokens and text, a line of JSON or an MQTT message its text, what is kept on disk and the minute's status line theirs.

mod core;
mod edge;
mod exits;
mod newest;
mod numbers;
mod plan;
mod prepare;
mod pulse;
mod queue;
mod rehearsal;
mod status;
mod threads;

pub use exits::Exits;
pub use plan::{Limit, Plan};
pub use prepare::prepare;
pub use queue::{Popped, Queue};
pub use rehearsal::{keep_up, rehearse};
pub use status::Snapshot;

use crate::{
    model::Infer,
    policy,
    privacy::Gate,
    sink::{self, Sink, ledger::Told},
    source::Reading,
};
use anyhow::Result;
use newest::Newest;
use status::Status;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
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

/// What a run is steered by from outside, while it goes on.
#[derive(Clone, Debug)]
pub struct Controls {
    pub gate: Arc<Gate>,
    pub stop: Arc<AtomicBool>,
    /// Thresholds that replace the plan's at the next window.
    pub limits: Arc<Mutex<Option<policy::Limits>>>,
}

impl Controls {
    /// For a plan; refuses a purpose that may not be.
    pub fn new(plan: &Plan) -> Result<Controls> {
        Ok(Controls {
            gate: Arc::new(Gate::new(&plan.privacy)?),
            stop: Arc::default(),
            limits: Arc::default(),
        })
    }
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
pub enum Item {
    Reading(Reading),
    /// A recording cannot be read any further.
    Failed(anyhow::Error),
}

/// Opens the sinks of a plan.
pub fn open_sinks(plan: &Plan) -> Result<Vec<Box<dyn Sink>>> {
    let setup = plan.setup();
    plan.sinks.iter().map(|settings| settings.open(&setup)).collect()
}

/// Runs until a recording is over or the controls stop it. An error is a recording that cannot be read, or a lost device of the
/// model; whatever else goes wrong is coped with and counted.
pub fn run(
    plan: &Plan,
    controls: &Controls,
    sinks: Vec<Box<dyn Sink>>,
    infer: &mut dyn Infer,
) -> Result<Summary> {
    let started = Instant::now();
    let status = Arc::new(Status::new(plan));
    let newest = Arc::new(Newest::new(plan.gives()));
    let readings = Arc::new(Queue::new(plan.daemon.readings_max));
    let done = Arc::new(AtomicBool::new(false));
    let pool = plan.pool();

    let left = left(&sinks);
    let messages_max = plan.daemon.messages_max;
    let (exits, delivery) = Exits::open(sinks, messages_max, plan.pace, &status, &controls.stop)?;
    let mut sources = Vec::new();
    for (device, gives) in &plan.sources {
        let links = edge::Links {
            gate: Arc::clone(&controls.gate),
            pool: pool.clone(),
            readings: Arc::clone(&readings),
            status: Arc::clone(&status),
            newest: Arc::clone(&newest),
            done: Arc::clone(&done),
        };
        let intake = edge::Intake::new(device.clone(), *gives, plan.pace, plan.keep_ns(), links);
        sources.push(threads::start(&format!("source-{}", intake.name()), move || intake.run())?);
    }
    let pulse = match plan.pace {
        Pace::Fast => None,
        Pace::Live | Pace::Paced => {
            let (exits, status, done) = (Arc::clone(&exits), Arc::clone(&status), Arc::clone(&done));
            let (gate, daemon) = (Arc::clone(&controls.gate), plan.daemon.clone());
            Some(threads::start("pulse", move || pulse::beat(&exits, &status, &gate, &daemon, &done))?)
        }
    };

    let links = core::Links {
        gate: Arc::clone(&controls.gate),
        pool,
        exits: Arc::clone(&exits),
        status: Arc::clone(&status),
        newest,
        limits: Arc::clone(&controls.limits),
    };
    let mut core = core::Core::new(plan, links, infer, &left);
    let outcome = core.attend(&readings, &controls.stop);
    let summary = core.summary(started.elapsed());

    done.store(true, Ordering::Release);
    readings.close();
    for thread in sources.into_iter().chain(pulse) {
        threads::join(thread);
    }
    exits.close();
    let sinks = delivery.finish(plan.pace, &controls.stop, &status);
    let dropped = status.snapshot(false).heartbeat.dropped;
    outcome.map(|()| Summary { sinks, dropped, took: started.elapsed(), ..summary })
}

/// The begins that an earlier run told and did not end, each once, in the order of their numbers.
fn left(sinks: &[Box<dyn Sink>]) -> Vec<Told> {
    let mut left: Vec<Told> = sinks.iter().filter_map(|sink| sink.left().cloned()).collect();
    left.sort_by_key(|told| told.begin.episode);
    left.dedup_by_key(|told| told.begin.episode);
    left
}
