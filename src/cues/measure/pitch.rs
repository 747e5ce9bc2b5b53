//! How high a voice is: the period of sound by the normalised square difference function (McLeod and Wyvill, "A smarter way to find
//! pitch", 2005), with costs for octaves and jumps as in Boersma's path finder (1993). The constants were chosen on four recordings
//! of people against Praat; `tools/test cues` prints how near it comes.
//!
//! Shapes: a look takes [`LOOK`] samples at [`RATE`].
//! Units: Hz; clarity from 0 (noise) to 1 (a pure period).

/// Samples in a second of what is looked at: half of what sources send.
pub const RATE: usize = 8_000;
/// A period is compared over 40 ms, four periods of a low voice, ...
const SPAN: usize = RATE / 25;
/// ... shifted by as much as the period of 60 Hz and as little as that of 500 Hz.
const LAG_MIN: usize = RATE / 500;
const LAG_MAX: usize = RATE / 60 + 1;
/// Samples of one look.
pub const LOOK: usize = SPAN + LAG_MAX + 1;
/// What a peak loses for each octave below the highest pitch: of equal ones the first counts, the later ones are its multiples.
const OCTAVE: f32 = 0.02;
/// What it loses for each octave from the pitch before: voices glide.
const JUMP: f32 = 0.08;
/// Formants above this are no period.
pub const FORMANTS_HZ: f64 = 700.0;
/// Below this much of a period there is no voice. Praat's own pitch finder asks for 0.45.
pub const VOICED: f32 = 0.45;

/// What one look found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pitch {
    /// 0 where nothing repeats.
    pub hz: f32,
    pub clarity: f32,
}

/// The pitch of `LOOK` samples; `before` is that of the look before, 0 without one.
pub fn pitch(sound: &[f32], before_hz: f32) -> Pitch {
    assert_eq!(sound.len(), LOOK, "a look has its own length");
    let mut alike = [0.0f32; LAG_MAX + 2];
    let head = &sound[..SPAN];
    let power = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
    let still = power(head);
    let mut shifted = power(&sound[LAG_MIN - 1..LAG_MIN - 1 + SPAN]);
    for lag in LAG_MIN - 1..=LAG_MAX + 1 {
        alike[lag] = 2.0 * dot(head, &sound[lag..lag + SPAN]) / (still + shifted + 1e-9);
        if let Some(&next) = sound.get(lag + SPAN) {
            shifted = (shifted + next * next - sound[lag] * sound[lag]).max(0.0);
        }
    }
    let peak = |lag: usize| alike[lag] >= alike[lag - 1] && alike[lag] > alike[lag + 1] && alike[lag] > 0.0;
    let worth = |&(lag, high): &(f32, f32)| {
        let jump = if before_hz > 0.0 { (RATE as f32 / (lag * before_hz)).log2().abs() } else { 0.0 };
        high - OCTAVE * (lag / LAG_MIN as f32).log2() - JUMP * jump
    };
    let peaks = (LAG_MIN..=LAG_MAX).filter(|&lag| peak(lag)).map(|lag| top(&alike, lag));
    let Some((lag, high)) = peaks.max_by(|a, b| worth(a).total_cmp(&worth(b))) else {
        return Pitch::default();
    };
    Pitch { hz: RATE as f32 / lag, clarity: high.min(1.0) }
}

/// Where a peak lies between the lags, and its height there: a period of whole lags is worth no more than one between them.
fn top(alike: &[f32], lag: usize) -> (f32, f32) {
    let (before, at, after) = (alike[lag - 1], alike[lag], alike[lag + 1]);
    let bend = before - 2.0 * at + after;
    let aside = if bend < 0.0 { 0.5 * (before - after) / bend } else { 0.0 };
    (lag as f32 + aside, at - 0.25 * (before - after) * aside)
}

/// Eight sums side by side, so that the compiler uses vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const { assert!(SPAN.is_multiple_of(8), "a span is whole vectors") };
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    fn look(sample: impl Fn(f32) -> f32) -> Pitch {
        let sound: Vec<f32> = (0..LOOK).map(|i| sample(i as f32 / RATE as f32)).collect();
        pitch(&sound, 0.0)
    }

    #[test]
    fn tones_have_their_own_pitch() {
        for hz in [62.0f32, 80.0, 110.0, 173.0, 220.0, 305.0, 441.0, 490.0] {
            let rich = |t: f32| (1..6).map(|k| (TAU * hz * k as f32 * t).sin() / k as f32).sum::<f32>() * 0.1;
            let found = look(rich);
            let semitones = 12.0 * (found.hz / hz).log2();
            assert!(semitones.abs() < 0.1 && found.clarity > 0.95, "{hz} Hz: {found:?}");
        }
    }

    #[test]
    fn what_has_no_period_has_no_voice() {
        assert_eq!(look(|_| 0.0), Pitch::default());
        assert!(look(|_| 0.5).clarity < VOICED, "DC");
        let mut state = 1u32;
        let noise: Vec<f32> = (0..LOOK)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let found = pitch(&noise, 0.0);
        assert!(found.clarity < VOICED, "{found:?}");
    }
}
