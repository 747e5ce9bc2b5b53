//! What came over the serial line and the CAN bus, and what the broker delivered: the same events.

use crate::can;
use anyhow::{Context, Result, ensure};
use mien::sink::json::{Event, Line};
use std::{collections::BTreeMap, fs, path::Path};

/// Reads two files of JSON lines. Every event of the serial line must be at the broker with equal fields.
pub fn sinks(serial: &Path, broker: &Path, events_min: usize) -> Result<String> {
    let (serial, broker) = (events(serial)?, events(broker)?);
    ensure!(
        serial.len() >= events_min,
        "{} events over the serial line, at least {events_min} are due",
        serial.len()
    );
    ensure!(
        broker.len() >= events_min,
        "{} events at the broker, at least {events_min} are due",
        broker.len()
    );
    for (name, events) in [("serial line", &serial), ("broker", &broker)] {
        let (first, last) = (events.keys().next().unwrap_or(&0), events.keys().last().unwrap_or(&0));
        let span = (last - first + 1) as usize;
        ensure!(span == events.len(), "{name}: {} events with numbers {first} to {last}", events.len());
    }
    for (seq, event) in &serial {
        let twin = broker
            .get(seq)
            .with_context(|| format!("event {seq} of the serial line is not at the broker"))?;
        ensure!(event == twin, "event {seq} differs: {event:?} over the serial line, {twin:?} at the broker");
    }
    Ok(format!(
        "{} events over the serial line, all equal at the broker, which has {}, none missing in either",
        serial.len(),
        broker.len()
    ))
}

/// Reads what was heard on a CAN bus. Every event of it must be at the broker.
pub fn bus(heard: &Path, broker: &Path, events_min: usize) -> Result<String> {
    let text = fs::read_to_string(heard).with_context(|| format!("read {}", heard.display()))?;
    can::compare(&text, &events(broker)?, events_min)
}

fn events(path: &Path) -> Result<BTreeMap<u32, Event>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut events = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let line = serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))?;
        if let Line::Event(event) = line {
            ensure!(events.insert(event.seq, event).is_none(), "{}: an event came twice", path.display());
        }
    }
    Ok(events)
}
