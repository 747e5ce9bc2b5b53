//! A loaded model as everybody outside sees it: a window in, scores and a reason out.

use crate::{
    backend::Halt,
    model::{observe::Observer, omni::ear::AudioContext, text::generate::Decoding},
    source::Frame,
};
use anyhow::Result;
use std::ops::Range;

/// What one inference sees. Frames are already chosen: `Shape::frames` of them. A missing modality is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Frames with an id that stays the same as long as the picture does: features are cached under it.
    pub frames: Option<&'a [(u64, &'a Frame)]>,
    /// 16 kHz mono in [-1, 1]; what is longer than `Shape::samples_max` is cut there.
    pub samples: Option<&'a [f32]>,
    /// What was said, for a prompt with a place for it; what is longer than `WORDS_MAX` tokens is cut there.
    pub words: Option<&'a str>,
}

/// Probabilities over the labels of one set, sum 1, in the set's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    pub probabilities: Vec<f32>,
}

/// What the model says of a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// The whole answer as generated, trimmed.
    pub text: String,
    /// Between `<think>` and `</think>`, trimmed.
    pub think: Option<String>,
    /// Between `<answer>` and `</answer>`, trimmed.
    pub answer: Option<String>,
    pub tokens: usize,
    /// Why generation ended.
    pub stop: Stop,
    /// Of every token where it ends in `text` and the logarithm of its probability, 0 where nothing else could come; empty unless
    /// `Decoding::weighed`.
    pub weights: Vec<(usize, f32)>,
}

impl Reason {
    /// The probability of a stretch of `text`, given what is before it: that of the tokens that reach into it.
    pub fn probability(&self, stretch: Range<usize>) -> f32 {
        let mut start = 0;
        let mut sum = 0.0;
        for &(end, log) in &self.weights {
            if end > stretch.start && start < stretch.end {
                sum += log;
            }
            start = end;
        }
        sum.exp()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    EndOfText,
    MaxNewTokens,
    /// The repetition guard saw the same stretch again and again.
    Repetition,
    /// Nobody wants it any more (`Infer::halt_when`).
    Halted,
}

/// A loaded model as the daemon sees it; the backend is chosen once, behind this.
pub trait Infer {
    /// One line for people: the device and the memory that was taken.
    fn describe(&self) -> String;
    /// Encodes a window and prefills the named prompt, ready to score or to reason.
    fn see(&mut self, prompt: &str, input: &Input<'_>) -> Result<()>;
    /// Prefills another prompt over what was last seen; nothing is encoded again.
    fn ask(&mut self, prompt: &str) -> Result<()>;
    /// What was said in the window that was last seen; `None` where nobody listens or it had no sound.
    fn heard(&self) -> Option<&str> {
        None
    }
    /// Scores every label of a set for what was last seen, without thinking.
    fn score(&mut self, label_set: &str) -> Result<&Scores>;
    /// Generates the reason for what was last seen; `say` gets text as it comes, whole characters only.
    fn reason(&mut self, say: &mut dyn FnMut(&str)) -> Result<Reason> {
        loop {
            if let Some(reason) = self.reason_on(say)? {
                return Ok(reason);
            }
        }
    }
    /// The same a token or so at a time: begins a reason, or goes on with the one that was begun, and is `None` until it is whole.
    /// Windows may be seen and scored in between, after [`Infer::reason_between`].
    fn reason_on(&mut self, say: &mut dyn FnMut(&str)) -> Result<Option<Reason>>;
    /// Takes the memory for reasons that wait while windows are scored; without it, seeing a window gives a reason up.
    fn reason_between(&mut self) -> Result<()>;
    /// Ends the reason that was begun where it stands.
    fn cut_reason(&mut self) -> Option<Reason>;
    /// While it is raised, a call may return soon, with results that mean nothing: whoever raised it throws them away. Nothing of
    /// them is left when it is lowered.
    fn halt_when(&mut self, _halt: Halt) {}
    /// How `reason` generates from now on; refused where the bundle cannot do it.
    fn set_decoding(&mut self, decoding: Decoding) -> Result<()>;
    /// How much sound is encoded from now on; refused where the device cannot. The last window is forgotten.
    fn set_audio_context(&mut self, context: AudioContext) -> Result<()>;
    /// Whom to tell of stages and values from now on.
    fn observe(&mut self, observer: Option<Box<dyn Observer>>);
}
