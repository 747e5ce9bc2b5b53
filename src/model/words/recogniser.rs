//! The recogniser over one backend. Its decoder is a pre-norm transformer that looks at its own tokens and at the sound.
//!
//! Invariant: all memory is taken when it is loaded.

use crate::{
    backend::{Act, Heads, Unrotated},
    bundle::{Stack, Vocabulary, Words, WordsShape, words::Transcript as Rules},
    model::{
        AudioContext,
        omni::ear::{Ear, EarShape},
        pass::{Linear, Norm, Pass, Scratch, Sizes},
        text::generate::Guard,
        weights::Loader,
        words::transcript::{Transcribe, Transcript},
    },
};
use anyhow::{Result, ensure};

struct Layer<B: Unrotated> {
    /// `(hidden,)`
    ln1: Norm<B>,
    /// `(3 * hidden, hidden)`: queries, keys, values.
    qkv: Linear<B>,
    /// `(hidden, hidden)`
    o: Linear<B>,
    /// `(hidden,)`
    ln2: Norm<B>,
    /// `(hidden, hidden)`
    cross_q: Linear<B>,
    /// `(2 * hidden, hidden)`: keys, values of the sound.
    cross_kv: Linear<B>,
    /// `(hidden, hidden)`
    cross_o: Linear<B>,
    /// `(hidden,)`
    ln3: Norm<B>,
    /// `(ffn, hidden)`
    fc1: Linear<B>,
    /// `(hidden, ffn)`
    fc2: Linear<B>,
}

pub struct Recogniser<B: Unrotated> {
    backend: B,
    ear: Ear<B>,
    /// `(audio positions, hidden)`: what the encoder makes of silence, where only what holds sound is encoded.
    silence: Option<B::Buf>,
    /// `(vocab, hidden)`, the head as well.
    embed: Linear<B>,
    /// `(positions, hidden)`
    positions: B::Buf,
    layers: Vec<Layer<B>>,
    /// `(hidden,)`
    norm: Norm<B>,
    /// Keys and values of `positions` tokens in every layer.
    own: B::Cache,
    /// Those of `audio positions` of sound.
    sound: B::Cache,
    /// `(hidden,)`: one token.
    x: B::Buf,
    /// `(hidden,)`: its position.
    place: B::Buf,
    /// `(vocab,)`
    logits: B::Buf,
    /// `(vocab + 1,)`: 0 bars a token (`Backend::highest`).
    open: B::Buf,
    /// `(1,)`
    chosen: B::Buf,
    /// `(1,)`
    likelihood: B::Buf,
    scratch: Scratch<B>,
    heads: Heads,
    shape: WordsShape,
    rules: Rules,
    vocabulary: Vocabulary,
}

fn ear(shape: &WordsShape) -> EarShape<'_> {
    EarShape { stack: &shape.audio, mels: shape.mels, positions: shape.audio_positions }
}

fn layer<B: Unrotated>(loader: &Loader<'_, B>, stack: &Stack, i: usize) -> Result<Layer<B>> {
    let at = |tail: &str| format!("words.{i}.{tail}");
    Ok(Layer {
        ln1: loader.norm(&at("ln1"), stack.eps)?,
        qkv: loader.fused(&[&at("attn_q"), &at("attn_k"), &at("attn_v")])?,
        o: loader.linear(&at("attn_o"))?,
        ln2: loader.norm(&at("ln2"), stack.eps)?,
        cross_q: loader.linear(&at("cross_q"))?,
        cross_kv: loader.fused(&[&at("cross_k"), &at("cross_v")])?,
        cross_o: loader.linear(&at("cross_o"))?,
        ln3: loader.norm(&at("ln3"), stack.eps)?,
        fc1: loader.linear(&at("fc1"))?,
        fc2: loader.linear(&at("fc2"))?,
    })
}

impl<B: Unrotated> Recogniser<B> {
    pub fn load(backend: B, bundle: &Words, context: AudioContext) -> Result<Self> {
        let head = bundle.header();
        let shape = head.shape.clone();
        let stack = &shape.words;
        let heads = Heads { n_heads: stack.n_heads, n_kv_heads: stack.n_heads, head_dim: stack.head_dim };
        let loader = Loader { backend: &backend, bundle };
        let wide = Sizes { wide: stack.ffn, ..Sizes::default() };
        let mut open: Vec<f32> =
            (0..shape.vocab as u32).map(|id| f32::from(u8::from(id <= head.transcript.end))).collect();
        head.transcript.barred.iter().for_each(|id| open[*id as usize] = 0.0);
        open.push(1.0);
        let mut recogniser = Recogniser {
            ear: Ear::load(&loader, ear(&shape))?,
            silence: None,
            embed: loader.linear("words.embed")?,
            positions: loader.vector("words.position.weight")?,
            layers: (0..stack.layers).map(|i| layer(&loader, stack, i)).collect::<Result<_>>()?,
            norm: loader.norm("words.norm", stack.eps)?,
            own: backend.cache(stack.layers, heads, shape.positions)?,
            sound: backend.cache(stack.layers, heads, shape.audio_positions)?,
            x: backend.alloc(stack.hidden)?,
            place: backend.alloc(stack.hidden)?,
            logits: backend.alloc(shape.vocab)?,
            open: backend.vector(&open)?,
            chosen: backend.alloc(1)?,
            likelihood: backend.alloc(1)?,
            scratch: Scratch::new(&backend, Ear::<B>::sizes(ear(&shape)).max(wide))?,
            heads,
            rules: head.transcript.clone(),
            vocabulary: head.vocabulary.clone(),
            shape: shape.clone(),
            backend,
        };
        recogniser.set_context(context)?;
        Ok(recogniser)
    }

    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn set_context(&mut self, context: AudioContext) -> Result<()> {
        ensure!(
            context != AudioContext::Brief,
            "the audio context `brief` is not a recogniser's, which has no prompt: choose whole or speech"
        );
        let Self { backend, ear, scratch, shape, .. } = self;
        if ear.set_context(&mut Pass::new(backend, None), scratch, context)? {
            let len = shape.audio_positions * shape.audio.hidden;
            let mut silence = backend.alloc(len)?;
            backend.copy(&scratch.normed, 0, &mut silence, 0, len);
            self.silence = Some(silence);
        }
        Ok(())
    }

    /// Encodes a sound and keeps what the decoder looks at.
    fn hear(&mut self, samples: &[f32]) -> Result<()> {
        let Self { backend, ear, scratch, silence, layers, sound, shape, heads, .. } = self;
        let (all, hidden) = (shape.audio_positions, shape.audio.hidden);
        let mut pass = Pass::new(backend, None);
        ear.listen(&mut pass, samples);
        let rows = ear.hear(&mut pass, scratch, samples)?;
        if let Some(silence) = silence {
            let (from, rest) = (rows * hidden, (all - rows) * hidden);
            pass.backend.copy(silence, from, &mut scratch.normed, from, rest);
        }
        let pairs = Heads { n_heads: 0, ..*heads };
        for (i, layer) in layers.iter().enumerate() {
            pass.linear(&scratch.normed, all, &layer.cross_kv, Act::None, &mut scratch.qkv);
            pass.backend.store(&scratch.qkv, all, 0, pairs, sound, i);
        }
        Ok(())
    }

    /// One token more: `logits` are those of the token after it.
    fn step(&mut self, token: u32, position: usize) {
        let Self { backend, layers, scratch, x, place, own, sound, heads, shape, .. } = self;
        let (hidden, heads, last) = (shape.words.hidden, *heads, shape.audio_positions - 1);
        let mut pass = Pass::new(backend, None);
        pass.backend.embed(&[token], &self.embed.matrix, &mut scratch.mixed, 0);
        pass.backend.copy(&self.positions, position * hidden, place, 0, hidden);
        pass.backend.add(&scratch.mixed, place, hidden, Act::None, x);
        for (i, layer) in layers.iter().enumerate() {
            layer.ln1.plain(&mut pass, x, 1, &mut scratch.normed);
            pass.linear(&scratch.normed, 1, &layer.qkv, Act::None, &mut scratch.qkv);
            pass.backend.store(&scratch.qkv, 1, position, heads, own, i);
            pass.backend.attend_cached(&scratch.qkv, 1, position, heads, own, i, &mut scratch.mixed);
            pass.linear_add(&scratch.mixed, 1, &layer.o, x);
            layer.ln2.plain(&mut pass, x, 1, &mut scratch.normed);
            pass.linear(&scratch.normed, 1, &layer.cross_q, Act::None, &mut scratch.qkv);
            pass.backend.attend_cached(&scratch.qkv, 1, last, heads, sound, i, &mut scratch.mixed);
            pass.linear_add(&scratch.mixed, 1, &layer.cross_o, x);
            layer.ln3.plain(&mut pass, x, 1, &mut scratch.normed);
            pass.linear(&scratch.normed, 1, &layer.fc1, Act::Gelu, &mut scratch.wide);
            pass.linear_add(&scratch.wide, 1, &layer.fc2, x);
        }
        self.norm.plain(&mut pass, x, 1, &mut scratch.normed);
        pass.linear(&scratch.normed, 1, &self.embed, Act::None, &mut self.logits);
    }

    /// Log likelihood of a token as the next.
    fn likelihood(&mut self, token: u32) -> Result<f32> {
        let mut log = [0.0];
        self.backend.log_likelihoods(&self.logits, self.shape.vocab, &[(0, token)], &mut self.likelihood);
        self.backend.read(&self.likelihood, 0, &mut log)?;
        Ok(log[0])
    }

    /// The likeliest open token.
    fn choose(&mut self) -> Result<u32> {
        let mut place = [0.0];
        self.backend.highest(&self.logits, self.shape.vocab, &mut self.open, &mut self.chosen);
        self.backend.read(&self.chosen, 0, &mut place)?;
        ensure!((place[0] as usize) < self.shape.vocab, "no token can be chosen: no logit is a number");
        Ok(place[0] as u32)
    }

    /// Opens or bars the tokens that never come first.
    fn bar_first(&mut self, open: f32) {
        for id in self.rules.barred_first.iter().filter(|id| !self.rules.barred.contains(id)) {
            self.backend.write(&[open], &mut self.open, *id as usize);
        }
    }
}

impl<B: Unrotated> Transcribe for Recogniser<B> {
    fn transcribe(&mut self, samples: &[f32]) -> Result<Transcript> {
        let samples = &samples[..samples.len().min(self.hears_ms() * 16)];
        self.hear(samples)?;
        let opening = self.rules.opening.clone();
        let mut out = Transcript::default();
        for (position, token) in opening.iter().enumerate() {
            self.step(*token, position);
            if position == 0 {
                out.silence = self.likelihood(self.rules.silence)?.exp();
            }
        }
        let (mut made, mut guard, mut sum) = (Vec::new(), Guard::default(), 0.0);
        // Half of the positions, as upstream: the rest is for what was said before.
        for position in opening.len()..(self.shape.positions / 2).max(opening.len() + 1) {
            self.bar_first(if made.is_empty() { 0.0 } else { 1.0 });
            let token = self.choose()?;
            sum += self.likelihood(token)?;
            out.tokens += 1;
            if token == self.rules.end {
                break;
            }
            made.push(token);
            if guard.push(token) {
                out.repeats = true;
                break;
            }
            self.step(token, position);
        }
        self.bar_first(1.0);
        out.log_likelihood = sum / out.tokens as f32;
        out.text = self.vocabulary.text(&made).trim().to_owned();
        Ok(out)
    }

    fn hears_ms(&self) -> usize {
        self.shape.hears_ms()
    }
}
