//! The way to every sink: a bounded queue and a thread each.
//!
//! A queue that is full gives up what is missed least ([`backlog`]). A sink that is stuck never holds the end of the daemon: at a
//! stop, sinks get [`CLOSE_WAIT`] together, and one that is not done then is left behind and reported.

use super::{
    pace::Pace,
    queue::{Popped, Queue},
    status::Status,
    threads,
};
use crate::{
    privacy::Gate,
    sink::{
        Message, Sink, SinkCounts,
        backlog::{self, Class},
    },
};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(100);
const CLOSE_WAIT: Duration = Duration::from_millis(2_000);

pub struct Exits {
    queues: Vec<Arc<Queue<Message>>>,
    pace: Pace,
    status: Arc<Status>,
    stop: Arc<AtomicBool>,
}

/// The threads behind the queues.
pub struct Delivery {
    threads: Vec<(&'static str, JoinHandle<SinkCounts>)>,
}

impl Exits {
    /// Starts a thread for each sink. `stop` ends waiting for sinks that take nothing.
    pub fn open(
        sinks: Vec<Box<dyn Sink>>,
        messages_max: usize,
        pace: Pace,
        status: &Arc<Status>,
        gate: &Arc<Gate>,
        stop: &Arc<AtomicBool>,
    ) -> Result<(Arc<Exits>, Delivery)> {
        let mut queues = Vec::new();
        let mut handles = Vec::new();
        for sink in sinks {
            let (name, queue) = (sink.name(), Arc::new(Queue::new(messages_max)));
            queues.push(Arc::clone(&queue));
            let (status, gate) = (Arc::clone(status), Arc::clone(gate));
            let work = move || deliver(sink, &queue, &status, &gate);
            handles.push((name, threads::start(&format!("sink-{name}"), work)?));
        }
        let exits = Exits { queues, pace, status: Arc::clone(status), stop: Arc::clone(stop) };
        Ok((Arc::new(exits), Delivery { threads: handles }))
    }

    /// Queues a message for every sink. A fast recording waits for room, for as long as nobody stops the run.
    pub fn send(&self, message: &Message) {
        for queue in &self.queues {
            let mut dropped = 0;
            if self.pace == Pace::Fast {
                let mut item = Some(message.clone());
                while let Some(waiting) = item.take() {
                    item = queue.push_within(waiting, WAIT);
                    if self.stop.load(Ordering::Acquire) {
                        dropped += u32::from(item.take().is_some());
                    }
                }
            } else {
                queue.push_making_room(message.clone(), |items| {
                    backlog::make_room(items, 0, Class::of, |_| dropped += 1);
                });
            }
            self.status.drop_some(dropped);
        }
    }

    /// Nothing more is sent.
    pub fn close(&self) {
        self.queues.iter().for_each(|queue| queue.close());
    }
}

impl Delivery {
    /// Waits for the sinks, after [`Exits::close`]; without a stop, for as long as a fast recording needs.
    pub fn finish(self, pace: Pace, stop: &AtomicBool, status: &Status) -> Vec<(&'static str, SinkCounts)> {
        let mut deadline = None;
        let mut counts = Vec::new();
        for (name, thread) in self.threads {
            while !thread.is_finished() {
                if pace != Pace::Fast || stop.load(Ordering::Acquire) {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + CLOSE_WAIT);
                    if Instant::now() >= until {
                        break;
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() {
                counts.extend(threads::join(thread).map(|of| (name, of)));
            } else {
                log::warn!("sink {name} is stuck: it is left behind, and what it was not told is lost");
                counts.extend(status.snapshot(false).sinks.iter().filter(|(of, _)| *of == name).copied());
            }
        }
        counts
    }
}

/// A sink's thread: tells it what comes through its queue, until the queue is closed and empty.
fn deliver(mut sink: Box<dyn Sink>, messages: &Queue<Message>, status: &Status, gate: &Gate) -> SinkCounts {
    loop {
        match messages.pop(WAIT) {
            Popped::Item(message) => sink.send(&message),
            Popped::Empty => sink.tick(),
            Popped::Closed => break,
        }
        status.set_sink(sink.name(), sink.counts());
        sink.watch(&|| status.snapshot(gate.muted()));
    }
    sink.close();
    status.set_sink(sink.name(), sink.counts());
    sink.counts()
}
