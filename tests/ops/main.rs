//! Every op of `Backend` against an f64 answer of its own, on every device and instruction set of this machine.
//!
//! Bounds. Sums: within `bound.sum` of the sum of magnitudes. Products of quantised weights on devices that quantise x: half a step
//! of each block of 32, `max |x| / 254`, times the magnitudes of the weights it meets; a worst case, so a wrong scale or sign cannot
//! hide. Attention: relative to the largest value. Moves of data: exact.
//! Non-finite: a row that holds NaN or infinity comes out without one finite number, and other rows come out bit for bit as before.

mod answers;
#[path = "../dice/mod.rs"]
mod dice;
#[macro_use]
mod devices;
mod attention;
mod behaviour;
mod elements;
mod pictures;
mod products;

use answers::{
    Bound, Noise, act, agree, attention_rows, bell, largest, layer::Layer, product, read, stored, tensor,
    turn, weights, wide,
};
use mien::{
    backend::{
        Act, Backend, Grid, Heads,
        cpu::{Cpu, Level, Precision, scalar::Scalar},
    },
    bundle::{Kind, Tensor},
};

const KINDS: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0];
/// The same, and Q4_0 with short scales, which a device may hold in another form.
const STORED: [(Kind, bool); 5] =
    [(Kind::F32, false), (Kind::F16, false), (Kind::Q8_0, false), (Kind::Q4_0, false), (Kind::Q4_0, true)];
const ACTS: [Act; 4] = [Act::None, Act::Gelu, Act::GeluTanh, Act::Silu];

/// (rows, outputs, cols): one row, few, odd, more than a tile, outputs that do not fill a panel, long rows, many tiles. An interpreter
/// gets two small ones.
fn sizes(kind: Kind) -> Vec<(usize, usize, usize)> {
    if cfg!(miri) {
        return vec![(1, 16, 32), (5, 19, 64)];
    }
    let mut sizes = vec![(1, 16, 32), (1, 35, 416), (3, 50, 96), (4, 1, 64), (13, 33, 160), (30, 100, 64)];
    sizes.extend([(1, 37, 2080), (9, 40, 1312), (70, 130, 160), (140, 512, 96)]);
    if kind.block().0 == 1 {
        sizes.extend([(1, 5, 1), (2, 17, 7), (25, 48, 33)]);
    }
    sizes
}
