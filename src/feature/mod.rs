//! Window to model input: images and log-mel, and which frames of a recording the model is shown; pure.

pub mod image;
pub mod mel;

use crate::source::recorded::whole;

/// Indices of the `wanted` frames that stand for a recording of `frames`: the middles of `wanted` equal stretches of
/// `[0, frames - 1]`, rounded half to even. A short recording repeats frames; an empty one has none.
pub fn sample_frames(frames: usize, wanted: usize) -> Vec<usize> {
    whole::sample(frames as u64, wanted).into_iter().map(|index| index as usize).collect()
}

/// Samples of 16 bit to `[-1, 1)`.
pub fn pcm_to_f32(pcm: &[i16], out: &mut [f32]) {
    assert!(pcm.len() == out.len(), "{} samples into {}", pcm.len(), out.len());
    for (o, s) in out.iter_mut().zip(pcm) {
        *o = f32::from(*s) / 32768.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_sampled_as_published() {
        assert!(sample_frames(0, 8).is_empty());
        assert_eq!(sample_frames(1, 8), [0; 8]);
        assert_eq!(sample_frames(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(sample_frames(9, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(sample_frames(30, 8), [2, 5, 9, 13, 16, 20, 24, 27]);
        assert_eq!(sample_frames(75, 8), [5, 14, 23, 32, 42, 51, 60, 69]);
    }

    #[test]
    fn sampled_frames_are_in_order_and_in_range() {
        for n in 1..4000 {
            let at = sample_frames(n, 8);
            assert!(at.is_sorted() && at.len() == 8 && at[7] < n, "{n}: {at:?}");
        }
    }

    #[test]
    fn pcm_keeps_its_grid() {
        let mut out = [0.0; 4];
        pcm_to_f32(&[0, i16::MIN, i16::MAX, 1], &mut out);
        assert_eq!(out, [0.0, -1.0, 32767.0 / 32768.0, 1.0 / 32768.0]);
    }
}
