//! Every op of `Backend` on a CUDA device.

use super::{
    launches::{Launcher, Norm},
    pack,
    product::Mode,
    state::{
        Buf, COLUMNS_MAX, Cache, Cuda, Kept, Matrix, NORM_COLUMNS_MAX, PARTS_MAX, Recording, SPLIT_QUERIES,
        SPLITS_MAX, act_number, padded, size,
    },
};
use crate::{
    backend::{Act, Backend, Grid, Heads},
    bundle::Tensor,
};
use anyhow::{Result, ensure};
use std::{ops::Range, sync::atomic::Ordering::Relaxed};

/// Beyond it `sine_cosine` of the kernels loses digits.
const POSITIONS_MAX: usize = 32_768;

impl Backend for Cuda {
    type Buf = Buf;
    type Matrix = Matrix;
    type Cache = Cache;
    type Kept = Kept;

    fn describe(&self) -> String {
        self.device.describe()
    }

    fn alloc(&self, len: usize) -> Result<Buf> {
        let at = self.device.take(4 * len, &format!("a buffer of {len} values"))?;
        self.device.zero(at, 4 * len.max(1));
        // As f16 with a scale per row, or as keys and values of a tower.
        self.scratch(2 * len + len / 8 + 4096)?;
        self.device.check()?;
        Ok(Buf { at, len })
    }

    fn vector(&self, values: &[f32]) -> Result<Buf> {
        let at = self.device.take(4 * values.len(), &format!("a vector of {} values", values.len()))?;
        self.device.upload(values, at);
        self.device.check()?;
        Ok(Buf { at, len: values.len() })
    }

    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Matrix> {
        parts.iter().try_for_each(Tensor::check)?;
        let (name, kind, cols) = (parts[0].name, parts[0].kind, parts[0].cols);
        ensure!(
            kind.block().0 == 1 || cols <= COLUMNS_MAX,
            "{name} has {cols} columns, more than {COLUMNS_MAX}"
        );
        Ok(Matrix(pack::matrix(&self.device, parts)?))
    }

    fn cache(&self, layers: usize, heads: Heads, positions_max: usize) -> Result<Cache> {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        ensure!(head_dim <= 128, "heads of {head_dim} dimensions; the CUDA kernels hold up to 128");
        ensure!(
            positions_max <= POSITIONS_MAX,
            "{positions_max} positions; the CUDA kernels turn keys of up to {POSITIONS_MAX}"
        );
        ensure!(n_heads % n_kv_heads == 0, "{n_heads} heads cannot share {n_kv_heads} key/value heads");
        let padded = padded(head_dim);
        let entry = if self.exact { 4 } else { 2 };
        let layer_bytes = entry * n_kv_heads * positions_max * padded;
        let take = |what: &str| self.device.take(layers * layer_bytes, what);
        let part_bytes = 4 * n_kv_heads * SPLITS_MAX * SPLIT_QUERIES * (padded + 2);
        let turns = self.device.take(4 * n_kv_heads, "turns of an attention")?;
        self.device.zero(turns, 4 * n_kv_heads);
        Ok(Cache {
            heads,
            entry,
            padded,
            positions_max,
            layers,
            keys: take(&format!("keys of {positions_max} positions"))?,
            values: take(&format!("values of {positions_max} positions"))?,
            layer_bytes: layer_bytes as u64,
            parts: self.device.take(part_bytes, "parts of an attention")?,
            turns,
            frequency: self.device.take(4 * head_dim, "rotation frequencies")?,
            theta: f32::NAN,
        })
    }

    fn kept(&self, layers: usize, heads: Heads, rows: usize) -> Result<Kept> {
        ensure!(
            !self.exact,
            "an F32 bundle keeps no keys and values of silence; leave audio_context at \"whole\""
        );
        let layer_bytes = 2 * heads.n_kv_heads * rows * padded(heads.head_dim);
        let take = |what: &str| self.device.take(layers * layer_bytes, what);
        let (keys, values) = (take("keys of silence")?, take("values of silence")?);
        self.scratch(2 * layer_bytes)?;
        Ok(Kept { heads, rows, keys, values, layer_bytes: layer_bytes as u64 })
    }

    fn write(&mut self, src: &[f32], dst: &mut Buf, at: usize) {
        let to = dst.over(at + src.len(), "the buffer") + 4 * at as u64;
        self.op().upload(src, to);
    }

    fn read(&mut self, src: &Buf, at: usize, dst: &mut [f32]) -> Result<()> {
        let from = src.over(at + dst.len(), "the buffer") + 4 * at as u64;
        self.op().download(from, dst)
    }

    fn copy(&mut self, src: &Buf, src_at: usize, dst: &mut Buf, dst_at: usize, len: usize) {
        let from = src.over(src_at + len, "the source") + 4 * src_at as u64;
        let to = dst.over(dst_at + len, "the destination") + 4 * dst_at as u64;
        self.op().copy(from, to, 4 * len);
    }

    fn move_cache(&mut self, from: &mut Cache, to: &mut Cache) {
        assert_eq!((from.heads, from.positions_max), (to.heads, to.positions_max), "caches of two sizes");
        let bytes = from.layers * from.layer_bytes as usize;
        let op = self.op();
        op.copy(from.keys, to.keys, bytes);
        op.copy(from.values, to.values, bytes);
    }

    fn copy_positions(&mut self, from: &Cache, to: &mut Cache, positions: Range<usize>) {
        assert_eq!(
            (from.heads, from.entry, from.padded, from.layers),
            (to.heads, to.entry, to.padded, to.layers),
            "caches of two kinds"
        );
        let most = from.positions_max.min(to.positions_max);
        assert!(positions.end <= most, "positions {positions:?} of {most}");
        let row = from.padded * from.entry;
        let op = self.op();
        for (layer, head) in (0..from.layers as u64)
            .flat_map(|layer| (0..from.heads.n_kv_heads).map(move |head| (layer, head)))
        {
            let at = |cache: &Cache| {
                layer * cache.layer_bytes + ((head * cache.positions_max + positions.start) * row) as u64
            };
            op.copy(from.keys + at(from), to.keys + at(to), positions.len() * row);
            op.copy(from.values + at(from), to.values + at(to), positions.len() * row);
        }
    }

    fn linear(&mut self, x: &Buf, rows: usize, w: &Matrix, bias: Option<&Buf>, act: Act, out: &mut Buf) {
        self.product(x, rows, w, bias, act, Mode::Store, out);
    }

    fn linear_add(&mut self, x: &Buf, rows: usize, w: &Matrix, bias: Option<&Buf>, out: &mut Buf) {
        self.product(x, rows, w, bias, Act::None, Mode::Add, out);
    }

    fn linear_gated(&mut self, x: &Buf, rows: usize, w: &Matrix, out: &mut Buf) {
        assert!(w.0.rows % 2 == 0, "gate and up need as many rows each, not {} in all", w.0.rows);
        self.product(x, rows, w, None, Act::None, Mode::Gated, out);
    }

    fn embed(&mut self, ids: &[u32], w: &Matrix, out: &mut Buf, at: usize) {
        let (rows, cols) = (w.0.rows as u32, w.0.cols as usize);
        if let Some(id) = ids.iter().find(|id| **id >= rows) {
            panic!("token {id} of a vocabulary of {rows}");
        }
        let mut to = out.over((at + ids.len()) * cols, "out") + 4 * (at * cols) as u64;
        self.settle();
        if let Some(step) = &self.recording {
            assert_eq!(ids, [step.token], "a repeated step has one token");
            return self.device.embed((cols.div_ceil(128), 1, 1), self.step, w.0, to);
        }
        for some in ids.chunks(self.ids_max) {
            self.device.upload(some, self.ids);
            self.device.embed((cols.div_ceil(128), some.len(), 1), self.ids, w.0, to);
            to += 4 * (some.len() * cols) as u64;
        }
    }

    fn layer_norm(
        &mut self,
        x: &Buf,
        rows: usize,
        gain: &Buf,
        bias: &Buf,
        eps: f32,
        act: Act,
        out: &mut Buf,
    ) {
        let cols = gain.len;
        let (x, to) = (x.over(rows * cols, "x"), out.over(rows * cols, "out"));
        let bias = bias.over(cols, "the bias");
        self.op().layer_norm((rows, 1, 1), x, gain.at, bias, to, size(cols), eps, act_number(act));
    }

    fn rms_norm(&mut self, x: &Buf, rows: usize, gain: &Buf, eps: f32, out: &mut Buf) {
        let cols = gain.len;
        let (x, to) = (x.over(rows * cols, "x"), out.over(rows * cols, "out"));
        if rows == 1 && cols.is_multiple_of(32) && cols <= NORM_COLUMNS_MAX {
            self.settle();
            let (q, s) = self.row;
            self.norm = Some(Norm { x, gain: gain.at, out: to, q, s, cols: size(cols), eps });
            return;
        }
        self.op().rms_norm((rows, 1, 1), x, gain.at, to, size(cols), eps);
    }

    fn attend(&mut self, qkv: &Buf, batch: usize, rows: usize, heads: Heads, out: &mut Buf) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let padded = padded(head_dim);
        let qkv = qkv.over(batch * rows * heads.qkv(), "qkv");
        let out = out.over(batch * rows * n_heads * head_dim, "out");
        if self.exact {
            let keys = qkv + 4 * (n_heads * head_dim) as u64;
            let values = keys + 4 * (n_kv_heads * head_dim) as u64;
            let steps = (rows * heads.qkv(), head_dim, heads.qkv());
            return self.attend_exact(qkv, keys, values, batch, rows, heads, (-1, 0), steps, out);
        }
        let bytes = 2 * batch * n_kv_heads * rows * padded;
        let Some(keys) = self.scratch_now(2 * bytes) else { return };
        let values = keys + bytes as u64;
        let blocks = ((rows * padded).div_ceil(128), 2 * n_kv_heads, batch);
        let (a, b, c, d) = (size(rows), size(n_heads), size(n_kv_heads), size(head_dim));
        self.op().heads(blocks, qkv, keys, values, a, b, c, d, size(padded));
        self.attention(qkv, keys, values, batch, rows, heads, rows, -size(rows), out);
    }

    fn keep(&mut self, qkv: &Buf, kept: &mut Kept, layer: usize) {
        let Heads { n_heads, n_kv_heads, head_dim } = kept.heads;
        let (qkv, padded) = (qkv.over(kept.rows * kept.heads.qkv(), "qkv"), padded(head_dim));
        let (at, blocks) =
            (layer as u64 * kept.layer_bytes, ((kept.rows * padded).div_ceil(128), 2 * n_kv_heads, 1));
        let (a, b, c, d) = (size(kept.rows), size(n_heads), size(n_kv_heads), size(head_dim));
        self.op().heads(blocks, qkv, kept.keys + at, kept.values + at, a, b, c, d, size(padded));
    }

    fn attend_beside(&mut self, qkv: &Buf, rows: usize, kept: &Kept, layer: usize, out: &mut Buf) {
        let Heads { n_heads, n_kv_heads, head_dim } = kept.heads;
        assert!(rows.is_multiple_of(16) && rows <= kept.rows, "{rows} rows beside {}", kept.rows);
        let padded = padded(head_dim);
        let qkv = qkv.over(rows * kept.heads.qkv(), "qkv");
        let out = out.over(rows * n_heads * head_dim, "out");
        let Some(keys) = self.scratch_now(2 * kept.layer_bytes as usize) else { return };
        let (values, at) = (keys + kept.layer_bytes, layer as u64 * kept.layer_bytes);
        let blocks = ((kept.rows * padded).div_ceil(128), 2 * n_kv_heads, 1);
        let (a, b, c, d) = (size(rows), size(n_heads), size(n_kv_heads), size(head_dim));
        let (own, all) = ((kept.keys + at, kept.values + at), size(kept.rows));
        self.op().heads_beside(blocks, qkv, own.0, own.1, keys, values, a, all, b, c, d, size(padded));
        self.attention(qkv, keys, values, 1, rows, kept.heads, kept.rows, -all, out);
    }

    fn rope_store(
        &mut self,
        qkv: &mut Buf,
        rows: usize,
        start: usize,
        theta: f32,
        heads: Heads,
        cache: &mut Cache,
        layer: usize,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        heads.assert_fit(start, rows, cache.heads, cache.positions_max);
        let qkv = qkv.over(rows * heads.qkv(), "qkv");
        self.rotate_by(theta, head_dim, cache);
        let (start, position) = self.place(start);
        let at = layer as u64 * cache.layer_bytes;
        let store = if cache.entry == 4 { Launcher::rope_store_exact } else { Launcher::rope_store };
        store(
            self.op(),
            (rows, n_heads + 2 * n_kv_heads, 1),
            qkv,
            cache.frequency,
            cache.keys + at,
            cache.values + at,
            size(n_heads),
            size(n_kv_heads),
            size(head_dim),
            size(cache.padded),
            size(cache.positions_max),
            start,
            position,
        );
    }

    fn attend_cached(
        &mut self,
        qkv: &Buf,
        rows: usize,
        start: usize,
        heads: Heads,
        cache: &Cache,
        layer: usize,
        out: &mut Buf,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        heads.assert_fit(start, rows, cache.heads, cache.positions_max);
        if cache.entry == 4 {
            let at = layer as u64 * cache.layer_bytes;
            let (qkv, out) =
                (qkv.over(rows * heads.qkv(), "qkv"), out.over(rows * n_heads * head_dim, "out"));
            let (keys, values, place) = (cache.keys + at, cache.values + at, self.place(start));
            let steps = (0, cache.positions_max * cache.padded, cache.padded);
            return self.attend_exact(qkv, keys, values, 1, rows, heads, place, steps, out);
        }
        if rows * (n_heads / n_kv_heads) <= SPLIT_QUERIES {
            return self.attend_split(qkv, rows, start, 0, heads, cache, layer, out);
        }
        let qkv = qkv.over(rows * heads.qkv(), "qkv");
        let out = out.over(rows * n_heads * head_dim, "out");
        let at = layer as u64 * cache.layer_bytes;
        let (keys, values, pitch) = (cache.keys + at, cache.values + at, cache.positions_max);
        self.attention(qkv, keys, values, 1, rows, heads, pitch, size(start), out);
    }

    fn attend_next(
        &mut self,
        qkv: &mut Buf,
        rows: usize,
        start: usize,
        theta: f32,
        heads: Heads,
        cache: &mut Cache,
        layer: usize,
        out: &mut Buf,
    ) {
        heads.assert_fit(start, rows, cache.heads, cache.positions_max);
        if rows == 1 && cache.entry == 2 && heads.n_heads / heads.n_kv_heads <= SPLIT_QUERIES {
            self.rotate_by(theta, heads.head_dim, cache);
            return self.attend_split(qkv, rows, start, cache.frequency, heads, cache, layer, out);
        }
        self.rope_store(qkv, rows, start, theta, heads, cache, layer);
        self.attend_cached(qkv, rows, start, heads, cache, layer, out);
    }

    fn repeat(&mut self, token: u32, position: usize, step: &mut dyn FnMut(&mut Self)) {
        self.settle();
        let place = u32::try_from(position).expect("positions are checked to stay below those of the cache");
        self.device.upload(&[token, place], self.step);
        if self.device.is_lost() {
            return;
        }
        if self.graph.is_none() {
            self.recording = Some(Recording { token, position });
            let before = self.device.launches.load(Relaxed);
            if self.device.begin_recording() {
                step(self);
                self.settle();
                self.graph = self.device.end_recording();
            }
            self.graph_launches = self.device.launches.swap(before, Relaxed) - before;
            self.recording = None;
        }
        if let Some(graph) = &self.graph {
            self.device.note("a recorded step", graph.launch());
            self.device.launches.fetch_add(self.graph_launches, Relaxed);
        }
    }

    fn unfold_patches(&mut self, pixels: &Buf, grid: Grid, patch: usize, out: &mut Buf) {
        assert_eq!(grid.channels, 3, "pictures are RGB");
        let x = pixels.over(grid.rows() * 3, "the picture");
        let inside = grid.frames * (grid.height / patch) * (grid.width / patch) * 3 * patch * patch;
        let out = out.over(inside, "out");
        let (blocks, count) = Cuda::each(inside);
        self.op().unfold_patches(blocks, x, out, size(grid.height), size(grid.width), size(patch), count);
    }

    fn unfold_rows(&mut self, x: &Buf, rows: usize, cols: usize, stride: usize, out: &mut Buf) {
        let written = rows.div_ceil(stride) * 3 * cols;
        let (x, out) = (x.over(rows * cols, "x"), out.over(written, "out"));
        let (blocks, count) = Cuda::each(written);
        self.op().unfold_rows(blocks, x, out, size(rows), size(cols), size(stride), count);
    }

    fn unfold_time(&mut self, x: &Buf, grid: Grid, out: &mut Buf) {
        let Grid { frames, height, width, channels } = grid;
        let written = frames * (height / 2) * (width / 2) * 8 * channels;
        let (x, out) = (x.over(grid.rows() * channels, "x"), out.over(written, "out"));
        let (blocks, count) = Cuda::each(written);
        self.op().unfold_time(blocks, x, out, size(height), size(width), size(channels), count);
    }

    fn depthwise(&mut self, x: &Buf, grid: Grid, w: &Buf, out: &mut Buf) {
        let Grid { height, width, channels, .. } = grid;
        let values = grid.rows() * channels;
        let (x, w, out) = (x.over(values, "x"), w.over(9 * channels, "the taps"), out.over(values, "out"));
        let (blocks, count) = Cuda::each(values);
        self.op().depthwise(blocks, x, w, out, size(height), size(width), size(channels), count);
    }

    fn squeeze(&mut self, x: &Buf, grid: Grid, out: &mut Buf) {
        self.pool_rows(x, grid.rows(), grid.channels, grid.height * grid.width, out);
    }

    fn excite(&mut self, x: &mut Buf, grid: Grid, s: &Buf) {
        let values = grid.rows() * grid.channels;
        let (x, s) = (x.over(values, "x"), s.over(grid.frames * grid.channels, "the gates"));
        let (blocks, count) = Cuda::each(values);
        self.op().excite(blocks, x, s, size(grid.height * grid.width), size(grid.channels), count);
    }

    fn halve(&mut self, x: &Buf, grid: Grid, out: &mut Buf) {
        let Grid { height, width, channels, .. } = grid;
        assert!(height % 2 == 0 && width % 2 == 0, "a picture of {height} x {width} cannot be halved");
        let values = grid.rows() * channels;
        let (x, out) = (x.over(values, "x"), out.over(values / 4, "out"));
        let (blocks, count) = Cuda::each(values / 4);
        self.op().halve(blocks, x, out, size(height), size(width), size(channels), count);
    }

    fn pool_rows(&mut self, x: &Buf, rows: usize, cols: usize, group: usize, out: &mut Buf) {
        let groups = rows / group;
        let (x, out) = (x.over(rows * cols, "x"), out.over(groups * cols, "out"));
        self.op().pool_rows((cols.div_ceil(64), groups, 1), x, out, size(cols), size(group));
    }

    fn add(&mut self, a: &Buf, b: &Buf, len: usize, act: Act, out: &mut Buf) {
        let (a, out) = (a.over(len, "a"), out.over(len, "out"));
        let (blocks, count) = Cuda::each(len);
        self.op().add(blocks, a, b.at, out, act_number(act), b.len as i64, count);
    }

    fn mix(&mut self, parts: &[(&Buf, f32)], len: usize, out: &mut Buf) {
        let (out, (blocks, count)) = (out.over(len, "out"), Cuda::each(len));
        for (i, (part, weight)) in parts.iter().enumerate() {
            self.op().mix(blocks, part.over(len, "a part"), *weight, out, i32::from(i == 0), count);
        }
    }

    fn highest(&mut self, values: &Buf, len: usize, penalties: &mut Buf, out: &mut Buf) {
        let (values, penalties) = (values.over(len, "the values"), penalties.over(len + 1, "the penalties"));
        let (parts, count) = (self.parts, len.div_ceil(1024).clamp(1, PARTS_MAX));
        let device = self.op();
        device.highest_parts((count, 1, 1), values, penalties, parts, size(len));
        device.highest_join((1, 1, 1), parts, penalties, out.over(1, "out"), size(count), size(len));
    }

    fn log_likelihoods(&mut self, values: &Buf, len: usize, picks: &[(u32, u32)], out: &mut Buf) {
        let rows = picks.iter().map(|(row, _)| *row as usize + 1).max().unwrap_or(0);
        let (values, mut out) = (values.over(rows * len, "the values"), out.over(picks.len(), "out"));
        assert!(picks.iter().all(|(_, place)| (*place as usize) < len), "a place beyond {len} values");
        let (ids, most) = (self.ids, self.ids_max / 2);
        let device = self.op();
        for some in picks.chunks(most) {
            let words: Vec<u32> = some.iter().flat_map(|(row, place)| [*row, *place]).collect();
            device.upload(&words, ids);
            device.likelihood((some.len(), 1, 1), values, ids, out, size(len));
            out += 4 * some.len() as u64;
        }
    }
}
