//! The CUDA backend opened: the device with its kernels, what it keeps between ops, and its types of memory.

use super::{
    device::{Address, Options},
    launches::{Ahead, Launcher, Norm, Weights},
};
use crate::{
    backend::{Act, GpuWait, Heads},
    bundle::Kind,
};
use anyhow::Result;
use cudarc::driver::CudaGraph;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

/// Blocks over which one attention over the cache is split at most.
pub const SPLITS_MAX: usize = 64;
/// Queries of one key/value head that a split attention takes.
pub const SPLIT_QUERIES: usize = 16;

/// Blocks over which the search for the highest value is split at most.
pub const PARTS_MAX: usize = 256;

/// Columns of a quantised matrix at most.
pub const COLUMNS_MAX: usize = 1 << 16;

/// Columns of a norm that a product makes on its way; NORM_COLUMNS_MAX of kernels/linear_row.cu.
pub const NORM_COLUMNS_MAX: usize = 8192;

/// The device.
pub struct Cuda {
    /// The repeated step, once it was recorded. Dropped before the device.
    pub(super) graph: Option<CudaGraph>,
    /// Kernels of the recorded step.
    pub(super) graph_launches: u64,
    pub(super) device: Launcher,
    pub(super) exact: bool,
    pub(super) scratch: Mutex<Scratch>,
    pub(super) ids: Address,
    pub(super) ids_max: usize,
    /// Token and position of a repeated step.
    pub(super) step: Address,
    pub(super) parts: Address,
    pub(super) recording: Option<Recording>,
    /// A row as int8 and its scales, and room for the next one.
    pub(super) row: (Address, Address),
    pub(super) other_row: (Address, Address),
    /// Where the f32 form of `row` stands, until any op but the next product has run.
    pub(super) row_of: Option<Address>,
    /// A norm of one row that was asked for and is left to the product behind it.
    pub(super) norm: Option<Norm>,
    /// The matrix of the product before, by its address, and the matrix that came behind each of them last time.
    pub(super) before: Option<Address>,
    pub(super) behind: HashMap<Address, Ahead>,
}

/// What the step that is being recorded was called with.
pub struct Recording {
    pub(super) token: u32,
    pub(super) position: usize,
}

/// Room for what an op makes on its way: x in another format, keys and values of a tower.
pub struct Scratch {
    at: Address,
    bytes: usize,
}

/// f32 values on the device.
pub struct Buf {
    pub(super) at: Address,
    pub(super) len: usize,
}

pub struct Matrix(pub(super) Weights);

/// Keys and values as f16 or, where attention is exact, f32: `(layer, kv head, position, padded head_dim)` each.
pub struct Cache {
    pub(super) heads: Heads,
    /// Bytes of one value.
    pub(super) entry: usize,
    pub(super) padded: usize,
    pub(super) positions_max: usize,
    pub(super) layers: usize,
    pub(super) keys: Address,
    pub(super) values: Address,
    pub(super) layer_bytes: u64,
    pub(super) parts: Address,
    /// How many blocks of a key/value head are done; zeros between two launches.
    pub(super) turns: Address,
    pub(super) frequency: Address,
    /// The base that `frequency` was filled for; NaN before.
    pub(super) theta: f32,
}

/// Keys and values of rows that stand in for others, as f16: `(layer, kv head, row, padded head_dim)` each.
pub struct Kept {
    pub(super) heads: Heads,
    pub(super) rows: usize,
    pub(super) keys: Address,
    pub(super) values: Address,
    pub(super) layer_bytes: u64,
}

impl Buf {
    pub(super) fn over(&self, values: usize, what: &str) -> Address {
        assert!(values <= self.len, "{what} holds {} values, {values} needed", self.len);
        self.at
    }
}

/// Dimensions of a head as the kernels hold it.
pub fn padded(head_dim: usize) -> usize {
    let padded = head_dim.next_power_of_two().max(16);
    assert!(padded <= 128, "heads of {head_dim} dimensions; the kernels hold up to 128");
    padded
}

pub fn size(n: usize) -> i32 {
    i32::try_from(n).expect("the sizes of a bundle are checked to stay far below 2^31")
}

pub fn act_number(act: Act) -> i32 {
    match act {
        Act::None => 0,
        Act::Gelu => 1,
        Act::GeluTanh => 2,
        Act::Silu => 3,
    }
}

impl Cuda {
    /// Opens the first device for a bundle whose matrices are of this kind.
    pub fn open(kind: Kind, wait: GpuWait) -> Result<Cuda> {
        Cuda::with_options(Options { exact: kind == Kind::F32, wait, ..Options::default() })
    }

    pub fn with_options(options: Options) -> Result<Cuda> {
        let device = Launcher::open(options)?;
        let ids_max = 1 << 15;
        let take = |bytes, what| device.take(bytes, what);
        let (ids, step) = (take(4 * ids_max, "token ids")?, take(8, "a step")?);
        let parts = take(8 * PARTS_MAX, "parts of a search")?;
        let row =
            || anyhow::Ok((take(COLUMNS_MAX, "a quantised row")?, take(COLUMNS_MAX / 8, "its scales")?));
        let (row, other_row) = (row()?, row()?);
        let scratch = Mutex::new(Scratch { at: 0, bytes: 0 });
        let (graph, recording, row_of, norm) = (None, None, None, None);
        let exact = options.exact;
        let graph_launches = 0;
        Ok(Cuda {
            graph,
            graph_launches,
            device,
            exact,
            scratch,
            ids,
            ids_max,
            step,
            parts,
            recording,
            row,
            other_row,
            row_of,
            norm,
            before: None,
            behind: HashMap::new(),
        })
    }

    /// Counts the kernels that were launched; goes on counting while the backend is in use elsewhere.
    pub fn launches(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.device.launches)
    }

    /// The device for an op that is no product: whatever was kept for one is no longer next.
    pub(super) fn op(&mut self) -> &Launcher {
        self.settle();
        &self.device
    }

    /// Makes what was left to a product that did not come.
    pub(super) fn settle(&mut self) {
        self.settle_norm();
        self.row_of = None;
    }

    pub(super) fn settle_norm(&mut self) {
        if let Some(Norm { x, gain, out, q, s, cols, eps }) = self.norm.take() {
            self.device.rms_norm_quantised((1, 1, 1), x, gain, out, q, s, cols, eps);
            self.row_of = Some(out);
        }
    }

    /// `start` for kernels: a number, and where to find what is to be added to it.
    pub(super) fn place(&self, start: usize) -> (i32, Address) {
        match &self.recording {
            None => (size(start), 0),
            Some(step) => {
                assert_eq!(start, step.position, "a repeated step has one position");
                (0, self.step + 4)
            }
        }
    }

    pub(super) fn rotate_by(&self, theta: f32, head_dim: usize, cache: &mut Cache) {
        if theta.to_bits() == cache.theta.to_bits() {
            return;
        }
        assert!(self.recording.is_none(), "rotations are prepared before a step is recorded");
        let frequency = |i: usize| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32;
        let table: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
        self.device.upload(&table, cache.frequency);
        cache.theta = theta;
    }

    /// At least `bytes` of memory, whose content lasts until the next call.
    pub(super) fn scratch(&self, bytes: usize) -> Result<Address> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.bytes < bytes {
            if scratch.bytes > 0 {
                self.device.give_alone(scratch.at, scratch.bytes);
                *scratch = Scratch { at: 0, bytes: 0 };
            }
            *scratch = Scratch { at: self.device.take_alone(bytes, "scratch")?, bytes };
        }
        Ok(scratch.at)
    }

    /// The same inside an op.
    pub(super) fn scratch_now(&self, bytes: usize) -> Option<Address> {
        match self.scratch(bytes) {
            Ok(at) => Some(at),
            Err(error) => {
                log::error!("{error:#}");
                self.device.note(
                    "growing its scratch memory",
                    Err(cudarc::driver::DriverError(cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)),
                );
                None
            }
        }
    }

    /// One thread for each of `count` values.
    pub(super) fn each(count: usize) -> ((usize, usize, usize), i64) {
        ((count.div_ceil(256), 1, 1), count as i64)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let scratch = self.scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
        if scratch.bytes > 0 {
            self.device.give_alone(scratch.at, scratch.bytes);
        }
    }
}
