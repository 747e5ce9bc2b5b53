//! `x W^T` with what follows it: many rows as blocked tiles, one row as a stream over the weights.
//!
//! x is packed first (`Packed`): quantised weights meet x in blocks of 32 signed bytes with an f32 scale each, float weights meet f32.
//! Products of a block are exact integers; blocks are summed in f32, inputs in order.
//! Bound: many rows by the multiplying ports, one row by the bytes of the weights.

use super::{
    lanes::{BLOCK, Isa, Lanes, PANEL, Work},
    math::{activate, silu},
    memory::Out,
    panels::{Matrix, Packed},
};
use crate::{backend::Act, bundle::Kind};
use std::ops::Range;

/// Chunks for each thread, so that at the end nobody waits long for the last; of one row fewer, for a chunk is a stream and longer ones
/// are faster.
const CHUNKS: usize = 32;
const STREAMS: usize = 8;
/// The most rows of a tile in any instruction set.
const TILE_MAX: usize = 16;

/// What becomes of a sum.
#[derive(Clone, Copy)]
pub enum Then {
    Store(Act),
    Add,
    /// `silu(gate) * up`, the panels of `up` after those of `gate`.
    Gate,
}

pub struct Product<'a> {
    pub x: &'a Packed,
    pub rows: usize,
    pub w: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub then: Then,
    pub out: Out,
}

/// How a product is cut into chunks.
pub struct Cut {
    tiles: usize,
    panels: usize,
    tiles_per_chunk: usize,
    panels_per_chunk: usize,
}

impl Cut {
    pub fn chunks(&self) -> usize {
        self.tiles.div_ceil(self.tiles_per_chunk) * self.panels.div_ceil(self.panels_per_chunk)
    }
    fn tiles(&self, chunk: usize) -> Range<usize> {
        let from = chunk / self.panels.div_ceil(self.panels_per_chunk) * self.tiles_per_chunk;
        from..self.tiles.min(from + self.tiles_per_chunk)
    }
    fn panels(&self, chunk: usize) -> Range<usize> {
        let from = chunk % self.panels.div_ceil(self.panels_per_chunk) * self.panels_per_chunk;
        from..self.panels.min(from + self.panels_per_chunk)
    }
}

impl Product<'_> {
    /// Columns of `out`.
    pub fn outputs(&self) -> usize {
        if matches!(self.then, Then::Gate) { self.w.rows / 2 } else { self.w.rows }
    }

    /// For a core whose second level cache holds so many bytes: five eighths of it for rows that stay while weights pass by.
    pub fn cut(&self, threads: usize, second_level_bytes: usize) -> Cut {
        let (tiles, panels) = (self.rows.div_ceil(self.x.tile), self.outputs().div_ceil(PANEL));
        let tiles_per_chunk = (second_level_bytes / 8 * 5 / self.x.tile_bytes.max(1)).clamp(1, tiles.max(1));
        // Blocks of equal size rather than a remainder at the end.
        let tiles_per_chunk = tiles.div_ceil(tiles.div_ceil(tiles_per_chunk).max(1)).max(1);
        let across = tiles.div_ceil(tiles_per_chunk).max(1);
        let chunks = threads * if self.rows == 1 { STREAMS } else { CHUNKS };
        let panels_per_chunk = panels.div_ceil(chunks.div_ceil(across)).clamp(1, 4096);
        Cut { tiles, panels, tiles_per_chunk, panels_per_chunk }
    }
}

#[repr(align(64))]
struct Tile([f32; TILE_MAX * PANEL]);

/// One chunk of a product.
pub struct Chunk<'a> {
    pub product: &'a Product<'a>,
    pub cut: &'a Cut,
    pub chunk: usize,
}

impl Chunk<'_> {
    #[inline(always)]
    unsafe fn multiply<I: Isa>(&self, panel: usize, tile: usize, out: &mut Tile) {
        let Product { x, w, .. } = self.product;
        let (scales, values, xt, out) = (w.scales(panel), w.values(panel), x.tile(tile), out.0.as_mut_ptr());
        // SAFETY: `x` was packed for `w.cols`, the panel lies in `w`, the tile holds `x.tile` rows.
        unsafe {
            match w.kind {
                Kind::F32 => I::tile_float(x.tile, values.cast::<f32>(), xt.cast(), w.cols, out),
                Kind::F16 => I::tile_float(x.tile, values.cast::<u16>(), xt.cast(), w.cols, out),
                Kind::Q8_0 => I::tile_q8(x.tile, scales, values, xt, w.cols / BLOCK, out),
                Kind::Q4_0 => I::tile_q4(x.tile, scales, values, xt, w.cols / BLOCK, out),
            }
        }
    }
}

/// Panels of one row whose gates wait for their ups.
const RUN: usize = 32;

impl Chunk<'_> {
    /// One row of gate and up: a run of gates, then the run of their ups, so that each is read as one stream.
    #[inline(always)]
    unsafe fn gate_row<I: Isa>(&self) {
        let Product { w, out, .. } = *self.product;
        let panels = self.cut.panels(self.chunk);
        let mut gates = Tile([0.0; TILE_MAX * PANEL]);
        let mut run = [0f32; RUN * PANEL];
        for from in panels.clone().step_by(RUN) {
            let to = panels.end.min(from + RUN);
            // SAFETY: as `run`; a run holds RUN panels, which are whole.
            unsafe {
                for panel in from..to {
                    self.multiply::<I>(panel, 0, &mut gates);
                    run[(panel - from) * PANEL..][..PANEL].copy_from_slice(&gates.0[..PANEL]);
                }
                for panel in from..to {
                    self.multiply::<I>(panel + w.panels() / 2, 0, &mut gates);
                    for v in (0..PANEL).step_by(I::F::N) {
                        let gate = I::F::load(run.as_ptr().add((panel - from) * PANEL + v));
                        let up = I::F::load(gates.0.as_ptr().add(v));
                        silu(gate).mul(up).store(out.at(panel * PANEL + v));
                    }
                }
            }
        }
    }
}

impl Work for Chunk<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        if self.product.rows == 1 && matches!(self.product.then, Then::Gate) {
            // SAFETY: the caller's.
            return unsafe { self.gate_row::<I>() };
        }
        let Product { x, rows, w, bias, then, out } = *self.product;
        let cols = self.product.outputs();
        let (mut sums, mut ups) = (Tile([0.0; TILE_MAX * PANEL]), Tile([0.0; TILE_MAX * PANEL]));
        let begun = matches!(then, Then::Add);
        for panel in self.cut.panels(self.chunk) {
            let lanes = PANEL.min(cols - panel * PANEL);
            let (mut edge, mut part) = ([0f32; PANEL], [0f32; PANEL]);
            if let Some(bias) = bias {
                edge[..lanes].copy_from_slice(&bias[panel * PANEL..][..lanes]);
            }
            for tile in self.cut.tiles(self.chunk) {
                // SAFETY: as `multiply`; rows `tile * x.tile + m` and columns of this panel belong to this chunk alone; those of a
                // panel that is not whole go through `part`.
                unsafe {
                    self.multiply::<I>(panel, tile, &mut sums);
                    if matches!(then, Then::Gate) {
                        self.multiply::<I>(panel + w.panels() / 2, tile, &mut ups);
                    }
                    for m in 0..x.tile.min(rows - tile * x.tile) {
                        let row = out.at((tile * x.tile + m) * cols + panel * PANEL);
                        let to = if lanes == PANEL { row } else { part.as_mut_ptr() };
                        if lanes < PANEL && begun {
                            to.copy_from_nonoverlapping(row, lanes);
                        }
                        for v in (0..PANEL).step_by(I::F::N) {
                            let sum = I::F::load(sums.0.as_ptr().add(m * PANEL + v));
                            let sum = sum.add(I::F::load(edge.as_ptr().add(v)));
                            let sum = if begun { sum.add(I::F::load(to.add(v))) } else { sum };
                            let y = match then {
                                Then::Store(act) => activate(act, sum),
                                Then::Add => sum,
                                Then::Gate => silu(sum).mul(I::F::load(ups.0.as_ptr().add(m * PANEL + v))),
                            };
                            y.store(to.add(v));
                        }
                        if lanes < PANEL {
                            row.copy_from_nonoverlapping(to, lanes);
                        }
                    }
                }
            }
        }
    }
}

/// Packs one tile of rows of x.
pub struct Pack<'a> {
    pub x: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub to: &'a Packed,
    pub tile: usize,
    /// Quantise, with the sums times this as starts.
    pub quantised: Option<i32>,
}

impl Work for Pack<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Pack { x, rows, cols, to, tile, quantised } = self;
        let width = to.tile;
        let base = to.tile(tile).cast_mut();
        assert!(x.len() >= rows * cols, "x holds {} values, {rows} x {cols} needed", x.len());
        for m in 0..width {
            let r = tile * width + m;
            let row = (r < rows).then(|| &x[r * cols..][..cols]);
            // SAFETY: the tile has room for `width` rows of `cols`, and belongs to this chunk alone.
            unsafe {
                match (quantised, row) {
                    (None, Some(row)) => {
                        let base = base.cast::<f32>().add(m);
                        for (k, v) in row.iter().enumerate() {
                            *base.add(k * width) = *v;
                        }
                    }
                    (None, None) => {
                        for k in 0..cols {
                            *base.cast::<f32>().add(k * width + m) = 0.0;
                        }
                    }
                    (Some(start), row) => {
                        for b in 0..cols / BLOCK {
                            let block = base.add(b * width * (BLOCK + 8));
                            let q = block.add(m * BLOCK).cast::<i8>();
                            let (d, sum) = match row {
                                Some(row) => I::quantise(row.as_ptr().add(b * BLOCK), q),
                                None => {
                                    q.write_bytes(0, BLOCK);
                                    (0.0, 0)
                                }
                            };
                            let tail = block.add(width * BLOCK);
                            *tail.cast::<f32>().add(m) = d;
                            *tail.cast::<i32>().add(width + m) = sum * start;
                        }
                    }
                }
            }
        }
    }
}
