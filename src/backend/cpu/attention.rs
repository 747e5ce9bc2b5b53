//! Attention in one pass over the keys: tiles, running maximum and sum, no score matrix.
//!
//! Sixteen queries lie in the lanes. Scores of a stretch of keys come as `(keys, 16)` from a product tile, become weights lane by
//! lane, and meet the values in a second tile `(dims, 16)`; when the maximum of a lane grows, its sum and output shrink.
//! Shapes: one unit is one key/value head of one batch: keys `(key tile, head_dim, HEAD_TILE)`, values
//! `(dim tile, keys, HEAD_TILE)`, queries `(head_dim, 16)`; with bf16, pairs of inputs lie in one u32.
//! Limits: `head_dim` is even and at most `DIMS_MAX`.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::{
    cache::{Cache, Entry},
    lanes::{Isa, Lanes, PANEL, Work},
    math::exp2,
    memory::{Memory, Out},
};
use crate::backend::Heads;

pub const DIMS_MAX: usize = 128;
/// Keys of one stretch; scores and weights of a stretch stay in the first level cache.
const STRETCH: usize = 256;
/// Below every score that counts, and finite.
const LOW: f32 = -1e30;

/// Lanes below the first are masked: a window of 16 into it masks as many as it starts before the zeros.
static MASKS: [f32; 32] = {
    let mut masks = [0.0; 32];
    let mut i = 0;
    while i < 16 {
        masks[i] = LOW;
        i += 1;
    }
    masks
};

/// Keys and values of all units, packed for the tiles.
pub struct Packs {
    memory: Memory,
    keys: usize,
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

    fn unit_keys(&self, unit: usize) -> *mut u8 {
        self.memory.ptr::<u8>().wrapping_add(unit * self.unit_bytes)
    }
    fn unit_values(&self, unit: usize) -> *mut u8 {
        self.unit_keys(unit).wrapping_add(self.values_at)
    }
    fn padded(&self) -> usize {
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
}

#[repr(align(64))]
struct Lines<const N: usize>([f32; N]);

/// Where the keys and values of a unit come from.
#[derive(Clone, Copy)]
pub enum From<'a> {
    /// Rows `stride` values apart: first key, first value.
    Rows { keys: &'a [f32], values: &'a [f32], stride: usize },
    /// A head of the cache.
    Cache { cache: &'a Cache, layer: usize, head: usize },
}

impl From<'_> {
    /// Sixteen keys from `first` on as `(head_dim, 16)`, zeros after `count`.
    #[inline(always)]
    unsafe fn keys<I: Isa>(&self, first: usize, count: usize, head_dim: usize, to: *mut f32) {
        unsafe {
            match *self {
                From::Rows { keys, stride, .. } => {
                    let rows = &keys[first * stride..][..(count - 1) * stride + head_dim];
                    I::transpose(rows.as_ptr(), stride, count, head_dim, 1.0, to);
                }
                From::Cache { cache, layer, head } => {
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
                From::Rows { values, stride, .. } => {
                    to.copy_from_nonoverlapping(values[j * stride..][..head_dim].as_ptr(), head_dim)
                }
                From::Cache { cache, layer, head } => {
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
    pub from: From<'a>,
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

/// Sixteen queries of one head over their unit.
pub struct Attend<'a> {
    /// First query of the head, rows `stride` apart.
    pub q: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub first: usize,
    pub head_dim: usize,
    pub packs: &'a Packs,
    /// More keys, from as many on as `packs` has, which is then a multiple of 16.
    pub beside: Option<&'a Packs>,
    pub unit: usize,
    /// Query row `r` sees the keys up to `start + r`; all keys without.
    pub causal: Option<usize>,
    /// First output of the head, rows `out_stride` apart.
    pub out: Out,
    pub out_stride: usize,
}

impl Work for Attend<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Attend { q, stride, rows, first, head_dim, packs, beside, unit, causal, out, out_stride } = self;
        let (n, width, bf16) = (I::F::N, I::HEAD_TILE, packs.bf16);
        let lanes = PANEL.min(rows - first);
        // Scores in powers of two.
        let scale = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
        let mut queries = Lines([0f32; DIMS_MAX * PANEL]);
        let q = &q[first * stride..][..(lanes - 1) * stride + head_dim];
        let mut pairs = [0u32; DIMS_MAX / 2 * PANEL];
        let mut scores = Lines([0f32; STRETCH * PANEL]);
        let mut weights = [0u32; STRETCH / 2 * PANEL];
        let mut sums = Lines([0f32; DIMS_MAX * PANEL]);
        let mut part = Lines([0f32; PANEL * PANEL]);
        let (mut tops, mut totals, mut shrink) = ([LOW; PANEL], [0f32; PANEL], [0f32; PANEL]);
        let keys = causal.map_or(packs.keys, |start| (start + first + lanes).min(packs.keys));
        // SAFETY: local arrays hold STRETCH keys and DIMS_MAX dims; tiles read the padded unit; this call alone writes its rows.
        unsafe {
            I::transpose(q.as_ptr(), stride, lanes, head_dim, scale, queries.0.as_mut_ptr());
            if bf16 {
                for d in 0..head_dim / 2 {
                    let at = queries.0.as_ptr().add(d * 2 * PANEL);
                    I::pair_bf16(
                        I::F::load(at),
                        I::F::load(at.add(PANEL)),
                        pairs.as_mut_ptr().add(d * PANEL),
                    );
                }
            }
            let mut from = 0;
            while from < beside.map_or(keys, |more| more.keys) {
                let (packs, keys) = match beside {
                    Some(more) if from >= keys => (more, more.keys),
                    _ => (packs, keys),
                };
                let count = STRETCH.min(keys - from);
                for t in 0..count.div_ceil(width) {
                    let to = scores.0.as_mut_ptr().add(t * width * PANEL);
                    let tile = (from + t * width) * head_dim;
                    if bf16 {
                        let x = packs.unit_keys(unit).cast::<u32>().add(tile / 2);
                        I::tile_bf16(width, pairs.as_ptr(), x, head_dim / 2, to);
                    } else {
                        let x = packs.unit_keys(unit).cast::<f32>().add(tile);
                        I::tile_float(width, queries.0.as_ptr(), x, head_dim, to);
                    }
                }
                if let Some(start) = causal {
                    for j in (start + first).saturating_sub(from)..count {
                        let hidden = (from + j - start - first).min(PANEL);
                        for v in (0..PANEL).step_by(n) {
                            let at = scores.0.as_mut_ptr().add(j * PANEL + v);
                            let mask = MASKS.as_ptr().add(PANEL - hidden + v);
                            I::F::load(at).add(I::F::load(mask)).store(at);
                        }
                    }
                }
                let padded = count.next_multiple_of(2);
                for v in (0..PANEL).step_by(n) {
                    let at = scores.0.as_mut_ptr().add(v);
                    let old = I::F::load(tops.as_ptr().add(v));
                    let mut top = [old; 4];
                    for j in (0..count / 4 * 4).step_by(4) {
                        for i in 0..4 {
                            top[i] = top[i].max(I::F::load(at.add((j + i) * PANEL)));
                        }
                    }
                    for j in count / 4 * 4..count {
                        top[0] = top[0].max(I::F::load(at.add(j * PANEL)));
                    }
                    let top = top[0].max(top[1]).max(top[2].max(top[3]));
                    let less = exp2::<I::F, false>(old.sub(top));
                    top.store(tops.as_mut_ptr().add(v));
                    less.store(shrink.as_mut_ptr().add(v));
                    let mut total = [I::F::splat(0.0); 2];
                    for j in (0..padded).step_by(2) {
                        let at = at.add(j * PANEL);
                        let next = if j + 1 < count { I::F::load(at.add(PANEL)) } else { I::F::splat(LOW) };
                        let (a, b) = (I::F::load(at).sub(top), next.sub(top));
                        if bf16 {
                            let (a, b) = (exp2::<I::F, true>(a), exp2::<I::F, true>(b));
                            I::pair_bf16(a, b, weights.as_mut_ptr().add(j / 2 * PANEL));
                            total = [total[0].add(a), total[1].add(b)];
                        } else {
                            let (a, b) = (exp2::<I::F, false>(a), exp2::<I::F, false>(b));
                            a.store(at);
                            b.store(at.add(PANEL));
                            total = [total[0].add(a), total[1].add(b)];
                        }
                    }
                    let total = total[0].add(total[1]);
                    let before = I::F::load(totals.as_ptr().add(v));
                    before.fma(less, total).store(totals.as_mut_ptr().add(v));
                }
                for t in 0..head_dim.div_ceil(width) {
                    let at = (t * packs.padded() + from) * width;
                    if bf16 {
                        let x = packs.unit_values(unit).cast::<u32>().add(at / 2);
                        I::tile_bf16(width, weights.as_ptr(), x, padded / 2, part.0.as_mut_ptr());
                    } else {
                        let x = packs.unit_values(unit).cast::<f32>().add(at);
                        I::tile_float(width, scores.0.as_ptr(), x, count, part.0.as_mut_ptr());
                    }
                    for i in (0..width * PANEL).step_by(n) {
                        let to = sums.0.as_mut_ptr().add(t * width * PANEL + i);
                        let less = I::F::load(shrink.as_ptr().add(i % PANEL));
                        I::F::load(to).fma(less, I::F::load(part.0.as_ptr().add(i))).store(to);
                    }
                }
                from += count;
            }
            let shares = totals.map(|total| 1.0 / total);
            for d in (0..head_dim).step_by(PANEL) {
                let some = PANEL.min(head_dim - d);
                I::transpose(sums.0.as_ptr().add(d * PANEL), PANEL, some, PANEL, 1.0, part.0.as_mut_ptr());
                for m in 0..lanes {
                    let to = out.at((first + m) * out_stride + d);
                    for i in 0..some {
                        *to.add(i) = part.0[m * PANEL + i] * shares[m];
                    }
                }
            }
        }
    }
}

/// One row of queries of one key/value head over the cache, as it lies there.
pub struct Decode<'a> {
    /// The queries of the heads that share the key/value head, side by side.
    pub q: &'a [f32],
    pub cache: &'a Cache,
    pub layer: usize,
    pub head: usize,
    pub keys: usize,
    pub heads: Heads,
    /// `(heads of the group, positions)`, this call's own.
    pub scores: *mut f32,
    pub out: Out,
}

impl Work for Decode<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let group = self.heads.n_heads / self.heads.n_kv_heads;
        let mut from = 0;
        // Heads that share a pass over the cache hold their sums in registers.
        while from < group {
            // SAFETY: the caller's.
            from += unsafe {
                match group - from {
                    8.. => self.some::<I, 8>(from),
                    7 => self.some::<I, 7>(from),
                    4.. => self.some::<I, 4>(from),
                    2.. => self.some::<I, 2>(from),
                    _ => self.some::<I, 1>(from),
                }
            };
        }
    }
}

impl Decode<'_> {
    #[inline(always)]
    unsafe fn some<I: Isa, const G: usize>(&self, from: usize) -> usize {
        match self.cache.entry {
            // SAFETY: the caller's.
            Entry::F16 => unsafe { self.over::<I, u16, G>(from, |p| I::F::load_f16(p)) },
            // SAFETY: the caller's.
            Entry::F32 => unsafe { self.over::<I, f32, G>(from, |p| I::F::load(p)) },
        }
        G
    }

    #[inline(always)]
    unsafe fn over<I: Isa, T, const G: usize>(&self, from: usize, load: impl Fn(*const T) -> I::F) {
        let Decode { cache, layer, head, keys, heads, .. } = *self;
        let (dims, n) = (heads.head_dim, I::F::N);
        let padded = keys.next_multiple_of(PANEL);
        let scale = std::f32::consts::LOG2_E / (dims as f32).sqrt();
        let (k, v) = (cache.keys::<T>(layer, head), cache.values::<T>(layer, head));
        let q = self.q[from * dims..][..G * dims].as_ptr();
        let (scores, out) = (self.scores.wrapping_add(from * padded), Out(self.out.at(from * dims)));
        // SAFETY: the cache holds whole panels of keys beyond `keys`; `scores` holds `group` rows of `padded`; whole vectors of
        // values are loaded only inside their row.
        unsafe {
            for at in (0..padded).step_by(n) {
                let panel = k.add(at / PANEL * dims * PANEL + at % PANEL);
                let mut acc = [I::F::splat(0.0); G];
                for d in 0..dims {
                    let key = load(panel.add(d * PANEL));
                    for i in 0..G {
                        acc[i] = key.fma(I::F::splat(*q.add(i * dims + d)), acc[i]);
                    }
                }
                for i in 0..G {
                    acc[i].mul(I::F::splat(scale)).store(scores.add(i * padded + at));
                }
            }
            let mut shares = [0f32; G];
            for i in 0..G {
                let row = scores.add(i * padded);
                (keys..padded).for_each(|j| *row.add(j) = LOW);
                let mut top = I::F::splat(LOW);
                for j in (0..padded).step_by(n) {
                    top = top.max(I::F::load(row.add(j)));
                }
                let mut lanes = [LOW; PANEL];
                top.store(lanes.as_mut_ptr());
                let top = I::F::splat(lanes.into_iter().fold(LOW, |a, b| if a > b { a } else { b }));
                let mut total = I::F::splat(0.0);
                for j in (0..padded).step_by(n) {
                    let weight = exp2::<I::F, false>(I::F::load(row.add(j)).sub(top));
                    weight.store(row.add(j));
                    total = total.add(weight);
                }
                shares[i] = 1.0 / total.sum();
            }
            let whole = dims / n * n;
            for d in (0..whole).step_by(n) {
                let mut acc = [I::F::splat(0.0); G];
                for j in 0..keys {
                    let value = load(v.add(j * dims + d));
                    for i in 0..G {
                        acc[i] = value.fma(I::F::splat(*scores.add(i * padded + j)), acc[i]);
                    }
                }
                for i in 0..G {
                    acc[i].mul(I::F::splat(shares[i])).store(out.at(i * dims + d));
                }
            }
            for (i, d) in (0..G).flat_map(|i| (whole..dims).map(move |d| (i, d))) {
                let weight = |j| *scores.add(i * padded + j);
                let sum: f32 = (0..keys).map(|j| weight(j) * cache.value(layer, head, j, d)).sum();
                *out.at(i * dims + d) = sum * shares[i];
            }
        }
    }
}
