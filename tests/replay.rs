//! The daemon over recordings with a model of a few lines: recorded in, exact out; and what it does when time presses.

mod recordings;

use mien::{
    backend::Halt,
    config::{self, Explain},
    daemon::{self, Controls, Pace, Plan, Summary},
    model::{AudioContext, Decoding, Infer, Input, Observer, Reason, Scores, Stop},
    policy::Limits,
    privacy,
    sink::{
        Message, Sink, SinkCounts, Speaker,
        stdout::{self, Stdout},
    },
    source::{self, Gives, clip},
    window,
    wire::{self, Cause, Event, Kind, LINE_BYTES_MAX},
};
use std::{
    f32::consts::TAU,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

const LABELS: [&str; 3] = ["neutral", "happy", "fear"];
const FRAMES_PER_SECOND: u32 = 8;

/// Bright pictures are happy, loud sound is fear.
#[derive(Default)]
struct Toy {
    scores: Scores,
    slow: Duration,
    halt: Halt,
    fails: bool,
    /// Steps of a reason, and how long each takes.
    steps: u32,
    step: Duration,
    done: u32,
    /// First byte of the last picture.
    saw: Arc<Mutex<u8>>,
}

impl Infer for Toy {
    fn describe(&self) -> String {
        "toy".into()
    }
    fn see(&mut self, prompt: &str, input: &Input<'_>) -> anyhow::Result<()> {
        assert_eq!(prompt, "label");
        *self.saw.lock().unwrap() = input.frames.map_or(0, |frames| frames[0].1.rgb[0]);
        let begun = Instant::now();
        while begun.elapsed() < self.slow && !self.halt.raised() {
            std::thread::sleep(Duration::from_millis(1).min(self.slow));
        }
        anyhow::ensure!(!self.fails, "toys break");
        let bright = input.frames.map_or(0.0, |frames| {
            let (_, last) = frames[frames.len() - 1];
            f32::from(last.rgb[0]) / 255.0
        });
        let loud = input.samples.map_or(0.0, |samples| {
            let tail = &samples[samples.len() - 1_600..];
            tail.iter().fold(0.0f32, |peak, s| peak.max(s.abs()))
        });
        let (happy, fear) = (0.1 + 0.8 * bright * (1.0 - loud), 0.1 + 0.8 * loud);
        let sum = happy + fear + 0.4;
        self.scores.probabilities = vec![0.4 / sum, happy / sum, fear / sum];
        Ok(())
    }
    fn ask(&mut self, prompt: &str) -> anyhow::Result<()> {
        assert_eq!(prompt, "reason");
        Ok(())
    }
    fn score(&mut self, label_set: &str) -> anyhow::Result<&Scores> {
        assert_eq!(label_set, "toys");
        Ok(&self.scores)
    }
    fn reason_on(&mut self, say: &mut dyn FnMut(&str)) -> anyhow::Result<Option<Reason>> {
        std::thread::sleep(self.step);
        self.done += 1;
        if self.done < self.steps {
            return Ok(None);
        }
        self.done = 0;
        say("Bright.");
        Ok(Some(Reason {
            text: "<think>Bright.</think>".into(),
            think: Some("Bright.".into()),
            answer: Some("happy".into()),
            tokens: 3,
            stop: Stop::EndOfText,
            weights: Vec::new(),
        }))
    }
    fn reason_between(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
    fn cut_reason(&mut self) -> Option<Reason> {
        let tokens = std::mem::take(&mut self.done) as usize;
        let text = "<think>Bri".into();
        let cut = Reason { text, think: None, answer: None, tokens, stop: Stop::Halted, weights: Vec::new() };
        (tokens > 0).then_some(cut)
    }
    fn halt_when(&mut self, halt: Halt) {
        self.halt = halt;
    }
    fn set_decoding(&mut self, _: Decoding) -> anyhow::Result<()> {
        Ok(())
    }
    fn set_audio_context(&mut self, _: AudioContext) -> anyhow::Result<()> {
        Ok(())
    }
    fn observe(&mut self, _: Option<Box<dyn Observer>>) {}
}

/// `seconds` of grey pictures and, where asked for, a sound; `bright` and `loud` say how much at a second.
fn record(
    folder: &Path,
    seconds: u32,
    bright: impl Fn(f32) -> u8,
    loud: Option<&dyn Fn(f32) -> f32>,
) -> PathBuf {
    let clip = folder.join("clip");
    fs::create_dir_all(&clip).unwrap();
    for i in 0..seconds * FRAMES_PER_SECOND {
        let grey = bright(i as f32 / FRAMES_PER_SECOND as f32);
        image::RgbImage::from_pixel(16, 16, image::Rgb([grey; 3]))
            .save(clip.join(format!("{i:05}.png")))
            .unwrap();
    }
    if let Some(loud) = loud {
        let sample = |i: u32| {
            let t = i as f32 / 16_000.0;
            (loud(t) * (t * 440.0 * TAU).sin() * 32_000.0) as i16
        };
        recordings::wav(clip.join("sound.wav"), (0..seconds * 16_000).map(sample));
    }
    clip
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a serial line would carry, and the messages themselves.
#[derive(Clone, Default)]
struct Tape {
    bytes: Shared,
    events: Arc<Mutex<Vec<Event>>>,
    reasons: Arc<Mutex<Vec<String>>>,
    seq: u16,
}

impl Sink for Tape {
    fn name(&self) -> &'static str {
        "tape"
    }
    fn send(&mut self, message: &Message) {
        let wired = match message {
            Message::Event(event) => {
                self.events.lock().unwrap().push(*event);
                wire::Message::Event(*event)
            }
            Message::Heartbeat(beat) => wire::Message::Heartbeat(*beat),
            Message::Reason(reason) => return self.reasons.lock().unwrap().push(reason.text.clone()),
            Message::Scores(_) | Message::People(_) | Message::Faces(_) | Message::Second(_) => return,
        };
        let mut packet = [0; LINE_BYTES_MAX];
        let len = wire::encode(&wired, self.seq, &mut packet).unwrap();
        self.seq += 1;
        self.bytes.write_all(&packet[..len]).unwrap();
    }
    fn counts(&self) -> SinkCounts {
        SinkCounts::default()
    }
}

impl Tape {
    fn told(&self) -> Vec<(u64, Kind, u8, Cause)> {
        self.events.lock().unwrap().iter().map(|e| (e.at_ms, e.kind, e.label, e.cause)).collect()
    }
    fn has(&self, kind: Kind) -> bool {
        self.events.lock().unwrap().iter().any(|event| event.kind == kind)
    }
}

struct Run {
    folder: TempDir,
    clip: PathBuf,
    gives: Gives,
    pace: Pace,
    state_dir: PathBuf,
    explain: Explain,
    json: Shared,
    tape: Tape,
}

impl Run {
    fn new(seconds: u32, pace: Pace, bright: impl Fn(f32) -> u8, loud: Option<&dyn Fn(f32) -> f32>) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let clip = record(folder.path(), seconds, bright, loud);
        Run {
            clip,
            gives: Gives { video: true, audio: loud.is_some() },
            pace,
            state_dir: PathBuf::new(),
            explain: Explain::Off,
            json: Shared::default(),
            tape: Tape::default(),
            folder,
        }
    }

    fn plan(&self) -> Plan {
        let window = window::Settings { window_ms: 1_000, hop_ms: 500, ..Default::default() };
        let speaker = Speaker {
            boot: 0,
            machine: String::new(),
            device: "bench".into(),
            purpose: "research".into(),
            bundle: "toy".into(),
            bundle_hash: [7; 8],
            label_set: "toys".into(),
            labels: LABELS.map(String::from).into(),
            window_ms: window.window_ms,
            hop_ms: window.hop_ms,
            heartbeat_ms: 1_000,
        };
        let settings = clip::Settings {
            path: self.clip.clone(),
            paced: self.pace != Pace::Fast,
            frames_per_second: FRAMES_PER_SECOND,
        };
        Plan {
            sources: vec![(source::Settings::Clip(settings), self.gives)],
            sinks: Vec::new(),
            privacy: privacy::Settings {
                purpose: "research".into(),
                mute_file: self.folder.path().join("mute"),
                ..Default::default()
            },
            board: String::new(),
            power: String::new(),
            bundle_bytes: 0,
            pace: self.pace,
            window,
            frames: 2,
            side: 4,
            nets: Default::default(),
            words: None,
            gate: None,
            followers: None,
            cues: Default::default(),
            policy: Limits {
                smooth_ms: 500,
                enter: 0.5,
                exit: 0.35,
                dwell_ms: 500,
                refractory_ms: 0,
                patience_ms: 1_000,
                change: 0.1,
                ..Default::default()
            },
            model: config::Model { labels: "toys".into(), reason: self.explain, ..Default::default() },
            daemon: config::Daemon { heartbeat_ms: 1_000, readings_max: 64, ..Default::default() },
            state_dir: self.state_dir.clone(),
            speaker: Arc::new(speaker),
        }
    }

    fn sinks(&self, plan: &Plan) -> Vec<Box<dyn Sink>> {
        let settings = stdout::Settings { scores: true, heartbeats: true, ..Default::default() };
        let stdout = Stdout::to(settings, Arc::clone(&plan.speaker), Box::new(self.json.clone()));
        vec![Box::new(stdout), Box::new(self.tape.clone())]
    }

    fn go(&self, toy: Toy) -> anyhow::Result<Summary> {
        self.go_until(toy, |_| false)
    }

    /// Runs beside a watcher that may stop it.
    fn go_until(
        &self,
        mut toy: Toy,
        mut stop_when: impl FnMut(&Run) -> bool + Send,
    ) -> anyhow::Result<Summary>
    where
        Run: Sync,
    {
        let plan = self.plan();
        let controls = Controls::new(&plan).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_secs(60);
                while !over.load(Ordering::Acquire) && Instant::now() < deadline {
                    if stop_when(self) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                controls.stop.store(true, Ordering::Release);
            });
            let summary =
                daemon::run(&plan, &controls, plan.measurer().unwrap(), self.sinks(&plan), &mut toy);
            over.store(true, Ordering::Release);
            summary
        })
    }
}

fn one_smile_and_one_scream() -> Run {
    let bright = |t: f32| if (2.0..5.0).contains(&t) { 250 } else { 20 };
    let loud = |t: f32| if (7.0..9.0).contains(&t) { 1.0 } else { 0.02 };
    Run::new(12, Pace::Fast, bright, Some(&loud))
}

/// Compares with a stored file; `MIEN_UPDATE_RECORDS=1` writes it instead.
fn expect(name: &str, got: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if std::env::var_os("MIEN_UPDATE_RECORDS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        return fs::write(path, got).unwrap();
    }
    let stored = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if stored == got {
        return;
    }
    if let (Ok(stored), Ok(got)) = (std::str::from_utf8(&stored), std::str::from_utf8(got)) {
        for (line, (stored, got)) in stored.lines().zip(got.lines()).enumerate() {
            assert_eq!(stored, got, "{name} line {}", line + 1);
        }
    }
    panic!("{name}: {} bytes are stored and {} came", stored.len(), got.len());
}

#[test]
fn recorded_in_exact_out() {
    let run = one_smile_and_one_scream();
    let summary = run.go(Toy::default()).unwrap();
    let kinds: Vec<_> =
        run.tape.told().into_iter().map(|(_, kind, label, cause)| (kind, label, cause)).collect();
    assert!(kinds.contains(&(Kind::Begin, 1, Cause::None)), "{kinds:?}");
    assert!(kinds.contains(&(Kind::Begin, 2, Cause::None)), "{kinds:?}");
    assert_eq!((summary.late, summary.dropped), (0, 0));
    assert_eq!(summary.events as usize, kinds.len());
    expect("replay.jsonl", &run.json.take());
    expect("replay.bin", &run.tape.bytes.take());
}

#[test]
fn the_same_recording_gives_the_same_bytes_however_slow_the_model_is() {
    let run = one_smile_and_one_scream();
    run.go(Toy::default()).unwrap();
    let (json, bytes) = (run.json.take(), run.tape.bytes.take());
    let run = Run { json: Shared::default(), tape: Tape::default(), ..run };
    run.go(Toy { slow: Duration::from_millis(20), ..Toy::default() }).unwrap();
    assert_eq!(String::from_utf8_lossy(&json), String::from_utf8_lossy(&run.json.take()));
    assert_eq!(bytes, run.tape.bytes.take());
}

#[test]
fn a_recording_without_sound_is_one_with_one_modality() {
    let run = Run::new(4, Pace::Fast, |_| 255, None);
    run.go(Toy::default()).unwrap();
    let events = run.tape.events.lock().unwrap();
    assert_eq!((events[0].kind, events[0].label), (Kind::Begin, 1));
    assert!(events.iter().all(|event| event.expected == wire::VIDEO && event.missing() == 0));
    let last = events.last().unwrap();
    assert_eq!((last.kind, last.cause), (Kind::Unknown, Cause::InputEnd));
    assert_eq!(events[events.len() - 2].kind, Kind::End);
}

#[test]
fn a_recording_that_cannot_be_read_is_an_error() {
    let run = Run::new(2, Pace::Fast, |_| 255, None);
    fs::remove_dir_all(&run.clip).unwrap();
    let error = format!("{:#}", run.go(Toy::default()).unwrap_err());
    assert!(error.contains("clip"), "{error}");
}

#[test]
fn a_model_that_fails_ends_in_unknown_and_not_in_silence() {
    let run = Run::new(4, Pace::Fast, |_| 255, None);
    run.go(Toy { fails: true, ..Toy::default() }).unwrap();
    assert_eq!(run.tape.told()[0].3, Cause::ModelError);
}

#[test]
fn a_label_that_begins_is_explained_when_asked_for() {
    let run = Run { explain: Explain::OnChange, ..Run::new(4, Pace::Fast, |_| 255, None) };
    run.go(Toy::default()).unwrap();
    assert_eq!(*run.tape.reasons.lock().unwrap(), ["Bright."]);
    let text = String::from_utf8(run.json.take()).unwrap();
    assert!(text.contains(r#"{"type":"reason","episode":0,"at_ms":"#), "{text}");
}

#[test]
fn windows_are_scored_while_a_reason_is_written() {
    let run = Run { explain: Explain::OnChange, ..Run::new(6, Pace::Paced, |_| 255, None) };
    let toy = Toy { steps: 60, step: Duration::from_millis(40), ..Toy::default() };
    let summary = run.go(toy).unwrap();
    assert_eq!((summary.windows, summary.late), (11, 0), "{summary:?}");
    assert_eq!(*run.tape.reasons.lock().unwrap(), ["Bright."]);
    let text = String::from_utf8(run.json.take()).unwrap();
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(at(r#""type":"reason""#) > at(r#""type":"scores","at_ms":3000"#), "{text}");
}

/// A window takes longer than a hop: there is always one to score, and the reason comes all the same.
#[test]
fn a_machine_that_is_behind_still_writes_its_reason() {
    let run = Run { explain: Explain::OnChange, ..Run::new(12, Pace::Paced, |_| 255, None) };
    let slow = Duration::from_millis(700);
    let toy = Toy { slow, steps: 60, step: Duration::from_millis(40), ..Toy::default() };
    let summary = run.go_until(toy, |run| run.tape.reasons.lock().unwrap().len() == 1).unwrap();
    assert!(summary.late > 0 && summary.windows >= 4, "{summary:?}");
    assert_eq!(*run.tape.reasons.lock().unwrap(), ["Bright."]);
    assert!(summary.took < Duration::from_secs(11), "before the recording ended: {summary:?}");
}

#[test]
fn a_recording_whose_end_waits_at_a_mute_ends_the_run() {
    let run = Run::new(2, Pace::Paced, |_| 255, None);
    let mute = run.folder.path().join("mute");
    let begun = Instant::now();
    run.go_until(Toy { slow: Duration::from_millis(2_500), ..Toy::default() }, |_| {
        if begun.elapsed() > Duration::from_millis(2_600) && !mute.exists() {
            fs::write(&mute, "").unwrap();
        }
        begun.elapsed() > Duration::from_secs(20)
    })
    .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn a_reason_whose_label_is_gone_is_cut_short() {
    let bright = |t: f32| if t < 2.0 { 255 } else { 20 };
    let run = Run { explain: Explain::OnChange, ..Run::new(6, Pace::Paced, bright, None) };
    let toy = Toy { steps: 1_000, step: Duration::from_millis(20), ..Toy::default() };
    let summary = run.go_until(toy, |run| run.tape.reasons.lock().unwrap().len() == 1).unwrap();
    assert_eq!(summary.late, 0, "{summary:?}");
    let text = String::from_utf8(run.json.take()).unwrap();
    assert!(text.contains(r#""text":"Bri","cut":true"#), "{text}");
    let end = text.find(r#""event":"end""#).unwrap();
    assert!(end < text.find(r#""type":"reason""#).unwrap(), "{text}");
}

#[test]
fn a_late_model_takes_the_newest_window() {
    let run = Run::new(6, Pace::Paced, |_| 255, None);
    let summary = run.go(Toy { slow: Duration::from_millis(1_200), ..Toy::default() }).unwrap();
    assert!(summary.late >= 3, "{summary:?}");
    assert!((2..=6).contains(&summary.windows), "{summary:?}");
    assert_eq!(summary.windows + summary.late, 11, "{summary:?}");
}

#[test]
fn a_stop_ends_what_holds() {
    let run = Run::new(30, Pace::Paced, |_| 255, None);
    let summary = run.go_until(Toy::default(), |run| run.tape.has(Kind::Begin)).unwrap();
    let told = run.tape.told();
    let causes: Vec<_> = told.iter().map(|&(_, kind, _, cause)| (kind, cause)).collect();
    assert_eq!(
        causes,
        [(Kind::Begin, Cause::None), (Kind::End, Cause::Shutdown), (Kind::Unknown, Cause::Shutdown)]
    );
    assert!(summary.took < Duration::from_secs(20), "{summary:?}");
}

#[test]
fn a_mute_file_closes_the_device_and_ends_what_holds() {
    let run = Run::new(30, Pace::Paced, |_| 255, None);
    let mute = run.folder.path().join("mute");
    let toy = Toy::default();
    let saw = Arc::clone(&toy.saw);
    run.go_until(toy, |run| {
        if run.tape.has(Kind::Begin) && !mute.exists() {
            fs::write(&mute, "").unwrap();
        }
        run.tape.has(Kind::End)
    })
    .unwrap();
    let told = run.tape.told();
    assert_eq!((told[1].1, told[1].3), (Kind::End, Cause::Muted));
    assert_eq!((told[2].1, told[2].3), (Kind::Unknown, Cause::Muted));
    assert_eq!(*saw.lock().unwrap(), 128, "the model was shown grey, over what it saw");
}

#[test]
fn a_mute_does_not_wait_for_the_window_at_hand() {
    let run = Run::new(30, Pace::Paced, |_| 255, None);
    let mute = run.folder.path().join("mute");
    let toy = Toy { slow: Duration::from_secs(60), ..Toy::default() };
    let (saw, mut muted) = (Arc::clone(&toy.saw), None);
    let begun = Instant::now();
    run.go_until(toy, |_| {
        let saw = *saw.lock().unwrap();
        if saw == 255 && muted.is_none() {
            fs::write(&mute, "").unwrap();
            muted = Some(Instant::now());
        }
        saw == 128
    })
    .unwrap();
    let grey = muted.expect("a window was begun").elapsed();
    assert!(grey < Duration::from_secs(10), "grey after {grey:?}, {:?} after the start", begun.elapsed());
    let told = String::from_utf8(run.json.take()).unwrap();
    assert!(!told.contains(r#""type":"scores""#), "nothing is told of a window that was cut: {told}");
}
