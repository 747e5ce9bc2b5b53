//! Checkpoints as people have them: saved by another version, half downloaded, of a kind that is not the weights. Each is packed as what
//! it is, or refused with the next step.

mod published;

use mien::bundle::import::{self, Options};
use mien::bundle::tokenizer;
use mien::bundle::{Bundle, Kind, Piece};
use proptest::prelude::*;
use published::{Checkpoint, SPECIALS_FROM, Tensors, VOCAB};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const OMNI: &str = "R1-Omni-0.5B";
const CONFIG: &str = "R1-Omni-0.5B/config.json";
const TOKENIZER: &str = "R1-Omni-0.5B/tokenizer.json";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 1897618\n";

fn written(checkpoint: &Checkpoint) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    checkpoint.write(root.path());
    root
}

/// Packs without BERT. Nothing may be left of a bundle that was not made.
fn pack(root: &Path) -> Result<Bundle, String> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("b.gguf");
    let options = Options { gate: Some([0.4, 0.3, 0.3]), ..Options::new(root, Kind::F32) };
    let done = import::pack(&options, &path, &mut |_| ());
    assert_eq!(
        fs::read_dir(out.path()).unwrap().count(),
        usize::from(done.is_ok()),
        "files left in the folder"
    );
    done.and_then(|_| Bundle::open(&path)).map_err(|error| format!("{error:#}"))
}

fn edited(path: &str, edit: impl FnOnce(&mut Value)) -> Checkpoint {
    let mut checkpoint = Checkpoint::small();
    checkpoint.edit(path, edit);
    checkpoint
}

fn assert_refused(checkpoint: &Checkpoint, parts: &[&str]) {
    assert_says(&pack(written(checkpoint).path()).err().expect("the checkpoint was accepted"), parts);
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{said}` does not say `{part}`");
    }
}

fn put(checkpoint: &mut Checkpoint, path: &str, content: impl Into<Vec<u8>>) {
    checkpoint.files.insert(path.to_owned(), content.into());
}

fn without_theta(json: &mut Value) {
    json.as_object_mut().unwrap().remove("rope_theta");
    json.as_object_mut().unwrap().remove("rope_scaling");
}

#[test]
fn the_rotary_base_is_read_where_transformers_5_writes_it() {
    let checkpoint = edited(CONFIG, |json| {
        without_theta(json);
        json["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
    });
    assert_eq!(pack(written(&checkpoint).path()).unwrap().shape().rope_theta, 10_000.0);
    let checkpoint = edited(CONFIG, |json| json["rope_scaling"] = json!({"rope_type": "default"}));
    assert_eq!(pack(written(&checkpoint).path()).unwrap().shape().rope_theta, 1e6);

    let yarn = json!({"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let checkpoint = edited(CONFIG, |json| {
        without_theta(json);
        json["rope_parameters"] = yarn;
    });
    assert_refused(&checkpoint, &["config.json", "`rope_parameters`", "yarn"]);
    assert_refused(
        &edited(CONFIG, without_theta),
        &["config.json", "`rope_theta` is missing", "not guessed"],
    );
    let sliding = edited(CONFIG, |json| json["layer_types"] = json!(["full_attention", "sliding_attention"]));
    assert_refused(&sliding, &["layer_types", "sliding_attention"]);
}

#[test]
fn a_value_that_decides_is_never_guessed() {
    for key in [
        "tie_word_embeddings",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
        "mm_use_x_start_end",
        "vocab_size",
        "hidden_size",
    ] {
        let missing = edited(CONFIG, |json| drop(json.as_object_mut().unwrap().remove(key)));
        assert_refused(&missing, &["config.json", &format!("`{key}` is missing"), "state it"]);
        assert_refused(&edited(CONFIG, |json| json[key] = json!("yes")), &[&format!("`{key}` is \"yes\"")]);
    }
    let layer = edited(CONFIG, |json| json["mm_vision_select_layer"] = json!("last"));
    assert_refused(&layer, &["`mm_vision_select_layer` is \"last\""]);
    let mut scaled = Checkpoint::small();
    scaled.edit("whisper-large-v3/config.json", |json| json["scale_embedding"] = json!(true));
    assert_refused(&scaled, &["audio tower", "scale_embedding"]);
    let mut bert = Checkpoint::small();
    bert.edit("bert-base-uncased/config.json", |json| json["hidden_act"] = json!("relu"));
    let out = tempfile::tempdir().unwrap();
    let done =
        import::pack(&Options::new(written(&bert).path(), Kind::F32), &out.path().join("b"), &mut |_| ());
    assert_says(&format!("{:#}", done.unwrap_err()), &["bert-base-uncased/config.json", "relu"]);
    let mut normalised = Checkpoint::small();
    put(
        &mut normalised,
        "siglip-base-patch16-224/preprocessor_config.json",
        r#"{"image_mean": [0.48, 0.46, 0.41]}"#,
    );
    assert_refused(&normalised, &["vision tower", "image_mean", "0.48"]);
}

#[test]
fn the_end_of_a_text_is_a_token_from_the_first_file_that_states_it() {
    let generation = "R1-Omni-0.5B/generation_config.json";
    let eos = |checkpoint: &Checkpoint| pack(written(checkpoint).path()).unwrap().generation().eos.clone();
    assert_eq!(eos(&Checkpoint::small()), [272, 270]);
    let mut checkpoint = edited(generation, |json| json["eos_token_id"] = Value::Null);
    assert_eq!(eos(&checkpoint), [272]);
    checkpoint.edit(CONFIG, |json| drop(json.as_object_mut().unwrap().remove("eos_token_id")));
    assert_refused(&checkpoint, &["eos_token_id", "generation_config.json"]);
    let names = "R1-Omni-0.5B/tokenizer_config.json";
    for name in [json!("<|im_end|>"), json!({"content": "<|im_end|>", "special": true})] {
        checkpoint.edit(names, |json| json["eos_token"] = name);
        assert_eq!(eos(&checkpoint), [272]);
    }
    checkpoint.edit(names, |json| json["eos_token"] = json!("<|end|>"));
    assert_refused(&checkpoint, &["tokenizer_config.json", "`<|end|>`", "no token"]);
    // A row of the embedding that no token uses; beyond the embedding; no number; none at all.
    for (id, said) in [
        (json!(VOCAB - 1), "no token"),
        (json!([272, VOCAB]), "no token"),
        (json!("end"), "no token"),
        (json!(-1), "no token"),
        (json!(1u64 << 40), "no token"),
        (json!([]), "empty"),
    ] {
        let checkpoint = edited(generation, |json| json["eos_token_id"] = id);
        assert_refused(&checkpoint, &["eos_token_id", "generation_config.json", said]);
    }
}

#[test]
fn tokens_that_stand_beside_the_tokenizer_are_read_or_refused() {
    let names = "R1-Omni-0.5B/tokenizer_config.json";
    let end = SPECIALS_FROM as u64 + 2;
    // In tokenizer_config.json alone, as fine-tuning scripts leave it.
    let mut checkpoint = edited(TOKENIZER, |json| {
        json["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "<|im_end|>");
    });
    assert_refused(&checkpoint, &["`<|im_end|>`", "no token", "chat template"]);
    checkpoint.edit(names, |json| {
        json["added_tokens_decoder"] = json!({end.to_string(): {"content": "<|im_end|>", "special": true}});
    });
    let (found, whole) =
        (pack(written(&checkpoint).path()).unwrap(), pack(written(&Checkpoint::small()).path()).unwrap());
    assert_eq!(found.prompts(), whole.prompts());
    assert_eq!(found.vocabulary(), whole.vocabulary());

    let other =
        edited(names, |json| json["added_tokens_decoder"] = json!({"299": {"content": "<|im_end|>"}}));
    assert_refused(&other, &["tokenizer_config.json", "<|im_end|>", "299", "272"]);
    let broken = edited(names, |json| json["added_tokens_decoder"] = json!({"x": {"content": "<|a|>"}}));
    assert_refused(&broken, &["tokenizer_config.json", "`x`"]);

    let mut checkpoint = Checkpoint::small();
    put(
        &mut checkpoint,
        "R1-Omni-0.5B/added_tokens.json",
        format!("{{\"<|im_end|>\": {end}, \"happy\": 260}}"),
    );
    pack(written(&checkpoint).path()).unwrap();
    put(&mut checkpoint, "R1-Omni-0.5B/added_tokens.json", "{\"<think>\": 290}");
    assert_refused(&checkpoint, &["added_tokens.json", "`<think>`", "290"]);

    let mut slow = Checkpoint::small();
    slow.files.remove(TOKENIZER);
    put(&mut slow, "R1-Omni-0.5B/vocab.json", "{}");
    assert_refused(&slow, &["vocab.json", "no tokenizer.json", "save it again"]);
}

#[test]
fn an_index_beside_a_whole_file_is_not_used_and_missing_shards_are_counted() {
    let checkpoint = Checkpoint::small();
    let root = written(&checkpoint);
    let folder = root.path().join(OMNI);
    let whole = pack(root.path()).unwrap();
    let shard = |i: usize| format!("model-{:05}-of-00003.safetensors", i % 3 + 1);
    let map: serde_json::Map<String, Value> =
        checkpoint.omni.0.keys().enumerate().map(|(i, name)| (name.clone(), shard(i).into())).collect();
    fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(pack(root.path()).unwrap().digest(), whole.digest());

    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let first = checkpoint.omni.0.iter().enumerate().filter(|(i, _)| i % 3 == 0);
    Tensors(first.map(|(_, (name, stored))| (name.clone(), stored.clone())).collect())
        .save(&folder.join(shard(0)));
    let said = pack(root.path()).err().unwrap();
    assert_says(&said, &["index.json names 3 files", "2 are missing", &shard(1), &shard(2), "incomplete"]);
}

#[test]
fn what_is_not_the_weights_is_named_with_the_next_step() {
    let root = written(&Checkpoint::small().without("bert-base-uncased"));
    let folder = root.path().join(OMNI);
    let weights = folder.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let said = || pack(root.path()).err().expect("the checkpoint was accepted");

    fs::write(&weights, POINTER).unwrap();
    assert_says(&said(), &["model.safetensors", "Git LFS pointer", "git lfs pull"]);
    fs::write(&weights, "<!DOCTYPE html><html></html>").unwrap();
    assert_says(&said(), &["model.safetensors", "web page"]);
    fs::remove_file(&weights).unwrap();
    assert_says(&said(), &[OMNI, "neither model.safetensors nor", "get the files again"]);
    for (file, parts) in [
        ("pytorch_model.bin", ["pytorch_model.bin", "save_pretrained"]),
        ("weights.safetensors", ["weights.safetensors", "rename"]),
    ] {
        fs::write(folder.join(file), &bytes).unwrap();
        assert_says(&said(), &parts);
        fs::remove_file(folder.join(file)).unwrap();
    }
    let tower = root.path().join("whisper-large-v3/model.safetensors");
    let sound = fs::read(&tower).unwrap();
    fs::write(&weights, &bytes).unwrap();
    fs::write(&tower, POINTER).unwrap();
    assert_says(&said(), &["audio tower", "--towers embedded", "whisper-large-v3", "git lfs pull"]);
    fs::write(&tower, sound).unwrap();
    fs::remove_file(&weights).unwrap();

    fs::write(folder.join("adapter_model.safetensors"), &bytes).unwrap();
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "R1-Omni-0.5B"}"#;
    fs::write(folder.join("adapter_config.json"), adapter).unwrap();
    assert_says(&said(), &["adapter of R1-Omni-0.5B", "merge it"]);
    // As `peft` saves it: no config.json. Found in its parent and named itself.
    fs::remove_file(folder.join("config.json")).unwrap();
    assert_says(&said(), &["adapter of R1-Omni-0.5B", "merge it"]);
    assert_says(&pack(&folder).err().unwrap(), &["adapter of R1-Omni-0.5B", "merge it"]);
}

#[test]
fn a_config_that_cannot_be_read_is_named_and_not_passed_over() {
    let bytes = Checkpoint::small().files[CONFIG].clone();
    for (content, said) in [
        ([&b"\xef\xbb\xbf"[..], &bytes].concat(), "byte order mark"),
        (b"\xff\xfe{\0}\0".to_vec(), "byte order mark"),
        (POINTER.into(), "Git LFS pointer"),
        (b"{".to_vec(), "no JSON"),
    ] {
        let mut checkpoint = Checkpoint::small();
        put(&mut checkpoint, CONFIG, content.clone());
        assert_refused(&checkpoint, &["R1-Omni-0.5B/config.json", said]);
        let mut checkpoint = Checkpoint::small();
        put(&mut checkpoint, "whisper-large-v3/config.json", content);
        assert_refused(&checkpoint, &["whisper-large-v3/config.json", said]);
    }
    let mut checkpoint = Checkpoint::small();
    put(&mut checkpoint, TOKENIZER, POINTER);
    assert_refused(&checkpoint, &["tokenizer.json", "git lfs pull"]);
    let bundle = Bundle::from_bytes(POINTER.into()).err().unwrap();
    assert_says(&format!("{bundle:#}"), &["git lfs pull"]);
}

#[test]
fn templates_may_use_what_transformers_offers_but_no_date() {
    let names = "R1-Omni-0.5B/tokenizer_config.json";
    let with = |before: &str| {
        edited(names, |json| {
            json["chat_template"] = format!("{before}{}", json["chat_template"].as_str().unwrap()).into()
        })
    };
    let plain = pack(written(&Checkpoint::small()).path()).unwrap();
    for before in ["{% generation %}{% endgeneration %}", "{% set x = 'a b'.strip().split(' ')[-1] %}"] {
        let found = pack(written(&with(before)).path()).unwrap();
        assert_eq!(found.prompts(), plain.prompts(), "{before}");
    }
    let dated = with("{%- set d = strftime_now(\"%d %b %Y\") %}");
    assert_refused(&dated, &["tokenizer_config.json", "strftime_now", "every day"]);
    assert_refused(&with("<|system|>"), &["tokenizer_config.json", "`<|system|>`", "no token"]);
}

/// Shapes that make the tokenizers crate cut slices out of range or merge into nothing.
#[test]
fn hostile_merges_are_refused_by_name() {
    let long = "happy".repeat(40);
    for (merges, parts) in [
        (json!(["happy > happy"]), vec!["merge 0", "two tokens"]),
        (json!(["happy happy"]), vec!["merge 0", "`happyhappy`", "no token"]),
        (json!([["happy", "> happy"]]), vec!["merge 0", "`> happy`"]),
        (json!([["a", "n"], ["> happy", "a"]]), vec!["merge 1", "`> happy`"]),
        (json!([["a", long]]), vec!["merge 0", "no token"]),
        (json!([["a", "n"], ["a", "n"]]), vec!["merge 1", "twice"]),
        (json!([["a"]]), vec!["merge 0", "two tokens"]),
        (json!([["", "a"]]), vec!["merge 0", "``"]),
        (json!([["a", 5]]), vec!["merge 0", "two tokens"]),
        (json!([[]]), vec!["merge 0"]),
        (json!([{}]), vec!["merge 0"]),
        (json!("a n"), vec!["no list of merges"]),
        (Value::Null, vec!["no list of merges"]),
    ] {
        let hostile = edited(TOKENIZER, |json| json["model"]["merges"] = merges);
        assert_refused(&hostile, &[&["tokenizer.json"], &parts[..]].concat());
    }
}

#[test]
fn hostile_models_are_refused_by_name() {
    for (key, value) in [
        ("continuing_subword_prefix", json!("##")),
        ("continuing_subword_prefix", json!("\u{20ac}")),
        ("end_of_word_suffix", json!("</w>")),
        ("dropout", json!(0.5)),
        ("byte_fallback", json!(true)),
    ] {
        assert_refused(&edited(TOKENIZER, |json| json["model"][key] = value), &["tokenizer.json", key]);
    }
    let vocab = |edit: fn(&mut serde_json::Map<String, Value>)| {
        edited(TOKENIZER, |json| edit(json["model"]["vocab"].as_object_mut().unwrap()))
    };
    assert_refused(&vocab(|vocab| vocab.clear()), &["tokenizer.json", "the byte 0x00", "no token"]);
    assert_refused(&vocab(|vocab| drop(vocab.remove("Z"))), &["tokenizer.json", "the byte 0x5a", "`Z`"]);
    assert_refused(
        &vocab(|vocab| drop(vocab.insert(String::new(), json!(290)))),
        &["tokenizer.json", "empty"],
    );
    let outside = vocab(|vocab| drop(vocab.insert("Ġ".repeat(100), json!(VOCAB))));
    assert_refused(&outside, &["tokenizer.json", "300 rows"]);
    let twice = edited(TOKENIZER, |json| json["added_tokens"][1]["content"] = json!("<|endoftext|>"));
    assert_refused(&twice, &["tokenizer.json", "`<|endoftext|>`", "twice"]);
}

#[test]
fn stages_that_are_not_known_are_refused_by_name() {
    for stage in
        [json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), json!({"type": "Lowercase"})]
    {
        let kind = stage["type"].as_str().unwrap().to_owned();
        assert_refused(
            &edited(TOKENIZER, |json| json["normalizer"] = stage),
            &["tokenizer.json", "normalizer", &kind],
        );
    }
    let splits = |edit: fn(&mut Vec<Value>)| {
        edited(TOKENIZER, |json| edit(json["pre_tokenizer"]["pretokenizers"].as_array_mut().unwrap()))
    };
    let digits = splits(|stages| stages.insert(0, json!({"type": "Digits"})));
    assert_refused(&digits, &["tokenizer.json", "pre-tokenizer", "Digits"]);
    assert_refused(&splits(|stages| drop(stages.pop())), &["tokenizer.json", "byte-level", "Split"]);
    let pattern = splits(|stages| stages[0]["pattern"] = json!({"Regex": "(a"}));
    assert_refused(&pattern, &["tokenizer.json", "get the file again"]);
}

/// Reads an edited tokenizer.json; on success all text must come back.
fn tokenise(edit: impl FnOnce(&mut Value)) {
    use mien::bundle::prompt::Encode;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), &edited(TOKENIZER, edit).files[TOKENIZER]).unwrap();
    let Ok((published, vocabulary)) = tokenizer::read(folder.path(), VOCAB) else { return };
    let text = "happy > sad </answer> \u{4f60}\n";
    let ids: Vec<u32> = published.plain(text).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(vocabulary.text(&ids), text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_list_of_merges_ends_the_program(
        merges in proptest::collection::vec((0usize..13, 0usize..13), 0..8), pairs: bool, prefix in 0usize..4,
    ) {
        const PARTS: [&str; 13] =
            ["a", "n", "an", "happ", "y", "happy", ">", "> happy", "", " ", "\u{120}", "\u{4f60}", "aaaaaaaaaaaaaaaaaaaa"];
        tokenise(|json| {
            let merge = |&(a, b): &(usize, usize)| match pairs {
                true => json!([PARTS[a], PARTS[b]]),
                false => json!(format!("{} {}", PARTS[a], PARTS[b])),
            };
            json["model"]["merges"] = merges.iter().map(merge).collect();
            json["model"]["continuing_subword_prefix"] = [Value::Null, json!(""), json!("a"), json!("\u{4f60}")][prefix].clone();
        });
    }

    #[test]
    fn no_flip_in_a_tokenizer_ends_the_program(place in 0.0..1.0f64, bit in 0u8..7) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = Checkpoint::small().files[TOKENIZER].clone();
        let at = (place * bytes.len() as f64) as usize;
        bytes[at] ^= 1 << bit;
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        let _ = tokenizer::read(folder.path(), VOCAB);
    }
}

#[test]
fn unused_rows_are_no_text() {
    let bundle = pack(written(&Checkpoint::small()).path()).unwrap();
    let last = (VOCAB - 1) as u32;
    assert_eq!(bundle.vocabulary().text(&[last]), "");
    let text = bundle.prompts()[0]
        .video_audio
        .iter()
        .filter_map(|p| if let Piece::Text(t) = p { Some(t) } else { None });
    assert!(text.flatten().all(|&id| id < last));
}
