//! What a recogniser heard, and which of it to believe.

use anyhow::Result;

/// Upstream's thresholds: a text so unlikely, of a sound so likely to be silence, was not said.
const LOG_MIN: f32 = -1.0;
const SILENCE_MAX: f32 = 0.6;

/// What was heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// Trimmed.
    pub text: String,
    pub tokens: usize,
    /// Log likelihood of a token, the end included, in the mean.
    pub log_likelihood: f32,
    /// Probability that nobody speaks.
    pub silence: f32,
    /// The text repeated itself and was cut.
    pub repeats: bool,
}

impl Transcript {
    /// Whether it is to be believed.
    pub fn heard(&self) -> bool {
        let unlikely = self.silence > SILENCE_MAX && self.log_likelihood < LOG_MIN;
        !self.text.is_empty() && !self.repeats && !unlikely
    }
}

/// A loaded recogniser, whatever it runs on.
pub trait Transcribe {
    /// The words of a sound; what is longer than it can hear is cut.
    fn transcribe(&mut self, samples: &[f32]) -> Result<Transcript>;
    /// Milliseconds that it hears at most.
    fn hears_ms(&self) -> usize;
}
