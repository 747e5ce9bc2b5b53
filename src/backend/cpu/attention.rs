//! Attention in one pass over the keys: tiles, running maximum and sum, no score matrix.
//!
//! Sixteen queries lie in the lanes. Scores of a stretch of keys come as `(keys, 16)` from a product tile, become weights lane by
//! lane, and meet the values in a second tile `(dims, 16)`; when the maximum of a lane grows, its sum and output shrink.
//! Shapes: keys and values as in `packs`, queries `(head_dim, 16)`; with bf16, pairs of inputs lie in one u32.
//! Limits: `head_dim` is even and at most `DIMS_MAX`.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::{
    cache::{Cache, Entry},
    lanes::{Isa, Lanes, PANEL, Work},
    math::exp2,
    memory::Out,
    packs::{DIMS_MAX, Lines, Packs},
};
use crate::backend::Heads;

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
        let mut work = Working::new();
        let own = self
            .causal
            .map_or(self.packs.keys, |start| (start + self.first + self.lanes()).min(self.packs.keys));
        // SAFETY: the caller's, and `Working` holds STRETCH keys and DIMS_MAX dims.
        unsafe {
            self.queries::<I>(&mut work);
            let mut from = 0;
            while from < self.beside.map_or(own, |more| more.keys) {
                let (packs, keys) = match self.beside {
                    Some(more) if from >= own => (more, more.keys),
                    _ => (self.packs, own),
                };
                let count = STRETCH.min(keys - from);
                self.scores::<I>(&mut work, packs, from, count);
                if let Some(start) = self.causal {
                    self.mask::<I>(&mut work, start, from, count);
                }
                self.weights::<I>(&mut work, count);
                self.sums::<I>(&mut work, packs, from, count);
                from += count;
            }
            self.results::<I>(&mut work);
        }
    }
}

/// What sixteen queries are worked on in. Sixteen lanes wide, a lane is a query.
struct Working {
    /// `(head_dim, 16)`, and the same as pairs of bf16.
    queries: Lines<{ DIMS_MAX * PANEL }>,
    query_pairs: [u32; DIMS_MAX / 2 * PANEL],
    /// `(keys, 16)` of a stretch: scores, then weights; weights as pairs of bf16.
    scores: Lines<{ STRETCH * PANEL }>,
    weight_pairs: [u32; STRETCH / 2 * PANEL],
    /// `(head_dim, 16)`: weighted values so far.
    sums: Lines<{ DIMS_MAX * PANEL }>,
    /// `(dims, 16)`: one tile of a product.
    tile: Lines<{ PANEL * PANEL }>,
    /// The highest score so far, the sum of weights, and what a higher maximum leaves of both.
    tops: [f32; PANEL],
    totals: [f32; PANEL],
    shrink: [f32; PANEL],
}

impl Working {
    #[inline(always)]
    fn new() -> Working {
        Working {
            queries: Lines([0.0; DIMS_MAX * PANEL]),
            query_pairs: [0; DIMS_MAX / 2 * PANEL],
            scores: Lines([0.0; STRETCH * PANEL]),
            weight_pairs: [0; STRETCH / 2 * PANEL],
            sums: Lines([0.0; DIMS_MAX * PANEL]),
            tile: Lines([0.0; PANEL * PANEL]),
            tops: [LOW; PANEL],
            totals: [0.0; PANEL],
            shrink: [0.0; PANEL],
        }
    }
}

impl Attend<'_> {
    fn lanes(&self) -> usize {
        PANEL.min(self.rows - self.first)
    }

    /// Queries into lanes, scaled so that scores come in powers of two.
    #[inline(always)]
    unsafe fn queries<I: Isa>(&self, work: &mut Working) {
        let scale = std::f32::consts::LOG2_E / (self.head_dim as f32).sqrt();
        let q = &self.q[self.first * self.stride..][..(self.lanes() - 1) * self.stride + self.head_dim];
        // SAFETY: as in `run`.
        unsafe {
            I::transpose(
                q.as_ptr(),
                self.stride,
                self.lanes(),
                self.head_dim,
                scale,
                work.queries.0.as_mut_ptr(),
            );
            if self.packs.bf16 {
                for d in 0..self.head_dim / 2 {
                    let at = work.queries.0.as_ptr().add(d * 2 * PANEL);
                    let to = work.query_pairs.as_mut_ptr().add(d * PANEL);
                    I::pair_bf16(I::F::load(at), I::F::load(at.add(PANEL)), to);
                }
            }
        }
    }

    /// Scores of a stretch of `count` keys.
    #[inline(always)]
    unsafe fn scores<I: Isa>(&self, work: &mut Working, packs: &Packs, from: usize, count: usize) {
        let (width, dims) = (I::HEAD_TILE, self.head_dim);
        for t in 0..count.div_ceil(width) {
            // SAFETY: as in `run`.
            unsafe {
                let to = work.scores.0.as_mut_ptr().add(t * width * PANEL);
                let tile = (from + t * width) * dims;
                if packs.bf16 {
                    let x = packs.unit_keys(self.unit).cast::<u32>().add(tile / 2);
                    I::tile_bf16(width, work.query_pairs.as_ptr(), x, dims / 2, to);
                } else {
                    let x = packs.unit_keys(self.unit).cast::<f32>().add(tile);
                    I::tile_float(width, work.queries.0.as_ptr(), x, dims, to);
                }
            }
        }
    }

    /// Hides the keys behind each query.
    #[inline(always)]
    unsafe fn mask<I: Isa>(&self, work: &mut Working, start: usize, from: usize, count: usize) {
        let own = start + self.first;
        for j in own.saturating_sub(from)..count {
            let hidden = (from + j - own).min(PANEL);
            for v in (0..PANEL).step_by(I::F::N) {
                // SAFETY: as in `run`.
                unsafe {
                    let at = work.scores.0.as_mut_ptr().add(j * PANEL + v);
                    let mask = MASKS.as_ptr().add(PANEL - hidden + v);
                    I::F::load(at).add(I::F::load(mask)).store(at);
                }
            }
        }
    }

    /// Scores to weights below the highest so far.
    #[inline(always)]
    unsafe fn weights<I: Isa>(&self, work: &mut Working, count: usize) {
        for v in (0..PANEL).step_by(I::F::N) {
            // SAFETY: as in `run`.
            unsafe {
                let at = work.scores.0.as_mut_ptr().add(v);
                let old = I::F::load(work.tops.as_ptr().add(v));
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
                top.store(work.tops.as_mut_ptr().add(v));
                less.store(work.shrink.as_mut_ptr().add(v));
                let mut total = [I::F::splat(0.0); 2];
                for j in (0..count.next_multiple_of(2)).step_by(2) {
                    let at = at.add(j * PANEL);
                    let next = if j + 1 < count { I::F::load(at.add(PANEL)) } else { I::F::splat(LOW) };
                    let (a, b) = (I::F::load(at).sub(top), next.sub(top));
                    let (a, b) = if self.packs.bf16 {
                        let (a, b) = (exp2::<I::F, true>(a), exp2::<I::F, true>(b));
                        I::pair_bf16(a, b, work.weight_pairs.as_mut_ptr().add(j / 2 * PANEL + v));
                        (a, b)
                    } else {
                        let (a, b) = (exp2::<I::F, false>(a), exp2::<I::F, false>(b));
                        a.store(at);
                        b.store(at.add(PANEL));
                        (a, b)
                    };
                    total = [total[0].add(a), total[1].add(b)];
                }
                let before = I::F::load(work.totals.as_ptr().add(v));
                before.fma(less, total[0].add(total[1])).store(work.totals.as_mut_ptr().add(v));
            }
        }
    }

    /// Weighted values of a stretch onto the sums.
    #[inline(always)]
    unsafe fn sums<I: Isa>(&self, work: &mut Working, packs: &Packs, from: usize, count: usize) {
        let width = I::HEAD_TILE;
        for t in 0..self.head_dim.div_ceil(width) {
            let at = (t * packs.padded() + from) * width;
            // SAFETY: as in `run`.
            unsafe {
                let tile = work.tile.0.as_mut_ptr();
                if packs.bf16 {
                    let x = packs.unit_values(self.unit).cast::<u32>().add(at / 2);
                    I::tile_bf16(width, work.weight_pairs.as_ptr(), x, count.div_ceil(2), tile);
                } else {
                    let x = packs.unit_values(self.unit).cast::<f32>().add(at);
                    I::tile_float(width, work.scores.0.as_ptr(), x, count, tile);
                }
                for i in (0..width * PANEL).step_by(I::F::N) {
                    let to = work.sums.0.as_mut_ptr().add(t * width * PANEL + i);
                    let less = I::F::load(work.shrink.as_ptr().add(i % PANEL));
                    I::F::load(to).fma(less, I::F::load(tile.add(i))).store(to);
                }
            }
        }
    }

    /// Sums over totals, lanes back into rows.
    #[inline(always)]
    unsafe fn results<I: Isa>(&self, work: &mut Working) {
        let shares = work.totals.map(|total| 1.0 / total);
        for d in (0..self.head_dim).step_by(PANEL) {
            let some = PANEL.min(self.head_dim - d);
            // SAFETY: as in `run`.
            unsafe {
                let sums = work.sums.0.as_ptr().add(d * PANEL);
                I::transpose(sums, PANEL, some, PANEL, 1.0, work.tile.0.as_mut_ptr());
                for m in 0..self.lanes() {
                    let to = self.out.at((self.first + m) * self.out_stride + d);
                    for i in 0..some {
                        *to.add(i) = work.tile.0[m * PANEL + i] * shares[m];
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
