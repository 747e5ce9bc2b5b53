//! `mien doctor` as a person runs it: what it says and how it ends.

use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn doctor(folder: &Path, args: &[&str]) -> Said {
    let done = Command::new(env!("CARGO_BIN_EXE_mien"))
        .arg("doctor")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: done.status.code().unwrap(), out: text(done.stdout), err: text(done.stderr) }
}

#[test]
fn a_machine_without_anything_is_told_what_it_lacks_and_may_go_on() {
    let folder = TempDir::new().unwrap();
    let said = doctor(folder.path(), &[]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for about in ["cpu", "memory", "cuda", "ffmpeg", "camera", "mic", "serial", "bundle"] {
        assert!(
            said.out.lines().any(|line| line.split_whitespace().nth(1) == Some(about)),
            "{about}: {}",
            said.out
        );
    }
    let lines: Vec<&str> = said.out.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("note")) {
        assert!(pair[1].trim_start().starts_with("-> "), "a note without a next step: {}", pair[0]);
    }
}

#[test]
fn json_is_one_array_of_findings() {
    let folder = TempDir::new().unwrap();
    let said = doctor(folder.path(), &["--json"]);
    let findings: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
    assert!(findings.len() >= 8);
    for finding in &findings {
        assert!(["ok", "note", "problem"].contains(&finding["state"].as_str().unwrap()), "{finding}");
        assert!(finding["about"].is_string() && finding["found"].is_string(), "{finding}");
    }
}

#[test]
fn a_config_or_bundle_that_cannot_be_used_ends_with_78() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("site.toml"), "[model]\nbundel = 3\n").unwrap();
    let said = doctor(folder.path(), &["site.toml"]);
    assert_eq!(said.code, 78, "{}{}", said.out, said.err);
    assert!(said.out.contains("PROBLEM") && said.out.contains("bundel"), "{}", said.out);
    fs::create_dir(folder.path().join("models")).unwrap();
    fs::write(folder.path().join("models/torn.gguf"), b"GGUF").unwrap();
    let said = doctor(folder.path(), &[]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("torn.gguf"), "{}", said.out);
}

#[test]
fn a_bench_holds_a_window_against_the_hop() {
    let folder = TempDir::new().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let config = |hop: &str| {
        let text = format!(
            "[model]\nbundle = \"{root}/models/default.gguf\"\n[clip]\npath = \"{root}/models/demo/demo.avi\"\n{hop}\
             [sink.stdout]\n[privacy]\npurpose = \"research\"\n"
        );
        fs::write(folder.path().join("site.toml"), text).unwrap();
    };
    config("");
    let said = doctor(folder.path(), &["site.toml", "--bench"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("of a hop of 1000: real-time factor 0."), "{}", said.out);
    config("[window]\nwindow_ms = 104\nhop_ms = 13\n");
    let said = doctor(folder.path(), &["site.toml", "--bench"]);
    assert!(said.code != 0 && said.out.contains("too slow for its config"), "{}", said.out);
    assert_ne!(doctor(folder.path(), &["--bench"]).code, 0, "without a config there is nothing to time");
}
