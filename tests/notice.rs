//! The notice for people in front of a device: from the config alone, and refused where it would leave them without an answer.

mod program;

use program::{material, mien};
use std::fs;

#[test]
fn a_notice_says_what_for_what_is_kept_and_whom_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.toml");
    let notice = |privacy: &str, more: &[&str]| {
        let text = format!(
            "device = \"guide\"\n[model]\nbundle = \"{0}/tiny.gguf\"\n[clip]\npath = \"{0}/clip\"\n[sink.stdout]\n[privacy]\n{privacy}",
            material().display()
        );
        fs::write(&path, text).unwrap();
        let done = mien().arg("notice").arg(&path).args(more).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, said) = notice("purpose = \"Forschung\"\n", &[]);
    assert!(code == Some(1) && said.contains("privacy.contact is not set"), "{said}");
    let (code, said) =
        notice("purpose = \"research\"\ncontact = \"A & B\"\nnotice_url = \"http://x\"\n", &[]);
    assert!(code == Some(78) && said.contains("https://"), "{said}");

    let whole =
        "purpose = \"research\"\ncontact = \"A & B <ab@example>\"\nnotice_url = \"https://example/e\"\n";
    let (code, said) = notice(whole, &[]);
    let words = [
        "What for: research.",
        "a camera",
        "no pictures and no sound",
        "only while you agree",
        "A & B <ab@example>",
    ];
    for words in words {
        assert!(code == Some(0) && said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("microphone"), "the clip is silent: {said}");
    assert!(!said.contains("into text"), "nobody listens to words: {said}");
    let (_, said) = notice(&format!("{whole}[words]\nbundle = \"words.gguf\"\n"), &[]);
    assert!(said.contains("What is said is turned into text"), "{said}");
    let out = folder.path().join("notice.svg");
    assert_eq!(notice(whole, &["-o", out.to_str().unwrap()]).0, Some(0));
    let poster = fs::read_to_string(&out).unwrap();
    assert!(
        poster.contains("A &amp; B &lt;ab@example&gt;")
            && poster.contains("Emotion recognition is in use here")
    );
    // A code of 25 x 25 modules has about half of them dark.
    assert!(poster.matches("h").count() > 200, "{poster}");
}
