//! The judge: every op as plain loops over the packed formats, one thread, written to be read.
//!
//! Activations are f32; every sum is taken in f64 and rounded once when it is stored. Weights are dequantised exactly as the
//! block formats define them (`d * q` rounded to f32). Keys and values are kept in f32.
//! Every other backend must agree with this one; `tests/ops.rs` holds this one to answers of its own.

use crate::{
    backend::{
        Act, Backend, Grid, Heads, Unrotated,
        format::{highest, rope_angle, stacked, unpack_row},
    },
    bundle::{Kind, Tensor},
};
use anyhow::Result;
use std::ops::Range;

/// The reference device.
#[derive(Debug, Default)]
pub struct Scalar;

/// Rows of packed weights, part under part.
pub struct Matrix {
    kind: Kind,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
}

/// Keys and values, `(layer, position, kv head, head_dim)`.
pub struct Cache {
    heads: Heads,
    positions_max: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Rows of `k | v`, by layer.
pub struct Kept {
    heads: Heads,
    rows: usize,
    layers: Vec<Vec<f32>>,
}

/// Abramowitz and Stegun 7.1.6 (series) below 3, continued fraction above; good to f64 rounding times ten.
pub fn erf(x: f64) -> f64 {
    let z = x.abs();
    let y = if z < 3.0 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > 1e-18 * sum && term > 0.0 {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp() * sum
    } else {
        let tail = (1..=60).rev().fold(z, |f, k| z + f64::from(k) / 2.0 / f);
        1.0 - (-z * z).exp() / (std::f64::consts::PI.sqrt() * tail)
    };
    if x.is_nan() { x } else { y.copysign(x) }
}

pub fn activate(act: Act, x: f64) -> f64 {
    match act {
        Act::None => x,
        Act::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Act::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Act::Silu => x / (1.0 + (-x).exp()),
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 =
        a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            lanes[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    lanes.iter().sum::<f64>() + tail
}

impl Matrix {
    fn row(&self, r: usize, out: &mut [f32]) {
        let bytes = self.kind.row_bytes(self.cols);
        unpack_row(self.kind, &self.data[r * bytes..][..bytes], out);
    }

    /// Calls `each(row of x, output, sum)` for the product `x W^T`.
    fn product(&self, x: &[f32], rows: usize, mut each: impl FnMut(usize, usize, f64)) {
        assert!(x.len() >= rows * self.cols, "x holds {} values, {rows} x {} needed", x.len(), self.cols);
        let mut w = vec![0f32; self.cols];
        for n in 0..self.rows {
            self.row(n, &mut w);
            for m in 0..rows {
                each(m, n, dot(&x[m * self.cols..][..self.cols], &w));
            }
        }
    }
}

/// `out = softmax(q k^T scale) v` for one query over the keys `0 .. n`.
fn attend_one<'a>(
    q: &[f32],
    n: usize,
    key: impl Fn(usize) -> &'a [f32],
    value: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
) {
    let scale = 1.0 / (q.len() as f64).sqrt();
    let scores: Vec<f64> = (0..n).map(|j| dot(q, key(j)) * scale).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    for (i, o) in out.iter_mut().enumerate() {
        let mixed: f64 = weights.iter().enumerate().map(|(j, w)| w * f64::from(value(j)[i])).sum();
        *o = (mixed / sum) as f32;
    }
}

impl Cache {
    fn at(&self, layer: usize, position: usize, head: usize) -> usize {
        let Heads { n_kv_heads, head_dim, .. } = self.heads;
        ((layer * self.positions_max + position) * n_kv_heads + head) * head_dim
    }
}

impl Backend for Scalar {
    type Buf = Vec<f32>;
    type Matrix = Matrix;
    type Cache = Cache;
    type Kept = Kept;

    fn describe(&self) -> String {
        "cpu, scalar reference, 1 thread".into()
    }

    fn alloc(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Matrix> {
        let (kind, cols) = stacked(parts)?;
        parts.iter().try_for_each(Tensor::check)?;
        let data = parts.iter().flat_map(|p| p.data).copied().collect();
        Ok(Matrix { kind, rows: parts.iter().map(|p| p.rows).sum(), cols, data })
    }

    fn cache(&self, layers: usize, heads: Heads, positions_max: usize) -> Result<Cache> {
        let len = layers * positions_max * heads.n_kv_heads * heads.head_dim;
        Ok(Cache { heads, positions_max, keys: vec![0.0; len], values: vec![0.0; len] })
    }

    fn write(&mut self, src: &[f32], dst: &mut Vec<f32>, at: usize) {
        dst[at..at + src.len()].copy_from_slice(src);
    }

    fn read(&mut self, src: &Vec<f32>, at: usize, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(&src[at..at + dst.len()]);
        Ok(())
    }

    fn move_cache(&mut self, from: &mut Cache, to: &mut Cache) {
        std::mem::swap(from, to);
    }

    fn copy_positions(&mut self, from: &Cache, to: &mut Cache, positions: Range<usize>) {
        let width = from.heads.n_kv_heads * from.heads.head_dim;
        let layers = from.keys.len() / (from.positions_max * width);
        for layer in 0..layers {
            let at = |cache: &Cache| (layer * cache.positions_max + positions.start) * width;
            let (source, target, len) = (at(from), at(to), positions.len() * width);
            to.keys[target..target + len].copy_from_slice(&from.keys[source..source + len]);
            to.values[target..target + len].copy_from_slice(&from.values[source..source + len]);
        }
    }

    fn copy(&mut self, src: &Vec<f32>, src_at: usize, dst: &mut Vec<f32>, dst_at: usize, len: usize) {
        dst[dst_at..dst_at + len].copy_from_slice(&src[src_at..src_at + len]);
    }

    fn linear(
        &mut self,
        x: &Vec<f32>,
        rows: usize,
        w: &Matrix,
        bias: Option<&Vec<f32>>,
        act: Act,
        out: &mut Vec<f32>,
    ) {
        w.product(x, rows, |m, n, sum| {
            out[m * w.rows + n] = activate(act, sum + bias.map_or(0.0, |b| f64::from(b[n]))) as f32;
        });
    }

    fn linear_add(
        &mut self,
        x: &Vec<f32>,
        rows: usize,
        w: &Matrix,
        bias: Option<&Vec<f32>>,
        out: &mut Vec<f32>,
    ) {
        w.product(x, rows, |m, n, sum| {
            let o = &mut out[m * w.rows + n];
            *o = (f64::from(*o) + sum + bias.map_or(0.0, |b| f64::from(b[n]))) as f32;
        });
    }

    fn linear_gated(&mut self, x: &Vec<f32>, rows: usize, w: &Matrix, out: &mut Vec<f32>) {
        assert!(w.rows.is_multiple_of(2), "gate and up need as many rows each, not {} in all", w.rows);
        let cols = w.rows / 2;
        w.product(x, rows, |m, n, sum| {
            if n < cols {
                out[m * cols + n] = activate(Act::Silu, sum) as f32;
            } else {
                let o = &mut out[m * cols + n - cols];
                *o = (f64::from(*o) * sum) as f32;
            }
        });
    }

    fn embed(&mut self, ids: &[u32], w: &Matrix, out: &mut Vec<f32>, at: usize) {
        for (i, &id) in ids.iter().enumerate() {
            assert!((id as usize) < w.rows, "token {id} of a vocabulary of {}", w.rows);
            w.row(id as usize, &mut out[(at + i) * w.cols..][..w.cols]);
        }
    }

    fn layer_norm(
        &mut self,
        x: &Vec<f32>,
        rows: usize,
        gain: &Vec<f32>,
        bias: &Vec<f32>,
        eps: f32,
        act: Act,
        out: &mut Vec<f32>,
    ) {
        let cols = gain.len();
        for r in 0..rows {
            let x = &x[r * cols..][..cols];
            let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
            let var = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / cols as f64;
            let scale = 1.0 / (var + f64::from(eps)).sqrt();
            for c in 0..cols {
                let y = (f64::from(x[c]) - mean) * scale * f64::from(gain[c]) + f64::from(bias[c]);
                out[r * cols + c] = activate(act, y) as f32;
            }
        }
    }

    fn rms_norm(&mut self, x: &Vec<f32>, rows: usize, gain: &Vec<f32>, eps: f32, out: &mut Vec<f32>) {
        let cols = gain.len();
        for r in 0..rows {
            let x = &x[r * cols..][..cols];
            let power = dot(x, x) / cols as f64 + f64::from(eps);
            // Infinity would divide the row to zeros.
            let scale = if power.is_finite() { 1.0 / power.sqrt() } else { f64::NAN };
            for c in 0..cols {
                out[r * cols + c] = (f64::from(x[c]) * scale * f64::from(gain[c])) as f32;
            }
        }
    }

    fn attend(&mut self, qkv: &Vec<f32>, batch: usize, rows: usize, heads: Heads, out: &mut Vec<f32>) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        for b in 0..batch {
            for r in 0..rows {
                for h in 0..n_heads {
                    let row = |r: usize, head: usize| {
                        &qkv[(b * rows + r) * heads.qkv() + head * head_dim..][..head_dim]
                    };
                    let kv = h / (n_heads / n_kv_heads);
                    attend_one(
                        row(r, h),
                        rows,
                        |j| row(j, n_heads + kv),
                        |j| row(j, n_heads + n_kv_heads + kv),
                        &mut out[((b * rows + r) * n_heads + h) * head_dim..][..head_dim],
                    );
                }
            }
        }
    }

    fn kept(&self, layers: usize, heads: Heads, rows: usize) -> Result<Kept> {
        let width = 2 * heads.n_kv_heads * heads.head_dim;
        Ok(Kept { heads, rows, layers: vec![vec![0.0; rows * width]; layers] })
    }

    fn keep(&mut self, qkv: &Vec<f32>, kept: &mut Kept, layer: usize) {
        let Heads { n_heads, n_kv_heads, head_dim } = kept.heads;
        let width = 2 * n_kv_heads * head_dim;
        let rows = qkv.chunks_exact(kept.heads.qkv()).take(kept.rows);
        for (to, row) in kept.layers[layer].chunks_exact_mut(width).zip(rows) {
            to.copy_from_slice(&row[n_heads * head_dim..]);
        }
    }

    fn attend_beside(&mut self, qkv: &Vec<f32>, rows: usize, kept: &Kept, layer: usize, out: &mut Vec<f32>) {
        let Heads { n_heads, n_kv_heads, head_dim } = kept.heads;
        assert!(rows.is_multiple_of(16) && rows <= kept.rows, "{rows} rows beside {}", kept.rows);
        let (width, rest) = (2 * n_kv_heads * head_dim, &kept.layers[layer]);
        for (r, h) in (0..rows).flat_map(|r| (0..n_heads).map(move |h| (r, h))) {
            let own = |r: usize, head: usize| &qkv[r * kept.heads.qkv() + head * head_dim..][..head_dim];
            let row = |j: usize, head: usize| match j < rows {
                true => own(j, n_heads + head),
                false => &rest[j * width + head * head_dim..][..head_dim],
            };
            let kv = h / (n_heads / n_kv_heads);
            let out = &mut out[(r * n_heads + h) * head_dim..][..head_dim];
            attend_one(own(r, h), kept.rows, |j| row(j, kv), |j| row(j, n_kv_heads + kv), out);
        }
    }

    fn rope_store(
        &mut self,
        qkv: &mut Vec<f32>,
        rows: usize,
        start: usize,
        theta: f32,
        heads: Heads,
        cache: &mut Cache,
        layer: usize,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        heads.assert_fit(start, rows, cache.heads, cache.positions_max);
        for r in 0..rows {
            let rotated = &mut qkv[r * heads.qkv()..][..(n_heads + n_kv_heads) * head_dim];
            for head in rotated.chunks_exact_mut(head_dim) {
                for i in 0..head_dim / 2 {
                    let (sin, cos) = f64::from(rope_angle(start + r, i, head_dim, theta)).sin_cos();
                    let (a, b) = (f64::from(head[i]), f64::from(head[i + head_dim / 2]));
                    head[i] = (a * cos - b * sin) as f32;
                    head[i + head_dim / 2] = (b * cos + a * sin) as f32;
                }
            }
        }
        self.store(qkv, rows, start, heads, cache, layer);
    }

    fn attend_cached(
        &mut self,
        qkv: &Vec<f32>,
        rows: usize,
        start: usize,
        heads: Heads,
        cache: &Cache,
        layer: usize,
        out: &mut Vec<f32>,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        heads.assert_fit(start, rows, cache.heads, cache.positions_max);
        for r in 0..rows {
            for h in 0..n_heads {
                let kv = h / (n_heads / n_kv_heads);
                attend_one(
                    &qkv[r * heads.qkv() + h * head_dim..][..head_dim],
                    start + r + 1,
                    |j| &cache.keys[cache.at(layer, j, kv)..][..head_dim],
                    |j| &cache.values[cache.at(layer, j, kv)..][..head_dim],
                    &mut out[(r * n_heads + h) * head_dim..][..head_dim],
                );
            }
        }
    }

    fn unfold_patches(&mut self, pixels: &Vec<f32>, grid: Grid, patch: usize, out: &mut Vec<f32>) {
        assert_eq!(grid.channels, 3, "pictures are RGB");
        let (across, down) = (grid.width / patch, grid.height / patch);
        let mut at = 0;
        for f in 0..grid.frames {
            for (py, px) in (0..down).flat_map(|py| (0..across).map(move |px| (py, px))) {
                for (c, y) in (0..3).flat_map(|c| (0..patch).map(move |y| (c, y))) {
                    let from = ((f * 3 + c) * grid.height + py * patch + y) * grid.width + px * patch;
                    out[at..at + patch].copy_from_slice(&pixels[from..from + patch]);
                    at += patch;
                }
            }
        }
    }

    fn unfold_rows(&mut self, x: &Vec<f32>, rows: usize, cols: usize, stride: usize, out: &mut Vec<f32>) {
        for r in 0..rows.div_ceil(stride) {
            for tap in 0..3 {
                let to = &mut out[(r * 3 + tap) * cols..][..cols];
                match (r * stride + tap).checked_sub(1).filter(|from| *from < rows) {
                    Some(from) => to.copy_from_slice(&x[from * cols..][..cols]),
                    None => to.fill(0.0),
                }
            }
        }
    }

    fn unfold_time(&mut self, x: &Vec<f32>, grid: Grid, out: &mut Vec<f32>) {
        let Grid { frames, height, width, channels } = grid;
        let mut at = 0;
        for t in 0..frames {
            for (py, px) in (0..height / 2).flat_map(|py| (0..width / 2).map(move |px| (py, px))) {
                for (past, y, x_) in
                    [1, 0].into_iter().flat_map(|p| [(p, 0, 0), (p, 0, 1), (p, 1, 0), (p, 1, 1)])
                {
                    let to = &mut out[at..at + channels];
                    match t.checked_sub(past) {
                        Some(t) => {
                            let from = (t * height + py * 2 + y) * width + px * 2 + x_;
                            to.copy_from_slice(&x[from * channels..][..channels]);
                        }
                        None => to.fill(0.0),
                    }
                    at += channels;
                }
            }
        }
    }

    fn depthwise(&mut self, x: &Vec<f32>, grid: Grid, w: &Vec<f32>, out: &mut Vec<f32>) {
        let Grid { frames, height, width, channels } = grid;
        for f in 0..frames {
            for (y, x_) in (0..height).flat_map(|y| (0..width).map(move |x_| (y, x_))) {
                for c in 0..channels {
                    let mut sum = 0f64;
                    for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                        let (sy, sx) = (y + dy, x_ + dx);
                        if (1..=height).contains(&sy) && (1..=width).contains(&sx) {
                            let pixel = (f * height + sy - 1) * width + sx - 1;
                            sum += f64::from(x[pixel * channels + c])
                                * f64::from(w[(dy * 3 + dx) * channels + c]);
                        }
                    }
                    out[((f * height + y) * width + x_) * channels + c] = sum as f32;
                }
            }
        }
    }

    fn squeeze(&mut self, x: &Vec<f32>, grid: Grid, out: &mut Vec<f32>) {
        let pixels = grid.height * grid.width;
        self.pool_rows(x, grid.rows(), grid.channels, pixels, out);
    }

    fn excite(&mut self, x: &mut Vec<f32>, grid: Grid, s: &Vec<f32>) {
        let (pixels, channels) = (grid.height * grid.width, grid.channels);
        for r in 0..grid.rows() {
            for c in 0..channels {
                let gate = 1.0 / (1.0 + (-f64::from(s[r / pixels * channels + c])).exp());
                let v = &mut x[r * channels + c];
                *v = (f64::from(*v) * gate) as f32;
            }
        }
    }

    fn halve(&mut self, x: &Vec<f32>, grid: Grid, out: &mut Vec<f32>) {
        let Grid { frames, height, width, channels } = grid;
        assert!(height % 2 == 0 && width % 2 == 0, "a picture of {height} x {width} cannot be halved");
        for f in 0..frames {
            for (y, x_) in (0..height / 2).flat_map(|y| (0..width / 2).map(move |x_| (y, x_))) {
                for c in 0..channels {
                    let at = |dy, dx| {
                        f64::from(x[((f * height + y * 2 + dy) * width + x_ * 2 + dx) * channels + c])
                    };
                    let mean = (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0;
                    out[((f * height / 2 + y) * (width / 2) + x_) * channels + c] = mean as f32;
                }
            }
        }
    }

    fn pool_rows(&mut self, x: &Vec<f32>, rows: usize, cols: usize, group: usize, out: &mut Vec<f32>) {
        for g in 0..rows / group {
            for c in 0..cols {
                let sum: f64 = (0..group).map(|r| f64::from(x[(g * group + r) * cols + c])).sum();
                out[g * cols + c] = (sum / group as f64) as f32;
            }
        }
    }

    fn add(&mut self, a: &Vec<f32>, b: &Vec<f32>, len: usize, act: Act, out: &mut Vec<f32>) {
        for i in 0..len {
            out[i] = activate(act, f64::from(a[i]) + f64::from(b[i % b.len()])) as f32;
        }
    }

    fn mix(&mut self, parts: &[(&Vec<f32>, f32)], len: usize, out: &mut Vec<f32>) {
        for i in 0..len {
            let sum: f64 = parts.iter().map(|(part, weight)| f64::from(*weight) * f64::from(part[i])).sum();
            out[i] = sum as f32;
        }
    }

    fn highest(&mut self, values: &Vec<f32>, len: usize, penalties: &mut Vec<f32>, out: &mut Vec<f32>) {
        let found = highest(&values[..len], &penalties[..len]);
        if let Some(place) = found {
            penalties[place] = penalties[len];
        }
        out[0] = found.unwrap_or(len) as f32;
    }

    fn log_likelihoods(&mut self, values: &Vec<f32>, len: usize, picks: &[(u32, u32)], out: &mut Vec<f32>) {
        for ((row, place), out) in picks.iter().zip(out) {
            let row = &values[*row as usize * len..][..len];
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(*v - top).exp() + f64::from(*v * 0.0)).sum();
            *out = (f64::from(row[*place as usize]) - f64::from(top) - sum.ln()) as f32;
        }
    }
}

impl Unrotated for Scalar {
    fn store(
        &mut self,
        qkv: &Vec<f32>,
        rows: usize,
        start: usize,
        heads: Heads,
        cache: &mut Cache,
        layer: usize,
    ) {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        heads.assert_stores(start, rows, cache.heads, cache.positions_max);
        let len = n_kv_heads * head_dim;
        for (r, row) in qkv.chunks_exact(heads.qkv()).take(rows).enumerate() {
            let (keys, values) = row[n_heads * head_dim..].split_at(len);
            let at = cache.at(layer, start + r, 0);
            cache.keys[at..at + len].copy_from_slice(keys);
            cache.values[at..at + len].copy_from_slice(values);
        }
    }
}
