//! Inputs that look like a model's, packed weights with the values they stand for, and activations in f64.

use half::f16;
use mien::{
    backend::Act,
    bundle::{Kind, Tensor},
};

/// Numbers that look like activations: a bell, with outliers.
pub struct Noise(pub u64);

impl Noise {
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
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
