//! Single instructions on a CUDA device beside what a GPU once answered, which is kept in tests/gpu/golden.json.
//!
//! `MIEN_GOLDEN_OUT=FILE` keeps the answers of a GPU; `tools/gpu check` does that.
#![cfg(feature = "cuda")]

use mien::backend::cuda::{Cuda, Options, Probe};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};

fn words(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

/// Tensor cores may add in any order and cut what lies far below the largest term; ex2.approx is good to two units in the last place.
fn compare(ours: &Probe, products: &[u32], matrices: &[u32], powers: &[u32]) {
    assert!(ours.matrices == matrices, "matrices are moved, not computed, and yet they differ");
    assert_eq!((ours.products.len(), ours.powers.len()), (products.len(), powers.len()));
    for (i, ((a, b), size)) in ours.products.iter().zip(products).zip(&ours.magnitudes).enumerate() {
        let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
        assert!(
            (a - b).abs() <= size * 4e-6,
            "product {i} is {a} here and {b} there, of terms that add up to {size}"
        );
    }
    for (i, (a, b)) in ours.powers.iter().zip(powers).enumerate() {
        assert!(
            a.abs_diff(*b) <= 4,
            "power {i} is {} here and {} there",
            f32::from_bits(*a),
            f32::from_bits(*b)
        );
    }
}

#[test]
fn instructions_answer_as_on_a_gpu() {
    let mut cuda = Cuda::with_options(Options::default()).unwrap();
    let probe = cuda.probe().unwrap();
    assert!(
        probe.products.iter().zip(&probe.magnitudes).all(|(d, m)| f32::from_bits(*d).abs() <= m * 1.0001)
    );
    assert!(
        probe.powers.windows(2).all(|p| f32::from_bits(p[0]) <= f32::from_bits(p[1])),
        "2^x does not grow"
    );
    if let Some(path) = std::env::var_os("MIEN_GOLDEN_OUT") {
        let device = mien::backend::Backend::describe(&cuda);
        let kept = json!({
            "device": device,
            "products": probe.products,
            "matrices": probe.matrices,
            "powers": probe.powers,
        });
        fs::write(path, kept.to_string()).unwrap();
    }
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
    // On the GPU's own machine the program stands alone: what it answers is what is kept.
    if tests.exists() {
        let text = fs::read_to_string(tests.join("gpu/golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let part = |name: &str| words(&golden[name]);
        compare(&probe, &part("products"), &part("matrices"), &part("powers"));
    }
}

#[test]
fn a_wrong_answer_is_noticed() {
    let mut cuda = Cuda::with_options(Options::default()).unwrap();
    let probe = cuda.probe().unwrap();
    compare(&probe, &probe.products, &probe.matrices, &probe.powers);
    for part in 0..3 {
        let mut off = probe.clone();
        let words = [&mut off.products, &mut off.matrices, &mut off.powers];
        words.into_iter().nth(part).unwrap()[1000] ^= 1 << 14;
        let noticed = std::panic::catch_unwind(|| compare(&probe, &off.products, &off.matrices, &off.powers));
        assert!(noticed.is_err(), "part {part}");
    }
}
