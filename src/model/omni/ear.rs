//! Sound as an audio tower of Whisper's kind hears it: log-mel, two convolutions, positions, the tower, its last norm.
//!
//! Shapes: mel `(2 * positions, mels)`; out `(positions, hidden)`.
//! Context: a tower always hears 30 s, of which a window fills a few. Unless it is [`AudioContext::Whole`], only the positions that hold sound are
//! encoded, beside keys and values that silence left when the context was set.

use crate::{
    backend::{Act, Backend},
    bundle::Stack,
    feature::mel::Mel,
    model::{
        omni::tower::{Reach, Tower},
        pass::{Linear, Norm, Pass, Scratch, Sizes},
        weights::{Loader, zeros},
    },
};
use anyhow::{Result, bail};

/// How much of the tower's time is encoded.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AudioContext {
    /// All of it, as the model was trained.
    #[default]
    Whole,
    /// What holds sound, and a margin; the rest stays as a silent run left it. An approximation.
    Speech,
    /// Likewise in the decoder: where a window is scored, tokens of silence are not run, but keep the keys and values that a grey and
    /// silent window left. A further approximation.
    Brief,
}

impl AudioContext {
    pub fn is_whole(&self) -> bool {
        *self == AudioContext::Whole
    }
}

impl std::str::FromStr for AudioContext {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "whole" => AudioContext::Whole,
            "speech" => AudioContext::Speech,
            "brief" => AudioContext::Brief,
            other => bail!("`{other}` is no audio context; choose whole, speech or brief"),
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

/// Sizes of an ear.
#[derive(Clone, Copy, Debug)]
pub struct EarShape<'a> {
    pub stack: &'a Stack,
    pub mels: usize,
    /// Rows after the second convolution: half the mel frames.
    pub positions: usize,
}

pub struct Ear<B: Backend> {
    /// `(hidden, 3 * mels)`: one tap after the other.
    conv1: Linear<B>,
    /// `(hidden, 3 * hidden)`: one tap after the other.
    conv2: Linear<B>,
    /// `(positions, hidden)`
    positions: B::Buf,
    tower: Tower<B>,
    /// `(hidden,)`
    norm: Norm<B>,
    mel: Mel,
    /// `(2 * positions, mels)`
    picture: Vec<f32>,
    /// `(2 * positions, mels)`
    uploaded: B::Buf,
    /// `(positions, hidden)`
    x: B::Buf,
    /// What silence leaves: keys and values of all positions in every layer.
    silence: Option<B::Kept>,
    mels: usize,
    rows: usize,
    hidden: usize,
}

impl<B: Backend> Ear<B> {
    pub fn load(loader: &Loader<'_, B>, shape: EarShape<'_>) -> Result<Self> {
        let EarShape { stack, mels, positions: rows } = shape;
        let backend = loader.backend;
        Ok(Self {
            conv1: loader.linear("audio.conv1")?,
            conv2: loader.linear("audio.conv2")?,
            positions: loader.vector("audio.position.weight")?,
            tower: Tower::load(loader, "audio", stack, Act::Gelu)?,
            norm: loader.norm("audio.norm", stack.eps)?,
            mel: Mel::new(mels, 2 * rows),
            picture: zeros(2 * rows * mels)?,
            uploaded: backend.alloc(2 * rows * mels)?,
            x: backend.alloc(rows * stack.hidden)?,
            silence: None,
            mels,
            rows,
            hidden: stack.hidden,
        })
    }

    pub fn sizes(shape: EarShape<'_>) -> Sizes {
        let (rows, hidden) = (shape.positions, shape.stack.hidden);
        let wide = (2 * rows * 3 * shape.mels).max(rows * 3 * hidden);
        Tower::<B>::sizes(shape.stack, rows).max(Sizes { qkv: 2 * rows * hidden, wide, ..Sizes::default() })
    }

    /// The log-mel picture of what is heard next.
    pub fn listen(&mut self, pass: &mut Pass<'_, B>, samples: &[f32]) {
        self.mel.log_mel(samples, &mut self.picture);
        pass.backend.write(&self.picture, &mut self.uploaded, 0);
    }

    /// The picture on the host, `(2 * positions, mels)`.
    pub fn picture(&self) -> &[f32] {
        &self.picture
    }

    /// Encodes what was listened to; `samples` are the same. The first rows of `scratch.normed`, so many as are returned, hold it; the
    /// others are as silence left them.
    pub fn hear(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        samples: &[f32],
    ) -> Result<usize> {
        let rows = if self.silence.is_some() { self.heard(samples) } else { self.rows };
        match self.silence.take() {
            Some(silence) if rows < self.rows => {
                let ran = self.run(pass, scratch, rows, Reach::Beside(&silence, self.rows));
                self.silence = Some(silence);
                ran?;
            }
            silence => {
                self.silence = silence;
                self.run(pass, scratch, self.rows, Reach::Own)?;
            }
        }
        Ok(rows)
    }

    /// Encodes so much from now on. True: silence was run for it, and `scratch.normed` holds what it left in all positions.
    pub fn set_context(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        context: AudioContext,
    ) -> Result<bool> {
        if context == AudioContext::Whole {
            self.silence = None;
            return Ok(false);
        }
        let mut kept = self.tower.kept(pass.backend, self.rows)?;
        self.picture.fill(SILENCE);
        pass.backend.write(&self.picture, &mut self.uploaded, 0);
        self.run(pass, scratch, self.rows, Reach::Keep(&mut kept))?;
        self.silence = Some(kept);
        Ok(true)
    }

    /// Positions up to the last sample that is not 0, with the margin.
    fn heard(&self, samples: &[f32]) -> usize {
        let end = samples.iter().rposition(|s| *s != 0.0).map_or(0, |last| last + 1);
        (end.div_ceil(SAMPLES_PER_POSITION) + MARGIN).next_multiple_of(STEP).min(self.rows)
    }

    /// The first `rows` positions of the uploaded mel, to `scratch.normed`.
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
        pass.tap("whisper_hidden", &scratch.normed, rows, hidden)
    }
}
