//! The program on an emulated CUDA device (tests/cuda/emulator, put in front by tools/lane/cuda): a tiny model end to end, and
//! everything a driver may refuse.
#![cfg(feature = "cuda")]

use mien::bundle::synthetic::Preset;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

const CPU_ONLY: [(&str, &str); 1] = [("LD_LIBRARY_PATH", "")];

fn mien(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mien"));
    command.args(arguments).envs(settings.iter().copied()).env_remove("RUST_LOG").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a clip and a tiny bundle of every kind.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("mien-cuda-{}", std::process::id()));
        let clip = root.join("clip");
        std::fs::create_dir_all(&clip).unwrap();
        for i in 0..8u32 {
            let picture = image::RgbImage::from_fn(64, 48, |x, y| {
                image::Rgb([(x * 4 + i * 9) as u8, (y * 5) as u8, ((x * y + i * 31) % 256) as u8])
            });
            picture.save(clip.join(format!("{i:04}.png"))).unwrap();
        }
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut wav = hound::WavWriter::create(clip.join("sound.wav"), spec).unwrap();
        for i in 0..24_000 {
            let t = f64::from(i) / 16_000.0;
            wav.write_sample((8000.0 * (2.0 * std::f64::consts::PI * (200.0 + 300.0 * t) * t).sin()) as i16)
                .unwrap();
        }
        wav.finalize().unwrap();
        for kind in ["f32", "f16", "q8_0", "q4_0"] {
            let path = root.join(format!("{kind}.gguf"));
            let packed = mien(
                &CPU_ONLY,
                &["pack", "--synthetic", "tiny", "--quant", kind, "-o", path.to_str().unwrap()],
            );
            assert!(packed.status.success(), "{}", said(&packed));
        }
        root
    })
}

fn infer(settings: &[(&str, &str)], kind: &str, backend: &str, more: &[&str]) -> Output {
    let (clip, bundle) = (folder().join("clip"), folder().join(format!("{kind}.gguf")));
    let arguments =
        ["infer", clip.to_str().unwrap(), "--bundle", bundle.to_str().unwrap(), "--backend", backend];
    mien(settings, &[&arguments[..], more].concat())
}

fn answer(kind: &str, backend: &str) -> Value {
    let output = infer(&[], kind, backend, &["--json", "--max-new-tokens", "32"]);
    assert!(output.status.success(), "{kind} on {backend}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Scores within `off`, and the same 32 greedy tokens.
fn same_as_on_the_cpu(kind: &str, off: f64) {
    let (cpu, cuda) = (answer(kind, "cpu"), answer(kind, "cuda"));
    let scores = |v: &Value| v["scores"]["probabilities"].as_object().unwrap().clone();
    for (label, p) in scores(&cpu) {
        let q = scores(&cuda)[&label].as_f64().unwrap();
        assert!((p.as_f64().unwrap() - q).abs() < off, "{kind}: {label} is {p} on the CPU and {q} on CUDA");
    }
    assert_eq!(cpu["reason"]["text"], cuda["reason"]["text"], "{kind}");
    assert_eq!(cpu["reason"]["tokens"], cuda["reason"]["tokens"], "{kind}");
}

#[test]
fn tiny_model_f32() {
    same_as_on_the_cpu("f32", 1e-3);
}

#[test]
fn tiny_model_f16() {
    same_as_on_the_cpu("f16", 1e-3);
}

#[test]
fn tiny_model_q8_0() {
    same_as_on_the_cpu("q8_0", 5e-3);
}

#[test]
fn tiny_model_q4_0() {
    same_as_on_the_cpu("q4_0", 5e-3);
}

/// What the emulated driver counted in a run that made `tokens` tokens.
fn counted(tokens: &str) -> [i64; 3] {
    let file = folder().join(format!("count-{tokens}"));
    let output = infer(
        &[("MIEN_EMULATED_COUNT", file.to_str().unwrap())],
        "q8_0",
        "cuda",
        &["--mode", "reason", "--max-new-tokens", tokens],
    );
    assert!(output.status.success(), "{}", said(&output));
    let text = std::fs::read_to_string(file).unwrap();
    let numbers: Vec<i64> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap()
}

/// What one token costs whatever the device: bytes that must be read, launches, copies and waits. Launches are nodes of one graph.
#[test]
fn budget_of_a_token() {
    let (few, many) = (counted("9"), counted("25"));
    let per_token = [0, 1, 2].map(|i| (many[i] - few[i]) as f64 / 16.0);
    // Two layers of norm, qkv, attention, join, quantise (heads of 16 cannot be quantised on the way), o, norm, gate and up, down;
    // then embedding, norm and head. Token and position go in, two rows are kept, logits come out; one wait.
    assert_eq!(per_token, [2.0 * 9.0 + 3.0, 4.0, 1.0], "launches, copies, waits per token");

    let shape = Preset::R1Omni05B.shape();
    let d = &shape.decoder;
    let kv = d.n_kv_heads * d.head_dim;
    let weights = d.layers * d.hidden * (2 * d.hidden + 2 * kv + 3 * d.ffn) + shape.vocab * d.hidden;
    for (kind, bits) in [("q8_0", 34 * 8), ("q4_0", 18 * 8)] {
        let weight_bytes = weights / 32 * bits / 8;
        let cache_bytes = 1100 * d.layers * 2 * kv * 2;
        let total = (weight_bytes + cache_bytes) as f64;
        println!(
            "R1-Omni 0.5B, {kind}, position 1100: {weight_bytes} bytes of weights and {cache_bytes} of cache per token, {} kernels in \
             one graph launch, 4 copies, 1 wait; at 102 GB/s {:.2} ms, 70 % of it {:.2} ms",
            d.layers * 8 + 3,
            total / 102e6,
            total / 102e6 / 0.7
        );
    }
}

/// Ends with 1 and says all of `words`.
#[track_caller]
fn refused(settings: &[(&str, &str)], words: &[&str]) {
    let output = infer(settings, "q8_0", "cuda", &["--mode", "label"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn no_driver() {
    refused(&CPU_ONLY, &["there is no CUDA driver on this machine"]);
}

#[test]
fn no_device() {
    refused(&[("MIEN_EMULATED_ARCH", "0")], &["the CUDA driver finds no device"]);
}

#[test]
fn driver_too_old() {
    refused(
        &[("MIEN_EMULATED_DRIVER", "12020")],
        &["the CUDA driver is too old", "CUDA 12.2", "CUDA 12.6 is needed"],
    );
}

#[test]
fn wrong_architecture() {
    refused(&[("MIEN_EMULATED_ARCH", "61")], &["the device is sm_61", "sm_87", "compute_80"]);
}

#[test]
fn no_room_names_the_part_and_the_bytes() {
    refused(
        &[("MIEN_EMULATED_MEMORY", "4000000")],
        &["no room on the device for", "bytes", "of 4000000 bytes are free"],
    );
}

#[test]
fn a_lost_device_is_said_and_ends_the_program() {
    refused(&[("MIEN_EMULATED_LOST", "40")], &["the CUDA device was lost in", "CUDA_ERROR_LAUNCH_FAILED"]);
}

#[test]
fn every_kernel_is_in_the_image_of_every_architecture() {
    // Losing the device at once shows that it was opened and that all kernels were found in its image; 89 and 120 take the PTX.
    for arch in ["72", "87", "89", "90", "110", "120"] {
        let lost = [("MIEN_EMULATED_ARCH", arch), ("MIEN_EMULATED_LOST", "0")];
        refused(&lost, &["the CUDA device was lost in"]);
    }
}

#[test]
fn auto_falls_back_to_the_cpu_and_says_so() {
    let output = infer(&[("MIEN_EMULATED_ARCH", "0")], "q8_0", "auto", &["--mode", "label"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("backend=cpu") && text.contains("finds no device"), "{text}");
}
