//! The queue before the measuring thread or the core: readings in, with what was measured of them.
//!
//! Live and paced, a full one drops its oldest reading and counts; a recording that is played fast waits.

use super::{
    pace::Pace,
    queue::{Popped, Queue},
    status::Status,
};
use crate::{
    cues::Facts,
    source::{Pool, Reading},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What comes to the core.
#[allow(
    clippy::large_enum_variant,
    reason = "a queue of them is made once, and nothing is allocated for a reading"
)]
pub enum Item {
    Reading(Reading, Facts),
    /// A recording cannot be read any further.
    Failed(anyhow::Error),
}

pub struct Inbox {
    queue: Queue<Item>,
    pace: Pace,
    pool: Pool,
    status: Arc<Status>,
    done: Arc<AtomicBool>,
}

impl Inbox {
    pub fn new(capacity: usize, pace: Pace, pool: Pool, status: Arc<Status>, done: Arc<AtomicBool>) -> Inbox {
        Inbox { queue: Queue::new(capacity), pace, pool, status, done }
    }

    pub fn push(&self, reading: Reading, facts: Facts) {
        let item = Item::Reading(reading, facts);
        let gone = match self.pace {
            Pace::Fast => self.queue.push_wait(item),
            Pace::Live | Pace::Paced => self.queue.push(item),
        };
        if let Some(Item::Reading(reading, _)) = gone {
            if !self.done.load(Ordering::Acquire) {
                self.status.drop_some(1);
            }
            // The end of a track is no reading that may be lost.
            if let Reading::End { .. } = reading {
                self.queue.push(Item::Reading(reading, Facts::default()));
            } else {
                self.pool.give(reading);
            }
        }
    }

    pub fn fail(&self, error: anyhow::Error) {
        self.queue.push_wait(Item::Failed(error));
    }

    pub fn pop(&self, wait: Duration) -> Popped<Item> {
        self.queue.pop(wait)
    }

    /// Gives back what was seen and heard and waits here.
    pub fn forget(&self) {
        self.queue.sift(|item| match item {
            Item::Reading(reading @ (Reading::Frame(_) | Reading::Chunk(_)), _) => {
                self.pool.give(reading);
                None
            }
            other => Some(other),
        });
    }

    pub fn close(&self) {
        self.queue.close();
    }
}
