//! Log-mel spectrogram as the audio tower reads it.
//!
//! Shapes: in `(samples,)` f32 at 16 kHz; out `(frames, mels)`, one row per 10 ms, padded with silence to `frames`: 3000 for R1-Omni.
//! Units: `log10` of power per mel band, cut 8 below the maximum of the whole picture, then `(m + 4) / 4`.
//! Limits: sound after the last frame is not heard. A sample that is not a number makes its frames silent.

use realfft::{RealFftPlanner, RealToComplex};
use std::sync::Arc;

pub const RATE_HZ: usize = 16_000;
/// Samples from one row to the next.
const HOP: usize = 160;
const SPAN: usize = 400;
const BINS: usize = SPAN / 2 + 1;
const FLOOR: f64 = 1e-10;

/// One triangle over the bins: the first bin, and the weights from there.
struct Band {
    first: usize,
    weights: Vec<f64>,
}

/// Tables and scratch for log-mel pictures of `frames` rows and `mels` bands.
pub struct Mel {
    frames: usize,
    bands: Vec<Band>,
    taper: Vec<f64>,
    fft: Arc<dyn RealToComplex<f64>>,
    span: Vec<f64>,
    spectrum: Vec<realfft::num_complex::Complex<f64>>,
    scratch: Vec<realfft::num_complex::Complex<f64>>,
    power: Vec<f64>,
}

impl Mel {
    /// `frames` is at least 2: a span is mirrored at the end of the sound.
    pub fn new(mels: usize, frames: usize) -> Self {
        assert!(frames * HOP > SPAN / 2, "{frames} frames are shorter than a span");
        let fft = RealFftPlanner::new().plan_fft_forward(SPAN);
        let turn = std::f64::consts::TAU / SPAN as f64;
        Self {
            frames,
            bands: bands(mels),
            taper: (0..SPAN).map(|n| 0.5 - 0.5 * (turn * n as f64).cos()).collect(),
            span: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            power: vec![0.0; BINS],
            fft,
        }
    }

    /// `out` is `(frames, mels)`.
    pub fn log_mel(&mut self, samples: &[f32], out: &mut [f32]) {
        let (mels, frames) = (self.bands.len(), self.frames);
        assert!(out.len() == frames * mels, "{} values for {frames} x {mels}", out.len());
        let samples_max = frames * HOP;
        let samples = &samples[..samples.len().min(samples_max)];
        let mut loudest = FLOOR.log10();
        for (frame, row) in out.chunks_exact_mut(mels).enumerate() {
            let start = frame * HOP;
            if start >= samples.len() + SPAN / 2 && start + SPAN / 2 <= samples_max {
                row.fill(FLOOR.log10() as f32);
                continue;
            }
            self.spectrum_at(samples, start);
            for (o, band) in row.iter_mut().zip(&self.bands) {
                let sum: f64 = band.weights.iter().zip(&self.power[band.first..]).map(|(w, p)| w * p).sum();
                let log = sum.max(FLOOR).log10();
                loudest = loudest.max(log);
                *o = log as f32;
            }
        }
        let floor = (loudest - 8.0) as f32;
        for o in out {
            *o = (o.max(floor) + 4.0) / 4.0;
        }
    }

    /// Power of the span that is centred on `center`; the padded sound is mirrored at both of its ends.
    fn spectrum_at(&mut self, samples: &[f32], center: usize) {
        let samples_max = self.frames * HOP;
        for (n, (s, taper)) in self.span.iter_mut().zip(&self.taper).enumerate() {
            let mut at = (center + n).abs_diff(SPAN / 2);
            if at >= samples_max {
                at = 2 * (samples_max - 1) - at;
            }
            *s = samples.get(at).map_or(0.0, |v| f64::from(*v)) * taper;
        }
        self.fft
            .process_with_scratch(&mut self.span, &mut self.spectrum, &mut self.scratch)
            .expect("the buffers were made by this plan");
        for (p, c) in self.power.iter_mut().zip(&self.spectrum) {
            *p = c.norm_sqr();
        }
    }
}

/// Triangles equally wide on Slaney's mel scale from 0 to 8 kHz, each of the same area in Hz.
fn bands(mels: usize) -> Vec<Band> {
    let top = hz_to_mel(RATE_HZ as f64 / 2.0);
    let edges: Vec<f64> = (0..mels + 2).map(|i| mel_to_hz(top * i as f64 / (mels + 1) as f64)).collect();
    let bin_hz = RATE_HZ as f64 / SPAN as f64;
    edges
        .windows(3)
        .map(|edge| {
            let (left, middle, right) = (edge[0], edge[1], edge[2]);
            let height = |bin: usize| {
                let hz = bin as f64 * bin_hz;
                let triangle = ((hz - left) / (middle - left)).min((right - hz) / (right - middle));
                triangle.max(0.0) * 2.0 / (right - left)
            };
            let first = (0..BINS).find(|b| height(*b) > 0.0).unwrap_or(0);
            Band { first, weights: (first..BINS).map(height).take_while(|w| *w > 0.0).collect() }
        })
        .collect()
}

/// Linear below 1 kHz, logarithmic above.
const KNEE_HZ: f64 = 1000.0;
const KNEE_MEL: f64 = 15.0;
const MELS_PER_NEPER: f64 = 27.0;
const SPREAD: f64 = 6.4;

fn hz_to_mel(hz: f64) -> f64 {
    if hz < KNEE_HZ {
        hz * KNEE_MEL / KNEE_HZ
    } else {
        KNEE_MEL + (hz / KNEE_HZ).ln() * MELS_PER_NEPER / SPREAD.ln()
    }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < KNEE_MEL {
        mel * KNEE_HZ / KNEE_MEL
    } else {
        KNEE_HZ * ((mel - KNEE_MEL) * SPREAD.ln() / MELS_PER_NEPER).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: usize = 3000;

    #[test]
    fn silence_is_minus_one_and_a_half() {
        let mut out = vec![0.0; FRAMES * 128];
        Mel::new(128, FRAMES).log_mel(&[], &mut out);
        assert!(out.iter().all(|v| *v == -1.5));
    }

    #[test]
    fn a_tone_stands_in_its_band_and_only_while_it_sounds() {
        let tone: Vec<f32> =
            (0..RATE_HZ).map(|n| (std::f32::consts::TAU * 440.0 * n as f32 / RATE_HZ as f32).sin()).collect();
        let mut out = vec![0.0; FRAMES * 128];
        Mel::new(128, FRAMES).log_mel(&tone, &mut out);
        let row = &out[50 * 128..51 * 128];
        let peak = (0..128).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        let want = hz_to_mel(440.0) / hz_to_mel(8000.0) * 129.0 - 1.0;
        assert!((peak as f64 - want).abs() <= 1.0, "band {peak}, expected near {want}");
        let floor = out.iter().copied().fold(f32::MAX, f32::min);
        assert!(out[103 * 128..].iter().all(|v| *v == floor));
        assert!(row[peak] - floor > 1.9);
    }

    #[test]
    fn sound_after_the_last_frame_is_not_heard() {
        let noise = |n: usize| ((n * 7919 % 1009) as f32 / 504.5 - 1.0) * 0.1;
        for frames in [2, 24, 400, FRAMES] {
            let samples_max = frames * HOP;
            let long: Vec<f32> = (0..samples_max + 5000).map(noise).collect();
            let (mut a, mut b) = (vec![0.0; frames * 80], vec![0.0; frames * 80]);
            let mut mel = Mel::new(80, frames);
            mel.log_mel(&long, &mut a);
            mel.log_mel(&long[..samples_max], &mut b);
            assert_eq!(a, b, "{frames} frames");
        }
    }

    #[test]
    fn the_scale_and_its_inverse_agree() {
        for hz in [0.0, 100.0, 999.0, 1000.0, 1001.0, 8000.0] {
            assert!((mel_to_hz(hz_to_mel(hz)) - hz).abs() < 1e-9, "{hz}");
        }
    }
}
