//! Bundles that are cut, flipped, hostile or simply wrong: each is refused, and the error names what is wrong.

use mien::bundle::digest;
use mien::bundle::gguf::{self, Entry, Value};
use mien::bundle::synthetic::{self, Preset};
use mien::bundle::{Bundle, Kind};
use mien::model::{self, Device};
use proptest::prelude::*;
use std::sync::OnceLock;

type Keys = Vec<(String, Value)>;

fn whole() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.gguf");
        synthetic::write_file(&path, Preset::Tiny, 1, Kind::Q8_0, &mut |_| ()).unwrap();
        std::fs::read(path).unwrap()
    })
}

fn header_bytes() -> usize {
    gguf::parse(whole()).unwrap().data_at
}

/// The same bundle with other keys or entries, under digests of its own where the keys of digests were left.
fn edited(edit: impl FnOnce(&mut Keys, &mut Vec<Entry>)) -> Vec<u8> {
    let container = gguf::parse(whole()).unwrap();
    let mut keys: Keys = container.keys.into_iter().collect();
    let mut entries = container.tensors;
    edit(&mut keys, &mut entries);
    let old: Vec<Entry> = entries.clone();
    keys.sort_by_key(|(key, _)| key != digest::HEADER);
    let stated =
        keys.iter().position(|(key, value)| key == digest::TENSORS && matches!(value, Value::Texts(_)));
    if let Some(stated) = stated {
        keys[stated].1 = Value::Texts(vec![digest::UNKNOWN.to_owned(); entries.len()]);
    }
    let (start, file_bytes) = gguf::header(&keys, &mut entries);
    let mut out = vec![0; file_bytes as usize];
    for (old, new) in old.iter().zip(&entries) {
        let len = old.bytes().min(new.bytes()).min(whole().len() - old.offset);
        out[new.offset..new.offset + len].copy_from_slice(&whole()[old.offset..old.offset + len]);
    }
    if let Some(stated) = stated {
        let digests = entries.iter().map(|e| digest::of(&out[e.offset..padded_end(e)], 1)).collect();
        keys[stated].1 = Value::Texts(digests);
    }
    let (mut header, _) = gguf::header(&keys, &mut entries);
    assert_eq!(header.len(), start.len());
    if matches!(&keys[0], (key, Value::Text(_)) if key == digest::HEADER) {
        digest::seal(&mut header);
    }
    out[..header.len()].copy_from_slice(&header);
    out
}

fn padded_end(entry: &Entry) -> usize {
    (entry.offset + entry.bytes()).next_multiple_of(32)
}

/// The same bundle with other bytes of tensors, as if it had been packed so.
fn packed_so(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = patched(at, bytes);
    let container = gguf::parse(&out).unwrap();
    let digests = container.tensors.iter().map(|e| digest::of(&out[e.offset..padded_end(e)], 1)).collect();
    let mut entries = container.tensors;
    let mut keys: Keys = container.keys.into_iter().collect();
    keys.sort_by_key(|(key, _)| key != digest::HEADER);
    keys.iter_mut().find(|(key, _)| key == digest::TENSORS).unwrap().1 = Value::Texts(digests);
    let (mut header, _) = gguf::header(&keys, &mut entries);
    digest::seal(&mut header);
    out[..header.len()].copy_from_slice(&header);
    out
}

fn with_key(name: &str, value: Value) -> Vec<u8> {
    edited(|keys, _| keys.iter_mut().find(|(key, _)| key == name).unwrap().1 = value)
}

fn refusal(bytes: Vec<u8>) -> String {
    match Bundle::from_bytes(bytes) {
        Ok(_) => panic!("the bundle was accepted"),
        Err(error) => format!("{error:#}"),
    }
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{said}` does not say `{part}`");
    }
}

/// Where a tensor's entry stands in the header: number of dimensions, then dimensions, kind, offset.
fn entry_at(bytes: &[u8], name: &str) -> usize {
    let mut wanted = (name.len() as u64).to_le_bytes().to_vec();
    wanted.extend_from_slice(name.as_bytes());
    let found = bytes.windows(wanted.len()).position(|w| w == wanted).unwrap();
    found + wanted.len()
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = whole().to_vec();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    out
}

#[test]
fn the_unedited_bundle_is_accepted() {
    let bundle = Bundle::from_bytes(edited(|_, _| ())).unwrap();
    bundle.verify().unwrap();
}

#[test]
fn every_cut_is_refused() {
    for len in 0..header_bytes() {
        let error = format!("{:#}", gguf::parse(&whole()[..len]).unwrap_err());
        assert!(
            error.contains("cut") || error.contains("GGUF") || error.contains("damaged"),
            "{len}: {error}"
        );
    }
    let last = gguf::parse(whole()).unwrap().tensors.iter().map(|t| t.offset + t.bytes()).max().unwrap();
    for len in (header_bytes()..last).step_by(9973).chain([last - 1]) {
        assert_says(&refusal(whole()[..len].to_vec()), &["tensor `", "cut or damaged"]);
    }
}

#[test]
fn what_is_no_bundle_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Bundle::open(&folder.path().join("absent")).is_err());
    assert!(Bundle::open(folder.path()).is_err());
    let empty = folder.path().join("empty");
    std::fs::write(&empty, []).unwrap();
    let error = format!("{:#}", Bundle::open(&empty).err().unwrap());
    assert_says(&error, &["no GGUF file", "mien pack"]);
    assert_says(&refusal(b"PK\x03\x04 and so on, for longer than a header".to_vec()), &["no GGUF file"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_in_the_header_never_panic(at in 0..header_bytes() * 8) {
        let mut bytes = whole().to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        let _ = Bundle::from_bytes(bytes);
    }

    #[test]
    fn random_words_in_the_header_never_panic(at in 0..header_bytes() - 8, word: u64) {
        let _ = Bundle::from_bytes(patched(at, &word.to_le_bytes()));
    }

    #[test]
    fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
        if magic && bytes.len() >= 24 {
            bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
            bytes[9..16].fill(0);
            bytes[17..24].fill(0);
        }
        prop_assert!(Bundle::from_bytes(bytes).is_err());
    }
}

#[test]
fn hostile_counts_are_refused_before_memory_is_taken() {
    for count in [1u64 << 60, u64::MAX, 1 << 40, 1_000_000] {
        assert_says(&refusal(patched(8, &count.to_le_bytes())), &["tensor count", &count.to_string()]);
        assert_says(&refusal(patched(16, &count.to_le_bytes())), &["key count", &count.to_string()]);
    }
    // The length of the first key's name, then that of an array.
    assert_says(&refusal(patched(24, &(1u64 << 60).to_le_bytes())), &["name of key 0", "does not fit"]);
    let tokens = entry_at(whole(), "tokenizer.ggml.tokens") + 8;
    assert_says(
        &refusal(patched(tokens, &(1u64 << 60).to_le_bytes())),
        &["tokenizer.ggml.tokens", "length of an array"],
    );
    let types = entry_at(whole(), "tokenizer.ggml.token_type") + 8;
    assert_says(&refusal(patched(types, &(1u64 << 62).to_le_bytes())), &["tokenizer.ggml.token_type"]);
}

#[test]
fn hostile_tensor_entries_are_refused_by_name() {
    let name = "decoder.embed.weight";
    let at = entry_at(whole(), name);
    let word = |offset: usize, value: u64| refusal(patched(at + offset, &value.to_le_bytes()));
    for dims in [0u32, 3, 4, u32::MAX] {
        assert_says(&refusal(patched(at, &dims.to_le_bytes())), &[name, "dimensions"]);
    }
    for cols in [0, 1 << 60, u64::MAX, 1 << 63, 63] {
        assert_says(&word(4, cols), &[name]);
    }
    for rows in [0, 1 << 60, u64::MAX] {
        assert_says(&word(12, rows), &[name, "dimensions"]);
    }
    for kind in [3u32, 7, 12, 30, u32::MAX] {
        assert_says(&refusal(patched(at + 20, &kind.to_le_bytes())), &[name, "kind", "Q8_0"]);
    }
    for offset in [1 << 60, u64::MAX - 31, whole().len() as u64 / 32 * 32] {
        assert_says(&word(24, offset), &[name, "after the file"]);
    }
    assert_says(&word(24, 1), &[name, "multiple of 32"]);
    assert_says(&word(24, 0), &[name, "overlap"]);
}

#[test]
fn every_key_is_needed() {
    let container = gguf::parse(whole()).unwrap();
    for key in
        container.keys.keys().filter(|key| *key != "general.alignment" && *key != "tokenizer.ggml.model")
    {
        if key == "tokenizer.ggml.pre" {
            continue;
        }
        let error = refusal(edited(|keys, _| keys.retain(|(other, _)| other != key)));
        assert_says(&error, &[&format!("`{key}`"), "missing"]);
        let error = refusal(edited(|keys, _| {
            keys.iter_mut().find(|(other, _)| other == key).unwrap().1 = Value::U64(9)
        }));
        assert_says(&error, &[&format!("`{key}`")]);
    }
}

#[test]
fn every_tensor_is_needed_once_in_its_shape() {
    let container = gguf::parse(whole()).unwrap();
    for tensor in &container.tensors {
        let name = &tensor.name;
        let error = refusal(edited(|_, entries| entries.retain(|e| &e.name != name)));
        assert_says(&error, &[&format!("`{name}` is missing")]);
        let error = refusal(edited(|_, entries| {
            let entry = entries.iter_mut().find(|e| &e.name == name).unwrap();
            entry.rows += 1;
            entry.vector = false;
        }));
        assert_says(&error, &[&format!("`{name}`"), "but must be"]);
    }
    let error = refusal(edited(|_, entries| entries.push(entries[3].clone())));
    assert_says(&error, &[&container.tensors[3].name, "twice"]);
    let error = refusal(edited(|keys, _| keys.push(keys[3].clone())));
    assert_says(&error, &[&container.keys.keys().nth(3).unwrap().clone(), "twice"]);
    let error = refusal(edited(|_, entries| {
        let mut other = entries[3].clone();
        other.name = "vision.feature_compressor.weight".to_owned();
        entries.push(other);
    }));
    assert_says(&error, &["`vision.feature_compressor.weight` is not part of the model"]);
    let error = refusal(edited(|_, entries| {
        entries.iter_mut().find(|e| e.name == "decoder.norm.weight").unwrap().kind = Kind::F16;
    }));
    assert_says(&error, &["decoder.norm.weight", "stored as f16"]);
}

#[test]
fn values_that_are_not_finite_are_refused_by_tensor() {
    let container = gguf::parse(whole()).unwrap();
    let find = |name: &str| container.tensors.iter().find(|t| t.name == name).unwrap();
    let (norm, embed, up) =
        (find("audio.norm.weight"), find("decoder.embed.weight"), find("decoder.1.ffn_up.weight"));
    assert_eq!([norm.kind, embed.kind, up.kind], [Kind::F32, Kind::Q8_0, Kind::Q8_0]);
    let (nan, infinity) = (f32::NAN.to_le_bytes(), [0, 0x7c]);
    for (at, bytes, said) in [
        (norm.offset + 4 * 5, &nan[..], ["`audio.norm.weight`", "row 0, column 5"]),
        (embed.offset + 3 * 68 + 34, &infinity, ["`decoder.embed.weight`", "row 3, column 32"]),
        // Laid out below the gate's rows, and in the second panel.
        (up.offset + 17 * 68, &infinity, ["`decoder.1.ffn_up.weight`", "row 17, column 0"]),
    ] {
        let bundle = Bundle::from_bytes(packed_so(at, bytes)).unwrap();
        assert_says(&format!("{:#}", bundle.verify().unwrap_err()), &said);
        for device in [Device::Cpu, Device::Scalar] {
            let error =
                model::load(&bundle, device, 2).err().unwrap_or_else(|| panic!("{device:?} took {said:?}"));
            assert_says(&format!("{error:#}"), &said);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    for (key, value, said) in [
        ("r1-omni.version", 1, "version 1"),
        ("r1-omni.decoder.attention.head_count", 5, "decoder: 5 heads"),
        ("r1-omni.decoder.attention.head_count_kv", 3, "cannot share"),
        ("r1-omni.vision.attention.head_count_kv", 1, "key/value"),
        ("r1-omni.vision.image_size", 225, "patches"),
        ("r1-omni.vision.image_size", 16, "patches"),
        ("r1-omni.audio.pool", 0, "audio.pool"),
        ("r1-omni.decoder.block_count", u32::MAX, "decoder.block_count"),
        ("r1-omni.context_length", 800, "context of 800"),
        ("r1-omni.vocab_size", 400, "vocabulary"),
        ("r1-omni.generation.max_new_tokens", 0, "max_new_tokens"),
    ] {
        assert_says(&refusal(with_key(key, Value::U32(value))), &[said]);
    }
    for value in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        for key in [
            "r1-omni.decoder.rope.freq_base",
            "r1-omni.generation.repetition_penalty",
            "r1-omni.labels.dfew.temperature",
        ] {
            assert_says(&refusal(with_key(key, Value::F32(value))), &[key, "positive"]);
        }
    }
    assert_says(
        &refusal(with_key("general.architecture", Value::Text("qwen2".into()))),
        &["`qwen2`", "`r1-omni`", "mien pack"],
    );
    assert_says(&refusal(with_key("general.alignment", Value::U32(24))), &["general.alignment"]);
}

#[test]
fn tokens_and_gates_that_cannot_be_are_refused() {
    let prompt = "r1-omni.prompt.reason.video_audio";
    for (ids, said) in [
        (vec![5, -201, -202, 326], "token 326"),
        (vec![5, -201, -202, -1], "token -1"),
        (vec![5, -201, 7], "1 for the audio"),
        (vec![5, -201, -201, -202, 7], "1 place for the video"),
        (vec![5, -201, -202], "must end with text"),
        (vec![], "1 place for the video"),
    ] {
        assert_says(&refusal(with_key(prompt, Value::I32s(ids))), &[prompt, said]);
    }
    let long = [vec![-201, -202], vec![7; 40_000]].concat();
    assert_says(&refusal(with_key(prompt, Value::I32s(long))), &[prompt, "context", "shorten"]);
    let gate = "r1-omni.prompt.label.gate";
    for weights in [vec![0.5, 0.5], vec![f32::NAN, 0.5, 0.5], vec![0.9, 0.9, 0.9], vec![1.5, -0.5, 0.0]] {
        assert_says(&refusal(with_key(gate, Value::F32s(weights))), &[gate]);
    }
    assert_says(
        &refusal(with_key("r1-omni.labels.dfew.lengths", Value::I32s(vec![2; 6]))),
        &["labels.dfew.lengths"],
    );
    assert_says(
        &refusal(with_key("r1-omni.labels.dfew.lengths", Value::I32s(vec![i32::MAX; 7]))),
        &["labels.dfew.lengths"],
    );
    assert_says(&refusal(with_key("r1-omni.labels.dfew.tokens", Value::I32s(vec![9; 14]))), &["same tokens"]);
    let labels = vec!["a".to_owned(); 7];
    assert_says(
        &refusal(with_key("r1-omni.labels.dfew.labels", Value::Texts(labels))),
        &["different labels"],
    );
    assert_says(&refusal(with_key("r1-omni.prompts", Value::Texts(vec!["a.b".into()]))), &["`a.b`"]);
    assert_says(&refusal(with_key("r1-omni.prompts", Value::Texts(vec![]))), &["no prompt"]);
    assert_says(&refusal(with_key("r1-omni.generation.eos", Value::I32s(vec![]))), &["ends a text"]);
    assert_says(
        &refusal(with_key("tokenizer.ggml.token_type", Value::I32s(vec![2; 326]))),
        &["token 0", "type 2"],
    );
    assert_says(
        &refusal(with_key("tokenizer.ggml.tokens", Value::Texts(vec!["é ".into(); 326]))),
        &["byte-level"],
    );
}
