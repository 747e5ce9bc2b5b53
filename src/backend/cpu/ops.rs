//! Every op of `Backend` on the CPU.

use super::{
    attention::Decode,
    cache::{Cache, Entry},
    device::{Cpu, Precision, ROWS, VALUES},
    lanes::PANEL,
    level::Facts,
    memory::{Buf, Out},
    packs::{Kept, KeySource, PackKeys},
    panels::Matrix,
    product::Then,
    rows::{Elements, Highest, LogSum, Means, Taps},
};
use crate::{
    backend::{Act, Backend, Grid, Halt, Heads, Unrotated, format::highest},
    bundle::Tensor,
};
use anyhow::Result;
use std::ops::Range;

/// Rows up to which attention over the cache takes one row at a time.
const FEW_ROWS: usize = 4;

impl Backend for Cpu {
    type Buf = Buf;
    type Matrix = Matrix;
    type Cache = Cache;
    type Kept = Kept;

    fn describe(&self) -> String {
        format!("cpu, {}, {} threads, {:?} attention", self.level.name(), self.threads(), self.precision)
    }

    fn halt_when(&mut self, halt: Halt) {
        self.pool.halt_when(halt);
    }

    fn alloc(&self, len: usize) -> Result<Buf> {
        let buf = Buf::new(len)?;
        self.hand(0, 0, buf.bytes());
        Ok(buf)
    }

    fn vector(&self, values: &[f32]) -> Result<Buf> {
        let mut buf = Buf::new(values.len())?;
        self.hand(buf.bytes(), 0, 0);
        buf.first_mut(values.len()).copy_from_slice(values);
        Ok(buf)
    }

    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Matrix> {
        let offset = self.level.run(Facts).offset;
        let matrix = Matrix::new(parts, offset, &mut self.weights.borrow_mut(), &self.pool)?;
        self.hand(matrix.bytes(), 0, 0);
        Ok(matrix)
    }

    fn cache(&self, layers: usize, heads: Heads, positions_max: usize) -> Result<Cache> {
        let entry = if self.precision == Precision::F32 { Entry::F32 } else { Entry::F16 };
        let cache = Cache::new(layers, heads, positions_max, entry)?;
        self.hand(0, cache.bytes(), 0);
        Ok(cache)
    }

    fn write(&mut self, src: &[f32], dst: &mut Buf, at: usize) {
        dst.first_mut(at + src.len())[at..].copy_from_slice(src);
    }

    fn read(&mut self, src: &Buf, at: usize, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(&src.first(at + dst.len())[at..]);
        Ok(())
    }

    fn move_cache(&mut self, from: &mut Cache, to: &mut Cache) {
        to.exchange(from);
    }

    fn copy_positions(&mut self, from: &Cache, to: &mut Cache, positions: Range<usize>) {
        to.take_positions(from, positions);
    }

    fn copy(&mut self, src: &Buf, src_at: usize, dst: &mut Buf, dst_at: usize, len: usize) {
        dst.first_mut(dst_at + len)[dst_at..].copy_from_slice(&src.first(src_at + len)[src_at..]);
    }

    fn linear(&mut self, x: &Buf, rows: usize, w: &Matrix, bias: Option<&Buf>, act: Act, out: &mut Buf) {
        self.product(x, rows, w, bias, Then::Store(act), out.first_mut(rows * w.rows));
    }

    fn linear_add(&mut self, x: &Buf, rows: usize, w: &Matrix, bias: Option<&Buf>, out: &mut Buf) {
        self.product(x, rows, w, bias, Then::Add, out.first_mut(rows * w.rows));
    }

    fn linear_gated(&mut self, x: &Buf, rows: usize, w: &Matrix, out: &mut Buf) {
        let cols = w.rows / 2;
        assert!(w.rows.is_multiple_of(2), "gate and up need as many rows each, not {} in all", w.rows);
        if cols.is_multiple_of(PANEL) {
            return self.product(x, rows, w, None, Then::Gate, out.first_mut(rows * cols));
        }
        // The panels of gate and up do not line up: through a wide buffer.
        let mut wide =
            std::mem::replace(&mut self.wide, Buf::new(0).expect("an empty buffer needs no memory"));
        if wide.len() < rows * w.rows {
            wide = Buf::new(rows * w.rows).unwrap_or_else(|error| panic!("scratch memory: {error:#}"));
        }
        self.product(x, rows, w, None, Then::Store(Act::None), wide.first_mut(rows * w.rows));
        let out = out.first_mut(rows * cols);
        for (out, row) in out.chunks_exact_mut(cols).zip(wide.first(rows * w.rows).chunks_exact(2 * cols)) {
            let (gate, up) = row.split_at(cols);
            for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
                *o = g / (1.0 + (-g).exp()) * u;
            }
        }
        self.wide = wide;
    }

    fn embed(&mut self, ids: &[u32], w: &Matrix, out: &mut Buf, at: usize) {
        let out = &mut out.first_mut((at + ids.len()) * w.cols)[at * w.cols..];
        self.fill(out, w.cols, |i, row| w.row(ids[i] as usize, row));
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
        let len = rows * gain.len();
        let bias = Some(bias.first(gain.len()));
        self.norm(x.first(len), gain.first(gain.len()), bias, eps, act, out.first_mut(len));
    }

    fn rms_norm(&mut self, x: &Buf, rows: usize, gain: &Buf, eps: f32, out: &mut Buf) {
        let len = rows * gain.len();
        self.norm(x.first(len), gain.first(gain.len()), None, eps, Act::None, out.first_mut(len));
    }

    fn attend(&mut self, qkv: &Buf, batch: usize, rows: usize, heads: Heads, out: &mut Buf) {
        let qkv = qkv.first(batch * rows * heads.qkv());
        self.packs.shape(batch * heads.n_kv_heads, rows, heads.head_dim, self.bf16());
        self.pack(qkv, batch, rows, heads, &self.packs);
        let out = out.first_mut(batch * rows * heads.n_heads * heads.head_dim);
        self.attend_units(qkv, batch, rows, heads, None, None, out);
    }

    fn kept(&self, layers: usize, heads: Heads, rows: usize) -> Result<Kept> {
        let kept = Kept::new(layers, heads, rows, self.bf16())?;
        self.hand(0, kept.bytes(), 0);
        Ok(kept)
    }

    fn keep(&mut self, qkv: &Buf, kept: &mut Kept, layer: usize) {
        let Kept { heads, rows, .. } = *kept;
        self.pack(qkv.first(rows * heads.qkv()), 1, rows, heads, &kept.layers[layer]);
    }

    fn attend_beside(&mut self, qkv: &Buf, rows: usize, kept: &Kept, layer: usize, out: &mut Buf) {
        let heads = kept.heads;
        assert!(rows.is_multiple_of(PANEL) && rows <= kept.rows, "{rows} rows beside {}", kept.rows);
        let qkv = qkv.first(rows * heads.qkv());
        self.packs.shape(heads.n_kv_heads, rows, heads.head_dim, self.bf16());
        self.pack(qkv, 1, rows, heads, &self.packs);
        let out = out.first_mut(rows * heads.n_heads * heads.head_dim);
        self.attend_units(qkv, 1, rows, heads, None, Some(&kept.layers[layer]), out);
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
        cache.prepare(theta);
        let (cache, half) = (&*cache, head_dim / 2);
        let qkv = Out(qkv.first_mut(rows * heads.qkv()).as_mut_ptr());
        self.pool.run(rows.div_ceil(ROWS), |chunk, _| {
            for r in chunk * ROWS..rows.min((chunk + 1) * ROWS) {
                // SAFETY: row `r` lies in `qkv` and belongs to this chunk alone.
                let row = unsafe { std::slice::from_raw_parts_mut(qkv.at(r * heads.qkv()), heads.qkv()) };
                for head in row[..(n_heads + n_kv_heads) * head_dim].chunks_exact_mut(head_dim) {
                    let (low, high) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(cache.turns(start + r)) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
                // SAFETY: each position is stored by one chunk, and nobody reads the cache before the job is done.
                unsafe { cache.store(layer, start + r, &row[n_heads * head_dim..]) };
            }
        });
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
        let keys = start + rows;
        let (qkv, level) = (qkv.first(rows * heads.qkv()), self.level);
        let out = out.first_mut(rows * n_heads * head_dim);
        if rows <= FEW_ROWS {
            let group = n_heads / n_kv_heads;
            let each = group * keys.next_multiple_of(PANEL);
            self.scores.reserve(rows * n_kv_heads * cache.positions_max.next_multiple_of(PANEL) * group * 4);
            let (scores, out) = (Out(self.scores.ptr()), Out(out.as_mut_ptr()));
            self.pool.run(rows * n_kv_heads, |chunk, _| {
                let (r, head) = (chunk / n_kv_heads, chunk % n_kv_heads);
                level.run(Decode {
                    q: &qkv[r * heads.qkv() + head * group * head_dim..][..group * head_dim],
                    cache,
                    layer,
                    head,
                    keys: start + r + 1,
                    heads,
                    scores: scores.at(chunk * each),
                    out: Out(out.at((r * n_heads + head * group) * head_dim)),
                });
            });
            return;
        }
        self.packs.shape(n_kv_heads, keys, head_dim, self.bf16());
        let (packs, panels) = (&self.packs, keys.div_ceil(PANEL));
        self.pool.run(n_kv_heads * panels, |chunk, _| {
            let (unit, panel) = (chunk / panels, chunk % panels);
            let from = KeySource::Cache { cache, layer, head: unit };
            level.run(PackKeys { from, packs, unit, panel, head_dim });
        });
        self.attend_units(qkv, 1, rows, heads, Some(start), None, out);
    }

    fn unfold_patches(&mut self, pixels: &Buf, grid: Grid, patch: usize, out: &mut Buf) {
        assert_eq!(grid.channels, 3, "pictures are RGB");
        let (across, down) = (grid.width / patch, grid.height / patch);
        let cols = 3 * patch * patch;
        let pixels = pixels.first(grid.rows() * 3);
        let out = out.first_mut(grid.frames * down * across * cols);
        self.fill(out, cols, |row, out| {
            let (f, py, px) = (row / (down * across), row / across % down, row % across);
            for (line, out) in out.chunks_exact_mut(patch).enumerate() {
                let (c, y) = (line / patch, line % patch);
                let from = ((f * 3 + c) * grid.height + py * patch + y) * grid.width + px * patch;
                out.copy_from_slice(&pixels[from..from + patch]);
            }
        });
    }

    fn unfold_rows(&mut self, x: &Buf, rows: usize, cols: usize, stride: usize, out: &mut Buf) {
        let x = x.first(rows * cols);
        let out = out.first_mut(rows.div_ceil(stride) * 3 * cols);
        self.fill(out, cols, |i, out| {
            match (i / 3 * stride + i % 3).checked_sub(1).filter(|from| *from < rows) {
                Some(from) => out.copy_from_slice(&x[from * cols..][..cols]),
                None => out.fill(0.0),
            }
        });
    }

    fn unfold_time(&mut self, x: &Buf, grid: Grid, out: &mut Buf) {
        let Grid { frames, height, width, channels } = grid;
        let (down, across) = (height / 2, width / 2);
        let x = x.first(grid.rows() * channels);
        let out = out.first_mut(frames * down * across * 8 * channels);
        self.fill(out, channels, |i, out| {
            let (row, tap) = (i / 8, i % 8);
            let (t, py, px) = (row / (down * across), row / across % down, row % across);
            match (t + tap / 4).checked_sub(1) {
                Some(t) => {
                    let from = (t * height + py * 2 + tap / 2 % 2) * width + px * 2 + tap % 2;
                    out.copy_from_slice(&x[from * channels..][..channels]);
                }
                None => out.fill(0.0),
            }
        });
    }

    fn depthwise(&mut self, x: &Buf, grid: Grid, w: &Buf, out: &mut Buf) {
        let Grid { frames, height, width, channels } = grid;
        let (x, w) = (x.first(grid.rows() * channels), w.first(9 * channels));
        let out = Out(out.first_mut(grid.rows() * channels).as_mut_ptr());
        let level = self.level;
        self.pool.run(frames * height, |line, _| {
            let (f, y) = (line / height, line % height);
            for px in 0..width {
                let mut taps = [(&x[..0], &w[..0]); 9];
                let mut count = 0;
                for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                    let (sy, sx) = (y + dy, px + dx);
                    if (1..=height).contains(&sy) && (1..=width).contains(&sx) {
                        let pixel = (f * height + sy - 1) * width + sx - 1;
                        taps[count] =
                            (&x[pixel * channels..][..channels], &w[(dy * 3 + dx) * channels..][..channels]);
                        count += 1;
                    }
                }
                level.run(Taps { taps: &taps[..count], out: Out(out.at((line * width + px) * channels)) });
            }
        });
    }

    fn squeeze(&mut self, x: &Buf, grid: Grid, out: &mut Buf) {
        self.pool_rows(x, grid.rows(), grid.channels, grid.height * grid.width, out);
    }

    fn excite(&mut self, x: &mut Buf, grid: Grid, s: &Buf) {
        let (pixels, channels) = (grid.height * grid.width, grid.channels);
        let s = s.first(grid.frames * channels);
        let x = Out(x.first_mut(grid.rows() * channels).as_mut_ptr());
        let level = self.level;
        self.pool.run(grid.frames * grid.height, |line, _| {
            let s = &s[line / grid.height * channels..][..channels];
            for r in line * grid.width..(line + 1) * grid.width {
                debug_assert_eq!(r / pixels, line / grid.height);
                level.run(Elements::Excite { s, x: Out(x.at(r * channels)) });
            }
        });
    }

    fn halve(&mut self, x: &Buf, grid: Grid, out: &mut Buf) {
        let Grid { frames, height, width, channels } = grid;
        assert!(height % 2 == 0 && width % 2 == 0, "a picture of {height} x {width} cannot be halved");
        let x = x.first(grid.rows() * channels);
        let across = width / 2;
        let out = Out(out.first_mut(grid.rows() / 4 * channels).as_mut_ptr());
        let level = self.level;
        self.pool.run(frames * height / 2, |line, _| {
            for px in 0..across {
                level.run(Means {
                    x: &x[(line * 2 * width + px * 2) * channels..],
                    counts: [2, 2],
                    strides: [width * channels, channels],
                    cols: channels,
                    out: Out(out.at((line * across + px) * channels)),
                });
            }
        });
    }

    fn pool_rows(&mut self, x: &Buf, rows: usize, cols: usize, group: usize, out: &mut Buf) {
        let x = x.first(rows * cols);
        let out = Out(out.first_mut(rows / group * cols).as_mut_ptr());
        let level = self.level;
        self.pool.run(rows / group, |g, _| {
            level.run(Means {
                x: &x[g * group * cols..],
                counts: [group, 1],
                strides: [cols, 0],
                cols,
                out: Out(out.at(g * cols)),
            });
        });
    }

    fn add(&mut self, a: &Buf, b: &Buf, len: usize, act: Act, out: &mut Buf) {
        let (a, period) = (a.first(len), b.len().min(len).max(1));
        let b = b.first(b.len().min(len));
        let out = Out(out.first_mut(len).as_mut_ptr());
        let level = self.level;
        self.pool.run(len.div_ceil(VALUES), |chunk, _| {
            let (mut at, end) = (chunk * VALUES, len.min((chunk + 1) * VALUES));
            while at < end {
                let run = (end - at).min(period - at % period);
                let (a, b) = (&a[at..at + run], &b[at % period..][..run]);
                level.run(Elements::Add { a, b, act, out: Out(out.at(at)) });
                at += run;
            }
        });
    }

    fn mix(&mut self, parts: &[(&Buf, f32)], len: usize, out: &mut Buf) {
        let out = Out(out.first_mut(len).as_mut_ptr());
        let level = self.level;
        self.pool.run(len.div_ceil(VALUES), |chunk, _| {
            let (at, end) = (chunk * VALUES, len.min((chunk + 1) * VALUES));
            level.run(Elements::Mix { parts, at, len: end - at, out: Out(out.at(at)) });
        });
    }

    fn highest(&mut self, values: &Buf, len: usize, penalties: &mut Buf, out: &mut Buf) {
        let (values, penalties) = (values.first(len), penalties.first_mut(len + 1));
        let (level, own, parts) = (self.level, &penalties[..len], len.div_ceil(VALUES));
        self.scores.reserve(parts * 4);
        let tops = Out(self.scores.ptr());
        let part = |i: usize| i * VALUES..len.min((i + 1) * VALUES);
        self.pool.run(parts, |i, _| {
            // SAFETY: one value for each part, written by its chunk alone.
            unsafe {
                *tops.at(i) = level.run(Highest { values: &values[part(i)], penalties: &own[part(i)] })
            };
        });
        // SAFETY: as many as were written above.
        let tops = unsafe { std::slice::from_raw_parts(self.scores.ptr::<f32>(), parts) };
        let place = |i: usize| highest(&values[part(i)], &own[part(i)]).map(|at| at + i * VALUES);
        let found = match (0..parts).reduce(|best, i| if tops[i] > tops[best] { i } else { best }) {
            Some(best) if tops[best] > f32::NEG_INFINITY => place(best),
            // Nothing, or nothing but minus infinity.
            _ => (0..parts).find_map(place),
        };
        if let Some(place) = found {
            penalties[place] = penalties[len];
        }
        out.first_mut(1)[0] = found.unwrap_or(len) as f32;
    }

    fn log_likelihoods(&mut self, values: &Buf, len: usize, picks: &[(u32, u32)], out: &mut Buf) {
        let out = out.first_mut(picks.len());
        let (mut log_sum, mut of) = (f64::NAN, None);
        for ((row, place), out) in picks.iter().zip(out) {
            let all = &values.first((*row as usize + 1) * len)[*row as usize * len..];
            if of != Some(row) {
                (log_sum, of) = (self.log_sum(all), Some(row));
            }
            *out = (f64::from(all[*place as usize]) - log_sum) as f32;
        }
    }
}

impl Cpu {
    /// `log sum exp(values)`; NaN where one is not finite.
    fn log_sum(&mut self, values: &[f32]) -> f64 {
        let (level, parts) = (self.level, values.len().div_ceil(VALUES));
        self.scores.reserve(parts * 8);
        let own = Out(self.scores.ptr());
        self.pool.run(parts, |i, _| {
            let (top, sum) =
                level.run(LogSum { values: &values[i * VALUES..values.len().min((i + 1) * VALUES)] });
            // SAFETY: two values for each part, written by its chunk alone.
            unsafe { (*own.at(2 * i), *own.at(2 * i + 1)) = (top, sum) };
        });
        // SAFETY: as many as were written above.
        let sums = unsafe { std::slice::from_raw_parts(self.scores.ptr::<f32>(), 2 * parts) };
        let top = sums.iter().step_by(2).fold(f32::NEG_INFINITY, |top, t| top.max(*t));
        let scaled = sums.chunks_exact(2).map(|part| f64::from(part[1]) * f64::from(part[0] - top).exp());
        f64::from(top) + scaled.sum::<f64>().ln()
    }
}

impl Unrotated for Cpu {
    fn store(&mut self, qkv: &Buf, rows: usize, start: usize, heads: Heads, cache: &mut Cache, layer: usize) {
        heads.assert_stores(start, rows, cache.heads, cache.positions_max);
        let (qkv, cache) = (qkv.first(rows * heads.qkv()), &*cache);
        self.pool.run(rows.div_ceil(ROWS), |chunk, _| {
            for r in chunk * ROWS..rows.min((chunk + 1) * ROWS) {
                let row = &qkv[r * heads.qkv()..][..heads.qkv()];
                // SAFETY: each position is stored by one chunk, and nobody reads the cache before the job is done.
                unsafe { cache.store(layer, start + r, &row[heads.n_heads * heads.head_dim..]) };
            }
        });
    }
}
