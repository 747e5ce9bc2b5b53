//! Models, written once over `Backend`: `text` is any Qwen-like decoder, `omni` the R1-Omni topology around it, `words` a speech recogniser.
//!
//! Shapes: see `bundle::Shape`. A window goes in as frames and samples, `Scores` and `Reason` come out.
//! Limits: all memory is taken when a model is loaded, for the longest prompt and the longest answer of its bundle.

pub mod follow;
pub mod infer;
pub mod observe;
pub mod omni;
pub mod pass;
pub mod self_test;
pub mod text;
pub mod weights;
pub mod words;

pub use infer::{Infer, Input, Reason, Scores, Stop};
pub use observe::{Cost, Observer, Stage, Stages, Taps};
pub use omni::{ear::AudioContext, engine::Model};
pub use text::generate::{Decoding, Sampling};

#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
use crate::{
    backend::{
        GpuWait,
        cpu::{Cpu, Precision, scalar::Scalar},
    },
    bundle::Bundle,
};
use anyhow::{Result, bail};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
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
    load_with(bundle, device, threads, GpuWait::Auto)
}

/// The same, and how a CUDA device is waited for.
pub fn load_with(
    bundle: &Bundle,
    device: Device,
    threads: usize,
    gpu_wait: GpuWait,
) -> Result<Box<dyn Infer>> {
    #[cfg(feature = "cuda")]
    let on_cuda = || Cuda::open(bundle.header().quant.products(), gpu_wait);
    #[cfg(not(feature = "cuda"))]
    let _ = gpu_wait;
    match device {
        #[cfg(feature = "cuda")]
        Device::Auto => match on_cuda() {
            Ok(cuda) => Ok(Box::new(Model::load(cuda, bundle)?)),
            Err(why) => {
                log::warn!("backend=cpu cuda=\"{why:#}\"");
                load(bundle, Device::Cpu, threads)
            }
        },
        #[cfg(feature = "cuda")]
        Device::Cuda => Ok(Box::new(Model::load(on_cuda()?, bundle)?)),
        #[cfg(not(feature = "cuda"))]
        Device::Auto => load(bundle, Device::Cpu, threads),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda => Err(without_cuda()),
        Device::Cpu => {
            let cpu = Cpu::new(threads, Precision::of(bundle.header().quant.products()))?;
            Ok(Box::new(Model::load(cpu, bundle)?))
        }
        Device::Scalar => Ok(Box::new(Model::load(Scalar, bundle)?)),
    }
}
