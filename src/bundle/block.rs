//! Block formats: f32 values to F32, F16, Q8_0 and Q4_0 bytes and back, bit for bit as the `gguf` Python package does it.
//!
//! Shapes: a row is a whole number of blocks; `encode` and `decode` take any number of whole rows.
//! Units: little-endian bytes.
//! Limits: scales are f16, so a block whose scale would overflow is refused, and so is any value that is not finite.

use anyhow::{Context, Result};
use half::f16;

/// How the values of a tensor are stored. Sizes in bytes per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    F32,
    F16,
    /// 32 values: f16 scale `d`, 32 x i8; value = d * q.
    Q8_0,
    /// 32 values: f16 scale `d`, 16 bytes; value i = d * (low nibble of byte i - 8), value i+16 = d * (high nibble - 8).
    Q4_0,
}

impl Kind {
    /// Values per block, bytes per block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4),
            Kind::F16 => (1, 2),
            Kind::Q8_0 => (32, 34),
            Kind::Q4_0 => (32, 18),
        }
    }
    /// Bytes of one row of `cols` values.
    pub fn row_bytes(self, cols: usize) -> usize {
        let (values, bytes) = self.block();
        cols / values * bytes
    }
    /// As on the command line: `f32`, `f16`, `q8_0`, `q4_0`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Q8_0 => "q8_0",
            Kind::Q4_0 => "q4_0",
        }
    }
    pub fn from_name(name: &str) -> Result<Kind> {
        let kinds = [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0];
        let found = kinds.into_iter().find(|k| k.name() == name);
        found.with_context(|| format!("`{name}` is no kind of weights; choose f32, f16, q8_0 or q4_0"))
    }
}

/// Why a run of values cannot be stored. `at` is the index of the value, or of the first value of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// NaN or infinite.
    NotFinite { at: usize },
    /// Finite, but beyond what f16 holds.
    TooLarge { at: usize },
}

impl Unfit {
    /// Index of the value in the run.
    pub fn at(self) -> usize {
        match self {
            Unfit::NotFinite { at } | Unfit::TooLarge { at } => at,
        }
    }
}

/// Values of one Q8_0 or Q4_0 block.
pub const BLOCK: usize = 32;

/// Appends the stored form of `values` to `out`. Panics where `values` does not fill its last block.
pub fn encode(kind: Kind, values: &[f32], out: &mut Vec<u8>) -> Result<(), Unfit> {
    encode_scaled(kind, values, out, usual)
}

/// The same with Q4_0 blocks whose scales are short and, of all short ones, have the least squared error.
pub fn encode_searched(kind: Kind, values: &[f32], out: &mut Vec<u8>) -> Result<(), Unfit> {
    encode_scaled(kind, values, out, searched)
}

/// `scale` finds that of a Q4_0 block.
fn encode_scaled(
    kind: Kind,
    values: &[f32],
    out: &mut Vec<u8>,
    scale: fn(&[f32]) -> f32,
) -> Result<(), Unfit> {
    let (per_block, bytes) = kind.block();
    assert_eq!(values.len() % per_block, 0, "{} values do not fill blocks of {per_block}", values.len());
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(Unfit::NotFinite { at });
    }
    out.reserve(values.len() / per_block * bytes);
    match kind {
        Kind::F32 => values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        Kind::F16 => {
            for (at, &value) in values.iter().enumerate() {
                let stored = f16::from_f32(value);
                if stored.is_infinite() {
                    return Err(Unfit::TooLarge { at });
                }
                out.extend_from_slice(&stored.to_le_bytes());
            }
        }
        Kind::Q8_0 => {
            for (index, block) in values.chunks_exact(BLOCK).enumerate() {
                encode_q8_0(block, out).ok_or(Unfit::TooLarge { at: index * BLOCK })?;
            }
        }
        Kind::Q4_0 => {
            for (index, block) in values.chunks_exact(BLOCK).enumerate() {
                encode_q4_0(block, scale(block), out).ok_or(Unfit::TooLarge { at: index * BLOCK })?;
            }
        }
    }
    Ok(())
}

/// Appends the values that `data` stores. Panics where `data` does not hold whole blocks.
pub fn decode(kind: Kind, data: &[u8], out: &mut Vec<f32>) {
    let (per_block, bytes) = kind.block();
    assert_eq!(data.len() % bytes, 0, "{} bytes are not whole blocks of {bytes}", data.len());
    out.reserve(data.len() / bytes * per_block);
    match kind {
        Kind::F32 => out.extend(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Kind::F16 => out.extend(data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
        Kind::Q8_0 => {
            for block in data.chunks_exact(34) {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * scale));
            }
        }
        Kind::Q4_0 => {
            for block in data.chunks_exact(18) {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                out.extend(block[2..].iter().map(|&q| scale * f32::from((q & 15) as i8 - 8)));
                out.extend(block[2..].iter().map(|&q| scale * f32::from((q >> 4) as i8 - 8)));
            }
        }
    }
}

/// Index of the first value (or of the first value of the first block) that is not finite.
pub fn first_unfit(kind: Kind, data: &[u8]) -> Option<usize> {
    let half = |b: &[u8]| b[1] & 0x7c == 0x7c;
    match kind {
        Kind::F32 => first::<4>(data, |b| (b[3] & 0x7f == 0x7f) & (b[2] & 0x80 == 0x80)),
        Kind::F16 => first::<2>(data, half),
        Kind::Q8_0 => first::<34>(data, half).map(|i| i * BLOCK),
        Kind::Q4_0 => first::<18>(data, half).map(|i| i * BLOCK),
    }
}

/// The first of items of `SIZE` bytes that is unfit. Runs are looked at as a whole, which takes vectors.
fn first<const SIZE: usize>(data: &[u8], unfit: impl Fn(&[u8]) -> bool) -> Option<usize> {
    const RUN: usize = 64;
    let any = |run: &&[u8]| run.chunks_exact(SIZE).fold(false, |any, item| any | unfit(item));
    let (at, run) = data.chunks(RUN * SIZE).enumerate().find(|(_, run)| any(run))?;
    run.chunks_exact(SIZE).position(unfit).map(|i| at * RUN + i)
}

fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn push_scale(scale: f32, out: &mut Vec<u8>) -> Option<()> {
    let stored = f16::from_f32(scale);
    out.extend_from_slice(&stored.to_le_bytes());
    stored.is_finite().then_some(())
}

fn encode_q8_0(block: &[f32], out: &mut Vec<u8>) -> Option<()> {
    let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    push_scale(scale, out)?;
    out.extend(block.iter().map(|&v| (v * inverse).round() as i8 as u8));
    Some(())
}

/// The value furthest from zero.
fn largest(block: &[f32]) -> f32 {
    block.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most })
}

/// The largest value becomes the lowest level.
fn usual(block: &[f32]) -> f32 {
    largest(block) / -8.0
}

/// A scale in one byte: an f16 without the highest bit of its exponent and the last seven of its fraction (E4M3, with the bias of f16; up
/// to 1.875). None where it has one of them. Backends read half as many bytes of short scales; a bundle holds them as f16, as any Q4_0.
pub fn short_scale(bits: u16) -> Option<u8> {
    (bits & 0x407f == 0).then_some((bits >> 8 & 0x80 | bits >> 7 & 0x7f) as u8)
}

/// The bits of 1.875.
const LARGEST_SHORT: u16 = 0x7f << 7;

fn long_scale(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7).to_f32()
}

/// The short scale of the least squared error. The largest value becomes a level between 10 and 6, or the next below: none that is better is
/// left out. A block that needs more than the largest short scale keeps the usual one.
fn searched(block: &[f32]) -> f32 {
    let largest = largest(block).abs();
    let at_level = |level: f32| f16::from_f32(largest / level).to_bits();
    let (first, last) = (at_level(10.0), at_level(6.0));
    if last > LARGEST_SHORT {
        return usual(block);
    }
    let scales = (first >> 7..=((last >> 7) + 1).min(0x7f))
        .map(|byte| byte as u8)
        .flat_map(|byte| [long_scale(byte), long_scale(byte | 0x80)]);
    let tried = scales.map(|scale| (error(block, scale), scale));
    tried.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0.0, |(_, scale)| scale)
}

/// Squared error of a block at a scale.
fn error(block: &[f32], scale: f32) -> f32 {
    let inverse = inverse(scale);
    block.iter().map(|&v| (v - scale * (f32::from(level(v, inverse)) - 8.0)).powi(2)).sum()
}

/// From 0 to 15; 8 stands for zero.
fn level(v: f32, inverse: f32) -> u8 {
    ((v * inverse + 8.5) as u8).min(15)
}

fn encode_q4_0(block: &[f32], scale: f32, out: &mut Vec<u8>) -> Option<()> {
    let inverse = inverse(scale);
    push_scale(scale, out)?;
    let level = |i: usize| level(block[i], inverse);
    out.extend((0..BLOCK / 2).map(|i| level(i) | level(i + BLOCK / 2) << 4));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Vec<f32> {
        (0..32).map(|i| (i as f32 - 12.0) * 0.25).collect()
    }

    /// Squared error of Q4_0 bytes.
    fn squared(values: &[f32], bytes: &[u8]) -> f64 {
        let mut read = Vec::new();
        decode(Kind::Q4_0, bytes, &mut read);
        values.iter().zip(&read).map(|(v, r)| f64::from(v - r).powi(2)).sum()
    }

    #[test]
    fn short_scales_are_those_that_come_back() {
        for byte in 0..=u8::MAX {
            assert_eq!(short_scale(f16::from_f32(long_scale(byte)).to_bits()), Some(byte));
        }
        assert_eq!((long_scale(0x7f), long_scale(0x80 | 8)), (1.875, -(2f32.powi(-14))));
        for long in [2.0, 0.26, -1.9, f32::INFINITY] {
            assert_eq!(short_scale(f16::from_f32(long).to_bits()), None, "{long}");
        }
    }

    #[test]
    fn a_searched_scale_is_the_best_short_one() {
        let mut state = 1u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let (mut plain_sum, mut searched_sum) = (0.0, 0.0);
        for round in 0..500 {
            // Sums of uniform values are about normal, as weights are.
            let size = 2f32.powi(round % 20 - 18);
            let values: Vec<f32> = (0..BLOCK).map(|_| (0..6).map(|_| next()).sum::<f32>() * size).collect();
            let (mut plain, mut searched) = (Vec::new(), Vec::new());
            encode(Kind::Q4_0, &values, &mut plain).unwrap();
            encode_searched(Kind::Q4_0, &values, &mut searched).unwrap();
            assert!(short_scale(u16::from_le_bytes([searched[0], searched[1]])).is_some());
            let (plain, searched) = (squared(&values, &plain), squared(&values, &searched));
            let best = (0..=u8::MAX).map(|byte| error(&values, long_scale(byte))).min_by(f32::total_cmp);
            assert!(searched <= f64::from(best.unwrap()) * 1.0001, "{searched} {best:?}");
            // Below, scales are subnormal: steps of 2^-17.
            if size > 2f32.powi(-11) {
                plain_sum += plain / f64::from(size).powi(2);
                searched_sum += searched / f64::from(size).powi(2);
            }
        }
        assert!(searched_sum < 0.96 * plain_sum, "{searched_sum} of {plain_sum}");
    }

    #[test]
    fn a_searched_block_is_exact_where_it_can_be() {
        // Steps of a quarter, and a largest value that the usual scale does not divide: 15 levels of 0.25 from -1.75.
        let values: Vec<f32> = (0..BLOCK).map(|i| (i % 15) as f32 * 0.25 - 1.75).collect();
        let (mut plain, mut searched) = (Vec::new(), Vec::new());
        encode(Kind::Q4_0, &values, &mut plain).unwrap();
        encode_searched(Kind::Q4_0, &values, &mut searched).unwrap();
        assert!(squared(&values, &plain) > 0.01);
        assert_eq!(squared(&values, &searched), 0.0);
        let mut zeros = Vec::new();
        encode_searched(Kind::Q4_0, &[0.0; BLOCK], &mut zeros).unwrap();
        assert_eq!(squared(&[0.0; BLOCK], &zeros), 0.0);
        // Beyond short scales it is the usual one.
        let (mut plain, mut searched) = (Vec::new(), Vec::new());
        let large: Vec<f32> = values.iter().map(|v| v * 20.0).collect();
        encode(Kind::Q4_0, &large, &mut plain).unwrap();
        encode_searched(Kind::Q4_0, &large, &mut searched).unwrap();
        assert_eq!(plain, searched);
        let unfit = |value: f32| encode_searched(Kind::Q4_0, &[value; BLOCK], &mut Vec::new()).unwrap_err();
        assert_eq!(unfit(f32::NAN), Unfit::NotFinite { at: 0 });
        assert_eq!(unfit(1e30), Unfit::TooLarge { at: 0 });
    }

    #[test]
    fn q8_0_literal() {
        let mut bytes = Vec::new();
        encode(Kind::Q8_0, &ramp(), &mut bytes).unwrap();
        // Largest 4.75: scale 4.75 / 127 = 0.0374 = 0x28ca in f16; -3.0 * 127 / 4.75 = -80.2, 4.75 is 127.
        assert_eq!(bytes.len(), 34);
        assert_eq!(bytes[..3], [0xca, 0x28, -80i8 as u8]);
        assert_eq!(bytes[33], 127);
    }

    #[test]
    fn q4_0_literal() {
        let mut bytes = Vec::new();
        encode(Kind::Q4_0, &ramp(), &mut bytes).unwrap();
        // Largest in size 4.75: scale -0.59375 = 0xb8c0; -3.0 is 5.05 + 8.5 = 13; 1.0 is -1.68 + 8.5 = 6.
        assert_eq!(bytes[..3], [0xc0, 0xb8, 13 | 6 << 4]);
        let mut back = Vec::new();
        decode(Kind::Q4_0, &bytes, &mut back);
        assert_eq!(back[0], -0.59375 * 5.0);
        assert_eq!(back[16], -0.59375 * -2.0);
    }

    #[test]
    fn zeros_stay_zeros() {
        for kind in [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0] {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            encode(kind, &[0.0; 64], &mut bytes).unwrap();
            assert_eq!(bytes.len(), kind.row_bytes(64));
            decode(kind, &bytes, &mut back);
            assert_eq!(back, [0.0; 64], "{kind:?}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_found() {
        for kind in [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0] {
            let mut values = ramp();
            values[7] = f32::NAN;
            assert_eq!(encode(kind, &values, &mut Vec::new()), Err(Unfit::NotFinite { at: 7 }));
            values[7] = 1e30;
            let fits = encode(kind, &values, &mut Vec::new());
            assert_eq!(fits.is_ok(), kind == Kind::F32, "{kind:?}");
        }
    }

    #[test]
    fn unfit_bytes_are_found() {
        for kind in [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0] {
            let mut bytes = Vec::new();
            encode(kind, &[1.0; 64], &mut bytes).unwrap();
            assert_eq!(first_unfit(kind, &bytes), None);
            let (per_block, size) = kind.block();
            let last = 64 / per_block - 1;
            let nan: &[u8] = if kind == Kind::F32 { &[0, 0, 0xc0, 0xff] } else { &[0, 0x7e] };
            bytes[last * size..last * size + nan.len()].copy_from_slice(nan);
            assert_eq!(first_unfit(kind, &bytes), Some(last * per_block), "{kind:?}");
        }
    }
}
