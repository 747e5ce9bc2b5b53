//! A bundle beside a full reference dump, beside itself on another device, or against another bundle of the same model, stage by stage: the
//! lanes of parity, `tools/test quant` and `tools/gpu`.
//!
//! `cargo test --test parity_lane -- --bundle B.gguf --dump DIR [--frames F.npy] [--pcm P.npy] [--device scalar|cpu|cuda|auto]
//! [--limit 1e-4] [--tokens 32]`, with `DIR` one `.npy` per stage, channels last. `--beside DEVICE [--steps 32]` takes the place of
//! `--dump`, with a clip that is made here and as many greedy tokens; so does `--against BUNDLE`, with the clip that is named. `--audio-context
//! speech` is for the bundle alone, and `--heard N` compares the first N audio tokens. Exit 1 when an error is above `--limit` or fewer than `--tokens` greedy tokens agree.

mod stages;

use mien::{
    bundle::{Bundle, Piece},
    model::Device,
    source::Frame,
};
use stages::{Clip, Expected, Reference};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")).clone())
    };
    let path = |name: &str| option(name).map(PathBuf::from);
    let (bundle, dump) = (path("--bundle"), path("--dump"));
    let beside = option("--beside").map(|d| d.parse::<Device>().expect("a device"));
    let against = path("--against");
    let references = [dump.is_some(), beside.is_some(), against.is_some()];
    let (Some(bundle), 1) = (bundle, references.into_iter().filter(|&there| there).count()) else {
        eprintln!(
            "--bundle FILE (--dump FOLDER | --beside DEVICE | --against BUNDLE) [--frames FILE] [--pcm FILE] [--device NAME] [--limit E] [--tokens N]"
        );
        return ExitCode::FAILURE;
    };
    let device: Device = option("--device").map_or(Device::Auto, |d| d.parse().expect("a device"));
    let limit: f64 = option("--limit").map_or(f64::INFINITY, |l| l.parse().expect("a number"));
    let tokens: usize = option("--tokens").map_or(0, |n| n.parse().expect("a number"));

    let (clip, mut reference, steps, mut failed) = match &dump {
        Some(dump) => {
            dumped(&bundle, dump, stages::clip(path("--frames").as_deref(), path("--pcm").as_deref()))
        }
        None => {
            let clip = match &against {
                Some(_) => stages::clip(path("--frames").as_deref(), path("--pcm").as_deref()),
                None => made_clip(),
            };
            let steps = option("--steps").map_or(32, |n| n.parse().expect("a number"));
            let other = against.as_deref().unwrap_or(&bundle);
            let reference = answered(other, beside.unwrap_or(device), &clip, steps);
            (clip, reference, steps, false)
        }
    };
    let (bundle, mut model) = stages::open(&bundle, device);
    println!("{}", model.describe());
    if let Some(context) = option("--audio-context") {
        model
            .set_audio_context(context.parse().expect("whole or speech"))
            .expect("a context that this bundle can do");
    }
    let mut ours = stages::run(&mut *model, bundle.shape().frames, &clip, steps);
    if let (Some(rows), Some(tapped)) = (option("--heard"), ours.get_mut("audio_tokens")) {
        let rows: usize = rows.parse().expect("a number");
        let values = rows * tapped.cols;
        (tapped.rows, tapped.values) = (rows, tapped.values[..values].to_vec());
        let expected = reference.get_mut("audio_tokens").expect("a reference with sound");
        (expected.len, expected.values) = (values, expected.values[..values].to_vec());
        // Of a shorter context the other stages of sound have other rows.
        reference.retain(|stage, _| stage == "audio_tokens" || stage == "tokens");
    }
    let rows = stages::compare(&reference, &ours);
    print!("{}", stages::table(&rows));
    let (same, of) = stages::same_tokens(&reference, &ours);
    println!("greedy tokens: {same} of {of} equal");
    for row in rows.iter().filter(|r| r.largest.max(r.rms) > limit) {
        println!("ABOVE {limit:.0e}: {}", row.stage);
        failed = true;
    }
    if same < tokens.min(of) || of < tokens {
        println!("TOKENS: {tokens} must be equal");
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The dump in `dump`, the choices it made, and whether its prompt or its pictures are others than the bundle's.
fn dumped(bundle: &Path, dump: &Path, clip: Clip) -> (Clip, Reference, usize, bool) {
    let mut reference = Reference::new();
    for stage in stages::STAGES {
        let file = dump.join(format!("{stage}.npy"));
        if file.exists() {
            let values = stages::read_npy(&file).f32s();
            reference.insert(stage.to_owned(), Expected { len: values.len(), values, step: 1, rms: None });
        }
    }
    let bundle = Bundle::open(bundle).unwrap_or_else(|e| panic!("{}: {e:#}", bundle.display()));
    // Ours makes as many choices, but an end of text that ends an answer is no token of it.
    let theirs = reference.get_mut("tokens").expect("the reference's tokens");
    let steps = theirs.len;
    if theirs.values.last().is_some_and(|last| bundle.generation().eos.contains(&(*last as u32))) {
        theirs.values.pop();
        theirs.len -= 1;
    }

    let prompt = bundle.prompt("reason").expect("the standard prompt");
    let pieces = match (clip.frames.is_empty(), clip.samples.is_empty()) {
        (false, false) => &prompt.video_audio,
        (false, true) => &prompt.video,
        _ => &prompt.audio,
    };
    let ids: Vec<f32> = pieces
        .iter()
        .flat_map(|piece| match piece {
            Piece::Text(ids) => ids.iter().map(|id| *id as f32).collect(),
            Piece::Video => vec![-201.0],
            Piece::Audio => vec![-202.0],
            Piece::Words => vec![-203.0],
        })
        .collect();
    let same = ids == stages::read_npy(&dump.join("input_ids.npy")).f32s();
    println!("prompt tokens: {} ({})", if same { "equal" } else { "DIFFERENT" }, ids.len());
    let mut failed = !same;
    if !clip.frames.is_empty() {
        let resized = stages::read_npy(&dump.join("frames_resized.npy"));
        let shape = bundle.shape();
        let different = stages::resize_differences(&clip, shape.frames, shape.image, &resized.data);
        println!("resized pictures: {different} of {} bytes differ", resized.data.len());
        failed |= different > 0;
    }
    (clip, reference, steps, failed)
}

/// What the bundle answers on another device.
fn answered(bundle: &Path, device: Device, clip: &Clip, steps: usize) -> Reference {
    let (bundle, mut model) = stages::open(bundle, device);
    println!("beside {}", model.describe());
    stages::reference(&stages::run(&mut *model, bundle.shape().frames, clip, steps))
}

/// Eight pictures of waves and four seconds of a rising tone.
fn made_clip() -> Clip {
    let wave = |i: u32, x: u32, y: u32| ((x * (3 + i) + y * 2) as f32 * 0.05).sin() * 100.0 + 128.0;
    let rgb = |i: u32| {
        (0..240).flat_map(move |y| (0..320).flat_map(move |x| [0, 1, 2].map(|c| wave(i + c, x, y) as u8)))
    };
    let frames = (0..8).map(|i| Frame { captured_ns: 0, height: 240, width: 320, rgb: rgb(i).collect() });
    let tone =
        |i: u32| ((120.0 + i as f32 / 400.0) * i as f32 / 16_000.0 * std::f32::consts::TAU).sin() * 0.4;
    Clip { frames: frames.collect(), samples: (0..64_000).map(tone).collect() }
}
