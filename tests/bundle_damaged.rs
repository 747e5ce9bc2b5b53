//! Bundles whose bytes are no longer those that were packed: whoever reads one says which part is damaged, before any answer.

use mien::bundle::gguf;
use mien::bundle::synthetic::{self, Preset};
use mien::bundle::{Bundle, Kind};
use mien::model::{self, Device};
use proptest::prelude::*;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

fn whole() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.gguf");
        synthetic::write_file(&path, Preset::Tiny, 1, Kind::Q8_0, &mut |_| ()).unwrap();
        fs::read(path).unwrap()
    })
}

fn container() -> &'static gguf::Container {
    static CONTAINER: OnceLock<gguf::Container> = OnceLock::new();
    CONTAINER.get_or_init(|| gguf::parse(whole()).unwrap())
}

fn flipped(at: usize, bit: u8) -> Vec<u8> {
    let mut bytes = whole().to_vec();
    bytes[at] ^= 1 << bit;
    bytes
}

/// What `infer`, `run`, `eval`, `bench` and `calibrate` do before they answer; the refusal, or none.
fn load(bytes: Vec<u8>, device: Device) -> Option<String> {
    let load = || model::load(&Bundle::from_bytes(bytes)?, device, 1).map(drop);
    load().err().map(|error| format!("{error:#}"))
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{said}` does not say `{part}`");
    }
}

#[test]
fn the_whole_bundle_is_taken() {
    for device in [Device::Scalar, Device::Cpu] {
        assert_eq!(load(whole().to_vec(), device), None);
    }
}

#[test]
fn a_flip_in_any_tensor_is_refused_by_its_name() {
    for (i, tensor) in container().tensors.iter().enumerate() {
        let name = format!("`{}`", tensor.name);
        // A low bit of a value in the middle: finite before and after.
        let bytes = flipped(tensor.offset + tensor.bytes() / 2 / 34 * 34 + 5, (i % 3) as u8);
        let bundle = Bundle::from_bytes(bytes.clone()).unwrap();
        assert_says(&format!("{:#}", bundle.verify().unwrap_err()), &[&name, "SHA-256", "damaged"]);
        assert_says(&format!("{:#}", bundle.tensor(&tensor.name).unwrap_err()), &[&name, "damaged"]);
        assert!(bundle.vector(&tensor.name).is_err(), "asked for again, {name} was given out");
        for device in [Device::Scalar, Device::Cpu] {
            let said =
                load(bytes.clone(), device).unwrap_or_else(|| panic!("{device:?} took a flip in {name}"));
            assert_says(&said, &[&name, "SHA-256", "damaged", "pack it again"]);
        }
    }
}

#[test]
fn a_flip_in_the_padding_is_refused() {
    let mut padded = 0;
    for tensor in &container().tensors {
        let end = tensor.offset + tensor.bytes();
        for at in end..end.next_multiple_of(32) {
            let said =
                load(flipped(at, (at % 8) as u8), Device::Cpu).expect("a flip in the padding was taken");
            assert_says(&said, &[&tensor.name, "damaged"]);
            padded += 1;
        }
    }
    assert!(padded > 0, "no tensor of this bundle has padding");
}

/// Keys, values, vocabulary, prompts, entries, padding: no bit of the header may change.
#[test]
fn a_flip_anywhere_in_the_header_is_refused() {
    for at in (0..container().data_at).step_by(3).chain(0..400) {
        let refused = Bundle::from_bytes(flipped(at, (at / 3 % 8) as u8)).is_err();
        assert!(refused, "a flip at byte {at} of the header was taken");
    }
    let find = |text: &str| whole().windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    for text in ["emotional", "r1-omni.labels.dfew.temperature", "MIT OR Apache", "disgust", "UNTRAINED"] {
        let said = format!("{:#}", Bundle::from_bytes(flipped(find(text) + 2, 0)).err().unwrap());
        assert_says(&said, &["header", "SHA-256", "damaged", "pack it again"]);
    }
}

#[test]
fn cuts_and_bytes_too_many_are_refused() {
    let len = whole().len();
    for cut in (1..32).chain((1..40).map(|i| i * len / 40)) {
        assert!(Bundle::from_bytes(whole()[..len - cut].to_vec()).is_err(), "{cut} bytes less were taken");
    }
    for more in [1, 31, 32, 4096] {
        let bytes = [whole(), &vec![0; more]].concat();
        let said = format!("{:#}", Bundle::from_bytes(bytes).err().expect("more bytes were taken"));
        assert_says(&said, &["tensor `", "damaged"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_flip_answers(place in 0.0..1.0f64, bit in 0u8..8) {
        let at = (place * whole().len() as f64) as usize;
        let said = load(flipped(at, bit), Device::Cpu);
        prop_assert!(said.is_some(), "byte {} bit {}", at, bit);
    }

    #[test]
    fn no_overwritten_stretch_answers(place in 0.0..1.0f64, stretch in proptest::collection::vec(any::<u8>(), 1..600)) {
        let mut bytes = whole().to_vec();
        let at = (place * bytes.len() as f64) as usize;
        let end = bytes.len().min(at + stretch.len());
        bytes[at..end].copy_from_slice(&stretch[..end - at]);
        prop_assume!(bytes != whole());
        prop_assert!(load(bytes, Device::Cpu).is_some(), "{} bytes from {}", end - at, at);
    }

    #[test]
    fn no_cut_answers(place in 0.0..1.0f64) {
        let len = (place * whole().len() as f64) as usize;
        prop_assert!(load(whole()[..len].to_vec(), Device::Cpu).is_some(), "cut to {} bytes", len);
    }
}

/// A folder with a clip, a list of clips, a config, and a bundle with one flipped bit.
fn damaged_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let norm = container().tensors.iter().find(|t| t.name == "decoder.norm.weight").unwrap();
    fs::write(path("flipped.gguf"), flipped(norm.offset + 5, 0)).unwrap();
    fs::create_dir(path("clip")).unwrap();
    for i in 0..20u8 {
        let picture =
            image::RgbImage::from_fn(32, 24, |x, y| image::Rgb([(x * 8) as u8, (y * 8) as u8 + i, 90]));
        picture.save(path("clip").join(format!("{i:03}.png"))).unwrap();
    }
    let line = |i: usize| {
        format!(
            "{{\"id\": \"c{i}\", \"clip\": \"clip/{:03}.png\", \"label\": \"{}\"}}\n",
            i % 20,
            ["happy", "sad"][i % 2]
        )
    };
    fs::write(path("m.jsonl"), (0..60).map(line).collect::<String>()).unwrap();
    let config = "device = \"bench\"\n[model]\nbundle = \"flipped.gguf\"\n[clip]\npath = \"clip\"\nframes_per_second = 10\n\
        [window]\nwindow_ms = 1000\nhop_ms = 500\n[privacy]\npurpose = \"research\"\n[sink.stdout]\n";
    fs::write(path("c.toml"), config).unwrap();
    folder
}

#[test]
fn every_command_that_answers_refuses_a_flipped_bit_with_78() {
    let folder = damaged_folder();
    let mien = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mien"));
        let done = command.args(arguments).current_dir(folder.path()).output().unwrap();
        (done.status.code(), [done.stdout, done.stderr].map(|said| String::from_utf8(said).unwrap()))
    };
    for (arguments, answer) in [
        (&["infer", "clip", "--bundle", "flipped.gguf"][..], "happy"),
        (&["run", "c.toml", "--fast"], "\"begin\""),
        (&["eval", "flipped.gguf", "--manifest", "m.jsonl", "--out", "result"], "UAR"),
        (&["calibrate", "flipped.gguf", "--manifest", "m.jsonl", "-o", "new.gguf"], "temperature"),
        (&["bench", "--bundle", "flipped.gguf", "--windows", "1"], "prefill"),
        (&["inspect", "flipped.gguf"], "General"),
    ] {
        let (code, [out, err]) = mien(arguments);
        assert_eq!(code, Some(78), "{arguments:?}: {out}{err}");
        assert_says(&err, &["flipped.gguf", "`decoder.norm.weight`", "SHA-256", "pack it again"]);
        assert!(!out.contains(answer), "{arguments:?} answered: {out}");
    }
    assert!(!folder.path().join("new.gguf").exists(), "a damaged bundle was written again");
}
