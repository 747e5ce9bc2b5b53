//! Single instructions of `kernels/ptx.cuh` on fixed bits, to be compared between a GPU and the emulated device.
//!
//! Shapes: every answer is as many words as its kernel writes, in the order of `kernels/probe.cu`.

use super::{device::Device, state::Cuda};
use anyhow::Result;

/// Warps of each probe.
const WARPS: usize = 64;

/// What the instructions answered, as bits, and for products the sum of magnitudes, which says how exact they can be.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub products: Vec<u32>,
    pub magnitudes: Vec<f32>,
    pub matrices: Vec<u32>,
    pub powers: Vec<u32>,
}

struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A half between 2^-8 and 2^8, of either sign.
    fn half(&mut self) -> u32 {
        let bits = self.next();
        (bits & 0x83ff) | (7 + (bits >> 16 & 15)) << 10
    }
}

impl Cuda {
    pub fn probe(&mut self) -> Result<Probe> {
        let mut bits = Bits(1);
        let lanes = WARPS * 32;
        let a: Vec<u32> = (0..lanes * 4).map(|_| bits.half() | bits.half() << 16).collect();
        let b: Vec<u32> = (0..lanes * 2).map(|_| bits.half() | bits.half() << 16).collect();
        let d: Vec<u32> = (0..lanes * 4).map(|_| (bits.next() as f32 / 1e6 - 1000.0).to_bits()).collect();
        let rows: Vec<u32> = (0..lanes * 4).map(|_| bits.next()).collect();
        // From underflow to overflow, denser around what a softmax asks for.
        let x: Vec<u32> = (0..lanes).map(|i| (i as f32 * (160.0 / lanes as f32) - 130.0).to_bits()).collect();
        let put = |device: &Device, values: &[u32]| -> Result<u64> {
            let at = device.take(4 * values.len(), "a probe")?;
            device.upload(values, at);
            Ok(at)
        };
        let device = self.op();
        let (a_at, b_at, d_at) = (put(device, &a)?, put(device, &b)?, put(device, &d)?);
        let (rows_at, x_at) = (put(device, &rows)?, put(device, &x)?);
        let (loaded_at, powers_at) =
            (device.take(8 * 4 * lanes, "a probe")?, device.take(4 * lanes, "a probe")?);
        let blocks = (WARPS, 1, 1);
        device.probe_multiply(blocks, a_at, b_at, d_at);
        device.probe_matrices(blocks, rows_at, loaded_at);
        device.probe_exp2(blocks, x_at, powers_at);
        let get = |at, count| -> Result<Vec<u32>> {
            let mut values = vec![0; count];
            device.download(at, &mut values)?;
            Ok(values)
        };
        Ok(Probe {
            products: get(d_at, lanes * 4)?,
            magnitudes: magnitudes(&a, &b, &d),
            matrices: get(loaded_at, lanes * 8)?,
            powers: get(powers_at, lanes)?,
        })
    }
}

/// |d| + |a| |b| by the fragments that the PTX manual draws for m16n8k16.
fn magnitudes(a: &[u32], b: &[u32], d: &[u32]) -> Vec<f32> {
    let half = |word: u32, high: usize| half::f16::from_bits((word >> (16 * high)) as u16).to_f32().abs();
    let mut out = Vec::with_capacity(d.len());
    for warp in 0..WARPS {
        for i in 0..32 * 4 {
            let (lane, e) = (i / 4, i % 4);
            let (row, column) = (lane / 4 + e / 2 * 8, lane % 4 * 2 + e % 2);
            let mut sum = f32::from_bits(d[warp * 128 + i]).abs();
            for k in 0..16 {
                let (pair, part) = (k % 8 / 2, k / 8);
                let left = a[(warp * 32 + row % 8 * 4 + pair) * 4 + row / 8 + part * 2];
                let right = b[(warp * 32 + column * 4 + pair) * 2 + part];
                sum += half(left, k % 2) * half(right, k % 2);
            }
            out.push(sum);
        }
    }
    out
}
