//! Weights as the kernels read them: rows under rows, widths rounded up to 32, quants and scales apart, 16 bytes at a time.

use super::device::Device;
use super::launches::Weights;
use crate::{
    backend::format::stacked,
    bundle::{Kind, Tensor, short_scale},
};
use anyhow::Result;

/// Bytes of packed rows that are made ready at a time.
const STAGE_BYTES: usize = 4 << 20;

/// How a matrix lies on the device.
#[derive(Clone, Copy)]
struct Form {
    kind: Kind,
    /// Scales of Q4_0 as bytes.
    short: bool,
}

impl Form {
    /// The shortest that holds `parts` exactly.
    fn of(kind: Kind, parts: &[Tensor<'_>]) -> Form {
        let blocks = || parts.iter().flat_map(|part| part.data.chunks_exact(kind.block().1));
        Form { kind, short: kind == Kind::Q4_0 && blocks().all(|block| short_scale(scale(block)).is_some()) }
    }

    /// Bytes of the values and of the scales of one row.
    fn row_bytes(self, width: usize) -> (usize, usize) {
        let a_scale = match self.kind {
            Kind::F32 | Kind::F16 => 0,
            Kind::Q8_0 | Kind::Q4_0 => 2 - usize::from(self.short),
        };
        (value_bytes(self.number(), width), width / 32 * a_scale)
    }

    /// As `enum` of kernels/parts.cuh.
    fn number(self) -> i32 {
        match self.kind {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Q8_0 => 2,
            Kind::Q4_0 => 3 + i32::from(self.short),
        }
    }

    /// Appends one row. Blocks of the bundle hold the scale first, then the quants in the order that the kernels want.
    fn pack_row(self, row: &[u8], width: usize, values: &mut Vec<u8>, scales: &mut Vec<u8>) {
        match self.kind {
            Kind::F32 | Kind::F16 => {
                let end = values.len() + self.row_bytes(width).0;
                values.extend_from_slice(row);
                values.resize(end, 0);
            }
            Kind::Q8_0 | Kind::Q4_0 => {
                for block in row.chunks_exact(self.kind.block().1) {
                    if self.short {
                        scales.extend(short_scale(scale(block)));
                    } else {
                        scales.extend_from_slice(&block[..2]);
                    }
                    values.extend_from_slice(&block[2..]);
                }
            }
        }
    }
}

/// Bytes of so many values, without their scales, by the number of their form.
pub fn value_bytes(number: i32, values: usize) -> usize {
    match number {
        0 => 4 * values,
        1 => 2 * values,
        2 => values,
        _ => values / 2,
    }
}

/// The bits of a block's scale.
fn scale(block: &[u8]) -> u16 {
    u16::from_le_bytes([block[0], block[1]])
}

/// Stacks the rows of `parts` on the device.
pub fn matrix(device: &Device, parts: &[Tensor<'_>]) -> Result<Weights> {
    let (kind, cols) = stacked(parts)?;
    let rows: usize = parts.iter().map(|p| p.rows).sum();
    let width = cols.next_multiple_of(32);
    let form = Form::of(kind, parts);
    let (value_bytes, scale_bytes) = form.row_bytes(width);
    let what = parts.iter().map(|p| p.name).collect::<Vec<_>>().join(" | ");
    let values_at = device.take(rows * value_bytes, &what)?;
    let scales_at = if scale_bytes > 0 { device.take(rows * scale_bytes, &what)? } else { 0 };

    let (mut values, mut scales) = (Vec::with_capacity(STAGE_BYTES), Vec::new());
    let (mut to, mut scales_to) = (values_at, scales_at);
    let mut all = parts.iter().flat_map(|p| p.data.chunks_exact(kind.row_bytes(cols))).peekable();
    while let Some(row) = all.next() {
        form.pack_row(row, width, &mut values, &mut scales);
        if values.len() + value_bytes > STAGE_BYTES || all.peek().is_none() {
            device.upload(&values, to);
            device.upload(&scales, scales_to);
            (to, scales_to) = (to + values.len() as u64, scales_to + scales.len() as u64);
            values.clear();
            scales.clear();
        }
    }
    device.check()?;
    let size = |n: usize| i32::try_from(n).expect("the sizes of a bundle are checked to stay far below 2^31");
    Ok(Weights {
        values: values_at,
        scales: scales_at,
        rows: size(rows),
        cols: size(cols),
        width: size(width),
        kind: form.number(),
    })
}
