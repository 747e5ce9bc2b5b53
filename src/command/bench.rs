//! `mien bench`: time every stage of a bundle beside this machine's ceilings.
//!
//! Each window is new to the model: other frames, other sound. A hop shares all but one frame with the window before it.
//! Units: time is the median over the windows; the floor of a stage is the longer of its operations at the ceiling for products
//! and its bytes at the ceiling for reading, and the share is floor by time. `products` is what the products with weights alone reach
//! of the ceiling for products, in a stage whose products are timed one by one.

#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
#[cfg(not(feature = "cuda"))]
use crate::model;
use crate::{
    backend::{
        Backend, Ceilings,
        cpu::{Cpu, Precision},
    },
    bundle::{
        Bundle, Kind,
        synthetic::{self, Preset},
    },
    command::open_bundle,
    model::{AudioContext, Cost, Decoding, Device, Infer, Input, Model, Observer, Taps},
    source::Frame,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

mod steps;

/// Time every stage of a bundle beside this machine's ceilings.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A packed bundle.
    #[arg(long, value_name = "FILE", required_unless_present = "synthetic", conflicts_with = "synthetic")]
    bundle: Option<PathBuf>,
    /// Random weights instead of a bundle: tiny or r1-omni-0.5b.
    #[arg(long, value_name = "SIZE", value_parser = Preset::from_name)]
    synthetic: Option<Preset>,
    /// How the random weights are stored: f32, f16, q8_0 or q4_0.
    #[arg(long, default_value = "q8_0", value_parser = Kind::from_name)]
    quant: Kind,
    /// Threads; 0 takes one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// cpu or cuda.
    #[arg(long, default_value = "cpu")]
    backend: Device,
    /// Whole windows to time.
    #[arg(long, default_value_t = 3)]
    windows: usize,
    /// whole, or speech: only what holds sound is encoded; tells how far that is from whole.
    #[arg(long, value_name = "CONTEXT", default_value = "whole")]
    audio_context: AudioContext,
    /// Tokens of each reason.
    #[arg(long, default_value_t = 150)]
    tokens: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Do what standard input says, a step a line, and print a JSON object for each: window, label, hop, vision, audio, prefill,
    /// decode, ceilings. So that others can be timed in turn with it.
    #[arg(long, conflicts_with_all = ["windows", "json"])]
    steps: bool,
}

/// One stage of one window.
#[derive(Clone, Debug)]
struct Sample {
    stage: &'static str,
    time: Duration,
    calls: u64,
    cost: Cost,
    /// Of its products alone.
    products: Products,
    launches: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Products {
    time: Duration,
    operations: u64,
}

impl Products {
    fn add(&mut self, more: Products) {
        self.time += more.time;
        self.operations += more.operations;
    }
}

/// Adds up the stages of a window.
#[derive(Clone)]
struct Meter {
    launches: Arc<AtomicU64>,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    /// When the running stage began, and after how many launches.
    begun: Option<(Instant, u64)>,
    product: Option<Instant>,
    /// Of the running stage.
    products: Products,
    samples: Vec<Sample>,
}

impl Meter {
    fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner).samples)
    }
}

impl Observer for Meter {
    fn begin(&mut self, _stage: &'static str) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.products = Products::default();
        record.begun = Some((Instant::now(), self.launches.load(Relaxed)));
    }

    fn begin_product(&mut self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).product = Some(Instant::now());
    }

    fn end_product(&mut self, operations: u64) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let time = record.product.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        record.products.add(Products { time, operations });
    }

    fn end(&mut self, stage: &'static str, cost: Cost) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((begun, launches)) = record.begun.take() else { return };
        let (time, launches) = (begun.elapsed(), self.launches.load(Relaxed) - launches);
        let products = std::mem::take(&mut record.products);
        match record.samples.iter_mut().find(|s| s.stage == stage) {
            Some(s) => {
                s.time += time;
                s.calls += 1;
                s.launches += launches;
                s.cost.bytes += cost.bytes;
                s.cost.operations += cost.operations;
                s.products.add(products);
            }
            None => record.samples.push(Sample { stage, time, calls: 1, cost, products, launches }),
        }
    }
}

/// A stage over all windows.
struct Row {
    stage: &'static str,
    median: Duration,
    best: Duration,
    sample: Sample,
}

fn rows(windows: &[Vec<Sample>]) -> Vec<Row> {
    let Some(first) = windows.first() else { return Vec::new() };
    let row = |s: &Sample| {
        let mut times: Vec<Duration> =
            windows.iter().flatten().filter(|other| other.stage == s.stage).map(|other| other.time).collect();
        times.sort();
        Row { stage: s.stage, median: times[times.len() / 2], best: times[0], sample: s.clone() }
    };
    first.iter().map(row).collect()
}

/// Pictures and sound that no window had before.
struct Scene {
    next: u64,
    frames: Vec<(u64, Frame)>,
    samples: Vec<f32>,
}

const SIDE: u32 = 224;
const SAMPLES: usize = 4 * 16_000;

impl Scene {
    fn frame(&mut self) -> (u64, Frame) {
        self.next += 1;
        let mut state = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let rgb = (0..SIDE * SIDE * 3).map(|_| noise(&mut state) as u8).collect();
        (self.next, Frame { captured_ns: 0, height: SIDE, width: SIDE, rgb })
    }

    fn turn(&mut self, frames: usize) {
        self.frames.drain(..frames.min(self.frames.len()));
        for _ in 0..frames {
            let frame = self.frame();
            self.frames.push(frame);
        }
        let mut state = self.next.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
        self.samples = (0..SAMPLES).map(|_| (noise(&mut state) % 2001) as f32 / 10_000.0 - 0.1).collect();
    }
}

/// A device with ceilings of its own.
trait Measured: Backend + Sized {
    fn open(args: &Args, quant: Kind) -> Result<Self>;
    fn launches(&self) -> Arc<AtomicU64>;
    /// On a device that was opened for this.
    fn ceilings(&mut self) -> Result<Ceilings>;
    /// Operations a second that products with weights of this kind can reach at most.
    fn product_ceiling(ceilings: &Ceilings, quant: Kind) -> f64;
}

impl Measured for Cpu {
    fn open(args: &Args, quant: Kind) -> Result<Cpu> {
        Cpu::new(args.threads, Precision::of(quant))
    }

    fn launches(&self) -> Arc<AtomicU64> {
        self.launches()
    }

    fn ceilings(&mut self) -> Result<Ceilings> {
        Cpu::ceilings(self)
    }

    fn product_ceiling(ceilings: &Ceilings, quant: Kind) -> f64 {
        match quant {
            Kind::Q8_0 | Kind::Q4_0 => ceilings.int8_per_s,
            Kind::F32 | Kind::F16 => ceilings.f32_per_s,
        }
    }
}

#[cfg(feature = "cuda")]
impl Measured for Cuda {
    fn open(_: &Args, quant: Kind) -> Result<Cuda> {
        Cuda::open(quant)
    }

    fn launches(&self) -> Arc<AtomicU64> {
        self.launches()
    }

    fn ceilings(&mut self) -> Result<Ceilings> {
        Cuda::ceilings(self)
    }

    fn product_ceiling(ceilings: &Ceilings, quant: Kind) -> f64 {
        match quant {
            Kind::F32 => ceilings.f32_per_s,
            Kind::F16 | Kind::Q8_0 | Kind::Q4_0 => ceilings.f16_per_s,
        }
    }
}

/// A loaded model before a changing scene, with a meter on its stages.
struct Bench<'a, B: Measured> {
    model: Model<B>,
    args: &'a Args,
    meter: Meter,
    scene: Scene,
    prompt: String,
    labels: String,
    frames: usize,
    quant: Kind,
    samples_max: usize,
}

impl<'a, B: Measured> Bench<'a, B> {
    fn load(args: &'a Args, bundle: &Bundle) -> Result<Self> {
        let quant = bundle.header().quant;
        let prompt = bundle.prompts().iter().find(|p| p.name == "reason").or(bundle.prompts().first());
        let prompt = prompt.context("the bundle has no prompt")?.name.clone();
        let labels = bundle.label_sets().first().context("the bundle has no label set")?.name.clone();
        let device = B::open(args, quant)?;
        let meter = Meter { launches: device.launches(), record: Arc::default() };
        let mut model = Model::load(device, bundle)?;
        model.observe(Some(Box::new(meter.clone())));
        model.set_decoding(Decoding {
            max_new_tokens: Some(args.tokens),
            repetition_guard: false,
            stop_at_end: false,
            ..Decoding::default()
        })?;
        model.set_audio_context(args.audio_context)?;
        let scene = Scene { next: 0, frames: Vec::new(), samples: Vec::new() };
        let frames = bundle.shape().frames;
        let samples_max = bundle.shape().samples_max();
        Ok(Bench { model, args, meter, scene, prompt, labels, frames, quant, samples_max })
    }

    /// The scores of a window with `fresh` new frames and new sound.
    fn label(&mut self, fresh: usize) -> Result<()> {
        self.scene.turn(fresh);
        let frames: Vec<(u64, &Frame)> = self.scene.frames.iter().map(|(id, frame)| (*id, frame)).collect();
        self.model.see(&self.prompt, &Input { frames: Some(&frames), samples: Some(&self.scene.samples) })?;
        self.model.score(&self.labels).map(drop)
    }

    fn encode_frames(&mut self) -> Result<()> {
        self.scene.turn(self.frames);
        let frames: Vec<(u64, &Frame)> = self.scene.frames.iter().map(|(id, frame)| (*id, frame)).collect();
        self.model.encode(&Input { frames: Some(&frames), samples: None })
    }

    fn encode_sound(&mut self) -> Result<()> {
        self.scene.turn(0);
        self.model.encode(&Input { frames: None, samples: Some(&self.scene.samples) })
    }

    /// A reason for what was seen last; how many tokens it has.
    fn reason(&mut self) -> Result<usize> {
        Ok(self.model.reason(&mut |_| ())?.tokens)
    }

    /// How far speech context is from whole context, on a window that nobody saw before.
    fn error_of_speech(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let taps = Taps::of(["audio_tokens"]);
        self.model.observe(Some(Box::new(taps.clone())));
        let mut seen = Vec::new();
        for (context, fresh) in [(AudioContext::Whole, self.frames), (AudioContext::Speech, 0)] {
            self.model.set_audio_context(context)?;
            self.label(fresh)?;
            let tokens = taps.take().pop().context("the model has no audio tokens")?;
            seen.push((tokens, self.model.score(&self.labels)?.probabilities.clone()));
        }
        self.model.observe(Some(Box::new(self.meter.clone())));
        let [(whole, exact), (speech, near)] = &seen[..] else { unreachable!("two contexts") };
        let heard = (whole.rows * SAMPLES / self.samples_max).min(whole.rows) * whole.cols;
        let off = |range: Range<usize>| {
            let squares = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>();
            let (a, b) = (&whole.values[range.clone()], &speech.values[range]);
            let apart = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
            (apart / squares(&mut a.iter().copied()).max(f64::MIN_POSITIVE)).sqrt()
        };
        let score = exact.iter().zip(near).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        Ok(vec![
            ("tokens_of_sound", off(0..heard)),
            ("tokens_of_silence", off(heard..whole.values.len())),
            ("score", score),
        ])
    }

    fn ceilings(&self) -> Result<Ceilings> {
        B::open(self.args, self.quant)?.ceilings()
    }
}

fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}

/// `VmHWM` of this process.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

struct Report {
    device: String,
    quant: Kind,
    file_bytes: usize,
    open: Duration,
    load: Duration,
    /// The first window up to its scores.
    first: Duration,
    ceilings: Ceilings,
    /// Of products of this bundle, operations a second.
    product_per_s: f64,
    stages: Vec<Row>,
    hop: Vec<Row>,
    tokens: usize,
    peak_bytes: Option<u64>,
    /// Of speech context: relative root mean squares, and the largest difference of a score.
    errors: Vec<(&'static str, f64)>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.windows > 0, "--windows 0: at least one window is needed");
    let (bundle, open) = open(&args)?;
    match args.backend {
        Device::Cpu => run_on::<Cpu>(&args, bundle, open),
        #[cfg(feature = "cuda")]
        Device::Cuda => run_on::<Cuda>(&args, bundle, open),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(model::without_cuda()),
        Device::Auto | Device::Scalar => bail!("choose --backend cpu or cuda: others are not measured"),
    }
}

fn run_on<B: Measured>(args: &Args, bundle: Bundle, open: Duration) -> Result<()> {
    if args.steps {
        return steps::run::<B>(args, bundle, io::stdin().lock(), &mut io::stdout().lock());
    }
    let report = measure::<B>(args, bundle, open)?;
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// The bundle to time, and how long it took to open.
fn open(args: &Args) -> Result<(Bundle, Duration)> {
    let timed = |path: &Path| {
        let begun = Instant::now();
        Ok((open_bundle(path)?, begun.elapsed()))
    };
    match (&args.bundle, args.synthetic) {
        (Some(path), _) => timed(path),
        (None, Some(preset)) => {
            log::info!("making random weights: size={} quant={}", preset.name(), args.quant.name());
            let folder = tempfile::tempdir().context("making a folder for the synthetic bundle")?;
            let path = folder.path().join("synthetic.gguf");
            synthetic::write_file(&path, preset, 1, args.quant, &mut |_| ())?;
            timed(&path)
        }
        (None, None) => unreachable!("clap asks for one of the two"),
    }
}

fn measure<B: Measured>(args: &Args, bundle: Bundle, open: Duration) -> Result<Report> {
    let file_bytes = bundle.file_bytes();
    let begun = Instant::now();
    let mut bench = Bench::<B>::load(args, &bundle)?;
    let load = begun.elapsed();
    log::info!("{}", bundle.checked());
    drop(bundle);
    let (device, quant) = (bench.model.describe(), bench.quant);

    let mut tokens = 0;
    let (mut windows, mut hops) = (Vec::new(), Vec::new());
    let mut first = Duration::ZERO;
    // The first window warms caches and scratch memory, and is not counted.
    for i in 0..=args.windows {
        let begun = Instant::now();
        bench.label(bench.frames)?;
        if i == 0 {
            first = begun.elapsed();
        }
        tokens = bench.reason()?;
        let whole = bench.meter.take();
        bench.label(1)?;
        let hop = bench.meter.take();
        if i > 0 {
            windows.push(whole);
            hops.push(hop);
        }
    }
    let peak_bytes = peak_bytes();
    let errors = match args.audio_context {
        AudioContext::Whole => Vec::new(),
        AudioContext::Speech => bench.error_of_speech()?,
    };
    let ceilings = bench.ceilings()?;
    let product_per_s = B::product_ceiling(&ceilings, quant);
    let (stages, hop) = (rows(&windows), rows(&hops));
    Ok(Report {
        device,
        quant,
        file_bytes,
        open,
        load,
        first,
        ceilings,
        product_per_s,
        stages,
        hop,
        tokens,
        peak_bytes,
        errors,
    })
}

impl Report {
    fn floor_s(&self, cost: Cost) -> f64 {
        let reading = cost.bytes as f64 / self.ceilings.read_bytes_per_s;
        reading.max(cost.operations as f64 / self.product_per_s)
    }

    fn json(&self) -> serde_json::Value {
        let stages = |rows: &[Row]| -> Vec<serde_json::Value> {
            let one = |r: &Row| {
                json!({
                    "stage": r.stage,
                    "calls": r.sample.calls,
                    "median_ms": ms(r.median),
                    "best_ms": ms(r.best),
                    "bytes": r.sample.cost.bytes,
                    "operations": r.sample.cost.operations,
                    "launches": r.sample.launches,
                    "floor_ms": self.floor_s(r.sample.cost) * 1e3,
                    "product_ms": ms(r.sample.products.time),
                    "product_operations": r.sample.products.operations,
                })
            };
            rows.iter().map(one).collect()
        };
        json!({
            "device": self.device,
            "quant": self.quant.name(),
            "file_bytes": self.file_bytes,
            "open_ms": ms(self.open),
            "load_ms": ms(self.load),
            "first_scores_ms": ms(self.first),
            "peak_bytes": self.peak_bytes,
            "int8_per_s": self.ceilings.int8_per_s,
            "f16_per_s": self.ceilings.f16_per_s,
            "f32_per_s": self.ceilings.f32_per_s,
            "read_bytes_per_s": self.ceilings.read_bytes_per_s,
            "tokens": self.tokens,
            "window": stages(&self.stages),
            "window_ms": total_ms(&self.stages),
            "hop": stages(&self.hop),
            "hop_ms": total_ms(&self.hop),
            "speech_context_errors": self.errors.iter().map(|(name, off)| ((*name).to_owned(), json!(off))).collect::<serde_json::Map<_, _>>(),
        })
    }

    fn table(&self) -> String {
        let mut out = format!("{}\n", self.device);
        let Ceilings { int8_per_s, f16_per_s, f32_per_s, read_bytes_per_s } = self.ceilings;
        out += &format!(
            "ceilings     int8 {:.0} GOP/s, f16 {:.0} GFLOP/s, f32 {:.0} GFLOP/s, reading {:.1} GB/s\n",
            int8_per_s / 1e9,
            f16_per_s / 1e9,
            f32_per_s / 1e9,
            read_bytes_per_s / 1e9
        );
        out += &format!("bundle       {}, {:.1} MB\n", self.quant.name(), self.file_bytes as f64 / 1e6,);
        let (open, load, first) =
            (self.open.as_secs_f64(), self.load.as_secs_f64(), self.first.as_secs_f64());
        out += &format!(
            "cold start   {:.2} s to first scores: opened in {open:.2} s, loaded in {load:.2} s, first window {first:.2} s\n",
            open + load + first
        );
        if let Some(bytes) = self.peak_bytes {
            let beside = (bytes as f64 - self.file_bytes as f64) / 1e6;
            out += &format!("peak memory  {:.1} MB, the file and {beside:.1} MB\n", bytes as f64 / 1e6);
        }
        if !self.errors.is_empty() {
            let parts: Vec<String> =
                self.errors.iter().map(|(name, off)| format!("{name} {off:.1e}")).collect();
            out += &format!("speech       off from whole context: {}\n", parts.join(", "));
        }
        out += "\nwhole window\n";
        self.print(&self.stages, &mut out);
        if let Some(decode) = self.stages.iter().find(|r| r.stage == "decode") {
            let calls = decode.sample.calls as f64;
            out += &format!(
                "decode: {} tokens, {:.1} tokens/s (best window {:.1})\n",
                self.tokens,
                calls / decode.median.as_secs_f64(),
                calls / decode.best.as_secs_f64()
            );
        }
        out += "\nhop of one frame, labels only\n";
        self.print(&self.hop, &mut out);
        out
    }

    fn print(&self, rows: &[Row], out: &mut String) {
        *out += &format!(
            "{:<10} {:>6} {:>10} {:>10} {:>9} {:>9} {:>8} {:>7} {:>6} {:>9} {:>9}\n",
            "stage", "calls", "ms", "best ms", "MB", "GOP", "GOP/s", "GB/s", "share", "products", "launches"
        );
        for r in rows {
            let (seconds, cost) = (r.median.as_secs_f64(), r.sample.cost);
            let (bytes, operations) = (cost.bytes as f64, cost.operations as f64);
            let products = match r.sample.products {
                // Steps that are repeated as a whole do not show theirs.
                Products { operations, .. } if operations * 2 <= cost.operations => "-".to_owned(),
                Products { time, operations } => {
                    let share = operations as f64 / self.product_per_s / time.as_secs_f64();
                    format!("{:.0}%", 100.0 * share)
                }
            };
            *out += &format!(
                "{:<10} {:>6} {:>10.2} {:>10.2} {:>9.1} {:>9.1} {:>8.1} {:>7.1} {:>5.0}% {products:>9} {:>9}\n",
                r.stage,
                r.sample.calls,
                ms(r.median),
                ms(r.best),
                bytes / 1e6,
                operations / 1e9,
                operations / 1e9 / seconds,
                bytes / 1e9 / seconds,
                100.0 * self.floor_s(cost) / seconds,
                r.sample.launches
            );
        }
        let floor: f64 = rows.iter().map(|r| self.floor_s(r.sample.cost)).sum();
        let (total, best) = (total_ms(rows), rows.iter().map(|r| ms(r.best)).sum::<f64>());
        let share = 100.0 * floor * 1e3 / total;
        *out += &format!(
            "{:<10} {:>6} {total:>10.2} {best:>10.2} {:>9} {:>9} {:>8} {:>7} {share:>5.0}%\n",
            "total", "", "", "", "", ""
        );
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn total_ms(rows: &[Row]) -> f64 {
    rows.iter().map(|r| ms(r.median)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Args {
        pub(super) fn of(preset: Preset) -> Args {
            Args {
                bundle: None,
                synthetic: Some(preset),
                quant: Kind::Q8_0,
                threads: 0,
                backend: Device::Cpu,
                windows: 1,
                tokens: 1,
                json: false,
                steps: false,
                audio_context: AudioContext::Whole,
            }
        }
    }

    #[test]
    fn a_tiny_bundle_gets_a_whole_table() {
        let made = || synthetic::bundle(Preset::Tiny, 1, Kind::Q8_0).unwrap();
        let args = Args { windows: 1, tokens: 4, threads: 2, ..Args::of(Preset::Tiny) };
        let report = measure::<Cpu>(&args, made(), Duration::ZERO).unwrap();
        let (table, json) = (report.table(), report.json());
        for stage in ["vision", "branches", "audio", "prefill", "score", "decode"] {
            let row = json["window"].as_array().unwrap().iter().find(|r| r["stage"] == stage);
            let row = row.unwrap_or_else(|| panic!("no stage {stage} in {table}"));
            assert!(row["operations"].as_u64().unwrap() > 0, "{stage} counts no operations");
            assert!(row["bytes"].as_u64().unwrap() > 0, "{stage} counts no bytes");
            assert!(row["launches"].as_u64().unwrap() > 0, "{stage} counts no launches");
            assert!(
                row["median_ms"].as_f64().unwrap() >= row["floor_ms"].as_f64().unwrap(),
                "{stage} beats its floor"
            );
        }
        assert!(json["hop_ms"].as_f64().unwrap() > 0.0);
        assert!(json["peak_bytes"].as_u64().unwrap() > 1 << 20);
        assert!(json["first_scores_ms"].as_f64().unwrap() > 0.0);
        let speech =
            measure::<Cpu>(&Args { audio_context: AudioContext::Speech, ..args }, made(), Duration::ZERO)
                .unwrap()
                .json();
        let operations = |report: &serde_json::Value| {
            let audio = report["window"].as_array().unwrap().iter().find(|r| r["stage"] == "audio").unwrap();
            audio["operations"].as_u64().unwrap()
        };
        assert!(operations(&speech) * 4 < operations(&json), "4 s of 30");
        for (name, most) in [("tokens_of_sound", 0.5), ("tokens_of_silence", 0.5), ("score", 0.5)] {
            let off = speech["speech_context_errors"][name].as_f64().unwrap();
            println!("speech context: {name} {off:.1e}");
            assert!(off > 0.0 && off < most, "{name} is off by {off}");
        }
        assert!(table.contains("decode: 4 tokens"), "{table}");
    }
}
