//! Configs: profiles and sites, and every bad one refused by file, line and key.

use mien::config::{Config, Explain};
use std::{fs, path::PathBuf};
use tempfile::TempDir;

const GOOD: &str = r#"
[model]
bundle = "tiny.gguf"
[clip]
path = "clip.avi"
[sink.stdout]
[privacy]
purpose = "research"
"#;

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Folder(folder)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn read(&self, name: &str) -> anyhow::Result<Config> {
        Config::read(&self.path(name))
    }
}

fn refused(text: &str) -> String {
    let folder = Folder::new(&[("site.toml", text)]);
    match folder.read("site.toml") {
        Ok(config) => panic!("accepted {config:?}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn the_least_config_has_defaults_for_the_rest() {
    let folder = Folder::new(&[("site.toml", GOOD)]);
    let config = folder.read("site.toml").unwrap();
    assert_eq!((config.window.window_ms, config.window.hop_ms), (4_000, 1_000));
    assert_eq!(config.policy, mien::policy::Limits::default());
    assert_eq!(config.model.bundle, folder.path("tiny.gguf"));
    assert_eq!(config.clip.as_ref().unwrap().path, folder.path("clip.avi"));
    assert_eq!(config.model.reason, Explain::Off);
    assert!(!config.device_name().is_empty());
}

#[test]
fn a_site_is_laid_over_its_profile_key_by_key() {
    let profile = r#"
[policy]
enter = 0.8
dwell_ms = 100
[sink.serial]
tty = "/dev/ttyTHS1"
baud = 921600
[model]
bundle = "board.gguf"
threads = 6
"#;
    let site = r#"
profile = "board/box.toml"
device = "kiosk-7"
[policy]
enter = 0.7
[model]
reason = "on-change"
[sink.serial]
baud = 115200
[clip]
path = "/a/clip.mp4"
[privacy]
purpose = "kiosk"
"#;
    let folder = Folder::new(&[("board/box.toml", profile), ("site.toml", site)]);
    let config = folder.read("site.toml").unwrap();
    assert_eq!((config.policy.enter, config.policy.dwell_ms), (0.7, 100));
    assert_eq!((config.model.threads, config.model.reason), (6, Explain::OnChange));
    assert_eq!(config.model.bundle, folder.path("board/board.gguf"));
    let serial = config.sink.serial.as_ref().unwrap();
    assert_eq!((serial.baud, serial.tty.to_str()), (115_200, Some("/dev/ttyTHS1")));
    assert_eq!(config.clip.unwrap().path.to_str(), Some("/a/clip.mp4"));
}

#[test]
fn a_profile_that_is_wrong_is_named_with_its_line() {
    let folder = Folder::new(&[
        ("box.toml", "[policy]\nenter = 0.5\nexti = 0.2\n"),
        ("site.toml", &format!("profile = \"box.toml\"\n{GOOD}")),
        ("lost.toml", &format!("profile = \"nowhere.toml\"\n{GOOD}")),
        ("round.toml", "profile = \"round.toml\"\n"),
    ]);
    let error = format!("{:#}", folder.read("site.toml").unwrap_err());
    assert!(
        error.contains("box.toml line 3") && error.contains("`exti`") && error.contains("`exit`"),
        "{error}"
    );
    let error = format!("{:#}", folder.read("lost.toml").unwrap_err());
    assert!(error.contains("nowhere.toml"), "{error}");
    let error = format!("{:#}", folder.read("round.toml").unwrap_err());
    assert!(error.contains("round.toml") && error.contains("deep"), "{error}");
}

#[test]
fn unknown_keys_are_named_with_line_table_and_the_nearest_known_key() {
    for (text, parts) in [
        (format!("{GOOD}[policy]\nentre = 0.5\n"), ["line 10", "`entre`", "[policy]", "`enter`"]),
        (format!("{GOOD}[sink.serial]\nbuad = 9600\n"), ["line 10", "`buad`", "[sink.serial]", "`baud`"]),
        (format!("{GOOD}[windows]\nhop_ms = 10\n"), ["line 9", "`windows`", "unknown", "`window`"]),
        (format!("{GOOD}[sink.mqqt]\nhost = \"x\"\n"), ["line 9", "`mqqt`", "unknown", "`mqtt`"]),
        (format!("{GOOD}purpos = \"x\"\n"), ["line 9", "`purpos`", "[privacy]", "`purpose`"]),
    ] {
        let error = refused(&text);
        for part in parts {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
    }
}

#[test]
fn values_of_the_wrong_kind_are_named_with_their_line() {
    let error = refused(&format!("{GOOD}[window]\nhop_ms = \"fast\"\n"));
    assert!(error.contains("line 10") && error.contains("[window]"), "{error}");
    let error = refused(&format!("{GOOD}[window]\nhop_ms = -5\n"));
    assert!(error.contains("line 10"), "{error}");
    let error = refused(&format!("{GOOD}[window\n"));
    assert!(error.contains("line 9"), "{error}");
    let error = refused(&format!("{GOOD}[policy]\nneed = \"smell\"\n"));
    assert!(error.contains("smell") && error.contains("line 10"), "{error}");
}

#[test]
fn impossible_values_are_refused_by_name() {
    for (text, name) in [
        (format!("{GOOD}[policy]\nexit = 0.9\n"), "policy.exit"),
        (format!("{GOOD}[cues]\npeople = \"each\"\n"), "cues.people = \"each\" without cues.crop = \"face\""),
        (
            format!("{GOOD}[policy]\nneed = \"both\"\n[cues]\npeople = \"each\"\ncrop = \"face\"\n"),
            "policy.need asks for sound",
        ),
        (
            format!("{GOOD}[nets.expression]\nfile = \"e.onnx\"\nlabels = [\"smiling mouth\"]\n"),
            "nets.expression stands without nets.face-box",
        ),
        (
            format!("{GOOD}[nets.face-box]\nfile = \"e.onnx\"\nlabels = [\"smiling mouth\"]\n"),
            "nets.face-box has labels or a size",
        ),
        (format!("{GOOD}[policy]\nenter = 55\n"), "policy.enter"),
        (format!("{GOOD}[sink.serial]\nbaud = 9600\n"), "sink.serial.tty"),
        (format!("{GOOD}[sink.serial]\ntty = \"/dev/ttyS0\"\nbaud = 3\n"), "sink.serial.baud"),
        (format!("{GOOD}[sink.mqtt]\nport = 1883\n"), "sink.mqtt.host"),
        (format!("{GOOD}[sink.mqtt]\nhost = \"b\"\nprefix = \"a/#\"\n"), "sink.mqtt.prefix"),
        (format!("{GOOD}[sink.mqtt]\nhost = \"b\"\nca = \"ca.pem\"\n"), "sink.mqtt.tls"),
        (
            format!("{GOOD}[sink.mqtt]\nhost = \"b\"\ntls = true\nclient_cert = \"c.pem\"\n"),
            "sink.mqtt.client_key",
        ),
        (format!("{GOOD}[sink.mqtt]\nhost = \"b\"\npassword_file = \"p\"\n"), "sink.mqtt.user"),
        (format!("{GOOD}[daemon]\nreadings_max = 100000\n"), "daemon.readings_max"),
        (format!("{GOOD}[daemon]\nheartbeat_ms = 5\n"), "daemon.heartbeat_ms"),
        (GOOD.replace("[model]", "[model]\nreason_tokens = 0"), "model.reason_tokens"),
        (GOOD.replace("[model]", "[model]\nreason_sure = 1.5"), "model.reason_sure"),
        (GOOD.replace("[sink.stdout]", ""), "sink"),
        (GOOD.replace("[sink.stdout]", "[sink.stdout]\nenabled = false"), "sink"),
        (GOOD.replace("[clip]\npath = \"clip.avi\"", ""), "source"),
        (GOOD.replace("bundle = \"tiny.gguf\"", ""), "model.bundle"),
    ] {
        let error = refused(&text);
        assert!(error.contains("site.toml") && error.contains(name), "{name} is missing: {error}");
    }
}

#[test]
fn a_purpose_is_asked_for_and_some_are_refused() {
    let with = |privacy: &str| GOOD.replace("purpose = \"research\"", privacy);
    assert!(refused(&with("")).contains("privacy.purpose"));
    for purpose in ["workplace", "education", "school-exams", "staff-mood", "office"] {
        let error = refused(&with(&format!("purpose = \"{purpose}\"")));
        assert!(error.contains("purpose_note") && error.contains("AI Act"), "{error}");
    }
    let folder = Folder::new(&[("site.toml", &with("purpose = \"safety\"\nmedical_safety = true"))]);
    folder.read("site.toml").unwrap();
    assert!(refused(&with("purpose = \"Spaß & Spiel\"")).contains("museum-guide"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = Folder::new(&[]);
    let error = format!("{:#}", folder.read("none.toml").unwrap_err());
    assert!(error.contains("none.toml"), "{error}");
    let error = format!("{:#}", mien::config::read(folder.0.path()).unwrap_err());
    assert!(error.contains("is a folder"), "{error}");
}

/// Keys of a table that the schema does not know, with their place.
fn unknown(
    schema: &serde_json::Value,
    of: &serde_json::Value,
    value: &toml::Value,
    place: &str,
) -> Vec<String> {
    let mut of = of.clone();
    // An optional table is `anyOf` a reference and null.
    if let Some(first) = of.get("anyOf").and_then(|any| any.get(0)) {
        of = first.clone();
    }
    if let Some(name) = of.get("$ref").and_then(|to| to.as_str()) {
        of = schema["$defs"][name.rsplit('/').next().unwrap()].clone();
    }
    let Some(table) = value.as_table() else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in table {
        let place = format!("{place}.{key}");
        match of["properties"].get(key) {
            Some(of) => found.extend(unknown(schema, of, value, &place)),
            None => found.push(place),
        }
    }
    assert_eq!(of["additionalProperties"], false, "{place} takes any key");
    found
}

#[test]
fn the_schema_knows_every_key_of_every_committed_config_and_no_other() {
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_mien")).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    let board = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("board");
    let mut configs = vec![board.join("site-example.toml"), board.join("../models/demo/demo.toml")];
    for entry in fs::read_dir(&board).unwrap() {
        let inner = fs::read_dir(entry.unwrap().path()).into_iter().flatten().flatten();
        configs.extend(
            inner.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "toml")),
        );
    }
    configs.retain(|path| !path.ends_with("Cargo.toml"));
    assert!(configs.len() >= 12, "{configs:?}");
    for path in configs {
        let table: toml::Value = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(unknown(&schema, &schema, &table, ""), Vec::<String>::new(), "{}", path.display());
    }
    let wrong: toml::Value =
        toml::from_str("[model]\nbundel = 1\n[sink.can]\nport = 1\n[privacy.pins]\nled = 1").unwrap();
    assert_eq!(
        unknown(&schema, &schema, &wrong, ""),
        [".model.bundel", ".privacy.pins.led", ".sink.can.port"]
    );
}

#[test]
fn the_examples_are_configs_that_can_be() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("board/examples");
    for name in ["kiosk", "robot", "car"] {
        let config = Config::read(&folder.join(name).with_extension("toml"))
            .unwrap_or_else(|error| panic!("{error:#}"));
        assert!(!config.privacy.contact.is_empty() && !config.sources().is_empty(), "{name}");
    }
}
