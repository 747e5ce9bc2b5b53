//! Faults of the machine around the daemon: time, memory, processor, disk, noise, a hostile broker. `tools/test faults` prints their table.
//!
//! Each test prints one line `seen: ...` with its counts.

mod dice;
mod program;

use dice::Dice;
use mien::wire::{self, AUDIO, Decoder, Event, Kind, VIDEO};
use program::{Program, material, mien};
use rustix::process::Signal;
use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BOTH: u8 = VIDEO | AUDIO;

/// A daemon on a tiny bundle and a clip of half a minute, its events in a file.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new(more: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let text = String::from(
            "device = \"bench\"\n[model]\nbundle = \"FROM/tiny.gguf\"\nbackend = \"cpu\"\n[clip]\npath = \"FROM/clip\"\npaced = true\n\
             frames_per_second = 20\n[window]\nwindow_ms = 400\nhop_ms = 200\nlateness_ms = 0\n[privacy]\npurpose = \"research\"\n\
             [policy]\nenter = 0.05\nexit = 0.01\ndwell_ms = 0\nneed = \"any\"\nchange = 0.0001\n[sink.stdout]\n",
        );
        let text = text.replace("FROM", material().to_str().unwrap());
        // Keys of the top level come first.
        let (top, rest): (Vec<&str>, Vec<&str>) =
            more.lines().partition(|line| line.starts_with("state_dir"));
        fs::write(folder.path().join("site.toml"), format!("{}\n{text}{}", top.join("\n"), rest.join("\n")))
            .unwrap();
        Site { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, environment: &[(&str, &str)]) -> Daemon {
        let child = mien()
            .arg("run")
            .arg(self.path("site.toml"))
            .envs(environment.iter().copied())
            .stdout(fs::File::create(self.path("events")).unwrap())
            .stderr(fs::File::create(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        Daemon(Program(child))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path("events")).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["type"] == "event").collect()
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Daemon(Program);

impl Daemon {
    /// Ends it; the exit code.
    fn end(mut self) -> Option<i32> {
        self.0.signal(Signal::CONT);
        self.0.signal(Signal::TERM);
        self.0.0.wait().unwrap().code()
    }
}

/// Begins without an end, and ends without a begin.
fn unpaired(events: &[serde_json::Value]) -> usize {
    let of = |kind: &str| -> Vec<u64> {
        let found = events.iter().filter(|event| event["event"] == kind);
        found.map(|event| event["episode"].as_u64().unwrap()).collect()
    };
    let (begins, ends) = (of("begin"), of("end"));
    let lonely = |a: &[u64], b: &[u64]| {
        a.iter().filter(|id| b.iter().filter(|other| other == id).count() != 1).count()
    };
    lonely(&begins, &ends) + lonely(&ends, &begins)
}

#[test]
fn a_wall_clock_stepped_by_a_day_moves_only_the_stamp() {
    let site = Site::new("");
    let set = |offset: &str| fs::write(site.path("clock"), offset).unwrap();
    set("+0");
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("faketime is installed: tools/setup does it");
    let daemon = site.start(&[
        ("LD_PRELOAD", &library),
        ("FAKETIME_TIMESTAMP_FILE", site.path("clock").to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let mut said = 0;
    for offset in ["+1d", "-1d", "+0"] {
        said = site.events().len().max(said) + 3;
        site.until("more events", || site.events().len() > said);
        set(offset);
    }
    said = site.events().len() + 4;
    site.until("events after the steps", || site.events().len() > said);
    assert_eq!(daemon.end(), Some(0), "{}", site.log());
    let events = site.events();
    let at: Vec<u64> = events.iter().map(|event| event["at_ms"].as_u64().unwrap()).collect();
    assert!(at.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] - pair[0] < 2_000), "{at:?}");
    assert!(!site.log().contains("panic"), "{}", site.log());
    assert_eq!(unpaired(&events), 0);
    println!("seen: clock +1 day, -1 day, back: {} events in order, 0 without their pair", events.len());
}

#[test]
fn too_little_memory_is_named_at_load_and_never_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[model]\nbundle = \"{ROOT}/models/default.gguf\"\nbackend = \"cpu\"\n[privacy]\npurpose = \"research\"\n\
         [clip]\npath = \"{ROOT}/models/demo/demo.avi\"\n[sink.stdout]\n"
    );
    fs::write(folder.path().join("site.toml"), text).unwrap();
    let (mut refused, mut ran, mut later) = (0, 0, 0);
    // Below, the program itself cannot be loaded.
    for kib in (26_000..80_000).step_by(6_000) {
        let command =
            format!("ulimit -v {kib}; exec timeout 60 {} run site.toml --fast", env!("CARGO_BIN_EXE_mien"));
        let said = Command::new("sh").args(["-c", &command]).current_dir(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        match said.status.code() {
            Some(0) => ran += 1,
            Some(1) => {
                assert!(
                    text.contains("no memory for")
                        || text.contains("free memory")
                        || text.contains("os error 1"),
                    "{kib} KiB: {text}"
                );
                refused += 1;
            }
            // The model was loaded; nobody can work where a few bytes more cannot be had.
            None | Some(134) if text.contains(" rows at once") => later += 1,
            // The loader of the system, before our first line.
            Some(127) => {}
            other => panic!("{kib} KiB: {other:?}: {text}"),
        }
    }
    assert!(refused >= 3, "{refused} refused");
    println!(
        "seen: {refused} limits refused by name, {ran} ran, {later} ended after the load, 0 crashed in it"
    );
}

#[test]
fn a_quarter_of_the_processor_costs_windows_and_no_pair() {
    let site = Site::new("[daemon]\non_late = \"skip\"\n");
    let daemon = site.start(&[]);
    site.until("the first event", || !site.events().is_empty());
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        daemon.0.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(75));
        daemon.0.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(25));
    }
    let before = site.events().len();
    site.until("events at the full share", || site.events().len() > before + 2);
    assert_eq!(daemon.end(), Some(0), "{}", site.log());
    let events = site.events();
    assert_eq!(unpaired(&events), 0);
    println!("seen: 6 s at a quarter: {} events, 0 without their pair, exit code 0", events.len());
}

#[test]
fn a_state_directory_that_takes_nothing_is_said_and_stops_nothing() {
    let site = Site::new("state_dir = \"/proc/self/fd\"\n");
    let daemon = site.start(&[]);
    site.until("events", || site.events().len() > 4);
    assert_eq!(daemon.end(), Some(0), "{}", site.log());
    let log = site.log();
    let said = log.lines().filter(|line| line.contains("/proc/self/fd")).count();
    assert!((1..=4).contains(&said), "{said} lines:\n{log}");
    assert_eq!(unpaired(&site.events()), 0);
    println!("seen: {said} warnings, {} events, 0 without their pair", site.events().len());
}

#[test]
fn noise_in_one_of_a_thousand_bytes_gives_no_wrong_event() {
    let mut dice = Dice(99);
    let (mut line, mut truth) = (Vec::new(), Vec::new());
    let mut packet = [0; wire::LINE_BYTES_MAX];
    for seq in 0..20_000u32 {
        let event = Event {
            seq,
            episode: seq / 3,
            kind: [Kind::Begin, Kind::Change, Kind::End][seq as usize % 3],
            label: (dice.next() % 7) as u8,
            confidence_permille: (dice.next() % 1000) as u16,
            track: 0,
            expected: BOTH,
            present: BOTH,
            cause: wire::Cause::None,
            at_ms: u64::from(seq) * 500,
            begin_ms: u64::from(seq / 3) * 1500,
            window_ms: 4_000,
            wall_ms: dice.next() >> 22,
            wall_synced: 1,
            age_ms: 100,
        };
        let len = wire::encode(&wire::Message::Event(event), seq as u16, &mut packet).unwrap();
        line.extend_from_slice(&packet[..len]);
        truth.push(event);
    }
    let mut hit = 0;
    for byte in &mut line {
        if dice.next().is_multiple_of(1000) {
            *byte ^= 1 << (dice.next() % 8);
            hit += 1;
        }
    }
    let mut decoder = Decoder::new();
    let (mut right, mut wrong) = (0, 0);
    for byte in line {
        let Some(Ok(packet)) = decoder.feed(byte) else { continue };
        match packet.message {
            wire::Message::Event(event) if truth[event.seq as usize % truth.len()] == event => right += 1,
            _ => wrong += 1,
        }
    }
    assert_eq!(wrong, 0);
    assert!(right > 18_500, "{right}");
    println!("seen: {hit} bits flipped, {right} of {} events arrived, 0 wrong", truth.len());
}

/// A broker that answers every connection with noise, or with nothing, or closes it.
#[test]
fn a_hostile_broker_costs_nothing_but_its_events() {
    use std::{
        io::Write,
        net::TcpListener,
        sync::atomic::{AtomicUsize, Ordering},
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    std::thread::spawn(move || {
        let mut dice = Dice(3);
        let mut kept = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            let count = counted.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream;
            let _ = match count % 4 {
                0 => stream.write_all(&(0..4096).map(|_| dice.next() as u8).collect::<Vec<u8>>()),
                // A CONNACK, then a publication that says it is 256 MB long.
                1 => stream.write_all(&[0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1]),
                2 => Ok(()),
                // A CONNACK, then packets that nobody asked for.
                _ => stream
                    .write_all(&[0x20, 2, 0, 0, 0x40, 2, 0, 9, 0x90, 3, 0, 1, 0, 0x62, 2, 0, 1, 0xd0, 0]),
            };
            if count % 4 == 2 {
                continue;
            }
            kept.push(stream);
            if kept.len() > 2 {
                kept.remove(0);
            }
        }
    });
    let site = Site::new(&format!("[sink.mqtt]\nhost = \"127.0.0.1\"\nport = {port}\nkeep_alive_s = 5\n"));
    let daemon = site.start(&[]);
    site.until("events beside the broker", || {
        site.events().len() > 8 && connections.load(Ordering::SeqCst) >= 5
    });
    let kib = daemon.0.status_bytes("VmRSS:") / 1024;
    assert!(kib < 100_000, "{kib} KiB");
    assert_eq!(daemon.end(), Some(0), "{}", site.log());
    assert_eq!(unpaired(&site.events()), 0);
    let lines = site.log().lines().filter(|line| line.contains("broker")).count();
    assert!(lines < 20, "{lines} lines about the broker:\n{}", site.log());
    println!(
        "seen: {} connections, {} events elsewhere, {kib} KiB in memory, {lines} lines in the log, exit code 0",
        connections.load(Ordering::SeqCst),
        site.events().len()
    );
}
