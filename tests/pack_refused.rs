//! Checkpoints that are cut, flipped, hostile or another model's, and disks that are full: packing says what is wrong and leaves nothing
//! behind.

mod published;

use mien::bundle::Kind;
use mien::bundle::checkpoint::Weights;
use mien::bundle::import::{self, Options};
use proptest::prelude::*;
use published::{Checkpoint, VOCAB};
use safetensors::Dtype;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

fn written(checkpoint: &Checkpoint) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    checkpoint.write(root.path());
    root
}

/// Packs without BERT; the error as a person sees it, if there is one. Nothing may be left beside a bundle that was not made.
fn try_pack(root: &Path) -> Result<u64, String> {
    try_quant(root, Kind::F32)
}

fn try_quant(root: &Path, quant: Kind) -> Result<u64, String> {
    let out = tempfile::tempdir().unwrap();
    let options = Options { gate: Some([0.4, 0.3, 0.3]), ..Options::new(root, quant) };
    let done = import::pack(&options, &out.path().join("b.gguf"), &mut |_| ());
    let left = std::fs::read_dir(out.path()).unwrap().count();
    assert_eq!(left, usize::from(done.is_ok()), "files left in the folder");
    done.map_err(|e| format!("{e:#}"))
}

fn refusal(checkpoint: &Checkpoint) -> String {
    try_pack(written(checkpoint).path()).expect_err("the checkpoint was accepted")
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{said}` does not say `{part}`");
    }
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut checkpoint = Checkpoint::small();
    checkpoint.omni.0.remove(name);
    assert_says(&refusal(&checkpoint), &[name, "no tensor", "R1-Omni-0.5B"]);

    let mut checkpoint = Checkpoint::small();
    checkpoint.omni.0.get_mut(name).unwrap().dims = vec![32, 64];
    assert_says(&refusal(&checkpoint), &[name, "[32, 64]", "[64, 32]"]);

    let mut checkpoint = Checkpoint::small();
    checkpoint.omni.0.get_mut(name).unwrap().dtype = Dtype::I8;
    assert_says(&refusal(&checkpoint), &[name, "I8", "BF16"]);

    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut checkpoint = Checkpoint::small();
        checkpoint.omni.0.get_mut(name).unwrap().values[77] = value;
        assert_says(&refusal(&checkpoint), &[name, "value 77", "get it again"]);
    }

    let mut checkpoint = Checkpoint::small();
    let tower = "model.encoder.layers.0.fc1.bias";
    checkpoint.audio.0.remove(tower);
    assert_says(&refusal(&checkpoint), &[tower, "whisper-large-v3"]);

    // 1e5 fits f32 and bf16, not f16.
    let mut checkpoint = Checkpoint::small();
    checkpoint.omni.0.get_mut(name).unwrap().values[3] = 1e5;
    let root = written(&checkpoint);
    let error = try_quant(root.path(), Kind::F16).unwrap_err();
    assert_says(&error, &["decoder.1.ffn_up.weight", "too large", "--quant f32"]);
    try_quant(root.path(), Kind::F32).unwrap();
}

#[test]
fn broken_weights_in_bert_are_refused_by_name() {
    let name = "model.bert_model.encoder.layer.1.output.dense.weight";
    let mut checkpoint = Checkpoint::small();
    checkpoint.omni.0.get_mut(name).unwrap().values[0] = f32::NAN;
    let root = written(&checkpoint);
    let out = tempfile::tempdir().unwrap();
    let error =
        import::pack(&Options::new(root.path(), Kind::F32), &out.path().join("b"), &mut |_| ()).unwrap_err();
    assert_says(&format!("{error:#}"), &[name, "NaN"]);
}

#[test]
fn other_models_are_refused() {
    let config = "R1-Omni-0.5B/config.json";
    for (key, value, said) in [
        ("mm_projector_type", json!("mlp2x_gelu"), "all_in_one_small"),
        ("mm_audio_projector_type", json!("linear"), "mlp2x_gelu"),
        ("hidden_act", json!("gelu"), "silu"),
        ("rope_scaling", json!({ "type": "yarn" }), "rope_scaling"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("hidden_size", json!(33), "wide"),
        ("hidden_size", json!("32"), "hidden_size"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_key_value_heads", json!(1u64 << 60), "num_key_value_heads"),
        ("num_hidden_layers", json!(3), "model.layers.2"),
        ("vocab_size", json!(VOCAB + 1), "model.embed_tokens.weight"),
        ("mm_vision_select_layer", json!(-9), "mm_vision_select_layer"),
        ("max_position_embeddings", json!(20), "context of 20"),
        ("rms_norm_eps", json!("tiny"), "rms_norm_eps"),
    ] {
        let mut checkpoint = Checkpoint::small();
        checkpoint.edit(config, |json| json[key] = value);
        assert_says(&refusal(&checkpoint), &[said]);
    }
    let mut checkpoint = Checkpoint::small();
    checkpoint.edit("whisper-large-v3/config.json", |json| json["activation_function"] = "relu".into());
    assert_says(&refusal(&checkpoint), &["audio tower", "relu"]);
    for (key, value) in [("max_source_positions", 1500), ("num_mel_bins", 80)] {
        let mut checkpoint = Checkpoint::small();
        checkpoint.edit("whisper-large-v3/config.json", |json| json[key] = value.into());
        assert_says(&refusal(&checkpoint), &["audio tower", key, "12 positions and 8 mels"]);
    }
    for (key, fits, value) in
        [("n_samples", 3840, 480_000), ("nb_max_frames", 24, 3000), ("feature_size", 8, 128)]
    {
        let mut checkpoint = Checkpoint::small();
        let path = "whisper-large-v3/preprocessor_config.json";
        checkpoint.files.insert(path.to_owned(), serde_json::to_vec(&json!({ key: fits })).unwrap());
        try_pack(written(&checkpoint).path()).unwrap();
        checkpoint.edit(path, |json| json[key] = value.into());
        assert_says(&refusal(&checkpoint), &["audio tower", key, &fits.to_string()]);
    }
    let mut checkpoint = Checkpoint::small();
    checkpoint.edit("R1-Omni-0.5B/generation_config.json", |json| json["eos_token_id"] = json!([VOCAB]));
    assert_says(&refusal(&checkpoint), &["eos_token_id", "generation_config.json"]);
}

#[test]
fn broken_json_and_tokenizers_are_refused_by_file() {
    for path in
        ["R1-Omni-0.5B/config.json", "R1-Omni-0.5B/tokenizer.json", "R1-Omni-0.5B/generation_config.json"]
    {
        for content in [&b""[..], b"{", b"\xff\xfe", b"[1, 2]", b"null", &[b'['; 100_000]] {
            let mut checkpoint = Checkpoint::small();
            checkpoint.files.insert(path.to_owned(), content.to_vec());
            let found = try_pack(written(&checkpoint).path());
            match found {
                Err(error) => assert_says(&error, &[path.rsplit('/').next().unwrap()]),
                Ok(_) => assert!(path.contains("generation"), "settings may be left out"),
            }
        }
    }
    let path = "R1-Omni-0.5B/tokenizer.json";
    type Edit = fn(&mut serde_json::Value);
    let edits: [(&str, Edit); 7] = [
        ("BPE", |json| json["model"]["type"] = "WordPiece".into()),
        ("300 rows", |json| json["model"]["vocab"]["xyz"] = json!(1u64 << 60)),
        ("300 rows", |json| json["added_tokens"][0]["id"] = json!(-1)),
        ("stands for", |json| json["model"]["vocab"]["xyz"] = json!(5)),
        ("lstrip", |json| json["added_tokens"][1]["lstrip"] = true.into()),
        ("byte-level", |json| json["pre_tokenizer"] = serde_json::Value::Null),
        ("tokenizer.json", |json| json["model"]["merges"] = json!(["q"])),
    ];
    for (said, edit) in edits {
        let mut checkpoint = Checkpoint::small();
        if said == "byte-level" {
            checkpoint.edit(path, |json| json["post_processor"] = serde_json::Value::Null);
            checkpoint.edit(path, |json| json["decoder"] = serde_json::Value::Null);
        }
        checkpoint.edit(path, edit);
        assert_says(&refusal(&checkpoint), &[said, "tokenizer.json"]);
    }
    let mut checkpoint = Checkpoint::small();
    checkpoint.edit("R1-Omni-0.5B/tokenizer_config.json", |json| json["chat_template"] = "{% if".into());
    assert_says(&refusal(&checkpoint), &["chat template", "tokenizer_config.json"]);
    checkpoint.files.remove("R1-Omni-0.5B/tokenizer_config.json");
    assert_says(&refusal(&checkpoint), &["no chat template"]);
}

fn small_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let root = written(&Checkpoint::small());
        std::fs::read(root.path().join("whisper-large-v3/model.safetensors")).unwrap()
    })
}

fn open_bytes(bytes: &[u8]) -> Result<Weights, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    Weights::open(folder.path()).map_err(|e| format!("{e:#}"))
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn broken_weight_files_are_refused() {
    let file = small_file();
    open_bytes(file).unwrap();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for len in (0..header).step_by(13).chain([header, file.len() / 2, file.len() - 1]) {
        assert_says(&open_bytes(&file[..len]).err().unwrap(), &["model.safetensors", "get it again"]);
    }
    for length in [1u64 << 60, u64::MAX, u64::MAX - 7, 100_000_001] {
        let bytes = [&length.to_le_bytes(), &file[8..]].concat();
        assert_says(&open_bytes(&bytes).err().unwrap(), &["get it again"]);
    }
    for header in [
        r#"{"a":{"dtype":"F32","shape":[1152921504606846976,1152921504606846976],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        "[]",
        "",
    ] {
        assert_says(&open_bytes(&with_header(header, &[0; 8])).err().unwrap(), &["model.safetensors"]);
    }
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert_says(&open_bytes(&with_header(twice, &[0; 4])).err().unwrap(), &["`a` is there twice"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_in_weight_headers_never_panic(at in 0usize..8 * 2000) {
        let mut bytes = small_file().to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        let _ = open_bytes(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_in_texts_never_panic(place in 0.0..1.0f64, bit in 0u8..8, which in 0usize..5) {
        let path = [
            "R1-Omni-0.5B/config.json", "R1-Omni-0.5B/tokenizer.json", "R1-Omni-0.5B/tokenizer_config.json",
            "R1-Omni-0.5B/generation_config.json", "whisper-large-v3/config.json",
        ][which];
        let mut checkpoint = Checkpoint::small();
        let file = checkpoint.files.get_mut(path).unwrap();
        let at = (place * file.len() as f64) as usize;
        file[at] ^= 1 << bit;
        let _ = try_pack(written(&checkpoint).path());
    }
}

#[test]
fn prompts_labels_and_gates_are_checked() {
    let root = written(&Checkpoint::small());
    let refused = |change: fn(&mut Options)| {
        let out = tempfile::tempdir().unwrap();
        let mut options = Options { gate: Some([0.4, 0.3, 0.3]), ..Options::new(root.path(), Kind::F32) };
        change(&mut options);
        format!("{:#}", import::pack(&options, &out.path().join("b"), &mut |_| ()).unwrap_err())
    };
    assert_says(&refused(|o| o.gate = Some([0.9, 0.9, 0.9])), &["--gate", "sum 1"]);
    assert_says(&refused(|o| o.prompts = vec![("a b".into(), "x".into())]), &["--prompt", "`a b`"]);
    assert_says(&refused(|o| o.prompts = vec![("a".into(), " ".into())]), &["empty"]);
    assert_says(
        &refused(|o| o.prompts = vec![("a".into(), "x".into()), ("a".into(), "y".into())]),
        &["twice"],
    );
    assert_says(&refused(|o| o.prompts = vec![("a".into(), "word ".repeat(900))]), &["context"]);
    assert_says(&refused(|o| o.label_sets = vec![("own".into(), vec!["a".into()])]), &["at least two"]);
    assert_says(
        &refused(|o| o.label_sets = vec![("own".into(), vec!["a".into(), "a".into()])]),
        &["`a` twice"],
    );
    assert_says(
        &refused(|o| o.label_sets = vec![("own".into(), vec!["a".into(), "</answer>".into()])]),
        &["a word"],
    );
    assert_says(
        &refused(|o| o.label_sets = vec![("dfew".into(), vec!["a".into(), "b".into()])]),
        &["already"],
    );
}

#[test]
fn the_command_says_78_for_a_bad_checkpoint_and_names_it() {
    let root = written(&Checkpoint::small().without("R1-Omni-0.5B"));
    let out = root.path().join("b.gguf");
    let done = Command::new(env!("CARGO_BIN_EXE_mien"))
        .arg("pack")
        .arg(root.path())
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(78));
    assert_says(&String::from_utf8_lossy(&done.stderr), &[root.path().to_str().unwrap(), "config.json"]);
    assert!(!out.exists());
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let root = written(&Checkpoint::small());
    let out = tempfile::tempdir().unwrap();
    let pack = |limit: &str| {
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_mien"), "pack"]).arg(root.path());
        command.args(["--quant", "f32", "-o"]).arg(out.path().join("b.gguf")).output().unwrap()
    };
    // Files of this process may hold 16 KiB: writing fails in the middle, as on a full disk.
    let done = pack("32");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success(), "{said}");
    assert_says(&said, &["b.gguf", "nothing was left"]);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);

    // What stood under the name before stays.
    std::fs::write(out.path().join("b.gguf"), "before").unwrap();
    assert!(!pack("32").status.success());
    assert_eq!(std::fs::read(out.path().join("b.gguf")).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
    let done = pack("unlimited");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(std::fs::read(out.path().join("b.gguf")).unwrap()[..4], *b"GGUF");
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let root = written(&Checkpoint::small());
    for (path, said) in [
        ("/nowhere/at/all/b.gguf", "does not exist"),
        ("/proc/b.gguf", "/proc/b.gguf"),
        ("/tmp", "is a folder"),
    ] {
        let options = Options { gate: Some([0.4, 0.3, 0.3]), ..Options::new(root.path(), Kind::F32) };
        let error = format!("{:#}", import::pack(&options, Path::new(path), &mut |_| ()).unwrap_err());
        assert_says(&error, &[said]);
    }
}
