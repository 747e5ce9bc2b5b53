//! Rows and elements: means, sums, activations, the highest value.

use super::*;

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
        for count in 1..=3 {
            let weighted: Vec<_> = bufs.iter().zip(weights).take(count).collect();
            b.mix(&weighted, len, &mut out);
            let got = read(&mut b, &out, len);
            let want = (0..len).map(|i| {
                let terms = parts.iter().zip(weights).take(count);
                let terms = terms.map(|(part, weight)| f64::from(weight) * f64::from(part[i]));
                (terms.clone().sum::<f64>(), 1e-6 * terms.map(f64::abs).sum::<f64>())
            });
            agree(&format!("mix of {count}"), &bound, &got, want);
        }
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

/// Searches, and holds the place and the penalties to what must come.
fn find<B: Backend>(b: &mut B, values: &[f32], penalties: &[f32], next: f32, want: usize) {
    let (len, mut penalties) = (values.len(), [penalties, &[next]].concat());
    let x = b.vector(values).unwrap();
    let (mut m, mut out) = (b.vector(&penalties).unwrap(), b.alloc(1).unwrap());
    b.highest(&x, len, &mut m, &mut out);
    assert_eq!(read(b, &out, 1), [want as f32], "of {len} on {}", b.describe());
    penalties[want] = next;
    assert_eq!(read(b, &m, len + 1), penalties, "penalties on {}", b.describe());
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
fn log_likelihoods_are_those_of_a_softmax() {
    on_every_device!(|b, bound| {
        for (rows, len) in [(1usize, 3usize), (3, 70_001)] {
            let x: Vec<f32> = Noise(44).values(rows * len).iter().map(|v| v * 30.0 - 200.0).collect();
            let picks: Vec<(u32, u32)> = (0..rows)
                .flat_map(|row| [0, len / 2, len - 1].map(|place| (row as u32, place as u32)))
                .collect();
            let (xb, mut out) = (b.vector(&x).unwrap(), b.alloc(picks.len()).unwrap());
            b.log_likelihoods(&xb, len, &picks, &mut out);
            let got = read(&mut b, &out, picks.len());
            let want = picks.iter().map(|(row, place)| {
                let row: Vec<f64> = x[*row as usize * len..][..len].iter().map(|v| f64::from(*v)).collect();
                let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|v| (v - top).exp()).sum();
                let y = row[*place as usize] - top - sum.ln();
                (y, 1e-4 + 4e-7 * y.abs())
            });
            agree(&format!("log likelihoods of {rows} x {len}"), &bound, &got, want);
        }
        let broken = b.vector(&[1.0, f32::NAN, 2.0, 1.0, f32::INFINITY, 2.0, 1.0, 2.0, 3.0]).unwrap();
        let mut out = b.alloc(3).unwrap();
        b.log_likelihoods(&broken, 3, &[(0, 0), (1, 0), (2, 2)], &mut out);
        let got = read(&mut b, &out, 3);
        assert!(got[0].is_nan() && got[1].is_nan() && (got[2] + 0.407_606).abs() < 1e-5, "{got:?}");
    });
}
