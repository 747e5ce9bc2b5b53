//! The CAN frames, to the bit: as bytes, and as `board/can/mien.dbc` describes them.

#![cfg(feature = "can")]

use mien::sink::can::{Frames, Settings};
use mien::wire::{AUDIO, Cause, Event, Health, Heartbeat, Kind, NO_LABEL, VIDEO};
use std::{collections::BTreeMap, fs, path::Path};

fn event(kind: Kind, label: u8, permille: u16) -> Event {
    Event {
        seq: 70_001,
        episode: 70_000,
        kind,
        label,
        confidence_permille: permille,
        track: 0,
        expected: VIDEO | AUDIO,
        present: VIDEO,
        cause: if kind == Kind::End { Cause::Faded } else { Cause::None },
        at_ms: 9_000,
        begin_ms: 5_000,
        window_ms: 4_000,
        wall_ms: 0,
        wall_synced: 0,
        age_ms: 1_250,
    }
}

fn beat() -> Heartbeat {
    Heartbeat {
        label: 3,
        episode: 70_000,
        windows: 70_002,
        dropped: 70_003,
        video: Health::Ok,
        audio: Health::Stalled,
        infer_ms: 5_240,
        ..Heartbeat::default()
    }
}

/// Signals of a message: start, length, scale; and the names of values.
#[derive(Default)]
struct Description {
    signals: BTreeMap<(u32, String), (usize, usize, f64)>,
    values: BTreeMap<(u32, String), BTreeMap<u64, String>>,
}

impl Description {
    fn read() -> Description {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("board/can/mien.dbc");
        let (mut description, mut message) = (Description::default(), 0);
        for line in fs::read_to_string(path).unwrap().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["BO_", id, _, "8", "mien"] => message = id.parse().unwrap(),
                ["SG_", name, ":", place, scale, ..] => {
                    let (start, rest) = place.split_once('|').unwrap();
                    let len = rest.strip_suffix("@1+").expect("little-endian and unsigned");
                    let factor = scale.trim_matches(['(', ')']).split(',').next().unwrap();
                    let signal = (start.parse().unwrap(), len.parse().unwrap(), factor.parse().unwrap());
                    description.signals.insert((message, name.to_string()), signal);
                }
                ["VAL_", id, name, pairs @ .., ";"] => {
                    let names = pairs
                        .chunks(2)
                        .map(|pair| (pair[0].parse().unwrap(), pair[1].trim_matches('"').to_string()));
                    description.values.insert((id.parse().unwrap(), name.to_string()), names.collect());
                }
                _ => {}
            }
        }
        description
    }

    fn value(&self, id: u32, bytes: [u8; 8], name: &str) -> f64 {
        let (start, len, scale) = self.signals[&(id, name.to_string())];
        (u64::from_le_bytes(bytes) >> start & ((1 << len) - 1)) as f64 * scale
    }

    fn named(&self, id: u32, bytes: [u8; 8], name: &str) -> &str {
        &self.values[&(id, name.to_string())][&(self.value(id, bytes, name) as u64)]
    }
}

#[test]
fn frames_are_these_bytes() {
    let mut frames = Frames::default();
    assert_eq!(frames.event(&event(Kind::Begin, 3, 777)), [3, 155, 0b1101, 0x11, 1, 12, 0x70, 0x11]);
    assert_eq!(frames.event(&event(Kind::Change, 3, 900)), [3, 180, 0b1101, 0x22, 1, 12, 0x70, 0x11]);
    let [state, health] = frames.beat(&beat());
    assert_eq!(state, [3, 180, 0b1101, 0x30, 0, 0, 0x70, 0x11]);
    assert_eq!(health, [0x32, 3, 0x72, 0x11, 0xff, 0xff, 0x0c, 0x02]);
    assert_eq!(frames.event(&event(Kind::End, 3, 200)), [NO_LABEL, 40, 0b1101, 0x43, 2, 12, 0x70, 0x11]);
    let muted = Heartbeat { muted: 1, label: NO_LABEL, episode: 0, ..beat() };
    assert_eq!(frames.beat(&muted)[0], [NO_LABEL, 0, 0b11101, 0x50, 0, 0, 0, 0]);
}

#[test]
fn the_description_reads_what_is_sent() {
    let (description, mut frames) = (Description::read(), Frames::default());
    let Settings { id, .. } = Settings::default();
    for kind in [Kind::Begin, Kind::Change, Kind::End, Kind::Unknown] {
        let bytes = frames.event(&event(kind, 3, 777));
        assert_eq!(description.named(id, bytes, "Kind"), kind.name());
        let label = if matches!(kind, Kind::Begin | Kind::Change) { "angry" } else { "none" };
        assert_eq!(description.named(id, bytes, "Label"), label);
        let values =
            ["Confidence", "VideoPresent", "AudioPresent", "AudioExpected", "Muted", "Age", "Episode"]
                .map(|name| description.value(id, bytes, name));
        assert_eq!(values, [77.5, 1.0, 0.0, 1.0, 0.0, 1_200.0, 4_464.0], "{kind:?}");
        let cause = if kind == Kind::End { "faded" } else { "none" };
        assert_eq!(description.named(id, bytes, "Cause"), cause);
    }
    let [state, health] = frames.beat(&beat());
    assert_eq!(description.named(id, state, "Kind"), "heartbeat");
    assert_eq!(description.named(id + 1, health, "VideoHealth"), "ok");
    assert_eq!(description.named(id + 1, health, "AudioHealth"), "stalled");
    let values = ["Windows", "Dropped", "ModelTime"].map(|name| description.value(id + 1, health, name));
    assert_eq!(values, [4_466.0, 65_535.0, 5_240.0]);
    for code in 1..=12 {
        let name = &description.values[&(id, "Cause".to_string())][&code];
        assert_eq!(name, Cause::from(code as u8).name());
    }
    for code in 1..=6 {
        let name = &description.values[&(id + 1, "VideoHealth".to_string())][&code];
        assert_eq!(name, Health::from(code as u8).name());
    }
}

#[test]
fn impossible_settings_and_a_missing_interface_are_named() {
    let settings = Settings { id: 0x7ff, ..Settings::default() };
    assert!(settings.check().unwrap_err().to_string().contains("sink.can.id = 2047"));
    let nowhere = Settings { interface: "can-nowhere".into(), ..Settings::default() };
    let speaker = mien::sink::Speaker {
        boot: 1,
        machine: String::new(),
        device: "bench".into(),
        purpose: "research".into(),
        bundle: "toy".into(),
        bundle_hash: [0; 8],
        label_set: "toys".into(),
        labels: vec!["calm".into()],
        window_ms: 1_000,
        hop_ms: 500,
        heartbeat_ms: 1_000,
    };
    let setup = mien::sink::Setup { speaker: speaker.into(), state_dir: Default::default() };
    let said = format!("{:#}", nowhere.probe(&setup).unwrap_err());
    assert!(said.contains("can-nowhere") && said.contains("ip link"), "{said}");
    let mut sink = nowhere.open(&setup).unwrap();
    sink.send(&mien::sink::Message::Event(event(Kind::Begin, 0, 900)));
    sink.send(&mien::sink::Message::Heartbeat(beat()));
    let counts = sink.counts();
    assert_eq!((counts.sent, counts.losses), (0, 1), "{counts:?}");
}
