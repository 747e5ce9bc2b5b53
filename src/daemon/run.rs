//! A whole run: opens its threads, lets the core work, and ends them in order.

use super::{
    controls::Controls,
    core, edge,
    exits::Exits,
    inbox::Inbox,
    measure,
    newest::Newest,
    pace::Pace,
    plan::{MEASURED_MAX, Plan},
    pulse,
    status::Status,
    summary::Summary,
    threads,
};
use crate::{
    cues::Measurer,
    model::Infer,
    sink::{Sink, ledger::Told},
    source::Pool,
};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

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
    measurer: Option<Measurer>,
    sinks: Vec<Box<dyn Sink>>,
    infer: &mut dyn Infer,
) -> Result<Summary> {
    let started = Instant::now();
    let status = Arc::new(Status::new(plan));
    let newest = Arc::new(Newest::new(plan.gives()));
    let done = Arc::new(AtomicBool::new(false));
    let pool = plan.pool();
    let inbox = |capacity| {
        let (pool, status, done) = (pool.clone(), Arc::clone(&status), Arc::clone(&done));
        Arc::new(Inbox::new(capacity, plan.pace, pool, status, done))
    };
    let readings = inbox(plan.daemon.readings_max);
    let first = if measurer.is_some() { inbox(MEASURED_MAX) } else { Arc::clone(&readings) };

    let left = left(&sinks);
    let messages_max = plan.daemon.messages_max;
    let (exits, delivery) =
        Exits::open(sinks, messages_max, plan.pace, &status, &controls.gate, &controls.stop)?;
    let mut sources = Vec::new();
    for (device, gives) in &plan.sources {
        let links = edge::Links {
            gate: Arc::clone(&controls.gate),
            pool: pool.clone(),
            inbox: Arc::clone(&first),
            status: Arc::clone(&status),
            newest: Arc::clone(&newest),
            done: Arc::clone(&done),
        };
        let intake = edge::Intake::new(device.clone(), *gives, plan.pace, plan.keep_ns(), links);
        sources.push(threads::start(&format!("source-{}", intake.name()), move || intake.run())?);
    }
    sources.extend(measuring(measurer, controls, &first, &readings, &pool)?);
    let pulse = pulse(plan, controls, &exits, &status, &done)?;

    let links = core::Links {
        gate: Arc::clone(&controls.gate),
        pool: pool.clone(),
        exits: Arc::clone(&exits),
        status: Arc::clone(&status),
        newest,
        limits: Arc::clone(&controls.limits),
        stop: Arc::clone(&controls.stop),
    };
    let mut core = core::Core::new(plan, links, infer, &left);
    let outcome = core.attend(&readings);
    let summary = core.summary(started.elapsed());
    drop(core);
    infer.observe(None);

    done.store(true, Ordering::Release);
    first.close();
    readings.close();
    for thread in sources.into_iter().chain(pulse) {
        threads::join(thread);
    }
    controls.gate.note("stop", "closed");
    pool.wipe();
    exits.close();
    let sinks = delivery.finish(plan.pace, &controls.stop, &status);
    let dropped = status.snapshot(false).heartbeat.dropped;
    outcome.map(|()| Summary { sinks, dropped, took: started.elapsed(), ..summary })
}

/// The thread between the sources and the core, where anything is measured.
fn measuring(
    measurer: Option<Measurer>,
    controls: &Controls,
    from: &Arc<Inbox>,
    to: &Arc<Inbox>,
    pool: &Pool,
) -> Result<Option<JoinHandle<()>>> {
    let Some(measurer) = measurer else { return Ok(None) };
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    let (gate, pool) = (Arc::clone(&controls.gate), pool.clone());
    threads::start("measure", move || measure::measure(measurer, &from, &to, &gate, &pool)).map(Some)
}

/// Heartbeats and the watchdog; a recording that is played fast has its own.
fn pulse(
    plan: &Plan,
    controls: &Controls,
    exits: &Arc<Exits>,
    status: &Arc<Status>,
    done: &Arc<AtomicBool>,
) -> Result<Option<JoinHandle<()>>> {
    if plan.pace == Pace::Fast {
        return Ok(None);
    }
    let (exits, status, done) = (Arc::clone(exits), Arc::clone(status), Arc::clone(done));
    let (controls, daemon, power) = (controls.clone(), plan.daemon.clone(), plan.power.clone());
    threads::start("pulse", move || pulse::beat(&exits, &status, &controls, &daemon, &power, &done)).map(Some)
}

/// The begins that an earlier run told and did not end, each once, in the order of their numbers.
fn left(sinks: &[Box<dyn Sink>]) -> Vec<Told> {
    let mut left: Vec<Told> = sinks.iter().filter_map(|sink| sink.left().cloned()).collect();
    left.sort_by_key(|told| told.begin.episode);
    left.dedup_by_key(|told| told.begin.episode);
    left
}
