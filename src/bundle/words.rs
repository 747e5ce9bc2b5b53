//! What a file of a speech recogniser of Whisper's kind says besides its tensors, and what those are.
//!
//! The architecture is `whisper`. Keys, besides `general.*`, the digests and the vocabulary, which are as in `header`:
//!
//! | key | is |
//! |---|---|
//! | `whisper.version` | 1 |
//! | `whisper.quant`, `whisper.sources` | as in `header` |
//! | `whisper.mel_bins`, `.audio_positions`, `.positions`, `.vocab_size` | sizes: bands of the mel, positions of the encoder and of the decoder, tokens |
//! | `whisper.embedding_length` | width of encoder and decoder |
//! | `whisper.{audio,words}.{block_count,feed_forward_length,head_count}` | stacks of the encoder and the decoder |
//! | `whisper.epsilon` (f32) | of every norm |
//! | `whisper.opening` (i32 array) | tokens that a transcript begins with; the first of them starts it |
//! | `whisper.end`, `.silence` (i32) | the token that ends a transcript, and the one whose likelihood says that nobody speaks |
//! | `whisper.barred`, `.barred_first` (i32 arrays) | tokens that never come, and that never come first |
//!
//! Tensors, with H the width; M and V are a matrix and a vector as in `shape`:
//!
//! | tensor | is |
//! |---|---|
//! | `audio.*` | as in `shape` |
//! | `words.embed.weight` | M `(vocab_size, H)`; the head as well |
//! | `words.position.weight` | `(positions, H)`, added |
//! | `words.{i}.{ln1,ln2,ln3}.{weight,bias}`, `words.norm.{weight,bias}` | V: before attention, before attention to the sound, before the MLP |
//! | `words.{i}.{attn,cross}_{q,k,v,o}.{weight,bias}` | M, V; no bias of `k` |
//! | `words.{i}.{fc1,fc2}.{weight,bias}` | M, V |
//!
//! Invariant: what `read` returns was checked: sizes fit together, token ids lie in the vocabulary.

use super::contents::Contents;
use super::gguf::Value;
use super::keys::{Keys, general, ids};
use super::open::Packed;
use super::recipe::Recipe;
use super::shape::{self, Role, Spec, Stack, Table};
use super::vocabulary::Vocabulary;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

pub const ARCHITECTURE: &str = "whisper";
const VERSION: usize = 1;

/// A recogniser's file.
pub type Words = Packed<WordsHeader>;

#[derive(Clone, Debug, PartialEq)]
pub struct WordsShape {
    pub mels: usize,
    /// Of the encoder: half the mel frames.
    pub audio_positions: usize,
    pub audio: Stack,
    pub words: Stack,
    /// Of the decoder.
    pub positions: usize,
    pub vocab: usize,
}

impl WordsShape {
    /// Milliseconds of sound that it hears at once.
    pub fn hears_ms(&self) -> usize {
        self.audio_positions * shape::POSITION_MS
    }
}

/// How a transcript is begun and ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    pub opening: Vec<u32>,
    pub end: u32,
    pub silence: u32,
    pub barred: Vec<u32>,
    pub barred_first: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WordsHeader {
    pub name: String,
    pub license: String,
    pub quant: Recipe,
    /// `sha256  folder/file`, one per packed file.
    pub sources: Vec<String>,
    pub shape: WordsShape,
    pub transcript: Transcript,
    pub vocabulary: Vocabulary,
}

impl Contents for WordsHeader {
    fn tensors(&self, _own_head: bool) -> Vec<Spec> {
        tensors(&self.shape)
    }

    fn quant(&self) -> Recipe {
        self.quant
    }

    fn keys(&self) -> Vec<(String, Value)> {
        let mut out = general(ARCHITECTURE, &self.name, "a speech recogniser", &self.license);
        let mut put = |name: &str, value: Value| out.push((format!("{ARCHITECTURE}.{name}"), value));
        let WordsShape { mels, audio_positions, audio, words, positions, vocab } = &self.shape;
        let number = |n: &usize| Value::U32(*n as u32);
        put("version", number(&VERSION));
        put("quant", Value::Text(self.quant.name().to_owned()));
        put("sources", Value::Texts(self.sources.clone()));
        put("mel_bins", number(mels));
        put("audio_positions", number(audio_positions));
        put("positions", number(positions));
        put("vocab_size", number(vocab));
        put("embedding_length", number(&words.hidden));
        put("epsilon", Value::F32(words.eps));
        for (name, stack) in [("audio", audio), ("words", words)] {
            put(&format!("{name}.block_count"), number(&stack.layers));
            put(&format!("{name}.feed_forward_length"), number(&stack.ffn));
            put(&format!("{name}.head_count"), number(&stack.n_heads));
        }
        let Transcript { opening, end, silence, barred, barred_first } = &self.transcript;
        put("opening", ids(opening));
        put("end", ids(&[*end]));
        put("silence", ids(&[*silence]));
        put("barred", ids(barred));
        put("barred_first", ids(barred_first));
        out.extend(self.vocabulary.keys("whisper"));
        out
    }

    fn read(keys: &BTreeMap<String, Value>) -> Result<WordsHeader> {
        let keys = Keys(keys);
        keys.architecture(ARCHITECTURE, "this is no speech recogniser; make one with `mien pack --whisper`")?;
        let own = |name: &str| format!("{ARCHITECTURE}.{name}");
        let version = keys.number(&own("version"), usize::MAX)?;
        ensure!(version == VERSION, "version {version} is not supported, only {VERSION}; pack it again");
        let shape = read_shape(&keys)?;
        let vocabulary = keys.vocabulary(shape.vocab)?;
        let tokens = |name: &str| keys.tokens(&own(name), shape.vocab);
        let one = |name: &str| -> Result<u32> {
            let found = tokens(name)?;
            ensure!(found.len() == 1, "key `{}` must hold one token", own(name));
            Ok(found[0])
        };
        let transcript = Transcript {
            opening: tokens("opening")?,
            end: one("end")?,
            silence: one("silence")?,
            barred: tokens("barred")?,
            barred_first: tokens("barred_first")?,
        };
        let opening = transcript.opening.len();
        ensure!(
            (1..shape.positions).contains(&opening),
            "key `{}` holds {opening} tokens; pack it again",
            own("opening")
        );
        ensure!(!transcript.barred.contains(&transcript.end), "the token that ends a text never comes");
        Ok(WordsHeader {
            name: keys.text("general.name")?.to_owned(),
            license: keys.text("general.license")?.to_owned(),
            quant: keys.recipe(&own("quant"))?,
            sources: keys.texts(&own("sources"))?.to_vec(),
            transcript,
            vocabulary,
            shape,
        })
    }
}

fn read_shape(keys: &Keys<'_>) -> Result<WordsShape> {
    let number = |name: &str, max: usize| keys.number(&format!("{ARCHITECTURE}.{name}"), max);
    let hidden = number("embedding_length", 1 << 16)?;
    let eps = keys.positive(&format!("{ARCHITECTURE}.epsilon"))?;
    let stack = |name: &str| -> Result<Stack> {
        let n_heads = number(&format!("{name}.head_count"), 1 << 10)?;
        ensure!(hidden.is_multiple_of(n_heads), "{name}: {hidden} values cannot be {n_heads} heads");
        Ok(Stack {
            layers: number(&format!("{name}.block_count"), 1 << 10)?,
            hidden,
            ffn: number(&format!("{name}.feed_forward_length"), 1 << 18)?,
            n_heads,
            n_kv_heads: n_heads,
            head_dim: hidden / n_heads,
            eps,
        })
    };
    let shape = WordsShape {
        mels: number("mel_bins", 1 << 12)?,
        audio_positions: number("audio_positions", shape::POSITIONS_MAX)?,
        audio: stack("audio")?,
        words: stack("words")?,
        positions: number("positions", 1 << 16)?,
        vocab: number("vocab_size", 1 << 24)?,
    };
    Ok(shape)
}

/// Every tensor, in file order.
fn tensors(shape: &WordsShape) -> Vec<Spec> {
    let mut out = Table::default();
    let stack = &shape.words;
    out.ear(&shape.audio, shape.mels, shape.audio_positions);
    out.linear("words.embed", shape.vocab, stack.hidden, false);
    out.push("words.position.weight", Role::Table, shape.positions, stack.hidden);
    for i in 0..stack.layers {
        let name = |tail: &str| format!("words.{i}.{tail}");
        out.norm(&name("ln1"), stack.hidden);
        out.attention(&name("attn"), stack.hidden, false);
        out.norm(&name("ln2"), stack.hidden);
        out.attention(&name("cross"), stack.hidden, false);
        out.norm(&name("ln3"), stack.hidden);
        out.linear(&name("fc1"), stack.ffn, stack.hidden, true);
        out.linear(&name("fc2"), stack.hidden, stack.ffn, true);
    }
    out.norm("words.norm", stack.hidden);
    out.0
}
