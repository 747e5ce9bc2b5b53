//! Recordings that tests make, and the demo's.
#![allow(dead_code, reason = "each test takes what it needs")]

use mien::source::{Frame, Gives, Pool, Reading, clip};
use std::path::Path;

/// A WAV file of 16 kHz, mono, 16 bits.
pub fn wav(path: impl AsRef<Path>, samples: impl IntoIterator<Item = i16>) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = hound::WavWriter::create(path, spec).unwrap();
    samples.into_iter().for_each(|sample| file.write_sample(sample).unwrap());
    file.finalize().unwrap();
}

/// The demo's clip: pictures, ten a second, and sound, 16 kHz.
pub fn demo() -> (Vec<Frame>, Vec<i16>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/demo.avi");
    let settings = clip::Settings { path, paced: false, frames_per_second: 10 };
    let mut source = settings.open(&Pool::default()).unwrap();
    let mut left = Gives { video: true, audio: true };
    let (mut frames, mut samples) = (Vec::new(), Vec::new());
    while let Some(reading) = clip::next(&mut *source, &mut left).unwrap() {
        match reading {
            Reading::Frame(frame) => frames.push(frame),
            Reading::Chunk(chunk) => samples.extend(chunk.samples),
            Reading::Lost { .. } | Reading::End { .. } => {}
        }
    }
    (frames, samples)
}
