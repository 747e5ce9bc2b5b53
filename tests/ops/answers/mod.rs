//! Inputs that look like a model's, packed weights with the values they stand for, answers in f64, and how far off a device may be.

pub mod layer;

use crate::dice::step;
use half::f16;
use mien::{
    backend::{Act, Backend, Heads},
    bundle::{Kind, Tensor, short_scale},
};

/// Numbers that look like activations: a bell, with outliers.
pub struct Noise(pub u64);

impl Noise {
    pub fn bits(&mut self) -> u64 {
        step(&mut self.0)
    }
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
    pub fn bell(&mut self) -> f64 {
        (0..4).map(|_| self.unit() - 0.5).sum()
    }
    pub fn value(&mut self) -> f32 {
        let bell = self.bell();
        (if self.bits().is_multiple_of(97) { bell * 60.0 } else { bell }) as f32
    }
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Values without outliers.
pub fn bell(seed: u64, n: usize) -> Vec<f32> {
    let mut noise = Noise(seed);
    (0..n).map(|_| noise.bell() as f32 * 3.0).collect()
}

/// Packed bytes of a random matrix and the f64 values they stand for.
pub fn weights(kind: Kind, rows: usize, cols: usize, seed: u64) -> (Vec<u8>, Vec<f64>) {
    let mut noise = Noise(seed * 2 + 1);
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    let (block, _) = kind.block();
    for _ in 0..rows * cols / block {
        match kind {
            Kind::F32 => {
                let v = noise.value();
                bytes.extend(v.to_le_bytes());
                values.push(f64::from(v));
            }
            Kind::F16 => {
                let v = f16::from_f32(noise.value());
                bytes.extend(v.to_le_bytes());
                values.push(v.to_f64());
            }
            Kind::Q8_0 => {
                let d = f16::from_f32(noise.value() / 40.0);
                bytes.extend(d.to_le_bytes());
                for _ in 0..32 {
                    let q = noise.bits() as u8 as i8;
                    bytes.push(q as u8);
                    values.push(d.to_f64() * f64::from(q));
                }
            }
            Kind::Q4_0 => {
                let d = f16::from_f32(noise.value() / 4.0);
                bytes.extend(d.to_le_bytes());
                let packed: Vec<u8> = (0..16).map(|_| noise.bits() as u8).collect();
                values.extend(packed.iter().map(|b| d.to_f64() * (f64::from(b & 15) - 8.0)));
                values.extend(packed.iter().map(|b| d.to_f64() * (f64::from(b >> 4) - 8.0)));
                bytes.extend(packed);
            }
        }
    }
    (bytes, values)
}

pub fn tensor(kind: Kind, rows: usize, cols: usize, data: &[u8]) -> Tensor<'_> {
    Tensor { name: "w", kind, rows, cols, data }
}

pub fn erf(x: f64) -> f64 {
    // Simpson over the definition: slow, plain, and nothing like the code under test.
    let (n, top) = (400, x.abs().min(6.0));
    let f = |i: usize| (-(top * i as f64 / n as f64).powi(2)).exp();
    let sum: f64 = (1..n).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (2.0 / std::f64::consts::PI.sqrt() * (f(0) + sum + f(n)) * top / n as f64 / 3.0).copysign(x)
}

pub fn act(a: Act, x: f64) -> f64 {
    match a {
        Act::None => x,
        Act::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Act::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Act::Silu => x / (1.0 + (-x).exp()),
    }
}

pub struct Bound {
    pub name: String,
    /// Up to so many rows, x meets quantised weights as int8.
    pub int8_rows_max: usize,
    /// Beyond them, x and the weights meet as f16 (but not F32 weights): of the sum of magnitudes.
    pub half: f64,
    /// Of the sum of magnitudes.
    pub sum: f64,
    /// Of the largest value, for attention over f32.
    pub attention: f64,
    /// The same over the cache.
    pub cached: f64,
}

/// `x W^T` and, for each value, how far a device may be off.
/// `weights`, of Q4_0 with short scales if wanted.
pub fn stored(kind: Kind, short: bool, rows: usize, cols: usize, seed: u64) -> (Vec<u8>, Vec<f64>) {
    let (mut bytes, mut values) = weights(kind, rows, cols, seed);
    if short {
        let (_, size) = kind.block();
        for (block, values) in bytes.chunks_exact_mut(size).zip(values.chunks_exact_mut(32)) {
            let old = f16::from_le_bytes([block[0], block[1]]);
            let new = f16::from_bits(old.to_bits() & 0xbf80);
            assert!(short_scale(new.to_bits()).is_some());
            block[..2].copy_from_slice(&new.to_le_bytes());
            values.iter_mut().for_each(|v| *v = *v / old.to_f64() * new.to_f64());
        }
    }
    (bytes, values)
}

pub fn product(x: &[f32], rows: usize, w: &[f64], cols: usize, kind: Kind, b: &Bound) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for x in x.chunks(cols).take(rows) {
        for w in w.chunks(cols) {
            let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * w).sum();
            let magnitudes: f64 = x.iter().zip(w).map(|(x, w)| (f64::from(*x) * w).abs()).sum();
            let half = if rows > b.int8_rows_max && kind != Kind::F32 { b.half } else { 0.0 };
            let mut off = (b.sum + half) * magnitudes + 1e-30;
            if kind.block().0 > 1 && rows <= b.int8_rows_max {
                for (x, w) in x.chunks(32).zip(w.chunks(32)) {
                    let top = x.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
                    off += top / 254.0 * 1.0001 * w.iter().map(|w| w.abs()).sum::<f64>();
                }
            }
            out.push((sum, off));
        }
    }
    out
}

pub fn read<B: Backend>(b: &mut B, buf: &B::Buf, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    b.read(buf, 0, &mut out).unwrap();
    out
}

#[track_caller]
pub fn agree(what: &str, bound: &Bound, got: &[f32], want: impl IntoIterator<Item = (f64, f64)>) {
    let mut n = 0;
    for (i, (got, (want, off))) in got.iter().zip(want).enumerate() {
        let miss = (f64::from(*got) - want).abs();
        assert!(miss <= off, "{what} on {}: value {i} is {got}, not {want} +- {off:.3e}", bound.name);
        n += 1;
    }
    assert_eq!(n, got.len(), "{what}: values compared");
}

/// Softmax attention of one query in f64.
pub fn attention(q: &[f64], keys: &[&[f64]], values: &[&[f64]]) -> Vec<f64> {
    let scale = (q.len() as f64).powf(-0.5);
    let scores: Vec<f64> =
        keys.iter().map(|k| q.iter().zip(*k).map(|(a, b)| a * b).sum::<f64>() * scale).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len()).map(|d| weights.iter().zip(values).map(|(w, v)| w * v[d]).sum::<f64>() / total).collect()
}

/// Attention of `rows` rows of `q | k | v`, each row over all rows or over those up to itself.
pub fn attention_rows(qkv: &[f64], rows: usize, heads: Heads, causal: bool) -> Vec<f64> {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let part = |r: usize, head: usize| &qkv[r * heads.qkv() + head * head_dim..][..head_dim];
    let mut out = Vec::new();
    for r in 0..rows {
        let seen = if causal { r + 1 } else { rows };
        for h in 0..n_heads {
            let kv = h / (n_heads / n_kv_heads);
            let keys: Vec<_> = (0..seen).map(|j| part(j, n_heads + kv)).collect();
            let values: Vec<_> = (0..seen).map(|j| part(j, n_heads + n_kv_heads + kv)).collect();
            out.extend(attention(part(r, h), &keys, &values));
        }
    }
    out
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

pub fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// q and k of every row turned by its position.
pub fn turn(qkv: &[f32], heads: Heads, theta: f64) -> Vec<f64> {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let mut out = wide(qkv);
    for (p, row) in out.chunks_mut(heads.qkv()).enumerate() {
        for head in row[..(n_heads + n_kv_heads) * head_dim].chunks_mut(head_dim) {
            for i in 0..head_dim / 2 {
                let angle = p as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
                let (a, b) = (head[i], head[i + head_dim / 2]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + head_dim / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    out
}
