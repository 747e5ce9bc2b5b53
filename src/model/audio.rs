//! Sound to audio tokens: log-mel, two convolutions, the audio tower, means of three, a small MLP.
//!
//! Shapes: mel `(2 * audio_positions, mels)`; tokens `(audio_tokens, decoder hidden)`.

use crate::{
    backend::{Act, Backend},
    bundle::Shape,
    feature::mel::Mel,
    model::{
        observe::Pass,
        tower::Tower,
        weights::{Linear, Loader, Norm, Scratch, Sizes},
    },
};
use anyhow::Result;

pub struct Audio<B: Backend> {
    conv1: Linear<B>,
    conv2: Linear<B>,
    positions: B::Buf,
    tower: Tower<B>,
    norm: Norm<B>,
    fc1: Linear<B>,
    fc2: Linear<B>,
    mel: Mel,
    picture: Vec<f32>,
    uploaded: B::Buf,
    x: B::Buf,
    /// What `encode` leaves: `(audio_tokens, decoder hidden)`.
    pub tokens: B::Buf,
    mels: usize,
    rows: usize,
    hidden: usize,
    pool: usize,
    token_width: usize,
}

impl<B: Backend> Audio<B> {
    pub fn load(loader: &Loader<'_, B>, shape: &Shape) -> Result<Self> {
        let rows = shape.audio_positions;
        let backend = loader.backend;
        Ok(Self {
            conv1: loader.linear("audio.conv1")?,
            conv2: loader.linear("audio.conv2")?,
            positions: loader.vector("audio.position.weight")?,
            tower: Tower::load(loader, "audio", &shape.audio, Act::Gelu)?,
            norm: loader.norm("audio.norm", shape.audio.eps)?,
            fc1: loader.linear("fusion.audio.fc1")?,
            fc2: loader.linear("fusion.audio.fc2")?,
            mel: Mel::new(shape.mels, 2 * rows),
            picture: vec![0.0; 2 * rows * shape.mels],
            uploaded: backend.alloc(2 * rows * shape.mels)?,
            x: backend.alloc(rows * shape.audio.hidden)?,
            tokens: backend.alloc(shape.audio_tokens() * shape.decoder.hidden)?,
            mels: shape.mels,
            rows,
            hidden: shape.audio.hidden,
            pool: shape.audio_pool,
            token_width: shape.decoder.hidden,
        })
    }

    pub fn sizes(shape: &Shape) -> Sizes {
        let (rows, hidden) = (shape.audio_positions, shape.audio.hidden);
        let tokens = shape.audio_tokens() * shape.decoder.hidden;
        let unfolded = (2 * rows * 3 * shape.mels).max(rows * 3 * hidden).max(tokens);
        let rest = Sizes { qkv: 2 * rows * hidden, wide: unfolded, ..Sizes::default() };
        Tower::<B>::sizes(&shape.audio, rows).max(rest)
    }

    pub fn encode(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        samples: &[f32],
    ) -> Result<()> {
        let (rows, hidden) = (self.rows, self.hidden);
        pass.begin("mel");
        self.mel.log_mel(samples, &mut self.picture);
        pass.backend.write(&self.picture, &mut self.uploaded, 0);
        pass.end_on_host("mel");
        pass.tap_host("mel", 2 * rows, self.mels, &self.picture);

        pass.begin("audio");
        pass.backend.unfold_rows(&self.uploaded, 2 * rows, self.mels, 1, &mut scratch.wide);
        pass.linear(&scratch.wide, 2 * rows, &self.conv1, Act::Gelu, &mut scratch.qkv);
        pass.backend.unfold_rows(&scratch.qkv, 2 * rows, hidden, 2, &mut scratch.wide);
        pass.linear(&scratch.wide, rows, &self.conv2, Act::Gelu, &mut scratch.mixed);
        pass.backend.add(&scratch.mixed, &self.positions, rows * hidden, Act::None, &mut self.x);
        pass.tap("whisper_embeddings", &self.x, rows, hidden)?;
        self.tower.run(pass, scratch, &mut self.x, 1, rows);
        self.norm.plain(pass, &self.x, rows, &mut scratch.normed);
        pass.tap("whisper_hidden", &scratch.normed, rows, hidden)?;
        pass.backend.pool_rows(&scratch.normed, rows, hidden, self.pool, &mut scratch.mixed);
        let tokens = rows / self.pool;
        pass.tap("audio_pooled", &scratch.mixed, tokens, hidden)?;
        pass.linear(&scratch.mixed, tokens, &self.fc1, Act::Gelu, &mut scratch.wide);
        pass.linear(&scratch.wide, tokens, &self.fc2, Act::None, &mut self.tokens);
        pass.end("audio", &self.tokens)?;
        pass.tap("audio_tokens", &self.tokens, tokens, self.token_width)
    }
}
