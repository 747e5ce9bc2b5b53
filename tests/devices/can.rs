//! What is on a CAN bus, by the layout that `board/can/mien.dbc` describes, written again on purpose.

use anyhow::{Context, Result, ensure};
use mien::sink::json::Event;
use socketcan::{CanFrame, CanSocket, EmbeddedFrame, Frame, Id, Socket, StandardId};
use std::collections::BTreeMap;

/// Kinds of events, as the file numbers them.
const KINDS: [(u8, &str); 4] = [(1, "begin"), (2, "change"), (3, "end"), (4, "unknown")];
const NO_LABEL: u8 = 255;

/// A frame of 8 bytes under an 11-bit id; `None` for anything else.
fn next(socket: &CanSocket) -> Result<Option<(u32, [u8; 8])>> {
    let frame = socket.read_frame().context("read the bus")?;
    let CanFrame::Data(data) = &frame else { return Ok(None) };
    let Id::Standard(id) = data.id() else { return Ok(None) };
    let bytes = data.data().try_into().ok();
    Ok(bytes.map(|bytes| (id.as_raw().into(), bytes)))
}

fn open(interface: &str) -> Result<CanSocket> {
    CanSocket::open(interface).with_context(|| format!("open {interface}"))
}

/// Prints the events of the frames under an id until killed: `EPISODE KIND LABEL CONFIDENCE COUNTER`.
pub fn hear(interface: &str, id: u32) -> Result<()> {
    let socket = open(interface)?;
    loop {
        let Some((from, bytes)) = next(&socket)? else { continue };
        let kind = KINDS.iter().find(|(number, _)| *number == bytes[3] & 0xf);
        if let (true, Some((_, kind))) = (from == id, kind) {
            let episode = u16::from_le_bytes([bytes[6], bytes[7]]);
            println!("{episode} {kind} {} {} {}", bytes[0], bytes[1], bytes[3] >> 4);
        }
    }
}

/// Answers `mien conformance` as a receiver does that takes what has an id of its own and eight bytes, once.
pub fn answer(interface: &str, id: u32) -> Result<()> {
    let socket = open(interface)?;
    let own = u16::try_from(id + 2).ok().and_then(StandardId::new).context("an id of 11 bits")?;
    let mut last = [None; 2];
    loop {
        let Some((from, bytes)) = next(&socket)? else { continue };
        let Some(which @ 0..=1) = from.checked_sub(id) else { continue };
        let counter = if which == 0 { bytes[3] >> 4 } else { bytes[1] };
        if last[which as usize].replace(counter) != Some(counter) {
            let said = CanFrame::new(own, &[which as u8 + 1, counter]).context("two bytes")?;
            socket.write_frame(&said).context("answer")?;
        }
    }
}

/// Compares what was heard with the events of the broker: the same in the same order, none between them missing.
pub fn compare(heard: &str, broker: &BTreeMap<u32, Event>, events_min: usize) -> Result<String> {
    let mut labels: BTreeMap<String, u8> = BTreeMap::new();
    let mut numbers = Vec::new();
    for line in heard.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [episode, kind, label, confidence, _] = words[..] else { continue };
        let (episode, label, confidence): (u32, u8, f64) =
            (episode.parse()?, label.parse()?, confidence.parse()?);
        let same = |event: &&Event| {
            event.episode & 0xffff == episode
                && event.event == kind
                && (event.confidence * 200.0 - confidence).abs() < 1.0
                && numbers.last().is_none_or(|&last| event.seq > last)
        };
        let twin = broker
            .values()
            .find(same)
            .with_context(|| format!("'{line}' was heard on the bus and is not at the broker"))?;
        if let (true, Some(name)) = (label != NO_LABEL, &twin.label) {
            let known = labels.entry(name.clone()).or_insert(label);
            ensure!(*known == label, "the label {name} has the numbers {known} and {label}");
        }
        numbers.push(twin.seq);
    }
    ensure!(
        numbers.len() >= events_min,
        "{} events on the bus, at least {events_min} are due",
        numbers.len()
    );
    let span = numbers[numbers.len() - 1] - numbers[0] + 1;
    ensure!(span as usize == numbers.len(), "{} events on the bus of {span} at the broker", numbers.len());
    Ok(format!(
        "{} events on the bus, all at the broker, in order, none missing, {} labels",
        numbers.len(),
        labels.len()
    ))
}
