//! A bundle whose audio tower has 200 positions: it hears four seconds, and whoever asks for more is told.

mod recordings;
mod stages;

use mien::{
    bundle::{
        Bundle, Kind,
        synthetic::{self, Preset},
        write,
    },
    model::{self, Device, Input, Taps},
};
use stages::fixture;
use std::{fs, path::Path, process::Command};

const POSITIONS: usize = 200;
const SAMPLES: usize = 64_000;

fn short() -> Bundle {
    let whole = synthetic::bundle(Preset::Tiny, 1, Kind::F32).unwrap();
    let mut head = whole.header().clone();
    head.shape.audio_positions = POSITIONS;
    Bundle::from_bytes(write::write_bytes(&head, false, &mut write::Stored(&whole)).unwrap()).unwrap()
}

fn write_short(path: &Path) {
    let bundle = short();
    write::write_file(path, bundle.header(), false, &mut write::Stored(&bundle), &mut |_| ()).unwrap();
}

#[test]
fn four_seconds_are_heard_and_no_more() {
    let bundle = short();
    assert_eq!((bundle.shape().hears_ms(), bundle.shape().samples_max()), (4_000, SAMPLES));
    let sound: Vec<f32> = fixture::sound("sound", SAMPLES + 8_000).into_iter().collect();
    for device in [Device::Scalar, Device::Cpu] {
        let mut model = model::load(&bundle, device, 2).unwrap();
        let taps = Taps::of(["mel", "audio_tokens"]);
        model.observe(Some(Box::new(taps.clone())));
        let mut hear = |samples: &[f32]| {
            model.see("label", &Input { frames: None, samples: Some(samples), words: None }).unwrap();
            taps.take().into_iter().map(|t| (t.rows, t.values)).collect::<Vec<_>>()
        };
        let (long, cut) = (hear(&sound), hear(&sound[..SAMPLES]));
        assert_eq!((long[0].0, long[1].0), (2 * POSITIONS, 66));
        assert!(long == cut, "{device:?}: sound after four seconds was heard");
        assert!(hear(&sound[..SAMPLES / 2]) != cut, "{device:?}: the third second was not heard");
    }
}

#[test]
fn a_longer_window_is_refused_and_a_longer_clip_is_cut_aloud() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_short(Path::new(&path("short.gguf")));
    recordings::wav(
        path("clip.wav"),
        fixture::sound("sound", 5 * 16_000).iter().map(|s| (s * 32767.0) as i16),
    );
    let mien = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mien")).args(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };

    let (code, said) =
        mien(&["infer", &path("clip.wav"), "--bundle", &path("short.gguf"), "--mode", "label"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("4.00 s; the sound after that is not heard"), "{said}");

    for (window_ms, code) in [(4_000, 0), (8_000, 78)] {
        let config = format!(
            "[model]\nbundle = \"short.gguf\"\n[clip]\npath = \"clip.wav\"\n[sink.stdout]\n[privacy]\npurpose = \"research\"\n\
             [window]\nwindow_ms = {window_ms}\n"
        );
        fs::write(path("site.toml"), config).unwrap();
        let (found, said) = mien(&["check-config", &path("site.toml")]);
        assert_eq!(found, Some(code), "{said}");
        assert_eq!(code == 78, said.contains("set window_ms to 4000 or less"), "{said}");
    }
}
