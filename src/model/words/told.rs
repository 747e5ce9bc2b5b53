//! A model that is told what was said in the windows that it sees: a recogniser in front of it.
//!
//! Limits: a recogniser that fails is done with, and said so once; the model goes on without words.

use super::transcript::Transcribe;
use crate::{
    backend::Halt,
    model::{AudioContext, Decoding, Infer, Input, Observer, Reason, Scores},
};
use anyhow::Result;
use zeroize::Zeroize;

pub struct Told {
    infer: Box<dyn Infer>,
    recogniser: Option<Box<dyn Transcribe>>,
    /// Of the last window; `None` where it had no sound.
    heard: Option<String>,
}

impl Told {
    pub fn new(infer: Box<dyn Infer>, recogniser: Box<dyn Transcribe>) -> Told {
        Told { infer, recogniser: Some(recogniser), heard: None }
    }

    fn listen(&mut self, samples: Option<&[f32]>) {
        self.heard.zeroize();
        let (Some(samples), Some(recogniser)) = (samples, &mut self.recogniser) else { return };
        match recogniser.transcribe(samples) {
            Ok(heard) if heard.heard() => self.heard = Some(heard.text),
            Ok(_) => self.heard = Some(String::new()),
            Err(error) => {
                log::error!("the speech recogniser is done with, and no words are heard: {error:#}");
                self.recogniser = None;
            }
        }
    }
}

impl Infer for Told {
    fn see(&mut self, prompt: &str, input: &Input<'_>) -> Result<()> {
        self.listen(input.samples);
        let words = input.words.or(self.heard.as_deref());
        self.infer.see(prompt, &Input { words, ..*input })
    }

    fn heard(&self) -> Option<&str> {
        self.heard.as_deref()
    }

    fn describe(&self) -> String {
        format!("{}; words are heard", self.infer.describe())
    }

    fn ask(&mut self, prompt: &str) -> Result<()> {
        self.infer.ask(prompt)
    }

    fn score(&mut self, label_set: &str) -> Result<&Scores> {
        self.infer.score(label_set)
    }

    fn reason_on(&mut self, say: &mut dyn FnMut(&str)) -> Result<Option<Reason>> {
        self.infer.reason_on(say)
    }

    fn reason_between(&mut self) -> Result<()> {
        self.infer.reason_between()
    }

    fn cut_reason(&mut self) -> Option<Reason> {
        self.infer.cut_reason()
    }

    fn halt_when(&mut self, halt: Halt) {
        self.infer.halt_when(halt);
    }

    fn set_decoding(&mut self, decoding: Decoding) -> Result<()> {
        self.infer.set_decoding(decoding)
    }

    fn set_audio_context(&mut self, context: AudioContext) -> Result<()> {
        self.infer.set_audio_context(context)
    }

    fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.infer.observe(observer);
    }
}
