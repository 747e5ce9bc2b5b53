//! Attention over rows and over the cache, rotation, a step that is repeated.

use super::*;

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
        // Eight heads of keys leave two blocks for each on the emulated device: both see more than one step of keys.
        for (n_heads, n_kv_heads, head_dim, rows) in
            [(14, 2, 64, 45), (4, 4, 16, 300), (8, 8, 64, 300), (9, 1, 8, 24), (2, 1, 12, 37), (9, 1, 4, 21)]
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
            for steps in [vec![rows], vec![17, 1, 2, rows - 20], vec![1; rows.min(20)], vec![rows - 3, 1, 2]]
            {
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
fn positions_that_were_copied_are_attended_to_like_the_others() {
    on_every_device!(|b, bound| {
        let (heads, rows) = (Heads { n_heads: 4, n_kv_heads: 2, head_dim: 24 }, 50);
        let (width, row) = (heads.n_heads * heads.head_dim, heads.qkv());
        let (own, other) = (bell(71, rows * row), bell(72, rows * row));
        for range in [0..16, 16..32, 5..6, 3..37, 47..49, 20..20] {
            let mut mixed = own.clone();
            let copied = range.start * row..range.end * row;
            mixed[copied.clone()].copy_from_slice(&other[copied]);
            let turned = turn(&mixed, heads, 10000.0);
            let want = attention_rows(&turned, rows, heads, true);
            // The caches are of two sizes.
            let (mut to, mut from) =
                (b.cache(3, heads, rows + 21).unwrap(), b.cache(3, heads, rows).unwrap());
            for layer in [2, 0] {
                for (values, cache) in [(&own, &mut to), (&other, &mut from)] {
                    let mut buf = b.vector(values).unwrap();
                    b.rope_store(&mut buf, rows, 0, 10000.0, heads, cache, layer);
                }
            }
            b.copy_positions(&from, &mut to, range.clone());
            let off = (bound.cached + 2e-5) * largest(&turned);
            for layer in [2, 0] {
                let mut last = b.vector(&own[(rows - 1) * row..]).unwrap();
                let mut out = b.alloc(width).unwrap();
                b.rope_store(&mut last, 1, rows - 1, 10000.0, heads, &mut to, layer);
                b.attend_cached(&last, 1, rows - 1, heads, &to, layer, &mut out);
                let got = read(&mut b, &out, width);
                let want = want[(rows - 1) * width..].iter().map(|w| (*w, off));
                agree(&format!("copied {range:?}"), &bound, &got, want);
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
        // Angles of so many radians rounded to f32, and values up to 6.
        for (start, off) in [(900, 5e-4), (32_600, 2e-2)] {
            if cfg!(miri) && start > 900 {
                continue;
            }
            let rows = start + 100;
            let qkv = bell(61, rows * heads.qkv());
            let turned = turn(&qkv, heads, 1e6);
            let at = start * heads.qkv();
            let mut buf = b.vector(&qkv[at..]).unwrap();
            let mut cache = b.cache(1, heads, rows).unwrap();
            b.rope_store(&mut buf, 100, start, 1e6, heads, &mut cache, 0);
            let got = read(&mut b, &buf, 100 * heads.qkv());
            for (got, want) in got.chunks(heads.qkv()).zip(turned[at..].chunks(heads.qkv())) {
                agree("rope q", &bound, &got[..128], want[..128].iter().map(|w| (*w, off)));
                agree("rope v", &bound, &got[192..], want[192..].iter().map(|w| (*w, 0.0)));
            }
        }
    });
}
