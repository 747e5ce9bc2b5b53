//! Everything of a bundle but its tensors: sizes, prompts, label sets, generation settings, vocabulary, origin; to keys and back.
//!
//! Keys, besides those of `shape`:
//!
//! | key | is |
//! |---|---|
//! | `general.architecture`, `.name`, `.description`, `.license` | texts; the architecture is `r1-omni` |
//! | `general.alignment` | 32 |
//! | `r1-omni.trained` (bool) | false: random weights, for tests and demonstrations only |
//! | `r1-omni.quant` | kinds of the matrices (`recipe.rs`) |
//! | `r1-omni.sources` | `sha256  folder/file` of every file that was packed |
//! | `r1-omni.header.sha256`, `r1-omni.tensors.sha256` (texts) | see `digest`; written last, not part of a `Header` |
//! | `r1-omni.generation.eos` (i32 array), `.repetition_penalty` (f32), `.max_new_tokens` | |
//! | `r1-omni.marks.think_open`, `.think_close`, `.answer_close` (i32 arrays) | tokens of `<think>`, `</think>\n`, and `</answer>` |
//! | `r1-omni.prompts` | names |
//! | `r1-omni.prompt.<name>.instruction` | |
//! | `r1-omni.prompt.<name>.gate` (3 x f32) | weights of the video, body and face branches |
//! | `r1-omni.prompt.<name>.{video_audio,video,audio}` (i32 array) | token ids; -201 is the video's place, -202 the audio's, -203 that of what was said, at most once |
//! | `r1-omni.label_sets` | names |
//! | `r1-omni.labels.<name>.labels` | |
//! | `r1-omni.labels.<name>.prefix` (i32 array) | see `LabelSet` |
//! | `r1-omni.labels.<name>.tokens`, `.lengths` (i32 arrays) | remainders one after the other; how long each is |
//! | `r1-omni.labels.<name>.temperature` (f32) | |
//! | `r1-omni.labels.<name>.margins`, `.factors` (3 x f32), `.slope` (f32) | optional: see `Shift` |
//! | `r1-omni.self_test.prompt`, `.labels` (texts), `.scores` (f32 array) | optional: see `SelfTest` |
//! | `tokenizer.ggml.model`, `.pre` | `gpt2`, `qwen2` |
//! | `tokenizer.ggml.tokens` | byte-level texts |
//! | `tokenizer.ggml.token_type` (i32 array) | 1 text, 3 special, 4 literal text, 5 unused |
//!
//! Invariant: what `read` returns was checked: token ids lie in the vocabulary, weights are finite, names are unique.

use super::contents::Contents;
use super::gguf::Value;
use super::keys::{Keys, general, ids, token};
use super::recipe::Recipe;
use super::shape::{self, ARCHITECTURE, Shape, Spec};
use super::vocabulary::Vocabulary;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashSet};

pub const VIDEO: i32 = -201;
pub const AUDIO: i32 = -202;
pub const WORDS: i32 = -203;
/// Tokens of what was said, at most: twenty seconds of speech.
pub const WORDS_MAX: usize = 96;

/// One stretch of a prompt: text that is already tokens, or the place where a modality is spliced in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(Vec<u32>),
    Video,
    Audio,
    /// What was said, as text.
    Words,
}

impl Piece {
    /// Positions of the decoder that it takes at most.
    pub fn positions(&self, shape: &Shape) -> usize {
        match self {
            Piece::Text(ids) => ids.len(),
            Piece::Video => shape.visual_tokens(),
            Piece::Audio => shape.audio_tokens(),
            Piece::Words => WORDS_MAX,
        }
    }
}

/// A named instruction, tokenised for each combination of modalities.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub name: String,
    pub instruction: String,
    /// Branch gate: weights of the video, body and face branches, sum 1.
    pub gate: [f32; 3],
    pub video_audio: Vec<Piece>,
    pub video: Vec<Piece>,
    pub audio: Vec<Piece>,
}

impl Prompt {
    /// For each combination of modalities.
    pub fn variants(&self) -> [&[Piece]; 3] {
        [&self.video_audio, &self.video, &self.audio]
    }

    /// Whether it has such a piece.
    pub fn has(&self, piece: &Piece) -> bool {
        self.variants().iter().any(|pieces| pieces.contains(piece))
    }
}

/// A closed set of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelSet {
    pub name: String,
    pub labels: Vec<String>,
    /// Tokens that every `<answer>label</answer>` of the set begins with.
    pub prefix: Vec<u32>,
    /// What follows for each label, up to and including the first token of `</answer>`.
    pub tokens: Vec<Vec<u32>>,
    /// Divides the mean log likelihoods before the softmax; 1 until the bundle is calibrated.
    pub temperature: f32,
    /// How the temperature follows a place that is unlike the clips it was fitted on; `None` until it was fitted for that.
    pub shift: Option<Shift>,
}

/// How much less scores are to be believed where the two likeliest labels lie closer together than usual (`model::follow`).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Shift {
    /// The mean margin on the clips of the calibration, in mean log likelihoods: pictures alone, sound alone, both.
    pub margins: [f32; 3],
    /// The temperature of each over that of both.
    pub factors: [f32; 3],
    /// By how much the logarithm of the temperature grows for each unit that the mean margin falls.
    pub slope: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub eos: Vec<u32>,
    pub repetition_penalty: f32,
    pub max_new_tokens: usize,
}

/// Tokens that frame an answer: `<think>`, `</think>\n` and `</answer>`; `<answer>` stands in the label sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    pub think_open: Vec<u32>,
    pub think_close: Vec<u32>,
    pub answer_close: Vec<u32>,
}

/// What the device that packed the bundle scored for the window of `model::self_test`.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTest {
    /// Names of the prompt and of the label set.
    pub prompt: String,
    pub labels: String,
    /// Probabilities in the order of the labels.
    pub scores: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub name: String,
    pub description: String,
    pub license: String,
    /// False for random weights.
    pub trained: bool,
    /// Kinds of the matrices.
    pub quant: Recipe,
    /// `sha256  folder/file`, one per packed file.
    pub sources: Vec<String>,
    pub shape: Shape,
    pub generation: Generation,
    pub marks: Marks,
    pub prompts: Vec<Prompt>,
    pub label_sets: Vec<LabelSet>,
    /// `None` in bundles that were packed without.
    pub self_test: Option<SelfTest>,
    pub vocabulary: Vocabulary,
}

/// Names of prompts and label sets: they are part of a key and of a command line.
pub fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 32
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    ensure!(fits, "the name `{name}` must be 1 to 32 of a-z, 0-9, - and _");
    Ok(())
}

impl Contents for Header {
    fn tensors(&self, own_head: bool) -> Vec<Spec> {
        shape::tensors(&self.shape, own_head)
    }

    fn quant(&self) -> Recipe {
        self.quant
    }

    fn keys(&self) -> Vec<(String, Value)> {
        let mut out = general(ARCHITECTURE, &self.name, &self.description, &self.license);
        out.extend(shape::keys(&self.shape));
        let mut put = |name: &str, value: Value| out.push((format!("{ARCHITECTURE}.{name}"), value));
        put("trained", Value::Bool(self.trained));
        put("quant", Value::Text(self.quant.name().to_owned()));
        put("sources", Value::Texts(self.sources.clone()));
        put("generation.eos", ids(&self.generation.eos));
        put("generation.repetition_penalty", Value::F32(self.generation.repetition_penalty));
        put("generation.max_new_tokens", Value::U32(self.generation.max_new_tokens as u32));
        put("marks.think_open", ids(&self.marks.think_open));
        put("marks.think_close", ids(&self.marks.think_close));
        put("marks.answer_close", ids(&self.marks.answer_close));
        put("prompts", Value::Texts(self.prompts.iter().map(|p| p.name.clone()).collect()));
        for prompt in &self.prompts {
            let mut put = |tail: &str, value| put(&format!("prompt.{}.{tail}", prompt.name), value);
            put("instruction", Value::Text(prompt.instruction.clone()));
            put("gate", Value::F32s(prompt.gate.to_vec()));
            put("video_audio", Value::I32s(flatten(&prompt.video_audio)));
            put("video", Value::I32s(flatten(&prompt.video)));
            put("audio", Value::I32s(flatten(&prompt.audio)));
        }
        put("label_sets", Value::Texts(self.label_sets.iter().map(|s| s.name.clone()).collect()));
        for set in &self.label_sets {
            let mut put = |tail: &str, value| put(&format!("labels.{}.{tail}", set.name), value);
            put("labels", Value::Texts(set.labels.clone()));
            put("prefix", ids(&set.prefix));
            put("tokens", ids(&set.tokens.concat()));
            put("lengths", Value::I32s(set.tokens.iter().map(|t| t.len() as i32).collect()));
            put("temperature", Value::F32(set.temperature));
            if let Some(shift) = set.shift {
                put("margins", Value::F32s(shift.margins.to_vec()));
                put("factors", Value::F32s(shift.factors.to_vec()));
                put("slope", Value::F32(shift.slope));
            }
        }
        if let Some(test) = &self.self_test {
            put("self_test.prompt", Value::Text(test.prompt.clone()));
            put("self_test.labels", Value::Text(test.labels.clone()));
            put("self_test.scores", Value::F32s(test.scores.clone()));
        }
        out.extend(self.vocabulary.keys("qwen2"));
        out
    }

    fn read(keys: &BTreeMap<String, Value>) -> Result<Header> {
        let keys = Keys(keys);
        keys.architecture(
            ARCHITECTURE,
            "this is a model for another program; make a bundle with `mien pack`",
        )?;
        let shape = shape::read(keys.0)?;
        let own = |name: &str| format!("{ARCHITECTURE}.{name}");
        let vocabulary = keys.vocabulary(shape.vocab)?;
        let tokens = |key: &str| keys.tokens(key, shape.vocab);
        let header = Header {
            name: keys.text("general.name")?.to_owned(),
            description: keys.text("general.description")?.to_owned(),
            license: keys.text("general.license")?.to_owned(),
            trained: match keys.get(&own("trained"))? {
                Value::Bool(trained) => *trained,
                other => bail!("key `{}` is {other:?}, but must be a bool", own("trained")),
            },
            quant: keys.recipe(&own("quant"))?,
            sources: keys.texts(&own("sources"))?.to_vec(),
            generation: Generation {
                eos: tokens(&own("generation.eos"))?,
                repetition_penalty: keys.positive(&own("generation.repetition_penalty"))?,
                max_new_tokens: match keys.get(&own("generation.max_new_tokens"))? {
                    Value::U32(n) if *n >= 1 && *n as usize <= shape.context => *n as usize,
                    other => {
                        bail!("key `{}` is {other:?}, beyond the context", own("generation.max_new_tokens"))
                    }
                },
            },
            marks: Marks {
                think_open: tokens(&own("marks.think_open"))?,
                think_close: tokens(&own("marks.think_close"))?,
                answer_close: tokens(&own("marks.answer_close"))?,
            },
            prompts: keys.each(&own("prompts"), |name| keys.prompt(name, &shape))?,
            label_sets: keys.each(&own("label_sets"), |name| keys.label_set(name, &shape))?,
            self_test: keys.self_test(&own("self_test"))?,
            vocabulary,
            shape: shape.clone(),
        };
        header.check()?;
        Ok(header)
    }
}

impl Header {
    /// What no single key can know.
    fn check(&self) -> Result<()> {
        ensure!(!self.prompts.is_empty(), "there is no prompt; pack the checkpoint again");
        ensure!(!self.label_sets.is_empty(), "there is no label set; pack the checkpoint again");
        if let Some(test) = &self.self_test {
            let set = self.label_sets.iter().find(|set| set.name == test.labels);
            ensure!(
                set.map(|set| set.labels.len()) == Some(test.scores.len())
                    && self.prompts.iter().any(|p| p.name == test.prompt),
                "key `{ARCHITECTURE}.self_test.scores` does not fit the prompts and label sets; pack the bundle again"
            );
        }
        ensure!(
            !self.generation.eos.is_empty(),
            "there is no token that ends a text; pack the checkpoint again"
        );
        Ok(())
    }
}

fn flatten(pieces: &[Piece]) -> Vec<i32> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(tokens) => out.extend(tokens.iter().map(|&t| t as i32)),
            Piece::Video => out.push(VIDEO),
            Piece::Audio => out.push(AUDIO),
            Piece::Words => out.push(WORDS),
        }
    }
    out
}

impl Keys<'_> {
    fn each<T>(&self, key: &str, read: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for name in self.texts(key)? {
            check_name(name).with_context(|| format!("in key `{key}`"))?;
            ensure!(seen.insert(name), "key `{key}` names `{name}` twice");
            out.push(read(name)?);
        }
        Ok(out)
    }

    fn prompt(&self, name: &str, shape: &Shape) -> Result<Prompt> {
        let key = |tail: &str| format!("{ARCHITECTURE}.prompt.{name}.{tail}");
        let gate = match self.get(&key("gate"))? {
            Value::F32s(g) if g.len() == 3 => [g[0], g[1], g[2]],
            other => bail!("key `{}` is {other:?}, but must be three f32", key("gate")),
        };
        check_gate(gate).with_context(|| format!("in key `{}`", key("gate")))?;
        let pieces = |tail: &str, video: usize, audio: usize| -> Result<Vec<Piece>> {
            let key = key(tail);
            let pieces = split(&key, self.i32s(&key)?, shape.vocab)?;
            let count = |wanted: Piece| pieces.iter().filter(|p| **p == wanted).count();
            ensure!(
                (count(Piece::Video), count(Piece::Audio)) == (video, audio),
                "key `{key}` must have {video} place for the video and {audio} for the audio"
            );
            ensure!(count(Piece::Words) <= 1, "key `{key}` has more than one place for what was said");
            let positions: usize = pieces.iter().map(|piece| piece.positions(shape)).sum();
            ensure!(
                positions < shape.context,
                "key `{key}`: {positions} positions do not fit into the context of {}; shorten the instruction",
                shape.context
            );
            ensure!(matches!(pieces.last(), Some(Piece::Text(_))), "key `{key}` must end with text");
            Ok(pieces)
        };
        Ok(Prompt {
            name: name.to_owned(),
            instruction: self.text(&key("instruction"))?.to_owned(),
            gate,
            video_audio: pieces("video_audio", 1, 1)?,
            video: pieces("video", 1, 0)?,
            audio: pieces("audio", 0, 1)?,
        })
    }

    fn self_test(&self, key: &str) -> Result<Option<SelfTest>> {
        let scores = match self.0.get(&format!("{key}.scores")) {
            None => return Ok(None),
            Some(Value::F32s(scores)) if scores.iter().all(|s| (0.0..=1.0).contains(s)) => scores.clone(),
            Some(_) => bail!("key `{key}.scores` must be an array of probabilities"),
        };
        let text = |tail: &str| self.text(&format!("{key}.{tail}")).map(str::to_owned);
        Ok(Some(SelfTest { prompt: text("prompt")?, labels: text("labels")?, scores }))
    }

    fn label_set(&self, name: &str, shape: &Shape) -> Result<LabelSet> {
        let key = |tail: &str| format!("{ARCHITECTURE}.labels.{name}.{tail}");
        let labels = self.texts(&key("labels"))?.to_vec();
        let distinct: HashSet<_> = labels.iter().collect();
        ensure!(
            labels.len() >= 2 && distinct.len() == labels.len() && labels.iter().all(|l| !l.is_empty()),
            "key `{}` must hold at least two different labels",
            key("labels")
        );
        let flat = self.tokens(&key("tokens"), shape.vocab)?;
        let lengths = self.i32s(&key("lengths"))?;
        let fits = lengths.len() == labels.len()
            && lengths.iter().all(|&n| n >= 1)
            && lengths.iter().map(|&n| i64::from(n)).sum::<i64>() == flat.len() as i64;
        ensure!(
            fits,
            "key `{}` does not cut the {} tokens into {} labels",
            key("lengths"),
            flat.len(),
            labels.len()
        );
        let mut at = 0;
        let mut tokens = Vec::with_capacity(labels.len());
        for &length in lengths {
            tokens.push(flat[at..at + length as usize].to_vec());
            at += length as usize;
        }
        let distinct: HashSet<_> = tokens.iter().collect();
        ensure!(distinct.len() == tokens.len(), "key `{}`: two labels have the same tokens", key("tokens"));
        let prefix = self.tokens(&key("prefix"), shape.vocab)?;
        Ok(LabelSet {
            name: name.to_owned(),
            labels,
            prefix,
            tokens,
            temperature: self.positive(&key("temperature"))?,
            shift: self.shift(&key("margins"), &key("factors"), &key("slope"))?,
        })
    }

    fn shift(&self, margins: &str, factors: &str, slope: &str) -> Result<Option<Shift>> {
        if [margins, factors, slope].iter().all(|key| !self.0.contains_key(*key)) {
            return Ok(None);
        }
        let three = |key: &str| match self.get(key)? {
            Value::F32s(v) if v.len() == 3 && v.iter().all(|v| v.is_finite() && *v > 0.0) => {
                Ok([v[0], v[1], v[2]])
            }
            other => bail!("key `{key}` is {other:?}, but must be three positive f32"),
        };
        Ok(Some(Shift { margins: three(margins)?, factors: three(factors)?, slope: self.positive(slope)? }))
    }
}

fn split(key: &str, flat: &[i32], vocab: usize) -> Result<Vec<Piece>> {
    let mut out = Vec::new();
    for &id in flat {
        match id {
            VIDEO => out.push(Piece::Video),
            AUDIO => out.push(Piece::Audio),
            WORDS => out.push(Piece::Words),
            _ => {
                let id = token(key, id, vocab)?;
                match out.last_mut() {
                    Some(Piece::Text(run)) => run.push(id),
                    _ => out.push(Piece::Text(vec![id])),
                }
            }
        }
    }
    Ok(out)
}

/// Refuses weights that are not those of a softmax.
pub fn check_gate(gate: [f32; 3]) -> Result<()> {
    ensure!(
        gate.iter().all(|g| g.is_finite() && *g >= 0.0) && (gate.iter().sum::<f32>() - 1.0).abs() < 1e-3,
        "the gate weights {gate:?} must be three numbers from 0 to 1 with the sum 1"
    );
    Ok(())
}
