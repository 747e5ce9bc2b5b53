//! From the tensors of a bundle to the matrices and vectors of a backend; products that read the same input become one.

use crate::{
    backend::Backend,
    bundle::{Bundle, Tensor},
    model::observe::Pass,
};
use anyhow::{Context, Result, ensure};

/// `x W^T + b`
pub struct Linear<B: Backend> {
    pub matrix: B::Matrix,
    pub bias: Option<B::Buf>,
    pub outputs: usize,
    pub inputs: usize,
    /// As stored in the bundle.
    pub bytes: usize,
}

/// Gain and bias of a layer norm.
pub struct Norm<B: Backend> {
    pub gain: B::Buf,
    pub bias: B::Buf,
    pub eps: f32,
}

impl<B: Backend> Norm<B> {
    /// `out = norm(x)`, without what could follow.
    pub fn plain(&self, pass: &mut Pass<'_, B>, x: &B::Buf, rows: usize, out: &mut B::Buf) {
        self.act(pass, x, rows, crate::backend::Act::None, out);
    }

    pub fn act(
        &self,
        pass: &mut Pass<'_, B>,
        x: &B::Buf,
        rows: usize,
        act: crate::backend::Act,
        out: &mut B::Buf,
    ) {
        pass.backend.layer_norm(x, rows, &self.gain, &self.bias, self.eps, act, out);
    }
}

/// Reads weights by name.
pub struct Loader<'a, B> {
    pub backend: &'a B,
    pub bundle: &'a Bundle,
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

/// Working memory that the stages share, for no two of them run at once. Each is sized for the stage that needs most.
pub struct Scratch<B: Backend> {
    pub normed: B::Buf,
    pub qkv: B::Buf,
    pub mixed: B::Buf,
    pub wide: B::Buf,
}

/// What the stages ask of `Scratch`, in values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    pub normed: usize,
    pub qkv: usize,
    pub mixed: usize,
    pub wide: usize,
}

impl Sizes {
    pub fn max(self, other: Sizes) -> Sizes {
        Sizes {
            normed: self.normed.max(other.normed),
            qkv: self.qkv.max(other.qkv),
            mixed: self.mixed.max(other.mixed),
            wide: self.wide.max(other.wide),
        }
    }

    pub fn values(self) -> usize {
        self.normed + self.qkv + self.mixed + self.wide
    }
}

impl<B: Backend> Scratch<B> {
    pub fn new(backend: &B, sizes: Sizes) -> Result<Self> {
        let values = sizes.values();
        let alloc = |len| {
            let buf = backend.alloc(len);
            buf.with_context(|| format!("making room for {values} values of working memory"))
        };
        ensure!(values > 0, "a model without work");
        Ok(Self {
            normed: alloc(sizes.normed)?,
            qkv: alloc(sizes.qkv)?,
            mixed: alloc(sizes.mixed)?,
            wide: alloc(sizes.wide)?,
        })
    }
}
