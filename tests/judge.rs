//! How answers are judged, beside the Python side (tests/data/claims.json) and scikit-learn (tests/data/metrics.json); manifests and
//! data sets that are not as they should be.

use mien::{
    cues::{Cue, claims},
    eval::{
        answer,
        dataset::{self, Split},
        manifest::{self, Kind},
        record::{self, About, Record},
        report::{self, Report},
    },
};
use serde_json::{Value, json};
use std::{fs, path::Path};

fn data(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn rows<'a>(data: &'a Value, key: &str) -> &'a [Value] {
    let rows = data[key].as_array().unwrap();
    assert!(rows.len() > 5, "{key}");
    rows
}

#[test]
fn claims_are_read_and_checked_as_the_trainer_does() {
    let data = data("claims.json");
    for row in rows(&data, "read") {
        let text = row["text"].as_str().unwrap();
        assert_eq!(json!(claims::read(text)), row["claims"], "{text:?}");
    }
    let logs: Vec<Vec<Cue>> = serde_json::from_value(data["cues"].clone()).unwrap();
    let mut seen = [false; 4];
    for row in rows(&data, "check") {
        let text = row["text"].as_str().unwrap();
        let log = row["cues"].as_u64().unwrap() as usize;
        let s = claims::check(text, &logs[log]);
        let found = json!({"supported": s.supported, "contradicted": s.contradicted, "absent": s.absent,
            "unsupported": s.unsupported, "cues": s.cues});
        assert_eq!(found, row["standing"], "{text:?} beside log {log}");
        let counts = [s.supported, s.contradicted, s.absent, s.unsupported];
        seen.iter_mut().zip(counts).for_each(|(seen, count)| *seen |= count > 0);
    }
    assert_eq!(seen, [true; 4], "the vectors hold every kind of claim");
}

#[test]
fn completions_and_labels_are_judged_as_the_trainer_does() {
    let data = data("claims.json");
    for row in rows(&data, "completions") {
        let text = row["text"].as_str().unwrap();
        assert_eq!(
            f64::from(u8::from(answer::well_formed(text))),
            row["format"].as_f64().unwrap(),
            "{text:?}"
        );
        assert_eq!(json!(answer::answer_of(text)), row["answer"], "{text:?}");
        assert_eq!(answer::thought_of(text), row["think"].as_str().unwrap(), "{text:?}");
    }
    for row in rows(&data, "canonical") {
        assert_eq!(answer::canonical(row[0].as_str().unwrap()), row[1].as_str().unwrap());
    }
    let labels = ["neutral", "fearful", "contemptuous"].map(String::from);
    let place = |word| answer::place(&labels, word);
    assert_eq!((place("Fear."), place("contempt"), place("sad")), (Some(1), Some(2), None));
}

fn about(labels: &[&str]) -> About {
    About {
        mien_eval: record::VERSION,
        bundle: "b".into(),
        tensors: "t".into(),
        quant: "f32".into(),
        trained: true,
        label_set: "own".into(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        temperature: 1.0,
        shift: None,
        prompt: Some("reason".into()),
        max_new_tokens: None,
        sure: None,
        audio_context: mien::model::AudioContext::Whole,
        given: "both".into(),
        measured: None,
        manifest: "m.jsonl".into(),
        manifest_sha256: "m".into(),
        fold: None,
        clips: 2,
        shard: [1, 1],
    }
}

fn near(found: Option<f64>, expected: &Value, limit: f64) -> bool {
    match (found, expected.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= limit,
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[test]
fn numbers_are_those_of_scikit_learn() {
    let cases = data("metrics.json");
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 6);
    for (n, case) in cases.iter().enumerate() {
        let texts = |key: &str| -> Vec<Option<String>> { serde_json::from_value(case[key].clone()).unwrap() };
        let scores: Vec<Vec<f32>> = serde_json::from_value(case["scores"].clone()).unwrap();
        let labels: Vec<String> = serde_json::from_value(case["labels"].clone()).unwrap();
        let about = about(&labels.iter().map(String::as_str).collect::<Vec<_>>());
        let sides = texts("truths").into_iter().zip(texts("guesses"));
        let records: Vec<Record> = sides
            .zip(scores)
            .map(|((truth, answer), scores)| Record {
                label: truth.unwrap(),
                answer,
                scores,
                ..Record::default()
            })
            .collect();
        let r: Report = report::of(&about, &records);
        let expected = &case["expected"];
        for (name, found, limit) in [
            ("uar", r.uar, 1e-9),
            ("uar_declared", r.uar_declared, 1e-9),
            ("war", r.war, 1e-9),
            ("f1", r.f1, 1e-9),
            ("uar_scores", r.uar_scores, 1e-9),
            ("war_scores", r.war_scores, 1e-9),
            ("ece", r.ece, 1e-9),
            ("brier", r.brier, 1e-9),
            ("nll", r.nll, 1e-6),
        ] {
            assert!(near(found, &expected[name], limit), "case {n}: {name} {found:?} {}", expected[name]);
        }
        for (label, recall) in r.recall.iter().enumerate() {
            assert!(near(*recall, &expected["recall"][label], 1e-9), "case {n}: recall of {label}");
        }
    }
}

#[test]
fn unknown_clips_and_errors_count_in_their_own_lines() {
    let clip = |label: &str, answer: Option<&str>, subset: &str| Record {
        label: label.into(),
        answer: answer.map(str::to_owned),
        subset: Some(subset.into()),
        scores: vec![0.75, 0.25],
        ms: 2.0,
        ..Record::default()
    };
    let mut records = vec![
        clip("a", Some("a"), "fusion"),
        clip("b", Some("unknown"), "missing"),
        clip("unknown", Some("unknown"), "unknown"),
        clip("unknown", None, "unknown"),
    ];
    records.push(Record { error: Some("gone".into()), label: "a".into(), ..Record::default() });
    let r = report::of(&about(&["a", "b"]), &records);
    assert_eq!((r.clips, r.errors, r.uar, r.war), (5, 1, Some(0.5), Some(0.5)));
    assert_eq!((r.unknown_recall, r.uar_fusion, r.uar_missing), (Some(0.5), Some(1.0), Some(0.0)));
    assert_eq!((r.uar_consistent, r.claim_precision, r.format), (None, None, None));
    assert_eq!(r.confusion, [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]);
    assert!(r.text().contains("1 of them could not be read") && r.text().contains("unknown recall"));
    let empty = report::of(&about(&["a", "b"]), &[]);
    assert_eq!((empty.uar, empty.uar_declared, empty.ece, empty.aurc), (None, None, None, None));
}

#[test]
fn manifest_problems_are_named_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.wav"), b"x").unwrap();
    let path = folder.path().join("m.jsonl");
    let labels = ["happy", "fear"].map(String::from);
    let line = |id: &str, label: &str, more: &str| {
        format!("{{\"id\": \"{id}\", \"clip\": \"a.wav\", \"label\": \"{label}\"{more}}}\n")
    };
    let text = [
        line("1", "Happiness", ", \"fold\": 1, \"subtitle\": \"hello\""),
        line("2", "afraid", ", \"fold\": 2"),
        line("1", "happy", ", \"fold\": 1"),
        line("3", "hapy", ", \"fold\": 1"),
        line("4", "unknown", ", \"fold\": 1"),
        line("5", "happy", ", \"fold\": 0"),
        line("6", "happy", ""),
        line("7", "happy", ", \"fold\": 1").replace("a.wav", "gone.wav"),
        "not JSON\n\n".to_owned(),
        line("", "happy", ""),
        line("8", "happy", ", \"cues\": [{\"modality\": \"face\", \"cue\": \"ears\", \"value\": \"red\", \"observable\": true}]"),
    ]
    .concat();
    fs::write(&path, text).unwrap();
    let mut found = manifest::read(&path, &labels).unwrap();
    let kept: Vec<_> = found.lines.iter().map(|l| (l.id.as_str(), l.label.as_str())).collect();
    assert_eq!(kept, [("1", "happy"), ("2", "fear"), ("4", "unknown")]);
    let said = manifest::describe(&found.problems);
    for part in [
        "3 bad lines, 1 missing clip, 1 unknown label, 1 duplicate id, 2 wrong folds",
        "line 3: `1` was line 1",
        "`hapy`, not one of happy, fear",
        "gone.wav",
        "line 6: `5` has fold 0",
        "line 7: `6` has no fold",
        "line 9: not JSON",
        "`id` must be a text",
        "no cue `ears`",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    assert!(found.keep_fold(7).unwrap_err().to_string().contains("folds are 1, 2"));
    found.keep_fold(2).unwrap();
    assert_eq!(found.lines.len(), 1);
    let many = vec![found.problems[0].clone(); 30];
    assert!(manifest::describe(&many).ends_with("... and 10 more"));
    assert!(manifest::read(&folder.path().join("none"), &labels).is_err());
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn kinds(found: &dataset::Found) -> Vec<Kind> {
    found.problems.iter().map(|p| p.kind).collect()
}

fn ids(found: &dataset::Found) -> Vec<(&str, &str, u64)> {
    found.lines.iter().map(|e| (e.id.as_str(), e.label.as_str(), e.fold)).collect()
}

#[test]
fn dfew_is_read_by_its_columns_and_unpadded_names() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let said = dataset::dfew(root, None, Split::Test).unwrap_err().to_string();
    assert!(said.contains("expected EmoLabel_DataSplit, found nothing"), "{said}");
    let list = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv";
    put(root, list, "\u{feff}video_name,label\n1,1\n12,6\n13,8\nx,1\n14,2\n");
    let said = dataset::dfew(root, Some(1), Split::Test).unwrap_err().to_string();
    assert!(said.contains("Clip/original") && said.contains("found EmoLabel_DataSplit"), "{said}");
    put(root, "Clip/original/1.mp4", "x");
    put(root, "Clip/original/00012.mp4", "x");
    let found = dataset::dfew(root, Some(1), Split::Test).unwrap();
    assert_eq!(ids(&found), [("dfew-00001", "happy", 1), ("dfew-00012", "disgust", 1)]);
    assert_eq!(kinds(&found), [Kind::UnknownLabel, Kind::BadLine, Kind::MissingClip, Kind::Unofficial]);
    assert!(found.problems[3].text.contains("2 clips, the official one 2341"), "{:?}", found.problems[3]);
    assert_eq!(found.lines[0].json(root)["clip"], "Clip/original/1.mp4");
    let said = dataset::dfew(root, Some(2), Split::Test).unwrap_err().to_string();
    assert!(said.contains("expected set_2.csv, found set_1.csv"), "{said}");
    assert!(dataset::dfew(root, Some(6), Split::Test).unwrap_err().to_string().contains("1 to 5"));
    assert!(dataset::dfew(root, None, Split::Train).is_err());
    put(root, list, "order,label\n");
    let said = dataset::dfew(root, Some(1), Split::Test).unwrap_err().to_string();
    assert!(said.contains("`order,label`") && said.contains("expected `video_name,label`"), "{said}");
}

#[test]
fn mafw_is_read_by_the_names_of_its_labels() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let set = "Train & Test Set/single";
    put(root, &format!("{set}/with_caption/set_1/test.txt"), "00001.mp4\tanger\tx\ty\n");
    put(root, "data/clips/00001.mp4", "x");
    put(root, "data/clips/00002.mp4", "x");
    let said = dataset::mafw(root, None, Split::Test, false).unwrap_err().to_string();
    assert!(said.contains("lack neutral") && said.contains("found with_caption"), "{said}");
    let text = "00001.mp4 anger\n00002.mp4 Helplessness\n00001.mp4 anger_disgust\n00002.mp4 4\n00002.mp4 joy\n00003.mp4 fear\n";
    put(root, &format!("{set}/no_caption/set_1/test.txt"), text);
    let found = dataset::mafw(root, Some(1), Split::Test, false).unwrap();
    assert_eq!(ids(&found), [("mafw-00001", "angry", 1), ("mafw-00002", "helpless", 1)]);
    use Kind::{MissingClip, UnknownLabel, Unofficial};
    assert_eq!(kinds(&found), [UnknownLabel, UnknownLabel, UnknownLabel, MissingClip, Unofficial]);
    let said = manifest::describe(&found.problems);
    assert!(said.contains("--compound") && said.contains("an index") && said.contains("1839"), "{said}");

    // Blends in the order of the eleven, whatever theirs is.
    let text = "00001.mp4 disgust_Anger\n00002.mp4 fear\n00002.mp4 anger_anger\n00002.mp4 anger_joy\n";
    put(root, "Train & Test Set/compound/no_caption/set_1/test.txt", text);
    let found = dataset::mafw(root, Some(1), Split::Test, true).unwrap();
    assert_eq!(ids(&found), [("mafw-00001", "angry_disgust", 1), ("mafw-00002", "fear", 1)]);
    assert_eq!(kinds(&found), [UnknownLabel, UnknownLabel]);
}

#[test]
fn ravdess_counts_each_performance_once() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    put(root, "Audio/readme.txt", "");
    let said = dataset::ravdess(root, &[], false).unwrap_err().to_string();
    assert!(said.contains("expected Actor_01 to Actor_24") && said.contains("found Audio"), "{said}");
    for name in [
        "Actor_01/01-01-02-01-01-01-01.mp4",
        "Actor_01/02-01-02-01-01-01-01.mp4",
        "Actor_01/03-01-02-01-01-01-01.wav",
        "Actor_01/01-02-02-01-01-01-01.mp4",
        "Actor_01/01-01-01-02-01-01-01.mp4",
        "Actor_01/01-01-09-01-01-01-01.mp4",
        "Actor_01/01-01-03-01-01-01-02.mp4",
        "Actor_01/clip.mp4",
        "Video_Speech_Actor_06/Actor_06/01-01-06-02-02-02-06.mp4",
    ] {
        put(root, name, "x");
    }
    let found = dataset::ravdess(root, &[], false).unwrap();
    assert_eq!(
        ids(&found),
        [("ravdess-01-01-02-01-01-01-01", "calm", 1), ("ravdess-01-01-06-02-02-02-06", "fearful", 2)]
    );
    use Kind::{BadLine, UnknownLabel, Unofficial};
    assert_eq!(kinds(&found), [BadLine, BadLine, UnknownLabel, BadLine, Unofficial, Unofficial]);
    assert!(found.notes[0].starts_with("3 files of songs"), "{:?}", found.notes);
    let merged = dataset::ravdess(root, &[1], true).unwrap();
    assert_eq!(ids(&merged), [("ravdess-01-01-02-01-01-01-01", "neutral", 1)]);
    assert!(dataset::ravdess(root, &[2], false).unwrap_err().to_string().contains("Actor_02"));
}
