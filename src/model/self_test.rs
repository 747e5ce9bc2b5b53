//! Does this device compute what the packer's did? One window that every device can make, and the scores that it got when packed.
//!
//! Limits: a device that is right stays within [`TOLERANCE`]; the test tells a broken kernel, driver or memory from rounding, and says
//! nothing about accuracy on people.

use crate::{
    bundle::{Bundle, SelfTest, Shape},
    model::infer::{Infer, Input},
    source::{Frame, SAMPLE_RATE},
};
use anyhow::{Context, Result, ensure};

/// Largest difference of a probability. The instruction sets of a processor differ by less than 0.002 on the default bundle.
pub const TOLERANCE: f32 = 0.05;

/// Pixels of a picture, across and down.
const PICTURE: u32 = 224;
/// Sound at most.
const SOUND_MS: usize = 4_000;
/// Samples in a period of the tone, and in a swell of its loudness.
const TONE: usize = 80;
const SWELL: usize = 8_000;

/// The scores of a bundle's self-test on the device of `infer`, for its header.
pub fn measure(bundle: &Bundle, infer: &mut dyn Infer) -> Result<SelfTest> {
    let set = bundle.label_sets().first().context("the bundle has no label set")?;
    let prompt = bundle.prompts().iter().find(|prompt| prompt.name == "label").or(bundle.prompts().first());
    let prompt = prompt.context("the bundle has no prompt")?.name.clone();
    let mut test = SelfTest { prompt, labels: set.name.clone(), scores: Vec::new() };
    test.scores = scores(bundle.shape(), infer, &test)?;
    Ok(test)
}

/// Compares the device of `infer` with the one that packed the bundle, and returns the largest difference; `None` where the bundle
/// holds no self-test. The model is as it was loaded: with other settings it may score otherwise.
pub fn check(bundle: &Bundle, infer: &mut dyn Infer) -> Result<Option<f32>> {
    let Some(test) = &bundle.header().self_test else { return Ok(None) };
    let found = scores(bundle.shape(), infer, test)?;
    let off = found.iter().zip(&test.scores).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    ensure!(
        off <= TOLERANCE && found.iter().all(|score| score.is_finite()),
        "the self-test failed: this device scores {found:.3?}, and the one that packed the bundle {:.3?}; try model.backend = \"cpu\", \
         and run `mien doctor`",
        test.scores
    );
    Ok(Some(off))
}

fn scores(shape: &Shape, infer: &mut dyn Infer, test: &SelfTest) -> Result<Vec<f32>> {
    let frames: Vec<Frame> = (0..shape.frames as u32).map(picture).collect();
    // Ids that no real frame will have.
    let frames: Vec<(u64, &Frame)> = (u64::MAX / 2..).zip(&frames).collect();
    let samples: Vec<f32> =
        (0..SOUND_MS.min(shape.hears_ms()) * SAMPLE_RATE as usize / 1_000).map(sample).collect();
    infer.see(&test.prompt, &Input { frames: Some(&frames), samples: Some(&samples), words: None })?;
    Ok(infer.score(&test.labels)?.probabilities.clone())
}

/// Ramps of another slope for each colour, that move from picture to picture.
fn picture(number: u32) -> Frame {
    let pixel = |i: u32| {
        let (y, x, c) = (i / 3 / PICTURE, i / 3 % PICTURE, i % 3);
        (x * (c + 1) + y * (3 - c) + 16 * number) as u8
    };
    let rgb = (0..PICTURE * PICTURE * 3).map(pixel).collect();
    Frame { captured_ns: 0, height: PICTURE, width: PICTURE, rgb }
}

/// A triangle of 200 Hz, twice a second as loud as in between.
fn sample(i: usize) -> f32 {
    let triangle = |at: usize, period: usize| {
        let part = (at % period) as f32 / period as f32;
        4.0 * (part - 0.5).abs() - 1.0
    };
    0.25 * triangle(i, TONE) * (1.0 + triangle(i, SWELL)) / 2.0
}
