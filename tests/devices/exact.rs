//! What was fed must arrive: every frame and every sample equal, in order, none missing.

use crate::feed;
use anyhow::{Context, Result, bail, ensure};
use mien::source::{Reading, Source};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Frames that are compared to find out which one came.
const AHEAD_MAX: u32 = 60;

/// Compares `count` frames of a source with what `feed::camera` feeds up to `limit`, and says what it saw.
pub fn frames(source: &mut dyn Source, fourcc: &[u8; 4], count: u32, limit: &AtomicU32) -> Result<String> {
    let started = Instant::now();
    limit.fetch_add(feed::LAG_MAX, Ordering::Relaxed);
    let (mut equal, mut skipped, mut next, mut last_ns) = (0, 0, None, 0);
    while equal < count {
        ensure!(started.elapsed() < PATIENCE, "{equal} of {count} frames after {PATIENCE:?}");
        match source.read(Duration::from_millis(500)).context("read the camera")? {
            Some(Reading::Frame(frame)) => {
                ensure!(
                    (frame.width, frame.height) == (feed::WIDTH, feed::HEIGHT),
                    "a frame of {} x {} instead of {} x {}",
                    frame.width,
                    frame.height,
                    feed::WIDTH,
                    feed::HEIGHT
                );
                ensure!(frame.captured_ns > last_ns, "time stands still at {last_ns} ns");
                last_ns = frame.captured_ns;
                let from = next.unwrap_or(0);
                let at = (from..from + AHEAD_MAX)
                    .find(|&n| expected(n, fourcc) == frame.rgb)
                    .with_context(|| format!("frame {equal} equals none fed since {from}"))?;
                skipped += next.map_or(0, |next| at - next);
                next = Some(at + 1);
                limit.store(at + 1 + feed::LAG_MAX, Ordering::Relaxed);
                equal += 1;
            }
            Some(other) if equal > 0 => bail!("{other:?} after {equal} frames"),
            _ => {}
        }
    }
    ensure!(skipped == 0, "{skipped} of {} frames never arrived", equal + skipped);
    Ok(format!(
        "{equal} frames of {} x {} equal in every byte, in order, none missing",
        feed::WIDTH,
        feed::HEIGHT
    ))
}

/// Compares `count` samples of a source with what `feed::speaker` plays, from the first that is not silence.
pub fn samples(source: &mut dyn Source, count: usize) -> Result<String> {
    let started = Instant::now();
    let mut heard: Vec<i16> = Vec::with_capacity(count);
    while heard.len() < count {
        ensure!(started.elapsed() < PATIENCE, "{} of {count} samples after {PATIENCE:?}", heard.len());
        match source.read(Duration::from_millis(500)).context("read the microphone")? {
            Some(Reading::Chunk(chunk)) => {
                let silence =
                    if heard.is_empty() { chunk.samples.iter().take_while(|&&s| s == 0).count() } else { 0 };
                heard.extend_from_slice(&chunk.samples[silence..]);
            }
            Some(other) if !heard.is_empty() => bail!("{other:?} after {} samples", heard.len()),
            _ => {}
        }
    }
    let head = &heard[..32];
    let first = (0..feed::SAMPLES_PER_S * 10)
        .find(|&n| (n..).zip(head).all(|(n, &heard)| feed::sample(n) == heard))
        .context("what was heard is not what was played")?;
    let wrong = (first..).zip(&heard).position(|(n, &heard)| feed::sample(n) != heard);
    ensure!(wrong.is_none(), "sample {} of {} differs from the one played", wrong.unwrap_or(0), heard.len());
    Ok(format!("{} samples equal in every bit, in order, none missing", heard.len()))
}

/// Frame `n` as RGB. The formula of `mien::source::pixels`, written again on purpose.
fn expected(n: u32, fourcc: &[u8; 4]) -> Vec<u8> {
    let fed = feed::frame(n, feed::frame_bytes(fourcc));
    let (width, pixels) = (feed::WIDTH as usize, (feed::WIDTH * feed::HEIGHT) as usize);
    let yuv = |i: usize| match fourcc {
        b"YUYV" => (fed[2 * i], fed[i / 2 * 4 + 1], fed[i / 2 * 4 + 3]),
        _ => {
            let pair = pixels + i / width / 2 * width + i % width / 2 * 2;
            (fed[i], fed[pair], fed[pair + 1])
        }
    };
    match fourcc {
        b"RGB3" => fed,
        _ => (0..pixels).flat_map(|i| rgb(yuv(i))).collect(),
    }
}

/// BT.601, limited range, in 256ths.
fn rgb((y, u, v): (u8, u8, u8)) -> [u8; 3] {
    let (y, u, v) = (298 * (y as i32 - 16) + 128, u as i32 - 128, v as i32 - 128);
    [y + 409 * v, y - 100 * u - 208 * v, y + 516 * u].map(|value| value.div_euclid(256).clamp(0, 255) as u8)
}
