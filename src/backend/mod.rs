//! Devices that run the model: memory verbs and the ops that its networks need, one trait.
//!
//! The model (`crate::model`) is written once over [`Backend`]. The scalar reference in `cpu::scalar` is always
//! compiled and is the judge of every other backend: each op has its own f64 answer in `tests/ops`, and each
//! backend must agree with it.
//!
//! Shapes: row-major, channels last. A picture of `frames x height x width` pixels and `channels` is a matrix of
//! `frames * height * width` rows. A `Matrix` is `(outputs, inputs)` and computes `x W^T`, as in the checkpoint.
//! Invariant: a backend never allocates after the model is loaded; buffers are made once, for the largest row count.
//! Non-finite values: in products and norms a row of `x` that holds NaN or infinity gives a row without one finite number and
//! leaves every other row alone; attention mixes rows, so there it may reach every row of the call. Nothing non-finite is
//! silently turned into a plausible number.

use crate::bundle::Tensor;
use anyhow::{Result, bail};
use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod format;

/// How a thread waits for a CUDA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GpuWait {
    /// As the driver decides: on a Jetson by its power mode.
    #[default]
    Auto,
    /// Asking again and again: soonest awake, a core busy meanwhile.
    Spin,
    /// Asleep until the device's interrupt: the core rests.
    Sleep,
}

/// The device is gone for this process, and why. Whoever gets this ends and starts anew.
#[derive(Clone, Debug)]
pub struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

/// Flags that call work off, each of them while it is raised.
#[derive(Clone, Debug, Default)]
pub struct Halt(Vec<Arc<AtomicBool>>);

impl Halt {
    pub fn raised(&self) -> bool {
        self.0.iter().any(|flag| flag.load(Ordering::Acquire))
    }
}

impl<const FLAGS: usize> From<[Arc<AtomicBool>; FLAGS]> for Halt {
    fn from(flags: [Arc<AtomicBool>; FLAGS]) -> Halt {
        Halt(flags.into())
    }
}

/// What a device does at most, measured. Units: operations and bytes per second; a multiply-add is two operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Byte products; those of f32 where there are none.
    pub int8_per_s: f64,
    /// Products of f16 with f32 sums; those of f32 where there are none.
    pub f16_per_s: f64,
    pub f32_per_s: f64,
    pub read_bytes_per_s: f64,
}

/// Memory that a device holds for a model, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Matrices and vectors of the bundle, as the device lays them out.
    pub weights: usize,
    /// Keys and values of the decoder, and of what silence leaves in the audio tower.
    pub cache: usize,
    /// Activations, and what the ops pack for themselves.
    pub scratch: usize,
}

/// What follows a product or a norm, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    None,
    /// `0.5 x (1 + erf(x / sqrt 2))`
    Gelu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x / (1 + exp(-x))`
    Silu,
}

/// Heads of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub n_heads: usize,
    /// Equal to `n_heads` in the towers; query head `h` reads key/value head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    /// Columns of one row of `q | k | v`.
    pub fn qkv(self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// Panics unless `rows` rows from `start` fit a cache that was made for `cached` heads and `positions_max` positions.
    fn assert_fit(self, start: usize, rows: usize, cached: Heads, positions_max: usize) {
        assert_eq!(self, cached, "the cache was made for other heads");
        assert!(start + rows <= positions_max, "{start} + {rows} of {positions_max} positions");
    }

    /// The same of rows that may have no queries.
    fn assert_stores(self, start: usize, rows: usize, cached: Heads, positions_max: usize) {
        let n_heads = if self.n_heads == 0 { cached.n_heads } else { self.n_heads };
        Heads { n_heads, ..self }.assert_fit(start, rows, cached, positions_max);
    }
}

/// A picture stack: rows are pixels, frame by frame, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub frames: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Grid {
    pub fn rows(self) -> usize {
        self.frames * self.height * self.width
    }
}

/// What a speech recogniser's decoder needs besides: its keys are not rotated, and its queries look at a sound that was stored before.
pub trait Unrotated: Backend {
    /// Stores k and v of positions `start .. start + rows` as they are. `qkv` is `(rows, heads.qkv())` of the cache's heads, or of none for
    /// queries: then it is `k | v`. The cache then answers `attend_cached`.
    fn store(
        &mut self,
        qkv: &Self::Buf,
        rows: usize,
        start: usize,
        heads: Heads,
        cache: &mut Self::Cache,
        layer: usize,
    );
}

/// A device with memory and the ops of transformers, convolutions and pictures.
///
/// Every op reads whole rows from the start of its inputs and writes whole rows from the start of `out`, unless it takes an
/// explicit `at`. Sizes that do not fit are bugs and panic with the numbers. Ops never fail otherwise; what can fail
/// (allocation, a lost device) fails in the verbs that return `Result`.
pub trait Backend {
    /// Activations: f32 as the model sees them; how they are stored is the backend's business.
    type Buf;
    /// A packed weight matrix `(outputs, inputs)`, laid out for this device.
    type Matrix;
    /// Keys and values of every decoder layer, `positions_max` long.
    type Cache;
    /// Keys and values that stay from call to call, by layer: what silence leaves in the audio tower.
    type Kept;

    /// One line for people: device, instruction set or architecture, threads.
    fn describe(&self) -> String;
    /// While it is raised, ops may return at once and leave their results undefined: whoever raised it throws them away. A backend
    /// that is quick may go on.
    fn halt_when(&mut self, _halt: Halt) {}

    // Memory.
    fn alloc(&self, len: usize) -> Result<Self::Buf>;
    fn vector(&self, values: &[f32]) -> Result<Self::Buf>;
    /// Stacks the rows of `parts`, which share kind and column count, into one matrix (`q | k | v`, `gate | up`). Refuses NaN and
    /// infinity by tensor, row and column.
    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Self::Matrix>;
    fn cache(&self, layers: usize, heads: Heads, positions_max: usize) -> Result<Self::Cache>;
    /// Room for the keys and values of `rows` rows of each layer. A device may refuse.
    fn kept(&self, _layers: usize, _heads: Heads, _rows: usize) -> Result<Self::Kept> {
        bail!("{} keeps no keys and values of silence; leave audio_context at \"whole\"", self.describe())
    }
    fn write(&mut self, src: &[f32], dst: &mut Self::Buf, at: usize);
    /// Waits for the device, then copies out. The only verb that synchronises.
    fn read(&mut self, src: &Self::Buf, at: usize, dst: &mut [f32]) -> Result<()>;
    fn copy(&mut self, src: &Self::Buf, src_at: usize, dst: &mut Self::Buf, dst_at: usize, len: usize);
    /// `to` holds what `from` held, of two caches of one size; what `from` holds then is of no use.
    fn move_cache(&mut self, from: &mut Self::Cache, to: &mut Self::Cache);
    /// Copies the keys and values of positions in every layer, between caches of the same heads.
    fn copy_positions(&mut self, from: &Self::Cache, to: &mut Self::Cache, positions: Range<usize>);

    // Products. `out` is `(rows, outputs)`.
    /// `out = act(x W^T + bias)`
    fn linear(
        &mut self,
        x: &Self::Buf,
        rows: usize,
        w: &Self::Matrix,
        bias: Option<&Self::Buf>,
        act: Act,
        out: &mut Self::Buf,
    );
    /// `out += x W^T + bias`
    fn linear_add(
        &mut self,
        x: &Self::Buf,
        rows: usize,
        w: &Self::Matrix,
        bias: Option<&Self::Buf>,
        out: &mut Self::Buf,
    );
    /// `out = silu(x G^T) * (x U^T)` with `w` the rows of `G`, then those of `U`.
    fn linear_gated(&mut self, x: &Self::Buf, rows: usize, w: &Self::Matrix, out: &mut Self::Buf);
    /// Rows of a matrix as embeddings: `out[at + i] = W[ids[i]]`, `at` in rows.
    fn embed(&mut self, ids: &[u32], w: &Self::Matrix, out: &mut Self::Buf, at: usize);

    // Norms over the columns of each row.
    /// `out = act((x - mean) * rsqrt(var + eps) * gain + bias)`, population variance; `(rows, cols = gain.len())`.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm(
        &mut self,
        x: &Self::Buf,
        rows: usize,
        gain: &Self::Buf,
        bias: &Self::Buf,
        eps: f32,
        act: Act,
        out: &mut Self::Buf,
    );
    /// `out = x * rsqrt(mean(x^2) + eps) * gain`
    fn rms_norm(&mut self, x: &Self::Buf, rows: usize, gain: &Self::Buf, eps: f32, out: &mut Self::Buf);

    // Attention, scale `head_dim^-1/2`.
    /// Full attention inside each of `batch` runs of `rows` rows; `qkv` is `(batch * rows, heads.qkv())`.
    fn attend(&mut self, qkv: &Self::Buf, batch: usize, rows: usize, heads: Heads, out: &mut Self::Buf);
    /// Lays k and v of as many rows as `kept` has aside.
    fn keep(&mut self, _qkv: &Self::Buf, _kept: &mut Self::Kept, _layer: usize) {
        unreachable!("nothing was kept")
    }
    /// Full attention of `rows` rows, a multiple of 16, over themselves and the kept rows from number `rows` on.
    fn attend_beside(
        &mut self,
        _qkv: &Self::Buf,
        _rows: usize,
        _kept: &Self::Kept,
        _layer: usize,
        _out: &mut Self::Buf,
    ) {
        unreachable!("nothing was kept")
    }
    /// Rotates q in place and k on its way, and stores k and v of positions `start .. start + rows` (halves layout:
    /// `a = p * theta^(-2i/d)`, `out[i] = x[i] cos a - x[i+d/2] sin a`, `out[i+d/2] = x[i+d/2] cos a + x[i] sin a`).
    #[allow(clippy::too_many_arguments)]
    fn rope_store(
        &mut self,
        qkv: &mut Self::Buf,
        rows: usize,
        start: usize,
        theta: f32,
        heads: Heads,
        cache: &mut Self::Cache,
        layer: usize,
    );
    /// Causal attention of the rotated `q` of positions `start .. start + rows` over the cache.
    #[allow(clippy::too_many_arguments)]
    fn attend_cached(
        &mut self,
        qkv: &Self::Buf,
        rows: usize,
        start: usize,
        heads: Heads,
        cache: &Self::Cache,
        layer: usize,
        out: &mut Self::Buf,
    );

    /// `rope_store`, then `attend_cached`, of the same rows; `qkv` holds nothing of use afterwards.
    #[allow(clippy::too_many_arguments)]
    fn attend_next(
        &mut self,
        qkv: &mut Self::Buf,
        rows: usize,
        start: usize,
        theta: f32,
        heads: Heads,
        cache: &mut Self::Cache,
        layer: usize,
        out: &mut Self::Buf,
    ) {
        self.rope_store(qkv, rows, start, theta, heads, cache, layer);
        self.attend_cached(qkv, rows, start, heads, cache, layer, out);
    }

    /// Runs `step`, whose ops follow from one token and its position alone: `embed` of that token, `attend_next` of one row at that
    /// position, and what has the same arguments in every call. Nothing is written or read on the way. A device may record
    /// the ops of the first call and play them again for other tokens and positions; a backend sees one such step only.
    fn repeat(&mut self, token: u32, position: usize, step: &mut dyn FnMut(&mut Self)) {
        let _ = (token, position);
        step(self);
    }

    // Pictures and time.
    /// Patches of `(frames, 3, height, width)` pixels as rows of `3 * patch * patch` (channel, y, x).
    fn unfold_patches(&mut self, pixels: &Self::Buf, grid: Grid, patch: usize, out: &mut Self::Buf);
    /// Kernel 3, padding 1 along rows: `out[r] = x[r*stride-1] | x[r*stride] | x[r*stride+1]`, zeros outside.
    fn unfold_rows(&mut self, x: &Self::Buf, rows: usize, cols: usize, stride: usize, out: &mut Self::Buf);
    /// Kernel 2x2x2, stride (1,2,2), one step of past: rows of `8 * channels` in the order (time, y, x, channel),
    /// time `t-1` (zeros before the first frame) before `t`.
    fn unfold_time(&mut self, x: &Self::Buf, grid: Grid, out: &mut Self::Buf);
    /// Depthwise 3x3, padding 1; `w` is `(9, channels)`, taps row-major.
    fn depthwise(&mut self, x: &Self::Buf, grid: Grid, w: &Self::Buf, out: &mut Self::Buf);
    /// Mean over the pixels of each frame: `(frames, channels)`.
    fn squeeze(&mut self, x: &Self::Buf, grid: Grid, out: &mut Self::Buf);
    /// `x *= sigmoid(s)`, `s` is `(frames, channels)`.
    fn excite(&mut self, x: &mut Self::Buf, grid: Grid, s: &Self::Buf);
    /// Mean of each 2x2 square; height and width are even.
    fn halve(&mut self, x: &Self::Buf, grid: Grid, out: &mut Self::Buf);
    /// Mean over groups of `group` rows; a remainder is dropped.
    fn pool_rows(&mut self, x: &Self::Buf, rows: usize, cols: usize, group: usize, out: &mut Self::Buf);

    // Element by element.
    /// `out = act(a + b)` over `len` values; `b` repeats when it is shorter (a table of positions over frames).
    fn add(&mut self, a: &Self::Buf, b: &Self::Buf, len: usize, act: Act, out: &mut Self::Buf);
    /// `out = sum_i weight_i * part_i` over `len` values.
    fn mix(&mut self, parts: &[(&Self::Buf, f32)], len: usize, out: &mut Self::Buf);

    // Choice.
    /// `out[0]` is the place of the highest of `len` values, the first of equals, exact below 2^24; `len` where there is none. Each
    /// is penalised first: a penalty of 0 bars it, as does NaN; else what is above zero is divided by it, the rest multiplied. What
    /// is found gets `penalties[len]` for its penalty.
    fn highest(&mut self, values: &Self::Buf, len: usize, penalties: &mut Self::Buf, out: &mut Self::Buf);
    /// `out[i]` is `log softmax(row)[place]` of pick i, `(row, place)`, in rows of `len` values; NaN where a value of the row is not
    /// finite. Picks of one row stand together.
    fn log_likelihoods(&mut self, values: &Self::Buf, len: usize, picks: &[(u32, u32)], out: &mut Self::Buf);
}
