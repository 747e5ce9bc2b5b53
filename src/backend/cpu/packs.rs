//! Keys and values packed for the attention tiles, from rows of `q | k | v` or from the cache.
//!
//! Shapes: one unit is one key/value head of one batch: keys `(key tile, head_dim, HEAD_TILE)`, values
//! `(dim tile, keys, HEAD_TILE)`; with bf16, pairs of inputs lie in one u32.
//! Limits: `head_dim` is even and at most `DIMS_MAX`.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::{
    cache::{Cache, Entry},
    lanes::{Isa, Lanes, PANEL, Work},
    memory::Memory,
};
use crate::backend::Heads;

/// Dimensions of a head at most.
pub const DIMS_MAX: usize = 128;

/// Values that begin a cache line.
#[repr(align(64))]
pub struct Lines<const N: usize>(pub [f32; N]);

/// Keys and values of all units, packed for the tiles.
pub struct Packs {
    memory: Memory,
    pub keys: usize,
    unit_bytes: usize,
    values_at: usize,
    pub bf16: bool,
}

impl Packs {
    pub fn new() -> anyhow::Result<Packs> {
        Ok(Packs { memory: Memory::new(0)?, keys: 0, unit_bytes: 0, values_at: 0, bf16: false })
    }

    pub fn shape(&mut self, units: usize, keys: usize, head_dim: usize, bf16: bool) {
        assert!(
            head_dim <= DIMS_MAX && head_dim.is_multiple_of(2),
            "head_dim {head_dim} is odd or beyond {DIMS_MAX}"
        );
        let size = if bf16 { 2 } else { 4 };
        let padded = keys.next_multiple_of(PANEL);
        self.keys = keys;
        self.bf16 = bf16;
        self.values_at = padded * head_dim * size;
        self.unit_bytes = self.values_at + padded * head_dim.next_multiple_of(PANEL) * size;
        self.memory.reserve(units * self.unit_bytes);
    }

    pub fn unit_keys(&self, unit: usize) -> *mut u8 {
        self.memory.ptr::<u8>().wrapping_add(unit * self.unit_bytes)
    }
    pub fn unit_values(&self, unit: usize) -> *mut u8 {
        self.unit_keys(unit).wrapping_add(self.values_at)
    }
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }
    pub fn padded(&self) -> usize {
        self.keys.next_multiple_of(PANEL)
    }
}

/// Packs of several layers that stay.
pub struct Kept {
    pub layers: Vec<Packs>,
    pub heads: Heads,
    pub rows: usize,
}

impl Kept {
    pub fn new(layers: usize, heads: Heads, rows: usize, bf16: bool) -> anyhow::Result<Kept> {
        let layer = |_| {
            let mut packs = Packs::new()?;
            packs.shape(heads.n_kv_heads, rows, heads.head_dim, bf16);
            Ok(packs)
        };
        Ok(Kept { layers: (0..layers).map(layer).collect::<anyhow::Result<_>>()?, heads, rows })
    }

    pub fn bytes(&self) -> usize {
        self.layers.iter().map(Packs::bytes).sum()
    }
}

/// Where the keys and values of a unit come from.
#[derive(Clone, Copy)]
pub enum KeySource<'a> {
    /// Rows `stride` values apart: first key, first value.
    Rows { keys: &'a [f32], values: &'a [f32], stride: usize },
    /// A head of the cache.
    Cache { cache: &'a Cache, layer: usize, head: usize },
}

impl KeySource<'_> {
    /// Sixteen keys from `first` on as `(head_dim, 16)`, zeros after `count`.
    #[inline(always)]
    unsafe fn keys<I: Isa>(&self, first: usize, count: usize, head_dim: usize, to: *mut f32) {
        unsafe {
            match *self {
                KeySource::Rows { keys, stride, .. } => {
                    let rows = &keys[first * stride..][..(count - 1) * stride + head_dim];
                    I::transpose(rows.as_ptr(), stride, count, head_dim, 1.0, to);
                }
                KeySource::Cache { cache, layer, head } => {
                    let at = first * head_dim;
                    for i in (0..head_dim * PANEL).step_by(I::F::N) {
                        let key = match cache.entry {
                            Entry::F16 => I::F::load_f16(cache.keys::<u16>(layer, head).add(at + i)),
                            Entry::F32 => I::F::load(cache.keys::<f32>(layer, head).add(at + i)),
                        };
                        key.store(to.add(i));
                    }
                    for (d, m) in (0..head_dim).flat_map(|d| (count..PANEL).map(move |m| (d, m))) {
                        *to.add(d * PANEL + m) = 0.0;
                    }
                }
            }
        }
    }
    /// The values of key `j`.
    #[inline(always)]
    unsafe fn value<I: Isa>(&self, j: usize, head_dim: usize, to: *mut f32) {
        unsafe {
            match *self {
                KeySource::Rows { values, stride, .. } => {
                    to.copy_from_nonoverlapping(values[j * stride..][..head_dim].as_ptr(), head_dim)
                }
                KeySource::Cache { cache, layer, head } => {
                    let (at, whole) = (j * head_dim, head_dim / I::F::N * I::F::N);
                    for d in (0..whole).step_by(I::F::N) {
                        let value = match cache.entry {
                            Entry::F16 => I::F::load_f16(cache.values::<u16>(layer, head).add(at + d)),
                            Entry::F32 => I::F::load(cache.values::<f32>(layer, head).add(at + d)),
                        };
                        value.store(to.add(d));
                    }
                    for d in whole..head_dim {
                        *to.add(d) = cache.value(layer, head, j, d);
                    }
                }
            }
        }
    }
}

/// Packs sixteen keys and their values.
pub struct PackKeys<'a> {
    pub from: KeySource<'a>,
    pub packs: &'a Packs,
    pub unit: usize,
    /// Index of the sixteen.
    pub panel: usize,
    pub head_dim: usize,
}

impl Work for PackKeys<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let PackKeys { from, packs, unit, panel, head_dim } = self;
        let width = I::HEAD_TILE;
        let mut keys = Lines([0f32; DIMS_MAX * PANEL]);
        let mut values = Lines([0f32; DIMS_MAX * PANEL]);
        let first = panel * PANEL;
        let wide = head_dim.next_multiple_of(PANEL);
        // SAFETY: the sixteen lie in the padded unit, this call alone writes them, and the local arrays hold DIMS_MAX dims.
        unsafe {
            let count = PANEL.min(packs.keys - first);
            from.keys::<I>(first, count, head_dim, keys.0.as_mut_ptr());
            for m in 0..count {
                from.value::<I>(first + m, head_dim, values.0.as_mut_ptr().add(m * wide));
            }
            if packs.bf16 {
                let to = packs.unit_keys(unit).cast::<u32>().add(first * head_dim / 2);
                for d in 0..head_dim / 2 {
                    let at = keys.0.as_ptr().add(d * 2 * PANEL);
                    I::pair_bf16(I::F::load(at), I::F::load(at.add(PANEL)), to.add(d * PANEL));
                }
                for t in 0..wide / PANEL {
                    let to =
                        packs.unit_values(unit).cast::<u32>().add((t * packs.padded() + first) / 2 * PANEL);
                    for j in 0..PANEL / 2 {
                        let at = values.0.as_ptr().add(j * 2 * wide + t * PANEL);
                        I::pair_bf16(I::F::load(at), I::F::load(at.add(wide)), to.add(j * PANEL));
                    }
                }
            } else {
                let to = packs.unit_keys(unit).cast::<f32>().add(first * head_dim);
                for (m, d) in (0..PANEL).flat_map(|m| (0..head_dim).map(move |d| (m, d))) {
                    *to.add((m / width * head_dim + d) * width + m % width) = keys.0[d * PANEL + m];
                }
                for t in 0..wide / width {
                    let to = packs.unit_values(unit).cast::<f32>().add((t * packs.padded() + first) * width);
                    for (j, d) in (0..PANEL).flat_map(|j| (0..width).map(move |d| (j, d))) {
                        *to.add(j * width + d) = values.0[j * wide + t * width + d];
                    }
                }
            }
        }
    }
}
