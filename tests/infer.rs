//! `mien infer` from the outside: clips in, scores and reasons out, exit codes.

mod recordings;
mod stages;

use mien::{
    bundle::{Kind, import},
    model::{self, Decoding, Device, Input, Taps},
};
use serde_json::Value;
use stages::fixture::{self, Layout};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

fn bundle() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        fixture::write_checkpoint(root.path(), Layout::Published);
        let out = std::env::temp_dir().join(format!("mien-infer-{}", std::process::id()));
        std::fs::create_dir_all(&out).unwrap();
        let path = out.join("tiny.gguf");
        let options = import::Options { untrained: true, ..import::Options::new(root.path(), Kind::F16) };
        import::pack(&options, &path, &mut |_| {}).unwrap();
        path
    })
}

fn mien(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mien")).arg("infer").args(arguments).output().unwrap()
}

fn answer(clip: &Path, more: &[&str]) -> Value {
    let clip = clip.to_str().unwrap();
    let all =
        [&[clip, "--bundle", bundle().to_str().unwrap(), "--json", "--max-new-tokens", "30"], more].concat();
    let output = mien(&all);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder of `frames` pictures and, unless 0, `samples` of sound.
fn clip(frames: usize, samples: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..frames {
        let f = fixture::picture(&format!("frame {i}"), 60, 80);
        let picture = image::RgbImage::from_raw(f.width, f.height, f.rgb).unwrap();
        picture.save(folder.path().join(format!("{i:04}.png"))).unwrap();
    }
    if samples > 0 {
        let sound = fixture::sound("sound", samples);
        recordings::wav(folder.path().join("sound.wav"), sound.iter().map(|s| (s * 32768.0) as i16));
    }
    folder
}

/// Each token's logarithm is that of the softmax of the logits from which it was chosen, at the byte where it ends.
#[test]
fn what_is_said_is_weighed() {
    let file = mien::bundle::Bundle::open(bundle()).unwrap();
    let mut model = model::load(&file, Device::Cpu, 1).unwrap();
    let taps = Taps::of(["step_logits", "tokens"]);
    model.observe(Some(Box::new(taps.clone())));
    let weighed = Decoding { max_new_tokens: Some(20), weighed: true, ..Decoding::default() };
    model.set_decoding(weighed.clone()).unwrap();
    let samples = fixture::sound("sound", 16_000);
    model.see("reason", &Input { frames: None, samples: Some(&samples), words: None }).unwrap();
    let said = model.reason(&mut |_| {}).unwrap();
    let (steps, tokens): (Vec<_>, Vec<_>) =
        taps.take().into_iter().partition(|tapped| tapped.name == "step_logits");
    let tokens = &tokens[0].values;
    assert_eq!((said.weights.len(), said.tokens), (tokens.len(), tokens.len()));
    for ((&(end, log), &token), logits) in said.weights.iter().zip(tokens).zip(&steps) {
        assert!(said.text.is_char_boundary(end.min(said.text.len())));
        let top = logits.values.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.values.iter().map(|v| f64::from(v - top).exp()).sum();
        let expected = f64::from(logits.values[token as usize] - top) - sum.ln();
        assert!((f64::from(log) - expected).abs() < 1e-4, "{log} {expected}");
    }
    assert!(said.weights.is_sorted_by_key(|(end, _)| *end));

    // Of what cannot be otherwise nothing is doubted; unasked, nothing is weighed.
    let constrained = Decoding { max_new_tokens: Some(60), constrain_to: Some("dfew".into()), ..weighed };
    model.set_decoding(constrained.clone()).unwrap();
    model.ask("reason").unwrap();
    let said = model.reason(&mut |_| {}).unwrap();
    assert_eq!((said.weights[0].1, said.weights.last().unwrap().1), (0.0, 0.0), "{said:?}");
    model.set_decoding(Decoding { weighed: false, ..constrained }).unwrap();
    model.ask("reason").unwrap();
    let unweighed = model.reason(&mut |_| {}).unwrap();
    assert_eq!((unweighed.text, unweighed.weights), (said.text, Vec::new()));
}

fn probabilities(answer: &Value) -> Vec<f64> {
    let all = answer["scores"]["probabilities"].as_object().unwrap();
    all.values().map(|p| p.as_f64().unwrap()).collect()
}

#[test]
fn a_clip_is_scored_and_reasoned_about() {
    let clip = clip(20, 24_000);
    let both = answer(clip.path(), &[]);
    assert_eq!(both["frames"], serde_json::json!([1, 4, 6, 8, 11, 13, 15, 18]));
    assert_eq!((&both["sound_s"], &both["missing"]), (&Value::from(1.5), &serde_json::json!([])));
    assert_eq!(probabilities(&both).len(), 7);
    assert!((probabilities(&both).iter().sum::<f64>() - 1.0).abs() < 1e-4);
    assert!(both["reason"]["tokens"].as_u64().unwrap() > 0 && both["trained"] == false);
    let names: Vec<_> =
        both["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["images", "vision", "branches", "mel", "audio", "prefill", "score", "decode"]);

    let label = answer(clip.path(), &["--mode", "label", "--labels", "mafw"]);
    assert_eq!((probabilities(&label).len(), &label["reason"]), (11, &Value::Null));
    let reason = answer(clip.path(), &["--mode", "reason"]);
    assert_eq!((&reason["scores"], &reason["reason"]), (&Value::Null, &both["reason"]));
}

#[test]
fn what_a_clip_lacks_is_said() {
    let silent = answer(clip(3, 0).path(), &["--mode", "label"]);
    assert_eq!(silent["missing"], serde_json::json!(["audio"]));
    assert_eq!(silent["frames"], serde_json::json!([0, 0, 1, 1, 1, 1, 2, 2]));
    let dark = answer(clip(0, 24_000).path(), &[]);
    assert_eq!((&dark["missing"], &dark["frames_total"]), (&serde_json::json!(["video"]), &Value::from(0)));
    assert!((probabilities(&dark).iter().sum::<f64>() - 1.0).abs() < 1e-4);
    let one = answer(clip(1, 0).path(), &["--mode", "label"]);
    assert_eq!(one["frames"], serde_json::json!([0, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn a_constrained_answer_names_a_label() {
    let clip = clip(8, 16_000);
    let said =
        answer(clip.path(), &["--constrained", "--mode", "reason", "--temperature", "1", "--seed", "5"]);
    let answer = said["reason"]["answer"].as_str().unwrap();
    assert!(["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"].contains(&answer), "{said}");
}

#[test]
fn text_for_people() {
    let clip = clip(8, 16_000);
    let output = mien(&[
        clip.path().to_str().unwrap(),
        "--bundle",
        bundle().to_str().unwrap(),
        "--max-new-tokens",
        "4",
        "--backend",
        "scalar",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in
        ["UNTRAINED", "scalar reference", "8 of 8 frames", "1.00 s", "scores (dfew)", "happy", "prefill"]
    {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
}

#[test]
fn refusals_name_the_thing_and_the_code() {
    let clip = clip(1, 0);
    let clip = clip.path().to_str().unwrap();
    let bundle = bundle().to_str().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&[clip, "--bundle", "/nowhere/at/all.gguf"], 78, "/nowhere/at/all.gguf"),
        (&[clip, "--bundle", file!()], 78, file!()),
        (&["/nowhere/clip.mp4", "--bundle", bundle], 1, "/nowhere/clip.mp4"),
        (&[clip, "--bundle", bundle, "--labels", "moods"], 1, "`moods`"),
        (&[clip, "--bundle", bundle, "--prompt", "why"], 1, "`why`"),
        (&[clip, "--bundle", bundle, "--backend", "abacus"], 1, "abacus"),
    ];
    for (arguments, code, word) in cases {
        let output = mien(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}
