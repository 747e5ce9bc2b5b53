//! A daemon's life, on the real program: signals, readers that leave or stand still, configs that change, and sudden deaths.

mod dice;
mod program;

use dice::Dice;
use mien::bundle::{Bundle, write};
use mien::wire::{self, Decoder, Event, Kind};
use program::{Program, material, mien};
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use std::{
    fs,
    io::Read,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// One end of a serial line that outlives daemons; the other is a tty.
struct Line {
    master: OwnedFd,
    tty: PathBuf,
    decoder: Decoder,
    events: Vec<(u64, Event)>,
    heartbeats: usize,
    boot: u64,
}

impl Line {
    fn new() -> Line {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let tty = PathBuf::from(ptsname(&master, Vec::new()).unwrap().to_str().unwrap());
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Line { master, tty, decoder: Decoder::new(), events: Vec::new(), heartbeats: 0, boot: 0 }
    }

    /// Takes what has come so far.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(len) = rustix::io::read(&self.master, &mut bytes[..]) {
            if len == 0 {
                break;
            }
            for &byte in &bytes[..len] {
                let Some(Ok(packet)) = self.decoder.feed(byte) else { continue };
                match packet.message {
                    wire::Message::Hello(hello) => self.boot = hello.boot,
                    wire::Message::Event(event) => self.events.push((self.boot, event)),
                    wire::Message::Heartbeat(_) => self.heartbeats += 1,
                    wire::Message::Reason(_)
                    | wire::Message::Grounds(_)
                    | wire::Message::People(_)
                    | wire::Message::Faces(_)
                    | wire::Message::Second(_) => {}
                }
            }
        }
    }

    fn count(&self, kind: Kind) -> usize {
        self.events.iter().filter(|(_, event)| event.kind == kind).count()
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Line) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.read();
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.events);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every begin has exactly one end, also where a begin was told twice because nobody could know whether it arrived.
    fn assert_paired(&self) {
        let mut open: Option<Event> = None;
        let mut ended = Vec::new();
        for (_, event) in &self.events {
            match event.kind {
                Kind::Begin if open == Some(*event) => {}
                Kind::Begin => {
                    assert!(open.is_none(), "{open:?} was not ended before {event:?}");
                    assert!(!ended.contains(&event.episode), "episode {} began twice", event.episode);
                    open = Some(*event);
                }
                Kind::End => {
                    assert_eq!(open.take().map(|begin| begin.episode), Some(event.episode), "{event:?}");
                    ended.push(event.episode);
                }
                _ => {}
            }
        }
        assert!(open.is_none(), "{open:?} has no end");
    }
}

/// A config in a folder of its own, with a state directory.
struct Site {
    folder: TempDir,
    text: String,
}

impl Site {
    fn new(sinks: &str) -> Site {
        let from = material().display();
        let text = format!(
            "device = \"bench\"\nstate_dir = \"state\"\n[model]\nbundle = \"{from}/tiny.gguf\"\n\
             [clip]\npath = \"{from}/clip\"\nframes_per_second = 20\n[window]\nwindow_ms = 200\nhop_ms = 100\n\
             lateness_ms = 0\n[privacy]\npurpose = \"research\"\n[daemon]\nheartbeat_ms = 100\n\
             [policy]\nenter = 0.05\nexit = 0.01\ndwell_ms = 0\nneed = \"any\"\npatience_ms = 60000\n{sinks}"
        );
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        let site = Site { folder, text };
        site.write(&site.text);
        site
    }

    fn on(line: &Line) -> Site {
        Site::new(&format!("[sink.serial]\ntty = \"{}\"\n", line.tty.display()))
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.path().join("site.toml"), text).unwrap();
    }

    fn start(&self) -> Daemon {
        let log = self.folder.path().join("log");
        let child = mien()
            .arg("run")
            .arg(self.folder.path().join("site.toml"))
            .stdout(Stdio::piped())
            .stderr(fs::OpenOptions::new().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Daemon { program: Program(child), log }
    }
}

struct Daemon {
    program: Program,
    log: PathBuf,
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn until_log(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.log().contains(words) {
            assert!(Instant::now() < deadline, "the log has no `{words}`:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end, at most some seconds.
    fn end(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.program.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < within, "still there after {:?}:\n{}", start.elapsed(), self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn term_int_and_quit_end_what_holds_within_two_seconds() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut line = Line::new();
        let site = Site::on(&line);
        let mut daemon = site.start();
        line.until("a begin", |line| line.count(Kind::Begin) == 1);
        daemon.signal(signal);
        assert_eq!(daemon.end(Duration::from_secs(2)).code(), Some(0), "{signal:?}: {}", daemon.log());
        line.read();
        line.assert_paired();
        assert_eq!(line.events.last().unwrap().1.cause, wire::Cause::Shutdown);
    }
}

/// A large model takes a minute to load and to show a window: nobody waits for that.
#[test]
fn a_signal_while_the_model_is_readied_ends_at_once() {
    let line = Line::new();
    let site = Site::on(&line);
    let bundle = format!("{}/tiny.gguf", material().display());
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/models/default.gguf");
    site.write(&site.text.replace(&bundle, default).replace("[model]", "[model]\nthreads = 1"));
    // A daemon that is faster than this test is tried again.
    let caught = (0..10).any(|_| {
        let mut daemon = site.start();
        daemon.until_log("purpose=research");
        std::thread::sleep(Duration::from_millis(5));
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.end(Duration::from_secs(1)).code(), Some(0), "{}", daemon.log());
        let log = daemon.log();
        fs::remove_file(&daemon.log).unwrap();
        !log.contains("real_time_factor=")
    });
    assert!(caught, "no signal came before the first window was scored");
}

#[test]
fn a_status_line_comes_when_asked_for() {
    let site = Site::new("[sink.stdout]\n");
    site.write(&site.text.replace("[daemon]", "[daemon]\nstatus_s = 3600"));
    let mut daemon = site.start();
    daemon.until_log("device open");
    assert!(!daemon.log().contains("uptime_s="));
    daemon.signal(Signal::USR2);
    daemon.until_log("uptime_s=");
    daemon.signal(Signal::TERM);
    daemon.end(Duration::from_secs(2));
}

#[test]
fn hangup_takes_thresholds_over_and_keeps_the_last_good_config() {
    let mut line = Line::new();
    let site = Site::on(&line);
    let mut daemon = site.start();
    line.until("a begin", |line| line.count(Kind::Begin) == 1);

    site.write(&site.text.replace("enter = 0.05", "enter = 0.05\nentre = 1"));
    daemon.signal(Signal::HUP);
    daemon.until_log("the last good one stays");
    daemon.until_log("`entre`");

    site.write(&site.text.replace("enter = 0.05", "enter = 0.99").replace("exit = 0.01", "exit = 0.98"));
    daemon.signal(Signal::HUP);
    daemon.until_log("config taken over: policy");
    line.until("the end by the new threshold", |line| line.count(Kind::End) == 1);

    site.write(&site.text.replace("hop_ms = 100", "hop_ms = 200"));
    daemon.signal(Signal::HUP);
    daemon.until_log("waits for a restart: window");
    line.until("a begin by the old threshold", |line| line.count(Kind::Begin) == 2);

    daemon.signal(Signal::USR2);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(Duration::from_secs(2)).code(), Some(0), "{}", daemon.log());
    line.read();
    line.assert_paired();
}

#[test]
fn reload_checks_a_config_and_wakes_its_daemon() {
    let mut line = Line::new();
    let site = Site::on(&line);
    let config = site.folder.path().join("site.toml");
    let reload = || {
        let done = mien().arg("reload").arg(&config).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, said) = reload();
    assert!(code == Some(1) && said.contains("start one with `mien run"), "{said}");
    let mut daemon = site.start();
    line.until("a begin", |line| line.count(Kind::Begin) == 1);
    site.write(&site.text.replace("enter = 0.05", "enter = 5"));
    let (code, said) = reload();
    assert!(
        code == Some(78) && said.contains("policy.enter = 5") && said.contains("nothing was changed"),
        "{said}"
    );
    site.write(&site.text.replace("enter = 0.05", "enter = 0.99").replace("exit = 0.01", "exit = 0.98"));
    let (code, said) = reload();
    assert!(code == Some(0) && said.contains(&daemon.program.0.id().to_string()), "{said}");
    daemon.until_log("config taken over: policy");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(Duration::from_secs(2)).code(), Some(0), "{}", daemon.log());
}

/// What the service manager hears: ready after a window, fed, and that it stops.
#[test]
fn the_service_manager_is_told_of_readiness_life_and_the_end() {
    let mut line = Line::new();
    let site = Site::on(&line);
    let paced = site.text.replace("frames_per_second = 20", "frames_per_second = 20\npaced = true");
    site.write(&paced);
    let socket = site.folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let child = mien()
        .arg("run")
        .arg(site.folder.path().join("site.toml"))
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .stderr(fs::File::create(site.folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = Daemon { program: Program(child), log: site.folder.path().join("log") };
    let hear = |words: &str| {
        let (mut bytes, deadline) = ([0; 2048], Instant::now() + Duration::from_secs(20));
        loop {
            let count = manager.recv(&mut bytes).unwrap_or_else(|error| panic!("{words}: {error}"));
            let said = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if said.contains(words) {
                return said;
            }
            assert!(Instant::now() < deadline, "waited in vain for {words}, heard {said}");
        }
    };
    let ready = hear("READY=1");
    assert!(ready.contains("STATUS=state=ok") && ready.contains("windows="), "{ready}");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    line.until("a begin", |line| line.count(Kind::Begin) == 1);
    daemon.signal(Signal::TERM);
    hear("STOPPING=1");
    assert_eq!(daemon.end(Duration::from_secs(2)).code(), Some(0), "{}", daemon.log());
}

#[test]
fn memory_is_locked_where_the_system_lets_it() {
    for (limit, locked) in [("unlimited", true), ("64", false)] {
        let site = Site::new("[sink.stdout]\n");
        let line = format!("ulimit -l {limit} || exit 9; exec {} run site.toml", env!("CARGO_BIN_EXE_mien"));
        let log = fs::File::create(site.folder.path().join("log")).unwrap();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line]).current_dir(site.folder.path()).stdout(Stdio::null()).stderr(log);
        let mut program = Program(shell.spawn().unwrap());
        let said = || fs::read_to_string(site.folder.path().join("log")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !said().contains("memory is") && Instant::now() < deadline {
            if let Some(status) = program.0.try_wait().unwrap() {
                assert_eq!(status.code(), Some(9), "{}", said());
                println!("seen: this user may not lock memory: that part was not tested");
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if program.0.try_wait().unwrap().is_none() {
            let bytes = program.status_bytes("VmLck:");
            assert_eq!(bytes > 1 << 20, locked, "limit {limit}: {bytes} bytes are locked; {}", said());
            assert_eq!(said().contains("memory is locked"), locked);
        }
    }
}

/// A device that computes something else than the packer's must not speak.
#[test]
fn a_device_that_fails_the_self_test_is_refused() {
    let mut line = Line::new();
    let site = Site::on(&line);
    let plain = material().join("tiny.gguf");
    let tested = site.folder.path().join("tested.gguf");
    let pack = mien().arg("pack").arg(&plain).arg("-o").arg(&tested).output().unwrap();
    assert!(pack.status.success(), "{}", String::from_utf8_lossy(&pack.stderr));
    let again =
        mien().arg("pack").arg(&plain).args(["--labels", "mood=a,b", "-o"]).arg(&tested).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && said.contains("is a bundle"), "{said}");
    let named = |path: &std::path::Path| site.text.replace(plain.to_str().unwrap(), path.to_str().unwrap());
    site.write(&named(&tested));
    let mut daemon = site.start();
    line.until("a heartbeat", |line| line.heartbeats > 0);
    assert!(daemon.log().contains("self-test passed"), "{}", daemon.log());
    daemon.signal(Signal::TERM);
    daemon.end(Duration::from_secs(2));

    let bundle = Bundle::open(&tested).unwrap();
    let mut header = bundle.header().clone();
    let scores = &mut header.self_test.as_mut().unwrap().scores;
    let most = scores.iter_mut().max_by(|a, b| a.total_cmp(b)).unwrap();
    *most -= 0.1;
    let other = site.folder.path().join("other.gguf");
    write::write_header(&other, &bundle, &header).unwrap();
    site.write(&named(&other));
    let mut daemon = site.start();
    assert_eq!(daemon.end(Duration::from_secs(20)).code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("the self-test failed"), "{}", daemon.log());
}

#[test]
fn a_reader_of_standard_output_that_leaves_stops_nothing() {
    let mut line = Line::new();
    let more = format!("[sink.serial]\ntty = \"{}\"\n[sink.stdout]\nscores = true\n", line.tty.display());
    let site = Site::new(&more);
    let mut daemon = site.start();
    drop(daemon.program.0.stdout.take());
    daemon.until_log("standard output is gone");
    let before = line.heartbeats;
    line.until("heartbeats", |line| line.heartbeats > before + 3);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(Duration::from_secs(2)).code(), Some(0), "{}", daemon.log());
    line.read();
    line.assert_paired();
}

#[test]
fn a_reader_of_standard_output_that_stands_still_does_not_hold_the_exit() {
    let mut line = Line::new();
    let more = format!(
        "[sink.serial]\ntty = \"{}\"\n[sink.stdout]\nscores = true\nheartbeats = true\n",
        line.tty.display()
    );
    let site = Site::new(&more);
    let mut daemon = site.start();
    let pipe = daemon.program.0.stdout.take().unwrap();
    // SAFETY: the descriptor is open as long as `pipe` lives.
    let bytes = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(bytes, 4096);
    line.until("time for the pipe to fill", |line| line.heartbeats > 40);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(Duration::from_secs(3)).code(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("sink stdout is stuck"), "{}", daemon.log());
    line.read();
    line.assert_paired();
}

#[test]
fn a_config_too_fast_for_the_machine_is_refused_stretched_or_skipped_aloud() {
    // A window of the tiny model takes longer than a hop of one millisecond on any machine.
    let line = Line::new();
    let fast = Site::on(&line).text.replace("window_ms = 200\nhop_ms = 100", "window_ms = 104\nhop_ms = 13");
    let site = Site::on(&line);
    for (on_late, words, code) in [
        ("refuse", "too slow for its config", Some(78)),
        ("stretch", "the hop becomes", None),
        ("skip", "windows will be left out", None),
    ] {
        let slow = fast.replace("[daemon]", &format!("[daemon]\non_late = \"{on_late}\""));
        site.write(&slow);
        let mut daemon = mien()
            .arg("run")
            .arg(site.folder.path().join("site.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map(|child| Daemon { program: Program(child), log: PathBuf::new() })
            .unwrap();
        let mut said = String::new();
        let mut stderr = daemon.program.0.stderr.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut bytes = [0; 1024];
        while !said.contains(words) && Instant::now() < deadline {
            match stderr.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(len) => said += &String::from_utf8_lossy(&bytes[..len]),
            }
        }
        assert!(said.contains(words) && said.contains("real_time_factor="), "{on_late}: {said}");
        if let Some(code) = code {
            assert_eq!(daemon.program.0.wait().unwrap().code(), Some(code));
        }
    }
}

/// `MIEN_KILLS` says how often; the lane `faults` asks for more.
#[test]
fn sudden_deaths_leave_every_begin_with_one_end_and_no_number_twice() {
    let kills = std::env::var("MIEN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12u32);
    let mut line = Line::new();
    let site = Site::on(&line);
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    for _ in 0..kills {
        let mut daemon = site.start();
        let until = Instant::now() + Duration::from_millis(100 + dice.next() % 900);
        while Instant::now() < until {
            line.read();
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon.program.0.kill().unwrap();
        daemon.program.0.wait().unwrap();
    }
    let mut daemon = site.start();
    let begins = line.count(Kind::Begin);
    line.until("one more begin", |line| line.count(Kind::Begin) > begins);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end(Duration::from_secs(2)).code(), Some(0), "{}", daemon.log());
    line.read();
    println!("{kills} kills: {} begins, {} ends", line.count(Kind::Begin), line.count(Kind::End));
    assert!(line.count(Kind::End) as u32 > kills / 10, "too few were alive when they died");
    line.assert_paired();
    let mut numbers: Vec<(u32, Event)> = line.events.iter().map(|(_, event)| (event.seq, *event)).collect();
    numbers.sort_by_key(|(seq, _)| *seq);
    for pair in numbers.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 == pair[1].1, "{pair:?} have one number");
    }
    let restarts = line.events.iter().filter(|(_, event)| event.cause == wire::Cause::Restart);
    for (_, end) in restarts {
        assert!(end.lasted_ms() < 5_000, "{end:?}");
    }
}
