//! `mien bench`: time every stage of a bundle beside this machine's ceilings.
//!
//! Each window is new to the model: other frames, other sound. A hop shares all but one frame with the window before it.
//! Units: time is the median over the windows; the floor of a stage is the longer of its operations at the ceiling for products
//! and its bytes at the ceiling for reading, and the share is floor by time. `products` is what the products with weights alone reach
//! of the ceiling for products, in a stage whose products are timed one by one.

mod args;
mod meter;
mod nets;
mod report;
mod scene;
mod steps;

pub use args::Args;

#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
#[cfg(not(feature = "cuda"))]
use crate::model;
use crate::{
    backend::cpu::Cpu,
    bundle::{Bundle, synthetic},
    command::open_bundle,
    machine,
    model::{AudioContext, Device, Infer},
};
use anyhow::{Context, Result, bail, ensure};
use meter::rows;
use report::Report;
use scene::{Bench, Measured};
use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

pub fn run(args: Args) -> Result<()> {
    ensure!(args.windows > 0, "--windows 0: at least one window is needed");
    if let Some(folder) = &args.nets {
        return nets::run(folder, args.json);
    }
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
        (None, None) => unreachable!("clap asks for one of them"),
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
    let peak_bytes = machine::resident_bytes_max();
    let errors = match args.audio_context {
        AudioContext::Whole => Vec::new(),
        short => bench.error_of(short)?,
    };
    let ceilings = bench.ceilings()?;
    let product_per_s = B::product_ceiling(&ceilings, quant.products());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Kind, synthetic::Preset};

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
