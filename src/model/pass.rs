//! A backend on its way through a model: products and norms as the stages call them, counted, and watched where somebody observes.
//!
//! Shapes: `x` and `out` are `(rows, cols)`.

use crate::{
    backend::{Act, Backend},
    model::observe::{Cost, Observer},
};
use anyhow::{Context, Result, ensure};

/// A backend on its way through the model, with whoever watches.
pub struct Pass<'a, B: Backend> {
    pub backend: &'a mut B,
    observer: Option<&'a mut (dyn Observer + 'static)>,
    cost: Cost,
}

impl<'a, B: Backend> Pass<'a, B> {
    pub fn new(backend: &'a mut B, observer: Option<&'a mut (dyn Observer + 'static)>) -> Self {
        Self { backend, observer, cost: Cost::default() }
    }

    pub fn begin(&mut self, stage: &'static str) {
        if let Some(observer) = &mut self.observer {
            self.cost = Cost::default();
            observer.begin(stage);
        }
    }

    /// `result` is what the stage wrote last.
    pub fn end(&mut self, stage: &'static str, result: &B::Buf) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            self.backend.read(result, 0, &mut [0.0])?;
            observer.end(stage, self.cost);
        }
        Ok(())
    }

    /// The end of a stage that ran outside of the device.
    pub fn end_on_host(&mut self, stage: &'static str) {
        if let Some(observer) = &mut self.observer {
            observer.end(stage, self.cost);
        }
    }

    pub fn wants(&self, name: &str) -> bool {
        self.observer.as_ref().is_some_and(|o| o.wants(name))
    }

    pub fn tap(&mut self, name: &str, buf: &B::Buf, rows: usize, cols: usize) -> Result<()> {
        if self.wants(name) {
            let mut values = vec![0.0; rows * cols];
            self.backend.read(buf, 0, &mut values)?;
            self.tap_host(name, rows, cols, &values);
        }
        Ok(())
    }

    pub fn tap_host(&mut self, name: &str, rows: usize, cols: usize, values: &[f32]) {
        if let Some(observer) = self.observer.as_mut().filter(|o| o.wants(name)) {
            observer.value(name, rows, cols, values);
        }
    }

    /// What was counted since the stage began.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    pub fn add(&mut self, cost: Cost) {
        self.cost.bytes += cost.bytes;
        self.cost.operations += cost.operations;
    }

    /// Counts `operations` that no matrix accounts for.
    pub fn count(&mut self, operations: usize) {
        self.cost.operations += operations as u64;
    }

    fn product(&mut self, rows: usize, w: &Linear<B>, run: impl FnOnce(&mut B)) {
        let operations = 2 * (rows * w.outputs * w.inputs) as u64;
        self.add(Cost { bytes: w.bytes as u64, operations });
        if let Some(observer) = &mut self.observer {
            observer.begin_product();
        }
        run(self.backend);
        if let Some(observer) = &mut self.observer {
            observer.end_product(operations);
        }
    }

    /// `out = act(x W^T + b)`
    pub fn linear(&mut self, x: &B::Buf, rows: usize, w: &Linear<B>, act: Act, out: &mut B::Buf) {
        self.product(rows, w, |backend| backend.linear(x, rows, &w.matrix, w.bias.as_ref(), act, out));
    }

    /// `out += x W^T + b`
    pub fn linear_add(&mut self, x: &B::Buf, rows: usize, w: &Linear<B>, out: &mut B::Buf) {
        self.product(rows, w, |backend| backend.linear_add(x, rows, &w.matrix, w.bias.as_ref(), out));
    }

    /// `out = silu(x G^T) * (x U^T)`
    pub fn linear_gated(&mut self, x: &B::Buf, rows: usize, w: &Linear<B>, out: &mut B::Buf) {
        self.product(rows, w, |backend| backend.linear_gated(x, rows, &w.matrix, out));
    }
}

/// `x W^T + b`
pub struct Linear<B: Backend> {
    /// `(outputs, inputs)`
    pub matrix: B::Matrix,
    /// `(outputs,)`
    pub bias: Option<B::Buf>,
    pub outputs: usize,
    pub inputs: usize,
    /// As stored in the bundle.
    pub bytes: usize,
}

/// Gain and bias of a layer norm.
pub struct Norm<B: Backend> {
    /// `(cols,)`
    pub gain: B::Buf,
    /// `(cols,)`
    pub bias: B::Buf,
    pub eps: f32,
}

impl<B: Backend> Norm<B> {
    /// `out = norm(x)`, without what could follow.
    pub fn plain(&self, pass: &mut Pass<'_, B>, x: &B::Buf, rows: usize, out: &mut B::Buf) {
        self.act(pass, x, rows, Act::None, out);
    }

    /// `out = act(norm(x))`
    pub fn act(&self, pass: &mut Pass<'_, B>, x: &B::Buf, rows: usize, act: Act, out: &mut B::Buf) {
        pass.backend.layer_norm(x, rows, &self.gain, &self.bias, self.eps, act, out);
    }
}

/// Working memory that the stages share, for no two of them run at once. Each is sized for the stage that needs most.
pub struct Scratch<B: Backend> {
    /// `(rows, hidden)` after a norm.
    pub normed: B::Buf,
    /// `(rows, Heads::qkv)`
    pub qkv: B::Buf,
    /// `(rows, hidden)` after attention or a convolution.
    pub mixed: B::Buf,
    /// `(rows, ffn)`, or the rows of an unfolded convolution.
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
