//! The model file: what was written comes back, and whatever is wrong with a file is refused by name.

use mien::bundle::synthetic::{self, Preset};
use mien::bundle::{Bundle, Kind, Piece};

#[test]
fn a_synthetic_bundle_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    for quant in [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0] {
        let path = folder.path().join(quant.name());
        synthetic::write_file(&path, Preset::Tiny, 7, quant, &mut |_| ()).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        assert_eq!(bundle.head(), &synthetic::head(Preset::Tiny, 7, quant).unwrap());
        assert_eq!(bundle.tensor("decoder.embed.weight").unwrap().kind, quant);
        assert_eq!(bundle.vector("decoder.norm.weight").unwrap().len(), 64);
        assert_eq!(bundle.shape(), &Preset::Tiny.shape());
        assert!(!bundle.head().trained && bundle.head().description.contains("UNTRAINED"));
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
