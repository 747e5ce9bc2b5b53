//! The branch gate of an instruction: BERT and two layers, run once when a bundle is packed.
//!
//! Shapes: `rows` tokens of `hidden` values; weights `(outputs, inputs)` as in the checkpoint.
//! Limits: layer after layer, for every instruction at once, so that memory is one layer; an instruction is cut to 512 tokens.

use super::checkpoint::Weights;
use anyhow::{Context, Result, anyhow, ensure};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
use tokenizers::{NormalizedString, Normalizer};

const BERT: &str = "model.bert_model";
/// Outputs of the first gate layer, whatever the other sizes.
const GATE_HIDDEN: usize = 3584;
const TOKENS_MAX: usize = 512;

/// What BERT's tensors do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BertConfig {
    /// 0: as many as are 64 wide.
    pub n_heads: usize,
    pub eps: f32,
}

impl Default for BertConfig {
    fn default() -> Self {
        BertConfig { n_heads: 0, eps: 1e-12 }
    }
}

/// Ids of an instruction for BERT: `[CLS]`, lower-cased word pieces, `[SEP]`.
pub struct WordPieces {
    model: WordPiece,
    cls: u32,
    sep: u32,
}

impl WordPieces {
    /// From the text of `vocab.txt`.
    pub fn new(vocab_txt: &[u8]) -> Result<WordPieces> {
        let vocab = WordPiece::read_bytes(vocab_txt).map_err(|e| anyhow!("{e}"))?;
        let model = WordPiece::builder().vocab(vocab).build().map_err(|e| anyhow!("{e}"))?;
        let id =
            |name: &str| model.token_to_id(name).with_context(|| format!("the vocabulary has no {name}"));
        let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
        id("[UNK]")?;
        Ok(WordPieces { cls, sep, model })
    }

    /// Token ids of an instruction, at most `max`.
    pub fn ids(&self, instruction: &str, max: usize) -> Result<Vec<u32>> {
        let mut text = NormalizedString::from(instruction);
        BertNormalizer::new(true, true, Some(true), true).normalize(&mut text).map_err(|e| anyhow!("{e}"))?;
        let mut words = PreTokenizedString::from(text);
        BertPreTokenizer.pre_tokenize(&mut words).map_err(|e| anyhow!("{e}"))?;
        let mut ids = vec![self.cls];
        for (word, _, _) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            ids.extend(self.model.tokenize(word).map_err(|e| anyhow!("{e}"))?.iter().map(|t| t.id));
        }
        ids.truncate(max - 1);
        ids.push(self.sep);
        Ok(ids)
    }
}

/// Tokens of an instruction that BERT sees.
pub fn tokens_max(weights: &Weights) -> usize {
    let positions = weights.dims(&format!("{BERT}.embeddings.position_embeddings.weight"));
    positions.and_then(|dims| dims.first()).map_or(TOKENS_MAX, |&n| n.clamp(2, TOKENS_MAX))
}

/// Gate weights (video, body, face) of each token list.
pub fn gates(
    weights: &Weights,
    config: BertConfig,
    texts: &[Vec<u32>],
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Vec<[f32; 3]>> {
    let bert = Bert::new(weights, config)?;
    let mut states = texts.iter().map(|ids| bert.embed(ids)).collect::<Result<Vec<_>>>()?;
    for layer in 0..bert.layers {
        tell(layer, bert.layers);
        bert.layer(layer, &mut states)?;
    }
    let first = Linear::read(weights, "model.bert_gate.0", GATE_HIDDEN, bert.hidden)?;
    let second = Linear::read(weights, "model.bert_gate.2", 3, GATE_HIDDEN)?;
    let mut out = Vec::new();
    for state in &states {
        let mut middle = first.apply(&state[..bert.hidden]);
        middle.iter_mut().for_each(|v| *v = gelu(*v));
        let mut gate = second.apply(&middle);
        softmax(&mut gate);
        out.push([gate[0], gate[1], gate[2]]);
    }
    Ok(out)
}

struct Bert<'a> {
    weights: &'a Weights,
    layers: usize,
    hidden: usize,
    ffn: usize,
    vocab: usize,
    positions: usize,
    n_heads: usize,
    eps: f32,
}

impl<'a> Bert<'a> {
    fn new(weights: &'a Weights, config: BertConfig) -> Result<Bert<'a>> {
        let dims = |tail: &str| -> Result<[usize; 2]> {
            let name = format!("{BERT}.{tail}");
            let found = weights.dims(&name);
            let found =
                found.with_context(|| format!("{} has no tensor `{name}`", weights.folder().display()))?;
            <[usize; 2]>::try_from(found)
                .map_err(|_| anyhow!("tensor `{name}` is {found:?}, but must be a matrix"))
        };
        let [vocab, hidden] = dims("embeddings.word_embeddings.weight")?;
        let [positions, _] = dims("embeddings.position_embeddings.weight")?;
        let [ffn, _] = dims("encoder.layer.0.intermediate.dense.weight")?;
        let layer = |i: usize| format!("{BERT}.encoder.layer.{i}.output.dense.weight");
        let layers = (0..).take_while(|&i| weights.dims(&layer(i)).is_some()).count();
        let n_heads = if config.n_heads == 0 { hidden / 64 } else { config.n_heads };
        ensure!(
            n_heads > 0 && hidden.is_multiple_of(n_heads),
            "{hidden} values of BERT cannot be {n_heads} heads; put the folder bert-base-uncased beside the checkpoint"
        );
        ensure!(positions >= 2, "BERT has {positions} positions");
        Ok(Bert { weights, layers, hidden, ffn, vocab, positions, n_heads, eps: config.eps })
    }

    fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let (weights, hidden) = (self.weights, self.hidden);
        let name = |tail: &str| format!("{BERT}.embeddings.{tail}");
        let words = name("word_embeddings.weight");
        weights.require(&words, &[self.vocab, hidden])?;
        ensure!(
            ids.len() <= self.positions,
            "{} tokens do not fit into BERT's {} positions",
            ids.len(),
            self.positions
        );
        let positions = weights.whole(&name("position_embeddings.weight"), &[self.positions, hidden])?;
        let types = weights.whole(&name("token_type_embeddings.weight"), &[2, hidden])?;
        let mut state = Vec::with_capacity(ids.len() * hidden);
        for &id in ids {
            ensure!(
                (id as usize) < self.vocab,
                "BERT's vocab.txt has token {id}, but the model only {}",
                self.vocab
            );
            weights.read(&words, id as usize * hidden, hidden, &mut state)?;
        }
        for (row, values) in state.chunks_exact_mut(hidden).enumerate() {
            for (col, value) in values.iter_mut().enumerate() {
                *value += types[col] + positions[row * hidden + col];
            }
        }
        Norm::read(weights, &name("LayerNorm"), hidden, self.eps)?.apply(&mut state);
        Ok(state)
    }

    fn layer(&self, index: usize, states: &mut [Vec<f32>]) -> Result<()> {
        let (weights, hidden) = (self.weights, self.hidden);
        let name = |tail: &str| format!("{BERT}.encoder.layer.{index}.{tail}");
        let square = |tail: &str| Linear::read(weights, &name(tail), hidden, hidden);
        let query = square("attention.self.query")?;
        let key = square("attention.self.key")?;
        let value = square("attention.self.value")?;
        let out = square("attention.output.dense")?;
        let first_norm = Norm::read(weights, &name("attention.output.LayerNorm"), hidden, self.eps)?;
        let up = Linear::read(weights, &name("intermediate.dense"), self.ffn, hidden)?;
        let down = Linear::read(weights, &name("output.dense"), hidden, self.ffn)?;
        let second_norm = Norm::read(weights, &name("output.LayerNorm"), hidden, self.eps)?;
        for state in states {
            let seen = self.attend(&query.apply(state), &key.apply(state), &value.apply(state));
            add(state, &out.apply(&seen));
            first_norm.apply(state);
            let mut middle = up.apply(state);
            middle.iter_mut().for_each(|v| *v = gelu(*v));
            add(state, &down.apply(&middle));
            second_norm.apply(state);
        }
        Ok(())
    }

    fn attend(&self, query: &[f32], key: &[f32], value: &[f32]) -> Vec<f32> {
        let (hidden, width) = (self.hidden, self.hidden / self.n_heads);
        let rows = query.len() / hidden;
        let scale = 1.0 / (width as f32).sqrt();
        let mut out = vec![0.0; query.len()];
        for head in 0..self.n_heads {
            let at = |row: usize| row * hidden + head * width..row * hidden + (head + 1) * width;
            for row in 0..rows {
                let mut scores: Vec<f32> =
                    (0..rows).map(|r| dot(&query[at(row)], &key[at(r)]) * scale).collect();
                softmax(&mut scores);
                for (r, score) in scores.iter().enumerate() {
                    for (o, v) in out[at(row)].iter_mut().zip(&value[at(r)]) {
                        *o += score * v;
                    }
                }
            }
        }
        out
    }
}

struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

impl Linear {
    fn read(weights: &Weights, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        Ok(Linear {
            weight: weights.whole(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: weights.whole(&format!("{name}.bias"), &[outputs])?,
            inputs,
        })
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let outputs = self.bias.len();
        let mut out = vec![0.0; x.len() / self.inputs * outputs];
        for (col, (row, bias)) in self.weight.chunks_exact(self.inputs).zip(&self.bias).enumerate() {
            for (i, x) in x.chunks_exact(self.inputs).enumerate() {
                out[i * outputs + col] = dot(x, row) + bias;
            }
        }
        out
    }
}

struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Norm {
    fn read(weights: &Weights, name: &str, hidden: usize, eps: f32) -> Result<Norm> {
        Ok(Norm {
            gain: weights.whole(&format!("{name}.weight"), &[hidden])?,
            bias: weights.whole(&format!("{name}.bias"), &[hidden])?,
            eps,
        })
    }

    fn apply(&self, x: &mut [f32]) {
        let cols = self.gain.len();
        for row in x.chunks_exact_mut(cols) {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
            let square = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / cols as f64;
            let scale = 1.0 / (square + f64::from(self.eps)).sqrt();
            for (col, value) in row.iter_mut().enumerate() {
                *value = ((f64::from(*value) - mean) * scale) as f32 * self.gain[col] + self.bias[col];
            }
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (mut lanes, mut rest) = ([0.0f32; 16], 0.0);
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    for (x, y) in a.remainder().iter().zip(b.remainder()) {
        rest += x * y;
    }
    for (x, y) in a.zip(b) {
        for lane in 0..16 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

fn softmax(x: &mut [f32]) {
    let largest = x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    x.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|v| *v /= sum);
}
