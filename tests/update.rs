//! Which program a board starts, asked as RAUC and the unit ask; and what `mien update` and `mien health` say on a machine that has none of it.
//! `tools/test update` updates a board.

use mien::update::offer::{self, Offer};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    thread,
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

fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(args)
        .output()
        .expect("openssl, which tools/setup installs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An offer of `content` at `url`, signed by NAME.key in the folder, whose certificate is NAME.pem.
fn signed(folder: &Path, name: &str, text: &str) -> Vec<u8> {
    let (key, cert) = (format!("{name}.key"), format!("{name}.pem"));
    let subject = format!("/CN={name}");
    openssl(
        folder,
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", &subject, "-keyout",
            &key, "-out", &cert,
        ],
    );
    fs::write(folder.join("text"), text).unwrap();
    openssl(
        folder,
        &[
            "cms",
            "-sign",
            "-binary",
            "-nodetach",
            "-outform",
            "PEM",
            "-signer",
            &cert,
            "-inkey",
            &key,
            "-in",
            "text",
            "-out",
            "signed",
        ],
    );
    fs::read(folder.join("signed")).unwrap()
}

const CONTENT: &[u8] = b"not quite an update file, but as many bytes";

fn text(url: &str) -> String {
    let hash = "4a8f51b33a5a3bdf9cd3b0a8ce2fbd2b0000000000000000000000000000beef";
    format!(
        r#"{{"version":"3","compatible":"mien-arm64","url":"{url}","sha256":"{hash}","bytes":{},"percent":10,"made":1}}"#,
        CONTENT.len()
    )
}

#[test]
fn an_offer_is_taken_from_whoever_signs_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let message = signed(folder.path(), "signer", &text("http://hub/3.raucb"));
    let open = |message: &[u8], name: &str| Offer::open(message, &folder.path().join(name));
    assert_eq!(open(&message, "signer.pem").unwrap().url, "http://hub/3.raucb");
    let foreign = signed(folder.path(), "stranger", &text("http://hub/3.raucb"));
    let error = format!("{:#}", open(&foreign, "signer.pem").unwrap_err());
    assert!(error.contains("not signed by the key of"), "{error}");
    let refused = |message: &[u8]| assert!(open(message, "signer.pem").is_err());
    // A letter of the signed text, and of the signature, changed.
    for at in [message.len() / 3, message.len() * 2 / 3] {
        let mut bent = message.clone();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        refused(&bent);
    }
    refused(&message[..message.len() / 2]);
    refused(text("http://hub/3.raucb").as_bytes());
    refused(b"");
    refused(&vec![b'x'; 300_000]);
}

/// Serves `content` at the address that it gives; the first answer breaks off half-way, and the ranges that were asked for come back.
fn serve(content: &'static [u8]) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/3.raucb", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut ranges = Vec::new();
        for turn in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let lines: Vec<String> = BufReader::new(stream.try_clone().unwrap())
                .lines()
                .map_while(|line| line.ok().filter(|line| !line.is_empty()))
                .collect();
            let range = lines
                .iter()
                .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(String::from));
            let from = range.as_deref().map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
            ranges.extend(range);
            let to = if turn == 0 { content.len() / 2 } else { content.len() };
            let head = if from > 0 {
                format!(
                    "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}",
                    content.len() - 1,
                    content.len()
                )
            } else {
                "200 OK".into()
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                content.len() - from
            );
            let _ = stream.write_all(&content[from..to]);
        }
        ranges
    });
    (url, server)
}

#[test]
fn a_file_that_was_cut_off_is_fetched_to_its_end_and_a_wrong_one_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let offered = |url: String| {
        fs::write(store.join("content"), CONTENT).unwrap();
        let sum = Command::new("sha256sum").arg(store.join("content")).output().unwrap().stdout;
        Offer {
            version: "3".into(),
            compatible: "mien-arm64".into(),
            url,
            sha256: String::from_utf8(sum[..64].to_vec()).unwrap(),
            bytes: CONTENT.len() as u64,
            percent: 100,
            made: 1,
        }
    };
    let (url, server) = serve(CONTENT);
    assert!(offer::fetch(&offered(url.clone()), store).is_err(), "it broke off");
    let path = offer::fetch(&offered(url), store).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(
        server.join().unwrap(),
        [format!("{}-", CONTENT.len() / 2)],
        "what was there was not fetched again"
    );
    // What is whole is not fetched again; what is not the offer's goes.
    assert_eq!(offer::fetch(&offered("http://127.0.0.1:1/".into()), store).unwrap(), path);
    let other = Offer { sha256: "00".repeat(32), ..offered("http://127.0.0.1:1/".into()) };
    offer::check(&offered("http://127.0.0.1:1/".into()), store).unwrap();
    let error = offer::check(&other, store).unwrap_err().to_string();
    assert!(error.contains("is not the file that was offered") && !path.exists(), "{error}");
    let error = offer::fetch(&offered("http://127.0.0.1:1/".into()), store).unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1/"), "{error}");
}

/// The adapter for a Jetson's root slots, asked with an nvbootctrl that says `slots` and does `does`; its exit code and what it printed.
fn jetson(slots: &str, does: &str, args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fake = format!(
        "#!/bin/sh\ncd {}\necho \"$*\" >>told\ncase $3 in dump-slots-info) cat slots ;; {does} *) exit 1 ;; esac\n",
        folder.path().display()
    );
    fs::write(path("slots"), slots).unwrap();
    fs::write(path("nvbootctrl"), fake).unwrap();
    fs::write(path("armed"), "").unwrap();
    let output = Command::new("sh")
        .args(["-c", "chmod +x \"$0/nvbootctrl\"; PATH=$0:$PATH MIEN_JETSON_ARMED=$0/armed exec sh board/update/jetson/slot \"$@\""])
        .arg(folder.path())
        .args(args)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap().trim().to_string())
}

fn slots(current: &str, active: &str, statuses: [&str; 2]) -> String {
    let [a, b] = statuses;
    format!(
        "Current rootfs slot: {current}\nActive rootfs slot: {active}\nnum_slots: 2\nslot: 0,             retry_count: {a}\nslot: 1,             retry_count: {b}\n"
    )
}

#[test]
fn the_adapter_for_a_jetson_believes_what_is_read_back() {
    let normal = "3,             status: normal";
    let dead = "0,             status: unbootable";
    let both = slots("A", "A", [normal; 2]);
    let works = "set-active-boot-slot) sed -i \"s/^Active rootfs slot: ./Active rootfs slot: $(echo $4 | tr 01 AB)/\" slots ;;";
    let silent = "set-active-boot-slot) ;;";
    let said = |text: &str| (0, text.to_string());
    assert_eq!(jetson(&both, "", &["get-primary"]), said("A"));
    assert_eq!(jetson(&slots("B", "A", [normal; 2]), "", &["get-current"]), said("B"));
    assert_eq!(jetson(&slots("A", "A", [normal, dead]), "", &["get-state", "B"]), said("bad"));
    assert_eq!(jetson(&both, "", &["get-state", "B"]), said("good"));
    assert_eq!(jetson(&both, works, &["set-primary", "B"]), said(""));
    assert_eq!(jetson(&slots("A", "B", [normal; 2]), works, &["set-state", "B", "bad"]), said(""));
    assert_eq!(
        jetson(&both, "", &["set-state", "A", "good"]),
        said(""),
        "a release without mark-boot-successful"
    );
    let refused = |slots: &str, does: &str, args: &[&str], part: &str| {
        let (code, said) = jetson(slots, does, args);
        assert!(code == 1 && said.contains(part), "{args:?}: {code}: {said}");
    };
    refused(&both, silent, &["set-primary", "B"], "told slot B, and it is A");
    refused(&slots("A", "B", [normal; 2]), silent, &["set-state", "B", "bad"], "slot B would start");
    refused(&slots("A", "A", [normal, dead]), works, &["set-primary", "B"], "UEFI's menu");
    refused(&slots("A", "A", [dead, normal]), "", &["set-state", "A", "good"], "unbootable");
    refused(&both, works, &["set-state", "A", "bad"], "slot A runs");
    refused(&both.replace("num_slots: 2", "num_slots: 1"), works, &["set-primary", "B"], "ROOTFS_AB=1");
    refused(&both, works, &["set-primary", "C"], "there are A and B");
    refused(&both, works, &["set-state", "A", "fine"], "good or bad");
    refused("", works, &["get-primary"], "no second root file system");
    let output = Command::new("sh").args(["board/update/jetson/slot", "get-primary"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("never run on hardware"));
}
