//! The daemon at work allocates nothing: FIFOs, window, a whole model, policy, a serial line; every thread is counted.

use mien::{
    bundle::{
        Kind, Shift,
        synthetic::{self, Preset},
    },
    config::{self, Explain},
    daemon::{self, Controls, Pace, Plan},
    model::{self, Device as Machine, follow::Follower},
    policy::Limits,
    privacy,
    sink::{self, Message, Sink, SinkCounts, Speaker, serial},
    source::{self, Gives, pipe},
    window,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

static ARMED: AtomicBool = AtomicBool::new(false);
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Saying where an allocation came from allocates.
    static SAYING: Cell<bool> = const { Cell::new(false) };
}

struct Counted;

fn count(bytes: usize) {
    if !ARMED.load(SeqCst) || SAYING.replace(true) {
        return;
    }
    BYTES.fetch_add(bytes, SeqCst);
    if TAKEN.fetch_add(1, SeqCst) < 8 {
        let name = thread::current().name().unwrap_or("?").to_owned();
        eprintln!("{bytes} bytes by {name}\n{}", Backtrace::force_capture());
    }
    SAYING.set(false);
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Windows until every buffer has had its largest content, and windows that are counted.
const WARM: usize = 5;
const COUNTED: usize = 4;
const RATE: u32 = 16;

/// Arms the count after the first windows and ends the run after the last.
struct Referee {
    windows: usize,
    stop: Arc<AtomicBool>,
}

impl Sink for Referee {
    fn name(&self) -> &'static str {
        "referee"
    }
    fn send(&mut self, message: &Message) {
        if let Message::Scores(_) = message {
            self.windows += 1;
            if self.windows == WARM {
                ARMED.store(true, SeqCst);
            }
            if self.windows == WARM + COUNTED {
                ARMED.store(false, SeqCst);
                self.stop.store(true, SeqCst);
            }
        }
    }
    fn counts(&self) -> SinkCounts {
        SinkCounts { sent: self.windows as u64, ..SinkCounts::default() }
    }
}

fn fifo(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

/// Writes `piece` at the speed of life, each time a little different, until the reader is gone.
fn produce(
    path: PathBuf,
    head: &'static [u8],
    tag: &'static [u8],
    mut piece: Vec<u8>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
        fifo.write_all(head).unwrap();
        let (start, mut step) = (Instant::now(), 0u32);
        loop {
            for (i, byte) in piece.iter_mut().enumerate() {
                *byte = byte.wrapping_add((i % 7) as u8 + step as u8);
            }
            if fifo.write_all(tag).and_then(|()| fifo.write_all(&piece)).is_err() {
                return;
            }
            step += 1;
            thread::sleep(
                (start + Duration::from_secs(1) * step / RATE).saturating_duration_since(Instant::now()),
            );
        }
    })
}

/// So that the temperature follows the windows.
const SHIFT: Shift = Shift { margins: [1.0; 3], factors: [1.5; 3], slope: 1.0 };

#[test]
fn steady_state_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (video, audio) = (fifo(folder.path(), "video"), fifo(folder.path(), "audio"));
    let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&far).unwrap();
    unlockpt(&far).unwrap();
    let tty = PathBuf::from(ptsname(&far, Vec::new()).unwrap().into_string().unwrap());

    let bundle = synthetic::bundle(Preset::Tiny, 1, Kind::Q8_0).unwrap();
    let mut infer = model::load(&bundle, Machine::Cpu, 2).unwrap();
    let set = &bundle.label_sets()[0];
    let window = window::Settings { window_ms: 1_000, hop_ms: 500, ..Default::default() };
    let speaker = Arc::new(Speaker {
        boot: 1,
        machine: String::new(),
        device: "bench".into(),
        purpose: "research".into(),
        bundle: bundle.header().name.clone(),
        bundle_hash: bundle.hash(),
        label_set: set.name.clone(),
        labels: set.labels.clone(),
        window_ms: window.window_ms,
        hop_ms: window.hop_ms,
        heartbeat_ms: 200,
    });
    let (picture, sound) = (Some(video.clone()), Some(audio.clone()));
    let pipe = pipe::Settings { video: picture, audio: sound, audio_rate: 16_000, audio_channels: 1 };
    let serial = serial::Settings { tty, write_ms: 1, hello_s: 1, ..Default::default() };
    let plan = Plan {
        sources: vec![(source::Settings::Pipe(pipe), Gives { video: true, audio: true })],
        sinks: vec![sink::Settings::Serial(serial)],
        privacy: privacy::Settings { purpose: "museum-guide".into(), ..Default::default() },
        pace: Pace::Live,
        window,
        frames: bundle.shape().frames,
        side: bundle.shape().image,
        nets: Default::default(),
        words: None,
        gate: None,
        followers: Some([0, 1, 2].map(|kind| Follower::new(SHIFT, kind, set.temperature))),
        cues: Default::default(),
        policy: Limits { dwell_ms: 0, smooth_ms: 0, change: 0.01, ..Default::default() },
        model: config::Model { labels: set.name.clone(), reason: Explain::Off, ..Default::default() },
        daemon: config::Daemon { heartbeat_ms: 200, readings_max: 64, ..Default::default() },
        state_dir: PathBuf::new(),
        speaker,
        board: String::new(),
        power: String::new(),
        bundle_bytes: bundle.file_bytes(),
    };
    let controls = Controls::new(&plan).unwrap();
    let mut sinks = daemon::open_sinks(&plan).unwrap();
    sinks.push(Box::new(Referee { windows: 0, stop: Arc::clone(&controls.stop) }));
    let (head, planes) = (b"YUV4MPEG2 W96 H64 F16:1 Ip A1:1 C420jpeg\n", vec![90; 96 * 64 * 3 / 2]);
    let producers = [
        produce(video, head, b"FRAME\n", planes),
        produce(audio, b"", b"", vec![7; 16_000 / RATE as usize * 2]),
    ];
    let summary = daemon::run(&plan, &controls, plan.measurer().unwrap(), sinks, infer.as_mut()).unwrap();
    for producer in producers {
        producer.join().unwrap();
    }
    assert!(summary.windows as usize >= WARM + COUNTED, "{summary:?}");
    let (taken, bytes) = (TAKEN.load(SeqCst), BYTES.load(SeqCst));
    ARMED.store(true, SeqCst);
    drop(std::hint::black_box(Box::new(7u64)));
    ARMED.store(false, SeqCst);
    assert_eq!(TAKEN.load(SeqCst), taken + 1, "the count sees a box");
    assert_eq!(taken, 0, "{COUNTED} windows took memory {taken} times, {bytes} bytes in all");
}
