//! Many devices at one broker, for `tools/board/fleet simulate`: the windows of a record through the policy, and the events through the
//! MQTT sink, for each device with its own outbox and certificate.
//!
//! `fleet RECORD DEVICES SECONDS PORT KEYS STATE`: a window of each device per second, each from another place of the record. At the end
//! what holds is ended, and what waits has two minutes to go out. Prints the sums as one JSON object.

use mien::{
    policy::{Limits, Observation, Policy},
    sink::{
        Message, Setup, Sink, Speaker,
        json::Line,
        mqtt::{Mqtt, Settings},
        record::Noted,
    },
    source::monotonic_ns,
    wire::{Cause, Event, Health, Heartbeat, NO_LABEL},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const STEP: Duration = Duration::from_secs(1);
/// What waits has so long to go out after the last window.
const LAST: Duration = Duration::from_secs(120);
/// Threads that look after devices, beside the one that each has for its connection.
const DRIVERS: usize = 4;

struct Window {
    window_ms: u32,
    expected: u8,
    present: u8,
    nobody: bool,
    scores: Option<Vec<f32>>,
}

struct Recorded {
    limits: Limits,
    speaker: Speaker,
    windows: Vec<Window>,
}

fn read(path: &Path) -> Recorded {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut policy, mut hello, mut windows) = (None, None, Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Noted::Policy { limits, labels }) => policy = Some((limits, labels)),
            Ok(Noted::Window { window_ms, expected, present, nobody, scores, .. }) => {
                windows.push(Window { window_ms, expected, present, nobody, scores });
            }
            Err(_) => {
                if let Ok(Line::Hello(said)) = serde_json::from_str(line) {
                    hello = Some(said);
                }
            }
        }
    }
    let ((limits, labels), hello) = policy.zip(hello).expect("a record of mien run --record");
    let speaker = Speaker {
        boot: 0,
        machine: String::new(),
        device: String::new(),
        purpose: hello.purpose,
        bundle: hello.bundle,
        bundle_hash: [0; 8],
        label_set: hello.label_set,
        labels,
        window_ms: hello.window_ms,
        hop_ms: STEP.as_millis() as u32,
        heartbeat_ms: 10_000,
    };
    Recorded { limits, speaker, windows }
}

struct Device {
    sink: Mqtt,
    policy: Policy,
    /// The next window of the record.
    place: usize,
    due: Instant,
    beat: Heartbeat,
    told: u64,
}

impl Device {
    fn new(number: usize, recorded: &Recorded, port: u16, keys: &Path, state: &Path) -> Device {
        let name = format!("device-{number:04}");
        let settings = Settings {
            host: "localhost".into(),
            port,
            tls: true,
            ca: keys.join("ca.pem"),
            client_cert: keys.join(format!("{name}.pem")),
            client_key: keys.join(format!("{name}.key")),
            ..Settings::default()
        };
        let speaker = Speaker {
            boot: 1 + number as u64,
            machine: format!("{number:016x}"),
            device: name.clone(),
            ..recorded.speaker.clone()
        };
        let labels = speaker.labels.len();
        let state_dir = state.join(name);
        fs::create_dir_all(&state_dir).unwrap();
        Device {
            sink: Mqtt::open(settings, &Setup { speaker: Arc::new(speaker), state_dir }).unwrap(),
            policy: Policy::new(recorded.limits.clone(), labels, 0),
            place: number * 7 % recorded.windows.len(),
            // Devices are not in step.
            due: Instant::now() + STEP * (number % 97) as u32 / 97,
            beat: Heartbeat { label: NO_LABEL, video: Health::Ok, audio: Health::Ok, ..Heartbeat::default() },
            told: 0,
        }
    }

    fn tell(&mut self, event: Event) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.told += 1;
        self.beat.events += 1;
        let event = Event { wall_ms: wall.as_millis() as u64, wall_synced: 1, ..event };
        self.sink.send(&Message::Event(event));
    }

    fn step(&mut self, recorded: &Recorded) {
        self.due += STEP;
        let at_ms = monotonic_ns() / 1_000_000;
        let Window { window_ms, expected, present, nobody, scores } = &recorded.windows[self.place];
        self.place = (self.place + 1) % recorded.windows.len();
        let events = self.policy.push(&Observation {
            at_ms,
            window_ms: *window_ms,
            expected: *expected,
            present: *present,
            nobody: *nobody,
            scores: scores.as_deref(),
        });
        events.into_iter().for_each(|event| self.tell(event));
        self.beat.windows += 1;
        self.beat.uptime_ms += STEP.as_millis() as u64;
        self.beat.dropped = self.sink.counts().dropped as u32;
        if self.beat.windows.is_multiple_of(10) {
            self.sink.send(&Message::Heartbeat(self.beat));
        }
    }

    fn end(&mut self) {
        let at_ms = monotonic_ns() / 1_000_000;
        self.policy.close(at_ms, Cause::Shutdown).into_iter().for_each(|event| self.tell(event));
    }
}

#[derive(Default)]
struct Sums {
    told: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    waiting: AtomicU64,
    losses: AtomicU64,
}

fn drive(mut devices: Vec<Device>, recorded: &Recorded, until: Instant, sums: &Sums) {
    let look = |devices: &mut Vec<Device>| {
        devices.iter_mut().for_each(|device| device.sink.tick());
        thread::sleep(Duration::from_millis(20));
    };
    while Instant::now() < until {
        devices.iter_mut().filter(|device| device.due <= Instant::now()).for_each(|d| d.step(recorded));
        look(&mut devices);
    }
    devices.iter_mut().for_each(Device::end);
    let last = Instant::now() + LAST;
    while devices.iter().any(|device| device.sink.counts().waiting > 0) && Instant::now() < last {
        look(&mut devices);
    }
    for mut device in devices {
        device.sink.close();
        let counts = device.sink.counts();
        let add = |sum: &AtomicU64, count| sum.fetch_add(count, Ordering::Relaxed);
        add(&sums.told, device.told);
        add(&sums.sent, counts.sent);
        add(&sums.dropped, counts.dropped);
        add(&sums.waiting, counts.waiting);
        add(&sums.losses, counts.losses);
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [record, devices, seconds, port, keys, state] = args.as_slice() else {
        panic!("fleet RECORD DEVICES SECONDS PORT KEYS STATE")
    };
    let number = |text: &String| text.parse::<usize>().unwrap_or_else(|_| panic!("{text} is no number"));
    let (keys, state) = (PathBuf::from(keys), PathBuf::from(state));
    let recorded = read(Path::new(record));
    let mut teams: Vec<Vec<Device>> = (0..DRIVERS).map(|_| Vec::new()).collect();
    for i in 0..number(devices) {
        teams[i % DRIVERS].push(Device::new(i, &recorded, number(port) as u16, &keys, &state));
    }
    eprintln!("{devices} devices, {} windows of {} in turn", recorded.windows.len(), record);
    let sums = Sums::default();
    let until = Instant::now() + Duration::from_secs(number(seconds) as u64);
    thread::scope(|scope| {
        for team in teams {
            scope.spawn(|| drive(team, &recorded, until, &sums));
        }
    });
    let sum = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
    println!(
        "{}",
        serde_json::json!({
            "told": sum(&sums.told),
            "sent": sum(&sums.sent),
            "dropped": sum(&sums.dropped),
            "waiting": sum(&sums.waiting),
            "losses": sum(&sums.losses),
        })
    );
}
