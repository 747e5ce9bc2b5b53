//! Products of packed weights, embeddings and norms.

use super::*;

#[test]
fn linear() {
    on_every_device!(|b, bound| {
        for (i, (kind, short)) in STORED.into_iter().enumerate() {
            for (j, (rows, outputs, cols)) in sizes(kind).into_iter().enumerate() {
                let (bytes, w) = stored(kind, short, outputs, cols, 7 + i as u64 * 100 + j as u64);
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
                let what = format!("{kind:?} {short} {rows}x{outputs}x{cols} {a:?}");

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
        for (kind, short) in STORED {
            let sizes = [
                (1, 32, 64),
                (5, 48, 96),
                (14, 16, 32),
                (3, 21, 64),
                (1, 5, 32),
                (1, 21, 2080),
                (70, 300, 160),
            ];
            for (rows, outputs, cols) in sizes {
                let (gate_bytes, gate) = stored(kind, short, outputs, cols, 11);
                let (up_bytes, up) = stored(kind, short, outputs, cols, 12);
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
        for (kind, short) in STORED {
            let (rows, cols) = (37, 64);
            let (bytes, w) = stored(kind, short, rows, cols, 21);
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

/// A device may leave the norm of one row to the product behind it: whoever reads the row next, and a second product, find it whole.
#[test]
fn a_norm_and_what_follows_it() {
    on_every_device!(|b, bound| {
        for (kind, short) in STORED {
            // So many outputs that the norm has a launch of its own: over 192 blocks on the emulated device.
            for (outputs, cols) in [(35, 96), (64, 416), (3100, 96)] {
                let mut noise = Noise(17);
                let (x, gain) = (noise.values(cols), noise.values(cols));
                let (bytes, _) = stored(kind, short, 2 * outputs, cols, 5);
                let m = b.matrix(&[tensor(kind, 2 * outputs, cols, &bytes)]).unwrap();
                let (xb, gb) = (b.vector(&x).unwrap(), b.vector(&gain).unwrap());
                let mut normed = b.alloc(cols).unwrap();
                let (mut once, mut again) = (b.alloc(2 * outputs).unwrap(), b.alloc(outputs).unwrap());
                let mut answers = Vec::new();
                for read_first in [true, false] {
                    b.write(&vec![0.0; cols], &mut normed, 0);
                    b.rms_norm(&xb, 1, &gb, 1e-6, &mut normed);
                    let row = read_first.then(|| read(&mut b, &normed, cols));
                    b.linear(&normed, 1, &m, None, Act::None, &mut once);
                    b.linear_gated(&normed, 1, &m, &mut again);
                    let products = [read(&mut b, &once, 2 * outputs), read(&mut b, &again, outputs)].concat();
                    let row = row.unwrap_or_else(|| read(&mut b, &normed, cols));
                    b.rms_norm(&xb, 1, &gb, 1e-6, &mut normed);
                    b.linear_gated(&normed, 1, &m, &mut again);
                    answers.push([row, products, read(&mut b, &again, outputs)].concat());
                }
                let largest = answers[0].iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let want = answers[0].iter().map(|y| (f64::from(*y), f64::from(largest) * 1e-2));
                agree(&format!("norm and product {kind:?} {outputs}x{cols}"), &bound, &answers[1], want);
            }
        }
    });
}
