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
    buffer::Type,
    control::{Control, Value},
    io::{mmap, traits::CaptureStream},
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

/// Errors that the driver returns from calls, once each: told as lost, and frames come again.
pub fn injected(source: &mut dyn Source, node: &str) -> Result<String> {
    let calls = [
        "Inject VIDIOC_REQBUFS Error",
        "Inject VIDIOC_QBUF Error",
        "Inject VIDIOC_STREAMON Error",
        "Inject Fatal Streaming Error",
    ];
    for call in calls {
        read_until(source, "frames before the fault", |seen| seen.readings >= 5)?;
        set(node, call, 1)?;
        // What is injected into opening waits for the stream to be opened again.
        if call.contains("REQBUFS") || call.contains("STREAMON") {
            set(node, "Inject Fatal Streaming Error", 1)?;
        }
        read_until(source, "the loss", |seen| seen.lost >= 1).with_context(|| call.to_owned())?;
        read_until(source, "frames after the fault", |seen| seen.readings >= 10)
            .with_context(|| call.to_owned())?;
    }
    Ok(format!("{} kinds of error, told as lost, frames again after each", calls.len()))
}

/// Frame numbers of 32 bits that come to their end: the driver begins a stream 128 frames before it.
pub fn wrapped(open: impl Fn() -> Result<Box<dyn Source>>, node: &str) -> Result<String> {
    set(node, "Wrap Sequence Number", 1)?;
    let first = first_number(node)?;
    ensure!(first > u32::MAX - 200, "the stream begins with frame {first}: the driver does not wrap");
    let seen = read_until(&mut *open()?, "frames with wrapped numbers", |seen| seen.readings >= 200);
    set(node, "Wrap Sequence Number", 0)?;
    let SourceCounts { gaps, losses, .. } = seen?.counts;
    ensure!(losses == 0 && gaps <= 1, "{losses} losses and {gaps} gaps in 200 frames from {first}");
    Ok(format!("200 frames from {first}, {gaps} gaps, no loss"))
}

/// Of the first frame that the driver gives, read without mien.
fn first_number(node: &str) -> Result<u32> {
    let device = Device::with_path(node)?;
    let mut stream = mmap::Stream::with_buffers(&device, Type::VideoCapture, 2)?;
    Ok(stream.next().context("the first frame")?.1.sequence)
}

/// The plug is pulled while the camera is opened, before its first frame, between frames, while it is away, and while it comes back.
pub fn unplugged_in_every_phase(
    open: impl Fn() -> Result<Box<dyn Source>>,
    driver: &str,
    device: &str,
) -> Result<String> {
    let turns = 10u64;
    for turn in 0..turns {
        let pulled = thread::spawn({
            let (driver, device) = (driver.to_owned(), device.to_owned());
            move || -> Result<()> {
                thread::sleep(Duration::from_millis(turn * 23));
                plug(&driver, &device, "unbind").join().expect("returns its error")?;
                thread::sleep(Duration::from_millis(turn * 97));
                plug(&driver, &device, "bind").join().expect("returns its error")
            }
        });
        let mut source = open().with_context(|| format!("turn {turn}"))?;
        let started = Instant::now();
        while !pulled.is_finished() {
            ensure!(started.elapsed() < PATIENCE, "turn {turn}: the plug is stuck, {:?}", source.counts());
            source.read(Duration::from_millis(100))?;
        }
        pulled.join().expect("returns its error")?;
        read_until(&mut *source, "frames at the end", |seen| seen.readings >= 5)
            .with_context(|| format!("turn {turn}"))?;
    }
    Ok(format!("{turns} times, frames again after each"))
}

/// Nobody reads for longer than the card's buffer holds, again and again: each time a gap, and sound goes on.
pub fn overruns(source: &mut dyn Source) -> Result<String> {
    let turns = 20;
    let before = read_until(source, "sound before the fault", |seen| seen.readings >= 5)?.counts;
    for _ in 0..turns {
        thread::sleep(Duration::from_millis(1_500));
        read_until(source, "sound after the fault", |seen| seen.readings >= 3)?;
    }
    let after = read_until(source, "sound at the end", |seen| seen.readings >= 20)?.counts;
    let gaps = after.gaps - before.gaps;
    ensure!(gaps == turns, "{turns} overruns, {gaps} gaps counted");
    ensure!(after.losses == before.losses, "an overrun is a gap, not a loss: {after:?}");
    Ok(format!("{turns} overruns, {gaps} gaps counted, sound again after each"))
}
