//! Which product is launched: one row by its kind of weights, many rows on the tensor cores, F32 weights in f32.

use super::{
    launches::{Launcher, Weights},
    state::{Buf, Cuda, Matrix, act_number, size},
};
use crate::backend::Act;

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
        let kept = self.row_of.take() == Some(ends.x);
        match (rows, w.kind) {
            (0, _) => {}
            (1, 0) => {
                let Ends { x, bias, out } = ends;
                self.device.linear_row_f32(eights(outputs), *w, x, bias, out, mode as i32, act_number(act));
            }
            (1, 1) => {
                let Ends { x, bias, out } = ends;
                self.device.linear_row_f16(eights(outputs), *w, x, bias, out, mode as i32, act_number(act));
            }
            (1, _) => self.quantised_row(ends, kept, *w, outputs, act, mode),
            (_, 0) => {
                let blocks = (outputs.div_ceil(32), rows.div_ceil(32), 1);
                let Ends { x, bias, out } = ends;
                self.device.linear_f32(blocks, x, *w, bias, out, size(rows), mode as i32, act_number(act));
            }
            _ => self.tiles(ends, rows, *w, outputs, act, mode),
        }
    }

    /// One row as int8; `kept` says that the op before made it so already.
    fn quantised_row(&mut self, ends: Ends, kept: bool, w: Weights, outputs: usize, act: Act, mode: Mode) {
        let Ends { x, bias, out } = ends;
        let (device, (q, s)) = (&self.device, self.row);
        if !kept {
            device.quantise(((w.width as usize).div_ceil(128), 1, 1), x, q, s, w.cols, w.width);
        }
        if mode == Mode::Gated && outputs.is_multiple_of(32) {
            let (next, next_s) = self.other_row;
            let gated = if w.kind == 2 { Launcher::gated_row_q8 } else { Launcher::gated_row_q4 };
            gated(device, (outputs / 32, 1, 1), w, q, s, out, next, next_s);
            std::mem::swap(&mut self.row, &mut self.other_row);
            self.row_of = Some(out);
        } else {
            let linear = if w.kind == 2 { Launcher::linear_row_q8 } else { Launcher::linear_row_q4 };
            linear(device, eights(outputs), w, q, s, bias, out, mode as i32, act_number(act));
        }
    }

    /// Many rows as f16, each scaled by a power of two.
    fn tiles(&mut self, ends: Ends, rows: usize, w: Weights, outputs: usize, act: Act, mode: Mode) {
        let Ends { x, bias, out } = ends;
        let half_bytes = 2 * rows * w.width as usize;
        let Some(half) = self.scratch_now(half_bytes + 4 * rows) else { return };
        let (scale, device) = (half + half_bytes as u64, &self.device);
        device.narrow((rows, 1, 1), x, half, scale, w.cols, w.width);
        let across = if mode == Mode::Gated { outputs.div_ceil(32) } else { outputs.div_ceil(64) };
        let blocks = (across, rows.div_ceil(64), 1);
        let tile = match w.kind {
            1 => Launcher::linear_tile_f16,
            2 => Launcher::linear_tile_q8,
            _ => Launcher::linear_tile_q4,
        };
        tile(device, blocks, half, scale, w, bias, out, size(rows), mode as i32, act_number(act));
    }
}

/// Blocks of eight outputs each.
fn eights(outputs: usize) -> (usize, usize, usize) {
    (outputs.div_ceil(8), 1, 1)
}
