//! A bundle beside a full reference dump, stage by stage: the parity lanes.
//!
//! `cargo test --test parity_lane -- --bundle B.gguf --dump DIR [--frames F.npy] [--pcm P.npy] [--device scalar|cpu|auto]
//! [--limit 1e-4] [--tokens 32]`, with `DIR` one `.npy` per stage, channels last. Exit 1 when an error is above `--limit` or
//! fewer than `--tokens` greedy tokens agree.

mod stages;

use mien::{bundle::Piece, model::Device};
use stages::{Expected, Reference};
use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")).clone())
    };
    let path = |name: &str| option(name).map(PathBuf::from);
    let (Some(bundle), Some(dump)) = (path("--bundle"), path("--dump")) else {
        eprintln!(
            "--bundle FILE --dump FOLDER [--frames FILE] [--pcm FILE] [--device NAME] [--limit E] [--tokens N]"
        );
        return ExitCode::FAILURE;
    };
    let device: Device = option("--device").map_or(Device::Auto, |d| d.parse().expect("a device"));
    let limit: f64 = option("--limit").map_or(f64::INFINITY, |l| l.parse().expect("a number"));
    let tokens: usize = option("--tokens").map_or(0, |n| n.parse().expect("a number"));

    let mut reference = Reference::new();
    for stage in stages::STAGES {
        let file = dump.join(format!("{stage}.npy"));
        if file.exists() {
            let values = stages::read_npy(&file).f32s();
            reference.insert(stage.to_owned(), Expected { len: values.len(), values, step: 1, rms: None });
        }
    }
    // Ours makes as many choices, but an end of text that ends an answer is no token of it.
    let steps = reference["tokens"].len;
    let clip = stages::clip(path("--frames").as_deref(), path("--pcm").as_deref());
    let (bundle, mut model) = stages::open(&bundle, device);
    let theirs = reference.get_mut("tokens").expect("the reference's tokens");
    if theirs.values.last().is_some_and(|last| bundle.generation().eos.contains(&(*last as u32))) {
        theirs.values.pop();
        theirs.len -= 1;
    }
    println!("{}", model.describe());
    let mut failed = false;

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
        })
        .collect();
    let same = ids == stages::read_npy(&dump.join("input_ids.npy")).f32s();
    println!("prompt tokens: {} ({})", if same { "equal" } else { "DIFFERENT" }, ids.len());
    failed |= !same;
    if !clip.frames.is_empty() {
        let resized = stages::read_npy(&dump.join("frames_resized.npy"));
        let shape = bundle.shape();
        let different = stages::resize_differences(&clip, shape.frames, shape.image, &resized.data);
        println!("resized pictures: {different} of {} bytes differ", resized.data.len());
        failed |= different > 0;
    }

    let ours = stages::run(&mut *model, bundle.shape().frames, &clip, steps);
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
