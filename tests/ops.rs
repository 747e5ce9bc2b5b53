//! Every op of `Backend` against an f64 answer of its own, on every device and instruction set of this machine.
//!
//! Bounds. Sums: within `bound.sum` of the sum of magnitudes. Products of quantised weights on devices that quantise x: half a step
//! of each block of 32, `max |x| / 254`, times the magnitudes of the weights it meets; a worst case, so a wrong scale or sign cannot
//! hide. Attention: relative to the largest value. Moves of data: exact.
//! Non-finite: a row that holds NaN or infinity comes out without one finite number, and other rows come out bit for bit as before.

mod answers;

use answers::{
    Bound, Noise, act, agree, attention_rows, bell, largest, layer::Layer, product, read, tensor, turn,
    weights, wide,
};
use mien::{
    backend::{
        Act, Backend, Grid, Heads,
        cpu::{Cpu, Level, Precision, scalar::Scalar},
    },
    bundle::{Kind, Tensor},
};

fn cpus() -> Vec<(Cpu, Bound)> {
    let mut all = Vec::new();
    for level in Level::available() {
        for (precision, threads) in [(Precision::F32, 3), (Precision::F16, 2), (Precision::Int8, 1)] {
            let cpu = Cpu::with_level(threads, precision, level).unwrap();
            let name = cpu.describe();
            let attention = if precision == Precision::Int8 { 2e-2 } else { 1e-5 };
            let cached = match precision {
                Precision::F32 => 1e-5,
                Precision::F16 => 2e-3,
                Precision::Int8 => 2e-2,
            };
            all.push((
                cpu,
                Bound { name, int8_rows_max: usize::MAX, half: 0.0, sum: 4e-6, attention, cached },
            ));
        }
    }
    all
}

/// The first CUDA device, with every tensor in memory of its own so that an emulated device sees where each ends.
#[cfg(feature = "cuda")]
fn cuda(exact: bool) -> (mien::backend::cuda::Cuda, Bound) {
    use mien::backend::cuda::{Cuda, Options};
    let cuda = Cuda::with_options(Options { chunk_bytes: 0, exact, ..Options::default() }).unwrap();
    let name = format!("{}, exact {exact}", cuda.describe());
    // Two roundings to f16; those of attention are relative to the largest value.
    let attention = if exact { 1e-5 } else { 4e-3 };
    (cuda, Bound { name, int8_rows_max: 1, half: 1.0e-3, sum: 4e-6, attention, cached: attention })
}

/// Runs the block once for the reference, once for every level of the CPU and, where it is built in, once for CUDA.
macro_rules! on_every_device {
    (|$b:ident, $bound:ident| $body:block) => {{
        {
            let mut $b = Scalar;
            let $bound = Bound {
                name: $b.describe(),
                int8_rows_max: 0,
                half: 0.0,
                sum: 1e-7,
                attention: 1e-6,
                cached: 1e-6,
            };
            $body
        }
        for (mut $b, $bound) in cpus() {
            $body
        }
        #[cfg(feature = "cuda")]
        for exact in [false, true] {
            let (mut $b, $bound) = cuda(exact);
            $body
        }
    }};
}

const KINDS: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0];
const ACTS: [Act; 4] = [Act::None, Act::Gelu, Act::GeluTanh, Act::Silu];

/// (rows, outputs, cols): one row, few, odd, more than a tile, outputs that do not fill a panel. An interpreter gets two small ones.
fn sizes(kind: Kind) -> Vec<(usize, usize, usize)> {
    if cfg!(miri) {
        return vec![(1, 16, 32), (5, 19, 64)];
    }
    let mut sizes = vec![(1, 16, 32), (1, 35, 416), (3, 50, 96), (4, 1, 64), (13, 33, 160), (30, 100, 64)];
    if kind.block().0 == 1 {
        sizes.extend([(1, 5, 1), (2, 17, 7), (25, 48, 33)]);
    }
    sizes
}

#[test]
fn linear() {
    on_every_device!(|b, bound| {
        for (i, kind) in KINDS.into_iter().enumerate() {
            for (j, (rows, outputs, cols)) in sizes(kind).into_iter().enumerate() {
                let (bytes, w) = weights(kind, outputs, cols, 7 + i as u64 * 100 + j as u64);
                let mut noise = Noise(3);
                let (x, bias) = (noise.values(rows * cols), noise.values(outputs));
                let (xb, bb) = (b.vector(&x).unwrap(), b.vector(&bias).unwrap());
                // Two parts, as q | k | v are stacked.
                let cut = outputs / 3 * kind.row_bytes(cols);
                let m = b
                    .matrix(&[
                        tensor(kind, outputs / 3, cols, &bytes[..cut]),
                        tensor(kind, outputs - outputs / 3, cols, &bytes[cut..]),
                    ])
                    .unwrap();
                let a = ACTS[(i + j) % 4];
                let mut out = b.alloc(rows * outputs + 3).unwrap();
                let sums = product(&x, rows, &w, cols, kind, &bound);
                let what = format!("{kind:?} {rows}x{outputs}x{cols} {a:?}");

                b.linear(&xb, rows, &m, Some(&bb), a, &mut out);
                let want = sums.iter().enumerate().map(|(i, (sum, off))| {
                    let y = sum + f64::from(bias[i % outputs]);
                    (act(a, y), off * 1.2 + 1e-6 * (1.0 + y.abs()))
                });
                let got = read(&mut b, &out, rows * outputs + 3);
                agree(&format!("linear {what}"), &bound, &got[..rows * outputs], want);
                assert_eq!(got[rows * outputs..], [0.0; 3], "nothing beyond the rows is touched");

                b.linear(&xb, rows, &m, None, Act::None, &mut out);
                let got = read(&mut b, &out, rows * outputs);
                agree(&format!("linear without bias {what}"), &bound, &got, sums.iter().copied());

                let old = noise.values(rows * outputs);
                b.write(&old, &mut out, 0);
                b.linear_add(&xb, rows, &m, Some(&bb), &mut out);
                let want = sums.iter().enumerate().map(|(i, (sum, off))| {
                    let y = sum + f64::from(bias[i % outputs]) + f64::from(old[i]);
                    (y, off + 1e-6 * (1.0 + y.abs() + sum.abs()))
                });
                let got = read(&mut b, &out, rows * outputs);
                agree(&format!("linear_add {what}"), &bound, &got, want);
            }
        }
    });
}

#[test]
fn linear_gated() {
    on_every_device!(|b, bound| {
        for kind in KINDS {
            for (rows, outputs, cols) in [(1, 32, 64), (5, 48, 96), (14, 16, 32), (3, 21, 64), (1, 5, 32)] {
                let (gate_bytes, gate) = weights(kind, outputs, cols, 11);
                let (up_bytes, up) = weights(kind, outputs, cols, 12);
                let x = Noise(5).values(rows * cols);
                let xb = b.vector(&x).unwrap();
                let m = b
                    .matrix(&[
                        tensor(kind, outputs, cols, &gate_bytes),
                        tensor(kind, outputs, cols, &up_bytes),
                    ])
                    .unwrap();
                let mut out = b.alloc(rows * outputs).unwrap();
                b.linear_gated(&xb, rows, &m, &mut out);
                let gates = product(&x, rows, &gate, cols, kind, &bound);
                let ups = product(&x, rows, &up, cols, kind, &bound);
                let want = gates.iter().zip(&ups).map(|((g, g_off), (u, u_off))| {
                    let s = act(Act::Silu, *g);
                    let off = g_off * 1.2 * (u.abs() + u_off) + s.abs() * u_off;
                    (s * u, off + 1e-6 * (s * u).abs() + 1e-9)
                });
                let got = read(&mut b, &out, rows * outputs);
                agree(&format!("linear_gated {kind:?} {rows}x{outputs}x{cols}"), &bound, &got, want);
            }
        }
    });
}

#[test]
fn embed_is_exact() {
    on_every_device!(|b, bound| {
        for kind in KINDS {
            let (rows, cols) = (37, 64);
            let (bytes, w) = weights(kind, rows, cols, 21);
            let m = b.matrix(&[tensor(kind, rows, cols, &bytes)]).unwrap();
            let ids = [36u32, 0, 5, 5, 17];
            let mut out = b.alloc(7 * cols).unwrap();
            b.embed(&ids, &m, &mut out, 2);
            let got = read(&mut b, &out, 7 * cols);
            assert_eq!(got[..2 * cols], vec![0.0; 2 * cols], "rows before `at` stay");
            for (i, id) in ids.iter().enumerate() {
                let want: Vec<f32> = w[*id as usize * cols..][..cols].iter().map(|v| *v as f32).collect();
                assert_eq!(got[(2 + i) * cols..][..cols], want, "embed {kind:?} on {}", bound.name);
            }
        }
    });
}

#[test]
fn norms() {
    on_every_device!(|b, bound| {
        for (rows, cols) in [(1, 8), (3, 70), (20, 129), (9, 896)] {
            let mut noise = Noise(31);
            let mut x = noise.values(rows * cols);
            x.iter_mut().for_each(|v| *v += 3.0);
            let (gain, bias) = (noise.values(cols), noise.values(cols));
            let (xb, gb, bb) = (b.vector(&x).unwrap(), b.vector(&gain).unwrap(), b.vector(&bias).unwrap());
            let mut out = b.alloc(rows * cols).unwrap();
            for a in ACTS {
                b.layer_norm(&xb, rows, &gb, &bb, 1e-5, a, &mut out);
                let (gain, bias) = (&gain, &bias);
                let want = x.chunks(cols).flat_map(|x| {
                    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
                    let var = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / cols as f64;
                    (0..cols).map(move |c| {
                        let y = (f64::from(x[c]) - mean) / (var + 1e-5).sqrt() * f64::from(gain[c])
                            + f64::from(bias[c]);
                        (act(a, y), 1e-5 * (1.0 + y.abs() + f64::from(gain[c].abs())))
                    })
                });
                let got = read(&mut b, &out, rows * cols);
                agree(&format!("layer_norm {rows}x{cols} {a:?}"), &bound, &got, want);
            }
            b.rms_norm(&xb, rows, &gb, 1e-6, &mut out);
            let gain = &gain;
            let want = x.chunks(cols).flat_map(|x| {
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / cols as f64;
                (0..cols).map(move |c| {
                    let y = f64::from(x[c]) / (mean + 1e-6).sqrt() * f64::from(gain[c]);
                    (y, 2e-6 * y.abs() + 1e-12)
                })
            });
            let got = read(&mut b, &out, rows * cols);
            agree(&format!("rms_norm {rows}x{cols}"), &bound, &got, want);
        }
    });
}

#[test]
fn attend() {
    on_every_device!(|b, bound| {
        for (batch, rows, n_heads, n_kv_heads, head_dim) in
            [(1, 1, 1, 1, 8), (3, 7, 2, 2, 16), (2, 33, 4, 2, 64), (1, 300, 2, 1, 32), (2, 17, 3, 3, 6)]
        {
            if cfg!(miri) && rows > 7 {
                continue;
            }
            let heads = Heads { n_heads, n_kv_heads, head_dim };
            let qkv = bell(41, batch * rows * heads.qkv());
            let buf = b.vector(&qkv).unwrap();
            let mut out = b.alloc(batch * rows * n_heads * head_dim).unwrap();
            b.attend(&buf, batch, rows, heads, &mut out);
            let qkv = wide(&qkv);
            let runs = qkv.chunks(rows * heads.qkv());
            let want: Vec<f64> = runs.flat_map(|run| attention_rows(run, rows, heads, false)).collect();
            let off = bound.attention * largest(&qkv);
            let got = read(&mut b, &out, want.len());
            agree(
                &format!("attend {batch}x{rows} {heads:?}"),
                &bound,
                &got,
                want.into_iter().map(|w| (w, off)),
            );
        }
    });
}

#[test]
fn kept_keys_and_values_stand_in_for_rows() {
    on_every_device!(|b, bound| {
        for (rows, all, n_heads, n_kv_heads, head_dim) in
            [(16, 21, 2, 2, 8), (48, 300, 3, 3, 64), (288, 601, 2, 1, 16)]
        {
            if cfg!(miri) && all > 21 {
                continue;
            }
            let heads = Heads { n_heads, n_kv_heads, head_dim };
            let Ok(mut kept) = b.kept(2, heads, all) else {
                assert!(bound.name.contains("cuda"), "{} keeps nothing", bound.name);
                continue;
            };
            let (qkv, other) = (bell(43, all * heads.qkv()), bell(44, all * heads.qkv()));
            b.keep(&b.vector(&other).unwrap(), &mut kept, 0);
            b.keep(&b.vector(&qkv).unwrap(), &mut kept, 1);
            let width = n_heads * head_dim;
            let want = attention_rows(&wide(&qkv), all, heads, false);
            let off = bound.attention * largest(&wide(&qkv));
            let mut out = b.alloc(rows * width).unwrap();
            let own = b.vector(&qkv[..rows * heads.qkv()]).unwrap();
            b.attend_beside(&own, rows, &kept, 1, &mut out);
            let got = read(&mut b, &out, rows * width);
            let want = want[..rows * width].iter().map(|w| (*w, off));
            agree(&format!("attend_beside {rows} of {all} {heads:?}"), &bound, &got, want);
        }
    });
}

#[test]
fn cached_attention_in_steps_is_causal_attention_at_once() {
    on_every_device!(|b, bound| {
        for (n_heads, n_kv_heads, head_dim, rows) in
            [(14, 2, 64, 45), (4, 4, 16, 300), (9, 1, 8, 24), (2, 1, 12, 37), (9, 1, 4, 21)]
        {
            if cfg!(miri) && rows > 21 {
                continue;
            }
            let heads = Heads { n_heads, n_kv_heads, head_dim };
            let qkv = bell(51, rows * heads.qkv());
            let turned = turn(&qkv, heads, 10000.0);
            let want = attention_rows(&turned, rows, heads, true);
            // Angles are rounded to f32 before they turn: that is the second term.
            let (width, off) = (n_heads * head_dim, (bound.cached + 2e-5) * largest(&turned));
            for steps in [vec![rows], vec![17, 1, 2, rows - 20], vec![1; rows.min(20)]] {
                let mut cache = b.cache(3, heads, rows + 5).unwrap();
                let mut start = 0;
                for step in steps {
                    let part = &qkv[start * heads.qkv()..][..step * heads.qkv()];
                    let mut buf = b.vector(part).unwrap();
                    let mut out = b.alloc(step * width).unwrap();
                    for layer in [2, 0] {
                        b.write(part, &mut buf, 0);
                        b.rope_store(&mut buf, step, start, 10000.0, heads, &mut cache, layer);
                        b.attend_cached(&buf, step, start, heads, &cache, layer, &mut out);
                        let got = read(&mut b, &out, step * width);
                        let want = want[start * width..][..step * width].iter().map(|w| (*w, off));
                        agree(&format!("attend_cached {start}+{step} {heads:?}"), &bound, &got, want);
                    }
                    start += step;
                }
            }
        }
    });
}

#[test]
fn a_repeated_step_is_the_step() {
    on_every_device!(|b, bound| {
        let (mut plain, mut repeated) = (Layer::new(&b), Layer::new(&b));
        for position in 0..140 {
            let token = (position * 7 % 20) as u32;
            plain.run(&mut b, token, position, false);
            if position < 3 {
                repeated.run(&mut b, token, position, true);
            } else {
                b.repeat(token, position, &mut |b| repeated.run(b, token, position, true));
            }
            if position % 9 != 0 && position < 130 {
                continue;
            }
            let want = wide(&read(&mut b, &plain.x, 128));
            // A sum in another order may round a value to the next int8.
            let off = 1e-2 * largest(&want);
            let got = read(&mut b, &repeated.x, 128);
            agree(&format!("step {position}"), &bound, &got, want.into_iter().map(|w| (w, off)));
        }
    });
}

#[test]
fn rope_turns_q_in_place_and_leaves_v() {
    on_every_device!(|b, bound| {
        let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 64 };
        let start = 900;
        let qkv = bell(61, 1000 * heads.qkv());
        let turned = turn(&qkv, heads, 1e6);
        let at = start * heads.qkv();
        let mut buf = b.vector(&qkv[at..]).unwrap();
        let mut cache = b.cache(1, heads, 1000).unwrap();
        b.rope_store(&mut buf, 100, start, 1e6, heads, &mut cache, 0);
        let got = read(&mut b, &buf, 100 * heads.qkv());
        for (got, want) in got.chunks(heads.qkv()).zip(turned[at..].chunks(heads.qkv())) {
            // Angles up to 1000 rounded to f32 and values up to 6.
            agree("rope q", &bound, &got[..128], want[..128].iter().map(|w| (*w, 5e-4)));
            agree("rope v", &bound, &got[192..], want[192..].iter().map(|w| (*w, 0.0)));
        }
    });
}

#[test]
fn unfolds_move_values() {
    on_every_device!(|b, bound| {
        // Patches: channel, y, x inside; row-major outside.
        let grid = Grid { frames: 2, height: 6, width: 9, channels: 3 };
        let pixels: Vec<f32> = (0..grid.rows() * 3).map(|v| v as f32 + 1.0).collect();
        let x = b.vector(&pixels).unwrap();
        let mut out = b.alloc(grid.rows() * 3).unwrap();
        b.unfold_patches(&x, grid, 3, &mut out);
        for (i, got) in read(&mut b, &out, grid.rows() * 3).into_iter().enumerate() {
            let (row, c, y, x) = (i / 27, i / 9 % 3, i / 3 % 3, i % 3);
            let (f, py, px) = (row / 6, row / 3 % 2, row % 3);
            let want = pixels[((f * 3 + c) * 6 + py * 3 + y) * 9 + px * 3 + x];
            assert_eq!(got, want, "unfold_patches on {}: value {i}", bound.name);
        }

        for (rows, cols, stride) in [(5usize, 3, 1), (5, 3, 2), (6, 2, 2), (1, 4, 2)] {
            let values: Vec<f32> = (0..rows * cols).map(|v| v as f32 + 1.0).collect();
            let x = b.vector(&values).unwrap();
            let after = rows.div_ceil(stride);
            let mut out = b.alloc(after * 3 * cols).unwrap();
            b.unfold_rows(&x, rows, cols, stride, &mut out);
            for (i, got) in read(&mut b, &out, after * 3 * cols).into_iter().enumerate() {
                let (r, tap, c) = (i / cols / 3, i / cols % 3, i % cols);
                let from = (r * stride + tap) as isize - 1;
                let inside = from >= 0 && (from as usize) < rows;
                let want = if inside { values[from as usize * cols + c] } else { 0.0 };
                assert_eq!(got, want, "unfold_rows {rows}x{cols}/{stride} on {}", bound.name);
            }
        }

        let grid = Grid { frames: 3, height: 4, width: 6, channels: 5 };
        let values: Vec<f32> = (0..grid.rows() * 5).map(|v| v as f32 + 1.0).collect();
        let x = b.vector(&values).unwrap();
        let mut out = b.alloc(3 * 2 * 3 * 8 * 5).unwrap();
        b.unfold_time(&x, grid, &mut out);
        for (i, got) in read(&mut b, &out, 3 * 2 * 3 * 8 * 5).into_iter().enumerate() {
            let (c, tap, row) = (i % 5, i / 5 % 8, i / 40);
            let (t, y, x) = (row / 6, row / 3 % 2, row % 3);
            let (dt, dy, dx) = (tap / 4, tap / 2 % 2, tap % 2);
            let want = match (t + dt).checked_sub(1) {
                Some(t) => values[((t * 4 + y * 2 + dy) * 6 + x * 2 + dx) * 5 + c],
                None => 0.0,
            };
            assert_eq!(got, want, "unfold_time on {}: value {i}", bound.name);
        }
    });
}

#[test]
fn pictures() {
    on_every_device!(|b, bound| {
        for (frames, height, width, channels) in [(2, 4, 6, 37), (1, 2, 2, 16), (3, 14, 14, 40)] {
            let grid = Grid { frames, height, width, channels };
            let n = grid.rows() * channels;
            let mut noise = Noise(71);
            let (x, w, s) = (noise.values(n), noise.values(9 * channels), noise.values(frames * channels));
            let (xb, wb, sb) = (b.vector(&x).unwrap(), b.vector(&w).unwrap(), b.vector(&s).unwrap());
            let at = |f: usize, y: usize, px: usize, c: usize| {
                f64::from(x[((f * height + y) * width + px) * channels + c])
            };

            let mut out = b.alloc(n).unwrap();
            b.depthwise(&xb, grid, &wb, &mut out);
            let got = read(&mut b, &out, n);
            let want = (0..n).map(|i| {
                let (c, pixel) = (i % channels, i / channels);
                let (px, y, f) = (pixel % width, pixel / width % height, pixel / width / height);
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                    let (sy, sx) = ((y + dy).checked_sub(1), (px + dx).checked_sub(1));
                    let (Some(sy), Some(sx)) = (sy.filter(|v| *v < height), sx.filter(|v| *v < width)) else {
                        continue;
                    };
                    let term = at(f, sy, sx, c) * f64::from(w[(dy * 3 + dx) * channels + c]);
                    (sum, magnitude) = (sum + term, magnitude + term.abs());
                }
                (sum, 1e-6 * magnitude)
            });
            agree("depthwise", &bound, &got, want);

            let mut means = b.alloc(frames * channels).unwrap();
            b.squeeze(&xb, grid, &mut means);
            let got = read(&mut b, &means, frames * channels);
            let want = (0..frames * channels).map(|i| {
                let (f, c) = (i / channels, i % channels);
                let all: Vec<f64> = (0..height * width).map(|p| at(f, p / width, p % width, c)).collect();
                let magnitude: f64 = all.iter().map(|v| v.abs()).sum();
                (all.iter().sum::<f64>() / all.len() as f64, bound.sum * magnitude)
            });
            agree("squeeze", &bound, &got, want);

            let mut gated = b.vector(&x).unwrap();
            b.excite(&mut gated, grid, &sb);
            let got = read(&mut b, &gated, n);
            let want = x.iter().enumerate().map(|(i, v)| {
                let s = f64::from(s[i / (height * width * channels) * channels + i % channels]);
                let y = f64::from(*v) / (1.0 + (-s).exp());
                (y, 1e-6 * y.abs() + 1e-30)
            });
            agree("excite", &bound, &got, want);

            let mut half = b.alloc(n / 4).unwrap();
            b.halve(&xb, grid, &mut half);
            let got = read(&mut b, &half, n / 4);
            let want = (0..n / 4).map(|i| {
                let (c, pixel) = (i % channels, i / channels);
                let (across, down) = (width / 2, height / 2);
                let (px, y, f) = (pixel % across, pixel / across % down, pixel / across / down);
                let four: Vec<f64> = (0..4).map(|k| at(f, y * 2 + k / 2, px * 2 + k % 2, c)).collect();
                (four.iter().sum::<f64>() / 4.0, 1e-6 * four.iter().map(|v| v.abs()).sum::<f64>())
            });
            agree("halve", &bound, &got, want);
        }
    });
}

#[test]
fn rows_and_elements() {
    on_every_device!(|b, bound| {
        for (rows, cols, group) in [(9usize, 33, 3), (10, 16, 3), (2, 5, 1)] {
            let x = Noise(81).values(rows * cols);
            let xb = b.vector(&x).unwrap();
            let mut out = b.alloc(rows / group * cols).unwrap();
            b.pool_rows(&xb, rows, cols, group, &mut out);
            let got = read(&mut b, &out, rows / group * cols);
            let want = (0..got.len()).map(|i| {
                let row = |g: usize| f64::from(x[(i / cols * group + g) * cols + i % cols]);
                let all: Vec<f64> = (0..group).map(row).collect();
                (all.iter().sum::<f64>() / group as f64, 1e-6 * all.iter().map(|v| v.abs()).sum::<f64>())
            });
            agree("pool_rows", &bound, &got, want);
        }
        for (len, period) in [(100, 100), (40_000, 1000), (34, 17), (5, 1)] {
            let mut noise = Noise(91);
            let (x, y) = (noise.values(len), noise.values(period));
            let (xb, yb) = (b.vector(&x).unwrap(), b.vector(&y).unwrap());
            let mut out = b.alloc(len).unwrap();
            for a in [Act::None, Act::Silu] {
                b.add(&xb, &yb, len, a, &mut out);
                let got = read(&mut b, &out, len);
                let want = (0..len).map(|i| {
                    let sum = f64::from(x[i]) + f64::from(y[i % period]);
                    (act(a, sum), 1e-6 * (0.1 + sum.abs()))
                });
                agree(&format!("add {len}/{period} {a:?}"), &bound, &got, want);
            }
        }
        let len = 40_003;
        let mut noise = Noise(95);
        let parts = [noise.values(len), noise.values(len), noise.values(len)];
        let bufs = [0, 1, 2].map(|i| b.vector(&parts[i]).unwrap());
        let weights = [0.2f32, 0.5, 0.3];
        let mut out = b.alloc(len).unwrap();
        b.mix([&bufs[0], &bufs[1], &bufs[2]], weights, len, &mut out);
        let got = read(&mut b, &out, len);
        let want = (0..len).map(|i| {
            let terms = [0, 1, 2].map(|p| f64::from(weights[p]) * f64::from(parts[p][i]));
            (terms.iter().sum::<f64>(), 1e-6 * terms.iter().map(|v| v.abs()).sum::<f64>())
        });
        agree("mix", &bound, &got, want);
    });
}

#[test]
fn activations_over_their_whole_range() {
    on_every_device!(|b, bound| {
        let x: Vec<f32> = (-2000..=2000)
            .map(|i| i as f32 / 100.0)
            .chain([-1e30, -3e4, -88.5, -1e-20, 0.0, 1e-20, 88.5, 3e4, 1e30])
            .collect();
        let (xb, zero) = (b.vector(&x).unwrap(), b.vector(&[0.0]).unwrap());
        let mut out = b.alloc(x.len()).unwrap();
        for a in ACTS {
            b.add(&xb, &zero, x.len(), a, &mut out);
            let got = read(&mut b, &out, x.len());
            let want = x.iter().map(|v| {
                let v = f64::from(*v);
                (act(a, v), 2e-7 * v.abs() + 1e-30)
            });
            agree(&format!("{a:?}"), &bound, &got, want);
        }
    });
}

/// Searches, and holds the place and the marks to what must come.
fn find<B: Backend>(b: &mut B, values: &[f32], marks: &[f32], next: f32, want: usize) {
    let (len, mut marks) = (values.len(), [marks, &[next]].concat());
    let x = b.vector(values).unwrap();
    let (mut m, mut out) = (b.vector(&marks).unwrap(), b.alloc(1).unwrap());
    b.highest(&x, len, &mut m, &mut out);
    assert_eq!(read(b, &out, 1), [want as f32], "of {len} on {}", b.describe());
    marks[want] = next;
    assert_eq!(read(b, &m, len + 1), marks, "marks on {}", b.describe());
}

#[test]
fn highest_is_the_first_of_the_highest_open() {
    on_every_device!(|b, _bound| {
        find(&mut b, &[1.0, 3.0, 3.0], &[1.0; 3], 1.1, 1);
        find(&mut b, &[1.0, 3.0, 3.0], &[1.0, 0.0, 1.0], 1.1, 2);
        find(&mut b, &[2.0, 1.9, -1.0], &[1.1, 1.0, 1.1], 1.1, 1);
        find(&mut b, &[-9.0, -1.05, -1.0], &[1.0, 1.0, 1.1], 1.0, 1);
        find(&mut b, &[f32::NAN, -0.0, 0.0, f32::NEG_INFINITY], &[1.0; 4], 2.0, 1);
        find(&mut b, &[5.0, f32::NEG_INFINITY, f32::NAN], &[0.0, 1.0, 1.0], 2.0, 1);
        find(&mut b, &[5.0, f32::NAN], &[0.0, 1.0], 2.0, 2);
        let mut values = Noise(96).values(300_001);
        let top = (0..values.len()).reduce(|a, b| if values[b] > values[a] { b } else { a }).unwrap();
        find(&mut b, &values, &vec![1.0; values.len()], 1.5, top);
        (values[40_000], values[200_000]) = (1e9, 1e9);
        find(&mut b, &values, &vec![1.0; values.len()], 1.5, 40_000);
        values.fill(f32::NEG_INFINITY);
        let only = |at: usize| (0..values.len()).map(|i| f32::from(u8::from(i == at))).collect::<Vec<_>>();
        find(&mut b, &values, &only(250_000), 1.5, 250_000);
    });
}

#[test]
fn memory_verbs() {
    on_every_device!(|b, bound| {
        let mut x = b.alloc(10).unwrap();
        assert_eq!(read(&mut b, &x, 10), [0.0; 10], "fresh memory is zero on {}", bound.name);
        b.write(&[1.0, 2.0, 3.0], &mut x, 4);
        let mut y = b.vector(&[9.0; 6]).unwrap();
        b.copy(&x, 5, &mut y, 1, 2);
        assert_eq!(read(&mut b, &y, 6), [9.0, 2.0, 3.0, 9.0, 9.0, 9.0]);
        let mut two = [0.0; 2];
        b.read(&x, 4, &mut two).unwrap();
        assert_eq!(two, [1.0, 2.0]);
        let (bytes, _) = weights(Kind::Q8_0, 2, 32, 1);
        let short = Tensor { name: "short", kind: Kind::Q8_0, rows: 2, cols: 32, data: &bytes[1..] };
        let error = format!("{:#}", b.matrix(&[short]).err().expect("a short tensor is refused"));
        assert!(error.contains("short"), "{error}");
    });
}

#[test]
fn a_row_with_nan_or_infinity_has_no_finite_number_and_spares_the_others() {
    on_every_device!(|b, bound| {
        for kind in KINDS {
            let (rows, outputs, cols) = (14, 40, 64);
            let (bytes, _) = weights(kind, outputs, cols, 101);
            let m = b.matrix(&[tensor(kind, outputs, cols, &bytes)]).unwrap();
            let clean = Noise(102).values(rows * cols);
            let mut out = b.alloc(rows * outputs).unwrap();
            let xb = b.vector(&clean).unwrap();
            b.linear(&xb, rows, &m, None, Act::None, &mut out);
            let before = read(&mut b, &out, rows * outputs);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = clean.clone();
                x[5 * cols + 33] = bad;
                let xb = b.vector(&x).unwrap();
                b.linear(&xb, rows, &m, None, Act::None, &mut out);
                let after = read(&mut b, &out, rows * outputs);
                for (r, (after, before)) in after.chunks(outputs).zip(before.chunks(outputs)).enumerate() {
                    if r == 5 {
                        // A weight of zero meets infinity as NaN.
                        assert!(after.iter().all(|v| !v.is_finite()), "{kind:?} {bad} on {}", bound.name);
                    } else {
                        assert_eq!(after, before, "{kind:?} row {r} on {}", bound.name);
                    }
                }
            }
        }
        let (clean, ones) = (Noise(104).values(3 * 40), b.vector(&[1.0; 40]).unwrap());
        let mut out = b.alloc(3 * 40).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = clean.clone();
            x[40 + 7] = bad;
            let (before, after) = (b.vector(&clean).unwrap(), b.vector(&x).unwrap());
            for layer in [true, false] {
                let [before, after] = [&before, &after].map(|x| {
                    match layer {
                        true => b.layer_norm(x, 3, &ones, &ones, 1e-5, Act::None, &mut out),
                        false => b.rms_norm(x, 3, &ones, 1e-5, &mut out),
                    }
                    read(&mut b, &out, 3 * 40)
                });
                assert_eq!(after[..40], before[..40], "{bad} layer={layer} on {}", bound.name);
                assert_eq!(after[80..], before[80..], "{bad} layer={layer} on {}", bound.name);
                assert!(
                    after[40..80].iter().all(|v| !v.is_finite()),
                    "{bad} layer={layer} on {}",
                    bound.name
                );
            }
        }
        let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 16 };
        let mut qkv = bell(103, 20 * heads.qkv());
        qkv[7 * heads.qkv() + 40] = f32::NAN;
        let buf = b.vector(&qkv).unwrap();
        let mut out = b.alloc(20 * 32).unwrap();
        b.attend(&buf, 1, 20, heads, &mut out);
        let got = read(&mut b, &out, 20 * 32);
        assert!(got.iter().all(|v| v.is_nan()), "a NaN key reaches every row on {}", bound.name);
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads_or_the_run() {
    for level in Level::available() {
        let mut all: Vec<Vec<u32>> = Vec::new();
        for threads in [1, 2, 3, 7, 2] {
            let mut b = Cpu::with_level(threads, Precision::Int8, level).unwrap();
            let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 32 };
            let (rows, cols) = (50, 96);
            let (bytes, _) = weights(Kind::Q4_0, heads.qkv(), cols, 111);
            let m = b.matrix(&[tensor(Kind::Q4_0, heads.qkv(), cols, &bytes)]).unwrap();
            let x = b.vector(&Noise(112).values(rows * cols)).unwrap();
            let mut qkv = b.alloc(rows * heads.qkv()).unwrap();
            let mut cache = b.cache(1, heads, 64).unwrap();
            let mut out = b.alloc(rows * 128).unwrap();
            let mut bits = Vec::new();
            for rows in [rows, 1] {
                b.linear(&x, rows, &m, None, Act::Gelu, &mut qkv);
                b.attend(&qkv, 1, rows, heads, &mut out);
                bits.extend(read(&mut b, &out, rows * 128).iter().map(|v| v.to_bits()));
                b.rope_store(&mut qkv, rows, 0, 1e6, heads, &mut cache, 0);
                b.attend_cached(&qkv, rows, 0, heads, &cache, 0, &mut out);
                bits.extend(read(&mut b, &out, rows * 128).iter().map(|v| v.to_bits()));
            }
            all.push(bits);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{}", level.name());
    }
}
