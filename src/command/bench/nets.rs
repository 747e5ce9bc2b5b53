//! What measuring beside the model takes: each small net, and a voice without one.
//!
//! Units: a share is of one core, at the rate at which a run measures.

use crate::{
    config,
    cues::{
        Gate, Nets, Task,
        measure::Voice,
        net::{Face, FaceBox, FaceMesh, VoiceActivity},
    },
    source::{Chunk, Frame},
};
use anyhow::Result;
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const RUNS: usize = 30;
/// A second of sound has so many chunks.
const CHUNKS: usize = 10;
/// While a mesh follows a face, the whole picture is looked at so often in a second.
const BOX_HZ: f64 = 1.0;

struct Row {
    what: &'static str,
    load: Duration,
    run: Duration,
    /// Runs in a second.
    rate_hz: f64,
}

pub fn run(folder: &Path, as_json: bool) -> Result<()> {
    let rows = measure(&config::nets_in(folder)?)?;
    let share = |row: &Row| row.run.as_secs_f64() * row.rate_hz;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    if as_json {
        let row = |row: &Row| json!({ "what": row.what, "load_ms": ms(row.load), "median_ms": ms(row.run), "rate_hz": row.rate_hz, "share": share(row) });
        println!("{}", Value::from_iter(rows.iter().map(row)));
        return Ok(());
    }
    println!("{:<28}{:>10}{:>12}{:>12}{:>14}", "", "load", "a run", "in a second", "of one core");
    for row in &rows {
        println!(
            "{:<28}{:>7.1} ms{:>9.3} ms{:>12.1}{:>12.2} %",
            row.what,
            ms(row.load),
            ms(row.run),
            row.rate_hz,
            100.0 * share(row)
        );
    }
    Ok(())
}

fn measure(nets: &Nets) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let chunk =
        |i: usize| Chunk { captured_ns: i as u64 * 100_000_000, samples: (0..1_600).map(sample).collect() };
    let mut voice = Voice::default();
    let mut i = 0;
    rows.push(row("pitch and loudness", Duration::ZERO, CHUNKS as f64, || {
        voice.push(&chunk(i), |_| ());
        i += 1;
        Ok(())
    })?);
    if let Some(settings) = nets.of(Task::VoiceActivity) {
        let (mut net, load) = timed(|| VoiceActivity::load(settings))?;
        let samples: Vec<i16> = (0..512).map(sample).collect();
        rows.push(row("voice activity, 32 ms", load, 1_000.0 / 32.0, || net.push(&samples, |_, _| ()))?);
    }
    let frame = picture();
    if let Some(settings) = nets.of(Task::FaceBox) {
        let (mut net, load) = timed(|| FaceBox::load(settings))?;
        rows.push(row("face box, 640 x 480", load, BOX_HZ, || net.find(&frame, 0.5).map(drop))?);
    }
    if let Some(settings) = nets.of(Task::FaceMesh) {
        let (mut net, load) = timed(|| FaceMesh::load(settings))?;
        let face = Face {
            left: 200.0,
            top: 120.0,
            right: 400.0,
            bottom: 320.0,
            eyes: [(250.0, 180.0), (350.0, 180.0)],
            ..Face::default()
        };
        let hz = f64::from(Gate::default().face_hz);
        rows.push(row("face mesh", load, hz, || net.find(&frame, &face).map(drop))?);
    }
    Ok(rows)
}

fn timed<T>(make: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let began = Instant::now();
    Ok((make()?, began.elapsed()))
}

fn row(what: &'static str, load: Duration, rate_hz: f64, mut run: impl FnMut() -> Result<()>) -> Result<Row> {
    run()?;
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let began = Instant::now();
        run()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(Row { what, load, run: times[RUNS / 2], rate_hz })
}

/// A hum with overtones, as a voice has.
fn sample(i: usize) -> i16 {
    let t = i as f32 / 16_000.0;
    (1..6).map(|k| (std::f32::consts::TAU * 130.0 * k as f32 * t).sin() * 3_000.0 / k as f32).sum::<f32>()
        as i16
}

fn picture() -> Frame {
    let (width, height) = (640, 480);
    let rgb = (0..width * height * 3).map(|i| (i * 31 % 251) as u8).collect();
    Frame { captured_ns: 0, height: height as u32, width: width as u32, rgb }
}
