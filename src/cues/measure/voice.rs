//! What is measured of a voice: sound in, one [`Phrase`] out for what is said between two pauses.
//!
//! Every 10 ms one step is measured: pitch, level, the balance of high and low sound, and how strong the syllables' band is. A
//! phrase sums up the steps from one pause to the next.
//! Units: `_ns` on the capture clock; pitch in semitones above 100 Hz; levels in dB, loudness as in ITU-R BS.1770 (LUFS) over the phrase.
//! Limits: nothing is allocated after `new`; a phrase of `STEPS` is cut there.

use super::{
    filter::Biquad,
    pitch::{self, LOOK, VOICED},
};
use crate::source::{Chunk, SAMPLE_RATE, sample_f32};
use std::f64::consts::FRAC_1_SQRT_2;
use zeroize::Zeroize;

/// Milliseconds of a step.
const STEP_MS: u64 = 10;
const STEP: usize = SAMPLE_RATE as usize / 100;
const HALF: usize = STEP / 2;
/// The longest phrase: 2 s, so that a window of 4 s always has one that is whole.
const STEPS: usize = 200;
/// Silence that ends a phrase, in steps: longer than the closure of a stop, shorter than a breath.
const PAUSE: usize = 30;
/// So many steps later the pitch before says nothing of the next.
const FORGET: usize = 3;
/// Voiced steps that make a phrase worth measuring.
const VOICED_MIN: usize = 25;
/// Steps quieter than this (dB below full scale) hold no voice, whatever repeats in them.
const FLOOR_DB: f32 = -60.0;
/// Steps this far below the loudest of their phrase are room, not voice.
const DOWN_DB: f32 = 35.0;
/// Pitch is smoothed over so many steps to each side: what is faster is trembling.
const SMOOTH: usize = 7;
/// A syllable's nucleus stands out by this much from the dips around it. De Jong and Wempe (2009) take 2 dB.
const NUCLEUS_DB: f32 = 2.0;
/// A half-band low-pass, 15 taps under a Hamming window, from the outer one to the middle: every second one is 0, the middle 0.5.
const HALF_BAND: [f32; 4] = [-0.003_64, 0.016_12, -0.068_15, 0.303_82];

/// A step is about the middle of the look that it is measured from.
const BEHIND_NS: u64 = LOOK as u64 / 2 * 1_000_000_000 / pitch::RATE as u64;

/// 10 ms of sound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Step {
    /// 0 where there is no voice.
    pub hz: f32,
    /// Of K-weighted sound.
    pub level_db: f32,
    /// Above 1 kHz against below it.
    pub tilt_db: f32,
    /// Of the syllables' band.
    pub band_db: f32,
}

/// What was measured of one phrase.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Phrase {
    pub start_ns: u64,
    pub end_ns: u64,
    /// Steps with voice.
    pub voiced: u16,
    /// Median, in semitones above 100 Hz.
    pub pitch: f32,
    /// From the tenth to the ninetieth of a hundred, in semitones, of smoothed pitch.
    pub range: f32,
    /// How far pitch jumps about its smoothed course, in semitones (rms).
    pub tremble: f32,
    pub tilt_db: f32,
    pub loudness_db: f32,
    /// Syllables in a second, pauses within the phrase among it.
    pub rate: f32,
}

/// What running sound gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Heard {
    Step(u64, Step),
    Phrase(Phrase),
}

/// Measures running sound.
#[derive(Debug)]
pub struct Voice {
    shelf: Biquad,
    rumble: Biquad,
    /// Takes away an offset, which would look like a period of any length.
    level: Biquad,
    low: Biquad,
    high: Biquad,
    band: [Biquad; 2],
    round: Biquad,
    /// The last samples at 16 kHz for the half-band; sound at 8 kHz for the next look, and without its formants for pitch.
    taps: [f32; 15],
    odd: bool,
    look: Vec<f32>,
    tone: Vec<f32>,
    before_hz: f32,
    /// Steps since there was pitch.
    silent: usize,
    weighted: f32,
    filled: usize,
    /// When the next sample is due.
    due_ns: Option<u64>,
    steps: Box<[Step; STEPS]>,
    len: usize,
    quiet: usize,
    scratch: Box<Scratch>,
}

#[derive(Debug)]
struct Scratch {
    pitch: [f32; STEPS],
    smooth: [f32; STEPS],
    sorted: [f32; STEPS],
}

impl Default for Voice {
    fn default() -> Self {
        let rate = f64::from(SAMPLE_RATE);
        let half = rate / 2.0;
        Voice {
            shelf: Biquad::head_shelf(rate),
            rumble: Biquad::high_pass(38.135, 0.500_327, rate),
            level: Biquad::high_pass(30.0, FRAC_1_SQRT_2, half),
            low: Biquad::low_pass(1_000.0, half),
            high: Biquad::high_pass(1_000.0, FRAC_1_SQRT_2, half),
            band: [Biquad::high_pass(300.0, FRAC_1_SQRT_2, half), Biquad::low_pass(2_500.0, half)],
            taps: [0.0; 15],
            odd: false,
            round: Biquad::low_pass(pitch::FORMANTS_HZ, half),
            look: Vec::with_capacity(LOOK + HALF),
            tone: Vec::with_capacity(LOOK + HALF),
            before_hz: 0.0,
            silent: 0,
            weighted: 0.0,
            filled: 0,
            due_ns: None,
            steps: Box::new([Step::default(); STEPS]),
            len: 0,
            quiet: 0,
            scratch: Box::new(Scratch { pitch: [0.0; STEPS], smooth: [0.0; STEPS], sorted: [0.0; STEPS] }),
        }
    }
}

impl Voice {
    /// Takes a chunk. A jump of its stamp ends the phrase and begins anew. `say` gets every step, with the time of its middle, and
    /// every phrase that ends.
    pub fn push(&mut self, chunk: &Chunk, mut say: impl FnMut(Heard)) {
        let length_ns = chunk.samples.len() as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE);
        let follows = self.due_ns.is_some_and(|due| due.abs_diff(chunk.captured_ns) < 20_000_000);
        if !follows {
            self.end(&mut |phrase| say(Heard::Phrase(phrase)));
            self.look.clear();
            self.tone.clear();
            self.taps = [0.0; 15];
            (self.weighted, self.filled) = (0.0, 0);
        }
        self.due_ns = Some(chunk.captured_ns + length_ns);
        for (i, &sample) in chunk.samples.iter().enumerate() {
            if let Some(step) = self.sample(sample_f32(sample)) {
                let at_ns = chunk.captured_ns + i as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE);
                let at_ns = at_ns.saturating_sub(BEHIND_NS);
                say(Heard::Step(at_ns, step));
                self.step(step, at_ns, &mut |phrase| say(Heard::Phrase(phrase)));
            }
        }
    }

    /// Overwrites what was heard.
    pub fn forget(&mut self) {
        self.look.zeroize();
        self.tone.zeroize();
        self.taps.zeroize();
        *self = Voice::default();
    }

    fn sample(&mut self, x: f32) -> Option<Step> {
        let heard = self.rumble.next(self.shelf.next(x));
        self.weighted += heard * heard;
        self.filled += 1;
        self.taps.copy_within(1.., 0);
        self.taps[14] = x;
        self.odd = !self.odd;
        if self.odd {
            let t = &self.taps;
            let wings: f32 = HALF_BAND.iter().enumerate().map(|(i, h)| h * (t[2 * i] + t[14 - 2 * i])).sum();
            let half = self.level.next(wings + 0.5 * t[7]);
            self.look.push(half);
            self.tone.push(self.round.next(half));
        }
        if self.look.len() < LOOK || self.filled < STEP {
            return None;
        }
        let step = self.measure();
        self.weighted = 0.0;
        self.filled = 0;
        let beyond = self.look.len() - (LOOK - HALF);
        for sound in [&mut self.look, &mut self.tone] {
            sound.copy_within(beyond.., 0);
            sound.truncate(LOOK - HALF);
        }
        Some(step)
    }

    fn measure(&mut self) -> Step {
        let level_db = db(self.weighted / self.filled as f32) - 0.691;
        let found = match level_db > FLOOR_DB {
            true => pitch::pitch(&self.tone[..LOOK], self.before_hz),
            false => pitch::Pitch::default(),
        };
        let (mut low, mut high, mut band) = (0.0f32, 0.0f32, 0.0f32);
        let middle = LOOK / 2;
        for &x in &self.look[middle..middle + HALF] {
            let (l, h) = (self.low.next(x), self.high.next(x));
            let [above, below] = &mut self.band;
            let b = below.next(above.next(x));
            low += l * l;
            high += h * h;
            band += b * b;
        }
        let hz = if found.clarity >= VOICED { found.hz } else { 0.0 };
        self.silent = if hz > 0.0 { 0 } else { self.silent + 1 };
        self.before_hz = match hz {
            0.0 if self.silent > FORGET => 0.0,
            0.0 => self.before_hz,
            hz => hz,
        };
        Step { hz, level_db, tilt_db: db(high) - db(low), band_db: db(band / HALF as f32) }
    }

    fn step(&mut self, step: Step, at_ns: u64, say: &mut impl FnMut(Phrase)) {
        if self.len == 0 && step.hz == 0.0 {
            return;
        }
        self.steps[self.len] = step;
        self.len += 1;
        self.quiet = if step.hz > 0.0 { 0 } else { self.quiet + 1 };
        if self.quiet >= PAUSE || self.len == STEPS {
            let end_ns = at_ns.saturating_sub(self.quiet as u64 * STEP_MS * 1_000_000);
            self.sum_up(end_ns, say);
        }
    }

    fn end(&mut self, say: &mut impl FnMut(Phrase)) {
        if let Some(due) = self.due_ns
            && self.len > 0
        {
            self.sum_up(due.saturating_sub(self.quiet as u64 * STEP_MS * 1_000_000), say);
        }
    }

    fn sum_up(&mut self, end_ns: u64, say: &mut impl FnMut(Phrase)) {
        let len = std::mem::take(&mut self.len) - std::mem::take(&mut self.quiet);
        let steps = &mut self.steps[..len];
        let loudest = steps.iter().map(|s| s.level_db).fold(f32::MIN, f32::max);
        steps.iter_mut().filter(|s| s.level_db < loudest - DOWN_DB).for_each(|s| s.hz = 0.0);
        let voiced = steps.iter().filter(|s| s.hz > 0.0).count();
        if voiced < VOICED_MIN {
            return;
        }
        let Scratch { pitch, smooth, sorted } = &mut *self.scratch;
        for (p, s) in pitch.iter_mut().zip(&*steps) {
            *p = if s.hz > 0.0 { 12.0 * (s.hz / 100.0).log2() } else { f32::NAN };
        }
        let pitch = &mut pitch[..len];
        let middle = percentile(pitch, sorted, 0.5);
        // An octave away from the rest is a period mistaken, not a melody.
        pitch.iter_mut().filter(|p| (**p - middle).abs() > 9.0).for_each(|p| *p = f32::NAN);
        let smooth = &mut smooth[..len];
        let jumps = smoothed(pitch, smooth);
        if smooth.iter().all(|p| p.is_nan()) {
            smooth.copy_from_slice(pitch);
        }
        let mean =
            |of: fn(&Step) -> f32| steps.iter().filter(|s| s.hz > 0.0).map(of).sum::<f32>() / voiced as f32;
        let power: f32 = steps.iter().map(|s| 10f32.powf(s.level_db / 10.0)).sum::<f32>() / len as f32;
        let start_ns = end_ns.saturating_sub(len as u64 * STEP_MS * 1_000_000);
        say(Phrase {
            start_ns,
            end_ns,
            voiced: voiced as u16,
            pitch: middle,
            range: percentile(smooth, sorted, 0.9) - percentile(smooth, sorted, 0.1),
            tremble: jumps,
            tilt_db: mean(|s| s.tilt_db),
            loudness_db: 10.0 * power.log10(),
            rate: nuclei(steps) as f32 * 100.0 / len as f32,
        });
    }
}

fn db(power: f32) -> f32 {
    10.0 * (power + 1e-12).log10()
}

/// Of the values that are numbers, the one below which the share `p` lies; NaN without any.
fn percentile(values: &[f32], sorted: &mut [f32; STEPS], p: f32) -> f32 {
    let mut len = 0;
    for &v in values.iter().filter(|v| !v.is_nan()) {
        sorted[len] = v;
        len += 1;
    }
    let sorted = &mut sorted[..len];
    sorted.sort_unstable_by(f32::total_cmp);
    match len {
        0 => f32::NAN,
        _ => sorted[((len - 1) as f32 * p).round() as usize],
    }
}

/// Means over `SMOOTH` steps to each side of runs long enough for it, NaN elsewhere, and how far (rms) pitch jumps about them.
fn smoothed(pitch: &[f32], smooth: &mut [f32]) -> f32 {
    let (mut sum, mut count) = (0.0f32, 0usize);
    for i in 0..pitch.len() {
        let around = pitch[i.saturating_sub(SMOOTH)..(i + SMOOTH + 1).min(pitch.len())].iter();
        let (n, total) = around.filter(|p| !p.is_nan()).fold((0, 0.0), |(n, total), p| (n + 1, total + p));
        let whole = !pitch[i].is_nan() && n > SMOOTH;
        smooth[i] = if whole { total / n as f32 } else { f32::NAN };
        if n == 2 * SMOOTH + 1 && !pitch[i].is_nan() {
            sum += (pitch[i] - smooth[i]).powi(2);
            count += 1;
        }
    }
    if count > 0 { (sum / count as f32).sqrt() } else { 0.0 }
}

/// Peaks of the syllables' band that are voiced and stand out from the dips on both sides.
fn nuclei(steps: &[Step]) -> usize {
    let band = |i: usize| {
        let around = &steps[i.saturating_sub(2)..(i + 3).min(steps.len())];
        around.iter().map(|s| s.band_db).sum::<f32>() / around.len() as f32
    };
    let (mut count, mut low, mut high, mut at) = (0, f32::MAX, f32::MIN, 0);
    let mut rising = true;
    for i in 0..steps.len() {
        let b = band(i);
        if rising {
            if b > high {
                (high, at) = (b, i);
            }
            if high - b >= NUCLEUS_DB {
                count += usize::from(steps[at].hz > 0.0 && high - low >= NUCLEUS_DB);
                (rising, low) = (false, b);
            }
            low = low.min(b);
        } else {
            low = low.min(b);
            if b - low >= NUCLEUS_DB {
                (rising, high, at) = (true, b, i);
            }
        }
    }
    count + usize::from(rising && high - low >= NUCLEUS_DB && steps.get(at).is_some_and(|s| s.hz > 0.0))
}
