//! Which product is launched: one row by its kind of weights, many rows on the tensor cores, F32 weights in f32.

use super::{
    launches::{Blocks, Launcher, Norm, Weights},
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
/// vocabulary would take 143 on 132 multiprocessors, its queries, keys and values take 18 on eight.
const NORMS_MAX: usize = 64;

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
        let cols = w.cols as usize;
        let outputs = if mode == Mode::Gated { w.rows as usize / 2 } else { w.rows as usize };
        let ends = Ends {
            x: x.over(rows * cols, "x"),
            bias: bias.map_or(0, |b| b.over(outputs, "the bias")),
            out: out.over(rows * outputs, "out"),
        };
        if rows == 1 && w.kind > 1 {
            return self.quantised_row(ends, *w, outputs, act, mode);
        }
        self.settle();
        match (rows, w.kind) {
            (0, _) => {}
            (1, kind) => {
                let Ends { x, bias, out } = ends;
                let row = if kind == 0 { Launcher::linear_row_f32 } else { Launcher::linear_row_f16 };
                let (blocks, share) = shared(outputs, w.width);
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
    fn quantised_row(&mut self, ends: Ends, w: Weights, outputs: usize, act: Act, mode: Mode) {
        let Ends { x, bias, out } = ends;
        let gated = mode == Mode::Gated && outputs.is_multiple_of(32);
        let (blocks, share) = if gated { ((outputs / 32, 1, 1), 1) } else { shared(outputs, w.width) };
        if blocks.0 > NORMS_MAX * self.device.multiprocessors {
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
        let there = Norm { x: 0, gain: 0, out: 0, q, s, cols: 0, eps: 0.0 };
        let norm = self.norm.take().unwrap_or(there);
        let device = &self.device;
        if gated {
            let (next, next_s) = self.other_row;
            let row = if w.kind == 2 { Launcher::gated_row_q8 } else { Launcher::gated_row_q4 };
            row(device, blocks, w, norm, out, next, next_s);
            std::mem::swap(&mut self.row, &mut self.other_row);
            self.row_of = Some(out);
        } else {
            let linear = if w.kind == 2 { Launcher::linear_row_q8 } else { Launcher::linear_row_q4 };
            linear(device, blocks, w, norm, bias, out, mode as i32, act_number(act), share);
            self.row_of = None;
        }
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
        let (blocks, [f16, q8, q4]): (_, [Product; 3]) = if rows <= FEW {
            let few = [Launcher::linear_few_f16, Launcher::linear_few_q8, Launcher::linear_few_q4];
            (across.div_ceil(OUTPUTS_FEW), few)
        } else if w.kind != 1 && rows > 64 && tiles(128) >= device.multiprocessors {
            (tiles(128), [Launcher::linear_low_f16, Launcher::linear_tile_q8, Launcher::linear_tile_q4])
        } else {
            (tiles(64), [Launcher::linear_low_f16, Launcher::linear_low_q8, Launcher::linear_low_q4])
        };
        let product = match w.kind {
            1 => f16,
            2 => q8,
            _ => q4,
        };
        let (mode, act) = (mode as i32, act_number(act));
        product(device, (blocks, 1, 1), half, scale, w, bias, out, size(rows), wide, mode, act);
    }
}

/// Blocks of a single row's product, and how many warps share an output: long rows are read by four at once.
fn shared(outputs: usize, width: i32) -> (Blocks, i32) {
    let share = if width >= 2048 { 4 } else { 1 };
    ((outputs.div_ceil(8 / share), 1, 1), share as i32)
}
