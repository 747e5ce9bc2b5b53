//! Sound as a device or a file has it, to 16 kHz mono.
//!
//! Shapes: in, interleaved `(frames, channels)` f32; out, `(samples,)` f32 at 16 kHz.
//! Downmix: the rule of the training data's decoder. One channel as it is; two `(L + R) / sqrt 2`, not the mean; six
//! (5.1) `(L + R) / sqrt 2 + C + (Ls + Rs) / 2`; any other number `sum / sqrt(channels)`.
//! Invariant: output sample `k` stands for the input time `k / 16000` s: the filter's delay is taken out. 16 kHz input
//! passes untouched.

use super::SAMPLE_RATE;
use anyhow::{Context, Result, ensure};
use rubato::{Fft, FixedSync, Resampler as _, audioadapter_buffers::direct::SequentialSlice};

/// Input frames that the filter takes at a time, about.
const BLOCK: usize = 1_024;

pub struct Resampler {
    rate: u32,
    channels: usize,
    fft: Option<Fft<f32>>,
    /// Mono input that does not fill a block yet.
    pending: Vec<f32>,
    block: Vec<f32>,
    /// Output samples still to drop: the filter's delay.
    skip: usize,
    taken: u64,
    made: u64,
}

impl Resampler {
    pub fn new(rate: u32, channels: usize) -> Result<Self> {
        ensure!((4_000..=384_000).contains(&rate), "{rate} Hz sound: 4000 to 384000 Hz can be used");
        ensure!((1..=64).contains(&channels), "{channels} channels of sound: 1 to 64 can be used");
        let fft = match rate {
            SAMPLE_RATE => None,
            _ => Some(
                Fft::new_custom(
                    rate as usize,
                    SAMPLE_RATE as usize,
                    block(rate),
                    1,
                    1,
                    rubato::WindowFunction::BlackmanHarris2,
                    FixedSync::Both,
                )
                .with_context(|| format!("{rate} Hz cannot be resampled to {SAMPLE_RATE} Hz"))?,
            ),
        };
        let block = fft.as_ref().map_or(0, |fft| fft.output_frames_max());
        let skip = fft.as_ref().map_or(0, |fft| fft.output_delay());
        let pending = Vec::with_capacity(fft.as_ref().map_or(0, |fft| 2 * fft.input_frames_max()));
        Ok(Self { rate, channels, fft, pending, block: vec![0.0; block], skip, taken: 0, made: 0 })
    }

    /// Takes whole interleaved frames and appends what comes out.
    pub fn push(&mut self, interleaved: &[f32], out: &mut Vec<f32>) {
        assert_eq!(interleaved.len() % self.channels, 0, "whole frames of {} channels", self.channels);
        self.taken += (interleaved.len() / self.channels) as u64;
        let before = out.len();
        for frame in interleaved.chunks_exact(self.channels) {
            let mono = downmix(frame);
            let Some(fft) = &mut self.fft else {
                out.push(mono);
                continue;
            };
            self.pending.push(mono);
            if self.pending.len() == fft.input_frames_next() {
                filter(fft, &self.pending, &mut self.block, &mut self.skip, out);
                self.pending.clear();
            }
        }
        self.made += (out.len() - before) as u64;
    }

    /// The end of a recording: appends what the filter still holds, so that the length is that of the input.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let whole = (self.taken * u64::from(SAMPLE_RATE)).div_ceil(u64::from(self.rate));
        let Some(fft) = &mut self.fft else { return };
        while self.made < whole {
            self.pending.resize(fft.input_frames_next(), 0.0);
            let before = out.len();
            filter(fft, &self.pending, &mut self.block, &mut self.skip, out);
            self.pending.clear();
            self.made += (out.len() - before) as u64;
        }
        out.truncate(out.len() - (self.made - whole) as usize);
        self.made = whole;
    }

    /// Forgets all sound so far: what comes next does not follow on.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.taken = 0;
        self.made = 0;
        if let Some(fft) = &mut self.fft {
            fft.reset();
            self.skip = fft.output_delay();
        }
    }

    /// 16 kHz samples sent since the start or the last `reset`.
    pub fn made(&self) -> u64 {
        self.made
    }
}

/// The input frames of a block: near `BLOCK`, a whole number of output samples, and even, so that half of it, the filter's delay,
/// is whole too.
fn block(rate: u32) -> usize {
    let (mut unit, mut rest) = (rate, SAMPLE_RATE);
    while rest != 0 {
        (unit, rest) = (rest, unit % rest);
    }
    let step = 2 * (rate / unit) as usize;
    BLOCK.div_ceil(step) * step
}

fn filter(fft: &mut Fft<f32>, input: &[f32], block: &mut [f32], skip: &mut usize, out: &mut Vec<f32>) {
    let frames = block.len();
    let source = SequentialSlice::new(input, 1, input.len()).expect("one channel of this very length");
    let mut sink = SequentialSlice::new_mut(block, 1, frames).expect("one channel of this very length");
    let (_, made) =
        fft.process_into_buffer(&source, &mut sink, None).expect("a whole input block, room for the output");
    let drop = made.min(*skip);
    *skip -= drop;
    out.extend_from_slice(&block[drop..made]);
}

fn downmix(frame: &[f32]) -> f32 {
    use std::f32::consts::FRAC_1_SQRT_2;
    match *frame {
        [mono] => mono,
        [left, right] => (left + right) * FRAC_1_SQRT_2,
        [left, right, centre, _low, left_back, right_back] => {
            (left + right) * FRAC_1_SQRT_2 + centre + (left_back + right_back) * 0.5
        }
        _ => frame.iter().sum::<f32>() / (frame.len() as f32).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sine at `rate`, through in pieces of odd sizes, against the same sine at 16 kHz: level, frequency, phase, DC.
    fn sine_stays(rate: u32) {
        let (hz, level, seconds) = (437.0_f64, 0.4, 2);
        let sine = |k: u64, rate: u32| {
            (level * (std::f64::consts::TAU * hz * k as f64 / f64::from(rate)).sin()) as f32
        };
        let input: Vec<f32> = (0..u64::from(rate) * seconds).map(|k| sine(k, rate)).collect();
        let mut resampler = Resampler::new(rate, 1).unwrap();
        let mut out = Vec::new();
        for piece in input.chunks(777) {
            resampler.push(piece, &mut out);
        }
        resampler.finish(&mut out);
        assert_eq!(out.len() as u64, 16_000 * seconds, "{rate} Hz");
        let (mut worst, mut sum) = (0.0_f32, 0.0_f64);
        for (k, &sample) in out.iter().enumerate().take(30_000).skip(2_000) {
            worst = worst.max((sample - sine(k as u64, 16_000)).abs());
            sum += f64::from(sample);
        }
        assert!(worst < 1e-3, "{rate} Hz: differs by {worst}");
        assert!((sum / 28_000.0).abs() < 1e-3, "{rate} Hz: DC {}", sum / 28_000.0);
    }

    #[test]
    fn a_sine_keeps_level_frequency_and_phase() {
        for rate in [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
            sine_stays(rate);
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_is_filtered_out() {
        let input: Vec<f32> = (0..48_000)
            .map(|k| (std::f64::consts::FRAC_PI_2 * f64::from(k % 4) + 0.3).sin() as f32)
            .collect();
        let mut out = Vec::new();
        Resampler::new(48_000, 1).unwrap().push(&input, &mut out);
        let worst = out[1_000..].iter().fold(0.0_f32, |worst, sample| worst.max(sample.abs()));
        assert!(worst < 1e-3, "12 kHz comes out at {worst}");
    }

    #[test]
    fn sixteen_kilohertz_passes_untouched() {
        let input: Vec<f32> = (0..4_000).map(|k| (k as f32 * 0.37).sin()).collect();
        let mut out = Vec::new();
        Resampler::new(16_000, 1).unwrap().push(&input, &mut out);
        assert_eq!(out, input);
    }

    #[test]
    fn channels_are_mixed_as_the_training_data_was() {
        let root = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(downmix(&[0.25]), 0.25);
        assert_eq!(downmix(&[0.5, 0.25]), 0.75 * root);
        let surround = [(0, root), (1, root), (2, 1.0), (3, 0.0), (4, 0.5), (5, 0.5)];
        for (channel, gain) in surround {
            let mut frame = [0.0; 6];
            frame[channel] = 1.0;
            assert_eq!(downmix(&frame), gain, "channel {channel} of 5.1");
        }
        assert_eq!(downmix(&[1.0; 4]), 2.0);
    }

    #[test]
    fn a_reset_starts_afresh() {
        let input: Vec<f32> = (0..9_000).map(|k| (k as f32 * 0.01).sin()).collect();
        let mut resampler = Resampler::new(48_000, 1).unwrap();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        resampler.push(&input, &mut first);
        resampler.reset();
        resampler.push(&input, &mut second);
        assert_eq!(first, second);
        assert_eq!(resampler.made(), second.len() as u64);
    }

    #[test]
    fn impossible_rates_are_refused() {
        assert!(Resampler::new(0, 1).is_err());
        assert!(Resampler::new(u32::MAX, 1).is_err());
        assert!(Resampler::new(16_000, 0).is_err());
    }
}
