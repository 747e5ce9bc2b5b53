//! The speech recogniser: a small random one, packed from the published layout, against a forward pass in f64 that shares no code with it;
//! what is said in a prompt; folders and files that are refused.

mod program;
#[allow(dead_code)]
mod published;
mod recordings;

use mien::{
    backend::cpu::{Cpu, Precision, scalar::Scalar},
    bundle::{
        Bundle, Encoder, Kind, Piece, Words,
        import::{self, WordsOptions},
        prompt::Encode,
        tokenizer,
    },
    feature::mel::Mel,
    model::{
        AudioContext, Infer, Input, Model,
        words::{Recogniser, Transcribe, Transcript},
    },
};
use published::Tensors;
use safetensors::Dtype;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

const HIDDEN: usize = 32;
const HEADS: usize = 2;
const FFN: usize = 48;
const MELS: usize = 16;
/// Of sound: 1.28 s.
const POSITIONS: usize = 64;
const LAYERS: usize = 2;
const TOKENS: usize = 24;
const VOCAB: usize = 264;
const END: u32 = 256;
const START: u32 = 257;
const SILENCE: u32 = 258;
const PLAIN: u32 = 259;

/// A folder of a recogniser as transformers saves it, with random weights.
fn folder() -> (tempfile::TempDir, Tensors) {
    let place = tempfile::tempdir().unwrap();
    let mut weights = Tensors::default();
    let f32 = Dtype::F32;
    weights.put("model.encoder.conv1.weight", &[HIDDEN, MELS, 3], f32);
    weights.put("model.encoder.conv1.bias", &[HIDDEN], f32);
    weights.put("model.encoder.conv2.weight", &[HIDDEN, HIDDEN, 3], f32);
    weights.put("model.encoder.conv2.bias", &[HIDDEN], f32);
    weights.put("model.encoder.embed_positions.weight", &[POSITIONS, HIDDEN], f32);
    weights.put("model.decoder.embed_positions.weight", &[TOKENS, HIDDEN], f32);
    weights.put("model.decoder.embed_tokens.weight", &[VOCAB, HIDDEN], f32);
    for (part, kinds) in [("encoder", &["self_attn"][..]), ("decoder", &["self_attn", "encoder_attn"])] {
        for i in 0..LAYERS {
            let at = |tail: &str| format!("model.{part}.layers.{i}.{tail}");
            for kind in kinds {
                weights.norm(&at(&format!("{kind}_layer_norm")), HIDDEN, f32);
                for (name, bias) in [("q", true), ("k", false), ("v", true), ("out", true)] {
                    weights.linear(&at(&format!("{kind}.{name}_proj")), HIDDEN, HIDDEN, bias, f32);
                }
            }
            weights.norm(&at("final_layer_norm"), HIDDEN, f32);
            weights.linear(&at("fc1"), FFN, HIDDEN, true, f32);
            weights.linear(&at("fc2"), HIDDEN, FFN, true, f32);
        }
        weights.norm(&format!("model.{part}.layer_norm"), HIDDEN, f32);
    }
    weights.save(&place.path().join("model.safetensors"));
    let write = |name: &str, json: serde_json::Value| {
        fs::write(place.path().join(name), json.to_string()).unwrap();
    };
    write(
        "config.json",
        json!({
            "model_type": "whisper", "d_model": HIDDEN, "num_mel_bins": MELS, "vocab_size": VOCAB,
            "encoder_layers": LAYERS, "encoder_attention_heads": HEADS, "encoder_ffn_dim": FFN,
            "decoder_layers": LAYERS, "decoder_attention_heads": HEADS, "decoder_ffn_dim": FFN,
            "max_source_positions": POSITIONS, "max_target_positions": TOKENS,
        }),
    );
    write(
        "generation_config.json",
        json!({
            "decoder_start_token_id": START, "eos_token_id": END, "no_timestamps_token_id": PLAIN,
            "is_multilingual": false, "suppress_tokens": [-1, 10, 11], "begin_suppress_tokens": [32, 256],
        }),
    );
    let (vocab, _) = published::byte_level();
    let special = |(id, name): (u32, &str)| json!({ "id": id, "content": name, "special": true, "lstrip": false, "rstrip": false, "single_word": false, "normalized": false });
    let added: Vec<_> = [
        (END, "<|endoftext|>"),
        (START, "<|startoftranscript|>"),
        (SILENCE, "<|nospeech|>"),
        (PLAIN, "<|notimestamps|>"),
    ]
    .into_iter()
    .map(special)
    .collect();
    let bytes: serde_json::Map<_, _> =
        vocab.into_iter().filter(|(_, id)| *id < 256).map(|(text, id)| (text, id.into())).collect();
    write(
        "tokenizer.json",
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            "post_processor": null, "decoder": null,
            "model": { "type": "BPE", "vocab": bytes, "merges": [] },
        }),
    );
    (place, weights)
}

fn options(folder: &Path) -> WordsOptions {
    WordsOptions {
        folder: folder.to_owned(),
        quant: Kind::F32.into(),
        language: "en".into(),
        name: None,
        license: Some("MIT".into()),
    }
}

fn packed(folder: &Path) -> PathBuf {
    let path = folder.join("words.gguf");
    import::words::pack(&options(folder), &path, &mut |_| ()).unwrap();
    path
}

fn sound() -> Vec<f32> {
    let wave = |i: usize| (i as f32 * 0.11).sin() * 0.3 + (i as f32 * 0.031).sin() * 0.2;
    (0..12_000).map(wave).collect()
}

/// The forward pass in f64: whole, with nothing kept from token to token.
struct Reference {
    weights: Tensors,
}

type Rows = Vec<Vec<f64>>;

impl Reference {
    fn values(&self, name: &str) -> Vec<f64> {
        self.weights.0[name].values.iter().map(|v| f64::from(*v)).collect()
    }

    fn linear(&self, name: &str, x: &Rows, bias: bool) -> Rows {
        let weight = self.values(&format!("{name}.weight"));
        let inputs = x[0].len();
        let outputs = weight.len() / inputs;
        let bias = if bias { self.values(&format!("{name}.bias")) } else { vec![0.0; outputs] };
        let one = |row: &Vec<f64>, o: usize| {
            bias[o] + (0..inputs).map(|i| row[i] * weight[o * inputs + i]).sum::<f64>()
        };
        x.iter().map(|row| (0..outputs).map(|o| one(row, o)).collect()).collect()
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        let (gain, bias) = (self.values(&format!("{name}.weight")), self.values(&format!("{name}.bias")));
        let one = |row: &Vec<f64>| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (var + 1e-5).sqrt();
            row.iter().zip(&gain).zip(&bias).map(|((v, g), b)| (v - mean) * scale * g + b).collect()
        };
        x.iter().map(one).collect()
    }

    fn conv(&self, name: &str, x: &Rows, stride: usize) -> Rows {
        let weight = self.values(&format!("{name}.weight"));
        let bias = self.values(&format!("{name}.bias"));
        let inputs = x[0].len();
        let at = |t: usize, o: usize| {
            let mut sum = bias[o];
            for tap in 0..3 {
                if let Some(row) = (t * stride + tap).checked_sub(1).and_then(|from| x.get(from)) {
                    sum += (0..inputs).map(|i| row[i] * weight[(o * inputs + i) * 3 + tap]).sum::<f64>();
                }
            }
            gelu(sum)
        };
        (0..x.len() / stride).map(|t| (0..bias.len()).map(|o| at(t, o)).collect()).collect()
    }

    fn attention(&self, name: &str, x: &Rows, over: &Rows, causal: bool) -> Rows {
        let q = self.linear(&format!("{name}.q_proj"), x, true);
        let k = self.linear(&format!("{name}.k_proj"), over, false);
        let v = self.linear(&format!("{name}.v_proj"), over, true);
        let width = HIDDEN / HEADS;
        let mut out = vec![vec![0.0; HIDDEN]; x.len()];
        for (t, row) in out.iter_mut().enumerate() {
            for head in 0..HEADS {
                let part = head * width..(head + 1) * width;
                let seen = if causal { t + 1 } else { over.len() };
                let score = |j: usize| {
                    let dot: f64 =
                        q[t][part.clone()].iter().zip(&k[j][part.clone()]).map(|(a, b)| a * b).sum();
                    dot / (width as f64).sqrt()
                };
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                for (j, s) in scores.iter().enumerate() {
                    for d in part.clone() {
                        row[d] += (s - top).exp() / total * v[j][d];
                    }
                }
            }
        }
        self.linear(&format!("{name}.out_proj"), &out, true)
    }

    fn mlp(&self, at: &str, x: &mut Rows) {
        let normed = self.norm(&format!("{at}.final_layer_norm"), x);
        let mut wide = self.linear(&format!("{at}.fc1"), &normed, true);
        wide.iter_mut().flatten().for_each(|v| *v = gelu(*v));
        add(x, &self.linear(&format!("{at}.fc2"), &wide, true));
    }

    fn encode(&self, samples: &[f32]) -> Rows {
        let mut picture = vec![0.0; 2 * POSITIONS * MELS];
        Mel::new(MELS, 2 * POSITIONS).log_mel(samples, &mut picture);
        let mel: Rows =
            picture.chunks_exact(MELS).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect();
        let mut x = self.conv("model.encoder.conv2", &self.conv("model.encoder.conv1", &mel, 1), 2);
        let places = self.values("model.encoder.embed_positions.weight");
        add(&mut x, &places.chunks_exact(HIDDEN).map(<[f64]>::to_vec).collect());
        for i in 0..LAYERS {
            let at = format!("model.encoder.layers.{i}");
            let normed = self.norm(&format!("{at}.self_attn_layer_norm"), &x);
            add(&mut x, &self.attention(&format!("{at}.self_attn"), &normed, &normed, false));
            self.mlp(&at, &mut x);
        }
        self.norm("model.encoder.layer_norm", &x)
    }

    /// Log likelihoods of every token after the last of `tokens`.
    fn next(&self, tokens: &[u32], sound: &Rows) -> Vec<f64> {
        let (embed, places) = (
            self.values("model.decoder.embed_tokens.weight"),
            self.values("model.decoder.embed_positions.weight"),
        );
        let row = |(place, id): (usize, &u32)| {
            (0..HIDDEN).map(|d| embed[*id as usize * HIDDEN + d] + places[place * HIDDEN + d]).collect()
        };
        let mut x: Rows = tokens.iter().enumerate().map(row).collect();
        for i in 0..LAYERS {
            let at = format!("model.decoder.layers.{i}");
            let normed = self.norm(&format!("{at}.self_attn_layer_norm"), &x);
            add(&mut x, &self.attention(&format!("{at}.self_attn"), &normed, &normed, true));
            let normed = self.norm(&format!("{at}.encoder_attn_layer_norm"), &x);
            add(&mut x, &self.attention(&format!("{at}.encoder_attn"), &normed, sound, false));
            self.mlp(&at, &mut x);
        }
        let last = self.norm("model.decoder.layer_norm", &x).pop().unwrap();
        let logits: Vec<f64> =
            (0..VOCAB).map(|id| (0..HIDDEN).map(|d| last[d] * embed[id * HIDDEN + d]).sum()).collect();
        let top = logits.iter().copied().fold(f64::MIN, f64::max);
        let total = logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln() + top;
        logits.iter().map(|l| l - total).collect()
    }

    /// Greedy, with the tokens that are barred.
    fn transcribe(&self, samples: &[f32]) -> (Vec<u32>, f64, f64) {
        let sound = self.encode(samples);
        let mut tokens = vec![START, PLAIN];
        let silence = self.next(&[START], &sound)[SILENCE as usize].exp();
        let (mut sum, mut made) = (0.0, Vec::new());
        while tokens.len() < TOKENS / 2 {
            let logs = self.next(&tokens, &sound);
            let open = |id: u32| {
                id <= END && ![10, 11].contains(&id) && !(made.is_empty() && [32, 256].contains(&id))
            };
            let best = (0..VOCAB as u32).filter(|id| open(*id));
            let best = best.max_by(|a, b| logs[*a as usize].total_cmp(&logs[*b as usize])).unwrap();
            sum += logs[best as usize];
            made.push(best);
            tokens.push(best);
            if best == END {
                break;
            }
        }
        let count = made.len() as f64;
        (made, sum / count, silence)
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))
}

fn add(x: &mut Rows, more: &Rows) {
    x.iter_mut().flatten().zip(more.iter().flatten()).for_each(|(a, b)| *a += b);
}

#[test]
fn both_backends_hear_what_the_reference_hears() {
    let (place, weights) = folder();
    let bundle = Words::open(&packed(place.path())).unwrap();
    let reference = Reference { weights };
    let refused = Recogniser::load(Scalar, &bundle, AudioContext::Brief).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|said| said.contains("choose whole or speech")), "it has no prompt");
    let scalar = Recogniser::load(Scalar, &bundle, AudioContext::Whole).unwrap();
    let cpu = Recogniser::load(Cpu::new(2, Precision::F32).unwrap(), &bundle, AudioContext::Whole).unwrap();
    let both: [(&str, Box<dyn Transcribe>); 2] = [("scalar", Box::new(scalar)), ("cpu", Box::new(cpu))];
    for (name, mut recogniser) in both {
        // The second sound must leave nothing of the first.
        for samples in [sound(), vec![0.0; 3_000], sound()[..7_000].to_vec()] {
            let (made, log, silence) = reference.transcribe(&samples);
            let heard = recogniser.transcribe(&samples).unwrap();
            let text: Vec<u8> = made.iter().filter(|id| **id < 256).map(|id| *id as u8).collect();
            assert_eq!(heard.text, String::from_utf8_lossy(&text).trim(), "{name}");
            assert_eq!(heard.tokens, made.len(), "{name}: {made:?}");
            assert!((f64::from(heard.log_likelihood) - log).abs() < 1e-4, "{name}: {heard:?} {log}");
            assert!((f64::from(heard.silence) - silence).abs() < 1e-5, "{name}: {heard:?} {silence}");
        }
    }
}

#[test]
fn a_short_context_is_the_whole_one_where_all_is_sound() {
    let (place, _) = folder();
    let bundle = Words::open(&packed(place.path())).unwrap();
    let open = |context| Recogniser::load(Scalar, &bundle, context).unwrap();
    let whole = vec![0.1f32; POSITIONS * 320];
    let (mut all, mut short) = (open(AudioContext::Whole), open(AudioContext::Speech));
    assert_eq!(all.transcribe(&whole).unwrap(), short.transcribe(&whole).unwrap());
    let few = sound()[..1_600].to_vec();
    let first = short.transcribe(&few).unwrap();
    short.transcribe(&whole).unwrap();
    assert_eq!(short.transcribe(&few).unwrap(), first, "what was heard before is gone");
}

#[test]
fn what_nobody_said_is_not_believed() {
    let said = |text: &str, log_likelihood, silence| Transcript {
        text: text.into(),
        tokens: 3,
        log_likelihood,
        silence,
        repeats: false,
    };
    assert!(said("yes", -0.3, 0.1).heard());
    assert!(said("yes", -0.3, 0.9).heard(), "likely words count, whatever the silence");
    assert!(said("yes", -1.4, 0.1).heard());
    assert!(!said("yes", -1.4, 0.9).heard());
    assert!(!said("", -0.1, 0.1).heard());
    assert!(!Transcript { repeats: true, ..said("so so so so", -0.1, 0.1) }.heard());
}

fn refused(folder: &Path, options: &WordsOptions, parts: &[&str]) {
    let path = folder.join("refused.gguf");
    let error = import::words::pack(options, &path, &mut |_| ()).unwrap_err();
    let said = format!("{error:#}");
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert!(!path.exists(), "nothing is left");
}

#[test]
fn folders_that_are_no_recogniser_are_refused() {
    let (place, _) = folder();
    let at = place.path();
    refused(at, &WordsOptions { language: "de".into(), ..options(at) }, &["English only", "`de`"]);
    refused(at, &options(&at.join("none")), &["none", "not a folder"]);
    let change = |name: &str, key: &str, value: serde_json::Value, parts: &[&str]| {
        let before = fs::read(at.join(name)).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&before).unwrap();
        json[key] = value;
        fs::write(at.join(name), json.to_string()).unwrap();
        refused(at, &options(at), parts);
        fs::write(at.join(name), before).unwrap();
    };
    change("config.json", "model_type", json!("wav2vec2"), &["config.json", "wav2vec2", "whisper"]);
    change("config.json", "d_model", json!(30), &["conv1.weight"]);
    change("config.json", "decoder_attention_heads", json!(5), &["decoder_attention_heads", "5 heads"]);
    change("config.json", "vocab_size", json!(100), &["tokenizer.json"]);
    change("generation_config.json", "eos_token_id", json!("end"), &["eos_token_id"]);
    change("generation_config.json", "suppress_tokens", json!([9_999]), &["whisper.barred", "9999"]);
    change("generation_config.json", "decoder_start_token_id", json!(null), &["decoder_start_token_id"]);
    change("generation_config.json", "is_multilingual", json!(true), &["language `en`"]);
    change("tokenizer.json", "added_tokens", json!([]), &["nobody speaks"]);
    fs::remove_file(at.join("model.safetensors")).unwrap();
    refused(at, &options(at), &["model.safetensors"]);
}

#[test]
fn files_of_the_other_kind_are_refused_by_name() {
    let (place, _) = folder();
    let words = packed(place.path());
    let error = Bundle::open(&words).err().unwrap();
    assert!(format!("{error:#}").contains("`whisper`"), "{error:#}");
    let error = Words::open(Path::new("models/default.gguf")).err().unwrap();
    assert!(format!("{error:#}").contains("mien pack --whisper"), "{error:#}");
    let mut bytes = fs::read(&words).unwrap();
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    fs::write(&words, bytes).unwrap();
    let damaged = Words::open(&words).unwrap();
    assert!(damaged.verify().is_err());
    assert!(Recogniser::load(Scalar, &damaged, AudioContext::Whole).is_err());
}

/// Text of letters, digits, signs, spaces and line ends, drawn at random.
fn texts() -> impl Iterator<Item = String> {
    let mut state = 7u64;
    let mut draw = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let parts = [
        "I",
        "'m",
        "'ll",
        " it",
        "'s",
        "the",
        " the",
        " happy",
        "42",
        " 7",
        "!",
        "?!",
        " ...",
        "\n",
        "\r\n",
        "  ",
        "\t",
        "\u{4f60}\u{597d}",
        "\u{3002}",
        "\u{e9}t\u{e9}",
        " \u{df}",
        "-",
        "\"",
        " (",
        "D'",
        "x1y",
        "\u{1f600}",
        " ",
    ];
    (0..2_000).map(move |_| (0..draw(12) + 1).map(|_| parts[draw(parts.len())]).collect())
}

#[test]
fn the_device_cuts_text_into_the_tokens_that_the_published_tokenizer_does() {
    let folder = Path::new("tests/fixtures/checkpoint/R1-Omni-0.5B");
    let (published, vocabulary) = tokenizer::read(folder, 512).unwrap();
    let encoder = Encoder::new(&vocabulary);
    for text in texts() {
        let theirs: Vec<u32> = published.plain(&text).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(encoder.encode(&text), theirs, "{text:?}");
    }
}

#[test]
fn a_prompt_has_a_place_for_what_is_said() {
    let place = tempfile::tempdir().unwrap();
    let mut checkpoint = published::Checkpoint::small();
    checkpoint.edit("R1-Omni-0.5B/generation_config.json", |json| json["max_new_tokens"] = json!(64));
    let root = checkpoint.write(place.path());
    let path = place.path().join("words.gguf");
    let ask = |text: &str| import::Options {
        prompts: vec![("said".into(), text.into())],
        ..import::Options::new(&root, Kind::F32)
    };
    let error = import::pack(&ask("{words} and {words}"), &path, &mut |_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("more than once"), "{error:#}");
    import::pack(&ask("They say: {words}. What do they feel?"), &path, &mut |_| ()).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    assert!(bundle.prompt("said").unwrap().has(&Piece::Words));
    assert!(!bundle.prompt("label").unwrap().has(&Piece::Words));

    let mut model = Model::load(Scalar, &bundle).unwrap();
    let samples = sound();
    let mut scores = |prompt: &str, words: Option<&str>| {
        model.see(prompt, &Input { frames: None, samples: Some(&samples), words }).unwrap();
        model.score("dfew").unwrap().probabilities.clone()
    };
    let (nothing, yes) = (scores("said", None), scores("said", Some("yes")));
    assert_ne!(nothing, yes, "the words are in the prompt");
    assert_eq!(scores("said", Some("")), nothing);
    assert_eq!(scores("said", Some("yes")), yes);
    assert_eq!(scores("label", Some("yes")), scores("label", None), "a prompt without the place");
    let long = "yes no ".repeat(500);
    scores("said", Some(&long));
}

/// A folder with a recogniser, a tiny model and a recording of 3 s.
fn site() -> tempfile::TempDir {
    let (place, _) = folder();
    packed(place.path());
    fs::copy(program::material().join("tiny.gguf"), place.path().join("tiny.gguf")).unwrap();
    recordings::wav(
        place.path().join("sound.wav"),
        (0..48_000).map(|i| ((i as f32 * 0.11).sin() * 9_000.0) as i16),
    );
    place
}

fn config(place: &Path, words: &str, window_ms: u32) -> PathBuf {
    let path = place.join("site.toml");
    let text = format!(
        "[model]\nbundle = \"tiny.gguf\"\nreason = \"on-change\"\nreason_tokens = 4\n[words]\n{words}\n[clip]\npath = \"sound.wav\"\n\
         [window]\nwindow_ms = {window_ms}\nhop_ms = 500\n[policy]\nenter = 0.01\nexit = 0.0\ndwell_ms = 0\n[sink.stdout]\n\
         [privacy]\npurpose = \"museum-guide\"\n"
    );
    fs::write(&path, text).unwrap();
    path
}

/// What a command says, and its exit code.
fn said(command: &mut std::process::Command) -> (String, Option<i32>) {
    let output = command.output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&both).into_owned(), output.status.code())
}

#[test]
fn a_run_hears_words_beside_the_model() {
    let place = site();
    let at = place.path();
    let site = config(at, "bundle = \"words.gguf\"", 1_000);
    let (text, code) = said(program::mien().args(["check-config", site.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{text}");
    let row = text.lines().find(|row| row.contains("speech recogniser")).unwrap();
    assert!(row.contains("MiB"), "{row}");
    let (text, code) = said(program::mien().args(["run", "--fast", site.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\"reason\""), "{text}");
    assert!(!text.contains("done with"), "{text}");

    let (clip, words) = (at.join("sound.wav"), at.join("words.gguf"));
    let (text, code) =
        said(program::mien().arg("cues").arg(&clip).arg("--words").arg(&words).args(["--window-ms", "1000"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.lines().all(|line| line.contains("\"words\":")), "{text}");
    let bundle = at.join("tiny.gguf");
    let infer = ["--mode", "label", "--json"];
    let (text, code) = said(
        program::mien()
            .arg("infer")
            .arg(&clip)
            .arg("--bundle")
            .arg(&bundle)
            .arg("--words")
            .arg(&words)
            .args(infer),
    );
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\"words\":"), "{text}");
    let (text, code) = said(program::mien().arg("inspect").arg(&words));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("<|startoftranscript|>") && text.contains("1280 ms"), "{text}");
}

#[test]
fn a_config_with_words_that_cannot_be_heard_is_refused() {
    let place = site();
    for (words, window_ms, parts) in [
        ("", 1_000, ["words.bundle", "mien pack --whisper"]),
        ("bundle = \"none.gguf\"", 1_000, ["words.bundle", "none.gguf"]),
        ("bundle = \"tiny.gguf\"", 1_000, ["words.bundle", "no speech recogniser"]),
        ("bundle = \"words.gguf\"", 2_000, ["window_ms = 2000", "1280 ms"]),
        ("bundel = \"words.gguf\"", 1_000, ["bundel", "bundle"]),
    ] {
        let site = config(place.path(), words, window_ms);
        for command in ["check-config", "run"] {
            let (text, code) = said(program::mien().arg(command).arg(&site));
            assert_eq!(code, Some(78), "{command}: {text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{command}: {text}");
        }
    }
}
