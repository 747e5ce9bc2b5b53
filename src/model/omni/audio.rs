//! Sound to audio tokens: log-mel, two convolutions, the audio tower, means of three, a small MLP.
//!
//! Shapes: mel `(2 * audio_positions, mels)`; tokens `(audio_tokens, decoder hidden)`.
//! Context: R1-Omni's tower always hears 30 s, of which a window fills a few. With [`AudioContext::Speech`] only the positions that hold
//! sound are encoded, beside keys, values and tokens that silence left when the model was loaded.

use crate::{
    backend::{Act, Backend},
    bundle::Shape,
    feature::mel::Mel,
    model::{
        omni::tower::{Reach, Tower},
        pass::{Linear, Norm, Pass, Scratch, Sizes},
        weights::{Loader, zeros},
    },
};
use anyhow::{Result, bail};

/// How much of the tower's time is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioContext {
    /// All of it, as the model was trained.
    #[default]
    Whole,
    /// What holds sound, and a margin; the rest stays as a silent run left it. An approximation.
    Speech,
}

impl std::str::FromStr for AudioContext {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "whole" => AudioContext::Whole,
            "speech" => AudioContext::Speech,
            other => bail!("`{other}` is no audio context; choose whole or speech"),
        })
    }
}

/// Positions after the sound that are encoded as well.
const MARGIN: usize = 16;
/// Encoded positions are a multiple of this, unless they are all.
const STEP: usize = 16;
const SAMPLES_PER_POSITION: usize = 320;
/// The mel of silence beside ordinary speech: 8 below a loudest band of power 1.
const SILENCE: f32 = -1.0;

/// What silence leaves.
struct Silence<B: Backend> {
    /// Keys and values of `audio_positions` positions in every layer.
    kept: B::Kept,
    /// `(audio_tokens, decoder hidden)`
    tokens: B::Buf,
}

pub struct Audio<B: Backend> {
    /// `(hidden, 3 * mels)`: one tap after the other.
    conv1: Linear<B>,
    /// `(hidden, 3 * hidden)`: one tap after the other.
    conv2: Linear<B>,
    /// `(audio_positions, hidden)`
    positions: B::Buf,
    tower: Tower<B>,
    /// `(hidden,)`
    norm: Norm<B>,
    /// `(decoder hidden, hidden)`
    fc1: Linear<B>,
    /// `(decoder hidden, decoder hidden)`
    fc2: Linear<B>,
    mel: Mel,
    /// `(2 * audio_positions, mels)`
    picture: Vec<f32>,
    /// `(2 * audio_positions, mels)`
    uploaded: B::Buf,
    /// `(audio_positions, hidden)`
    x: B::Buf,
    /// What `encode` leaves: `(audio_tokens, decoder hidden)`.
    pub tokens: B::Buf,
    silence: Option<Silence<B>>,
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
            picture: zeros(2 * rows * shape.mels)?,
            uploaded: backend.alloc(2 * rows * shape.mels)?,
            x: backend.alloc(rows * shape.audio.hidden)?,
            tokens: backend.alloc(shape.audio_tokens() * shape.decoder.hidden)?,
            silence: None,
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
        pass.begin("mel");
        self.mel.log_mel(samples, &mut self.picture);
        pass.backend.write(&self.picture, &mut self.uploaded, 0);
        pass.end_on_host("mel");
        pass.tap_host("mel", 2 * self.rows, self.mels, &self.picture);

        pass.begin("audio");
        let rows = if self.silence.is_some() { self.heard(samples) } else { self.rows };
        match self.silence.take() {
            Some(silence) if rows < self.rows => {
                let ran = self.run(pass, scratch, rows, Reach::Beside(&silence.kept, self.rows));
                let (from, to) =
                    (rows / self.pool * self.token_width, self.rows / self.pool * self.token_width);
                pass.backend.copy(&silence.tokens, from, &mut self.tokens, from, to - from);
                self.silence = Some(silence);
                ran?;
            }
            silence => {
                self.silence = silence;
                self.run(pass, scratch, self.rows, Reach::Own)?;
            }
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
        if context == AudioContext::Whole {
            self.silence = None;
            return Ok(());
        }
        let mut kept = self.tower.kept(pass.backend, self.rows)?;
        let len = self.rows / self.pool * self.token_width;
        let mut tokens = pass.backend.alloc(len)?;
        self.picture.fill(SILENCE);
        pass.backend.write(&self.picture, &mut self.uploaded, 0);
        self.run(pass, scratch, self.rows, Reach::Keep(&mut kept))?;
        pass.backend.copy(&self.tokens, 0, &mut tokens, 0, len);
        self.silence = Some(Silence { kept, tokens });
        Ok(())
    }

    /// Positions up to the last sample that is not 0, with the margin.
    fn heard(&self, samples: &[f32]) -> usize {
        let end = samples.iter().rposition(|s| *s != 0.0).map_or(0, |last| last + 1);
        (end.div_ceil(SAMPLES_PER_POSITION) + MARGIN).next_multiple_of(STEP).min(self.rows)
    }

    /// The first `rows` positions of the uploaded mel, to the first tokens.
    fn run(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        rows: usize,
        reach: Reach<'_, B>,
    ) -> Result<()> {
        let hidden = self.hidden;
        // One position more, for the convolutions look ahead.
        let frames = 2 * (rows + 1).min(self.rows);
        pass.backend.unfold_rows(&self.uploaded, frames, self.mels, 1, &mut scratch.wide);
        pass.linear(&scratch.wide, frames, &self.conv1, Act::Gelu, &mut scratch.qkv);
        pass.backend.unfold_rows(&scratch.qkv, frames, hidden, 2, &mut scratch.wide);
        pass.linear(&scratch.wide, rows, &self.conv2, Act::Gelu, &mut scratch.mixed);
        pass.backend.add(&scratch.mixed, &self.positions, rows * hidden, Act::None, &mut self.x);
        pass.tap("whisper_embeddings", &self.x, rows, hidden)?;
        self.tower.run(pass, scratch, &mut self.x, 1, rows, reach);
        self.norm.plain(pass, &self.x, rows, &mut scratch.normed);
        pass.tap("whisper_hidden", &scratch.normed, rows, hidden)?;
        pass.backend.pool_rows(&scratch.normed, rows, hidden, self.pool, &mut scratch.mixed);
        let tokens = rows / self.pool;
        pass.tap("audio_pooled", &scratch.mixed, tokens, hidden)?;
        pass.linear(&scratch.mixed, tokens, &self.fc1, Act::Gelu, &mut scratch.wide);
        pass.linear(&scratch.wide, tokens, &self.fc2, Act::None, &mut self.tokens);
        Ok(())
    }
}
