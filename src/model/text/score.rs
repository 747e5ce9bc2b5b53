//! Label scores: how likely each label of a set is as the next thing said.
//!
//! Shapes: one probability per label, sum 1.

use crate::{
    backend::Backend,
    bundle::LabelSet,
    model::{
        infer::Scores,
        pass::{Pass, Scratch},
        text::decoder::{After, Decoder, Span},
    },
};
use anyhow::Result;

/// Where labels are scored, with room for the largest set.
pub struct Tally {
    /// Log likelihood of every label, mean over its tokens.
    means: Vec<f64>,
    spans: Vec<Span>,
    /// By row: the label that the token after it is of, and the token.
    wanted: Vec<(usize, u32)>,
    scores: Scores,
}

impl Tally {
    pub fn new(label_sets: &[LabelSet], rows_max: usize) -> Tally {
        let labels = label_sets.iter().map(|set| set.labels.len()).max().unwrap_or(0);
        Tally {
            means: Vec::with_capacity(labels),
            spans: Vec::with_capacity(labels),
            wanted: Vec::with_capacity(rows_max),
            scores: Scores { probabilities: Vec::with_capacity(labels) },
        }
    }

    /// The labels of a set after a prompt of `prompt_len` positions, whose last row is `prompt_row`, `(hidden,)`.
    pub fn score<B: Backend>(
        &mut self,
        decoder: &mut Decoder<B>,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        (prompt_row, prompt_len): (&B::Buf, usize),
        set: &LabelSet,
    ) -> Result<&Scores> {
        pass.begin("score");
        self.means.clear();
        self.means.resize(set.tokens.len(), 0.0);
        let after = if set.prefix.is_empty() {
            After::Kept(prompt_row)
        } else {
            let rows = set.prefix.len();
            decoder.embed(pass, &set.prefix, 0);
            decoder.run(pass, scratch, &[Span { rows, start: prompt_len }])?;
            After::Row(rows - 1)
        };
        let (firsts, means) = (set.tokens.iter().map(|tokens| tokens[0]), &mut self.means);
        decoder.likelihoods_after(pass, after, firsts, |label, log| means[label] += f64::from(log))?;
        self.add_rest(decoder, pass, scratch, prompt_len + set.prefix.len(), set)?;
        for (sum, tokens) in self.means.iter_mut().zip(&set.tokens) {
            *sum /= tokens.len() as f64;
        }
        pass.end("score", decoder.result())?;
        softmax(&self.means, set.temperature, &mut self.scores.probabilities);
        Ok(&self.scores)
    }

    /// The tokens after the first of every label, as many labels at once as there are rows.
    fn add_rest<B: Backend>(
        &mut self,
        decoder: &mut Decoder<B>,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        start: usize,
        set: &LabelSet,
    ) -> Result<()> {
        let Tally { means, spans, wanted, .. } = self;
        let mut next = 0;
        while next < set.tokens.len() {
            spans.clear();
            wanted.clear();
            while let Some(tokens) = set.tokens.get(next) {
                if wanted.len() + tokens.len() - 1 > decoder.limits().rows_max {
                    break;
                }
                let rows = tokens.len() - 1;
                if rows > 0 {
                    decoder.embed(pass, &tokens[..rows], wanted.len());
                    spans.push(Span { rows, start });
                    wanted.extend(tokens[1..].iter().map(|id| (next, *id)));
                }
                next += 1;
            }
            if !spans.is_empty() {
                decoder.run(pass, scratch, spans)?;
                let ids = wanted.iter().map(|(_, id)| *id);
                decoder.likelihoods(pass, 0, ids, |row, log| means[wanted[row].0] += f64::from(log))?;
            }
        }
        Ok(())
    }
}

/// Mean log likelihoods to probabilities.
fn softmax(means: &[f64], temperature: f32, probabilities: &mut Vec<f32>) {
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
