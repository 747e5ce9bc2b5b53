//! One tensor as it lies in the file: how its values are stored, its size, its bytes. All of a bundle that the kernels know.

use super::block;
use anyhow::{Context, Result, bail};

/// How the values of a tensor are stored. Sizes in bytes per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    F32,
    F16,
    /// 32 values: f16 scale `d`, 32 x i8; value = d * q.
    Q8_0,
    /// 32 values: f16 scale `d`, 16 bytes; value i = d * (low nibble of byte i - 8), value i+16 = d * (high nibble - 8).
    Q4_0,
}

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

impl Kind {
    /// Values per block, bytes per block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4),
            Kind::F16 => (1, 2),
            Kind::Q8_0 => (32, 34),
            Kind::Q4_0 => (32, 18),
        }
    }
    /// Bytes of one row of `cols` values.
    pub fn row_bytes(self, cols: usize) -> usize {
        let (values, bytes) = self.block();
        cols / values * bytes
    }
    /// As on the command line: `f32`, `f16`, `q8_0`, `q4_0`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Q8_0 => "q8_0",
            Kind::Q4_0 => "q4_0",
        }
    }
    pub fn from_name(name: &str) -> Result<Kind> {
        let kinds = [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0];
        let found = kinds.into_iter().find(|k| k.name() == name);
        found.with_context(|| format!("`{name}` is no kind of weights; choose f32, f16, q8_0 or q4_0"))
    }
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
