//! Label scores: how likely each label of a set is as the next thing said.
//!
//! Shapes: one probability per label, sum 1.

/// `log softmax(logits)[id]`
pub fn log_probability(logits: &[f32], id: u32) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(*l - top).exp()).sum();
    f64::from(logits[id as usize] - top) - sum.ln()
}

/// Mean log likelihoods to probabilities.
pub fn softmax(means: &[f64], temperature: f32, probabilities: &mut Vec<f32>) {
    let top = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = means.iter().map(|m| ((m - top) / f64::from(temperature)).exp());
    let total: f64 = weights.clone().sum();
    probabilities.clear();
    probabilities.extend(weights.map(|w| (w / total) as f32));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one() {
        let logits = [1.0f32, -300.0, 2.0, 88.0];
        let sum: f64 = (0..4).map(|id| log_probability(&logits, id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!((log_probability(&[0.0; 4], 2) + 4f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn temperature_flattens() {
        let softmax = |means: &[f64], temperature| {
            let mut probabilities = Vec::new();
            softmax(means, temperature, &mut probabilities);
            probabilities
        };
        let sharp = softmax(&[-1.0, -2.0], 1.0);
        assert!((sharp[0] - 0.731_058_6).abs() < 1e-6 && (sharp[0] + sharp[1] - 1.0).abs() < 1e-6);
        assert!((softmax(&[-1.0, -2.0], 2.0)[0] - 0.622_459_3).abs() < 1e-6);
        assert_eq!(softmax(&[-5000.0, -5000.0], 1.0), [0.5, 0.5]);
    }
}
