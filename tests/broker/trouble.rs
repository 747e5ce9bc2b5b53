//! Brokers that prove the wrong identity, and one that is away for long.

use super::{Broker, events, of, openssl, tick};
use crate::{Setup, begin, setup, until};
use mien::sink::{Sink, mqtt::Mqtt, mqtt::Settings};
use mien::wire::Kind;
use std::{
    fs,
    time::{Duration, Instant},
};

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// A broker whose certificate is for `names`, valid for so many days from now.
fn with_certificate(names: &str, days: i32) -> Broker {
    let mut broker = Broker::new("allow_anonymous true\ncertfile DIR/server.pem\nkeyfile DIR/server.key\n");
    let folder = broker.path("");
    fs::write(folder.join("san.cnf"), format!("subjectAltName={names}\n")).unwrap();
    for authority in ["ca", "other"] {
        let subject = format!("-keyout {authority}.key -out {authority}.pem -days 2 -subj /CN={authority}");
        openssl(&folder, &format!("req -x509 {KEY} {subject}"));
    }
    openssl(&folder, &format!("req {KEY} -keyout server.key -out server.csr -subj /CN=server"));
    let signed =
        format!("-CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days {days} -extfile san.cnf");
    openssl(&folder, &format!("x509 -req -in server.csr {signed}"));
    broker.start();
    broker
}

#[test]
fn a_certificate_that_is_expired_for_another_host_or_of_another_authority_is_refused() {
    let here = "IP:127.0.0.1";
    for (names, days, ca, words) in [
        (here, 2, "ca.pem", None),
        (here, -1, "ca.pem", Some("xpired")),
        ("DNS:elsewhere.example", 2, "ca.pem", Some("127.0.0.1")),
        (here, 2, "other.pem", Some("UnknownIssuer")),
    ] {
        let broker = with_certificate(names, days);
        let settings = Settings { tls: true, ca: broker.path(ca), ..broker.settings() };
        let probed = settings.probe(&setup());
        let mut sink = Mqtt::open(settings, &setup()).unwrap();
        sink.send(&begin(0));
        match words {
            None => {
                probed.unwrap();
                tick(&mut sink, "the event", || true);
                until("the receipt", || {
                    sink.tick();
                    sink.counts().sent == 1
                });
            }
            Some(words) => {
                let said = format!("{:#}", probed.unwrap_err());
                assert!(said.contains(words), "{names}, {days} days, {ca}: {said}");
                until("the refusal", || sink.counts().losses == 1);
                sink.tick();
                assert_eq!((sink.counts().sent, sink.counts().waiting), (0, 1), "{names}: it waits");
            }
        }
        sink.close();
    }
}

/// Ten events a second while the broker is away: `MIEN_AWAY_S` seconds, 600 in the lane `faults`.
#[test]
fn ten_events_a_second_while_the_broker_is_away_arrive_in_order_or_are_counted() {
    let away = std::env::var("MIEN_AWAY_S").ok().and_then(|text| text.parse().ok()).unwrap_or(4u64);
    let folder = tempfile::tempdir().unwrap();
    let kept = Setup { state_dir: folder.path().into(), ..setup() };
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let mut sink = Mqtt::open(Settings { queue: 1_024, ..broker.settings() }, &kept).unwrap();
    sink.send(&begin(0));
    until("the first event", || {
        sink.tick();
        sink.counts().sent == 1
    });
    broker.stop();

    let (start, mut seq) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(away) {
        // The end of what holds, then the next begin; an episode has the number of its begin.
        let ends = seq % 2 == 0;
        seq += 1;
        sink.send(&if ends { of(Kind::End, seq, seq - 1) } else { of(Kind::Begin, seq, seq) });
        std::thread::sleep(Duration::from_millis(100));
    }
    let file = fs::metadata(folder.path().join("mqtt.jsonl")).unwrap().len();
    assert!(file < 2 << 20, "{file} bytes wait on disk");

    broker.start();
    let heard = broker.listen(&broker.settings());
    until("all that waits", || {
        sink.tick();
        sink.counts().waiting == 0
    });
    sink.close();
    let (counts, heard) = (sink.counts(), events(&heard));
    let numbers: Vec<u64> = heard.iter().map(|(_, seq)| *seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice: {numbers:?}");
    assert_eq!(numbers.last(), Some(&u64::from(seq)), "the newest is there");
    assert_eq!(numbers.len() as u64 + counts.dropped, u64::from(seq), "{counts:?}");
    let mut open = true;
    for (kind, seq) in &heard {
        assert_eq!(open, kind == "end", "event {seq}: {kind}");
        open = !open;
    }
    println!(
        "seen: away {away} s: {seq} events, {} arrived in order, {} dropped in pairs and counted, {file} bytes on disk",
        numbers.len(),
        counts.dropped
    );
}
