//! Frames on a CAN bus.
//!
//! The receiver sends one frame of two bytes under the id after the second for each frame that it accepts: 1 and the counter for the
//! first frame, 2 and the counter for the second.

use super::{
    messages::{beat, event},
    step::{Step, play},
};
use crate::{
    sink::can::{Bus, Frame, FrameKind, Frames},
    wire::{Cause, Event, Health, Heartbeat, Kind},
};
use anyhow::{Result, ensure};
use std::{ops::RangeInclusive, time::Duration};

/// 11-bit ids that leave room for one before and two after.
const IDS: RangeInclusive<u32> = 1..=0x7fd;

pub fn run(interface: &str, id: u32, wait: Duration) -> Result<()> {
    ensure!(IDS.contains(&id), "--can-id {id}: {} to {} can be used", IDS.start(), IDS.end());
    let bus = Bus::open(interface, Some(id + 2))?;
    let put = |frame: &Frame| bus.put(frame);
    let take = |wait| Ok(bus.take(wait)?.map(|bytes| answer(&bytes).into_iter().collect()));
    play(&steps(id), wait, put, take)
}

fn answer(bytes: &[u8]) -> Option<String> {
    match *bytes {
        [1, counter] => Some(format!("state {counter}")),
        [2, counter] => Some(format!("health {counter}")),
        _ => None,
    }
}

/// Counts in a state frame go to 15, in a health frame to 255.
fn steps(id: u32) -> Vec<Step<Frame>> {
    let mut frames = Frames::default();
    let mut steps = Vec::new();
    let mut step = |what, pieces, accepts: &[&str]| steps.push(Step::new(what, pieces, accepts));
    let state = |bytes| Frame::data(id, bytes);
    let both = |[first, second]: [[u8; 8]; 2]| vec![Frame::data(id, first), Frame::data(id + 1, second)];

    let begin = state(frames.event(&event(7, Kind::Begin, 3)));
    step("a begin", vec![begin], &["state 1"]);
    step("a heartbeat", both(frames.beat(&beat())), &["state 2", "health 2"]);
    let change = state(frames.event(&event(7, Kind::Change, 3)));
    step("a frame twice, as a bus may send it again", vec![change, change], &["state 3"]);
    let short = Frame { len: 7, ..state(frames.event(&event(7, Kind::End, 3))) };
    step("a frame that lacks a byte", vec![short], &[]);
    let end = state(frames.event(&event(7, Kind::End, 3)));
    step("an end", vec![end], &["state 5"]);
    step("a request for the frame", vec![Frame { kind: FrameKind::Remote, ..end }], &[]);
    let long = Frame { kind: FrameKind::Extended, ..state([3, 155, 0xf, 0x61, 1, 0, 7, 0]) };
    step("the same id in 29 bits", vec![long], &[]);
    step("another sender's frame", vec![Frame { id: id - 1, ..state([3, 155, 0xf, 0x61, 1, 0, 7, 0]) }], &[]);
    let mut jumped = frames;
    for _ in 0..4 {
        jumped.event(&event(7, Kind::Begin, 0));
    }
    step(
        "a count that jumps: loss, not error",
        vec![state(jumped.event(&event(7, Kind::Begin, 0)))],
        &["state 10"],
    );
    for _ in 0..4 {
        jumped.event(&event(7, Kind::Begin, 0));
    }
    let last = state(jumped.event(&event(7, Kind::End, 0)));
    let wrapped = both(jumped.beat(&beat()));
    step("a count that wraps", [vec![last], wrapped].concat(), &["state 15", "state 0", "health 16"]);
    let odd = Event { cause: Cause::Other, ..event(7, Kind::Other, 200) };
    let odd = state(jumped.event(&odd));
    step("codes that the receiver does not know", vec![odd], &["state 1"]);
    let muted = Heartbeat { muted: 1, video: Health::Muted, audio: Health::Muted, ..beat() };
    step("a device that is muted", both(jumped.beat(&muted)), &["state 2", "health 18"]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver as `board/can/mien.dbc` asks for: it takes what has the id and eight bytes, once.
    #[test]
    fn a_plain_receiver_holds_every_step() {
        let (id, mut last) = (0x5e0, [None; 2]);
        assert_eq!(steps(id).len(), 12, "as board/clients/README.md says");
        for step in steps(id) {
            let mut said = Vec::new();
            for Frame { kind, id: own, bytes, len } in &step.pieces {
                let which = own.wrapping_sub(id) as usize;
                if *kind != FrameKind::Data || which > 1 || *len != 8 {
                    continue;
                }
                let counter = if which == 0 { bytes[3] >> 4 } else { bytes[1] };
                if last[which].replace(counter) != Some(counter) {
                    said.extend(answer(&[which as u8 + 1, counter]));
                }
            }
            assert_eq!(said, step.accepts, "{}", step.what);
        }
    }
}
