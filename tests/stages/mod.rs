//! Stages of a model beside those of a reference: runs the model, compares by name, prints a table.
//!
//! Units: `largest` is max |a - b| / max |b|, `rms` is rms(a - b) / rms(b), over all compared values of a stage; `most` is `rms` over its rows
//! without the worst hundredth of them, where every value is compared: a single position of a tower may turn into another.
#![allow(dead_code)]

pub mod fixture;

use mien::{
    bundle::Bundle,
    feature::{image::Resizer, sample_frames},
    model::{self, Decoding, Device, Infer, Input, Reason, Taps, observe::Tapped},
    source::Frame,
};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// In the order of the line; a reference may lack some.
pub const STAGES: [&str; 25] = [
    "pixel_values",
    "vision_embeddings",
    "vision_hidden",
    "video_s1",
    "video_sampler",
    "video_s2",
    "video_tokens",
    "body_s1",
    "body_sampler",
    "body_s2",
    "body_tokens",
    "face_mlp",
    "face_tokens",
    "gate_weights",
    "fused_tokens",
    "mel",
    "whisper_embeddings",
    "whisper_hidden",
    "audio_pooled",
    "audio_tokens",
    "input_embeds",
    "llm_hidden_last",
    "prefill_logits",
    "step_logits",
    "tokens",
];

/// What a reference says of one stage, channels last. `step` 1 means every value is there, else every `step`-th.
#[derive(Clone, Debug)]
pub struct Expected {
    pub values: Vec<f32>,
    pub step: usize,
    /// Values of the whole stage.
    pub len: usize,
    /// Over the whole stage, where `step` is not 1.
    pub rms: Option<f64>,
}

pub type Reference = BTreeMap<String, Expected>;
pub type Values = BTreeMap<String, Tapped>;

#[derive(Clone, Debug)]
pub struct Row {
    pub stage: String,
    pub shape: String,
    pub largest: f64,
    pub rms: f64,
    pub most: f64,
}

/// Recorded input: every frame of a clip, and its sound.
pub struct Clip {
    pub frames: Vec<Frame>,
    pub samples: Vec<f32>,
}

/// A model's values for the frames that upstream would sample, and `steps` greedy tokens. A frame that a short clip shows twice is
/// encoded twice, as upstream does, so that every stage has its rows.
pub fn run(model: &mut dyn Infer, frames_seen: usize, clip: &Clip, steps: usize) -> Values {
    let picked = sample_frames(clip.frames.len(), frames_seen);
    let frames: Vec<(u64, &Frame)> =
        picked.iter().zip(0..).map(|(index, id)| (id, &clip.frames[*index])).collect();
    let input = Input {
        frames: (!frames.is_empty()).then_some(&frames),
        samples: (!clip.samples.is_empty()).then_some(&clip.samples),
        words: None,
    };
    let taps = Taps::of(STAGES);
    model.observe(Some(Box::new(taps.clone())));
    let decoding = Decoding { max_new_tokens: Some(steps), repetition_guard: false, ..Decoding::default() };
    model.set_decoding(decoding).expect("a decoding that every bundle can do");
    model.see("reason", &input).expect("a window");
    model.reason(&mut |_| {}).expect("a reason");
    model.observe(None);
    let mut out = Values::new();
    for tapped in taps.take() {
        match out.get_mut(&tapped.name) {
            Some(all) if tapped.name == "step_logits" => {
                all.rows += tapped.rows;
                all.values.extend(tapped.values);
            }
            // Told again while the answer is made; the prefill came first.
            Some(_) => {}
            None => {
                out.insert(tapped.name.clone(), tapped);
            }
        }
    }
    out
}

/// A run as what another is held against.
pub fn reference(run: &Values) -> Reference {
    let expected = |v: &[f32]| Expected { values: v.to_vec(), step: 1, len: v.len(), rms: None };
    run.iter().map(|(name, tapped)| (name.clone(), expected(&tapped.values))).collect()
}

/// Every stage that the reference has, but for the tokens. Panics when a stage is missing or of another size.
pub fn compare(reference: &Reference, ours: &Values) -> Vec<Row> {
    let mut rows = Vec::new();
    for stage in STAGES {
        let Some(expected) = reference.get(stage).filter(|_| stage != "tokens") else { continue };
        let Some(found) = ours.get(stage) else { panic!("the model handed out no `{stage}`") };
        if stage == "step_logits" {
            rows.push(compare_steps(expected, found, &reference["tokens"], &ours["tokens"]));
            continue;
        }
        assert_eq!(found.values.len(), expected.len, "values of {stage}");
        let picked: Vec<f32> = found.values.iter().copied().step_by(expected.step).collect();
        let mut row = errors(stage, &picked, &expected.values);
        row.shape = format!("{} x {}", found.rows, found.cols);
        if expected.step == 1 {
            row.most = without_worst(&picked, &expected.values, found.cols);
        }
        if let Some(rms) = expected.rms {
            // Of the whole stage, whose other values are not there to compare.
            let ours = mean_square(found.values.iter().map(|v| f64::from(*v))).sqrt();
            row.rms = row.rms.max((ours - rms).abs() / rms);
        }
        rows.push(row);
    }
    rows
}

/// Logits of the steps that followed the same tokens.
fn compare_steps(expected: &Expected, found: &Tapped, tokens: &Expected, ours: &Tapped) -> Row {
    let same = tokens.values.iter().zip(&ours.values).take_while(|(a, b)| a == b).count();
    let steps = (same + 1).min(tokens.len).min(found.rows);
    let picked: Vec<f32> =
        found.values[..steps * found.cols].iter().copied().step_by(expected.step).collect();
    let mut row = errors("step_logits", &picked, &expected.values[..picked.len()]);
    row.shape = format!("{steps} x {}", found.cols);
    row
}

fn mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.map(|v| v * v).sum::<f64>() / n
}

fn errors(stage: &str, ours: &[f32], theirs: &[f32]) -> Row {
    assert_eq!(ours.len(), theirs.len(), "values of {stage}");
    assert!(ours.iter().all(|v| v.is_finite()), "{stage} is not finite");
    let differences = || ours.iter().zip(theirs).map(|(a, b)| f64::from(*a) - f64::from(*b));
    let largest = differences().fold(0.0, |m: f64, d| m.max(d.abs()));
    let highest = theirs.iter().fold(0.0, |m: f64, b| m.max(f64::from(b.abs())));
    let size = mean_square(theirs.iter().map(|b| f64::from(*b)));
    let rms = (mean_square(differences()) / size).sqrt();
    Row { stage: stage.to_owned(), shape: String::new(), largest: largest / highest, rms, most: rms }
}

/// Relative root mean square of rows of `cols` without the worst hundredth of them, rounded up.
fn without_worst(ours: &[f32], theirs: &[f32], cols: usize) -> f64 {
    let squares = |(a, b): (&[f32], &[f32])| {
        let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        (pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>(), pairs().map(|(_, b)| b * b).sum::<f64>())
    };
    let mut rows: Vec<(f64, f64)> = ours.chunks(cols).zip(theirs.chunks(cols)).map(squares).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    rows.truncate(rows.len() - rows.len().div_ceil(100));
    let (differences, sizes) = rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    if sizes > 0.0 { (differences / sizes).sqrt() } else { 0.0 }
}

/// Greedy tokens that agree from the start.
pub fn same_tokens(reference: &Reference, ours: &Values) -> (usize, usize) {
    let (theirs, ours) = (&reference["tokens"].values, &ours["tokens"].values);
    (theirs.iter().zip(ours).take_while(|(a, b)| a == b).count(), theirs.len())
}

pub fn table(rows: &[Row]) -> String {
    let mut out =
        format!("{:20} {:>14} {:>12} {:>12} {:>12}\n", "stage", "rows x cols", "largest", "rms", "most rows");
    for Row { stage, shape, largest, rms, most } in rows {
        writeln!(out, "{stage:20} {shape:>14} {largest:>12.2e} {rms:>12.2e} {most:>12.2e}")
            .expect("a string");
    }
    out
}

/// Bytes of a reference's resized pictures that are not ours.
pub fn resize_differences(clip: &Clip, frames_seen: usize, size: usize, reference: &[u8]) -> usize {
    let mut resizer = Resizer::new(size);
    let mut square = vec![0; size * size * 3];
    let mut different = 0;
    for (index, expected) in
        sample_frames(clip.frames.len(), frames_seen).iter().zip(reference.chunks_exact(square.len()))
    {
        let f = &clip.frames[*index];
        resizer.resize(&f.rgb, f.height as usize, f.width as usize, &mut square);
        different += square.iter().zip(expected).filter(|(a, b)| a != b).count();
    }
    different
}

pub fn open(bundle: &Path, device: Device) -> (Bundle, Box<dyn Infer>) {
    let bundle = Bundle::open(bundle).unwrap_or_else(|e| panic!("{}: {e:#}", bundle.display()));
    let model = model::load(&bundle, device, 0).unwrap_or_else(|e| panic!("{e:#}"));
    (bundle, model)
}

/// An array as numpy stores it, little-endian, rows first.
pub struct Npy {
    pub shape: Vec<usize>,
    pub kind: String,
    pub data: Vec<u8>,
}

pub fn read_npy(path: &Path) -> Npy {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\0", "{}", path.display());
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).expect("an ASCII header");
    assert!(header.contains("'fortran_order': False"), "{}: {header}", path.display());
    let after = |key: &str| header.split_once(key).expect("a header of numpy").1;
    let kind = after("'descr': '").split('\'').next().expect("a kind").to_owned();
    let shape = after("'shape': (").split(')').next().expect("a shape");
    let shape = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    Npy { shape, kind, data: bytes[end..].to_vec() }
}

impl Npy {
    pub fn f32s(&self) -> Vec<f32> {
        let words = self.data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        match self.kind.as_str() {
            "<f4" => words.map(f32::from_le_bytes).collect(),
            "<i4" => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
            other => panic!("numbers of kind {other}"),
        }
    }
}

/// Frames `(n, height, width, 3)` and samples as numpy stores them.
pub fn clip(frames: Option<&Path>, samples: Option<&Path>) -> Clip {
    let frames = frames.map_or_else(Vec::new, |path| {
        let npy = read_npy(path);
        let (height, width) = (npy.shape[1] as u32, npy.shape[2] as u32);
        let bytes = npy.shape[1] * npy.shape[2] * 3;
        let pictures = npy.data.chunks_exact(bytes).map(<[u8]>::to_vec);
        pictures.map(|rgb| Frame { captured_ns: 0, height, width, rgb }).collect()
    });
    Clip { frames, samples: samples.map_or_else(Vec::new, |path| read_npy(path).f32s()) }
}

/// The reason for what was last seen, with something else done after every third step of it.
pub fn reason_between(model: &mut dyn Infer, mut between: impl FnMut(&mut dyn Infer)) -> Reason {
    for step in 0.. {
        if let Some(reason) = model.reason_on(&mut |_| {}).unwrap() {
            return reason;
        }
        if step % 3 == 0 {
            between(model);
        }
    }
    unreachable!("a reason ends")
}
