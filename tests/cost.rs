//! What all of a run but the model costs: processor time at a camera's and a microphone's full rate, and from scores to the line.

use mien::{
    config,
    daemon::{self, Controls, Pace, Plan},
    model::{AudioContext, Decoding, Infer, Input, Observer, Reason, Scores},
    policy::Limits,
    privacy,
    sink::{self, Speaker, serial},
    source::{self, Gives, pipe},
    window,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

/// How long is measured.
const TIME: Duration = Duration::from_secs(8);
/// Another process: what it costs is not counted. 640 x 480 at 15 frames a second as 4:2:2, sound of 48 kHz in stereo.
const PRODUCER: &str = r#"
import os, sys, threading, time
def play(path, head, tag, piece, rate):
    with open(path, "wb", buffering=0) as fifo:
        out = lambda data: [data := data[fifo.write(data):] for _ in iter(lambda: len(data) > 0, False)]
        out(head)
        start, step = time.monotonic(), 0
        while True:
            out(tag + piece)
            step += 1
            time.sleep(max(0, start + step / rate - time.monotonic()))
video = (sys.argv[1], b"YUV4MPEG2 W640 H480 F15:1 Ip A1:1 C422\n", b"FRAME\n", os.urandom(640 * 480 * 2), 15)
audio = (sys.argv[2], b"", b"", os.urandom(4800 * 4), 10)
threading.Thread(target=play, args=video, daemon=True).start()
play(*audio)
"#;

/// Another label at every window, at once; when its scores were there.
struct Quick {
    scores: Scores,
    windows: usize,
    scored: Arc<Mutex<Option<Instant>>>,
}

impl Infer for Quick {
    fn describe(&self) -> String {
        "quick".into()
    }
    fn see(&mut self, _: &str, _: &Input<'_>) -> anyhow::Result<()> {
        self.windows += 1;
        self.scores.probabilities =
            if self.windows.is_multiple_of(2) { vec![0.9, 0.1] } else { vec![0.1, 0.9] };
        Ok(())
    }
    fn ask(&mut self, _: &str) -> anyhow::Result<()> {
        Ok(())
    }
    fn score(&mut self, _: &str) -> anyhow::Result<&Scores> {
        *self.scored.lock().unwrap() = Some(Instant::now());
        Ok(&self.scores)
    }
    fn reason_on(&mut self, _: &mut dyn FnMut(&str)) -> anyhow::Result<Option<Reason>> {
        anyhow::bail!("quick gives no reasons")
    }
    fn reason_between(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
    fn cut_reason(&mut self) -> Option<Reason> {
        None
    }
    fn set_decoding(&mut self, _: Decoding) -> anyhow::Result<()> {
        Ok(())
    }
    fn set_audio_context(&mut self, _: AudioContext) -> anyhow::Result<()> {
        Ok(())
    }
    fn observe(&mut self, _: Option<Box<dyn Observer>>) {}
}

struct Producer(Child);

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// Of this process, user and system.
fn processor_time() -> Duration {
    // SAFETY: `getrusage` fills in what it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Of this process: what it has asked for and touched, and the parts of the program that it has run.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let row = status.lines().find_map(|row| row.strip_prefix("VmRSS:")).unwrap();
    row.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn plan(pipe: pipe::Settings, tty: PathBuf) -> Plan {
    let window = window::Settings { window_ms: 4_000, hop_ms: 1_000, ..Default::default() };
    let speaker = Speaker {
        boot: 1,
        machine: String::new(),
        device: "bench".into(),
        purpose: "museum-guide".into(),
        bundle: "quick".into(),
        bundle_hash: [0; 8],
        label_set: "two".into(),
        labels: vec!["calm".into(), "loud".into()],
        window_ms: window.window_ms,
        hop_ms: window.hop_ms,
        heartbeat_ms: 60_000,
    };
    let serial = serial::Settings { tty, hello_s: 3_600, ..Default::default() };
    Plan {
        sources: vec![(source::Settings::Pipe(pipe), Gives { video: true, audio: true })],
        sinks: vec![sink::Settings::Serial(serial)],
        privacy: privacy::Settings { purpose: "museum-guide".into(), ..Default::default() },
        pace: Pace::Live,
        window,
        frames: 8,
        side: 224,
        nets: Default::default(),
        words: None,
        gate: None,
        followers: None,
        cues: Default::default(),
        policy: Limits { dwell_ms: 0, smooth_ms: 0, refractory_ms: 0, ..Default::default() },
        model: config::Model { labels: "two".into(), ..Default::default() },
        daemon: config::Daemon { heartbeat_ms: 60_000, readings_max: 96, ..Default::default() },
        state_dir: PathBuf::new(),
        speaker: Arc::new(speaker),
        board: String::new(),
        power: String::new(),
        bundle_bytes: 0,
    }
}

/// How long after its scores the first byte of each event came out of the line.
fn listen(line: &OwnedFd, scored: &Mutex<Option<Instant>>, until: Instant) -> Vec<Duration> {
    let (mut bytes, mut waits) = ([0; 512], Vec::new());
    while Instant::now() < until {
        match rustix::io::read(line, &mut bytes[..]) {
            Ok(count) if count > 0 => {
                let now = Instant::now();
                waits.extend(scored.lock().unwrap().take().map(|then| now.saturating_duration_since(then)));
            }
            _ => thread::sleep(Duration::from_micros(50)),
        }
    }
    waits.sort();
    waits
}

#[test]
fn all_but_the_model_is_cheap_and_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let (video, audio) = (fifo(folder.path(), "video"), fifo(folder.path(), "audio"));
    let line = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&line).unwrap();
    unlockpt(&line).unwrap();
    rustix::io::ioctl_fionbio(&line, true).unwrap();
    let tty = PathBuf::from(ptsname(&line, Vec::new()).unwrap().into_string().unwrap());
    let producer = Command::new("python3")
        .args(["-c", PRODUCER])
        .arg(&video)
        .arg(&audio)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _producer = Producer(producer);

    let pipe =
        pipe::Settings { video: Some(video), audio: Some(audio), audio_rate: 48_000, audio_channels: 2 };
    let plan = plan(pipe, tty);
    let controls = Controls::new(&plan).unwrap();
    let sinks = daemon::open_sinks(&plan).unwrap();
    let scored = Arc::new(Mutex::new(None));
    let mut quick = Quick { scores: Scores::default(), windows: 0, scored: Arc::clone(&scored) };
    let (mut spent, mut waits, mut resident) = (Duration::ZERO, Vec::new(), 0);
    let summary = thread::scope(|scope| {
        scope.spawn(|| {
            // The first windows touch what is touched for the first time. The listener sleeps between its looks; its own cost counts.
            thread::sleep(Duration::from_secs(6));
            let before = processor_time();
            thread::sleep(TIME);
            spent = processor_time() - before;
            resident = resident_bytes();
            waits = listen(&line, &scored, Instant::now() + TIME);
            controls.stop.store(true, Ordering::Release);
        });
        daemon::run(&plan, &controls, plan.measurer().unwrap(), sinks, &mut quick)
    })
    .unwrap();
    let share = spent.as_secs_f64() / TIME.as_secs_f64();
    // What waited before the listener began is not prompt.
    let median = waits[waits.len() / 2];
    println!(
        "seen: {:.2} % of a core and {:.1} MB at 15 frames of 640 x 480 and 48 kHz stereo; scores to the line {:.2} ms in the median of {}",
        100.0 * share,
        resident as f64 / 1e6,
        median.as_secs_f64() * 1e3,
        waits.len()
    );
    assert!(summary.windows >= 12 && summary.late == 0, "{summary:?}");
    assert!(waits.len() >= 5, "{waits:?}");
    // Besides the bundle, which a model of a few lines has not.
    assert!(resident < 20_000_000, "{resident} bytes");
    // The targets are 2 % and 1 ms for the program as it ships; tests are built for a shorter build.
    assert!(share < 0.15, "{share}");
    assert!(median < Duration::from_millis(5), "{waits:?}");
}
