//! Sound to words: an encoder and decoder of Whisper's kind over the backends that store keys unrotated.
//!
//! Shapes: samples of 16 kHz mono go in, at most as many as the encoder has positions for (30 s); text comes out.
//! Decoding is greedy, as upstream's without its fallbacks (`whisper.decoding`, temperature 0, no timestamps): a text that repeats itself is
//! cut by the guard, and [`Transcript::heard`] says which texts to believe.

mod recogniser;
mod told;
mod transcript;

use crate::{
    backend::{
        Footprint,
        cpu::{Cpu, Precision},
    },
    bundle::Words,
    model::AudioContext,
};
use anyhow::Result;
pub use recogniser::Recogniser;
pub use told::Told;
pub use transcript::{Transcribe, Transcript};

/// What a recogniser holds, laid out by a processor that computes nothing.
pub fn footprint(bundle: &Words, context: AudioContext) -> Result<Footprint> {
    let cpu = Cpu::planning(Precision::of(bundle.header().quant.products()))?;
    let mut recogniser = Recogniser::load(cpu, bundle, context)?;
    recogniser.transcribe(&[0.0; 16_000])?;
    Ok(recogniser.backend().footprint())
}

/// Loads a recogniser on the processor; `threads` 0 takes what the machine has.
pub fn load(bundle: &Words, threads: usize, context: AudioContext) -> Result<Box<dyn Transcribe>> {
    let cpu = Cpu::new(threads, Precision::of(bundle.header().quant.products()))?;
    Ok(Box::new(Recogniser::load(cpu, bundle, context)?))
}
