//! A real mosquitto for a test, and a client that listens.

#![cfg(feature = "mqtt")]

mod conformance;
mod discovery;
mod trouble;

use super::{Setup, begin, event, setup, until};
use mien::sink::{
    Message, Sink,
    mqtt::{self, Mqtt, Payload, Settings},
};
use mien::wire::{Cause, Decoder, Face, Faces, Heartbeat, Kind, NO_LABEL, Second};
use rumqttc::{Client, Event as Happening, MqttOptions, Packet, QoS};
use std::{
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

pub struct Broker {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    /// A free port and a config, nothing running yet.
    fn new(config: &str) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = config.replace("DIR", folder.path().to_str().unwrap());
        let head = format!("listener {port} 127.0.0.1\nuser root\npersistence false\n");
        fs::write(folder.path().join("broker.conf"), head + &text).unwrap();
        Broker { folder, port, child: None }
    }

    fn start(&mut self) {
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(self.path("broker.conf"))
            .env("PATH", format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("no mosquitto ({error}): tools/setup installs it"));
        self.child = Some(child);
        let port = self.port;
        until("mosquitto to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings { host: "127.0.0.1".into(), port: self.port, keep_alive_s: 5, ..Default::default() }
    }

    /// Listens to everything with the given settings.
    fn listen(&self, settings: &Settings) -> Heard {
        let mut options: MqttOptions = mqtt::options(settings, "listener", None).unwrap();
        options.set_keep_alive(5);
        let (client, mut connection) = Client::builder(options).capacity(16).build();
        client.subscribe("#", QoS::AtLeastOnce).unwrap();
        let heard = Heard::default();
        let list = Arc::clone(&heard.0);
        let ready = Arc::clone(&heard.1);
        std::thread::spawn(move || {
            let _client = client;
            while let Ok(Ok(happening)) = connection.recv() {
                match happening {
                    Happening::Incoming(Packet::SubAck(_)) => *ready.lock().unwrap() = true,
                    Happening::Incoming(Packet::Publish(publish)) => {
                        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                        list.lock().unwrap().push((topic, publish.payload.to_vec(), publish.retain))
                    }
                    _ => {}
                }
            }
        });
        until("the listener's subscription", || *heard.1.lock().unwrap());
        heard
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}

type Publications = Vec<(String, Vec<u8>, bool)>;

#[derive(Default)]
struct Heard(Arc<Mutex<Publications>>, Arc<Mutex<bool>>);

impl Heard {
    /// Payloads of one topic, with the retain flag as delivered.
    fn of(&self, topic: &str) -> Vec<(String, bool)> {
        let all = self.0.lock().unwrap();
        let of_topic = all.iter().filter(|(name, ..)| name == topic);
        of_topic
            .map(|(_, payload, retain)| (String::from_utf8_lossy(payload).into_owned(), *retain))
            .collect()
    }
}

/// Ticks a sink until something holds.
fn tick(sink: &mut Mqtt, what: &str, mut done: impl FnMut() -> bool) {
    until(what, || {
        sink.tick();
        done()
    });
}

const PREFIX: &str = "mien/kiosk-7";

#[test]
fn events_pass_by_and_state_stays() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let early = broker.listen(&broker.settings());
    let settings = Settings { payload: Payload::Both, ros: true, ..broker.settings() };
    let mut sink = Mqtt::open(settings, &setup()).unwrap();
    sink.send(&begin(0));
    sink.send(&Message::Heartbeat(Heartbeat::default()));
    let face = Face { track: 7, label: 1, confidence_permille: 640 };
    let faces = [face, Face { track: 9, label: NO_LABEL, confidence_permille: 0 }].into_iter().collect();
    sink.send(&Message::Faces(Faces { at_ms: 4_000, faces }));
    let second = Second { at_ms: 4_000, episode: 0, label: 1, confidence_permille: 310 };
    sink.send(&Message::Second(second));
    tick(&mut sink, "the event, as JSON and compact", || {
        early.of(&format!("{PREFIX}/event")).len() == 1
            && early.of(&format!("{PREFIX}/event/compact")).len() == 1
            && early.of(&format!("{PREFIX}/state")).len() == 1
            && early.of(&format!("{PREFIX}/health")).len() == 1
            && early.of(&format!("{PREFIX}/ros")).len() == 1
    });
    let compact = early.0.lock().unwrap().iter().find(|(t, ..)| t.ends_with("compact")).unwrap().1.clone();
    let mut decoder = Decoder::new();
    for byte in compact {
        let _ = decoder.feed(byte);
    }
    assert_eq!(decoder.counts().packets, 1);

    let late = broker.listen(&broker.settings());
    until("the retained topics", || {
        ["availability", "hello", "state", "health", "ros", "faces", "second"]
            .iter()
            .all(|topic| !late.of(&format!("{PREFIX}/{topic}")).is_empty())
    });
    // `online` is said again with every heartbeat: a second one may be under way.
    assert_eq!(late.of(&format!("{PREFIX}/availability"))[0], ("online".into(), true));
    let (state, retained) = late.of(&format!("{PREFIX}/state")).remove(0);
    assert!(
        retained && state.contains(r#""label":"fear""#) && state.contains(r#""expression":"scared""#),
        "{state}"
    );
    assert_eq!(late.of(&format!("{PREFIX}/event")), [], "an event must not be retained");
    let (ros, retained) = late.of(&format!("{PREFIX}/ros")).remove(0);
    let expression = r#""expression":"scared","valence":0.0,"arousal":0.0,"confidence":"#;
    let header = r#"{"header":{"stamp":{"sec":0,"nanosec":0},"frame_id":"kiosk 7"},"#;
    assert!(retained && ros.starts_with(header) && ros.contains(expression), "{ros}");

    let beside = r#"{"type":"second","at_ms":4000,"episode":0,"label":"fear","expression":"scared","confidence":0.31}"#;
    assert_eq!(late.of(&format!("{PREFIX}/second"))[0], (beside.into(), true));
    let shown = r#"{"type":"faces","at_ms":4000,"faces":[{"track":7,"label":"fear","expression":"scared","confidence":0.64},{"track":9,"confidence":0.0}]}"#;
    assert_eq!(late.of(&format!("{PREFIX}/faces"))[0], (shown.into(), true));

    sink.send(&event(1, Kind::End, 1, Cause::Shutdown));
    sink.close();
    until("the clean end", || {
        late.of(&format!("{PREFIX}/availability")).last().is_some_and(|(text, _)| text == "offline")
            && late.of(&format!("{PREFIX}/event")).len() == 1
    });
    assert!(late.of(&format!("{PREFIX}/state")).last().unwrap().0.contains(r#""label":"unknown""#));
    let ros = late.of(&format!("{PREFIX}/ros")).pop().unwrap().0;
    assert!(
        ros.ends_with(r#""expression":"unknown","valence":0.0,"arousal":0.0,"confidence":0.0}"#),
        "{ros}"
    );
    assert_eq!(sink.counts().dropped, 0);
}

/// An event of an episode, and its JSON without what follows.
fn of(kind: Kind, seq: u32, episode: u32) -> Message {
    match event(seq, kind, 1, Cause::None) {
        Message::Event(event) => Message::Event(mien::wire::Event { episode, ..event }),
        other => other,
    }
}

/// Kind and number of every event heard.
fn events(heard: &Heard) -> Vec<(String, u64)> {
    let texts = heard.of(&format!("{PREFIX}/event"));
    let line = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap();
    texts
        .iter()
        .map(|(text, _)| line(text))
        .map(|e| (e["event"].as_str().unwrap().into(), e["seq"].as_u64().unwrap()))
        .collect()
}

#[test]
fn a_broker_that_comes_late_gets_what_waited_and_one_that_returns_is_greeted_again() {
    let mut broker = Broker::new("allow_anonymous true\n");
    let mut sink = Mqtt::open(Settings { queue: 8, ..broker.settings() }, &setup()).unwrap();
    for episode in 0..6 {
        sink.send(&of(Kind::Begin, 3 * episode, 3 * episode));
        sink.send(&of(Kind::Change, 3 * episode + 1, 3 * episode));
        sink.send(&of(Kind::End, 3 * episode + 2, 3 * episode));
    }
    until("the loss to be counted", || sink.counts().losses == 1);
    let counts = sink.counts();
    assert_eq!((counts.sent, counts.dropped + counts.waiting), (0, 18));

    broker.start();
    let heard = broker.listen(&broker.settings());
    tick(&mut sink, "all that waited", || events(&heard).len() as u64 == counts.waiting);
    let numbers: Vec<u64> = events(&heard).into_iter().map(|(_, seq)| seq).collect();
    assert!(numbers.is_sorted() && numbers.contains(&17), "{numbers:?}");
    for begin in events(&heard).iter().filter(|(kind, _)| kind == "begin") {
        assert!(events(&heard).contains(&("end".into(), begin.1 + 2)), "{:?}", events(&heard));
    }
    tick(&mut sink, "the broker's word for all", || true);
    until("every receipt", || {
        sink.tick();
        sink.counts().sent == counts.waiting
    });

    broker.stop();
    // A loss within seconds of the recovery is the same outage.
    std::thread::sleep(Duration::from_millis(300));
    broker.start();
    let heard = broker.listen(&broker.settings());
    tick(&mut sink, "the greeting", || {
        !heard.of(&format!("{PREFIX}/availability")).is_empty()
            && !heard.of(&format!("{PREFIX}/state")).is_empty()
    });
    sink.close();
}

#[test]
fn events_that_wait_survive_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Setup { state_dir: folder.path().into(), ..setup() };
    let mut broker = Broker::new("allow_anonymous true\n");
    let mut sink = Mqtt::open(broker.settings(), &kept).unwrap();
    for message in [of(Kind::Begin, 1, 1), of(Kind::End, 2, 1), of(Kind::Begin, 3, 3)] {
        sink.send(&message);
    }
    // As SIGKILL leaves it.
    drop(sink);

    let mut sink = Mqtt::open(broker.settings(), &kept).unwrap();
    assert_eq!(sink.left().unwrap().begin.episode, 3);
    sink.send(&of(Kind::End, 9, 3));
    broker.start();
    let heard = broker.listen(&broker.settings());
    tick(&mut sink, "everything", || events(&heard).len() == 4);
    let told: Vec<(String, u64)> = [("begin", 1), ("end", 2), ("begin", 3), ("end", 9)]
        .map(|(kind, seq)| (kind.to_string(), seq))
        .into();
    assert_eq!(events(&heard), told);
    until("every receipt", || {
        sink.tick();
        sink.counts().sent == 4
    });
    drop(sink);
    let again = Mqtt::open(broker.settings(), &kept).unwrap();
    assert!(again.left().is_none() && again.counts().waiting == 0);
}

#[test]
fn a_frozen_process_does_not_take_its_successor_offline() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let wire = Wire::to(broker.port);
    let mut frozen = Mqtt::open(Settings { port: wire.port, ..broker.settings() }, &setup()).unwrap();
    let availability = || heard.of(&format!("{PREFIX}/availability"));
    tick(&mut frozen, "online", || availability().last().is_some_and(|(text, _)| text == "online"));

    // A power cut: the first process says nothing any more, and the second comes before the broker has noticed.
    let mut next = Mqtt::open(broker.settings(), &setup()).unwrap();
    let before = availability().len();
    tick(&mut next, "online of the successor", || {
        availability().len() > before && availability().last().is_some_and(|(text, _)| text == "online")
    });
    wire.cut();
    let start = std::time::Instant::now();
    // The will of the first would come after one and a half keep-alives (7.5 s) at the latest.
    while start.elapsed() < Duration::from_secs(9) {
        next.tick();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(availability().last().unwrap().0, "online", "{:?}", availability());
    next.close();
    drop(frozen);
}

#[test]
fn online_is_repeated_with_every_health() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let mut sink = Mqtt::open(Settings { health_s: 1, ..broker.settings() }, &setup()).unwrap();
    let online =
        || heard.of(&format!("{PREFIX}/availability")).iter().filter(|(text, _)| text == "online").count();
    until("online three times", || {
        sink.send(&Message::Heartbeat(Heartbeat::default()));
        std::thread::sleep(Duration::from_millis(50));
        online() >= 3
    });
    sink.close();
}

#[test]
fn two_machines_of_one_name_are_noticed() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let mut first = Mqtt::open(broker.settings(), &setup()).unwrap();
    let availability = || heard.of(&format!("{PREFIX}/availability"));
    tick(&mut first, "online", || !availability().is_empty());

    let other =
        mien::sink::Speaker { machine: "ffffffffffffffff".into(), boot: 77, ..(*setup().speaker).clone() };
    let twin = Setup { speaker: Arc::new(other), ..setup() };
    let refused = format!("{:#}", broker.settings().probe(&twin).unwrap_err());
    assert!(
        refused.contains("another machine (00112233445566aa") && refused.contains("`device`"),
        "{refused}"
    );
    broker.settings().probe(&setup()).unwrap();

    let mut second = Mqtt::open(broker.settings(), &twin).unwrap();
    second.send(&begin(0));
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        second.tick();
        first.tick();
        std::thread::sleep(Duration::from_millis(20));
    }
    second.close();
    assert_eq!(second.counts().sent, 0);
    assert_eq!(availability().iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), ["online"]);
    assert_eq!(heard.of(&format!("{PREFIX}/hello")).len(), 1);

    // When the first is gone, the name is free.
    first.close();
    broker.settings().probe(&twin).unwrap();
    let mut third = Mqtt::open(broker.settings(), &twin).unwrap();
    third.send(&begin(0));
    tick(&mut third, "the event", || heard.of(&format!("{PREFIX}/event")).len() == 1);
    third.close();
}

/// A server that answers CONNECT and closes; counts connections.
#[test]
fn a_broker_that_accepts_and_closes_is_asked_ever_more_rarely() {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connects = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&connects);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read(&mut [0; 256]);
            let _ = stream.write_all(&[0x20, 2, 0, 0]);
        }
    });
    let mut sink =
        Mqtt::open(Settings { host: "127.0.0.1".into(), port, ..Settings::default() }, &setup()).unwrap();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        sink.tick();
        std::thread::sleep(Duration::from_millis(10));
    }
    let connects = connects.load(Ordering::Relaxed);
    assert!((3..=7).contains(&connects), "{connects} connections in 6 s");
    assert_eq!(sink.counts().losses, 1, "one outage");
    sink.close();
}

#[test]
fn a_broker_that_is_not_there_is_named_when_it_is_tried() {
    let nobody = Settings { host: "127.0.0.1".into(), port: 1, ..Settings::default() };
    let refused = format!("{:#}", nobody.probe(&setup()).unwrap_err());
    assert!(refused.contains("127.0.0.1:1"), "{refused}");
    let unknown = Settings { host: "no-such-broker.invalid".into(), ..Settings::default() };
    let refused = format!("{:#}", unknown.probe(&setup()).unwrap_err());
    assert!(refused.contains("no-such-broker.invalid"), "{refused}");
}

#[test]
fn the_last_will_speaks_for_a_daemon_that_died() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let wire = Wire::to(broker.port);
    let mut sink = Mqtt::open(Settings { port: wire.port, ..broker.settings() }, &setup()).unwrap();
    tick(&mut sink, "online", || !heard.of(&format!("{PREFIX}/availability")).is_empty());
    wire.cut();
    until("the last will", || {
        heard.of(&format!("{PREFIX}/availability")).last().is_some_and(|(text, _)| text == "offline")
    });
    sink.close();
}

/// A network between a client and the broker that can be cut.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(broker: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire { port: listener.local_addr().unwrap().port(), cut: Arc::default() };
        let cut = Arc::clone(&wire.cut);
        std::thread::spawn(move || {
            let near = listener.accept().unwrap().0;
            drop(listener);
            let far = TcpStream::connect(("127.0.0.1", broker)).unwrap();
            for (mut from, mut to) in [
                (near.try_clone().unwrap(), far.try_clone().unwrap()),
                (far.try_clone().unwrap(), near.try_clone().unwrap()),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
            while !cut.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            for end in [near, far] {
                let _ = end.shutdown(Shutdown::Both);
            }
        });
        wire
    }
    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

fn openssl(folder: &Path, args: &str) {
    let done = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("no openssl ({error}): tools/setup installs it"));
    assert!(done.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn tls_with_password_and_client_certificate() {
    let mut broker = Broker::new(
        "allow_anonymous false\npassword_file DIR/users\ncafile DIR/ca.pem\ncertfile DIR/server.pem\n\
         keyfile DIR/server.key\nrequire_certificate true\n",
    );
    let folder = broker.folder.path().to_path_buf();
    fs::write(folder.join("san.cnf"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    let fresh = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        &folder,
        &format!("req -x509 {fresh} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority"),
    );
    for name in ["server", "client"] {
        openssl(&folder, &format!("req {fresh} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            &folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 \
                 -extfile san.cnf"
            ),
        );
    }
    fs::write(folder.join("users"), "kiosk:correct horse\n").unwrap();
    let hashed = Command::new("mosquitto_passwd").arg("-U").arg(folder.join("users")).status();
    let hashed =
        hashed.unwrap_or_else(|error| panic!("no mosquitto_passwd ({error}): tools/setup installs it"));
    assert!(hashed.success());
    fs::write(folder.join("password"), "correct horse\n").unwrap();
    fs::write(folder.join("wrong"), "battery staple\n").unwrap();
    broker.start();

    let good = Settings {
        user: "kiosk".into(),
        password_file: broker.path("password"),
        tls: true,
        ca: broker.path("ca.pem"),
        client_cert: broker.path("client.pem"),
        client_key: broker.path("client.key"),
        ..broker.settings()
    };
    good.check().unwrap();
    let heard = broker.listen(&good);
    let mut sink = Mqtt::open(good.clone(), &setup()).unwrap();
    sink.send(&begin(0));
    tick(&mut sink, "an event over TLS", || heard.of(&format!("{PREFIX}/event")).len() == 1);
    sink.close();

    for bad in [
        Settings { password_file: broker.path("wrong"), ..good.clone() },
        Settings { client_cert: PathBuf::new(), client_key: PathBuf::new(), ..good.clone() },
        Settings {
            tls: false,
            ca: PathBuf::new(),
            client_cert: PathBuf::new(),
            client_key: PathBuf::new(),
            ..good.clone()
        },
    ] {
        let mut sink = Mqtt::open(bad, &setup()).unwrap();
        sink.send(&begin(9));
        until("the refusal", || sink.counts().losses == 1);
        sink.tick();
        assert_eq!(sink.counts().sent, 0);
        sink.close();
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(heard.of(&format!("{PREFIX}/event")).len(), 1);
}

#[test]
fn watch_prints_what_a_broker_carries() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let mut sink = Mqtt::open(Settings { payload: Payload::Both, ..broker.settings() }, &setup()).unwrap();
    tick(&mut sink, "the connection", || TcpStream::connect(("127.0.0.1", broker.port)).is_ok());
    let mut watch = Command::new(env!("CARGO_BIN_EXE_mien"))
        .args(["watch", &format!("mqtt://127.0.0.1:{}/{PREFIX}", broker.port)])
        .args(["--count", "3", "--seconds", "60", "--json", "--strict"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seq = 0;
    until("watch to have seen enough", || {
        sink.send(&begin(seq));
        seq += 1;
        std::thread::sleep(Duration::from_millis(100));
        watch.try_wait().unwrap().is_some()
    });
    let output = watch.wait_with_output().unwrap();
    let (said, counted) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}\n{counted}");
    assert_eq!(said.matches(r#""type":"event""#).count(), 3, "{said}");
    assert!(said.contains(r#""type":"hello""#) && counted.contains("events=3"), "{said}\n{counted}");

    let refused = Command::new(env!("CARGO_BIN_EXE_mien"))
        .args(["watch", "mqtt://127.0.0.1:1/x", "--seconds", "20"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("127.0.0.1:1"), "{refused:?}");
    sink.close();
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let settings = Settings {
        host: "localhost".into(),
        user: "kiosk".into(),
        password_file: "/nowhere/password".into(),
        ..Default::default()
    };
    let error = format!("{:#}", Mqtt::open(settings, &setup()).err().unwrap());
    assert!(error.contains("/nowhere/password") && error.contains("sink.mqtt.password_file"), "{error}");
}
