//! Which product is launched: one row by its kind of weights, many rows on the tensor cores, F32 weights in f32.

use super::{
    launches::{Ahead, Blocks, Launcher, Norm, Row, Weights},
    pack::value_bytes,
    state::{Buf, Cuda, Matrix, act_number, size},
};
use crate::backend::Act;

/// Columns that a product on the tensor cores takes at a time; its x is padded to a multiple of them.
const GROUP: usize = 128;
/// Rows that are few: the weights are most of the work.
const FEW: usize = 16;
/// Rows of W in a block's tile, of many rows and of few.
const OUTPUTS: usize = 128;
const OUTPUTS_FEW: usize = 32;

/// Times that a multiprocessor may make the norm of a row again, block after block, before a launch of its own is cheaper. R1-Omni's
/// vocabulary would take 36 on 132 multiprocessors, its gate and up take 19 on eight.
const NORMS_MAX: usize = 24;
/// Warps of a block that makes a norm first, and of one that does not.
const WARPS_NORMED: usize = 16;
const WARPS: usize = 4;

/// Bytes of the next matrix that are asked for while the kernels between two products run: what DRAM brings meanwhile, and a quarter of
/// the smallest L2 cache (2 MB, Orin Nano).
const AHEAD_BYTES: usize = 512 << 10;

type Product = fn(&Launcher, Blocks, u64, u64, Weights, u64, u64, i32, i32, i32, i32);

/// What follows a product, as in kernels/linear_row.cu.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Store = 0,
    Add = 1,
    Gated = 2,
}

/// Where a product reads and writes, on the device.
#[derive(Clone, Copy)]
struct Ends {
    x: u64,
    bias: u64,
    out: u64,
}

impl Cuda {
    /// `out`, `(rows, outputs)`, from `x`, `(rows, cols)`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn product(
        &mut self,
        x: &Buf,
        rows: usize,
        Matrix(w): &Matrix,
        bias: Option<&Buf>,
        act: Act,
        mode: Mode,
        out: &Buf,
    ) {
        let ahead = self.ahead(w);
        let cols = w.cols as usize;
        let outputs = if mode == Mode::Gated { w.rows as usize / 2 } else { w.rows as usize };
        let ends = Ends {
            x: x.over(rows * cols, "x"),
            bias: bias.map_or(0, |b| b.over(outputs, "the bias")),
            out: out.over(rows * outputs, "out"),
        };
        if rows == 1 && w.kind > 1 {
            return self.quantised_row(ends, *w, outputs, act, mode, ahead);
        }
        self.settle();
        match (rows, w.kind) {
            (0, _) => {}
            (1, kind) => {
                let Ends { x, bias, out } = ends;
                let row = if kind == 0 { Launcher::linear_row_f32 } else { Launcher::linear_row_f16 };
                let (blocks, share) = shared(outputs, w.width, WARPS);
                row(&self.device, blocks, *w, x, bias, out, mode as i32, act_number(act), share);
            }
            (_, 0) => {
                let blocks = (outputs.div_ceil(32), rows.div_ceil(32), 1);
                let Ends { x, bias, out } = ends;
                self.device.linear_f32(blocks, x, *w, bias, out, size(rows), mode as i32, act_number(act));
            }
            _ => self.tiles(ends, rows, *w, outputs, act, mode),
        }
    }

    /// One row as int8, which the op before made so already, or which is still to be made of a norm.
    fn quantised_row(&mut self, ends: Ends, w: Weights, outputs: usize, act: Act, mode: Mode, ahead: Ahead) {
        let Ends { x, bias, out } = ends;
        let gated = mode == Mode::Gated && outputs.is_multiple_of(32);
        let (normed, normed_share) = shared(outputs, w.width, WARPS_NORMED);
        let apart = mode == Mode::Gated && !gated;
        if apart || normed.0 > NORMS_MAX * self.device.multiprocessors {
            self.settle_norm();
        }
        // A product into the row that the norm is still to read comes after it.
        if self.norm.is_none_or(|norm| norm.out != x || norm.x == out) {
            self.settle_norm();
            if self.row_of != Some(x) {
                let (q, s) = self.row;
                self.device.quantise(((w.width as usize).div_ceil(128), 1, 1), x, q, s, w.cols, w.width);
            }
        }
        let (q, s) = self.row;
        let (norm, device) = (self.norm.take(), &self.device);
        if gated {
            let there = Norm { x: 0, gain: 0, out: 0, q, s, cols: 0, eps: 0.0 };
            let (next, next_s) = self.other_row;
            let row = of_kind(w, [Launcher::gated_row_q8, Launcher::gated_row_q4, Launcher::gated_row_q4s]);
            row(device, (outputs / 32, 1, 1), w, norm.unwrap_or(there), out, next, next_s, ahead);
            std::mem::swap(&mut self.row, &mut self.other_row);
            self.row_of = Some(out);
            return;
        }
        self.row_of = None;
        let (mode, act) = (mode as i32, act_number(act));
        if let Some(norm) = norm {
            let row =
                of_kind(w, [Launcher::normed_row_q8, Launcher::normed_row_q4, Launcher::normed_row_q4s]);
            return row(device, normed, w, norm, bias, out, mode, act, normed_share, ahead);
        }
        let row = of_kind(w, [Launcher::linear_row_q8, Launcher::linear_row_q4, Launcher::linear_row_q4s]);
        let (blocks, share) = shared(outputs, w.width, WARPS);
        row(device, blocks, w, Row { q, s }, bias, out, mode, act, share, ahead);
    }

    /// The matrix that came behind `w` last time, whose weights a product with `w` asks for as it ends: one token takes the matrices in
    /// the order of the one before, and of the prompt.
    fn ahead(&mut self, w: &Weights) -> Ahead {
        let all = value_bytes(w.kind, w.rows as usize * w.width as usize);
        let bytes = size(all.min(AHEAD_BYTES));
        if let Some(before) = self.before.replace(w.values) {
            self.behind.insert(before, Ahead { at: w.values, bytes });
        }
        self.behind.get(&w.values).copied().unwrap_or(Ahead { at: 0, bytes: 0 })
    }

    /// Several rows as f16, each scaled by a power of two.
    fn tiles(&mut self, ends: Ends, rows: usize, w: Weights, outputs: usize, act: Act, mode: Mode) {
        let Ends { x, bias, out } = ends;
        let width = (w.width as usize).next_multiple_of(GROUP);
        let half_bytes = 2 * rows * width;
        let Some(half) = self.scratch_now(half_bytes + 4 * rows) else { return };
        let (scale, device) = (half + half_bytes as u64, &self.device);
        let wide = size(width);
        device.narrow((rows, 1, 1), x, half, scale, w.cols, wide);
        let across = if mode == Mode::Gated { 2 * outputs } else { outputs };
        let tiles = |high: usize| across.div_ceil(OUTPUTS) * rows.div_ceil(high);
        let (blocks, f16, quantised): (_, Product, [Product; 3]) = if rows <= FEW {
            let few = [Launcher::linear_few_q8, Launcher::linear_few_q4, Launcher::linear_few_q4s];
            (across.div_ceil(OUTPUTS_FEW), Launcher::linear_few_f16, few)
        } else if w.kind != 1 && rows > 64 && tiles(128) >= device.multiprocessors {
            let tile = [Launcher::linear_tile_q8, Launcher::linear_tile_q4, Launcher::linear_tile_q4s];
            (tiles(128), Launcher::linear_low_f16, tile)
        } else {
            let low = [Launcher::linear_low_q8, Launcher::linear_low_q4, Launcher::linear_low_q4s];
            (tiles(64), Launcher::linear_low_f16, low)
        };
        let product = if w.kind == 1 { f16 } else { of_kind(w, quantised) };
        let (mode, act) = (mode as i32, act_number(act));
        product(device, (blocks, 1, 1), half, scale, w, bias, out, size(rows), wide, mode, act);
    }
}

/// The launch for a quantised matrix, of those for Q8, Q4 and Q4 with short scales.
fn of_kind<T: Copy>(w: Weights, launches: [T; 3]) -> T {
    launches[(w.kind as usize - 2).min(2)]
}

/// Blocks of a single row's product, and how many warps share two outputs: long rows are read by four at once.
fn shared(outputs: usize, width: i32, warps: usize) -> (Blocks, i32) {
    let share = if width >= 2048 { 4 } else { 1 };
    ((outputs.div_ceil(2 * warps / share), 1, 1), share as i32)
}
