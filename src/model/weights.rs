//! From the tensors of a bundle to the matrices and vectors of a backend; products that read the same input become one.

use crate::{
    backend::Backend,
    bundle::{Tensor, Tensors},
    model::pass::{Linear, Norm},
};
use anyhow::{Context, Result};

/// Reads weights by name.
pub struct Loader<'a, B> {
    pub backend: &'a B,
    pub bundle: &'a Tensors,
}

impl<B: Backend> Loader<'_, B> {
    /// `<name>.weight`, and `<name>.bias` where there is one.
    pub fn linear(&self, name: &str) -> Result<Linear<B>> {
        self.fused(&[name])
    }

    /// Products over the same input, one after the other; a part without a bias counts as zeros where another has one.
    pub fn fused(&self, names: &[&str]) -> Result<Linear<B>> {
        let parts: Vec<Tensor<'_>> =
            names.iter().map(|n| self.bundle.tensor(&format!("{n}.weight"))).collect::<Result<_>>()?;
        let mut bias = Vec::new();
        for (name, part) in names.iter().zip(&parts) {
            let own = format!("{name}.bias");
            if self.bundle.has(&own) {
                bias.extend(self.bundle.vector(&own)?);
            } else {
                bias.resize(bias.len() + part.rows, 0.0);
            }
        }
        let biased = names.iter().any(|n| self.bundle.has(&format!("{n}.bias")));
        let matrix = self.backend.matrix(&parts).with_context(|| format!("loading {}", names.join(", ")))?;
        parts.iter().for_each(|part| self.bundle.release(part));
        Ok(Linear {
            matrix,
            bias: biased.then(|| self.backend.vector(&bias)).transpose()?,
            outputs: parts.iter().map(|p| p.rows).sum(),
            inputs: parts[0].cols,
            bytes: parts.iter().map(|p| p.data.len()).sum(),
        })
    }

    pub fn norm(&self, name: &str, eps: f32) -> Result<Norm<B>> {
        let (gain, bias) = (self.vector(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        Ok(Norm { gain, bias, eps })
    }

    pub fn vector(&self, name: &str) -> Result<B::Buf> {
        self.backend.vector(&self.bundle.vector(name)?).with_context(|| format!("loading {name}"))
    }
}

/// Zeros on the host; memory that is not there is an error and not a crash.
pub fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    let bytes = len * size_of::<T>();
    zeros.try_reserve_exact(len).with_context(|| format!("no memory for {bytes} bytes"))?;
    zeros.resize(len, T::default());
    Ok(zeros)
}
