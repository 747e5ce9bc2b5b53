//! The gate in a whole run, with nets that hear loudness and see brightness; and what a program without nets says.

#[cfg(feature = "nets")]
mod onnx;
mod program;
mod recordings;

#[cfg(feature = "nets")]
use onnx::Detector;
use program::mien;
use serde_json::Value;
use std::{fs, path::Path};

const RATE: u32 = 16_000;
/// How a file that is no net is refused.
const NO_NET: &str = match cfg!(feature = "nets") {
    true => "the net for voice-activity",
    false => {
        "voice-activity: this program was built without nets; `cargo build --release --features nets` adds them"
    }
};
/// Seconds of each: dark and silent, bright and loud, dark and loud.
const PART: u32 = 8;
const FRAMES_PER_SECOND: u32 = 4;

fn record(folder: &Path) {
    let clip = folder.join("clip");
    fs::create_dir(&clip).unwrap();
    for i in 0..3 * PART * FRAMES_PER_SECOND {
        let bright = (PART..2 * PART).contains(&(i / FRAMES_PER_SECOND));
        let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([if bright { 230 } else { 10 }; 3]));
        picture.save(clip.join(format!("{i:04}.png"))).unwrap();
    }
    let sample = |i: u32| if i >= PART * RATE { ((i % 100) as i16 - 50) * 200 } else { 0 };
    recordings::wav(clip.join("sound.wav"), (0..3 * PART * RATE).map(sample));
}

fn run(folder: &Path, tables: &str) -> (Vec<Value>, String) {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = folder.join("site.toml");
    let text = format!(
        "device = \"gate\"\n[model]\nbundle = \"{root}/models/default.gguf\"\nreason = \"on-change\"\n[clip]\npath = \"clip\"\nframes_per_second = {FRAMES_PER_SECOND}\n\
         [policy]\npatience_ms = 1000\nenter = 0.2\nexit = 0.1\ndwell_ms = 0\n[sink.stdout]\nscores = true\n[privacy]\npurpose = \"demonstration\"\n{tables}"
    );
    fs::write(&config, text).unwrap();
    let done = mien().arg("run").arg(&config).arg("--fast").output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    let lines = String::from_utf8(done.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), said)
}

#[cfg(feature = "nets")]
fn nets(folder: &Path) -> String {
    fs::write(folder.join("ears.onnx"), onnx::listener()).unwrap();
    fs::write(folder.join("eyes.onnx"), Detector { gain: 20.0, ..Detector::default() }.onnx()).unwrap();
    "[nets.voice-activity]\nfile = \"ears.onnx\"\n[nets.face-box]\nfile = \"eyes.onnx\"\n".into()
}

fn scores(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["type"] == "scores").collect()
}

#[cfg(feature = "nets")]
#[test]
fn nobody_is_not_scored_and_one_of_two_is_scored_alone() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    let tables = nets(folder.path()) + "[gate]\n";
    let (lines, _) = run(folder.path(), &tables);
    let window = |ms: u64| scores(&lines).into_iter().find(|line| line["at_ms"] == ms);
    assert!(window(7_000).is_none(), "the model was asked, and nobody is there");
    let at = |ms: u64| window(ms).expect("a window");
    assert!(at(14_000)["nobody"].is_null() && at(14_000)["present"] == serde_json::json!(["video", "audio"]));
    assert!(!at(14_000)["plain"].as_array().unwrap().is_empty());
    assert_eq!(
        (&at(23_000)["present"], &at(23_000)["missing"]),
        (&serde_json::json!(["audio"]), &serde_json::json!(["video"]))
    );
    let people: Vec<u64> = lines
        .iter()
        .filter(|line| line["type"] == "people")
        .map(|line| line["count"].as_u64().unwrap())
        .collect();
    assert!(
        people.starts_with(&[0]) && people.iter().any(|&count| count > 0) && people.ends_with(&[0]),
        "nobody, then somebody, then nobody: {people:?}"
    );
    let unknown = lines.iter().find(|line| line["event"] == "unknown").expect("an event");
    assert_eq!((&unknown["cause"], &unknown["label"]), (&"nobody".into(), &Value::Null));
    assert_eq!(run(folder.path(), &tables).0, lines, "the same again");
}

#[cfg(feature = "nets")]
#[test]
fn without_a_gate_every_window_is_scored() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    let (lines, _) = run(folder.path(), &nets(folder.path()));
    assert!(
        scores(&lines)
            .iter()
            .all(|line| line["nobody"].is_null() && !line["plain"].as_array().unwrap().is_empty())
    );
}

/// Two people beside each other in one picture, out of the demo's clip: one is happy, one is disgusted.
#[cfg(feature = "nets")]
fn record_two(folder: &Path) {
    let (frames, _) = recordings::demo();
    let (happy, disgusted) = (&frames[75..150], &frames[525..600]);
    let clip = folder.join("clip");
    fs::create_dir(&clip).unwrap();
    for (i, (one, other)) in happy.iter().zip(disgusted).enumerate() {
        let rows = one.rgb.chunks_exact(160 * 3).zip(other.rgb.chunks_exact(160 * 3));
        let rgb = rows.flat_map(|(one, other)| [one, other].concat()).collect();
        image::RgbImage::from_raw(320, 160, rgb).unwrap().save(clip.join(format!("{i:04}.png"))).unwrap();
    }
}

#[cfg(feature = "nets")]
#[test]
fn each_face_has_a_label_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    record_two(folder.path());
    // 320 x 160 pixels stand in the net's picture as 128 x 64; the first face is a little larger.
    let faces = &[(32.0, 64.0, 33.0), (96.0, 64.0, 32.0)];
    fs::write(folder.path().join("eyes.onnx"), Detector { faces, ..Detector::default() }.onnx()).unwrap();
    let tables = "[cues]\ncrop = \"face\"\n[nets.face-box]\nfile = \"eyes.onnx\"\n";
    let site = |people: &str| tables.replace("[cues]", &format!("[cues]\npeople = \"{people}\""));
    let (lines, _) = run(folder.path(), &site("each"));
    let told: Vec<&Value> = lines.iter().filter(|line| line["type"] == "faces").collect();
    let labels = |line: &Value| -> Vec<Value> {
        line["faces"].as_array().unwrap().iter().map(|face| face["label"].clone()).collect()
    };
    let said: Vec<Vec<Value>> = told.iter().map(|line| labels(line)).collect();
    assert!(said.contains(&vec!["happy".into(), "disgust".into()]), "{said:?}");
    assert_eq!(said.last(), Some(&Vec::new()), "nobody is watched any more");
    let tracks: Vec<&Value> =
        told[0]["faces"].as_array().unwrap().iter().map(|face| &face["track"]).collect();
    assert!(tracks.len() == 2 && tracks[0] != tracks[1], "{tracks:?}");
    let begin =
        |lines: &[Value]| lines.iter().find(|line| line["event"] == "begin").unwrap()["label"].clone();
    assert_eq!(begin(&lines), "happy", "events are about the largest face");
    assert_eq!(run(folder.path(), &site("each")).0, lines, "the same again");
    let (alone, _) = run(folder.path(), &site("largest"));
    assert_eq!(begin(&alone), "happy");
    assert!(alone.iter().all(|line| line["type"] != "faces"));
    let events = |lines: &[Value]| -> Vec<Value> {
        lines.iter().filter(|line| line["type"] == "event").cloned().collect()
    };
    assert_eq!(events(&alone), events(&lines), "who stands beside changes no event");
}

#[test]
fn a_gate_without_nets_stays_open_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    let (lines, said) = run(folder.path(), "[gate]\n[nets]\nfolder = \"none\"\n");
    assert!(scores(&lines).iter().all(|line| line["nobody"].is_null()));
    assert!(said.contains("no net for voice-activity: every sound counts as a voice"), "{said}");
    assert!(said.contains("tools/nets fetch") && said.contains("no net for face-box"), "{said}");
}

#[test]
fn a_config_with_a_bad_net_or_gate_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    fs::write(folder.path().join("ears.onnx"), b"no net").unwrap();
    for (tables, said) in [
        ("[nets.voice-activity]\nfile = \"ears.onnx\"\n[gate]\n", NO_NET),
        ("[nets.face-mesh]\nfile = \"ears.onnx\"\n", "nets.face-mesh stands without nets.face-box"),
        ("[gate]\nvoice_on = 0.2\n", "gate.voice_off = 0.35 is above gate.voice_on = 0.2"),
        ("[gate]\nface_hz = 900.0\n", "gate.face_hz = 900: from 0.1 to 30"),
        ("[cues]\nground = \"sometimes\"\n", "unknown variant `sometimes`"),
    ] {
        let root = env!("CARGO_MANIFEST_DIR");
        let config = folder.path().join("bad.toml");
        let text = format!(
            "[model]\nbundle = \"{root}/models/default.gguf\"\n[clip]\npath = \"clip\"\n[sink.stdout]\n[privacy]\npurpose = \"demonstration\"\n{tables}"
        );
        fs::write(&config, text).unwrap();
        for command in ["check-config", "run"] {
            let done = mien().arg(command).arg(&config).output().unwrap();
            let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(78), "{command} {tables}: {stderr}");
            assert!(stderr.contains(said), "{command}: {stderr}");
        }
    }
}

/// The model sees a bright wall and says that there is no face; the detector sees one.
#[cfg(feature = "nets")]
#[test]
fn contradicted_claims_are_marked_dropped_or_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    record(folder.path());
    let reasons = |ground: &str| -> Vec<Value> {
        let tables = nets(folder.path()) + &format!("[cues]\nground = \"{ground}\"\n");
        let (lines, _) = run(folder.path(), &tables);
        let begins = lines.iter().filter(|line| line["event"] == "begin").count();
        let reasons: Vec<Value> = lines.into_iter().filter(|line| line["type"] == "reason").collect();
        assert_eq!(reasons.len(), begins, "{ground}: one reason for each begin");
        reasons
    };
    let contradicted = |reasons: &[Value]| -> u64 {
        reasons.iter().map(|reason| reason["grounds"]["contradicted"].as_u64().unwrap()).sum()
    };
    let (mark, drop, again) = (reasons("mark"), reasons("drop-contradicted"), reasons("ask-again"));
    assert!(contradicted(&mark) > 0, "{mark:#?}");
    assert_eq!(contradicted(&drop), 0, "{drop:#?}");
    assert!(contradicted(&again) <= contradicted(&mark));
    assert_eq!(reasons("ask-again"), again, "the same again");
    assert!(reasons("off").iter().all(|reason| reason["grounds"].is_null()));
}
