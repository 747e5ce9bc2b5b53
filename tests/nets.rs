//! Small nets that are written here by hand: what a task takes, and what it refuses by name.

mod onnx;

use mien::cues::{Cues, Gate, Measurer, Net, Nets};
use onnx::Detector;
use std::{fs, path::PathBuf};
use tempfile::TempDir;

struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Case {
        Case { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("net.onnx");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, net: Net) -> Result<(), String> {
        let nets = Nets { face_box: Some(net), ..Nets::default() };
        Measurer::new(&nets, Gate::default(), Cues::default(), 1)
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    }

    fn refused(&self, bytes: &[u8]) -> String {
        self.load(Net { file: self.file(bytes), ..Net::default() }).expect_err("a bad net")
    }
}

#[test]
fn a_net_that_does_its_task_is_taken_and_sees_what_it_says() {
    use mien::source::{Frame, Reading};
    let case = Case::new();
    for (score, people) in [(-5.0, 0), (5.0, 1)] {
        let file = case.file(&Detector { score, ..Detector::default() }.onnx());
        let nets = Nets { face_box: Some(Net { file, ..Net::default() }), ..Nets::default() };
        let mut measurer = Measurer::new(&nets, Gate::default(), Cues::default(), 9).unwrap();
        let frame = Frame { captured_ns: 1, height: 90, width: 160, rgb: vec![120; 90 * 160 * 3] };
        let faces = measurer.take(&mut Reading::Frame(frame)).faces.expect("a look");
        assert_eq!(faces.people.len().min(1), people, "{faces:?}");
        assert!(faces.people.iter().all(|person| person.light == 0.0), "a box without a size");
    }
}

#[test]
fn a_net_for_expressions_says_what_claims_are_held_against() {
    use mien::{
        cues::ledger::Ledger,
        source::{Frame, Reading},
    };
    let case = Case::new();
    let faces = &[(64.0, 64.0, 60.0)];
    let finder = Net { file: case.file(&Detector { faces, ..Detector::default() }.onnx()), ..Net::default() };
    let load = |gains: &[f32], bias, labels: &[&str]| {
        let file = case.folder.path().join("expression.onnx");
        fs::write(&file, onnx::expression(gains, bias)).unwrap();
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let net = Net { file, labels, size: 64, ..Net::default() };
        let nets = Nets { face_box: Some(finder.clone()), expression: Some(net), ..Nets::default() };
        Measurer::new(&nets, Gate::default(), Cues::default(), 1)
    };
    let refused = |gains: &[f32], bias, labels: &[&str]| match load(gains, bias, labels) {
        Ok(_) => panic!("a bad net"),
        Err(error) => format!("{error:#}"),
    };
    let said = refused(&[1.0], 0.0, &["happy"]);
    assert!(said.contains("`happy` is no claim of a face; there are raised brow"), "{said}");
    let said = refused(&[1.0, 1.0], 0.0, &["smiling mouth"]);
    assert!(said.contains("`output` has 2 values, and the task wants 1"), "{said}");
    let said = refused(&[1.0], 3.5, &["smiling mouth"]);
    assert!(said.contains("the net says 3.5, and shares from 0 to 1 are wanted"), "{said}");

    // A bright picture: 0.8 of smiling, 0.4 of wide eyes, and an output that is not used.
    let mut measurer = load(&[1.0, 1.25, 0.5], 0.0, &["smiling mouth", "", "wide eyes"]).unwrap();
    let mut ledger = Ledger::default();
    for i in 0..12 {
        let frame =
            Frame { captured_ns: i * 200_000_000, height: 128, width: 128, rgb: vec![204; 128 * 128 * 3] };
        ledger.push(&measurer.take(&mut Reading::Frame(frame)));
    }
    let cues = ledger.cues(0, 2_400_000_000);
    let of = |name: &str| cues.iter().find(|cue| cue.cue == name).expect("a cue");
    assert_eq!((of("mouth").value, of("mouth").observable), ("smiling", true));
    assert_eq!(of("mouth").known, ["smiling", "", "", ""], "the mesh's part is not measured");
    assert_eq!((of("eyes").value, of("eyes").known[0], of("eyes").observable), ("", "wide", true));
    assert!(!of("brow").observable, "no net says anything of it");
}

#[test]
fn a_net_with_other_inputs_or_outputs_is_refused_by_name() {
    let case = Case::new();
    let said = case.refused(&Detector { boxes: "boxes", ..Detector::default() }.onnx());
    assert!(said.contains("face-box") && said.contains("no output `regressors`"), "{said}");
    assert!(said.contains("its outputs are boxes, classificators"), "{said}");
    let said = case.refused(&Detector { numbers: 6, ..Detector::default() }.onnx());
    assert!(said.contains("`regressors` has 5376 values, and the task wants 14336"), "{said}");
    let nets = Nets {
        voice_activity: Some(Net { file: case.file(&Detector::default().onnx()), ..Net::default() }),
        ..Nets::default()
    };
    let said = Measurer::new(&nets, Gate::default(), Cues::default(), 1)
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap();
    assert!(said.contains("has 1 inputs (input), and the task wants 2"), "{said}");
}

#[test]
fn sizes_that_the_file_leaves_open_are_set() {
    let case = Case::new();
    let picture = ["batch", "3", "height", "width"];
    let file = case.file(&Detector { picture, ..Detector::default() }.onnx());
    assert_eq!(case.load(Net { file, ..Net::default() }), Ok(()));
}

#[test]
fn what_cannot_be_run_is_refused_with_its_reason() {
    let case = Case::new();
    let said =
        case.refused(&Detector { kind: "Sorcery", domain: "somebody.else", ..Detector::default() }.onnx());
    assert!(said.contains("Sorcery"), "{said}");
    let said = case.refused(&Detector { score: f32::NAN, ..Detector::default() }.onnx());
    assert!(said.contains("says what is no number"), "{said}");
    let whole = Detector::default().onnx();
    for cut in [0, 1, 7, whole.len() / 2, whole.len() - 1] {
        let said = case.refused(&whole[..cut]);
        assert!(said.contains("net.onnx"), "cut at {cut}: {said}");
    }
    let said = case.refused(b"GGUF is another format");
    assert!(said.contains("is no ONNX net that can be run"), "{said}");
    let missing = Net { file: "/nowhere/net.onnx".into(), ..Net::default() };
    let said = case.load(missing).unwrap_err();
    assert!(said.contains("/nowhere/net.onnx: cannot be read"), "{said}");
}

#[test]
fn a_file_of_another_digest_or_of_a_gigabyte_is_refused_unread() {
    let case = Case::new();
    let file = case.file(&Detector::default().onnx());
    let said = case.load(Net { file: file.clone(), sha256: "00".repeat(32), ..Net::default() }).unwrap_err();
    assert!(said.contains("has the SHA-256") && said.contains("tools/nets fetch"), "{said}");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1 << 30).unwrap();
    let said = case.load(Net { file, ..Net::default() }).unwrap_err();
    assert!(said.contains("has 1073741824 bytes: at most 67108864 are taken"), "{said}");
}
