//! The CPU opened: its team of threads, its scratch memory, and the jobs that ops are cut into.

use super::{
    attention::Attend,
    lanes::PANEL,
    level::{self, Facts, Level},
    memory::{Arena, Buf, HUGE_BYTES, Memory, Out},
    packs::{KeySource, PackKeys, Packs},
    panels::{Matrix, Packed},
    pool::Pool,
    product::{Chunk, Pack, Product, Then},
    rows::Norm,
};
use crate::{
    backend::{Act, Footprint, Heads},
    bundle::Kind,
};
use anyhow::{Result, bail};
use std::{
    cell::{Cell, RefCell},
    sync::{Arc, atomic::AtomicU64},
};

/// How exact attention and cache are; products follow the kind of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout: for F32 bundles.
    F32,
    /// f32 attention, f16 keys and values: for F16 bundles.
    F16,
    /// bf16 products in attention where the processor has them, f16 keys and values: for Q8_0 and Q4_0 bundles.
    Int8,
}

impl Precision {
    /// What suits a bundle whose matrices are of this kind.
    pub fn of(kind: Kind) -> Precision {
        match kind {
            Kind::F32 => Precision::F32,
            Kind::F16 => Precision::F16,
            Kind::Q8_0 | Kind::Q4_0 => Precision::Int8,
        }
    }
}

/// The CPU backend.
pub struct Cpu {
    pub(super) level: Level,
    pub(super) precision: Precision,
    pub(super) pool: Pool,
    pub(super) second_level_bytes: usize,
    pub(super) weights: RefCell<Arena>,
    pub(super) packed: Packed,
    pub(super) packs: Packs,
    pub(super) scores: Memory,
    pub(super) wide: Buf,
    /// What the verbs of memory handed out.
    pub(super) handed: Cell<Footprint>,
}

/// Rows of one chunk of a job over rows.
pub(super) const ROWS: usize = 8;
/// Values of one chunk of a job over values.
pub(super) const VALUES: usize = 1 << 14;
impl Cpu {
    /// `threads` in all, 0 for one per processor; the best instruction set that `MIEN_CPU` allows.
    pub fn new(threads: usize, precision: Precision) -> Result<Cpu> {
        Cpu::with_level(threads, precision, Level::detect()?)
    }

    /// As [`Cpu::new`] with a level of [`Level::available`].
    pub fn with_level(threads: usize, precision: Precision, level: Level) -> Result<Cpu> {
        if !Level::available().contains(&level) {
            bail!("this processor has no {}", level.name());
        }
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        Cpu::with_pool(Pool::new(threads)?, precision, level)
    }

    /// Takes the memory of a run and computes nothing: every op returns at once and leaves its result undefined. Memory that
    /// nobody writes costs nothing, so [`Cpu::footprint`] of a large model is known in a moment.
    pub fn planning(precision: Precision) -> Result<Cpu> {
        Cpu::with_pool(Pool::idle()?, precision, Level::detect()?)
    }

    fn with_pool(pool: Pool, precision: Precision, level: Level) -> Result<Cpu> {
        Ok(Cpu {
            level,
            precision,
            pool,
            second_level_bytes: level::second_level_bytes(),
            weights: RefCell::default(),
            packed: Packed::new()?,
            packs: Packs::new()?,
            scores: Memory::new(0)?,
            wide: Buf::new(0)?,
            handed: Cell::default(),
        })
    }

    /// What was handed out so far, and what the ops keep for themselves.
    pub fn footprint(&self) -> Footprint {
        let handed = self.handed.get();
        let own = self.packed.bytes() + self.packs.bytes() + self.scores.bytes() + self.wide.bytes();
        // The last huge page of the weights is taken whole.
        let weights = handed.weights.next_multiple_of(HUGE_BYTES);
        Footprint { weights, scratch: handed.scratch + own, ..handed }
    }

    pub(super) fn hand(&self, weights: usize, cache: usize, scratch: usize) {
        let Footprint { weights: w, cache: c, scratch: s } = self.handed.get();
        self.handed.set(Footprint { weights: w + weights, cache: c + cache, scratch: s + scratch });
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Counts the jobs that the team was given; goes on counting while the backend is in use elsewhere.
    pub fn launches(&self) -> Arc<AtomicU64> {
        self.pool.jobs()
    }

    pub(super) fn product(
        &mut self,
        x: &Buf,
        rows: usize,
        w: &Matrix,
        bias: Option<&Buf>,
        then: Then,
        out: &mut [f32],
    ) {
        let quantised = matches!(w.kind, Kind::Q8_0 | Kind::Q4_0);
        let start = quantised.then(|| w.start(self.level.run(Facts).offset));
        self.packed.shape(rows, w.cols, self.level.tile(rows), quantised);
        let (level, packed, x) = (self.level, &self.packed, x.first(rows * w.cols));
        self.pool.run(rows.div_ceil(packed.tile), |tile, _| {
            level.run(Pack { x, rows, cols: w.cols, to: packed, tile, quantised: start });
        });
        let bias = bias.map(|b| b.first(w.rows));
        let product = Product { x: packed, rows, w, bias, then, out: Out(out.as_mut_ptr()) };
        assert_eq!(out.len(), rows * product.outputs(), "{rows} rows of {} outputs", product.outputs());
        let cut = product.cut(self.pool.threads(), self.second_level_bytes);
        self.pool.run(cut.chunks(), |chunk, _| {
            level.run(Chunk { product: &product, cut: &cut, chunk });
        });
    }

    pub(super) fn norm(
        &self,
        x: &[f32],
        gain: &[f32],
        bias: Option<&[f32]>,
        eps: f32,
        act: Act,
        out: &mut [f32],
    ) {
        let cols = gain.len();
        let (level, rows, out) = (self.level, x.len() / cols, Out(out.as_mut_ptr()));
        self.pool.run(rows.div_ceil(ROWS), |chunk, _| {
            for r in chunk * ROWS..rows.min((chunk + 1) * ROWS) {
                let x = &x[r * cols..][..cols];
                level.run(Norm { x, gain, bias, eps, act, out: Out(out.at(r * cols)) });
            }
        });
    }

    /// Fills the rows of `out`, `cols` long, each by itself.
    pub(super) fn fill(&self, out: &mut [f32], cols: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
        let (rows, per) = (out.len() / cols, VALUES.div_ceil(cols));
        let out = Out(out.as_mut_ptr());
        self.pool.run(rows.div_ceil(per), |chunk, _| {
            for r in chunk * per..rows.min((chunk + 1) * per) {
                // SAFETY: row `r` lies in `out` and belongs to this chunk alone.
                row(r, unsafe { std::slice::from_raw_parts_mut(out.at(r * cols), cols) });
            }
        });
    }

    /// Whether attention takes products of bf16.
    pub(super) fn bf16(&self) -> bool {
        self.level.run(Facts).bf16 && self.precision == Precision::Int8
    }

    /// Packs the keys and values of `batch` runs of rows of `q | k | v`, for which `packs` has its shape.
    pub(super) fn pack(&self, qkv: &[f32], batch: usize, rows: usize, heads: Heads, packs: &Packs) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let (level, panels) = (self.level, rows.div_ceil(PANEL));
        self.pool.run(batch * n_kv_heads, |unit, _| {
            let (b, kv) = (unit / n_kv_heads, unit % n_kv_heads);
            let keys = &qkv[b * rows * heads.qkv() + (n_heads + kv) * head_dim..];
            let from = KeySource::Rows { keys, values: &keys[n_kv_heads * head_dim..], stride: heads.qkv() };
            for panel in 0..panels {
                level.run(PackKeys { from, packs, unit, panel, head_dim });
            }
        });
    }

    /// Attention of packed units: `heads` queries in `batch` runs of `rows`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_units(
        &self,
        q: &[f32],
        batch: usize,
        rows: usize,
        heads: Heads,
        causal: Option<usize>,
        beside: Option<&Packs>,
        out: &mut [f32],
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let (level, packs) = (self.level, &self.packs);
        let (across, blocks) = (n_heads * head_dim, rows.div_ceil(PANEL));
        assert_eq!(out.len(), batch * rows * across, "{batch} x {rows} rows of {across}");
        let out = Out(out.as_mut_ptr());
        // Four blocks of queries share their keys in the cache of the core.
        let pieces = blocks.div_ceil(4);
        self.pool.run(batch * n_heads * pieces, |chunk, _| {
            let (b, h, piece) = (chunk / pieces / n_heads, chunk / pieces % n_heads, chunk % pieces);
            for block in piece * 4..blocks.min(piece * 4 + 4) {
                level.run(Attend {
                    q: &q[b * rows * heads.qkv() + h * head_dim..],
                    stride: heads.qkv(),
                    rows,
                    first: block * PANEL,
                    head_dim,
                    packs,
                    beside,
                    unit: b * n_kv_heads + h / (n_heads / n_kv_heads),
                    causal,
                    out: Out(out.at(b * rows * across + h * head_dim)),
                    out_stride: across,
                });
            }
        });
    }
}
