//! The R1-Omni topology, written once over `Backend`: vision, audio, fusion, decoder.
//!
//! Shapes: see `bundle::Shape`. A window goes in as frames and samples, `Scores` and `Reason` come out.
//! Limits: all memory is taken when a model is loaded, for the longest prompt and the longest answer of its bundle.

pub mod audio;
pub mod constrain;
pub mod decoder;
pub mod engine;
pub mod fusion;
pub mod generate;
pub mod observe;
pub mod score;
pub mod tower;
pub mod vision;
pub mod weights;

pub use audio::AudioContext;
pub use engine::Model;
pub use generate::{Decoding, Sampling};
pub use observe::{Cost, Observer, Stage, Stages, Taps};

#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
use crate::{
    backend::cpu::{Cpu, Precision, scalar::Scalar},
    bundle::Bundle,
    source::Frame,
};
use anyhow::{Result, bail};

/// What one inference sees. Frames are already chosen: `Shape::frames` of them. A missing modality is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Frames with an id that stays the same as long as the picture does: features are cached under it.
    pub frames: Option<&'a [(u64, &'a Frame)]>,
    /// 16 kHz mono in [-1, 1]; what is longer than `Shape::samples_max` is cut there.
    pub samples: Option<&'a [f32]>,
}

/// Probabilities over the labels of one set, sum 1, in the set's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    pub probabilities: Vec<f32>,
}

/// What the model says of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    EndOfText,
    MaxNewTokens,
    /// The repetition guard saw the same stretch again and again.
    Repetition,
}

/// A loaded model as the daemon sees it; the backend is chosen once, behind this.
pub trait Infer {
    /// One line for people: the device and the memory that was taken.
    fn describe(&self) -> String;
    /// Encodes a window and prefills the named prompt, ready to score or to reason.
    fn see(&mut self, prompt: &str, input: &Input<'_>) -> Result<()>;
    /// Prefills another prompt over what was last seen; nothing is encoded again.
    fn ask(&mut self, prompt: &str) -> Result<()>;
    /// Scores every label of a set for what was last seen, without thinking.
    fn score(&mut self, label_set: &str) -> Result<&Scores>;
    /// Generates the reason for what was last seen; `say` gets text as it comes, whole characters only.
    fn reason(&mut self, say: &mut dyn FnMut(&str)) -> Result<Reason>;
    /// How `reason` generates from now on; refused where the bundle cannot do it.
    fn set_decoding(&mut self, decoding: Decoding) -> Result<()>;
    /// How much sound is encoded from now on; refused where the device cannot. The last window is forgotten.
    fn set_audio_context(&mut self, context: AudioContext) -> Result<()>;
    /// Whom to tell of stages and values from now on.
    fn observe(&mut self, observer: Option<Box<dyn Observer>>);
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The fastest there is on this machine.
    #[default]
    Auto,
    /// The multi-threaded CPU backend.
    Cpu,
    /// The first CUDA device; refused where there is none.
    Cuda,
    /// The scalar reference: slow, and right.
    Scalar,
}

impl std::str::FromStr for Device {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "auto" => Device::Auto,
            "cpu" => Device::Cpu,
            "cuda" => Device::Cuda,
            "scalar" => Device::Scalar,
            other => bail!("`{other}` is no backend; choose auto, cpu, cuda or scalar"),
        })
    }
}

#[cfg(not(feature = "cuda"))]
pub fn without_cuda() -> anyhow::Error {
    anyhow::anyhow!(
        "this program was built without CUDA; `tools/kernels build` and then `cargo build --release --features cuda` add it"
    )
}

/// Loads a bundle onto a device; `threads` 0 takes what the machine has. `Auto` takes a CUDA device where there is one, and says
/// so where there is none.
pub fn load(bundle: &Bundle, device: Device, threads: usize) -> Result<Box<dyn Infer>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Auto => match Cuda::open(bundle.header().quant) {
            Ok(cuda) => Ok(Box::new(Model::load(cuda, bundle)?)),
            Err(why) => {
                log::warn!("backend=cpu cuda=\"{why:#}\"");
                load(bundle, Device::Cpu, threads)
            }
        },
        #[cfg(feature = "cuda")]
        Device::Cuda => Ok(Box::new(Model::load(Cuda::open(bundle.header().quant)?, bundle)?)),
        #[cfg(not(feature = "cuda"))]
        Device::Auto => load(bundle, Device::Cpu, threads),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(without_cuda()),
        Device::Cpu => {
            let cpu = Cpu::new(threads, Precision::of(bundle.header().quant))?;
            Ok(Box::new(Model::load(cpu, bundle)?))
        }
        Device::Scalar => Ok(Box::new(Model::load(Scalar, bundle)?)),
    }
}
