//! Publications at a broker.
//!
//! The receiver publishes to `PREFIX/accepted`, one text for each publication that it accepts: the last part of the topic, a space, and
//! `seq` of an event or a state, `episode` of a reason, `boot` of a hello, `count` of people, `at_ms` of faces and of a second label, `uptime_ms` of a heartbeat, the whole
//! payload of `availability`.

use super::{
    messages,
    step::{Step, play},
};
use crate::{
    sink::{
        json::{self, Line},
        mqtt::{Link, Progress, Settings, options},
    },
    wire::Kind,
};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// How long the broker may take to answer.
const BROKER_WAIT: Duration = Duration::from_secs(10);

/// A topic below the prefix, what is said there, and whether the broker keeps it.
#[derive(Clone, Debug)]
struct Said {
    topic: &'static str,
    payload: Vec<u8>,
    retain: bool,
}

pub fn run(settings: &Settings, wait: Duration) -> Result<()> {
    ensure!(!settings.prefix.is_empty(), "the address names no prefix: mqtt://HOST/PREFIX");
    let (prefix, address) = (&settings.prefix, settings.address());
    let seed = crate::machine::random()?;
    let id = format!("mien-conformance-{:08x}", seed as u32);
    let link = Link::open(options(settings, &id, None)?, &address, seed)?;
    until(&address, || link.is_up())?;
    let answers = [format!("{prefix}/accepted")];
    let mut asked = link.subscribe(&answers).context("the connection has no room")?;
    let mut granted = None;
    until(&address, || {
        granted = asked.granted();
        granted.is_some()
    })?;
    ensure!(granted == Some(true), "the broker does not let {} be read", answers[0]);

    let put = |said: &Said| {
        let topic = format!("{prefix}/{}", said.topic);
        let mut receipt =
            link.publish(topic, said.payload.clone(), said.retain).context("the connection has no room")?;
        until(&address, || receipt.progress() != Progress::Pending)?;
        ensure!(receipt.progress() == Progress::Confirmed, "the broker {address} went away");
        Ok(())
    };
    let take = |wait| {
        let next = link.next(wait);
        Ok(next.map(|publication| vec![String::from_utf8_lossy(&publication.payload).trim().to_owned()]))
    };
    let done = play(&steps(), wait, put, take);
    // Nothing of this device stays at the broker.
    for topic in ["hello", "availability", "state", "health", "people", "faces", "second"] {
        put(&Said { topic, payload: Vec::new(), retain: true })?;
    }
    done
}

fn until(address: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + BROKER_WAIT;
    while !holds() {
        ensure!(
            Instant::now() < end,
            "the broker {address} does not answer within {} s",
            BROKER_WAIT.as_secs()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn steps() -> Vec<Step<Said>> {
    let mut steps = Vec::new();
    let mut step = |what, pieces, accepts: &[&str]| steps.push(Step::new(what, pieces, accepts));
    let begin = event(1, 0, Kind::Begin);
    step("a hello", vec![hello(1)], &["hello 0000000000000001"]);
    step("online", vec![online("online")], &["availability online"]);
    step("a begin", vec![begin.clone()], &["event 0"]);
    step("the same begin again, as a broker may deliver it twice", vec![begin.clone()], &[]);
    step("what holds", vec![state(0)], &["state 0"]);
    step("a heartbeat", vec![beat()], &["health 70000"]);
    let cut = |said: Said| Said { payload: said.payload[..said.payload.len() / 2].to_vec(), ..said };
    step(
        "an event that is cut, then a good one",
        vec![cut(event(1, 1, Kind::End)), event(1, 1, Kind::End)],
        &["event 1"],
    );
    let with = |payload: &[u8]| Said { payload: payload.to_vec(), ..begin.clone() };
    step(
        "no payload, bytes that are no text, then a good one",
        vec![with(b""), with(&[0xff, 0xfe, 0x00, 0x80]), event(1, 2, Kind::Begin)],
        &["event 2"],
    );
    step(
        "JSON that is no object, then a good one",
        vec![with(b"[1, 2, 3]"), event(1, 3, Kind::End)],
        &["event 3"],
    );
    step(
        "an object of another type on the topic of events",
        vec![with(b"{\"type\":\"weather\",\"seq\":4}")],
        &[],
    );
    step(
        "fields of the future",
        vec![changed(event(1, 4, Kind::Begin), |fields| {
            fields.insert("intensity".into(), 0.4.into());
            fields.insert("shares".into(), vec![0.6, 0.4].into());
        })],
        &["event 4"],
    );
    step(
        "words of the future",
        vec![changed(event(1, 5, Kind::End), |fields| {
            fields.insert("event".into(), "pulse".into());
            fields.insert("cause".into(), "moonlight".into());
        })],
        &["event 5"],
    );
    step("numbers that jump: loss, not error", vec![event(1, 900, Kind::Begin)], &["event 900"]);
    step(
        "numbers that wrap",
        vec![event(1, u32::MAX, Kind::End), event(1, 6, Kind::Begin)],
        &["event 4294967295", "event 6"],
    );
    step("a reason in any script", vec![reason("h\u{f6}rbar \u{1f642} \u{60b2}\u{4f24}")], &["reason 4"]);
    step("a long reason", vec![reason(&"x".repeat(4_096))], &["reason 4"]);
    step("who is there, and what each shows", shown().into(), &["people 2", "faces 11000", "second 12000"]);
    step(
        "a topic of the future",
        vec![Said { topic: "weather", payload: b"{}".to_vec(), retain: false }],
        &[],
    );
    step(
        "another boot: all that was begun has ended, numbers start again",
        vec![hello(2), event(2, 0, Kind::Begin)],
        &["hello 0000000000000002", "event 0"],
    );
    step("the last will", vec![online("offline")], &["availability offline"]);
    steps
}

fn json(topic: &'static str, line: &Line, retain: bool) -> Said {
    Said { topic, payload: line.text().into(), retain }
}

fn changed(said: Said, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) -> Said {
    let mut fields = serde_json::from_slice(&said.payload).expect("it is an object");
    change(&mut fields);
    Said { payload: serde_json::to_vec(&fields).expect("it is JSON"), ..said }
}

fn online(payload: &str) -> Said {
    Said { topic: "availability", payload: payload.into(), retain: true }
}

fn hello(boot: u64) -> Said {
    json("hello", &Line::Hello(json::Hello::of(&messages::hello(boot))), true)
}

fn event(boot: u64, seq: u32, kind: Kind) -> Said {
    let event = messages::event(seq, kind, 3);
    json("event", &Line::Event(json::Event::of(&event, Some("angry"), Some(boot))), false)
}

fn state(seq: u32) -> Said {
    let state = json::State {
        label: "angry".into(),
        confidence: 0.777,
        seq,
        since_ms: 10_000,
        boot: format!("{:016x}", 1),
        ..json::State::default()
    };
    json("state", &Line::State(state), true)
}

fn beat() -> Said {
    json("health", &Line::Heartbeat(json::Heartbeat::of(&messages::beat(), Some("angry"))), true)
}

fn reason(text: &str) -> Said {
    json("reason", &Line::Reason(json::Reason::plain(4, text)), false)
}

fn shown() -> [Said; 3] {
    [people(), faces(), second()]
}

fn people() -> Said {
    json("people", &Line::People(json::People::of(&messages::people())), true)
}

fn faces() -> Said {
    let name = |label| (label == 3).then(|| "angry".to_owned());
    json("faces", &Line::Faces(json::Faces::of(&messages::faces(), name)), true)
}

fn second() -> Said {
    json("second", &Line::Second(json::Second::of(&messages::second(), Some("sad"))), true)
}
