//! The measuring thread, between the sources and the core: readings go on with what was measured of them.

use super::{
    inbox::{Inbox, Item},
    queue::Popped,
};
use crate::{
    cues::{Facts, Measurer},
    privacy::Gate,
    source::{Pool, Reading},
};
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(50);

/// Measures until the inbox is closed. Muted, it passes on no picture and no sound, and forgets what it has.
pub fn measure(mut measurer: Measurer, from: &Inbox, to: &Inbox, gate: &Gate, pool: &Pool) {
    let mut muted = false;
    loop {
        let item = from.pop(WAIT);
        if gate.muted() != muted {
            muted = !muted;
            if muted {
                measurer.forget();
                from.forget();
            }
        }
        match item {
            Popped::Item(Item::Reading(reading @ (Reading::Frame(_) | Reading::Chunk(_)), _)) if muted => {
                pool.give(reading);
                pool.wipe();
            }
            Popped::Item(Item::Reading(mut reading, _)) => {
                let facts: Facts = measurer.take(&mut reading);
                to.push(reading, facts);
            }
            Popped::Item(Item::Failed(error)) => to.fail(error),
            Popped::Empty => {}
            Popped::Closed => return,
        }
    }
}
