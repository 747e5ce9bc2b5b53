//! Packets on a serial line.
//!
//! The receiver says on the line back, in text, one line for each packet that it accepts: its `seq` in decimal, a space, and `hello`,
//! `event`, `heartbeat`, `reason`, `grounds`, `people`, `faces` or `second`; what follows on the line is passed over.

use super::{
    messages::{beat, event, faces, hello, people, second},
    step::{Step, play},
};
use crate::{
    sink::serial,
    wire::{
        self, Cause, Event, Grounds, Kind, LINE_BYTES_MAX, Message, RAW_BYTES_MAX, ReasonPart, SCHEMA,
        SCHEMA_IDS, VERSION,
    },
};
use anyhow::{Context, Result, ensure};
use rustix::event::PollFlags;
use std::{path::Path, time::Duration};

/// How long a line may take no bytes.
const LINE_WAIT: Duration = Duration::from_secs(2);

pub fn run(tty: &Path, baud: u32, wait: Duration) -> Result<()> {
    let line = serial::open(tty, baud)?;
    let put = |part: &Vec<u8>| {
        let taken =
            serial::write(&line, part, LINE_WAIT).with_context(|| format!("writing to {}", tty.display()))?;
        ensure!(taken, "{} takes nothing", tty.display());
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    };
    let mut text = Vec::new();
    let take = |wait| {
        if !serial::ready(&line, PollFlags::IN, wait)? {
            return Ok(None);
        }
        let mut bytes = [0; 512];
        let count = rustix::io::read(&line, &mut bytes[..]).context("reading the answers")?;
        text.extend_from_slice(&bytes[..count]);
        Ok((count > 0).then(|| accepted(&mut text)))
    };
    play(&steps(), wait, put, take)
}

fn steps() -> Vec<Step<Vec<u8>>> {
    let mut steps = Vec::new();
    let mut step = |what, parts, accepts: &[&str]| steps.push(Step::new(what, parts, accepts));
    let begin = packet(&Message::Event(event(0, Kind::Begin, 3)), 1);
    step("a hello", vec![packet(&Message::Hello(hello(1)), 0)], &["0 hello"]);
    step("a begin", vec![begin.clone()], &["1 event"]);
    step("a heartbeat", vec![packet(&Message::Heartbeat(beat()), 2)], &["2 heartbeat"]);
    let end = packet(&Message::Event(event(1, Kind::End, 3)), 3);
    let (head, tail) = end.split_at(end.len() / 2);
    step("a packet in two halves", vec![head.to_vec(), tail.to_vec()], &["3 event"]);
    let two = [packet(&Message::Heartbeat(beat()), 4), packet(&Message::Event(event(2, Kind::Begin, 0)), 5)]
        .concat();
    step("two packets at once", vec![two], &["4 heartbeat", "5 event"]);
    let noisy = [vec![0x55; 40], packet(&Message::Heartbeat(beat()), 6)].concat();
    step("noise, then a packet", vec![noisy], &["6 heartbeat"]);
    let flipped =
        [changed(packet(&Message::Heartbeat(beat()), 7), 6), packet(&Message::Heartbeat(beat()), 8)];
    step("a packet with one byte wrong, then a good one", vec![flipped.concat()], &["8 heartbeat"]);
    let cut = packet(&Message::Event(event(3, Kind::End, 0)), 9);
    let cut = [cut[..cut.len() - 6].to_vec(), packet(&Message::Heartbeat(beat()), 10)];
    step("a packet without its end, then a good one", vec![cut.concat()], &["10 heartbeat"]);
    let merged = packet(&Message::Heartbeat(beat()), 11);
    let merged = [merged[..merged.len() - 1].to_vec(), packet(&Message::Heartbeat(beat()), 12)];
    step("two packets with one zero between them", vec![merged.concat()], &["11 heartbeat", "12 heartbeat"]);
    step(
        "another major version, then a good one",
        vec![foreign(VERSION + 1, 2, SCHEMA_IDS[2]), beat_at(14)],
        &["14 heartbeat"],
    );
    step(
        "a kind of the future, then a good one",
        vec![foreign(VERSION, 200, 0), beat_at(15)],
        &["15 heartbeat"],
    );
    step(
        "a kind with other fields, then a good one",
        vec![foreign(VERSION, 2, 0xdead_beef), beat_at(16)],
        &["16 heartbeat"],
    );
    let long = [vec![0], vec![0x11; 4 * LINE_BYTES_MAX], beat_at(17)];
    step(
        "more bytes without a zero than any packet has, then a good one",
        vec![long.concat()],
        &["17 heartbeat"],
    );
    step("zeros, then a good one", vec![vec![0; 64], beat_at(18)], &["18 heartbeat"]);
    step("numbers that jump: loss, not error", vec![beat_at(900)], &["900 heartbeat"]);
    step("numbers that wrap", vec![beat_at(u16::MAX), beat_at(0)], &["65535 heartbeat", "0 heartbeat"]);
    let odd = Event { kind: Kind::Other, cause: Cause::Other, ..event(4, Kind::Begin, 3) };
    step("codes that the receiver does not know", vec![packet(&Message::Event(odd), 1)], &["1 event"]);
    let text = "h\u{f6}rbar \u{1f642} \u{60b2}\u{4f24}";
    let parts = (0..2).map(|part| packet(&reason(part, text), 2 + u16::from(part))).collect();
    step("a reason in two parts, in any script", parts, &["2 reason", "3 reason"]);
    let largest = "x".repeat(wire::REASON_BYTES_MAX);
    step("the longest text", vec![packet(&reason(0, &largest), 4)], &["4 reason"]);
    step("how a reason stands, and who is there", later().to_vec(), &["5 grounds", "6 people"]);
    step("what each face shows", vec![packet(&Message::Faces(faces()), 7)], &["7 faces"]);
    step("what is shown beside a label", vec![packet(&Message::Second(second()), 8)], &["8 second"]);
    step(
        "a hello of another boot: all that was begun has ended",
        vec![packet(&Message::Hello(hello(2)), 0)],
        &["0 hello"],
    );
    steps
}

/// The kinds that were appended first.
fn later() -> [Vec<u8>; 2] {
    let grounds = Grounds {
        episode: 4,
        claims: 9,
        held: 5,
        contradicted: 2,
        unseen: 1,
        contradicted_bits: 0x8000_0005,
    };
    [packet(&Message::Grounds(grounds), 5), packet(&Message::People(people()), 6)]
}

fn packet(message: &Message<'_>, seq: u16) -> Vec<u8> {
    let mut out = [0; LINE_BYTES_MAX];
    let len = wire::encode(message, seq, &mut out).expect("these fit");
    out[..len].to_vec()
}

fn beat_at(seq: u16) -> Vec<u8> {
    packet(&Message::Heartbeat(beat()), seq)
}

/// A packet of another version, of another kind or of other fields, with a checksum that fits it.
fn foreign(version: u8, kind: u8, schema: u32) -> Vec<u8> {
    let (mut raw, mut out) = ([0; RAW_BYTES_MAX], [0; LINE_BYTES_MAX]);
    raw[..4].copy_from_slice(&[version, 13, 0, kind]);
    let len = wire::seal(&mut raw, 12, schema, &mut out).expect("it fits");
    out[..len].to_vec()
}

/// The byte at `at` made another that is not zero.
fn changed(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
    packet[at] = if packet[at] == 0x77 { 0x78 } else { 0x77 };
    packet
}

fn reason(part: u8, text: &str) -> Message<'_> {
    Message::Reason(ReasonPart { episode: 4, part, parts: 2, text })
}

/// Takes whole lines out of the text, and of these keeps what begins with a number and the name of a kind.
fn accepted(text: &mut Vec<u8>) -> Vec<String> {
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let whole = String::from_utf8_lossy(&text[..end]).into_owned();
    text.drain(..end);
    let answer = |line: &str| {
        let mut words = line.split_whitespace();
        let (seq, kind) = (words.next()?.parse::<u16>().ok()?, words.next()?);
        let known = SCHEMA.iter().any(|line| line.split(' ').next() == Some(kind));
        known.then(|| format!("{seq} {kind}"))
    };
    whole.lines().filter_map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Decoder;

    /// Our own decoder is a receiver that conforms.
    #[test]
    fn our_decoder_holds_every_step() {
        let mut decoder = Decoder::new();
        for step in steps() {
            let mut said = Vec::new();
            for byte in step.pieces.concat() {
                if let Some(Ok(packet)) = decoder.feed(byte) {
                    let kind = match packet.message {
                        Message::Hello(_) => "hello",
                        Message::Event(_) => "event",
                        Message::Heartbeat(_) => "heartbeat",
                        Message::Reason(_) => "reason",
                        Message::Grounds(_) => "grounds",
                        Message::People(_) => "people",
                        Message::Faces(_) => "faces",
                        Message::Second(_) => "second",
                    };
                    said.push(format!("{} {kind}", packet.seq));
                }
            }
            assert_eq!(said, step.accepts, "{}", step.what);
        }
        assert_eq!(decoder.counts().errors(), 7, "{:?}", decoder.counts());
    }

    #[test]
    fn answers_are_whole_lines_of_a_number_and_a_kind() {
        let mut text = b"booting\n12 event seq=1\n70000 event\n9 nonsense\n3 hello".to_vec();
        assert_eq!(accepted(&mut text), ["12 event"]);
        text.extend_from_slice(b" of a device\n");
        assert_eq!(accepted(&mut text), ["3 hello"]);
        assert!(text.is_empty());
    }
}
