//! Sinks against real things: a pseudo terminal that comes and goes, a mosquitto with passwords and certificates.

use mien::cues::{
    Channel, ground,
    ledger::{self, Cues, Measured},
};
use mien::sink::{EpisodeReason, Message, Setup, Sink, Speaker, json::Line, serial, stdout::Stdout};
use mien::wire::{self, AUDIO, Cause, Decoder, Event, Heartbeat, Kind, NO_LABEL, Packet, VIDEO};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs::{self, File},
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

mod broker;

fn speaker() -> Arc<Speaker> {
    Arc::new(Speaker {
        boot: 0x0123_4567_89ab_cdef,
        machine: "00112233445566aa".into(),
        device: "kiosk 7".into(),
        purpose: "research".into(),
        bundle: "tiny".into(),
        bundle_hash: [0, 1, 2, 3, 4, 5, 6, 7],
        label_set: "dfew".into(),
        labels: ["happy", "fear", "neutral"].map(String::from).into(),
        window_ms: 4_000,
        hop_ms: 1_000,
        heartbeat_ms: 1_000,
    })
}

fn event(seq: u32, kind: Kind, label: u8, cause: Cause) -> Message {
    Message::Event(Event {
        seq,
        episode: 0,
        kind,
        label,
        confidence_permille: 812,
        track: 0,
        expected: VIDEO | AUDIO,
        present: VIDEO,
        cause,
        at_ms: 4_000 + u64::from(seq) * 1_000,
        begin_ms: 4_000,
        window_ms: 4_000,
        wall_ms: 0,
        wall_synced: 0,
        age_ms: 0,
    })
}

fn begin(seq: u32) -> Message {
    event(seq, Kind::Begin, 1, Cause::None)
}

fn setup() -> Setup {
    Setup { speaker: speaker(), state_dir: PathBuf::new() }
}

/// Waits for something, at most some seconds.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A claim about what the window did not have is marked, whatever the model says.
#[test]
fn claims_of_a_reason_are_listed_and_those_about_a_missing_modality_are_unfounded() {
    let said = |text: &str, present| {
        let (text, answer) = (text.into(), None);
        let reason = EpisodeReason {
            episode: 0,
            at_ms: 4_000,
            text,
            present,
            answer,
            cut: false,
            grounds: None,
            people: 0,
        };
        match Line::of(&Message::Reason(Arc::new(reason)), &speaker()) {
            Line::Reason(reason) => (reason.claims, reason.unfounded),
            other => panic!("{other:?}"),
        }
    };
    let text = "I see raised brow, wide eyes. I hear high pitch, bad words.";
    let all = ["raised brow", "wide eyes", "high pitch", "bad words"].map(String::from);
    assert_eq!(said(text, VIDEO | AUDIO), (all.to_vec(), vec![]));
    assert_eq!(said(text, VIDEO), (all.to_vec(), all[2..].to_vec()));
    assert_eq!(said(text, AUDIO), (all.to_vec(), all[..2].to_vec()));
    assert_eq!(said("I see no face. I hear no voice.", 0).1, Vec::<String>::new());
    let pressed = vec!["pressed timbre".to_owned()];
    assert_eq!(said("He raised his voice.", 0), (pressed.clone(), pressed));
    assert_eq!(said("She sat at a table.", 0), (vec![], vec![]));
}

#[test]
fn stdout_prints_one_object_per_line_with_the_words_of_hri_msgs() {
    let out = Shared::default();
    let mut sink = Stdout::to(Default::default(), speaker(), Box::new(out.clone()));
    sink.send(&begin(0));
    sink.send(&event(1, Kind::End, 1, Cause::Faded));
    sink.send(&event(2, Kind::Unknown, NO_LABEL, Cause::NoAudio));
    sink.send(&Message::Heartbeat(Heartbeat::default()));
    let reason = EpisodeReason {
        episode: 0,
        at_ms: 4_000,
        text: "A \"scream\".\nLoud.".into(),
        answer: Some("fear".into()),
        present: 3,
        cut: false,
        grounds: None,
        people: 0,
    };
    sink.send(&Message::Reason(Arc::new(reason)));
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].starts_with(r#"{"type":"hello","protocol":"1.3","#), "{}", lines[0]);
    assert_eq!(
        lines[1],
        r#"{"type":"event","event":"begin","boot":"0123456789abcdef","seq":0,"episode":0,"label":"fear","expression":"scared","confidence":0.812,"track":0,"at_ms":4000,"begin_ms":4000,"window_ms":4000,"present":["video"],"missing":["audio"],"age_ms":0}"#
    );
    assert!(lines[2].contains(r#""event":"end""#) && lines[2].contains(r#""cause":"faded""#));
    assert!(!lines[3].contains("label") && lines[3].contains(r#""cause":"no_audio""#));
    for line in lines {
        let back: Line = serde_json::from_str(line).unwrap();
        assert_eq!(back.text(), line);
    }
}

#[test]
fn a_reader_of_stdout_that_leaves_is_no_trouble() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Stdout::to(Default::default(), speaker(), Box::new(Gone));
    sink.send(&begin(0));
    let counts = sink.counts();
    assert_eq!((counts.sent, counts.dropped, counts.losses), (0, 2, 1));
}

/// One end of a line; the other is a tty under `link`.
struct Pty(OwnedFd);

impl Pty {
    fn new(link: &Path) -> Pty {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let _ = fs::remove_file(link);
        std::os::unix::fs::symlink(name.to_str().unwrap(), link).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Pty(master)
    }
    /// What has come so far.
    fn read(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(len) = rustix::io::read(&self.0, &mut bytes[..]) {
            if len == 0 {
                break;
            }
            all.extend_from_slice(&bytes[..len]);
        }
        all
    }
}

/// The kinds of the packets in some bytes, with what was counted.
fn kinds(decoder: &mut Decoder, bytes: &[u8]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    for &byte in bytes {
        if let Some(Ok(packet)) = decoder.feed(byte) {
            kinds.push(match packet.message {
                wire::Message::Hello(_) => "hello",
                wire::Message::Event(_) => "event",
                wire::Message::Heartbeat(_) => "heartbeat",
                wire::Message::Reason(_) => "reason",
                wire::Message::Grounds(_) => "grounds",
                wire::Message::People(_) => "people",
                wire::Message::Faces(_) => "faces",
                wire::Message::Second(_) => "second",
            });
        }
    }
    kinds
}

fn settings(tty: PathBuf) -> serial::Settings {
    serial::Settings { tty, reasons: true, write_ms: 50, ..Default::default() }
}

#[test]
fn a_serial_line_carries_hello_events_heartbeats_and_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let tty = folder.path().join("tty");
    let far = Pty::new(&tty);
    let mut sink = serial::Serial::new(settings(tty), &setup());
    sink.send(&begin(0));
    sink.send(&Message::Heartbeat(Heartbeat::default()));
    let text = "é".repeat(150);
    sink.send(&Message::Reason(Arc::new(EpisodeReason {
        episode: 0,
        at_ms: 0,
        text,
        answer: None,
        present: 3,
        cut: false,
        grounds: None,
        people: 0,
    })));
    sink.close();
    let mut decoder = Decoder::new();
    let seen = kinds(&mut decoder, &far.read());
    assert_eq!(seen, ["hello", "event", "heartbeat", "reason", "reason"]);
    assert_eq!((decoder.counts().errors(), decoder.counts().gaps), (0, 0));
    assert_eq!(sink.counts().sent, 5);
}

/// How a reason stands goes out without its text, too; who is there is said again after the hello of a line that came back.
#[test]
fn a_serial_line_says_how_reasons_stand_and_who_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let tty = folder.path().join("tty");
    let far = Pty::new(&tty);
    let settings = serial::Settings { reasons: false, ..settings(tty.clone()) };
    let mut sink = serial::Serial::new(settings, &setup());
    let people = wire::People { at_ms: 4_000, count: 2, track: 700 };
    sink.send(&Message::People(people));
    let face = |track, label, confidence_permille| wire::Face { track, label, confidence_permille };
    let faces = [face(700, 1, 640), face(701, NO_LABEL, 0)].into_iter().collect();
    let faces = wire::Faces { at_ms: 4_000, faces };
    sink.send(&Message::Faces(faces.clone()));
    let second = wire::Second { at_ms: 4_000, episode: 7, label: 2, confidence_permille: 310 };
    sink.send(&Message::Second(second));
    let mut cues = Cues::new();
    let measured = Measured {
        cue: "pitch",
        channel: Channel::Voice,
        value: "low",
        known: ledger::known(&["high", "low"]),
        observable: true,
    };
    cues.push(measured).unwrap();
    let text = "I see smiling mouth. I hear low pitch, high pitch.".to_owned();
    let grounds = Some(ground::check(&text, &cues));
    sink.send(&Message::Reason(Arc::new(EpisodeReason {
        episode: 7,
        at_ms: 4_000,
        text,
        answer: None,
        present: 3,
        cut: false,
        grounds,
        people: 2,
    })));
    let mut decoder = Decoder::new();
    let mut said = Vec::new();
    for byte in far.read() {
        match decoder.feed(byte) {
            Some(Ok(Packet { message: wire::Message::Grounds(grounds), .. })) => said.push(grounds),
            Some(Ok(Packet { message: wire::Message::People(seen), .. })) => assert_eq!(seen, people),
            Some(Ok(Packet { message: wire::Message::Faces(seen), .. })) => assert_eq!(seen, faces),
            Some(Ok(Packet { message: wire::Message::Second(seen), .. })) => assert_eq!(seen, second),
            _ => {}
        }
    }
    let stands = wire::Grounds {
        episode: 7,
        claims: 3,
        held: 1,
        contradicted: 1,
        unseen: 0,
        contradicted_bits: 0b100,
    };
    assert_eq!(said, [stands]);

    drop(far);
    until("the loss", || {
        sink.tick();
        sink.counts().losses == 1
    });
    let far = Pty::new(&tty);
    expect(&mut sink, &far, &mut Decoder::new(), &["hello", "people", "faces", "second"]);
}

/// Waits until bytes of a line make these packets.
fn expect(sink: &mut serial::Serial, far: &Pty, decoder: &mut Decoder, wanted: &[&str]) {
    let mut seen = Vec::new();
    until(&format!("{wanted:?}"), || {
        sink.tick();
        seen.extend(kinds(decoder, &far.read()));
        assert!(seen.len() <= wanted.len() && seen == wanted[..seen.len()], "{seen:?}");
        seen == wanted
    });
}

#[test]
fn a_tty_that_vanishes_comes_back_with_the_end_that_is_owed_and_the_begin_that_holds() {
    let folder = tempfile::tempdir().unwrap();
    let tty = folder.path().join("tty");
    let mut sink = serial::Serial::new(settings(tty.clone()), &setup());
    sink.send(&begin(0));
    assert_eq!(sink.counts().losses, 1, "a tty that is not there is reported once");

    let mut decoder = Decoder::new();
    let far = Pty::new(&tty);
    expect(&mut sink, &far, &mut decoder, &["hello", "event"]);

    drop(far);
    until("the loss", || {
        sink.tick();
        sink.counts().losses == 2
    });
    for (seq, kind, episode) in
        [(1, Kind::End, 0), (2, Kind::Begin, 2), (3, Kind::End, 2), (4, Kind::Begin, 4), (5, Kind::Change, 4)]
    {
        sink.send(&of_episode(event(seq, kind, 1, Cause::None), episode));
    }
    assert_eq!(sink.counts().dropped, 3, "one episode that began and ended meanwhile, and a change");
    let far = Pty::new(&tty);
    let mut told = Vec::new();
    until("what is owed", || {
        sink.tick();
        for byte in far.read() {
            if let Some(Ok(packet)) = decoder.feed(byte) {
                match packet.message {
                    wire::Message::Hello(_) => told.push((Kind::Other, 0)),
                    wire::Message::Event(event) => told.push((event.kind, event.episode)),
                    _ => {}
                }
            }
        }
        told.len() == 3
    });
    assert_eq!(told, [(Kind::Other, 0), (Kind::End, 0), (Kind::Begin, 4)]);
    assert_eq!(decoder.counts().errors(), 0);
}

fn of_episode(message: Message, episode: u32) -> Message {
    match message {
        Message::Event(event) => Message::Event(Event { episode, ..event }),
        other => other,
    }
}

#[test]
fn a_line_knows_what_a_dead_daemon_told_and_takes_its_end_once() {
    let folder = tempfile::tempdir().unwrap();
    let tty = folder.path().join("tty");
    let far = Pty::new(&tty);
    let kept = Setup { state_dir: folder.path().into(), ..setup() };
    let mut sink = serial::Serial::new(settings(tty.clone()), &kept);
    sink.send(&begin(7));
    drop(sink);
    far.read();

    let mut sink = serial::Serial::new(settings(tty.clone()), &kept);
    assert_eq!(sink.left().unwrap().begin.seq, 7);
    sink.send(&event(9, Kind::End, 1, Cause::Restart));
    sink.send(&event(9, Kind::End, 1, Cause::Restart));
    assert_eq!(kinds(&mut Decoder::new(), &far.read()), ["hello", "event"]);
    assert_eq!(sink.counts().dropped, 1, "an end without a begin is not sent");
    drop(sink);
    assert!(serial::Serial::new(settings(tty), &kept).left().is_none());
}

#[test]
fn a_line_that_stands_still_costs_packets_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let tty = folder.path().join("tty");
    let far = Pty::new(&tty);
    let mut sink = serial::Serial::new(serial::Settings { write_ms: 1, ..settings(tty) }, &setup());
    for seq in 0..1_000 {
        sink.send(&Message::Heartbeat(Heartbeat { events: seq, ..Heartbeat::default() }));
    }
    assert!(sink.counts().dropped > 0, "nobody read, and all was taken: {:?}", sink.counts());
    assert_eq!(sink.counts().losses, 0);
    let mut decoder = Decoder::new();
    kinds(&mut decoder, &far.read());
    let before = decoder.counts().packets;
    sink.send(&begin(1_000));
    sink.send(&begin(1_001));
    assert!(!kinds(&mut decoder, &far.read()).is_empty());
    assert!(decoder.counts().packets > before && decoder.counts().gaps >= 1);
}

#[test]
fn what_is_not_a_tty_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    File::create(&path).unwrap();
    let error = format!("{:#}", serial::open(&path, 9_600).unwrap_err());
    assert!(error.contains("file is not a tty"), "{error}");
    let error = format!("{:#}", serial::open(&folder.path().join("none"), 9_600).unwrap_err());
    assert!(error.contains("none"), "{error}");
}

#[test]
fn any_rate_is_set_where_the_tty_has_rates() {
    let folder = tempfile::tempdir().unwrap();
    let tty = folder.path().join("tty");
    let _far = Pty::new(&tty);
    for baud in [9_600, 115_200, 921_600, 250_000, 1_234_567] {
        let line = serial::open(&tty, baud).unwrap();
        assert_eq!(rustix::termios::tcgetattr(&line).unwrap().output_speed(), baud);
    }
}

#[test]
fn long_reasons_are_cut_between_characters() {
    let text = "aé".repeat(100);
    let parts = serial::parts(9, &text);
    assert_eq!(parts.len(), 2);
    assert_eq!(parts.iter().map(|part| part.text).collect::<String>(), text);
    assert!(parts.iter().all(|part| part.parts == 2 && part.episode == 9));
}
