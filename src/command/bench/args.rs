//! Arguments of `mien bench`.

use crate::{
    bundle::{Recipe, synthetic::Preset},
    model::{AudioContext, Device},
};
use std::path::PathBuf;

/// Time every stage of a bundle beside this machine's ceilings.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A packed bundle.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["synthetic", "nets"], conflicts_with = "synthetic")]
    pub bundle: Option<PathBuf>,
    /// Small nets of a folder that `tools/nets fetch` filled, instead of a bundle.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["bundle", "synthetic", "steps"])]
    pub nets: Option<PathBuf>,
    /// Random weights instead of a bundle: tiny or r1-omni-0.5b.
    #[arg(long, value_name = "SIZE", value_parser = Preset::from_name)]
    pub synthetic: Option<Preset>,
    /// How the random weights are stored: f32, f16, q8_0 or q4_0.
    #[arg(long, default_value = "q8_0", value_parser = Recipe::from_name)]
    pub quant: Recipe,
    /// Threads; 0 takes one for each processor.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// cpu or cuda.
    #[arg(long, default_value = "cpu")]
    pub backend: Device,
    /// Whole windows to time.
    #[arg(long, default_value_t = 3)]
    pub windows: usize,
    /// whole; or speech: only what holds sound is encoded; or brief: nor is silence run in the decoder. Tells how far that is from whole.
    #[arg(long, value_name = "CONTEXT", default_value = "whole")]
    pub audio_context: AudioContext,
    /// Tokens of each reason.
    #[arg(long, default_value_t = 150)]
    pub tokens: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Do what standard input says, a step a line, and print a JSON object for each: window, label, hop, vision, audio, prefill,
    /// decode, ceilings. So that others can be timed in turn with it.
    #[arg(long, conflicts_with_all = ["windows", "json"])]
    pub steps: bool,
}

#[cfg(test)]
impl Args {
    pub fn of(preset: Preset) -> Args {
        Args {
            bundle: None,
            nets: None,
            synthetic: Some(preset),
            quant: crate::bundle::Kind::Q8_0.into(),
            threads: 0,
            backend: Device::Cpu,
            windows: 1,
            tokens: 1,
            json: false,
            steps: false,
            audio_context: AudioContext::Whole,
        }
    }
}
