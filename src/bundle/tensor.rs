//! One tensor as it lies in the file: how its values are stored, its size, its bytes. All of a bundle that the kernels know.

use super::block::{self, Kind};
use anyhow::{Result, bail};

/// One tensor of a mapped bundle. `data` is little-endian and may be unaligned.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// Outputs; 1 for a vector.
    pub rows: usize,
    /// Inputs; a block never crosses a row.
    pub cols: usize,
    pub data: &'a [u8],
}

impl Tensor<'_> {
    /// Refuses NaN and infinity: in the values, or in the scales of blocks.
    pub fn check(&self) -> Result<()> {
        block::first_unfit(self.kind, self.data)
            .map_or(Ok(()), |at| self.refuse(at / self.cols, at % self.cols))
    }

    /// The refusal of a value that is not finite.
    pub fn refuse<T>(&self, row: usize, col: usize) -> Result<T> {
        bail!(
            "tensor `{}` holds NaN or infinity in row {row}, column {col}: the file is damaged, or the checkpoint was",
            self.name
        )
    }

    /// The values, row by row.
    pub fn values(&self) -> Vec<f32> {
        let mut out = Vec::new();
        block::decode(self.kind, self.data, &mut out);
        out
    }
}
