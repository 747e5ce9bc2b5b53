//! Numbers of a set of answers: recalls, calibration, risk over coverage; pure.
//!
//! Shapes: truths and guesses are places in a label set; a guess may be none. Probabilities are one row per clip, sum 1.
//! Every number is in `[0, 1]` but Brier's, which is in `[0, 2]`, and the negative log likelihood.

use crate::model::follow::{log, temper};
use serde::Serialize;

/// Share of each label's clips that were told right; none where it has no clip. scikit-learn: `recall_score(average=None)`.
pub fn recalls(truths: &[usize], guesses: &[Option<usize>], labels: usize) -> Vec<Option<f64>> {
    let count = |label: usize, right: bool| {
        let pairs = truths.iter().zip(guesses);
        pairs.filter(|(t, g)| **t == label && (!right || **g == Some(label))).count()
    };
    (0..labels)
        .map(|label| match count(label, false) {
            0 => None,
            clips => Some(count(label, true) as f64 / clips as f64),
        })
        .collect()
}

/// Mean recall over the labels that the truths have: upstream's UAR. scikit-learn: `balanced_accuracy_score`.
pub fn uar_present(recalls: &[Option<f64>]) -> Option<f64> {
    mean(recalls.iter().flatten().copied())
}

/// Mean F1 over the labels that the truths have. scikit-learn: `f1_score(labels=those, average="macro", zero_division=0)`.
pub fn f1_present(truths: &[usize], guesses: &[Option<usize>], labels: usize) -> Option<f64> {
    let f1 = |label: usize| {
        let told = guesses.iter().filter(|g| **g == Some(label)).count();
        let there = truths.iter().filter(|t| **t == label).count();
        let right = truths.iter().zip(guesses).filter(|(t, g)| **t == label && **g == Some(label)).count();
        (there > 0).then(|| 2.0 * right as f64 / (told + there) as f64)
    };
    mean((0..labels).filter_map(f1))
}

/// Mean recall over all declared labels, one without clips counting 0. scikit-learn: `recall_score(labels=declared,
/// average="macro", zero_division=0)`.
pub fn uar_declared(recalls: &[Option<f64>]) -> Option<f64> {
    mean(recalls.iter().map(|r| r.unwrap_or(0.0)))
}

/// Share that was told right: the WAR. scikit-learn: `accuracy_score`.
pub fn war(truths: &[usize], guesses: &[Option<usize>]) -> Option<f64> {
    mean(truths.iter().zip(guesses).map(|(t, g)| f64::from(u8::from(*g == Some(*t)))))
}

pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / count as f64)
}

/// The value below which `share` of the values lie, by nearest rank.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// The first of the highest: what a row of probabilities says, and how sure it is.
pub fn best(probabilities: &[f32]) -> (usize, f64) {
    let higher = |best: (usize, f32), (i, p): (usize, &f32)| if *p > best.1 { (i, *p) } else { best };
    let (place, p) = probabilities.iter().enumerate().fold((0, f32::NEG_INFINITY), higher);
    (place, f64::from(p))
}

/// Guesses of about the same confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub clips: usize,
    /// Mean confidence.
    pub confidence: f64,
    /// Share that was right.
    pub right: f64,
}

pub const BINS: usize = 10;

/// `(confidence, right)` by ten equal stretches of confidence; empty ones have 0 clips.
pub fn bins(guesses: &[(f64, bool)]) -> [Bin; BINS] {
    let mut out = [Bin { clips: 0, confidence: 0.0, right: 0.0 }; BINS];
    for (confidence, right) in guesses {
        let bin = &mut out[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.clips += 1;
        bin.confidence += confidence;
        bin.right += f64::from(u8::from(*right));
    }
    for bin in out.iter_mut().filter(|bin| bin.clips > 0) {
        bin.confidence /= bin.clips as f64;
        bin.right /= bin.clips as f64;
    }
    out
}

/// Expected calibration error: distance of confidence and share right, mean over the clips of the bins.
pub fn ece(bins: &[Bin]) -> Option<f64> {
    let clips: usize = bins.iter().map(|b| b.clips).sum();
    let sum: f64 = bins.iter().map(|b| (b.confidence - b.right).abs() * b.clips as f64).sum();
    (clips > 0).then(|| sum / clips as f64)
}

/// Mean over clips of the summed squared distances to the truth, over all labels.
pub fn brier(rows: &[(&[f32], usize)]) -> Option<f64> {
    let one = |(row, truth): &(&[f32], usize)| {
        let truths = (0..row.len()).map(|i| f64::from(u8::from(i == *truth)));
        row.iter().zip(truths).map(|(p, t)| (f64::from(*p) - t).powi(2)).sum::<f64>()
    };
    mean(rows.iter().map(one))
}

/// Risk (share wrong) among the `k` surest guesses for every `k`, as `(coverage, risk)`. Guesses of equal confidence are counted as
/// if each were as wrong as their mean, so that their order does not matter.
pub fn risk_coverage(guesses: &[(f64, bool)]) -> Vec<(f64, f64)> {
    let mut sorted = guesses.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut out = Vec::with_capacity(sorted.len());
    let mut wrong = 0.0;
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        let share = equal.iter().filter(|g| !g.1).count() as f64 / equal.len() as f64;
        for _ in equal {
            wrong += share;
            let covered = (out.len() + 1) as f64;
            out.push((covered / sorted.len() as f64, wrong / covered));
        }
    }
    out
}

/// Mean negative log likelihood of the truths when probabilities made at `old` are made at `new` instead.
pub fn nll(rows: &[(&[f32], usize)], old: f64, new: f64) -> f64 {
    let one = |(row, truth): &(&[f32], usize)| {
        let logits: Vec<f64> = row.iter().map(|p| log(*p) * old / new).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln() - logits[*truth]
    };
    mean(rows.iter().map(one)).unwrap_or(0.0)
}

/// The same probabilities at another temperature.
pub fn retempered(row: &[f32], old: f64, new: f64) -> Vec<f32> {
    let mut row = row.to_vec();
    temper(&mut row, old / new);
    row
}

/// How far from `old` a temperature is looked for.
pub const TEMPERATURES: f64 = 100.0;

/// The temperature with the least negative log likelihood, from a hundredth to a hundred times `old`: the likelihood has one peak
/// over its logarithm, so that golden sections find it.
pub fn temperature(rows: &[(&[f32], usize)], old: f64) -> f64 {
    let at = |log: f64| nll(rows, old, log.exp());
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = ((old / TEMPERATURES).ln(), (old * TEMPERATURES).ln());
    let (mut a, mut b) = (high - ratio * (high - low), low + ratio * (high - low));
    let (mut of_a, mut of_b) = (at(a), at(b));
    while high - low > 1e-6 {
        if of_a < of_b {
            (high, b, of_b) = (b, a, of_a);
            a = high - ratio * (high - low);
            of_a = at(a);
        } else {
            (low, a, of_a) = (a, b, of_b);
            b = low + ratio * (high - low);
            of_b = at(b);
        }
    }
    f64::midpoint(low, high).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_labels_follow_the_convention() {
        let recalls = recalls(&[0, 0, 1, 1], &[Some(0), None, Some(1), Some(1)], 3);
        assert_eq!(recalls, [Some(0.5), Some(1.0), None]);
        assert_eq!((uar_present(&recalls), uar_declared(&recalls)), (Some(0.75), Some(0.5)));
        assert_eq!(uar_present(&[None]), None);
    }

    #[test]
    fn confidence_is_set_beside_what_was_right() {
        let bins = bins(&[(0.95, true), (1.0, true), (0.55, false), (0.55, true)]);
        assert_eq!((bins[9].clips, bins[5].clips, bins[5].right), (2, 2, 0.5));
        assert!((ece(&bins).unwrap() - (0.025 + 0.05) / 2.0).abs() < 1e-12);
        assert_eq!(ece(&[]), None);
        let rows: [(&[f32], usize); 2] = [(&[1.0, 0.0], 0), (&[0.5, 0.5], 1)];
        assert!((brier(&rows).unwrap() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn risk_rises_with_coverage_and_ties_share_it() {
        let curve = risk_coverage(&[(0.9, true), (0.5, false), (0.5, true), (0.1, false)]);
        let risks: Vec<f64> = curve.iter().map(|(_, risk)| *risk).collect();
        assert_eq!(risks, [0.0, 0.25, 1.0 / 3.0, 0.5]);
        assert_eq!(curve[3].0, 1.0);
    }

    #[test]
    fn a_temperature_is_found_again() {
        // Truths drawn so often as the probabilities at temperature 2 say.
        let logits = [[2.0f64, 0.0, -1.0], [0.5, 1.5, 0.0], [-1.0, 0.0, 3.0]];
        let soft = |row: &[f64; 3], t: f64| {
            let total: f64 = row.iter().map(|l| (l / t).exp()).sum();
            row.map(|l| ((l / t).exp() / total) as f32)
        };
        let sharp: Vec<[f32; 3]> = logits.iter().map(|row| soft(row, 1.0)).collect();
        let mut rows: Vec<(&[f32], usize)> = Vec::new();
        for (row, probabilities) in logits.iter().zip(&sharp) {
            for (truth, share) in soft(row, 2.0).iter().enumerate() {
                rows.extend(std::iter::repeat_n(
                    (&probabilities[..], truth),
                    (share * 1000.0).round() as usize,
                ));
            }
        }
        let found = temperature(&rows, 1.0);
        assert!((found - 2.0).abs() < 0.02, "{found}");
        assert!(nll(&rows, 1.0, found) < nll(&rows, 1.0, 1.0));
        let again = retempered(&sharp[0], 1.0, 2.0);
        assert!(again.iter().zip(soft(&logits[0], 2.0)).all(|(a, b)| (a - b).abs() < 1e-6), "{again:?}");
    }

    #[test]
    fn quantiles_are_values() {
        let values = [5.0, 1.0, 2.0, 4.0, 3.0];
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.95)), (Some(3.0), Some(5.0)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
