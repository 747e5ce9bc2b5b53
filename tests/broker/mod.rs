//! A real mosquitto for a test, and a client that listens.

#![cfg(feature = "mqtt")]

use super::{begin, event, speaker, until};
use mien::sink::{
    Message, Sink,
    mqtt::{Mqtt, Payload, Settings},
};
use mien::wire::{Cause, Decoder, Heartbeat, Kind};
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
        let mut options: MqttOptions = settings.options("listener").unwrap();
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
    let mut sink = Mqtt::new(Settings { payload: Payload::Both, ..broker.settings() }, speaker()).unwrap();
    sink.send(&begin(0));
    sink.send(&Message::Heartbeat(Heartbeat::default()));
    tick(&mut sink, "the event, as JSON and compact", || {
        early.of(&format!("{PREFIX}/event")).len() == 1
            && early.of(&format!("{PREFIX}/event/compact")).len() == 1
            && early.of(&format!("{PREFIX}/state")).len() == 1
            && early.of(&format!("{PREFIX}/health")).len() == 1
    });
    let compact = early.0.lock().unwrap().iter().find(|(t, ..)| t.ends_with("compact")).unwrap().1.clone();
    let mut decoder = Decoder::new();
    for byte in compact {
        let _ = decoder.feed(byte);
    }
    assert_eq!(decoder.counts().packets, 1);

    let late = broker.listen(&broker.settings());
    until("the retained topics", || {
        ["availability", "hello", "state", "health"]
            .iter()
            .all(|topic| late.of(&format!("{PREFIX}/{topic}")).len() == 1)
    });
    assert_eq!(late.of(&format!("{PREFIX}/availability")), [("online".into(), true)]);
    let (state, retained) = late.of(&format!("{PREFIX}/state")).remove(0);
    assert!(
        retained && state.contains(r#""label":"fear""#) && state.contains(r#""expression":"scared""#),
        "{state}"
    );
    assert_eq!(late.of(&format!("{PREFIX}/event")), [], "an event must not be retained");

    sink.send(&event(1, Kind::End, 1, Cause::Shutdown));
    sink.close();
    until("the clean end", || {
        late.of(&format!("{PREFIX}/availability")).last().is_some_and(|(text, _)| text == "offline")
            && late.of(&format!("{PREFIX}/event")).len() == 1
    });
    assert!(late.of(&format!("{PREFIX}/state")).last().unwrap().0.contains(r#""label":"unknown""#));
    assert_eq!(sink.counts().dropped, 0);
}

#[test]
fn a_broker_that_comes_late_gets_what_waited_and_one_that_returns_is_greeted_again() {
    let mut broker = Broker::new("allow_anonymous true\n");
    let mut sink = Mqtt::new(Settings { queue: 4, ..broker.settings() }, speaker()).unwrap();
    for seq in 0..6 {
        sink.send(&begin(seq));
    }
    until("the loss to be counted", || sink.counts().losses == 1);
    assert_eq!(sink.counts().dropped, 2, "the oldest are dropped");

    broker.start();
    let heard = broker.listen(&broker.settings());
    tick(&mut sink, "what waited", || !heard.of(&format!("{PREFIX}/event")).is_empty());
    tick(&mut sink, "all of it", || heard.of(&format!("{PREFIX}/event")).len() == 4);
    assert!(heard.of(&format!("{PREFIX}/event"))[0].0.contains(r#""seq":2"#));

    broker.stop();
    until("the second loss", || sink.counts().losses == 2);
    broker.start();
    let heard = broker.listen(&broker.settings());
    tick(&mut sink, "the greeting", || {
        !heard.of(&format!("{PREFIX}/availability")).is_empty()
            && !heard.of(&format!("{PREFIX}/state")).is_empty()
    });
    sink.close();
}

#[test]
fn the_last_will_speaks_for_a_daemon_that_died() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let wire = Wire::to(broker.port);
    let mut sink = Mqtt::new(Settings { port: wire.port, ..broker.settings() }, speaker()).unwrap();
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
    let mut sink = Mqtt::new(good.clone(), speaker()).unwrap();
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
        let mut sink = Mqtt::new(bad, speaker()).unwrap();
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
    let mut sink = Mqtt::new(Settings { payload: Payload::Both, ..broker.settings() }, speaker()).unwrap();
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
    let error = format!("{:#}", Mqtt::new(settings, speaker()).err().unwrap());
    assert!(error.contains("/nowhere/password") && error.contains("sink.mqtt.password_file"), "{error}");
}
