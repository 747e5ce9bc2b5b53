//! The program itself: exit codes, a whole run over a recording, what it says when it is stopped, and `watch` and `draw`.

use mien::bundle::{
    Kind,
    synthetic::{self, Preset},
};
use mien::wire::{LINE_BYTES_MAX, Message, encode};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn mien(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mien")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a tiny bundle and a clip, made once.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("tiny.gguf");
        synthetic::write_file(&bundle, Preset::Tiny, 1, Kind::F32, &mut |_| ()).unwrap();
        let clip = folder.path().join("clip");
        fs::create_dir(&clip).unwrap();
        for i in 0..20u32 {
            let picture =
                image::RgbImage::from_fn(32, 24, |x, y| image::Rgb([(x * 8) as u8, (y * 8 + i) as u8, 90]));
            picture.save(clip.join(format!("{i:03}.png"))).unwrap();
        }
        folder
    });
    folder.path()
}

/// A config in the shared folder with more tables.
fn config(name: &str, more: &str) -> PathBuf {
    let text = format!(
        "device = \"bench\"\n[model]\nbundle = \"tiny.gguf\"\n[clip]\npath = \"clip\"\nframes_per_second = 10\n\
         [window]\nwindow_ms = 1000\nhop_ms = 500\n[privacy]\npurpose = \"research\"\n\
         [policy]\nenter = 0.05\nexit = 0.01\ndwell_ms = 0\n{more}"
    );
    let path = folder().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn usage_errors_end_with_1_and_help_with_0() {
    for args in [&["bogus"][..], &[], &["run"], &["run", "a", "b"], &["watch", "--count", "x", "y"]] {
        assert_eq!(mien(args).status.code(), Some(1), "{args:?}");
    }
    assert_eq!(mien(&["--help"]).status.code(), Some(0));
    assert_eq!(mien(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_record_replays_to_the_same_events_and_shows_what_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("run.jsonl");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/demo.toml");
    let told = mien(&["run", demo, "--fast", "--record", record.to_str().unwrap()]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let replay = |more: &[&str]| {
        let done = mien(&[&["replay", record.to_str().unwrap()], more].concat());
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let events = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains(r#""type":"event""#)).map(String::from).collect()
    };
    let (code, said) = replay(&["--diff"]);
    assert!(code == Some(0) && said.contains("33 events, the same again"), "{said}");
    assert_eq!(events(&replay(&[]).1), events(&String::from_utf8_lossy(&told.stdout)), "the same bytes");

    let stricter = folder.path().join("stricter.toml");
    let text = fs::read_to_string(demo).unwrap().replace("enter = 0.35", "enter = 0.95");
    let here = |text: String| text.replace("path = \"demo.avi\"", "path = \"x.avi\"");
    fs::write(&stricter, here(text)).unwrap();
    let (code, said) = replay(&["--config", stricter.to_str().unwrap()]);
    let began = events(&said).into_iter().filter(|line| line.contains(r#""event":"begin""#)).count();
    assert!(code == Some(0) && (1..8).contains(&began), "{said}");

    let text = fs::read_to_string(&record).unwrap();
    assert!(!text.contains("data:") && text.len() < 100_000, "{} bytes", text.len());
    fs::write(&record, text.replacen("\"confidence\":0.9", "\"confidence\":0.8", 1)).unwrap();
    let (code, said) = replay(&["--diff"]);
    assert!(
        code == Some(1) && said.contains("told:") && said.contains("again:") && said.contains("1 of 33"),
        "{said}"
    );
    fs::write(&record, "{\"type\":\"hello\"}\n").unwrap();
    let (code, said) = replay(&["--diff"]);
    assert!(code == Some(1) && said.contains("line 1 is no line of a record"), "{said}");
}

#[test]
fn bad_configs_and_bundles_end_with_78() {
    let unknown = config("unknown.toml", "[sink.stdout]\ncolour = 1\n");
    let no_clip = folder().join("no_clip.toml");
    let good = fs::read_to_string(config("good.toml", "[sink.stdout]\n")).unwrap();
    fs::write(&no_clip, good.replace("\"clip\"", "\"gone.mp4\"")).unwrap();
    let no_bundle = folder().join("no_bundle.toml");
    fs::write(&no_bundle, good.replace("tiny.gguf", "gone.gguf")).unwrap();
    let broken_bundle = folder().join("broken_bundle.toml");
    fs::write(folder().join("broken.gguf"), b"GGUF but not really").unwrap();
    fs::write(&broken_bundle, good.replace("tiny.gguf", "broken.gguf")).unwrap();
    let no_labels = folder().join("no_labels.toml");
    fs::write(&no_labels, good.replace("[model]", "[model]\nlabels = \"colours\"")).unwrap();
    let no_tty = config("no_tty.toml", "[sink.serial]\ntty = \"/dev/nowhere\"\n");
    for (file, named) in [
        (&unknown, "`colour`"),
        (&no_clip, "gone.mp4"),
        (&no_bundle, "gone.gguf"),
        (&broken_bundle, "broken.gguf"),
        (&no_labels, "colours"),
    ] {
        for command in ["check-config", "run"] {
            let output = mien(&[command, path(file)]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{command} {}: {said}", file.display());
            assert!(said.contains(named), "{command}: {said}");
        }
    }
    let output = mien(&["check-config", path(&no_tty)]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("/dev/nowhere"), "{}", text(&output.stderr));
    assert_eq!(mien(&["check-config", "--no-devices", path(&no_tty)]).status.code(), Some(0));
}

#[test]
fn check_config_prints_the_limits() {
    let output = mien(&["check-config", path(&config("limits.toml", "[sink.stdout]\n"))]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for row in ["window", "sound", "readings queued", "messages queued per sink", "keys and values", "sum"] {
        assert!(said.contains(row), "{row} is missing:\n{said}");
    }
}

#[test]
fn every_profile_and_example_reads() {
    let board = Path::new(env!("CARGO_MANIFEST_DIR")).join("board");
    let mut profiles = 0;
    for entry in fs::read_dir(&board).unwrap() {
        let folder_of_board = entry.unwrap().path();
        let file = folder_of_board.join("profile.toml");
        if !file.exists() {
            continue;
        }
        profiles += 1;
        let site = folder().join("profiled.toml");
        let text = format!(
            "profile = \"{}\"\n[model]\nbundle = \"tiny.gguf\"\n[privacy]\npurpose = \"research\"\n",
            file.display()
        );
        fs::write(&site, text).unwrap();
        let config =
            mien::config::read(&site).unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
        assert!(!config.board.name.is_empty(), "{}", file.display());
        let unit = fs::read_to_string(folder_of_board.join("mien.service.d/board.conf")).unwrap();
        let tty = config.sink.serial.map(|serial| serial.tty.display().to_string()).unwrap_or_default();
        assert!(
            tty.is_empty() || tty.contains("USB") || unit.contains(&format!("DeviceAllow={tty} rw")),
            "{}: the unit does not let {tty} be opened",
            file.display()
        );
    }
    assert_eq!(profiles, 7, "profiles in {}", board.display());
    mien::config::read(&board.join("site-example.toml")).unwrap();
}

#[test]
fn the_unit_names_no_board_and_is_shut() {
    let board = Path::new(env!("CARGO_MANIFEST_DIR")).join("board");
    let unit = fs::read_to_string(board.join("mien.service")).unwrap();
    for word in ["ttyTHS", "ttyAMA", "nvhost", "nvidia"] {
        assert!(!unit.contains(word), "{word} is a fact of a board");
    }
    assert!(!unit.contains("ExecStartPre"), "systemd heeds exit code 78 of the main process alone");
    let known = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", path(&board.join("mien.service"))])
        .output();
    let Ok(known) = known else {
        return println!("systemd-analyze is not here: the unit's exposure was not measured");
    };
    let said = text(&known.stdout);
    let level = said.lines().rev().find_map(|line| line.split("mien.service: ").nth(1)).unwrap_or("missing");
    let level: f32 = level.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{said}"));
    assert!(level < 2.0, "exposure {level}");
}

#[test]
fn a_fast_run_prints_the_same_lines_every_time_and_they_can_be_drawn() {
    let config = config("fast.toml", "[sink.stdout]\nscores = true\n");
    let first = mien(&["run", "--fast", path(&config)]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let second = mien(&["run", "--fast", path(&config)]);
    assert_eq!(text(&first.stdout), text(&second.stdout));
    let said = text(&first.stdout);
    assert!(said.starts_with(r#"{"type":"hello""#), "{said}");
    assert!(said.contains(r#""event":"begin""#) && said.contains(r#""cause":"input_end""#), "{said}");
    assert!(text(&first.stderr).contains("done: "), "{}", text(&first.stderr));

    let (lines, picture) = (folder().join("fast.jsonl"), folder().join("fast.svg"));
    fs::write(&lines, &first.stdout).unwrap();
    let drawn = mien(&["draw", path(&lines), "-o", path(&picture), "--title", "A <test> & more"]);
    assert_eq!(drawn.status.code(), Some(0), "{}", text(&drawn.stderr));
    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("A &lt;test&gt; &amp; more") && svg.contains("<polyline") && !svg.contains("NaN"));

    let watched = mien(&["watch", "--strict", path(&lines)]);
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    fs::write(&lines, "nothing to see").unwrap();
    assert_eq!(mien(&["draw", path(&lines), "-o", path(&picture)]).status.code(), Some(1));
}

#[test]
fn what_was_shown_is_drawn_and_compared() {
    let event = |event: &str, episode: u32, label: &str, at_ms: u32| {
        format!(
            r#"{{"type":"event","event":"{event}","seq":{at_ms},"episode":{episode},"label":"{label}","confidence":0.7,"track":0,"at_ms":{at_ms},"begin_ms":0,"window_ms":4000,"present":["video"],"age_ms":0}}"#
        )
    };
    let lines = folder().join("told.jsonl");
    let told = [
        event("begin", 0, "happiness", 1000),
        event("end", 0, "happiness", 6000),
        event("begin", 1, "fear", 6000),
        event("end", 1, "fear", 9000),
    ];
    fs::write(&lines, told.join("\n")).unwrap();
    let truth = folder().join("truth.jsonl");
    fs::write(
        &truth,
        r#"{"start_ms": 0, "end_ms": 5000, "label": "happy"}
{"start_ms": 5000, "end_ms": 9000, "label": "sad"}
{"start_ms": 9000, "end_ms": 9500, "label": "sad", "more": 1}
{"start_ms": 5500, "end_ms": 5900, "label": "happy"}
{"start_ms": 5800, "end_ms": 9000, "label": "fear"}
"#,
    )
    .unwrap();
    let picture = folder().join("told.svg");
    let draw = || mien(&["draw", path(&lines), "-o", path(&picture), "--truth", path(&truth)]);
    let drawn = draw();
    let said = text(&drawn.stdout);
    assert_eq!(drawn.status.code(), Some(0), "{}", text(&drawn.stderr));
    for words in [
        "said happiness for 4.0 s  right, begun after 1.0 s\n",
        "said fear      for 3.0 s  WRONG\n",
        "said nothing",
        "said happiness for 0.4 s  right\n",
        "said fear      for 3.0 s  right, begun after 0.2 s\n",
        "3 of 5 right; a right label begins 0.6 s after it is first shown (median)\n",
    ] {
        assert!(said.contains(words), "{words} is missing:\n{said}");
    }
    assert_eq!(fs::read_to_string(&picture).unwrap().matches("shown: ").count(), 3);
    fs::write(&truth, "{\"start_ms\": 0}\n").unwrap();
    let refused = draw();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("truth.jsonl, line 1"), "{}", text(&refused.stderr));
}

/// A pseudo terminal and the path of its other end.
fn pty() -> (OwnedFd, PathBuf) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    (master, PathBuf::from(name.to_str().unwrap()))
}

/// Everything that has come to a descriptor, until `enough` of it.
fn collect(master: &OwnedFd, mut enough: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    rustix::io::ioctl_fionbio(master, true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while !enough(&all) {
        assert!(Instant::now() < deadline, "only {} bytes came", all.len());
        match rustix::io::read(master, &mut bytes[..]) {
            Ok(len) if len > 0 => all.extend_from_slice(&bytes[..len]),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    all
}

#[test]
fn a_terminated_daemon_ends_what_holds_on_the_serial_line() {
    let (far, tty) = pty();
    let more = format!("[sink.serial]\ntty = \"{}\"\n[daemon]\nheartbeat_ms = 200\n", tty.display());
    let config = config("serial.toml", &more);
    let slow =
        fs::read_to_string(&config).unwrap().replace("frames_per_second = 10", "frames_per_second = 1");
    fs::write(&config, slow).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mien"))
        .args(["run", path(&config)])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let names = |bytes: &[u8]| -> Vec<String> {
        mien::report::story::lines(bytes)
            .into_iter()
            .map(|line| match line {
                mien::sink::json::Line::Event(event) => event.event,
                mien::sink::json::Line::Hello(_) => "hello".into(),
                _ => "other".into(),
            })
            .collect()
    };
    let mut all = collect(&far, |bytes| names(bytes).contains(&"begin".into()));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let mut bytes = [0; 4096];
    while let Ok(len) = rustix::io::read(&far, &mut bytes[..]) {
        if len == 0 {
            break;
        }
        all.extend_from_slice(&bytes[..len]);
    }
    let names = names(&all);
    assert_eq!(names[0], "hello");
    assert_eq!(names[names.len() - 2..], ["end", "unknown"], "{names:?}");
    assert!(stderr.contains("serial: "), "{stderr}");
}

/// An event packet with its numbers.
fn packet(seq: u16) -> Vec<u8> {
    let event = mien::wire::Event {
        seq: u32::from(seq),
        episode: 0,
        kind: mien::wire::Kind::Begin,
        label: 0,
        confidence_permille: 700,
        track: 0,
        expected: 3,
        present: 3,
        cause: mien::wire::Cause::None,
        at_ms: 1_000,
        begin_ms: 1_000,
        window_ms: 1_000,
        wall_ms: 0,
        wall_synced: 0,
        age_ms: 0,
    };
    let mut out = [0; LINE_BYTES_MAX];
    let len = encode(&Message::Event(event), seq, &mut out).unwrap();
    out[..len].to_vec()
}

#[test]
fn watch_counts_events_errors_and_gaps_on_a_tty() {
    let (far, tty) = pty();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mien"))
        .args(["watch", path(&tty), "--count", "4", "--seconds", "60", "--strict"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    // Packets sent before the tty is raw are lost; one that is printed says that it is.
    let mut sent = 0;
    let reader = std::thread::spawn(move || {
        out.read_line(&mut first).unwrap();
        (out, first)
    });
    while !reader.is_finished() {
        assert!(sent < 600, "watch printed nothing");
        rustix::io::write(&far, &packet(0)).unwrap();
        sent += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    let (mut out, first) = reader.join().unwrap();
    assert!(first.contains("begin"), "{first}");
    let mut bent = packet(1);
    bent[8] ^= 0x10;
    for bytes in [bent, packet(2), packet(3), packet(5)] {
        rustix::io::write(&far, &bytes).unwrap();
    }
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("events=4") && said.contains("crc_errors=1"), "{said}");
    assert!(said.contains("things were wrong"), "{said}");
}

#[test]
fn watch_reads_recordings_of_packets_and_says_when_too_few_came() {
    let file = folder().join("line.bin");
    let bytes: Vec<u8> = (0..3).flat_map(packet).collect();
    fs::write(&file, bytes).unwrap();
    let output = mien(&["watch", "--strict", "--json", path(&file)]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 3);
    assert!(text(&output.stderr).contains("events=3") && text(&output.stderr).contains("gaps=0"));
    let output = mien(&["watch", "--count", "4", path(&file)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("3 of 4 events"), "{}", text(&output.stderr));
    let mut input = Command::new(env!("CARGO_BIN_EXE_mien"))
        .args(["watch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    input.stdin.take().unwrap().write_all(&packet(9)).unwrap();
    assert!(text(&input.wait_with_output().unwrap().stdout).contains("begin"));
}

/// `mien ... | head -1`, with a reader that has left before the first line.
#[test]
fn a_reader_that_leaves_ends_a_command_without_a_word() {
    let bundle = folder().join("tiny.gguf");
    let clip = folder().join("clip");
    let commands: [&[&str]; 7] = [
        &["schema"],
        &["completions", "bash"],
        &["inspect", path(&bundle)],
        &["doctor"],
        &["doctor", "--json"],
        &["infer", path(&clip), "--bundle", path(&bundle)],
        &["update", "--status"],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = Command::new(env!("CARGO_BIN_EXE_mien"))
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text = text(&said.stderr);
        assert!(!text.contains("panicked") && !text.contains("roken pipe"), "{args:?}: {text}");
        // An update goes on; whatever else prints is ended by the signal.
        let ends = args[0] != "update";
        assert_eq!(said.status.signal(), ends.then_some(libc::SIGPIPE), "{args:?}: {text}");
    }
}

#[test]
fn completions_and_the_man_page_know_every_command() {
    let said = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_mien")).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let help = said(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    let pages = tempfile::tempdir().unwrap();
    said(&["manual", pages.path().to_str().unwrap()]);
    let main = fs::read_to_string(pages.path().join("mien.1")).unwrap();
    assert!(main.contains("78 bad config or bundle"), "{main}");
    for shell in ["bash", "zsh", "fish"] {
        let completions = said(&["completions", shell]);
        commands.iter().for_each(|command| assert!(completions.contains(command), "{shell}: {command}"));
    }
    for command in commands {
        let page = fs::read_to_string(pages.path().join(format!("mien-{command}.1"))).unwrap();
        assert!(page.contains(".SH DESCRIPTION"), "{command}: {page}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), said(&["completions", "bash"]).as_bytes())
        .unwrap();
    assert!(bash.wait().unwrap().success());
}
