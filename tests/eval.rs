//! `mien eval` and `mien calibrate` from the outside: results, resuming, shards, refusals.

mod recordings;

use mien::bundle::{
    Bundle, Kind,
    synthetic::{self, Preset},
};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Command};
use tempfile::TempDir;

const LABELS: [&str; 7] = ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"];

/// A folder with a tiny bundle and `clips` clips of one picture each, some of the same picture.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new(clips: u32) -> Bench {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        synthetic::write_file(&bench.path("tiny.gguf"), Preset::Tiny, 1, Kind::F32, &mut |_| ()).unwrap();
        let mut lines = String::new();
        for i in 0..clips {
            let clip = format!("{i}.png");
            let picture = image::RgbImage::from_fn(32, 24, |x, y| {
                image::Rgb([(x * 8 * (i % 5)) as u8, (y * 10) as u8, (i * 40) as u8])
            });
            picture.save(bench.path(&clip)).unwrap();
            let cue = json!({"modality": "face", "cue": "brow", "value": "raised", "observable": true});
            let label = LABELS[i as usize % 7];
            let fold = u64::from(i % 2) + 1;
            let line = json!({"id": format!("c{i}"), "clip": clip, "label": label, "fold": fold, "subset": "fusion",
                "cues": [cue]});
            lines += &format!("{line}\n");
        }
        fs::write(bench.path("m.jsonl"), lines).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `mien` in the folder: exit code and all that was said.
    fn mien(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_mien"))
            .args(args)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    fn calibrate(&self, more: &[&str]) -> (i32, String) {
        self.mien(&[&["calibrate", "tiny.gguf", "--manifest", "m.jsonl"], more].concat())
    }

    fn eval(&self, more: &[&str]) -> (i32, String) {
        let all = ["eval", "tiny.gguf", "--manifest", "m.jsonl", "--max-new-tokens", "4", "--threads", "1"];
        self.mien(&[&all, more].concat())
    }

    fn fine(&self, more: &[&str]) -> String {
        let (code, said) = self.eval(more);
        assert_eq!(code, 0, "{said}");
        said
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Records without their times.
    fn records(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let timeless = |line: &str| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            (record["ms"], record["read_ms"]) = (Value::Null, Value::Null);
            record
        };
        text.lines().skip(1).map(timeless).collect()
    }
}

#[test]
fn a_run_is_reported_stopped_gone_on_with_and_sharded() {
    let bench = Bench::new(6);
    let said = bench.fine(&["--out", "all"]);
    for part in ["UNTRAINED", "6 clips", "UAR, declared", "fusion", "all.html"] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    let whole = bench.records("all.jsonl");
    assert_eq!(whole.len(), 6);
    let report = bench.json("all.json");
    assert_eq!((&report["report"]["clips"], &report["about"]["trained"]), (&json!(6), &json!(false)));
    assert_eq!(report["report"]["cue_clips"], 6);
    let right = whole.iter().filter(|r| r["answer"] == r["label"]).count();
    assert_eq!(report["report"]["war"], json!(right as f64 / 6.0));
    let page = fs::read_to_string(bench.path("all.html")).unwrap();
    assert!(page.matches("<svg").count() == 5 && !page.contains("<script") && !page.contains("src="));

    // Pictures of different clips are not mixed up: alone, each is scored as in the run.
    let alone = bench.mien(&[
        "infer",
        "4.png",
        "--bundle",
        "tiny.gguf",
        "--mode",
        "label",
        "--json",
        "--threads",
        "1",
    ]);
    let alone: Value = serde_json::from_str(&alone.1).unwrap();
    for (label, score) in LABELS.iter().zip(whole[4]["scores"].as_array().unwrap()) {
        let p = alone["scores"]["probabilities"][label].as_f64().unwrap();
        assert!((p - score.as_f64().unwrap()).abs() < 1e-5, "{label}: {p} beside {score}");
    }
    assert_ne!(whole[4]["scores"], whole[3]["scores"]);

    // Cut in the middle of the fourth record: three are kept, three made again.
    let text = fs::read_to_string(bench.path("all.jsonl")).unwrap();
    let cut = text.lines().take(4).map(|l| l.len() + 1).sum::<usize>() + 20;
    fs::write(bench.path("cut.jsonl"), &text[..cut]).unwrap();
    bench.fine(&["--out", "cut"]);
    assert_eq!(bench.records("cut.jsonl"), whole);
    assert!(
        fs::read_to_string(bench.path("cut.jsonl")).unwrap().starts_with(&text[..cut - 20]),
        "not made again"
    );

    for shard in ["1/2", "2/2"] {
        let said = bench.fine(&["--out", "part", "--shard", shard]);
        assert!(said.contains("3 of 6 clips") && said.contains("eval merge"), "{said}");
    }
    let (first, second) = ("part.1-of-2.jsonl", "part.2-of-2.jsonl");
    let (code, said) = bench.mien(&["eval", "merge", first, "--out", "half"]);
    assert!(code == 1 && said.contains("3 of 6 clips are missing") && said.contains("is 1/2"), "{said}");
    let (code, said) = bench.mien(&["eval", "merge", first, first, "--out", "half"]);
    assert!(code == 1 && said.contains("`c0` is in"), "{said}");
    let (code, said) = bench.mien(&["eval", "merge", first, second, "--out", "merged"]);
    assert_eq!(code, 0, "{said}");
    let mut merged = bench.records("merged.jsonl");
    merged.sort_by_key(|r| r["id"].to_string());
    assert_eq!(merged, whole);
    assert_eq!(bench.json("merged.json")["report"]["uar"], report["report"]["uar"]);

    let (code, said) = bench.eval(&["--out", "all", "--fold", "2"]);
    assert!(code == 1 && said.contains("another run") && said.contains("choose another --out"), "{said}");
    bench.fine(&["--out", "fold", "--fold", "2", "--scores-only"]);
    let fold = bench.records("fold.jsonl");
    assert!(fold.len() == 3 && fold.iter().all(|r| r["said"].is_null() && r["format"].is_null()));
    assert_eq!(fold[0]["scores"], whole[1]["scores"]);
}

#[test]
fn what_is_wrong_is_named_and_strict_fails() {
    let bench = Bench::new(3);
    let mut lines = fs::read_to_string(bench.path("m.jsonl")).unwrap();
    lines += &lines.lines().next().unwrap().replace("c0", "gone").replace("0.png", "gone.png");
    lines += "\n";
    lines += &lines.lines().next().unwrap().replace("c0", "empty").replace("0.png", "empty.png");
    fs::write(bench.path("m.jsonl"), lines).unwrap();
    fs::write(bench.path("empty.png"), b"").unwrap();
    let said = bench.fine(&["--scores-only"]);
    for part in [
        "1 missing clip\n",
        "gone.png",
        "4 clips remain",
        "1 of them could not be read",
        "empty.png is empty",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
    assert_eq!(bench.json("eval.json")["report"]["errors"], 1);
    // A clip that could not be read is tried again.
    fs::copy(bench.path("1.png"), bench.path("empty.png")).unwrap();
    assert!(!bench.fine(&["--scores-only"]).contains("could not be read"));

    let (code, said) = bench.eval(&["--strict"]);
    assert!(code == 1 && said.contains("gone.png"), "{said}");
    for (args, part) in [
        (&["--fold", "9"][..], "no fold 9"),
        (&["--shard", "3/2"], "no shard 3/2"),
        (&["--labels", "moods"], "`moods`"),
        (&["--audio-only", "--video-only"], "cannot be used with"),
    ] {
        let (code, said) = bench.eval(args);
        assert!(code == 1 && said.contains(part), "{args:?}: {said}");
    }
    let (code, said) = bench.eval(&["--audio-only", "--strict", "--out", "mute"]);
    assert!(code == 1 && said.contains("gone.png"), "{said}");
    let (_, said) =
        bench.mien(&["eval", "tiny.gguf", "--manifest", "m.jsonl", "--audio-only", "--out", "mute"]);
    assert!(said.contains("has nothing for a model that is given audio"), "{said}");
    fs::write(bench.path("other.jsonl"), "{\"a\": 1}\n").unwrap();
    fs::write(bench.path("line.jsonl"), "{\"id\": 1}").unwrap();
    let (code, said) = bench.eval(&["--out", "line"]);
    assert!(code == 1 && said.contains("line.jsonl is no result of `mien eval`"), "{said}");
    assert_eq!(fs::read(bench.path("line.jsonl")).unwrap(), b"{\"id\": 1}", "left as it was");
    let (code, said) = bench.eval(&["--out", "other"]);
    assert!(code == 1 && said.contains("other.jsonl is no result of `mien eval`"), "{said}");
    let (code, said) = bench.mien(&["eval", "import", "dfew", ".", "-o", "d.jsonl"]);
    assert!(
        code == 78 && said.contains("not laid out as dfew") && said.contains("EmoLabel_DataSplit"),
        "{said}"
    );
}

#[test]
fn an_import_can_be_evaluated() {
    let bench = Bench::new(2);
    let actor = bench.path("ravdess/Actor_03");
    fs::create_dir_all(&actor).unwrap();
    for (i, name) in ["01-01-03-01-01-01-03.mp4", "01-01-06-01-01-01-03.mp4"].iter().enumerate() {
        fs::copy(bench.path(&format!("{i}.png")), actor.join(name)).unwrap();
    }
    let (code, said) = bench.mien(&["eval", "import", "ravdess", "ravdess", "-o", "r.jsonl"]);
    assert!(code == 0 && said.contains("Actor_03 has 2 clips, the official one 60"), "{said}");
    let args = [
        "eval",
        "tiny.gguf",
        "--manifest",
        "r.jsonl",
        "--labels",
        "ravdess",
        "--scores-only",
        "--out",
        "said",
    ];
    let (code, said) = bench.mien(&args);
    assert_eq!(code, 0, "{said}");
    let labels: Vec<_> = bench.records("said.jsonl").iter().map(|r| r["label"].clone()).collect();
    assert_eq!(labels, ["happy", "fearful"]);
    let (code, said) = bench.mien(&["eval", "import", "ravdess", "ravdess", "-o", "s.jsonl", "--strict"]);
    assert!(code == 1 && !bench.path("s.jsonl").exists(), "{said}");
}

/// RAVDESS comes with tables of facial landmarks that are named as the films are.
#[test]
fn an_import_takes_films_and_counts_what_it_took() {
    let bench = Bench::new(2);
    let actor = bench.path("ravdess/Actor_03");
    let again = bench.path("ravdess/Video_Speech_Actor_03/Actor_03");
    fs::create_dir_all(&actor).unwrap();
    fs::create_dir_all(&again).unwrap();
    for i in 1..=8 {
        fs::write(actor.join(format!("01-01-0{i}-01-01-01-03.csv")), "frame,x_0,y_0\n").unwrap();
    }
    fs::write(actor.join("._01-01-03-01-01-01-03.mp4"), "").unwrap();
    fs::create_dir(actor.join("01-01-05-01-01-01-03.mp4")).unwrap();
    for name in ["01-01-03-01-01-01-03.mp4", "03-01-03-01-01-01-03.wav"] {
        fs::copy(bench.path("0.png"), actor.join(name)).unwrap();
    }
    fs::copy(bench.path("0.png"), again.join("01-01-03-01-01-01-03.mp4")).unwrap();
    let (code, said) = bench.mien(&["eval", "import", "ravdess", "ravdess", "-o", "r.jsonl"]);
    assert_eq!(code, 0, "{said}");
    let lines = fs::read_to_string(bench.path("r.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("ravdess-01-01-03-01-01-01-03") && lines.contains(".mp4"), "{lines}");
    assert!(said.contains("Actor_03 has 1 clips") && said.contains("is there twice"), "{said}");
    assert!(said.contains("10 files that are no films") && said.contains("1 files of songs"), "{said}");
    let (code, said) = bench.mien(&["eval", "import", "ravdess", "ravdess", "-o", "s.jsonl", "--strict"]);
    assert!(code == 1 && !bench.path("s.jsonl").exists(), "{said}");
}

/// Labels that are mostly what the bundle says anyway, so that a temperature fits.
fn learned(bench: &Bench) -> String {
    let (code, said) =
        bench.mien(&["eval", "tiny.gguf", "--manifest", "m.jsonl", "--scores-only", "--out", "before"]);
    assert_eq!(code, 0, "{said}");
    let lines = fs::read_to_string(bench.path("m.jsonl")).unwrap();
    let mut learned = String::new();
    for (i, (line, record)) in lines.lines().zip(bench.records("before.jsonl")).enumerate() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if i % 3 > 0 {
            line["label"] = record["answer"].clone();
        }
        learned += &format!("{line}\n");
    }
    fs::write(bench.path("m.jsonl"), &learned).unwrap();
    learned
}

#[test]
fn a_temperature_is_fitted_and_stored_and_nothing_else_changes() {
    let bench = Bench::new(56);
    let learned = learned(&bench);
    let old = Bundle::open(&bench.path("tiny.gguf")).unwrap();
    let (code, said) = bench.calibrate(&["-o", "new.gguf"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("ECE") && said.contains("weights unchanged"), "{said}");
    let new = Bundle::open(&bench.path("new.gguf")).unwrap();
    new.verify().unwrap();
    assert_eq!(new.tensor_bytes(), old.tensor_bytes());
    let mut head = new.header().clone();
    assert_ne!(head.label_sets[0].temperature, old.header().label_sets[0].temperature);
    head.label_sets[0].temperature = old.header().label_sets[0].temperature;
    assert_eq!(head, *old.header());

    // The engine scores at the new temperature, with the loss that was promised.
    let row = |said: &str, name: &str| -> Vec<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap().replace('%', "");
        line.split_whitespace().map(|n| n.parse().unwrap()).collect()
    };
    let [_, _, ece_before, nll_before, ece, nll] = row(&said, "as they are")[..] else { panic!("{said}") };
    // Clips beside are told of and change nothing; the same clips have the same figures.
    fs::copy(bench.path("m.jsonl"), bench.path("too.jsonl")).unwrap();
    let (code, beside) =
        bench.calibrate(&["-o", "beside.gguf", "--beside", "m.jsonl", "--beside", "too.jsonl"]);
    assert_eq!(code, 0, "{beside}");
    for name in ["beside: m.jsonl", "beside: too.jsonl"] {
        assert_eq!(row(&beside, name), row(&said, "as they are"));
    }
    assert_eq!(fs::read(bench.path("beside.gguf")).unwrap(), fs::read(bench.path("new.gguf")).unwrap());
    fs::write(bench.path("shifted.jsonl"), learned.lines().next().unwrap().replace("\"label\"", "\"lable\""))
        .unwrap();
    let (code, refused) = bench.calibrate(&["-o", "beside.gguf", "--beside", "shifted.jsonl"]);
    assert!(code != 0 && refused.contains("shifted.jsonl"), "{code}: {refused}");
    let args = ["eval", "new.gguf", "--manifest", "m.jsonl", "--scores-only", "--out", "after"];
    let (code, after) = bench.mien(&args);
    assert_eq!(code, 0, "{after}");
    let report = &bench.json("after.json")["report"];
    for (promised, key) in [(nll, "nll"), (ece, "ece")] {
        assert!((report[key].as_f64().unwrap() - promised).abs() < 1e-3, "{report} beside {said}");
    }
    assert!(nll < nll_before && ece_before > 0.0, "{said}");
    assert!(report["ece_followed"].is_null(), "nothing was fitted for it");
    let (code, said) = bench.mien(&["calibrate", "new.gguf", "--manifest", "m.jsonl"]);
    assert_eq!(code, 0, "{said}");
    let twice = Bundle::open(&bench.path("new.gguf")).unwrap().header().label_sets[0].temperature;
    let once = new.header().label_sets[0].temperature;
    assert!((twice / once - 1.0).abs() < 1e-3, "a second fit finds the same: {once}, {twice}");
}

#[test]
fn clips_that_no_temperature_can_be_fitted_on_are_refused_and_nothing_is_written() {
    let bench = Bench::new(56);
    let learned = learned(&bench);
    let bytes = Bundle::open(&bench.path("tiny.gguf")).unwrap().file_bytes();
    let (code, said) = bench.calibrate(&["-o", "followed.gguf", "--follow"]);
    assert!(
        code == 1 && said.contains("--follow, sound alone: every clip needs pictures and sound"),
        "{said}"
    );
    assert!(!bench.path("followed.gguf").exists());

    let few: String = learned.lines().take(20).map(|l| format!("{l}\n")).collect();
    fs::write(bench.path("m.jsonl"), few).unwrap();
    let (code, said) = bench.calibrate(&[]);
    assert!(code == 1 && said.contains("20 clips") && said.contains("at least 50"), "{said}");
    fs::write(bench.path("m.jsonl"), learned.replacen("\"c1\"", "\"c0\"", 1)).unwrap();
    let (code, said) = bench.calibrate(&[]);
    assert!(code == 1 && said.contains("1 duplicate id"), "{said}");
    assert_eq!(fs::read(bench.path("tiny.gguf")).unwrap().len(), bytes, "untouched");
}

/// A vowel in two phrases of a second, four seconds in all.
fn vowel(path: &std::path::Path, hz: f32) {
    let wave = |i: u32| {
        let t = i as f32 / 16_000.0;
        let phase = std::f32::consts::TAU * (hz * t + 0.8 * (6.0 * t).sin());
        let wave: f32 = (1..9).map(|k| (phase * k as f32).sin() / k as f32).sum();
        let loud = if t % 2.0 < 1.3 { 5_000.0 } else { 0.0 };
        (loud * wave) as i16
    };
    recordings::wav(path, (0..64_000).map(wave));
}

/// `mien eval measure`: the manifest again, every key of it, and what is measured of each clip.
fn measured_cues_go_into_the_manifest(bench: &Bench) {
    let (code, said) = bench.mien(&["eval", "measure", "m.jsonl", "-o", "told.jsonl"]);
    assert!(code == 0 && said.contains("8 clips, 0 of them not measured"), "{said}");
    let lines = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(bench.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (was, mut told) in lines("m.jsonl").into_iter().zip(lines("told.jsonl")) {
        assert!(told.as_object_mut().unwrap().remove("measured").is_some_and(|cues| cues.is_array()));
        assert_eq!(was, told);
    }
    let pitch = |i: usize| {
        let told = &lines("told.jsonl")[i]["measured"];
        told.as_array().unwrap().iter().find(|cue| cue["cue"] == "pitch").unwrap().clone()
    };
    let expect = |value: &str, observable: bool| json!({"modality": "voice", "cue": "pitch", "value": value, "known": ["high", "low", "level"], "observable": observable});
    assert_eq!(pitch(5), expect("high", true));
    assert_eq!(pitch(6), expect("", false));

    fs::write(bench.path("gap.jsonl"), "{\"id\": \"a\", \"clip\": \"gone.wav\"}\n").unwrap();
    let (code, said) = bench.mien(&["eval", "measure", "gap.jsonl", "-o", "none.jsonl"]);
    assert!(code == 0 && said.contains("1 of them not measured") && said.contains("line 1"), "{said}");
    assert_eq!(lines("none.jsonl"), lines("gap.jsonl"));
    let (code, said) = bench.mien(&["eval", "measure", "gap.jsonl", "-o", "strict.jsonl", "--strict"]);
    assert!(code == 1 && said.contains("gone.wav") && !bench.path("strict.jsonl").exists(), "{said}");
    let (code, said) = bench.mien(&["eval", "measure", "m.jsonl", "-o", "/tmp/elsewhere.jsonl"]);
    assert!(code == 1 && said.contains("--output must lie beside m.jsonl"), "{said}");
}

/// Somebody is known by the clips before: one high vowel is high for who spoke low before, and nothing for who is new.
#[test]
fn reasons_are_held_against_what_is_usual_of_their_person() {
    let bench = Bench::new(0);
    let mut lines = String::new();
    let clips = (0..5).map(|_| ("ann", 130.0)).chain([("ann", 190.0), ("bob", 190.0), ("", 190.0)]);
    for (i, (person, hz)) in clips.enumerate() {
        vowel(&bench.path(&format!("{i}.wav")), hz);
        let mut line = json!({"id": format!("c{i}"), "clip": format!("{i}.wav"), "label": "happy"});
        if !person.is_empty() {
            line["person"] = json!(person);
        }
        lines += &format!("{line}\n");
    }
    fs::write(bench.path("m.jsonl"), lines).unwrap();

    let labels = LABELS.map(String::from);
    let manifest = mien::eval::manifest::read(&bench.path("m.jsonl"), &labels).unwrap();
    let nets = mien::cues::Nets::default();
    let mut measuring =
        mien::eval::measured::Measuring::new(&nets, mien::eval::examiner::Given::Both.gives()).unwrap();
    let pitch: Vec<(bool, &str)> = manifest
        .lines
        .iter()
        .map(|line| {
            let cues = measuring.clip(line).unwrap();
            let pitch = cues.iter().find(|cue| cue.cue == "pitch").unwrap();
            (pitch.observable, pitch.value)
        })
        .collect();
    assert_eq!(pitch[0], (false, ""), "nobody is known at first");
    assert_eq!(pitch[4..], [(true, "level"), (true, "high"), (false, ""), (false, "")]);

    let root = env!("CARGO_MANIFEST_DIR");
    let bundle = format!("{root}/models/default.gguf");
    let eval = |out: &str, more: &[&str]| {
        bench.mien(&[&["eval", &bundle, "--manifest", "m.jsonl", "--measured", "--out", out], more].concat())
    };
    let (code, said) = eval("whole", &[]);
    assert!(code == 0 && said.contains("measured true") && said.contains("not observable"), "{said}");
    let whole = bench.records("whole.jsonl");
    let count = |record: &Value, key: &str| record["measured"][key].as_u64().unwrap();
    for record in &whole {
        let parts = ["true", "contradicted", "not_observable", "not_checkable"].map(|key| count(record, key));
        assert_eq!(parts.iter().sum::<u64>(), count(record, "claims"), "{record}");
    }
    assert!(whole.iter().map(|record| count(record, "claims")).sum::<u64>() > 8, "{whole:#?}");
    assert!(count(&whole[5], "true") + count(&whole[5], "contradicted") > 0, "{}", whole[5]);
    assert_eq!(count(&whole[6], "true") + count(&whole[6], "contradicted"), 0, "{}", whole[6]);

    // What was usual before a run was stopped is learned again.
    let text = fs::read_to_string(bench.path("whole.jsonl")).unwrap();
    let cut = text.lines().take(6).map(|line| line.len() + 1).sum::<usize>();
    fs::write(bench.path("cut.jsonl"), &text[..cut]).unwrap();
    assert_eq!(eval("cut", &[]).0, 0);
    assert_eq!(bench.records("cut.jsonl"), whole);

    measured_cues_go_into_the_manifest(&bench);

    let (code, said) = eval("part", &["--shard", "1/2"]);
    assert!(code == 1 && said.contains("--measured and --shard exclude each other"), "{said}");
    let (code, said) = eval("none", &["--nets", "nowhere"]);
    assert!(code != 0 && said.contains("nowhere"), "{said}");
}
