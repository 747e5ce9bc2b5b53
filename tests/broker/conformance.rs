//! `mien conformance` at a receiver behind a real broker.

use super::Broker;
use rumqttc::{Client, Event as Happening, Packet, PublishOptions, QoS};
use serde_json::Value;
use std::{
    collections::HashSet,
    process::{Command, Output},
};

/// What a receiver that conforms says of a publication. `seen` are the boots and numbers of events that it took.
fn accepts(topic: &str, payload: &[u8], seen: &mut HashSet<(String, u64)>) -> Option<String> {
    if topic == "availability" {
        return Some(format!(
            "availability {}",
            std::str::from_utf8(payload).ok().filter(|text| !text.is_empty())?
        ));
    }
    let line: Value = serde_json::from_slice(payload).ok()?;
    let (kind, key) = match topic {
        "hello" => ("hello", "boot"),
        "event" => ("event", "seq"),
        "state" => ("state", "seq"),
        "health" => ("heartbeat", "uptime_ms"),
        "reason" => ("reason", "episode"),
        "people" => ("people", "count"),
        "faces" => ("faces", "at_ms"),
        "second" => ("second", "at_ms"),
        _ => return None,
    };
    if line["type"] != kind {
        return None;
    }
    let value =
        line[key].as_str().map(str::to_owned).or_else(|| line[key].as_u64().map(|n| n.to_string()))?;
    if topic == "event" && !seen.insert((line["boot"].as_str()?.to_owned(), line["seq"].as_u64()?)) {
        return None;
    }
    Some(format!("{topic} {value}"))
}

/// Receives until the test is over; one that forgets takes an event that comes twice for two.
fn receive(broker: &Broker, prefix: &'static str, forgets: bool) {
    let options = mien::sink::mqtt::options(&broker.settings(), "receiver", None).unwrap();
    let (client, mut connection) = Client::builder(options).capacity(64).build();
    client.subscribe(format!("{prefix}/+"), QoS::AtLeastOnce).unwrap();
    let (ready, subscribed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut seen = HashSet::new();
        while let Ok(Ok(happening)) = connection.recv() {
            match happening {
                Happening::Incoming(Packet::SubAck(_)) => drop(ready.send(())),
                Happening::Incoming(Packet::Publish(publish)) => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let name = topic.strip_prefix(prefix).unwrap().trim_start_matches('/');
                    if forgets {
                        seen.clear();
                    }
                    if let Some(said) = accepts(name, &publish.payload, &mut seen) {
                        let options = PublishOptions::new(QoS::AtLeastOnce);
                        client.publish(format!("{prefix}/accepted"), said, options).unwrap();
                    }
                }
                _ => {}
            }
        }
    });
    subscribed.recv().unwrap();
}

fn conformance(broker: &Broker, prefix: &str) -> (Output, String) {
    let address = format!("mqtt://127.0.0.1:{}/{prefix}", broker.port);
    let done = Command::new(env!("CARGO_BIN_EXE_mien")).args(["conformance", &address]).output().unwrap();
    let said = String::from_utf8_lossy(&[&done.stdout[..], &done.stderr].concat()).into_owned();
    (done, said)
}

#[test]
fn a_receiver_at_a_broker_is_told_whether_it_conforms() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    receive(&broker, "mien/good", false);
    let (done, said) = conformance(&broker, "mien/good");
    assert!(done.status.success() && said.contains("20 of 20 steps hold"), "{said}");
    // Nothing stays behind.
    let heard = broker.listen(&broker.settings());
    std::thread::sleep(std::time::Duration::from_millis(300));
    for topic in ["hello", "state", "availability", "health", "people", "faces", "second"] {
        assert!(heard.of(&format!("mien/good/{topic}")).is_empty(), "{topic}");
    }

    receive(&broker, "mien/forgets", true);
    let (done, said) = conformance(&broker, "mien/forgets");
    assert!(done.status.code() == Some(1) && said.contains("1 of 20 steps went wrong"), "{said}");
    assert!(
        said.lines().any(|line| line.contains("the same begin again") && line.ends_with("WRONG")),
        "{said}"
    );

    broker.stop();
    let (done, said) = conformance(&broker, "mien/gone");
    assert!(done.status.code() == Some(1) && said.contains("does not answer within"), "{said}");
}
