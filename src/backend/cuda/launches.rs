//! The kernels of `kernels/`, each behind a function of its own signature: the driver takes arguments without types.

use super::device::{Address, Device, Options};
use anyhow::{Context, Result, anyhow};
use cudarc::driver::{CudaFunction, CudaModule, DeviceRepr, LaunchConfig, PushKernelArg};
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A packed matrix, as `struct Weights` of kernels/parts.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub values: Address,
    pub scales: Address,
    pub rows: i32,
    pub cols: i32,
    pub width: i32,
    pub kind: i32,
}

// SAFETY: plain numbers in C layout, the same on both sides.
unsafe impl DeviceRepr for Weights {}

/// An RMS norm that the product behind it makes on its way, as `struct Norm` of kernels/linear_row.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// 0 where `q` and `s` are there already.
    pub x: Address,
    pub gain: Address,
    pub out: Address,
    pub q: Address,
    pub s: Address,
    pub cols: i32,
    pub eps: f32,
}

// SAFETY: plain numbers in C layout, the same on both sides.
unsafe impl DeviceRepr for Norm {}

/// A row as int8 and its scales, as `struct Row` of kernels/linear_row.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub q: Address,
    pub s: Address,
}

// SAFETY: plain numbers in C layout, the same on both sides.
unsafe impl DeviceRepr for Row {}

/// What a later kernel reads, as `struct Ahead` of kernels/parts.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    pub at: Address,
    pub bytes: i32,
}

// SAFETY: plain numbers in C layout, the same on both sides.
unsafe impl DeviceRepr for Ahead {}

/// Blocks of a launch.
pub type Blocks = (usize, usize, usize);

/// A device with its kernels.
pub struct Launcher {
    kernels: Kernels,
    /// Kernels that were launched; those of a recorded step each time.
    pub launches: Arc<AtomicU64>,
    device: Device,
}

impl Launcher {
    pub fn open(options: Options) -> Result<Launcher> {
        let (device, module, image) = Device::open(options)?;
        let kernels = Kernels::load(&module).with_context(|| format!("in the kernels {image}"))?;
        Ok(Launcher { kernels, launches: Arc::default(), device })
    }
}

impl Deref for Launcher {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

macro_rules! kernels {
    ($($name:ident [$threads:literal] ($($arg:ident: $type:ty),*);)*) => {
        struct Kernels { $($name: CudaFunction),* }

        impl Kernels {
            fn load(module: &Arc<CudaModule>) -> Result<Self> {
                Ok(Kernels { $($name: {
                    let found = module.load_function(stringify!($name));
                    found.map_err(|error| anyhow!("no kernel {}: {error:?}", stringify!($name)))?
                }),* })
            }
        }

        #[allow(clippy::too_many_arguments)]
        impl Launcher {
            $(pub fn $name(&self, blocks: Blocks, $($arg: $type),*) {
                if self.is_lost() || blocks.0 * blocks.1 * blocks.2 == 0 {
                    return;
                }
                let narrow = |n: usize| u32::try_from(n).expect("a grid of fewer than 2^32 blocks");
                let config = LaunchConfig {
                    grid_dim: (narrow(blocks.0), narrow(blocks.1), narrow(blocks.2)),
                    block_dim: ($threads, 1, 1),
                    shared_mem_bytes: 0,
                };
                let mut launch = self.device.stream.launch_builder(&self.kernels.$name);
                $(launch.arg(&$arg);)*
                // SAFETY: the arguments are those of the kernel (this table repeats its signature, and the op tests run every row of
                // it), and the addresses among them were taken for the sizes that go with them.
                let done = unsafe { launch.launch(config) };
                self.launches.fetch_add(1, Relaxed);
                self.note(stringify!($name), done.map(drop));
            })*
        }
    };
}

kernels! {
    layer_norm[128](x: Address, gain: Address, bias: Address, out: Address, cols: i32, eps: f32, act: i32);
    rms_norm[128](x: Address, gain: Address, out: Address, cols: i32, eps: f32);
    rms_norm_quantised[128](x: Address, gain: Address, out: Address, q: Address, s: Address, cols: i32, eps: f32);
    narrow[128](x: Address, out: Address, scale: Address, cols: i32, width: i32);
    quantise[128](x: Address, q: Address, s: Address, cols: i32, width: i32);
    linear_row_q8[128](w: Weights, x: Row, bias: Address, out: Address, mode: i32, act: i32, share: i32, ahead: Ahead);
    linear_row_q4[128](w: Weights, x: Row, bias: Address, out: Address, mode: i32, act: i32, share: i32, ahead: Ahead);
    linear_row_q4s[128](w: Weights, x: Row, bias: Address, out: Address, mode: i32, act: i32, share: i32, ahead: Ahead);
    normed_row_q8[512](w: Weights, norm: Norm, bias: Address, out: Address, mode: i32, act: i32, share: i32, ahead: Ahead);
    normed_row_q4[512](w: Weights, norm: Norm, bias: Address, out: Address, mode: i32, act: i32, share: i32, ahead: Ahead);
    normed_row_q4s[512](w: Weights, norm: Norm, bias: Address, out: Address, mode: i32, act: i32, share: i32, ahead: Ahead);
    gated_row_q8[512](w: Weights, norm: Norm, out: Address, to: Address, to_s: Address, ahead: Ahead);
    gated_row_q4[512](w: Weights, norm: Norm, out: Address, to: Address, to_s: Address, ahead: Ahead);
    gated_row_q4s[512](w: Weights, norm: Norm, out: Address, to: Address, to_s: Address, ahead: Ahead);
    linear_row_f16[128](w: Weights, x: Address, bias: Address, out: Address, mode: i32, act: i32, share: i32);
    linear_row_f32[128](w: Weights, x: Address, bias: Address, out: Address, mode: i32, act: i32, share: i32);
    linear_few_f16[256](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_low_f16[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_few_q8[256](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_low_q8[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_tile_q8[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_few_q4[256](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_few_q4s[256](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_low_q4[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_low_q4s[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_tile_q4[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_tile_q4s[128](x: Address, scale: Address, w: Weights, bias: Address, out: Address, rows: i32, width: i32, mode: i32,
        act: i32);
    linear_f32[256](x: Address, w: Weights, bias: Address, out: Address, rows: i32, mode: i32, act: i32);
    embed[128](ids: Address, w: Weights, out: Address);
    rope_store[64](qkv: Address, frequency: Address, keys: Address, values: Address, n_heads: i32, n_kv: i32, head_dim: i32,
        padded: i32, positions_max: i32, start: i32, position: Address);
    rope_store_exact[64](qkv: Address, frequency: Address, keys: Address, values: Address, n_heads: i32, n_kv: i32, head_dim: i32,
        padded: i32, positions_max: i32, start: i32, position: Address);
    attend_exact[128](qkv: Address, keys: Address, values: Address, out: Address, rows: i32, n_heads: i32, n_kv: i32, head_dim: i32,
        start: i32, position: Address, run_step: i64, head_step: i32, step: i32, scale: f32);
    heads[128](qkv: Address, keys: Address, values: Address, rows: i32, n_heads: i32, n_kv: i32, head_dim: i32, padded: i32);
    heads_beside[128](qkv: Address, kept_keys: Address, kept_values: Address, keys: Address, values: Address, rows: i32, all: i32,
        n_heads: i32, n_kv: i32, head_dim: i32, padded: i32);
    attend_16[128](qkv: Address, keys: Address, values: Address, out: Address, rows: i32, n_heads: i32, n_kv: i32, head_dim: i32,
        pitch: i32, start: i32, scale: f32);
    attend_32[128](qkv: Address, keys: Address, values: Address, out: Address, rows: i32, n_heads: i32, n_kv: i32, head_dim: i32,
        pitch: i32, start: i32, scale: f32);
    attend_64[128](qkv: Address, keys: Address, values: Address, out: Address, rows: i32, n_heads: i32, n_kv: i32, head_dim: i32,
        pitch: i32, start: i32, scale: f32);
    attend_128[128](qkv: Address, keys: Address, values: Address, out: Address, rows: i32, n_heads: i32, n_kv: i32, head_dim: i32,
        pitch: i32, start: i32, scale: f32);
    attend_split_16[128](qkv: Address, keys: Address, values: Address, parts: Address, turns: Address, out: Address, to: Address,
        to_s: Address, rows: i32, group: i32, inverse: i32, n_kv: i32, head_dim: i32, pitch: i32, start: i32,
        position: Address, frequency: Address, scale: f32);
    attend_split_32[128](qkv: Address, keys: Address, values: Address, parts: Address, turns: Address, out: Address, to: Address,
        to_s: Address, rows: i32, group: i32, inverse: i32, n_kv: i32, head_dim: i32, pitch: i32, start: i32,
        position: Address, frequency: Address, scale: f32);
    attend_split_64[128](qkv: Address, keys: Address, values: Address, parts: Address, turns: Address, out: Address, to: Address,
        to_s: Address, rows: i32, group: i32, inverse: i32, n_kv: i32, head_dim: i32, pitch: i32, start: i32,
        position: Address, frequency: Address, scale: f32);
    attend_split_128[128](qkv: Address, keys: Address, values: Address, parts: Address, turns: Address, out: Address, to: Address,
        to_s: Address, rows: i32, group: i32, inverse: i32, n_kv: i32, head_dim: i32, pitch: i32, start: i32,
        position: Address, frequency: Address, scale: f32);
    unfold_patches[256](x: Address, out: Address, height: i32, width: i32, patch: i32, count: i64);
    unfold_rows[256](x: Address, out: Address, rows: i32, cols: i32, stride: i32, count: i64);
    unfold_time[256](x: Address, out: Address, height: i32, width: i32, channels: i32, count: i64);
    depthwise[256](x: Address, w: Address, out: Address, height: i32, width: i32, channels: i32, count: i64);
    excite[256](x: Address, s: Address, pixels: i32, channels: i32, count: i64);
    halve[256](x: Address, out: Address, height: i32, width: i32, channels: i32, count: i64);
    pool_rows[256](x: Address, out: Address, cols: i32, group: i32);
    add[256](a: Address, b: Address, out: Address, act: i32, repeat: i64, count: i64);
    highest_parts[256](values: Address, penalties: Address, parts: Address, len: i32);
    highest_join[256](parts: Address, penalties: Address, out: Address, count: i32, len: i32);
    likelihood[512](values: Address, picks: Address, out: Address, len: i32);
    probe_multiply[32](a: Address, b: Address, d: Address);
    probe_matrices[32](rows: Address, out: Address);
    probe_exp2[32](x: Address, out: Address);
    ceiling_read[256](from: Address, count: i64, out: Address);
    ceiling_f32[256](out: Address, rounds: i32);
    ceiling_int8[256](out: Address, rounds: i32);
    ceiling_f16[256](out: Address, rounds: i32);
    mix[256](part: Address, weight: f32, out: Address, first: i32, count: i64);
}
