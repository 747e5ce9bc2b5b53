//! The decoders under board/clients beside the sender's own, on frozen streams: every packet, field by field, and every error.

mod dice;

use dice::Dice;
use mien::wire::{
    self, Cause, Decoder, Event, FACES_MAX, Face, Faces, Grounds, Health, Heartbeat, Hello, Kind, LABELS_MAX,
    Message, People, ReasonPart, Second,
};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// As a client writes a packet.
fn written(packet: &wire::Packet<'_>) -> Value {
    let mut value = match &packet.message {
        Message::Hello(of) => json!({
            "type": "hello", "minor": of.minor, "schema": of.schema, "boot": format!("{:016x}", of.boot), "device": of.device,
            "software": of.software, "purpose": of.purpose, "bundle": of.bundle,
            "bundle_hash": of.bundle_hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "label_set": of.label_set, "labels": of.labels.as_slice(), "window_ms": of.window_ms, "hop_ms": of.hop_ms,
            "heartbeat_ms": of.heartbeat_ms,
        }),
        Message::Event(of) => json!({
            "type": "event", "seq": of.seq, "episode": of.episode, "kind": of.kind.name(), "label": of.label,
            "confidence_permille": of.confidence_permille, "track": of.track, "expected": of.expected, "present": of.present,
            "cause": of.cause.name(), "at_ms": of.at_ms, "begin_ms": of.begin_ms, "window_ms": of.window_ms, "wall_ms": of.wall_ms,
            "wall_synced": of.wall_synced, "age_ms": of.age_ms,
        }),
        Message::Heartbeat(of) => json!({
            "type": "heartbeat", "uptime_ms": of.uptime_ms, "label": of.label, "episode": of.episode, "events": of.events,
            "windows": of.windows, "late": of.late, "dropped": of.dropped, "video": of.video.name(), "audio": of.audio.name(),
            "muted": of.muted, "infer_ms": of.infer_ms,
        }),
        Message::Reason(of) => {
            json!({"type": "reason", "episode": of.episode, "part": of.part, "parts": of.parts, "text": of.text})
        }
        Message::Grounds(of) => json!({
            "type": "grounds", "episode": of.episode, "claims": of.claims, "held": of.held, "contradicted": of.contradicted,
            "unseen": of.unseen, "contradicted_bits": of.contradicted_bits,
        }),
        Message::People(of) => {
            json!({"type": "people", "at_ms": of.at_ms, "count": of.count, "track": of.track})
        }
        Message::Faces(of) => {
            let face = |face: &Face| json!({"track": face.track, "label": face.label, "confidence_permille": face.confidence_permille});
            json!({"type": "faces", "at_ms": of.at_ms, "faces": of.faces.iter().map(face).collect::<Vec<_>>()})
        }
        Message::Second(of) => json!({
            "type": "second", "at_ms": of.at_ms, "episode": of.episode, "label": of.label,
            "confidence_permille": of.confidence_permille,
        }),
    };
    value["packet_seq"] = json!(packet.seq);
    value
}

/// The limits of every width of number.
const NUMBERS: [u64; 9] = [0, 1, 127, 128, 16_383, 16_384, u32::MAX as u64, 1 << 53, u64::MAX];

/// Kinds of minor 1 to 3.
fn later_kinds(number: u64, say: &mut dyn FnMut(&Message<'_>)) {
    let byte = number as u8;
    say(&Message::Grounds(Grounds {
        episode: number as u32,
        claims: byte,
        held: byte >> 1,
        contradicted: 255,
        unseen: 0,
        contradicted_bits: number as u32,
    }));
    say(&Message::People(People { at_ms: number, count: byte, track: number as u16 }));
    for count in [0, 1, FACES_MAX] {
        let face = Face { track: number as u16, label: byte, confidence_permille: !number as u16 };
        say(&Message::Faces(Faces { at_ms: number, faces: (0..count).map(|_| face).collect() }));
    }
    let (episode, confidence_permille) = (number as u32, number as u16);
    say(&Message::Second(Second { at_ms: number, episode, label: byte, confidence_permille }));
}

/// Every kind, every code, the limits of every number, text of every width.
fn stream() -> Vec<u8> {
    let mut line = Vec::new();
    let mut seq = 65_530u16;
    let mut say = |message: &Message<'_>| {
        let mut packet = [0; wire::LINE_BYTES_MAX];
        let len = wire::encode(message, seq, &mut packet).unwrap();
        seq = seq.wrapping_add(1);
        line.extend_from_slice(&packet[..len]);
    };
    let labels: Vec<String> = (0..LABELS_MAX).map(|i| format!("l{i}")).collect();
    for count in [0, 1, 7, LABELS_MAX] {
        say(&Message::Hello(Hello {
            minor: 0,
            schema: wire::SCHEMA_HASH,
            boot: u64::MAX - 5,
            device: "Küche 7",
            software: "mien 0.1.0",
            purpose: "研究",
            bundle: "",
            bundle_hash: [0, 255, 1, 254, 2, 253, 3, 252],
            label_set: "dfew",
            labels: labels[..count].iter().map(String::as_str).collect(),
            window_ms: 4_000,
            hop_ms: u32::MAX,
            heartbeat_ms: 0,
        }));
    }
    for number in NUMBERS {
        for (cause, kind) in Cause::ALL.iter().zip(Kind::ALL.iter().cycle()) {
            say(&Message::Event(Event {
                seq: number as u32,
                episode: !number as u32,
                kind: *kind,
                label: number as u8,
                confidence_permille: number as u16,
                track: !number as u16,
                expected: 3,
                present: 1,
                cause: *cause,
                at_ms: number,
                begin_ms: number.wrapping_sub(9_000),
                window_ms: 4_000,
                wall_ms: number >> 1,
                wall_synced: 1,
                age_ms: number as u32,
            }));
        }
    }
    for &health in Health::ALL {
        say(&Message::Heartbeat(Heartbeat {
            uptime_ms: 1 << 60,
            video: health,
            audio: Health::Other,
            muted: 1,
            ..Heartbeat::default()
        }));
    }
    for text in ["", "I see a smile", "ä€😀", &"x".repeat(400)] {
        say(&Message::Reason(ReasonPart { episode: 9, part: 0, parts: 1, text }));
    }
    for number in NUMBERS {
        later_kinds(number, &mut say);
    }
    line
}

/// The sender's own decoder: packets as clients write them, and counts.
fn expected(bytes: &[u8]) -> (Vec<Value>, Value) {
    let mut decoder = Decoder::new();
    let mut packets = Vec::new();
    for &byte in bytes {
        if let Some(Ok(packet)) = decoder.feed(byte) {
            packets.push(written(&packet));
        }
    }
    let of = decoder.counts();
    let counts =
        json!({"packets": packets.len(), "errors": of.errors(), "gaps": of.gaps, "missed": of.missed});
    (packets, counts)
}

fn client(program: &str, script: &str, bytes: &[u8]) -> (Vec<Value>, Value) {
    let mut child = Command::new(program)
        .arg(root(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("no {program} ({error}): tools/setup installs it"));
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{script}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counts = lines.pop().unwrap();
    (lines, counts)
}

fn clients(bytes: &[u8], what: &str) {
    let (packets, counts) = expected(bytes);
    for (program, script) in [
        ("python3", "board/clients/python/try_vectors.py"),
        ("node", "board/clients/javascript/try_vectors.js"),
    ] {
        let (theirs, their_counts) = client(program, script, bytes);
        for (ours, theirs) in packets.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{what}: {program}");
        }
        assert_eq!((theirs.len(), their_counts), (packets.len(), counts.clone()), "{what}: {program}");
    }
}

#[test]
fn every_packet_is_read_as_the_sender_reads_it() {
    let bytes = stream();
    assert!(expected(&bytes).0.len() > 100);
    clients(&bytes, "all kinds");
    clients(&std::fs::read(root("tests/data/replay.bin")).unwrap(), "the recorded line");
}

#[test]
fn noise_is_refused_as_the_sender_refuses_it() {
    let clean = stream();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut noisy = Vec::new();
    for round in 0..40u64 {
        let mut bytes = clean.clone();
        for byte in &mut bytes {
            if dice.next().is_multiple_of(40 + 20 * round) {
                *byte ^= 1 << (dice.next() % 8);
            }
        }
        // Cut anywhere, and glued to the next.
        bytes.truncate(bytes.len() - (dice.next() % 40) as usize);
        noisy.extend(bytes);
    }
    let (packets, counts) = expected(&noisy);
    println!("{} bytes of noise: {} packets, {counts}", noisy.len(), packets.len());
    assert!(packets.len() > 500);
    clients(&noisy, "noise");
}

#[test]
fn the_schema_of_the_clients_is_the_sender_s() {
    for file in ["board/clients/python/mien_wire/__init__.py", "board/clients/javascript/mien_wire.js"] {
        let text = std::fs::read_to_string(root(file)).unwrap();
        for line in wire::SCHEMA {
            assert!(text.contains(line), "{file} lacks {line}");
        }
        let names = Kind::ALL.iter().map(|code| code.name()).chain(Cause::ALL.iter().map(|code| code.name()));
        for name in names.chain(Health::ALL.iter().map(|code| code.name())) {
            assert!(text.contains(&format!("\"{name}\"")), "{file} lacks {name}");
        }
    }
}

/// Its nodes are wired to nodes that are there, and its topics are ours.
#[test]
fn the_flow_for_node_red_is_whole() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("board/clients/node-red/flow.json");
    let flow: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let nodes = flow.as_array().unwrap();
    let ids: Vec<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    for node in nodes {
        for to in node["wires"].as_array().into_iter().flatten().flat_map(|port| port.as_array().unwrap()) {
            assert!(ids.contains(&to.as_str().unwrap()), "{node}");
        }
    }
    let topics: Vec<&str> = nodes.iter().filter_map(|node| node["topic"].as_str()).collect();
    assert_eq!(topics, ["mien/+/event", "mien/+/availability"]);
}
