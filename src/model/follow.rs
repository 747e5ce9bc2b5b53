//! How far label scores may be believed here: a temperature that follows how close together the labels of recent windows lie.
//!
//! A bundle is calibrated on some clips. Where people, rooms and devices are others, its scores are too sure, and nothing in a single
//! window tells. Over many windows it does: the mean margin between the two likeliest labels falls with the share of right answers
//! (Guillory et al., arXiv 2107.03315, who compare mean confidences). `mien calibrate --follow` measures by how much, on clips that are made worse.
//! Units: a margin is a difference of mean log likelihoods at temperature 1.
//! Invariant: no window's temperature is below the fitted one of its kind.

use crate::bundle::{LabelSet, Shift};

/// Windows that a margin's mean reaches back over.
const WINDOWS: f64 = 64.0;
/// The temperature is at most so many times the fitted one.
const TIMES_MAX: f64 = 8.0;

/// What a window has, as a place in [`Shift`]'s arrays; `None` where it has nothing.
pub fn kind(pictures: bool, sound: bool) -> Option<usize> {
    (usize::from(pictures) + 2 * usize::from(sound)).checked_sub(1)
}

/// Follows the margins of one kind of windows.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    shift: Shift,
    kind: usize,
    fitted: f64,
    margin: f64,
}

impl Follower {
    /// For each kind of windows one; `None` where the set was not fitted for it.
    pub fn all(set: &LabelSet) -> Option<[Follower; 3]> {
        let of = |shift| [0, 1, 2].map(|kind| Follower::new(shift, kind, set.temperature));
        set.shift.map(of)
    }

    pub fn new(shift: Shift, kind: usize, temperature: f32) -> Follower {
        Follower { shift, kind, fitted: f64::from(temperature), margin: f64::from(shift.margins[kind]) }
    }

    /// Takes a window's probabilities at the fitted temperature, and brings them to that of recent windows, this one among them.
    pub fn temper(&mut self, probabilities: &mut [f32]) {
        self.margin += (margin(probabilities, self.fitted) - self.margin) / WINDOWS;
        temper(probabilities, 1.0 / self.times());
    }

    /// The temperature over the fitted one.
    pub fn times(&self) -> f64 {
        times(self.shift, self.kind, self.margin)
    }

    /// How much of that comes from recent windows; from 1 on.
    pub fn unlike(&self) -> f64 {
        self.times() / f64::from(self.shift.factors[self.kind])
    }

    /// Nothing of recent windows stays.
    pub fn forget(&mut self) {
        self.margin = f64::from(self.shift.margins[self.kind]);
    }
}

/// The temperature over the fitted one that belongs to a kind of windows and their mean margin.
pub fn times(shift: Shift, kind: usize, margin: f64) -> f64 {
    let closer = (f64::from(shift.margins[kind]) - margin).max(0.0);
    f64::from(shift.factors[kind]) * (f64::from(shift.slope) * closer).exp().min(TIMES_MAX)
}

/// The margin of probabilities at a temperature; 0 for a single one.
pub fn margin(probabilities: &[f32], temperature: f64) -> f64 {
    let (mut first, mut second) = (0.0f32, 0.0f32);
    for &p in probabilities {
        if p > first {
            (first, second) = (p, first);
        } else {
            second = second.max(p);
        }
    }
    temperature * (log(first) - log(second))
}

/// Probabilities at another temperature, of which theirs is `share` times as much.
pub fn temper(probabilities: &mut [f32], share: f64) {
    let top = log(probabilities.iter().copied().fold(0.0, f32::max));
    let weight = |p: f32| ((log(p) - top) * share).exp();
    let total: f64 = probabilities.iter().map(|&p| weight(p)).sum();
    probabilities.iter_mut().for_each(|p| *p = (weight(*p) / total) as f32);
}

/// A probability that was too small for its type is the smallest there is.
pub fn log(p: f32) -> f64 {
    f64::from(p.max(f32::MIN_POSITIVE)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower() -> Follower {
        let shift = Shift { margins: [1.0, 1.5, 2.0], factors: [2.0, 1.2, 1.0], slope: 1.5 };
        Follower { shift, kind: 2, fitted: 0.5, margin: 2.0 }
    }

    /// Probabilities of three labels whose first two lie `margin` apart.
    fn row(margin: f64) -> [f32; 3] {
        let weights = [0.0, -margin / 0.5, -2.0 * margin / 0.5].map(f64::exp);
        weights.map(|w| (w / weights.iter().sum::<f64>()) as f32)
    }

    #[test]
    fn a_margin_is_found_again() {
        for wanted in [0.0, 0.3, 2.0, 8.0] {
            assert!((margin(&row(wanted), 0.5) - wanted).abs() < 1e-4, "{wanted}");
        }
        assert!(margin(&[1.0, 0.0], 0.5) > 40.0);
    }

    #[test]
    fn scores_are_believed_less_after_many_windows_whose_labels_lie_close() {
        let mut follower = follower();
        let plain = row(2.5);
        let mut same = plain;
        follower.temper(&mut same);
        assert!(same.iter().zip(plain).all(|(a, b)| (a - b).abs() < 1e-6), "never sharper: {same:?}");
        (0..500).for_each(|_| follower.temper(&mut row(1.0)));
        assert!((follower.times() - 1.5f64.exp()).abs() < 0.01, "{}", follower.times());
        let mut less = row(1.0);
        follower.temper(&mut less);
        assert!((margin(&less, 0.5) * follower.times() - 1.0).abs() < 1e-4, "{less:?}");
        assert!((less.iter().sum::<f32>() - 1.0).abs() < 1e-6 && less[0] > less[1]);
        follower.forget();
        assert!((follower.times() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_modality_has_a_temperature_of_its_own() {
        let both = follower();
        let pictures = Follower { kind: kind(true, false).unwrap(), margin: 1.0, ..both };
        assert!((pictures.times() - 2.0).abs() < 1e-6 && (pictures.unlike() - 1.0).abs() < 1e-6);
        assert_eq!([kind(false, true), kind(true, true), kind(false, false)], [Some(1), Some(2), None]);
    }

    #[test]
    fn one_odd_window_changes_little() {
        let mut follower = follower();
        follower.temper(&mut row(0.0));
        assert!(follower.times() < 1.05, "{}", follower.times());
        (0..10_000).for_each(|_| follower.temper(&mut row(0.0)));
        assert!(follower.times() <= TIMES_MAX);
    }
}
