//! The CPU as a device: panels of packed weights, one pinned team of threads, kernels for the instruction set at hand.
//!
//! Weights are laid out once for the machine (`panels`), activations are f32. Products with Q8_0 and Q4_0 weights quantise x in
//! blocks of 32 to signed bytes (half a step of `max / 127` per value); F16 and F32 weights meet f32. Attention and cache follow
//! [`Precision`]. Results do not depend on the number of threads.
//! `MIEN_CPU` names a level (`plain`, `avx2`, `avx-vnni`, `avx512`, `neon`) and masks what the processor could do beyond that.
//! Limits: scratch memory grows to the largest op seen, then no op allocates.
// Kernels index registers by row and lane; iterators would hide which.
#![allow(clippy::needless_range_loop)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
mod ceiling;
mod device;
mod lanes;
mod level;
mod math;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
mod ops;
mod packs;
mod panels;
mod plain;
mod pool;
mod product;
mod rows;
pub mod scalar;

pub use cache::Cache;
pub use device::{Cpu, Precision};
pub use level::Level;
pub use memory::Buf;
pub use packs::Kept;
pub use panels::Matrix;
