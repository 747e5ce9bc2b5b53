//! The committed bundle on the committed clip: every state told, every reason true of what was shown.

mod recordings;

use mien::cues::{Cue, claims};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{path::Path, process::Command};

#[derive(Deserialize)]
struct State {
    start_ms: u64,
    end_ms: u64,
    label: String,
    cues: Vec<Cue>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mien(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_mien")).current_dir(root()).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn every_state_of_the_demo_clip_is_told_and_the_reasons_are_true() {
    let folder = tempfile::tempdir().unwrap();
    let (events, picture) = (folder.path().join("events.jsonl"), folder.path().join("events.svg"));
    let said = mien(&["run", "models/demo/demo.toml", "--fast"]);
    std::fs::write(&events, &said).unwrap();
    let truth = "models/demo/demo.jsonl";
    let compared =
        mien(&["draw", events.to_str().unwrap(), "-o", picture.to_str().unwrap(), "--truth", truth]);
    assert!(compared.contains("8 of 8 right"), "{compared}");

    let states: Vec<State> = std::fs::read_to_string(root().join(truth))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (mut reasons, mut right, mut made, mut supported) = (0, 0, 0, 0);
    for line in said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        if line["type"] != "reason" {
            continue;
        }
        let at_ms = line["at_ms"].as_u64().unwrap();
        let state = states.iter().find(|state| (state.start_ms + 1..=state.end_ms).contains(&at_ms)).unwrap();
        let standing = claims::check(line["text"].as_str().unwrap(), &state.cues);
        right += usize::from(line["answer"] == state.label);
        (reasons, made, supported) = (reasons + 1, made + standing.claims(), supported + standing.supported);
    }
    assert_eq!(reasons, 8, "{said}");
    assert!(right >= 7, "{right} of 8 reasons end in what was shown:\n{said}");
    assert!(supported * 10 >= made * 9, "{supported} of {made} claims are true:\n{said}");
}

/// The demo's sound alone, as the bundle's temperature has it and as this place is believed.
#[test]
fn scores_of_sound_alone_are_believed_less() {
    let folder = tempfile::tempdir().unwrap();
    recordings::wav(folder.path().join("sound.wav"), recordings::demo().1);
    let run = |temperature: &str| -> Vec<Vec<f64>> {
        let site = folder.path().join("site.toml");
        let text = format!(
            "[model]\nbundle = \"{}/models/default.gguf\"\ntemperature = \"{temperature}\"\n[clip]\npath = \"sound.wav\"\n\
             [sink.stdout]\nscores = true\n[privacy]\npurpose = \"demonstration\"\n",
            root().display()
        );
        std::fs::write(&site, text).unwrap();
        let said = mien(&["run", site.to_str().unwrap(), "--fast"]);
        let lines = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let scores = lines.filter(|line| line["type"] == "scores");
        scores.map(|line| serde_json::from_value(line["plain"].clone()).unwrap()).collect()
    };
    let (fixed, followed) = (run("fixed"), run("followed"));
    assert!(fixed.len() == followed.len() && fixed.len() > 50, "{}", fixed.len());
    let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    for (fixed, followed) in fixed.iter().zip(&followed) {
        let label = top(fixed);
        assert!(followed[label] <= fixed[label] + 1e-3, "{fixed:?}, followed {followed:?}");
    }
    let surest = |rows: &[Vec<f64>]| rows.iter().map(|row| row[top(row)]).sum::<f64>() / rows.len() as f64;
    assert!(surest(&followed) < surest(&fixed) - 0.1, "{} and {}", surest(&fixed), surest(&followed));
}

/// A low threshold tells of the likeliest other label, while an episode lasts.
#[test]
fn what_is_shown_beside_a_label_belongs_to_its_episode() {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("site.toml");
    let text = format!(
        "[model]\nbundle = \"{0}/models/default.gguf\"\n[clip]\npath = \"{0}/models/demo/demo.avi\"\n\
         [policy]\nenter = 0.35\nexit = 0.25\ndwell_ms = 1000\nsecond = 0.03\n[sink.stdout]\n[privacy]\npurpose = \"demonstration\"\n",
        root().display()
    );
    std::fs::write(&site, text).unwrap();
    let said = mien(&["run", site.to_str().unwrap(), "--fast"]);
    let (mut holds, mut beside, mut told) = (None, None, 0);
    for line in said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        match (line["type"].as_str(), line["event"].as_str()) {
            (_, Some("begin")) => holds = Some((line["episode"].clone(), line["label"].clone())),
            (_, Some("end")) => holds = None,
            (Some("second"), _) if line["label"].is_string() => {
                let (episode, label) = holds.as_ref().expect("an episode lasts");
                assert!(line["episode"] == *episode && line["label"] != *label, "{line} in {holds:?}");
                assert!(line["confidence"].as_f64().unwrap() >= 0.02, "{line}");
                (beside, told) = (Some(episode.clone()), told + 1);
            }
            (Some("second"), _) => assert_eq!(beside.take().as_ref(), Some(&line["episode"]), "{line}"),
            _ => {}
        }
    }
    assert!(told > 0 && beside.is_none(), "{said}");
}

#[test]
fn the_committed_bundle_is_the_one_in_its_list() {
    let path = root().join("models/default.gguf");
    let hash: String =
        Sha256::digest(std::fs::read(&path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    let list = std::fs::read_to_string(root().join("models/README.md")).unwrap();
    assert!(list.contains(&hash), "models/README.md lacks the SHA-256 {hash} of default.gguf");
    assert!(path.metadata().unwrap().len() < 12 << 20);
}
