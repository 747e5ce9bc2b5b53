//! Every device and instruction set of this machine, with the bounds it is held to.

use super::answers::Bound;
use mien::backend::{
    Backend,
    cpu::{Cpu, Level, Precision},
};

pub fn cpus() -> Vec<(Cpu, Bound)> {
    let mut all = Vec::new();
    for level in Level::available() {
        for (precision, threads) in [(Precision::F32, 3), (Precision::F16, 2), (Precision::Int8, 1)] {
            let cpu = Cpu::with_level(threads, precision, level).unwrap();
            let name = cpu.describe();
            let attention = if precision == Precision::Int8 { 2e-2 } else { 1e-5 };
            let cached = match precision {
                Precision::F32 => 1e-5,
                Precision::F16 => 2e-3,
                Precision::Int8 => 2e-2,
            };
            all.push((
                cpu,
                Bound { name, int8_rows_max: usize::MAX, half: 0.0, sum: 4e-6, attention, cached },
            ));
        }
    }
    all
}

/// The first CUDA device, with every tensor in memory of its own so that an emulated device sees where each ends.
#[cfg(feature = "cuda")]
pub fn cuda(exact: bool) -> (mien::backend::cuda::Cuda, Bound) {
    use mien::backend::cuda::{Cuda, Options};
    let cuda = Cuda::with_options(Options { chunk_bytes: 0, exact, ..Options::default() }).unwrap();
    let name = format!("{}, exact {exact}", cuda.describe());
    // Two roundings to f16; those of attention are relative to the largest value.
    let attention = if exact { 1e-5 } else { 4e-3 };
    (cuda, Bound { name, int8_rows_max: 1, half: 1.0e-3, sum: 4e-6, attention, cached: attention })
}

/// Runs the block once for the reference, once for every level of the CPU and, where it is built in, once for CUDA.
macro_rules! on_every_device {
    (|$b:ident, $bound:ident| $body:block) => {{
        {
            let mut $b = Scalar;
            let $bound = Bound {
                name: $b.describe(),
                int8_rows_max: 0,
                half: 0.0,
                sum: 1e-7,
                attention: 1e-6,
                cached: 1e-6,
            };
            $body
        }
        for (mut $b, $bound) in $crate::devices::cpus() {
            $body
        }
        #[cfg(feature = "cuda")]
        for exact in [false, true] {
            let (mut $b, $bound) = $crate::devices::cuda(exact);
            $body
        }
    }};
}
