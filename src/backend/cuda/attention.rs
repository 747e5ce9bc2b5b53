//! Which attention is launched: tensor cores over many queries, keys cut into runs for a few, f32 throughout where it must be exact.

use super::{
    device::Address,
    launches::Launcher,
    state::{Buf, COLUMNS_MAX, Cache, Cuda, SPLITS_MAX, padded, size},
};
use crate::backend::Heads;

fn attention_scale(heads: Heads) -> f32 {
    (std::f64::consts::LOG2_E / (heads.head_dim as f64).sqrt()) as f32
}

impl Cuda {
    /// Attention of a few rows over the cache; with `frequency` the row is rotated and stored on the way.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_split(
        &mut self,
        qkv: &Buf,
        rows: usize,
        start: usize,
        frequency: Address,
        heads: Heads,
        cache: &Cache,
        layer: usize,
        out: &Buf,
    ) {
        self.settle();
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let qkv = qkv.over(rows * heads.qkv(), "qkv");
        let out = out.over(rows * n_heads * head_dim, "out");
        let at = layer as u64 * cache.layer_bytes;
        let attend = match cache.padded {
            16 => Launcher::attend_split_16,
            32 => Launcher::attend_split_32,
            64 => Launcher::attend_split_64,
            _ => Launcher::attend_split_128,
        };
        // Two blocks for each multiprocessor, and no block without a step of 128 keys of its own. A recorded step is for all positions.
        let seen = if self.recording.is_some() { cache.positions_max } else { start + rows };
        let busy = (2 * self.device.multiprocessors / n_kv_heads).clamp(1, SPLITS_MAX);
        let splits = seen.div_ceil(128).min(busy);
        let (start, position) = self.place(start);
        let group = n_heads / n_kv_heads;
        let keep = rows == 1 && head_dim % 32 == 0 && n_heads * head_dim <= COLUMNS_MAX;
        let (q, s) = if keep { self.row } else { (0, 0) };
        attend(
            &self.device,
            (splits, n_kv_heads, 1),
            qkv,
            cache.keys + at,
            cache.values + at,
            cache.parts,
            cache.turns,
            out,
            q,
            s,
            size(rows),
            size(group),
            size(256 / group + 1),
            size(n_kv_heads),
            size(head_dim),
            size(cache.positions_max),
            start,
            position,
            frequency,
            attention_scale(heads),
        );
        self.row_of = keep.then_some(out);
    }

    /// Attention in f32, from `start` plus what stands at an address; `steps` from run to run, head to head, key to key.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_exact(
        &mut self,
        qkv: Address,
        keys: Address,
        values: Address,
        batch: usize,
        rows: usize,
        heads: Heads,
        (start, position): (i32, Address),
        steps: (usize, usize, usize),
        out: Address,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        self.op().attend_exact(
            (rows, n_heads, batch),
            qkv,
            keys,
            values,
            out,
            size(rows),
            size(n_heads),
            size(n_kv_heads),
            size(head_dim),
            start,
            position,
            steps.0 as i64,
            size(steps.1),
            size(steps.2),
            attention_scale(heads),
        );
    }

    /// Attention of `rows` rows in each of `batch` runs over keys and values of `pitch` positions a head.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attention(
        &mut self,
        qkv: Address,
        keys: Address,
        values: Address,
        batch: usize,
        rows: usize,
        heads: Heads,
        pitch: usize,
        start: i32,
        out: Address,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let attend = match padded(head_dim) {
            16 => Launcher::attend_16,
            32 => Launcher::attend_32,
            64 => Launcher::attend_64,
            _ => Launcher::attend_128,
        };
        attend(
            self.op(),
            ((rows * (n_heads / n_kv_heads)).div_ceil(64), n_kv_heads, batch),
            qkv,
            keys,
            values,
            out,
            size(rows),
            size(n_heads),
            size(n_kv_heads),
            size(head_dim),
            size(pitch),
            start,
            attention_scale(heads),
        );
    }
}
