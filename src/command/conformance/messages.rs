//! What a device of these plays says, however it is carried.

use crate::wire::{
    self, AUDIO, Cause, Event, Face, Faces, Health, Heartbeat, Hello, Kind, NO_LABEL, People, Second, VIDEO,
};

pub fn hello(boot: u64) -> Hello<'static> {
    let labels = ["happy", "sad", "neutral", "angry"].into_iter().collect();
    Hello {
        minor: wire::MINOR,
        schema: wire::SCHEMA_HASH,
        boot,
        device: "conformance",
        software: concat!("mien ", env!("CARGO_PKG_VERSION")),
        purpose: "test",
        bundle: "none",
        bundle_hash: [0; 8],
        label_set: "test",
        labels,
        window_ms: 4_000,
        hop_ms: 1_000,
        heartbeat_ms: 1_000,
    }
}

pub fn event(seq: u32, kind: Kind, label: u8) -> Event {
    Event {
        seq,
        episode: seq,
        kind,
        label,
        confidence_permille: 777,
        track: 0,
        expected: VIDEO | AUDIO,
        present: VIDEO,
        cause: if kind == Kind::End { Cause::Faded } else { Cause::None },
        at_ms: 10_000,
        begin_ms: 10_000,
        window_ms: 4_000,
        wall_ms: 0,
        wall_synced: 0,
        age_ms: 0,
    }
}

pub fn beat() -> Heartbeat {
    Heartbeat {
        uptime_ms: 70_000,
        label: 3,
        video: Health::Ok,
        audio: Health::Stalled,
        ..Heartbeat::default()
    }
}

pub fn people() -> People {
    People { at_ms: 11_000, count: 2, track: 65_535 }
}

pub fn faces() -> Faces {
    let face = |track, label, confidence_permille| Face { track, label, confidence_permille };
    let faces = [face(65_535, 3, 777), face(1, NO_LABEL, 0)].into_iter().collect();
    Faces { at_ms: 11_000, faces }
}

pub fn second() -> Second {
    Second { at_ms: 12_000, episode: 4, label: 1, confidence_permille: 333 }
}
