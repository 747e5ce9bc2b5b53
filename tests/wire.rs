//! The wire: literal bytes of every kind, round trips, noise, hostile bytes, and the C decoder on the same bytes.

mod dice;

use dice::Dice;
use mien::wire::{
    Cause, Decoder, Error, Event, Face, Faces, Grounds, Health, Heartbeat, Hello, Kind, LABELS_MAX,
    LINE_BYTES_MAX, Message, NO_LABEL, Packet, People, RAW_BYTES_MAX, REASON_BYTES_MAX, ReasonPart,
    SCHEMA_HASH, SCHEMA_IDS, Second, decode, encode,
};
use proptest::prelude::*;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

// Written by a program of its own (Python, zlib's CRC), not by the encoder under test.
const HELLO: &[u8] = &[
    0x00, 0x02, 0x01, 0x01, 0x01, 0x31, 0x03, 0xf4, 0xdf, 0xbf, 0x96, 0x0a, 0xef, 0x9b, 0xaf, 0xcd, 0xf8,
    0xac, 0xd1, 0x91, 0x01, 0x07, 0x6b, 0x69, 0x6f, 0x73, 0x6b, 0x2d, 0x37, 0x0a, 0x6d, 0x69, 0x65, 0x6e,
    0x20, 0x30, 0x2e, 0x31, 0x2e, 0x30, 0x08, 0x72, 0x65, 0x73, 0x65, 0x61, 0x72, 0x63, 0x68, 0x04, 0x74,
    0x69, 0x6e, 0x79, 0x2a, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x04, 0x64, 0x66, 0x65, 0x77, 0x03,
    0x05, 0x68, 0x61, 0x70, 0x70, 0x79, 0x03, 0x73, 0x61, 0x64, 0x07, 0x6e, 0x65, 0x75, 0x74, 0x72, 0x61,
    0x6c, 0xa0, 0x1f, 0xe8, 0x07, 0xe8, 0x07, 0x42, 0x8b, 0x71, 0x21, 0x00,
];
const EVENT: &[u8] = &[
    0x00, 0x03, 0x01, 0x01, 0x0a, 0x01, 0xac, 0x02, 0xab, 0x02, 0x03, 0x01, 0xac, 0x06, 0x19, 0x03, 0x01,
    0x02, 0xc0, 0xc4, 0x07, 0xa0, 0x8d, 0x06, 0xa0, 0x1f, 0x80, 0xab, 0xd1, 0xb9, 0xa0, 0x34, 0x01, 0xde,
    0x02, 0xb0, 0x50, 0xfb, 0x57, 0x00,
];
const HEARTBEAT: &[u8] = &[
    0x00, 0x03, 0x01, 0x02, 0x07, 0x02, 0x80, 0xb8, 0x99, 0x29, 0xff, 0x07, 0xad, 0x02, 0xf0, 0x9f, 0x05,
    0x0c, 0x03, 0x02, 0x04, 0x07, 0xb4, 0x01, 0x27, 0x94, 0x95, 0x49, 0x00,
];
const REASON: &[u8] = &[
    0x00, 0x07, 0x01, 0xff, 0xff, 0x03, 0xab, 0x02, 0x29, 0x02, 0x22, 0x54, 0x68, 0x65, 0x20, 0x63, 0x6f,
    0x72, 0x6e, 0x65, 0x72, 0x73, 0x20, 0x6f, 0x66, 0x20, 0x74, 0x68, 0x65, 0x20, 0x6d, 0x6f, 0x75, 0x74,
    0x68, 0x20, 0x72, 0x69, 0x73, 0x65, 0x20, 0xe2, 0x80, 0x93, 0x20, 0x26, 0xe4, 0xfe, 0x76, 0x00,
];

const GROUNDS: &[u8] = &[
    0x00, 0x02, 0x01, 0x01, 0x11, 0x04, 0xab, 0x02, 0x07, 0x04, 0x01, 0x02, 0x90, 0x80, 0x80, 0x80, 0x08,
    0xc3, 0xb4, 0x82, 0x39, 0x00,
];
const PEOPLE: &[u8] =
    &[0x00, 0x03, 0x01, 0x01, 0x0c, 0x05, 0xc0, 0xc4, 0x07, 0x02, 0xac, 0x02, 0x5b, 0xcc, 0x65, 0xf3, 0x00];

const FACES: &[u8] = &[
    0x00, 0x03, 0x01, 0x02, 0x0d, 0x06, 0xc0, 0xc4, 0x07, 0x02, 0xac, 0x02, 0x01, 0xac, 0x06, 0x07, 0xff,
    0x05, 0xdb, 0x9b, 0xa0, 0xef, 0x00,
];
const SECOND: &[u8] = &[
    0x00, 0x03, 0x01, 0x03, 0x0e, 0x07, 0xc0, 0xc4, 0x07, 0xab, 0x02, 0x02, 0xce, 0x02, 0x63, 0xfb, 0x8f,
    0x03, 0x00,
];

fn hello() -> Message<'static> {
    Message::Hello(Hello {
        minor: 3,
        schema: SCHEMA_HASH,
        boot: 0x0123_4567_89ab_cdef,
        device: "kiosk-7",
        software: "mien 0.1.0",
        purpose: "research",
        bundle: "tiny",
        bundle_hash: [0, 1, 2, 3, 4, 5, 6, 7],
        label_set: "dfew",
        labels: ["happy", "sad", "neutral"].into_iter().collect(),
        window_ms: 4_000,
        hop_ms: 1_000,
        heartbeat_ms: 1_000,
    })
}

fn event() -> Message<'static> {
    Message::Event(Event {
        seq: 300,
        episode: 299,
        kind: Kind::End,
        label: 1,
        confidence_permille: 812,
        track: 0,
        expected: 3,
        present: 1,
        cause: Cause::Faded,
        at_ms: 123_456,
        begin_ms: 100_000,
        window_ms: 4_000,
        wall_ms: 1_795_417_200_000,
        wall_synced: 1,
        age_ms: 350,
    })
}

fn heartbeat() -> Message<'static> {
    Message::Heartbeat(Heartbeat {
        uptime_ms: 86_400_000,
        label: 255,
        episode: 0,
        events: 301,
        windows: 86_000,
        late: 12,
        dropped: 0,
        video: Health::Ok,
        audio: Health::Absent,
        muted: 0,
        infer_ms: 180,
    })
}

fn reason() -> Message<'static> {
    Message::Reason(ReasonPart {
        episode: 299,
        part: 0,
        parts: 2,
        text: "The corners of the mouth rise \u{2013} ",
    })
}

fn grounds() -> Message<'static> {
    Message::Grounds(Grounds {
        episode: 299,
        claims: 7,
        held: 4,
        contradicted: 1,
        unseen: 2,
        contradicted_bits: 0x8000_0010,
    })
}

fn people() -> Message<'static> {
    Message::People(People { at_ms: 123_456, count: 2, track: 300 })
}

fn faces() -> Message<'static> {
    let face = |track, label, confidence_permille| Face { track, label, confidence_permille };
    let faces = [face(300, 1, 812), face(7, NO_LABEL, 0)].into_iter().collect();
    Message::Faces(Faces { at_ms: 123_456, faces })
}

fn second() -> Message<'static> {
    Message::Second(Second { at_ms: 123_456, episode: 299, label: 2, confidence_permille: 334 })
}

fn golden() -> [(&'static [u8], u16, Message<'static>); 8] {
    [
        (HELLO, 0, hello()),
        (EVENT, 1, event()),
        (HEARTBEAT, 2, heartbeat()),
        (REASON, 65_535, reason()),
        (GROUNDS, 0, grounds()),
        (PEOPLE, 1, people()),
        (FACES, 2, faces()),
        (SECOND, 3, second()),
    ]
}

fn line(message: &Message<'_>, seq: u16) -> Vec<u8> {
    let mut out = [0; LINE_BYTES_MAX];
    let len = encode(message, seq, &mut out).unwrap();
    out[..len].to_vec()
}

/// Everything a decoder says about some bytes, as text, and its counts.
fn read(bytes: &[u8]) -> (Vec<String>, mien::wire::PacketCounts) {
    let mut decoder = Decoder::new();
    let mut said = Vec::new();
    for &byte in bytes {
        if let Some(result) = decoder.feed(byte) {
            said.push(format!("{result:?}"));
        }
    }
    (said, decoder.counts())
}

#[test]
fn every_kind_has_its_literal_bytes() {
    for (bytes, seq, message) in golden() {
        assert_eq!(line(&message, seq), bytes, "{message:?}");
        let mut frame = bytes[1..bytes.len() - 1].to_vec();
        assert_eq!(decode(&mut frame), Ok(Packet { seq, message }));
    }
}

#[test]
fn the_schema_is_frozen() {
    let first = [0x36e5_623d, 0xd066_f703, 0x06ed_2655, 0xe94c_44f9];
    assert_eq!(SCHEMA_IDS[..4], first, "kinds of minor 0");
    assert_eq!(SCHEMA_IDS[4..6], [0x30f4_a619, 0xb339_f756], "kinds of minor 1");
    assert_eq!(SCHEMA_IDS[6..7], [0x236a_c5af], "kinds of minor 2");
    assert_eq!(SCHEMA_IDS[7..], [0x0dbf_4e09], "kinds of minor 3");
    assert_eq!(SCHEMA_HASH, 0xa2cf_eff4);
}

#[test]
fn an_event_is_tens_of_bytes() {
    assert!(EVENT.len() <= 48, "{}", EVENT.len());
}

#[test]
fn noise_costs_what_it_hit_and_no_more() {
    let mut bytes = b"login: \xff\xfe garbage".to_vec();
    bytes.extend(line(&event(), 0));
    bytes.extend(b"kernel: something");
    let hit = line(&heartbeat(), 1);
    bytes.extend(&hit[..10]);
    bytes.push(hit[10] ^ 0x40);
    bytes.extend(&hit[11..]);
    bytes.extend(line(&event(), 2));
    let (said, counts) = read(&bytes);
    assert_eq!(counts.packets, 2, "{said:?}");
    assert_eq!((counts.errors(), counts.gaps, counts.missed), (3, 1, 1), "{said:?}");
    assert_eq!(counts.crc, 1, "{said:?}");
}

#[test]
fn each_trouble_has_its_own_count() {
    let frame = |raw: &[u8]| {
        let mut out = vec![0u8; raw.len() + raw.len() / 254 + 3];
        let len = cobs::encode(raw, &mut out[1..]);
        out.truncate(len + 2);
        out
    };
    let (_, counts) = read(&[0x00, 0x09, 0x01, 0x00]);
    assert_eq!((counts.framing, counts.errors()), (1, 1));
    let (_, counts) = read(&frame(&[1, 0, 0, 1, 0, 0, 0]));
    assert_eq!((counts.length, counts.errors()), (1, 1));
    let (_, counts) = read(&frame(&[7u8; RAW_BYTES_MAX + 1]));
    assert_eq!((counts.length, counts.errors()), (1, 1));
    let mut endless = vec![7u8; 100_000];
    endless.push(0);
    let (_, counts) = read(&endless);
    assert_eq!((counts.length, counts.errors()), (1, 1));
    let (_, counts) = read(&frame(&[2, 0, 0, 1, 9, 9, 9, 9, 9]));
    assert_eq!((counts.version, counts.errors()), (1, 1));
    let (_, counts) = read(&frame(&[1, 0, 0, SCHEMA_IDS.len() as u8, 9, 9, 9, 9, 9]));
    assert_eq!((counts.unknown, counts.errors()), (1, 1));
    let mut bent = [1, 0, 0, 1, 5, 0, 0, 0, 0];
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let mut digest = crc.digest();
    digest.update(&SCHEMA_IDS[1].to_le_bytes());
    digest.update(&bent[..5]);
    bent[5..].copy_from_slice(&digest.finalize().to_le_bytes());
    let (_, counts) = read(&frame(&bent));
    assert_eq!((counts.payload, counts.errors()), (1, 1));
}

#[test]
fn the_same_bytes_under_another_schema_do_not_decode() {
    let mut raw = vec![1, 0, 0, 1, 5];
    let plain = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&raw);
    raw.extend(plain.to_le_bytes());
    let mut out = [0; 32];
    let len = cobs::encode(&raw, &mut out);
    assert_eq!(decode(&mut out[..len]), Err(Error::Crc));
}

#[test]
fn a_packet_cut_anywhere_is_an_error_and_the_next_one_is_read() {
    for cut in 1..EVENT.len() - 1 {
        let mut bytes = EVENT[..cut].to_vec();
        bytes.extend(HEARTBEAT);
        let (_, counts) = read(&bytes);
        assert_eq!((counts.packets, counts.errors()), (1, u64::from(cut > 1)), "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for at in 1..EVENT.len() - 1 {
        for bit in 0..8 {
            let mut bytes = EVENT.to_vec();
            bytes[at] ^= 1 << bit;
            let (said, counts) = read(&bytes);
            assert_eq!(counts.packets, 0, "byte {at} bit {bit}: {said:?}");
            assert!(counts.errors() >= 1, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn gaps_are_counted_and_a_new_boot_is_not_a_gap() {
    let mut bytes = Vec::new();
    for seq in [65_534, 65_535, 0, 3, 4] {
        bytes.extend(line(&heartbeat(), seq));
    }
    let (_, counts) = read(&bytes);
    assert_eq!((counts.packets, counts.gaps, counts.missed), (5, 1, 2));

    let Message::Hello(first) = hello() else { unreachable!() };
    let mut bytes = line(&Message::Hello(first.clone()), 7);
    bytes.extend(line(&heartbeat(), 8));
    bytes.extend(line(&Message::Hello(Hello { boot: 1, ..first }), 0));
    bytes.extend(line(&heartbeat(), 1));
    let (_, counts) = read(&bytes);
    assert_eq!((counts.packets, counts.gaps), (4, 0));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut small = [0; 20];
    assert_eq!(encode(&event(), 0, &mut small), Err(Error::Full));
    let long = "x".repeat(RAW_BYTES_MAX);
    let reason = Message::Reason(ReasonPart { episode: 0, part: 0, parts: 1, text: &long });
    assert_eq!(encode(&reason, 0, &mut [0; 2 * LINE_BYTES_MAX]), Err(Error::Length));
}

#[test]
fn a_full_hello_and_a_full_reason_fit() {
    let label = "x".repeat(20);
    let Message::Hello(small) = hello() else { unreachable!() };
    let full = Message::Hello(Hello {
        schema: u32::MAX,
        boot: u64::MAX,
        device: &label,
        software: &label,
        purpose: &label,
        bundle: &label,
        label_set: &label[..12],
        labels: std::iter::repeat_n(&label[..], LABELS_MAX).collect(),
        window_ms: u32::MAX,
        hop_ms: u32::MAX,
        heartbeat_ms: u32::MAX,
        ..small
    });
    let bytes = line(&full, 0);
    assert!(bytes.len() <= LINE_BYTES_MAX);
    assert_eq!(read(&bytes).1.packets, 1);
    let text = "x".repeat(REASON_BYTES_MAX);
    line(&Message::Reason(ReasonPart { episode: u32::MAX, part: 9, parts: 10, text: &text }), 0);
}

#[test]
fn a_code_from_the_future_reads_as_other() {
    assert_eq!(
        (Kind::from(77), Cause::from(200), Health::from(9)),
        (Kind::Other, Cause::Other, Health::Other)
    );
}

/// The firmware example as a program, built with the C compiler.
fn c_example(dir: &Path) -> PathBuf {
    let firmware = Path::new(env!("CARGO_MANIFEST_DIR")).join("board/firmware");
    let program = dir.join("example");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let built = Command::new(&compiler)
        .args(["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsanitize=address,undefined"])
        .args(["-fno-sanitize-recover=all", "-o"])
        .arg(&program)
        .arg(firmware.join("example.c"))
        .output()
        .unwrap_or_else(|error| panic!("no C compiler `{compiler}` ({error}): apt-get install gcc"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// What the firmware example in C makes of the bytes.
fn read_in_c(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(c_example(dir.path()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&sent));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// `mien conformance` at the receiver in C over a tty; and at one that accepts everything it can print.
#[test]
fn a_receiver_on_a_tty_is_told_whether_it_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let play = |receiver: &mut Command| {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let tty = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let mut receiver = receiver
            .stdin(Stdio::from(master.try_clone().unwrap()))
            .stdout(Stdio::from(master))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let done = Command::new(env!("CARGO_BIN_EXE_mien")).args(["conformance", &tty]).output().unwrap();
        receiver.kill().unwrap();
        receiver.wait().unwrap();
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, said) = play(&mut Command::new(c_example(dir.path())));
    assert!(code == Some(0) && said.contains("23 of 23 steps hold"), "{said}");
    let (code, said) = play(Command::new("sh").args(["-c", "echo 0 hello; sleep 60"]));
    assert!(code == Some(1) && said.contains("of 23 steps went wrong") && said.contains("WRONG"), "{said}");
}

/// One packet of each kind, for the fuzzer of the decoder in C. `MIEN_UPDATE_RECORDS=1` writes it anew.
#[test]
fn the_packets_for_the_fuzzer_are_the_literal_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packets.bin");
    let bytes: Vec<u8> = golden().iter().flat_map(|(bytes, ..)| bytes.iter().copied()).collect();
    if std::env::var_os("MIEN_UPDATE_RECORDS").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(std::fs::read(path).unwrap(), bytes);
}

#[test]
fn the_c_decoder_reads_the_same_packets() {
    let bytes: Vec<u8> = golden().iter().flat_map(|(bytes, ..)| bytes.iter().copied()).collect();
    assert_eq!(
        read_in_c(&bytes),
        "0 hello minor=3 schema=a2cfeff4 boot=0123456789abcdef device=kiosk-7 software=mien 0.1.0 purpose=research \
         bundle=tiny bundle_hash=0001020304050607 label_set=dfew labels=happy,sad,neutral window_ms=4000 \
         hop_ms=1000 heartbeat_ms=1000\n\
         1 event seq=300 episode=299 kind=3 label=1 confidence_permille=812 track=0 expected=3 present=1 cause=2 \
         at_ms=123456 begin_ms=100000 window_ms=4000 wall_ms=1795417200000 wall_synced=1 age_ms=350\n\
         2 heartbeat uptime_ms=86400000 label=255 episode=0 events=301 windows=86000 late=12 dropped=0 video=2 \
         audio=4 muted=0 infer_ms=180\n\
         65535 reason episode=299 part=0/2 text=The corners of the mouth rise \u{2013} \n\
         0 grounds episode=299 claims=7 held=4 contradicted=1 unseen=2 contradicted_bits=80000010\n\
         1 people at_ms=123456 count=2 track=300\n\
         2 faces at_ms=123456 300:1:812 7:255:0\n\
         3 second at_ms=123456 episode=299 label=2 confidence=334\n\
         packets=8 framing=0 length=0 crc=0 version=0 unknown=0 payload=0 gaps=1 missed=65532\n"
    );
}

#[test]
fn the_c_decoder_counts_bad_bytes_as_ours_does() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut random = move || dice.next();
    let mut bytes = Vec::new();
    for seq in 0..4_000u16 {
        let (_, _, message) = &golden()[usize::from(seq) % 8];
        let mut packet = line(message, seq);
        match random() % 4 {
            0 => {
                let at = random() as usize % packet.len();
                packet[at] = random() as u8;
            }
            1 => packet.truncate(random() as usize % packet.len()),
            2 => packet.extend((0..random() % 700).map(|_| random() as u8)),
            _ => {}
        }
        bytes.extend(packet);
    }
    bytes.push(0);
    let ours = read(&bytes).1;
    let theirs = read_in_c(&bytes);
    let expected = format!(
        "packets={} framing={} length={} crc={} version={} unknown={} payload={} gaps={} missed={}",
        ours.packets,
        ours.framing,
        ours.length,
        ours.crc,
        ours.version,
        ours.unknown,
        ours.payload,
        ours.gaps,
        ours.missed
    );
    assert_eq!(theirs.lines().last(), Some(&expected[..]));
    assert!(ours.packets > 1_000 && ours.errors() > 1_000, "{ours:?}");
}

/// A reason packet with any bytes for its text, and a right checksum.
fn reason_of(text: &[u8], seq: u16) -> Vec<u8> {
    let mut raw = vec![mien::wire::VERSION];
    raw.extend(seq.to_le_bytes());
    raw.extend([3, 0, 0, 1, text.len() as u8]);
    raw.extend(text);
    let table = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let mut sum = table.digest();
    sum.update(&SCHEMA_IDS[3].to_le_bytes());
    sum.update(&raw);
    raw.extend(sum.finalize().to_le_bytes());
    let mut out = vec![0; raw.len() + 8];
    let len = cobs::encode(&raw, &mut out);
    out.truncate(len);
    [vec![0], out, vec![0]].concat()
}

#[test]
fn text_that_is_not_utf8_is_refused_by_both_decoders_alike() {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    // Every first byte with every second, and the edges of three and four bytes.
    for first in 0..=255u8 {
        for second in [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff] {
            texts.push(vec![first, second]);
            texts.push(vec![first, second, 0x80]);
            texts.push(vec![first, second, 0xbf, 0xbf]);
            texts.push(vec![b'a', first, second, 0x80, b'z']);
        }
        texts.push(vec![first]);
    }
    let mut state = 0x0dd_ba11u64;
    for _ in 0..4_000 {
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let mut text = "aé€😀".repeat(usize::from(random() % 4)).into_bytes();
        for _ in 0..random() % 3 {
            if !text.is_empty() {
                let at = usize::from(random()) % text.len();
                text[at] = random();
            }
        }
        text.truncate(text.len() - text.len().min(usize::from(random() % 2)));
        texts.push(text);
    }
    let bytes: Vec<u8> =
        texts.iter().enumerate().flat_map(|(seq, text)| reason_of(text, seq as u16)).collect();
    let ours = read(&bytes).1;
    let right = texts.iter().filter(|text| std::str::from_utf8(text).is_ok()).count();
    assert_eq!((ours.packets, ours.payload, ours.crc), (right as u64, (texts.len() - right) as u64, 0));
    assert!(right > 1_000 && texts.len() - right > 1_000);
    let theirs = read_in_c(&bytes);
    let last = theirs.lines().last().unwrap();
    assert!(last.contains(&format!("packets={} ", ours.packets)), "{last}");
    assert!(last.contains(&format!("payload={} ", ours.payload)), "{last}");
}

proptest! {
    #[test]
    fn events_come_back_as_they_went(
        numbers in (any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>(), any::<u64>(), any::<u64>()),
        codes in (0u8..5, any::<u8>(), any::<u8>(), any::<u8>(), 0u8..13),
        tail in (any::<u32>(), any::<u64>(), any::<u8>(), any::<u32>()),
        seq in any::<u16>(),
    ) {
        let event = Event {
            seq: numbers.0,
            episode: numbers.1,
            kind: Kind::from(codes.0),
            label: codes.1,
            confidence_permille: numbers.2,
            track: numbers.3,
            expected: codes.2,
            present: codes.3,
            cause: Cause::from(codes.4),
            at_ms: numbers.4,
            begin_ms: numbers.5,
            window_ms: tail.0,
            wall_ms: tail.1,
            wall_synced: tail.2,
            age_ms: tail.3,
        };
        let bytes = line(&Message::Event(event), seq);
        prop_assert!(bytes[1..bytes.len() - 1].iter().all(|&byte| byte != 0));
        let mut frame = bytes[1..bytes.len() - 1].to_vec();
        prop_assert_eq!(decode(&mut frame), Ok(Packet { seq, message: Message::Event(event) }));
    }

    #[test]
    fn text_comes_back_as_it_went(text in ".{0,40}", labels in prop::collection::vec("[a-z]{1,12}", 0..=LABELS_MAX)) {
        let Message::Hello(plain) = hello() else { unreachable!() };
        let hello = Message::Hello(Hello {
            device: &text,
            labels: labels.iter().map(|label| &label[..]).collect(),
            ..plain
        });
        let bytes = line(&hello, 5);
        let mut frame = bytes[1..bytes.len() - 1].to_vec();
        prop_assert_eq!(decode(&mut frame), Ok(Packet { seq: 5, message: hello }));
    }

    #[test]
    fn hostile_bytes_never_panic_and_never_stick(noise in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let mut decoder = Decoder::new();
        for &byte in &noise {
            let _ = decoder.feed(byte);
        }
        let before = decoder.counts().packets;
        for byte in line(&event(), 1) {
            let _ = decoder.feed(byte);
        }
        prop_assert_eq!(decoder.counts().packets, before + 1);
    }
}
