//! Which program a board starts, asked as RAUC and the unit ask; and what `mien update` and `mien health` say on a machine that has none of it.
//! `tools/test update` updates a board.

use std::{
    path::Path,
    process::{Command, Output},
};

fn mien(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mien")).args(args).output().unwrap()
}

/// `mien slot` over a folder: its exit code and what it printed.
fn slot(folder: &Path, args: &[&str]) -> (i32, String) {
    let (store, stage) = (folder.join("store"), folder.join("stage"));
    let mut all = vec!["slot", "--store", store.to_str().unwrap(), "--stage", stage.to_str().unwrap()];
    all.extend(args);
    let output = mien(&all);
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap().trim().to_string())
}

#[test]
fn rauc_is_answered_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store")).unwrap();
    let ask = |args: &[&str]| slot(folder.path(), args);
    let said = |text: &str| (0, text.to_string());
    assert_eq!(ask(&["booted"]), said("_external_"));
    assert_eq!(ask(&["get-primary"]).0, 1, "the package's program starts");
    assert_eq!(ask(&["get-state", "A"]), said("bad"));
    // As RAUC installs into a slot: bad while it is written, then preferred.
    assert_eq!(ask(&["set-state", "A", "bad"]), said(""));
    assert_eq!(ask(&["set-primary", "A"]), said(""));
    assert_eq!((ask(&["get-primary"]), ask(&["get-state", "A"])), (said("A"), said("good")));
    assert_eq!(ask(&["set-state", "B", "good"]), said(""));
    assert_eq!(ask(&["get-primary"]), said("A"));
    assert_eq!(ask(&["set-state", "A", "bad"]), said(""));
    assert_eq!(ask(&["get-primary"]), said("B"));
    assert_eq!(ask(&["reset"]), said(""));
    assert_eq!(ask(&["get-primary"]).0, 1);
    for wrong in [
        &["get-state", "C"][..],
        &["set-state", "A", "fine"],
        &["set-primary", ""],
        &["set-primary"],
        &["boot"],
    ] {
        assert_eq!(ask(wrong).0, 1, "{wrong:?}");
    }
}

#[test]
fn an_image_that_is_none_leaves_the_package() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store")).unwrap();
    assert_eq!(slot(folder.path(), &["set-primary", "B"]).0, 0);
    std::fs::write(folder.path().join("store/b.img"), b"hsqs").unwrap();
    assert_eq!(slot(folder.path(), &["start"]).0, 0);
    assert_eq!(slot(folder.path(), &["booted"]), (0, "_external_".into()));
    assert_eq!(slot(folder.path(), &["get-state", "B"]), (0, "bad".into()));
    assert!(std::fs::read_link(folder.path().join("stage/current")).unwrap().is_dir());
    assert_eq!(slot(folder.path(), &["gate"]).0, 0, "the package is on no trial");
    assert_eq!(slot(folder.path(), &["ended", "78"]).0, 0);
    assert_eq!(slot(folder.path(), &["ended", ""]).0, 0, "a daemon that a signal ended");
}

#[test]
fn what_is_missing_is_named_with_the_next_step() {
    let said = |args: &[&str]| {
        let output = mien(args);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said(&["update", "/nowhere/2.raucb"]);
    assert!(code == 1 && (text.contains("as root") || text.contains("mien-update")), "{code}: {text}");
    let (code, text) = said(&["update"]);
    assert!(code == 1 && text.contains("<FILE>"), "{code}: {text}");
    let (code, text) = said(&["health", "--unit", "mien-that-nobody-has"]);
    assert!(
        code == 1 && (text.contains("mien-that-nobody-has") || text.contains("systemctl")),
        "{code}: {text}"
    );
    let output = mien(&["update", "--status"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("slot B   nothing"));
}
