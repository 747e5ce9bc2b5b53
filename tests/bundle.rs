//! The model file: what was written comes back, and whatever is wrong with a file is refused by name.

use mien::bundle::synthetic::{self, Preset};
use mien::bundle::{Bundle, Kind, Piece, Recipe, Shift, shape, write};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

#[test]
fn a_synthetic_bundle_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    for quant in [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0] {
        let path = folder.path().join(quant.name());
        synthetic::write_file(&path, Preset::Tiny, 7, quant, &mut |_| ()).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.header(), &synthetic::header(Preset::Tiny, 7, quant).unwrap());
        assert_eq!(bundle.tensor("decoder.embed.weight").unwrap().kind, quant);
        assert_eq!(bundle.vector("decoder.norm.weight").unwrap().len(), 64);
        assert_eq!(bundle.shape(), &Preset::Tiny.shape());
        assert!(!bundle.header().trained && bundle.header().description.contains("UNTRAINED"));
    }
}

#[test]
fn what_a_calibration_fitted_comes_back() {
    let bundle = synthetic::bundle(Preset::Tiny, 7, Kind::Q8_0).unwrap();
    let mut head = bundle.header().clone();
    let shift = Shift { margins: [0.5, 1.25, 2.5], factors: [3.5, 1.5, 1.0], slope: 1.75 };
    let mut written = |shift| {
        head.label_sets[0].shift = Some(shift);
        let bytes = write::write_bytes(&head, false, &mut write::Stored(&bundle));
        let opened = bytes.and_then(Bundle::from_bytes).map(|opened| opened.header() == &head);
        opened.map_err(|error| format!("{error:#}"))
    };
    assert_eq!(written(shift), Ok(true));
    for (wrong, said) in [
        (Shift { margins: [0.5, f32::NAN, 2.5], ..shift }, "labels.dfew.margins"),
        (Shift { factors: [0.5, 0.0, 1.0], ..shift }, "labels.dfew.factors"),
        (Shift { slope: -1.0, ..shift }, "labels.dfew.slope"),
    ] {
        let error = written(wrong).unwrap_err();
        assert!(error.contains(said) && error.contains("positive f32"), "{error}");
    }
}

#[test]
fn kinds_of_one_seed_hold_the_same_model() {
    let exact = synthetic::bundle(Preset::Tiny, 3, Kind::F32).unwrap();
    for (quant, tolerance) in [(Kind::F16, 1e-3), (Kind::Q8_0, 2e-2), (Kind::Q4_0, 2e-1)] {
        let other = synthetic::bundle(Preset::Tiny, 3, quant).unwrap();
        for (a, b) in exact.tensors().zip(other.tensors()) {
            assert_eq!(a.name, b.name);
            let largest = a.values().iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (x, y) in a.values().iter().zip(b.values()) {
                assert!((x - y).abs() <= tolerance * largest, "{} {x} {y}", a.name);
            }
        }
    }
}

#[test]
fn prompts_are_short_and_say_what_they_should() {
    let bundle = synthetic::bundle(Preset::Tiny, 0, Kind::F32).unwrap();
    let prompt = bundle.prompt("reason").unwrap();
    let text = |pieces: &[Piece]| -> String {
        let word = |piece: &Piece| match piece {
            Piece::Text(tokens) => bundle.vocabulary().text(tokens),
            Piece::Video => "VIDEO".to_owned(),
            Piece::Audio => "AUDIO".to_owned(),
            Piece::Words => "WORDS".to_owned(),
        };
        pieces.iter().map(word).collect()
    };
    let said = text(&prompt.video_audio);
    assert!(said.starts_with(
        "system\nYou are a helpful assistant.\nuser\n<vi_start>VIDEO<vi_end>\n<au_start>AUDIO<au_end>\nAs an emotional"
    ));
    assert!(said.ends_with("<answer> </answer> tags.\nassistant\n"), "{said}");
    assert!(text(&prompt.video).contains("<vi_start>VIDEO<vi_end>\nAs an"));
    assert!(text(&prompt.audio).contains("user\n<au_start>AUDIO<au_end>\nAs an"));
    let error = bundle.prompt("shout").unwrap_err().to_string();
    assert!(error.contains("`shout`") && error.contains("reason, label"), "{error}");
}

#[test]
fn the_untrained_bundle_is_what_its_command_writes() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let committed = std::fs::read(models.join("untrained.gguf")).unwrap();
    assert!(committed.len() < 4 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("untrained.gguf");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mien"));
    let done =
        command.args(["pack", "--synthetic", "tiny", "--quant", "q8_0", "-o"]).arg(&path).status().unwrap();
    assert!(done.success());
    assert!(
        std::fs::read(&path).unwrap() == committed,
        "make the committed file again, see models/README.md"
    );
    let manifest = std::fs::read_to_string(models.join("README.md")).unwrap();
    let hash: String = Sha256::digest(&committed).iter().map(|b| format!("{b:02x}")).collect();
    assert!(manifest.contains(&hash), "models/README.md lacks the file's SHA-256 {hash}");
    let bundle = Bundle::open(&models.join("untrained.gguf")).unwrap();
    bundle.verify().unwrap();
    assert!(!bundle.header().trained && bundle.header().name.contains("untrained"));
}

#[test]
fn a_synthetic_bundle_takes_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let done = Command::new(env!("CARGO_BIN_EXE_mien"))
        .args(["pack", "--synthetic", "tiny", "--labels", "own=a,b", "-o"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && !path.exists(), "{said}");
    assert!(said.contains("name nothing but --output, --quant and --seed"), "{said}");
}

#[test]
fn inspect_shows_what_matters() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/untrained.gguf");
    let inspect = |extra: &[&str], path: &Path| {
        let done =
            Command::new(env!("CARGO_BIN_EXE_mien")).arg("inspect").args(extra).arg(path).output().unwrap();
        let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        (done.status.code(), out, err)
    };
    let (code, out, _) = inspect(&[], &model);
    assert_eq!(code, Some(0));
    for part in [
        "UNTRAINED",
        "MIT OR Apache-2.0",
        "header sha256",
        "(matches)",
        "(each matches)",
        "decoder.*.ffn_down.weight",
        "vision tower",
        "reason",
        "0.400000",
        "dfew",
        "repetition penalty",
        "<|im_end|>",
    ] {
        assert!(out.contains(part), "{part} is missing:\n{out}");
    }
    assert!(inspect(&["--tensors"], &model).1.contains("decoder.1.ffn_down.weight"));

    let folder = tempfile::tempdir().unwrap();
    let flipped = folder.path().join("flipped.gguf");
    let mut bytes = std::fs::read(&model).unwrap();
    let last = bytes.len() - 400;
    bytes[last] ^= 1;
    std::fs::write(&flipped, &bytes).unwrap();
    let (code, _, err) = inspect(&[], &flipped);
    assert_eq!(code, Some(78));
    assert!(err.contains("flipped.gguf") && err.contains("SHA-256"), "{err}");
}

#[test]
fn q4_spares_the_decoder_its_bytes_and_the_towers_their_errors() {
    let header = synthetic::header(synthetic::Preset::R1Omni05B, 1, Recipe::Q4).unwrap();
    let specs = shape::tensors(&header.shape, false);
    let kind = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap().kind(Recipe::Q4);
    for (name, wanted) in [
        ("audio.3.fc1.weight", Kind::Q8_0),
        ("vision.0.attn_q.weight", Kind::Q8_0),
        ("fusion.audio.fc2.weight", Kind::Q8_0),
        ("decoder.embed.weight", Kind::Q4_0),
        ("decoder.11.ffn_down.weight", Kind::Q4_0),
        ("decoder.0.attn_q.weight", Kind::Q4_0),
        ("decoder.0.attn_norm.weight", Kind::F32),
        ("audio.position.weight", Kind::F32),
    ] {
        assert_eq!(kind(name), wanted, "{name}");
    }
    let bytes = |recipe: Recipe| specs.iter().map(|spec| spec.entry(recipe).bytes()).sum::<usize>();
    let of = |name: &str| bytes(Recipe::from_name(name).unwrap());
    let (q4_0, q4, q8_0) = (of("q4_0"), of("q4"), of("q8_0"));
    assert!(q4_0 < q4 && q4 < q8_0, "{q4_0} {q4} {q8_0}");
}

#[test]
fn a_bundle_is_stored_anew_as_if_it_had_been_packed_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    synthetic::write_file(&path("f32"), Preset::Tiny, 7, Kind::F32, &mut |_| ()).unwrap();
    let pack = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mien"))
            .current_dir(folder.path())
            .arg("pack")
            .args(args)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for name in ["q8_0", "q4_0", "q4"] {
        let (code, said) = pack(&["f32", "-o", name, "--quant", name, "--no-self-test"]);
        assert_eq!(code, Some(0), "{said}");
        let recipe = Recipe::from_name(name).unwrap();
        let (stored, packed) =
            (Bundle::open(&path(name)).unwrap(), synthetic::bundle(Preset::Tiny, 7, recipe).unwrap());
        stored.verify().unwrap();
        assert_eq!(stored.header(), packed.header(), "{name}");
        assert!(stored.tensor_bytes() == packed.tensor_bytes(), "{name}");
    }
    for (wrong, part) in [
        (&["f32", "-o", "x", "--quant", "q5"][..], "q4_0 or q4"),
        (&["f32", "-o", "x", "--quant", "q4", "--labels", "mood=a,b"], "prompts and labels stay"),
        (&["f32", "-o", "x", "--no-self-test"], "prompts and labels stay"),
        (&["q4", "-o", "no/folder/x", "--quant", "q4_0"], "does not exist"),
    ] {
        let (code, said) = pack(wrong);
        assert!(code != Some(0) && said.contains(part), "{wrong:?}: {said}");
        assert!(!path("x").exists(), "{wrong:?}");
    }
}
