//! What every op keeps: memory, non-finite rows, the same result from any number of threads.

use super::*;

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
