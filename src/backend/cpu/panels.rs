//! Weights as the product kernels read them: panels of 16 outputs, inputs in order, so that a kernel streams.
//!
//! Shapes, per panel: F32 and F16 `(cols, 16)`. Quantised kinds: scales `(blocks, 16)` f16 and, apart from them, quads of inputs
//! `(blocks, 8, 16, 4)` bytes for Q8_0 (plus 128 where the instruction set wants unsigned weights) and `(blocks, 4, 16, 4)` for
//! Q4_0, the low nibble of quad `k` beside the high nibble of quad `k + 4`. Outputs are padded to 16 with zeros.
//! Limits: as many bytes as the packed tensors have, plus the padding.

use super::{
    lanes::{BLOCK, PANEL},
    memory::{Arena, Memory},
    pool::Pool,
};
use crate::{
    backend::format::{stacked, unpack_row},
    bundle::{Kind, Tensor, block::first_unfit},
};
use anyhow::Result;
use half::f16;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub struct Matrix {
    pub kind: Kind,
    pub rows: usize,
    pub cols: usize,
    /// Q8_0 bytes hold the weight plus 128.
    offset: bool,
    scales: Memory,
    values: Memory,
}

impl Matrix {
    pub fn new(parts: &[Tensor<'_>], offset: bool, arena: &mut Arena, pool: &Pool) -> Result<Matrix> {
        let (kind, cols) = stacked(parts)?;
        let rows: usize = parts.iter().map(|p| p.rows).sum();
        let panels = rows.div_ceil(PANEL);
        let quantised = matches!(kind, Kind::Q8_0 | Kind::Q4_0);
        let matrix = Matrix {
            kind,
            rows,
            cols,
            offset: offset && kind == Kind::Q8_0,
            scales: arena.take(if quantised { panels * cols / BLOCK * PANEL * 2 } else { 0 })?,
            values: arena.take(panels * Self::panel_bytes_of(kind, cols))?,
        };
        let row_bytes = kind.row_bytes(cols);
        // Chunks of panels, so that a chunk is some hundred kilobytes.
        let per_chunk = (1 << 18) / (row_bytes * PANEL).max(1) + 1;
        let unfit = AtomicUsize::new(usize::MAX);
        pool.run(panels.div_ceil(per_chunk), |chunk, _| {
            for panel in chunk * per_chunk..panels.min((chunk + 1) * per_chunk) {
                let mut sources = [None; PANEL];
                for (lane, source) in sources.iter_mut().enumerate() {
                    let row = panel * PANEL + lane;
                    *source =
                        find_row(parts, row).map(|(part, row)| &part.data[row * row_bytes..][..row_bytes]);
                    if source.is_some_and(|bytes| first_unfit(kind, bytes).is_some()) {
                        unfit.fetch_min(row, Relaxed);
                    }
                }
                matrix.fill(panel, &sources);
            }
        });
        if let Some((part, row)) = find_row(parts, unfit.into_inner()) {
            let bytes = &part.data[row * row_bytes..][..row_bytes];
            return part.refuse(row, first_unfit(kind, bytes).unwrap_or(0));
        }
        Ok(matrix)
    }

    /// Bytes of the values of one panel.
    fn panel_bytes_of(kind: Kind, cols: usize) -> usize {
        match kind {
            Kind::F32 => cols * PANEL * 4,
            Kind::F16 => cols * PANEL * 2,
            Kind::Q8_0 => cols * PANEL,
            Kind::Q4_0 => cols * PANEL / 2,
        }
    }

    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Bytes that one pass over the weights reads.
    pub fn bytes(&self) -> usize {
        self.scales.bytes() + self.values.bytes()
    }

    /// What x's sums are multiplied with before a block starts: minus the offset of the stored weights.
    pub fn start(&self, unsigned: bool) -> i32 {
        match self.kind {
            Kind::Q8_0 if self.offset => -128,
            Kind::Q4_0 if unsigned => -8,
            _ => 0,
        }
    }

    pub fn scales(&self, panel: usize) -> *const u16 {
        self.scales.ptr::<u16>().wrapping_add(panel * self.cols / BLOCK * PANEL)
    }

    pub fn values(&self, panel: usize) -> *const u8 {
        self.values.ptr::<u8>().wrapping_add(panel * Self::panel_bytes_of(self.kind, self.cols))
    }

    fn fill(&self, panel: usize, sources: &[Option<&[u8]>; PANEL]) {
        let len = Self::panel_bytes_of(self.kind, self.cols);
        let blocks = self.cols / BLOCK;
        // SAFETY: each panel is filled by one call, before the matrix is shared; both ranges lie in their memories.
        let (values, scales) = unsafe {
            let quantised = matches!(self.kind, Kind::Q8_0 | Kind::Q4_0);
            (
                std::slice::from_raw_parts_mut(self.values(panel).cast_mut(), len),
                std::slice::from_raw_parts_mut(
                    self.scales(panel).cast_mut(),
                    if quantised { blocks * PANEL } else { 0 },
                ),
            )
        };
        let flip = if self.offset { u32::from_ne_bytes([0x80; 4]) } else { 0 };
        match self.kind {
            Kind::F32 => scatter::<4>(sources, values),
            Kind::F16 => scatter::<2>(sources, values),
            Kind::Q8_0 => scatter_blocks::<34>(sources, flip, scales, values),
            Kind::Q4_0 => scatter_blocks::<18>(sources, flip, scales, values),
        }
    }

    /// One row as f32.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "a row holds {} values", self.cols);
        let (panel, lane) = (r / PANEL, r % PANEL);
        // SAFETY: the panel's values and scales, never written after `new`.
        let (values, scales) = unsafe {
            let quantised = matches!(self.kind, Kind::Q8_0 | Kind::Q4_0);
            (
                std::slice::from_raw_parts(self.values(panel), Self::panel_bytes_of(self.kind, self.cols)),
                std::slice::from_raw_parts(
                    self.scales(panel),
                    if quantised { self.cols / BLOCK * PANEL } else { 0 },
                ),
            )
        };
        match self.kind {
            Kind::F32 | Kind::F16 => {
                let size = self.kind.block().1;
                for (k, o) in out.iter_mut().enumerate() {
                    unpack_row(
                        self.kind,
                        &values[(k * PANEL + lane) * size..][..size],
                        std::slice::from_mut(o),
                    );
                }
            }
            Kind::Q8_0 | Kind::Q4_0 => {
                let bytes = self.kind.block().1 - 2;
                let flip = if self.offset { 0x80 } else { 0 };
                for (b, o) in out.chunks_exact_mut(BLOCK).enumerate() {
                    let d = f16::from_bits(scales[b * PANEL + lane]).to_f32();
                    for (i, o) in o.iter_mut().enumerate() {
                        let at = i % bytes;
                        let byte = values[b * bytes * PANEL + (at / 4 * PANEL + lane) * 4 + at % 4];
                        *o = match self.kind {
                            Kind::Q8_0 => d * f32::from((byte ^ flip) as i8),
                            _ => d * (f32::from(if i < bytes { byte & 15 } else { byte >> 4 }) - 8.0),
                        };
                    }
                }
            }
        }
    }
}

fn scatter<const SIZE: usize>(sources: &[Option<&[u8]>; PANEL], values: &mut [u8]) {
    for (lane, source) in sources.iter().enumerate() {
        let Some(source) = source else { continue };
        for (to, from) in values.chunks_exact_mut(PANEL * SIZE).zip(source.chunks_exact(SIZE)) {
            to[lane * SIZE..][..SIZE].copy_from_slice(from);
        }
    }
}

/// Blocks of `BYTES`: scales aside, quads of the sixteen rows in turn, block by block so that the panel is written as a stream.
fn scatter_blocks<const BYTES: usize>(
    sources: &[Option<&[u8]>; PANEL],
    flip: u32,
    scales: &mut [u16],
    values: &mut [u8],
) {
    let blocks = scales.chunks_exact_mut(PANEL).zip(values.chunks_exact_mut((BYTES - 2) * PANEL));
    for (b, (scales, values)) in blocks.enumerate() {
        for (lane, source) in sources.iter().enumerate() {
            let Some(source) = source else { continue };
            let block = &source[b * BYTES..][..BYTES];
            scales[lane] = u16::from_le_bytes([block[0], block[1]]);
            for (quads, quad) in values.chunks_exact_mut(PANEL * 4).zip(block[2..].chunks_exact(4)) {
                let quad = u32::from_ne_bytes([quad[0], quad[1], quad[2], quad[3]]) ^ flip;
                quads[lane * 4..][..4].copy_from_slice(&quad.to_ne_bytes());
            }
        }
    }
}

/// The part that holds a row of the stack, and which of its rows that is.
fn find_row<'a, 'b>(parts: &'b [Tensor<'a>], mut row: usize) -> Option<(&'b Tensor<'a>, usize)> {
    for part in parts {
        if row < part.rows {
            return Some((part, row));
        }
        row -= part.rows;
    }
    None
}

/// Rows of x as the tiles read them: `tile` rows beside each other, the last tile filled up with zeros.
///
/// Shapes, per tile: floats `(cols, tile)`; quantised `(blocks, tile * 32 i8 | tile f32 scales | tile i32 starts)`.
pub struct Packed {
    memory: Memory,
    pub tile: usize,
    pub tile_bytes: usize,
}

impl Packed {
    pub fn new() -> Result<Packed> {
        Ok(Packed { memory: Memory::new(0)?, tile: 1, tile_bytes: 0 })
    }

    /// Makes room for `rows` of `cols` in tiles of `tile`.
    pub fn shape(&mut self, rows: usize, cols: usize, tile: usize, quantised: bool) {
        self.tile = tile;
        self.tile_bytes = if quantised { cols / BLOCK * tile * (BLOCK + 8) } else { cols * tile * 4 };
        self.memory.reserve(rows.div_ceil(tile) * self.tile_bytes);
    }

    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    pub fn tile(&self, i: usize) -> *const u8 {
        self.memory.ptr::<u8>().wrapping_add(i * self.tile_bytes)
    }
}
