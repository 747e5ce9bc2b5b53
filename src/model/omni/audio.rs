//! Sound to audio tokens: the ear, means of three positions, a small MLP.
//!
//! Shapes: the ear's `(audio_positions, hidden)`; tokens `(audio_tokens, decoder hidden)`.

use crate::{
    backend::{Act, Backend},
    bundle::Shape,
    model::{
        omni::ear::{AudioContext, Ear, EarShape},
        pass::{Linear, Pass, Scratch, Sizes},
        weights::Loader,
    },
};
use anyhow::Result;

pub struct Audio<B: Backend> {
    ear: Ear<B>,
    /// `(decoder hidden, hidden)`
    fc1: Linear<B>,
    /// `(decoder hidden, decoder hidden)`
    fc2: Linear<B>,
    /// What `encode` leaves: `(audio_tokens, decoder hidden)`.
    pub tokens: B::Buf,
    /// How many of them hold sound; the others are those of silence.
    pub fresh: usize,
    /// The same of silence, where only what holds sound is encoded.
    silence: Option<B::Buf>,
    mels: usize,
    rows: usize,
    hidden: usize,
    pool: usize,
    token_width: usize,
}

fn ear(shape: &Shape) -> EarShape<'_> {
    EarShape { stack: &shape.audio, mels: shape.mels, positions: shape.audio_positions }
}

impl<B: Backend> Audio<B> {
    pub fn load(loader: &Loader<'_, B>, shape: &Shape) -> Result<Self> {
        Ok(Self {
            ear: Ear::load(loader, ear(shape))?,
            fc1: loader.linear("fusion.audio.fc1")?,
            fc2: loader.linear("fusion.audio.fc2")?,
            tokens: loader.backend.alloc(shape.audio_tokens() * shape.decoder.hidden)?,
            fresh: shape.audio_tokens(),
            silence: None,
            mels: shape.mels,
            rows: shape.audio_positions,
            hidden: shape.audio.hidden,
            pool: shape.audio_pool,
            token_width: shape.decoder.hidden,
        })
    }

    pub fn sizes(shape: &Shape) -> Sizes {
        let wide = shape.audio_tokens() * shape.decoder.hidden;
        Ear::<B>::sizes(ear(shape)).max(Sizes { wide, ..Sizes::default() })
    }

    pub fn encode(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        samples: &[f32],
    ) -> Result<()> {
        pass.begin("mel");
        self.ear.listen(pass, samples);
        pass.end_on_host("mel");
        pass.tap_host("mel", 2 * self.rows, self.mels, self.ear.picture());

        pass.begin("audio");
        let rows = self.ear.hear(pass, scratch, samples)?;
        self.join(pass, scratch, rows)?;
        self.fresh = rows / self.pool;
        if let Some(silence) = &self.silence {
            let (from, to) = (self.fresh * self.token_width, self.rows / self.pool * self.token_width);
            pass.backend.copy(silence, from, &mut self.tokens, from, to - from);
        }
        pass.end("audio", &self.tokens)?;
        pass.tap("audio_tokens", &self.tokens, self.rows / self.pool, self.token_width)
    }

    /// Encodes so much from now on. Silence is run once for it.
    pub fn set_context(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        context: AudioContext,
    ) -> Result<()> {
        self.silence = None;
        if self.ear.set_context(pass, scratch, context)? {
            let len = self.rows / self.pool * self.token_width;
            let mut tokens = pass.backend.alloc(len)?;
            self.join(pass, scratch, self.rows)?;
            pass.backend.copy(&self.tokens, 0, &mut tokens, 0, len);
            self.silence = Some(tokens);
        }
        Ok(())
    }

    /// The first `rows` positions in `scratch.normed`, to the first tokens.
    fn join(&mut self, pass: &mut Pass<'_, B>, scratch: &mut Scratch<B>, rows: usize) -> Result<()> {
        let hidden = self.hidden;
        pass.backend.pool_rows(&scratch.normed, rows, hidden, self.pool, &mut scratch.mixed);
        let tokens = rows / self.pool;
        pass.tap("audio_pooled", &scratch.mixed, tokens, hidden)?;
        pass.linear(&scratch.mixed, tokens, &self.fc1, Act::Gelu, &mut scratch.wide);
        pass.linear(&scratch.wide, tokens, &self.fc2, Act::None, &mut self.tokens);
        Ok(())
    }
}
