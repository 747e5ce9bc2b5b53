//! The default bundle on every instruction set of this machine: how far scores are from the scalar reference, and that no set is slower.

use mien::{
    backend::{
        Act, Backend,
        cpu::{Cpu, Level, Precision, scalar::Scalar},
    },
    bundle::{Bundle, Kind, Tensor, block},
    model::{Infer, Input, Model},
    source::{
        Frame, Pool, Reading, Source,
        clip::{Clip, Settings},
    },
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Pictures and sound of the demo's recording.
fn demo() -> (Vec<Frame>, Vec<f32>) {
    let settings = Settings { path: here("models/demo/demo.avi"), paced: false, frames_per_second: 10 };
    let mut clip = Clip::open(&settings, &Pool::default()).unwrap();
    let (mut left, mut frames, mut samples) = (2, Vec::new(), Vec::new());
    while left > 0 {
        match clip.read(Duration::from_secs(1)).unwrap() {
            Some(Reading::Frame(frame)) => frames.push(frame),
            Some(Reading::Chunk(chunk)) => {
                samples.extend(chunk.samples.iter().map(|s| f32::from(*s) / 32_768.0))
            }
            Some(Reading::End { .. }) => left -= 1,
            Some(Reading::Lost { .. }) | None => {}
        }
    }
    (frames, samples)
}

/// Scores of a window every eight seconds, half of one expression and half of the next, with sound and pictures, and with either alone.
fn scores<B: Backend>(backend: B, bundle: &Bundle, frames: &[Frame], samples: &[f32]) -> Vec<Vec<f32>> {
    let mut model = Model::load(backend, bundle).unwrap();
    let (count, set) = (bundle.shape().frames, &bundle.label_sets()[0].name);
    let rate = frames.len() as f64 / (samples.len() as f64 / 16_000.0);
    let mut all = Vec::new();
    for start_s in (2..samples.len() / 16_000 - 4).step_by(8) {
        let at = |i: usize| ((start_s as f64 + (i as f64 + 0.5) * 4.0 / count as f64) * rate) as usize;
        let chosen: Vec<(u64, &Frame)> = (0..count).map(|i| (at(i) as u64, &frames[at(i)])).collect();
        let heard = &samples[start_s * 16_000..(start_s + 4) * 16_000];
        for (video, audio) in [(true, true), (true, false), (false, true)] {
            let input =
                Input { frames: video.then_some(&chosen[..]), samples: audio.then_some(heard), words: None };
            model.see("label", &input).unwrap();
            all.push(model.score(set).unwrap().probabilities.clone());
        }
    }
    all
}

#[test]
fn scores_are_as_near_to_the_reference_as_doctor_says() {
    let bundle = Bundle::open(&here("models/default.gguf")).unwrap();
    let quant = bundle.header().quant.products();
    let (frames, samples) = demo();
    let exact = scores(Scalar, &bundle, &frames, &samples);
    assert!(exact.len() > 10, "{} windows", exact.len());
    for level in Level::available() {
        let cpu = Cpu::with_level(2, Precision::of(quant), level).unwrap();
        let near = scores(cpu, &bundle, &frames, &samples);
        let off: Vec<f32> = exact
            .iter()
            .zip(&near)
            .map(|(exact, near)| exact.iter().zip(near).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
            .collect();
        let worst = off.iter().copied().fold(0.0, f32::max);
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        let best = |scores: &[f32]| (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let same = exact.iter().zip(&near).filter(|(a, b)| best(a) == best(b)).count();
        let bound = level.score_bound(quant);
        println!(
            "{:12} off by {worst:.3} at most, {mean:.4} on average, the same label in {same} of {}; bound {bound}",
            level.name(),
            exact.len()
        );
        assert!(worst <= bound, "{} is off by {worst}, more than {bound}", level.name());
    }
}

/// The plain set is for machines without vectors that we know; it must be worth having beside the reference. It needs an optimising
/// compiler to find its vectors: a debug build only holds that it is not far behind.
#[test]
fn no_instruction_set_is_slower_than_the_reference() {
    let least = if cfg!(debug_assertions) { 0.6 } else { 1.0 };
    let (rows, outputs, cols) = (48, 256, 512);
    let values: Vec<f32> =
        (0..outputs * cols).map(|i| ((i * 7919 % 2003) as f32 - 1001.0) / 1001.0).collect();
    for kind in [Kind::Q8_0, Kind::Q4_0] {
        let mut data = Vec::new();
        block::encode(kind, &values, &mut data).unwrap();
        let tensor = Tensor { name: "w", kind, rows: outputs, cols, data: &data };
        for level in Level::available() {
            // In turn and again, so that what else the machine does for a while is not taken for a slow level.
            let (mut reference, mut took, mut ratio) = (Duration::MAX, Duration::MAX, 0.0);
            for _ in 0..20 {
                reference = reference.min(time(Scalar, &tensor, rows));
                took = took.min(time(Cpu::with_level(1, Precision::Int8, level).unwrap(), &tensor, rows));
                ratio = reference.as_secs_f64() / took.as_secs_f64();
                if ratio > least {
                    break;
                }
            }
            println!("{kind:?} {:12} {ratio:.1} times the reference, one thread", level.name());
            assert!(
                ratio > least,
                "{kind:?} on {} takes {took:?}, the reference {reference:?}",
                level.name()
            );
        }
    }
}

/// The fastest of a few products.
fn time<B: Backend>(mut backend: B, tensor: &Tensor<'_>, rows: usize) -> Duration {
    let w = backend.matrix(std::slice::from_ref(tensor)).unwrap();
    let x = backend.vector(&vec![0.5; rows * tensor.cols]).unwrap();
    let mut out = backend.alloc(rows * tensor.rows).unwrap();
    let once = |_| {
        let begun = Instant::now();
        backend.linear(&x, rows, &w, None, Act::None, &mut out);
        backend.read(&out, 0, &mut [0.0]).unwrap();
        begun.elapsed()
    };
    (0..7).map(once).min().unwrap()
}
