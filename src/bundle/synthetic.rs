//! Bundles without a checkpoint: random weights of a real topology, for tests, demonstrations and benchmarks.
//!
//! Values are scaled so that activations stay of order one and scores differ from window to window; they mean nothing. A value depends
//! on the seed, its tensor, its row and its column only, so that bundles of different kinds hold the same model.

use super::header::{Generation, Header, LabelSet};
use super::open::Bundle;
use super::prompt::{self, Encode, Template};
use super::recipe::Recipe;
use super::shape::{Role, Shape, Spec, Stack};
use super::vocabulary::{Token, Vocabulary};
use super::write::{self, Progress, Values};
use anyhow::{Context, Result};
use std::path::Path;

/// A topology to fill with random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Every part, narrow and shallow: well under a megabyte.
    Tiny,
    /// The sizes of the published model.
    R1Omni05B,
}

impl Preset {
    pub fn name(self) -> &'static str {
        match self {
            Preset::Tiny => "tiny",
            Preset::R1Omni05B => "r1-omni-0.5b",
        }
    }

    pub fn from_name(name: &str) -> Result<Preset> {
        let found = [Preset::Tiny, Preset::R1Omni05B].into_iter().find(|p| p.name() == name);
        found.with_context(|| format!("there is no synthetic bundle `{name}`; choose tiny or r1-omni-0.5b"))
    }

    pub fn shape(self) -> Shape {
        let stack = |layers, hidden, ffn, n_heads, n_kv_heads, eps| Stack {
            layers,
            hidden,
            ffn,
            n_heads,
            n_kv_heads,
            head_dim: hidden / n_heads,
            eps,
        };
        let (vision, audio, decoder, vocab) = match self {
            Preset::Tiny => (
                stack(2, 96, 128, 3, 3, 1e-6),
                stack(2, 32, 64, 2, 2, 1e-5),
                stack(2, 64, 160, 4, 2, 1e-6),
                WORDS_FROM + WORDS.len() + SPECIALS.len(),
            ),
            Preset::R1Omni05B => (
                stack(11, 768, 3072, 12, 12, 1e-6),
                stack(32, 1280, 5120, 20, 20, 1e-5),
                stack(24, 896, 4864, 14, 2, 1e-6),
                151_936,
            ),
        };
        Shape {
            vision,
            image: 224,
            patch: 16,
            frames: 8,
            audio,
            mels: 128,
            audio_positions: 1500,
            audio_pool: 3,
            decoder,
            vocab,
            rope_theta: 1e6,
            context: 32_768,
        }
    }
}

const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Ids below are bytes.
const WORDS_FROM: usize = 256;
/// Whole words, so that prompts stay short.
#[rustfmt::skip]
const WORDS: [&str; 67] = [
    "<vi_start>", "<vi_end>", "<au_start>", "<au_end>", "<think>", "</think>", "<answer>", "</answer>", "system", "user", "assistant",
    "You", " are", " a", " helpful", "As", " an", " emotional", " recognition", " expert", " throughout", " the", " video", " which",
    " emotion", " conveyed", " by", " characters", " is", " most", " obvious", " to", " you", "  Output", " thinking", " process", " in",
    " and", " final", " tags", " <think>", " </think>", " <answer>", " </answer>", "happy", "sad", "neutral", "angry", "surprise",
    "disgust", "fear", "contemptuous", "disappointed", "helpless", "anxious", "calm", "fearful", "surprised", " face", " voice", " calm",
    " tense", " smile", " loud", " quiet", " looks", " sounds",
];

/// Everything but the weights.
pub fn header(preset: Preset, seed: u64, quant: impl Into<Recipe>) -> Result<Header> {
    let shape = preset.shape();
    let words = Words::new();
    let mut tokens: Vec<Token> = (0..=255).map(|byte| Token::Bytes(vec![byte])).collect();
    tokens.extend(WORDS.iter().map(|word| Token::Bytes(word.as_bytes().to_vec())));
    tokens.extend(SPECIALS.iter().map(|name| Token::Special((*name).to_owned())));
    tokens.resize(shape.vocab, Token::Unused);
    // With what is added at the published size, the prompt of a reason is as long as the published model's.
    let more = if preset == Preset::R1Omni05B { " Be candid." } else { "" };
    let template = Template {
        before: format!(
            "<|im_start|>system\nYou are a helpful assistant.{more}<|im_end|>\n<|im_start|>user\n"
        ),
        after: "<|im_end|>\n<|im_start|>assistant\n".to_owned(),
        wrapped: true,
    };
    let gate = [0.4, 0.35, 0.25];
    let prompts = vec![
        template.prompt(&words, "reason", prompt::REASON, gate)?,
        template.prompt(&words, "label", prompt::LABEL, gate)?,
    ];
    let label_set = |(name, labels): (&str, &[&str])| {
        let labels: Vec<String> = labels.iter().map(|&l| l.to_owned()).collect();
        let set = template.label_set(&words, name, &labels)?;
        Ok(LabelSet { temperature: TEMPERATURE, ..set })
    };
    let label_sets: Result<_> = prompt::LABEL_SETS.into_iter().map(label_set).collect();
    let special = |index: usize| (WORDS_FROM + WORDS.len() + index) as u32;
    Ok(Header {
        name: format!("untrained-{}", preset.name()),
        description: format!(
            "UNTRAINED: random weights (seed {seed}) in the topology of R1-Omni. Its answers mean nothing. For tests, demonstrations \
             and benchmarks only."
        ),
        license: "MIT OR Apache-2.0".to_owned(),
        trained: false,
        quant: quant.into(),
        sources: vec![format!("synthetic {} seed {seed}", preset.name())],
        generation: Generation {
            eos: vec![special(2), special(0)],
            repetition_penalty: 1.1,
            max_new_tokens: 2048,
        },
        marks: prompt::marks(&words)?,
        prompts,
        label_sets: label_sets?,
        self_test: None,
        vocabulary: Vocabulary::new(tokens),
        shape,
    })
}

/// Writes a synthetic bundle and returns its length in bytes.
pub fn write_file(
    path: &Path,
    preset: Preset,
    seed: u64,
    quant: impl Into<Recipe>,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<u64> {
    let header = header(preset, seed, quant)?;
    let decoder = &header.shape.decoder;
    let mut values = Random { seed, embed: decoder.hidden, layers: decoder.layers };
    write::write_file(path, &header, false, &mut values, tell)
}

/// A synthetic bundle for this process only: in memory where it is small, else in a file of the temporary folder that is gone
/// when the bundle is dropped.
pub fn bundle(preset: Preset, seed: u64, quant: impl Into<Recipe>) -> Result<Bundle> {
    match preset {
        Preset::Tiny => {
            let header = header(preset, seed, quant)?;
            let decoder = &header.shape.decoder;
            let mut values = Random { seed, embed: decoder.hidden, layers: decoder.layers };
            Bundle::from_bytes(write::write_bytes(&header, false, &mut values)?)
        }
        Preset::R1Omni05B => {
            let folder = tempfile::tempdir().context("making a folder for the synthetic bundle")?;
            let path = folder.path().join("synthetic.gguf");
            write_file(&path, preset, seed, quant, &mut |_| ())?;
            Bundle::open(&path)
        }
    }
}

/// Longest match over the words; every byte is a token, so that everything can be said.
struct Words {
    specials: Vec<(String, u32)>,
}

impl Words {
    fn new() -> Words {
        let id = |index: usize| (WORDS_FROM + WORDS.len() + index) as u32;
        Words { specials: SPECIALS.iter().enumerate().map(|(i, name)| ((*name).to_owned(), id(i))).collect() }
    }
}

impl Encode for Words {
    fn plain(&self, text: &str) -> Result<Vec<(u32, usize)>> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let words = WORDS.iter().enumerate().filter(|(_, word)| rest.starts_with(word.as_bytes()));
            let (id, len) = match words.max_by_key(|(_, word)| word.len()) {
                Some((index, word)) => (WORDS_FROM + index, word.len()),
                None => (usize::from(rest[0]), 1),
            };
            at += len;
            out.push((id as u32, at));
        }
        Ok(out)
    }

    fn specials(&self) -> &[(String, u32)] {
        &self.specials
    }
}

struct Random {
    seed: u64,
    /// Width of the decoder, which sets the scale of its last norm.
    embed: usize,
    /// Layers of the decoder, which set what each of them adds.
    layers: usize,
}

/// Of the label scores: below 1, so that a demonstration has something to show.
const TEMPERATURE: f32 = 0.4;

/// Layers above which a decoder is deep.
const DEEP: usize = 8;

/// Standard deviation of the embedding.
const EMBED_SCALE: f32 = 0.3;

impl Values for Random {
    fn rows(&mut self, spec: &Spec, first: usize, rows: usize, out: &mut Vec<f32>) -> Result<()> {
        let start = out.len();
        out.resize(start + rows * spec.cols, 0.0);
        let key = mix(spec.name.bytes().fold(self.seed, |key, byte| mix(key ^ u64::from(byte))));
        let fill = |offset: usize, chunk: &mut [f32]| {
            for (i, row) in chunk.chunks_exact_mut(spec.cols).enumerate() {
                self.fill(spec, key, first + offset + i, row);
            }
        };
        let run = &mut out[start..];
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(rows);
        if run.len() < 1 << 16 || threads < 2 {
            fill(0, run);
            return Ok(());
        }
        let share = rows.div_ceil(threads);
        std::thread::scope(|scope| {
            for (i, chunk) in run.chunks_mut(share * spec.cols).enumerate() {
                let fill = &fill;
                scope.spawn(move || fill(i * share, chunk));
            }
        });
        Ok(())
    }
}

impl Random {
    fn fill(&self, spec: &Spec, key: u64, row: usize, out: &mut [f32]) {
        let name = spec.name.as_str();
        if name == "audio.position.weight" {
            return sinusoid(row, out);
        }
        let mut state = mix(key ^ mix(row as u64));
        // Uniform with the standard deviation 1.
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            ((mix(state) >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0) * 3.0f32.sqrt()
        };
        let is_norm = name.contains("norm") || name.contains(".ln");
        if name == "decoder.norm.weight" {
            // Random signs, so that a head tied to the embedding does not repeat its last input.
            let scale = 1.5 / (EMBED_SCALE * (self.embed as f32).sqrt());
            out.iter_mut().for_each(|v| {
                let r = next();
                *v = (1.0 + 0.2 * r.abs()).copysign(r) * scale;
            });
            return;
        }
        let (centre, scale) = match spec.role {
            Role::Vector if is_norm && name.ends_with("weight") => (1.0, 0.2),
            Role::Vector if is_norm => (0.0, 0.1),
            Role::Vector if name.contains("attn_q") || name.contains("attn_k") => (0.0, 0.3),
            Role::Vector => (0.0, 0.05),
            Role::Table if name.contains("conv2") => (0.0, 1.6 / 3.0),
            Role::Table => (0.0, 0.3),
            Role::Matrix if name == "decoder.embed.weight" => (0.0, EMBED_SCALE),
            Role::Matrix => (0.0, self.gain(name) / (spec.cols as f32).sqrt()),
        };
        out.iter_mut().for_each(|v| *v = centre + scale * next());
    }

    fn gain(&self, name: &str) -> f32 {
        let has = |part: &str| name.contains(part);
        // Of many layers each attends less sharply and adds less, so that rounding in one is not multiplied by all that follow.
        let deep = has("decoder") && self.layers > DEEP;
        if has("attn_q") || has("attn_k") {
            // Flat attention would see the mean of a window, which is the same for all.
            if has("decoder") && !deep { 4.0 } else { 2.0 }
        } else if has("fusion") {
            1.6
        } else if has("attn_o") || has(".fc2") || has("ffn_down") {
            if deep { 0.2 } else { 0.6 }
        } else {
            1.0
        }
    }
}

/// Positions of the audio tower: sines, then cosines, of growing periods.
fn sinusoid(row: usize, out: &mut [f32]) {
    let half = out.len() / 2;
    for i in 0..half {
        let rate = (-(10_000f64.ln()) * i as f64 / (half.max(2) - 1) as f64).exp();
        let angle = row as f64 * rate;
        out[i] = angle.sin() as f32;
        out[half + i] = angle.cos() as f32;
    }
}

/// A bijection that spreads every bit over all others.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Piece;

    #[test]
    fn at_the_published_size_a_prompt_is_as_long_as_the_published_one() {
        let header = header(Preset::R1Omni05B, 1, crate::bundle::Kind::Q8_0).unwrap();
        let length = |piece: &Piece| piece.positions(&header.shape);
        let reason = header.prompts.iter().find(|p| p.name == "reason").unwrap();
        assert_eq!(reason.video_audio.iter().map(length).sum::<usize>(), 974);
    }
}
