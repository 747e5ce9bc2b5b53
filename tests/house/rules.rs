//! Who may do what: for every power over the world and every crate, the rooms that use it, each with its reason.

use std::collections::BTreeMap;

/// A power, the words by which code uses it, and who may. A room is a file, or a folder that ends with `/`.
pub struct Rule {
    pub power: &'static str,
    pub words: &'static [&'static str],
    pub rooms: &'static [(&'static str, &'static str)],
}

pub const RULES: [Rule; 8] = [
    Rule {
        power: "opens a file",
        words: &["fs::", "File::open", "File::create", "OpenOptions"],
        rooms: &[
            ("src/kept.rs", "small files that outlive a power cut"),
            ("src/machine/", "what the kernel says of the machine"),
            ("src/update/", "images and what runs"),
            ("src/backend/cpu/level.rs", "flags of the CPU"),
            ("src/bundle/checkpoint.rs", "a published checkpoint"),
            ("src/bundle/import/", "settings beside a checkpoint"),
            ("src/bundle/open.rs", "the bundle"),
            ("src/bundle/write.rs", "the bundle that is packed"),
            ("src/source/camera.rs", "names of cameras"),
            ("src/source/v4l2.rs", "the camera"),
            ("src/source/pipe.rs", "the pipe"),
            ("src/source/recorded/", "recordings"),
            ("src/cues/net/engine.rs", "small nets"),
            ("src/sink/serial.rs", "the tty"),
            ("src/sink/record.rs", "the record that a user asks for"),
            ("src/sink/mqtt/link.rs", "certificates"),
            ("src/sink/page/settings.rs", "the token"),
            ("src/sink/mqtt/outbox.rs", "events that wait for the broker"),
            ("src/config.rs", "configs"),
            ("src/privacy/journal.rs", "changes of mode"),
            ("src/eval/", "lists of clips and records"),
            ("src/command/", "what a user names"),
        ],
    },
    Rule {
        power: "starts a thread",
        words: &["thread::Builder", "thread::spawn", "thread::scope"],
        rooms: &[
            ("src/daemon/threads.rs", "sources and sinks"),
            ("src/backend/cpu/pool.rs", "workers of a product"),
            ("src/bundle/digest.rs", "check beside the load"),
            ("src/bundle/synthetic.rs", "random numbers for a large bundle"),
            ("src/sink/mqtt/link.rs", "the client's runtime"),
            ("src/sink/page/server.rs", "the page's runtime"),
            ("src/command/run.rs", "signals"),
        ],
    },
    Rule {
        power: "asks a clock",
        words: &["Instant::now", "SystemTime::now", "clock_gettime", ".elapsed()"],
        rooms: &[
            ("src/source/", "capture stamps and time limits of devices"),
            ("src/privacy/journal.rs", "when a mode changed"),
            ("src/sink/", "wall clock of a packet and time limits of lines"),
            ("src/daemon/", "pace, lateness, heartbeats"),
            ("src/backend/cpu/ceiling.rs", "measures the machine"),
            ("src/backend/cuda/ceiling.rs", "measures the machine"),
            ("src/bundle/open.rs", "says how long the check took"),
            ("src/model/observe.rs", "times stages where somebody asks for it"),
            ("src/eval/examiner.rs", "times answers"),
            ("src/update/service.rs", "waits for the service"),
            ("src/command/", "measures"),
        ],
    },
    Rule {
        power: "reads the environment",
        words: &["env::var", "env::args"],
        rooms: &[
            ("src/backend/cpu/level.rs", "MIEN_CPU"),
            ("src/command/mod.rs", "MIEN_BUNDLE"),
            ("src/daemon/prepare.rs", "STATE_DIRECTORY of systemd"),
        ],
    },
    Rule {
        power: "starts or asks a process",
        words: &["process::", "Command::new"],
        rooms: &[
            ("src/main.rs", "exit code"),
            ("src/machine/mod.rs", "daemons on this machine"),
            ("src/update/", "RAUC, systemd and mount"),
            ("src/command/slot.rs", "the umask"),
            ("src/command/update/mod.rs", "who asks"),
            ("src/command/reload.rs", "wakes a daemon"),
            ("src/source/recorded/ffmpeg.rs", "films"),
            ("src/privacy/", "no core dumps"),
            ("src/command/doctor.rs", "version of ffmpeg"),
        ],
    },
    Rule {
        power: "opens a connection",
        words: &["TcpStream", "UdpSocket", "TcpListener", "UnixStream", "UnixListener", "UnixDatagram"],
        rooms: &[
            ("src/sink/page/", "the status page listens"),
            ("src/command/top.rs", "asks a status page, when a user does"),
        ],
    },
    Rule {
        power: "names a kind of sink",
        words: &[
            "serial::",
            " can::",
            "mqtt::",
            "page::",
            "stdout::",
            "Settings::Serial",
            "Settings::Can",
            "Settings::Mqtt",
            "Settings::Page",
            "Settings::Stdout",
        ],
        rooms: &[
            ("src/sink/settings.rs", "the list of kinds"),
            ("src/command/doctor.rs", "tries a tty"),
            ("src/command/watch.rs", "listens at the other end"),
            ("src/command/broker.rs", "names a broker"),
            ("src/command/update/ask.rs", "asks a broker, and tells it"),
            ("src/command/conformance/", "plays at the other end"),
        ],
    },
    Rule {
        power: "names a kind of source",
        words: &["Settings::Camera", "Settings::Mic", "Settings::Clip", "Settings::Pipe"],
        rooms: &[
            ("src/source/settings.rs", "the list of kinds"),
            ("src/config.rs", "the tables of a config"),
            ("src/daemon/prepare.rs", "--fast is about clips"),
        ],
    },
];

/// Crates that any room may name: errors, logs, data and its schema.
const EVERYWHERE: [&str; 4] = ["anyhow", "log", "schemars", "serde"];

/// Every other crate, and the rooms that name it.
const CRATES: [(&str, &[&str]); 44] = [
    ("alsa", &["src/source/mic.rs"]),
    ("clap", &["src/command/", "src/main.rs"]),
    ("clap_complete", &["src/command/completions.rs"]),
    ("clap_mangen", &["src/command/manual.rs"]),
    ("cobs", &["src/wire/packet.rs"]),
    ("crc", &["src/wire/packet.rs"]),
    ("cudarc", &["src/backend/cuda/"]),
    ("embedded_hal", &["src/privacy/pins.rs"]),
    ("env_logger", &["src/command/logging.rs"]),
    ("gpiocdev_embedded_hal", &["src/privacy/pins.rs"]),
    ("half", &["src/backend/", "src/bundle/"]),
    (
        "heapless",
        &[
            "src/wire/",
            "src/source/pipe.rs",
            "src/window/mod.rs",
            "src/window/shelf.rs",
            "src/cues/",
            "src/policy.rs",
            "src/sink/snapshot.rs",
            "src/daemon/",
        ],
    ),
    ("http_body_util", &["src/sink/page/server.rs"]),
    ("hyper", &["src/sink/page/server.rs"]),
    ("hyper_util", &["src/sink/page/server.rs"]),
    ("image", &["src/source/recorded/folder.rs"]),
    ("indicatif", &["src/command/"]),
    ("libc", &["src/source/mic.rs", "src/sink/serial.rs", "src/sink/clock.rs", "src/command/doctor.rs"]),
    ("libm", &["src/bundle/gate.rs"]),
    ("memmap2", &["src/bundle/open.rs", "src/bundle/checkpoint.rs"]),
    ("minijinja", &["src/bundle/template.rs"]),
    ("minijinja_contrib", &["src/bundle/template.rs"]),
    ("postcard", &["src/wire/packet.rs"]),
    ("qrcode", &["src/command/notice.rs"]),
    ("realfft", &["src/feature/mel.rs"]),
    ("rubato", &["src/source/resample.rs"]),
    ("rumqttc", &["src/sink/mqtt/link.rs"]),
    (
        "rustix",
        &[
            "src/backend/cpu/",
            "src/bundle/write.rs",
            "src/source/",
            "src/sink/serial.rs",
            "src/privacy/",
            "src/update/",
            "src/command/",
        ],
    ),
    ("safetensors", &["src/bundle/checkpoint.rs"]),
    ("sd_notify", &["src/daemon/pulse.rs"]),
    (
        "serde_json",
        &[
            "src/bundle/",
            "src/kept.rs",
            "src/update/",
            "src/privacy/journal.rs",
            "src/source/recorded/ffmpeg.rs",
            "src/sink/",
            "src/eval/",
            "src/report/",
            "src/command/",
        ],
    ),
    (
        "sha2",
        &[
            "src/bundle/",
            "src/machine/",
            "src/update/offer.rs",
            "src/cues/net/engine.rs",
            "src/eval/manifest.rs",
        ],
    ),
    ("signal_hook", &["src/main.rs", "src/command/run.rs", "src/command/top.rs", "src/command/watch.rs"]),
    ("socketcan", &["src/sink/can/bus.rs"]),
    ("strsim", &["src/config.rs"]),
    ("systemd_journal_logger", &["src/command/logging.rs"]),
    ("tempfile", &["src/bundle/", "src/source/recorded/ffmpeg.rs", "src/command/bench/mod.rs"]),
    ("tokenizers", &["src/bundle/tokenizer.rs", "src/bundle/gate.rs"]),
    ("tokio", &["src/sink/mqtt/link.rs", "src/sink/page/server.rs"]),
    ("toml", &["src/config.rs"]),
    ("tract_onnx", &["src/cues/net/engine.rs"]),
    ("v4l", &["src/source/v4l2.rs"]),
    (
        "zeroize",
        &[
            "src/source/mod.rs",
            "src/feature/image.rs",
            "src/window/mod.rs",
            "src/window/shelf.rs",
            "src/cues/",
            "src/model/omni/engine.rs",
            "src/model/words/",
        ],
    ),
    ("zune_jpeg", &["src/source/jpeg.rs"]),
];

/// Code without comments and without the tests at its end.
pub fn code(text: &str) -> String {
    let tests =
        ["#[cfg(test)]\nmod ", "#[cfg(test)]\npub mod "].into_iter().filter_map(|mark| text.find(mark)).min();
    let body = &text[..tests.unwrap_or(text.len())];
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Whether `code` uses the crate `name`: `name::` that is not the end of a longer word or path.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn lives_in(file: &str, room: &str) -> bool {
    file == room || room.ends_with('/') && file.starts_with(room)
}

/// Files of `sources` that use what `rooms` alone may use, and rooms that do not use what they may.
fn compare(what: &str, users: &[&str], rooms: &[&str], wrong: &mut Vec<String>) {
    for file in users.iter().filter(|file| !rooms.iter().any(|room| lives_in(file, room))) {
        wrong.push(format!("{file} {what}, and is not on the list in tests/house/rules.rs"));
    }
    for room in rooms.iter().filter(|room| !users.iter().any(|file| lives_in(file, room))) {
        wrong.push(format!("{room} is on the list of who {what}, and nothing in it does"));
    }
}

/// What in `sources`, pairs of file and text, breaks the rules above.
pub fn broken_powers(sources: &[(String, String)]) -> Vec<String> {
    let codes: Vec<(&str, String)> = sources.iter().map(|(file, text)| (file.as_str(), code(text))).collect();
    let mut wrong = Vec::new();
    for rule in &RULES {
        let uses = |code: &String| rule.words.iter().any(|word| code.contains(word));
        let users: Vec<&str> = codes.iter().filter(|(_, code)| uses(code)).map(|(file, _)| *file).collect();
        let rooms: Vec<&str> = rule.rooms.iter().map(|(room, _)| *room).collect();
        compare(rule.power, &users, &rooms, &mut wrong);
    }
    wrong
}

/// What in `sources` names a crate, one of `dependencies`, that its room may not name.
pub fn broken_crates(sources: &[(String, String)], dependencies: &[String]) -> Vec<String> {
    let codes: Vec<(&str, String)> = sources.iter().map(|(file, text)| (file.as_str(), code(text))).collect();
    let lists: BTreeMap<&str, &[&str]> = CRATES.into_iter().collect();
    let mut wrong = Vec::new();
    for name in dependencies.iter().filter(|name| !EVERYWHERE.contains(&name.as_str())) {
        let Some(rooms) = lists.get(name.as_str()) else {
            wrong.push(format!("the crate {name} has no list of rooms in tests/house/rules.rs"));
            continue;
        };
        let users: Vec<&str> =
            codes.iter().filter(|(_, code)| names_crate(code, name)).map(|(file, _)| *file).collect();
        compare(&format!("names the crate {name}"), &users, rooms, &mut wrong);
    }
    let unused = CRATES.iter().filter(|(name, _)| !dependencies.iter().any(|other| other == name));
    wrong.extend(unused.map(|(name, _)| format!("{name} is no dependency")));
    wrong
}

/// Commands that name another command.
pub fn broken_commands(sources: &[(String, String)]) -> Vec<String> {
    let stem = |file: &str| {
        let rest = file.strip_prefix("src/command/")?;
        Some(rest.split(['/', '.']).next()?.to_string())
            .filter(|stem| !["mod", "broker", "clips", "logging"].contains(&stem.as_str()))
    };
    let commands: Vec<String> = sources.iter().filter_map(|(file, _)| stem(file)).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources {
        let Some(own) = stem(file) else { continue };
        let code = code(text);
        let top = file.matches('/').count() == 2;
        for other in commands.iter().filter(|other| **other != own) {
            let from_beside = top && code.contains(&format!("super::{other}::"));
            if from_beside || code.contains(&format!("command::{other}::")) {
                wrong.push(format!("{file} names the command {other}"));
            }
        }
    }
    wrong.dedup();
    wrong
}
