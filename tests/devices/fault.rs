//! Devices that misbehave and go away: the source must say so, count it, and go on when they are back.

use anyhow::{Context, Result, ensure};
use mien::source::{Reading, Source, SourceCounts};
use std::{
    fs,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use v4l::{
    Device,
    control::{Control, Value},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sets a control of a device by the name its driver gives it.
pub fn set(node: &str, name: &str, value: i64) -> Result<()> {
    let device = Device::with_path(node).with_context(|| format!("open {node} for its controls"))?;
    let controls = device.query_controls()?;
    let known = || controls.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    let control = controls
        .iter()
        .find(|control| control.name == name)
        .with_context(|| format!("{node} has no control '{name}', it has: {}", known()))?;
    device
        .set_control(Control { id: control.id, value: Value::Integer(value) })
        .with_context(|| format!("set '{name}' of {node}"))
}

/// Takes a platform device from its driver, as pulling a plug would (`unbind`), or gives it back (`bind`). The write returns
/// when the last user has closed the device, so it has a thread of its own.
fn plug(driver: &str, device: &str, verb: &str) -> JoinHandle<Result<()>> {
    let path = format!("/sys/bus/platform/drivers/{driver}/{verb}");
    let device = device.to_string();
    thread::spawn(move || fs::write(&path, &device).with_context(|| format!("write {device} to {path}")))
}

/// Reads until `enough` says so, and returns how many frames and chunks came and how many times something was lost.
pub fn read_until(
    source: &mut dyn Source,
    what: &str,
    mut enough: impl FnMut(&Seen) -> bool,
) -> Result<Seen> {
    let started = Instant::now();
    let mut seen = Seen { counts: source.counts(), ..Seen::default() };
    while !enough(&seen) {
        ensure!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}, saw {seen:?}");
        match source.read(Duration::from_millis(200)).with_context(|| what.to_string())? {
            Some(Reading::Frame(_) | Reading::Chunk(_)) => seen.readings += 1,
            Some(Reading::Lost { .. }) => seen.lost += 1,
            _ => {}
        }
        seen.counts = source.counts();
    }
    Ok(seen)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub readings: u32,
    pub lost: u32,
    pub counts: SourceCounts,
}

/// The driver drops a third of its frames: every stretch is a gap in the sequence numbers.
pub fn dropped(source: &mut dyn Source, node: &str) -> Result<String> {
    let before = read_until(source, "frames before the fault", |seen| seen.readings >= 5)?.counts;
    set(node, "Percentage of Dropped Buffers", 30)?;
    let seen = read_until(source, "frames with drops", |seen| seen.readings >= 30);
    set(node, "Percentage of Dropped Buffers", 0)?;
    let gaps = seen?.counts.gaps - before.gaps;
    ensure!(before.gaps == 0, "{} gaps before the driver dropped anything", before.gaps);
    ensure!(gaps >= 3, "the driver dropped 30 % of the frames and {gaps} gaps were counted");
    Ok(format!("{gaps} gaps counted over 30 frames"))
}

/// The driver flags one frame as damaged: it is counted and does not arrive.
pub fn flagged(source: &mut dyn Source, node: &str) -> Result<String> {
    let before = read_until(source, "frames before the fault", |seen| seen.readings >= 5)?.counts;
    set(node, "Inject V4L2_BUF_FLAG_ERROR", 1)?;
    let seen = read_until(source, "the damaged frame", |seen| seen.counts.broken > before.broken)?;
    read_until(source, "frames after it", |seen| seen.readings >= 5)?;
    Ok(format!("{} damaged frame counted, then frames again", seen.counts.broken - before.broken))
}

/// The device goes and comes back: said with `Lost`, counted once, healed.
pub fn unplugged(source: &mut dyn Source, driver: &str, device: &str) -> Result<String> {
    let before = read_until(source, "readings before the fault", |seen| seen.readings >= 5)?.counts;
    let unplugged = plug(driver, device, "unbind");
    let away = read_until(source, "the loss", |seen| seen.counts.losses > before.losses && seen.lost >= 2)?;
    unplugged.join().expect("returns its error")?;
    plug(driver, device, "bind").join().expect("returns its error")?;
    let started = Instant::now();
    let back = read_until(source, "readings after the device came back", |seen| seen.readings >= 5)?;
    let losses = back.counts.losses - before.losses;
    ensure!(losses == 1, "one loss was counted {losses} times");
    Ok(format!(
        "lost once ({} times `Lost` while away), healed {} ms after it came back",
        away.lost,
        started.elapsed().as_millis()
    ))
}
