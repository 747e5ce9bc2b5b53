//! MQTT 3.1.1: events for whoever listens, state for whoever comes later. The only file that names the client crate.
//!
//! | topic under `prefix` | retained | payload |
//! |---|---|---|
//! | `availability` | yes | `online`, or `offline` as last will and on a clean stop |
//! | `hello` | yes | JSON, who speaks and the labels |
//! | `state` | yes | JSON, what holds now |
//! | `health` | yes | JSON, the latest heartbeat |
//! | `event` | no | JSON |
//! | `event/compact` | no | the packet of `wire`, as on a serial line |
//! | `reason` | no | JSON |
//!
//! Everything goes out with QoS 1. Nothing is subscribed to: no message from a broker can change what the daemon does.
//! A broker that is absent, also at the start, is tried again with growing pauses; events wait meanwhile.
//! Limits: `queue` events wait, then the oldest are dropped and counted; retained topics keep only their latest.

use super::{
    Counts, Message, Sink, Speaker,
    json::{Line, State},
};
use crate::wire::{self, LINE_BYTES_MAX};
use anyhow::{Context, Result, ensure};
use rumqttc::{
    Broker, Client, Connection, ConnectionError, Event, LastWill, MqttOptions, Outgoing, Packet,
    PublishOptions, QoS, TlsConfiguration, Transport,
};
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);
const CLOSE_WAIT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    Json,
    Compact,
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub enabled: bool,
    pub host: String,
    /// 0: 8883 with TLS, 1883 without.
    pub port: u16,
    /// Without slash at either end; empty: `mien/` and the device's name.
    pub prefix: String,
    pub user: String,
    /// A file with the password on its first line.
    pub password_file: PathBuf,
    pub tls: bool,
    /// PEM; empty: the machine's own roots.
    pub ca: PathBuf,
    /// PEM, both or neither.
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    pub payload: Payload,
    pub keep_alive_s: u16,
    /// Between two retained heartbeats.
    pub health_s: u32,
    /// Events that wait for a broker.
    pub queue: usize,
    pub reasons: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            host: String::new(),
            port: 0,
            prefix: String::new(),
            user: String::new(),
            password_file: PathBuf::new(),
            tls: false,
            ca: PathBuf::new(),
            client_cert: PathBuf::new(),
            client_key: PathBuf::new(),
            payload: Payload::Json,
            keep_alive_s: 15,
            health_s: 10,
            queue: 64,
            reasons: true,
        }
    }
}

impl Settings {
    pub fn check(&self) -> Result<()> {
        ensure!(!self.host.is_empty(), "sink.mqtt.host is not set: name the broker");
        ensure!(
            !self.prefix.contains(['#', '+', '\0'])
                && !self.prefix.starts_with('/')
                && !self.prefix.ends_with('/'),
            "sink.mqtt.prefix = {:?}: a topic without wildcards and without a slash at either end",
            self.prefix
        );
        ensure!((1..=4096).contains(&self.queue), "sink.mqtt.queue = {}: from 1 to 4096", self.queue);
        ensure!(
            (5..=3600).contains(&self.keep_alive_s),
            "sink.mqtt.keep_alive_s = {}: from 5 to 3600",
            self.keep_alive_s
        );
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        ensure!(
            set(&self.client_cert) == set(&self.client_key),
            "sink.mqtt.client_cert and sink.mqtt.client_key belong together: set both or neither"
        );
        ensure!(
            self.tls || !(set(&self.ca) || set(&self.client_cert)),
            "sink.mqtt.tls is off, and yet ca or client_cert is set: set sink.mqtt.tls = true"
        );
        ensure!(
            !set(&self.client_cert) || set(&self.ca),
            "sink.mqtt.client_cert needs sink.mqtt.ca: name the authority that signed the broker's certificate"
        );
        ensure!(
            !set(&self.password_file) || !self.user.is_empty(),
            "sink.mqtt.password_file is set and sink.mqtt.user is not"
        );
        Ok(())
    }

    pub fn port(&self) -> u16 {
        match (self.port, self.tls) {
            (0, true) => 8883,
            (0, false) => 1883,
            (port, _) => port,
        }
    }

    /// What the client crate needs, with the files read. An error names the file.
    pub fn options(&self, client_id: &str) -> Result<MqttOptions> {
        let mut options = MqttOptions::new(client_id, Broker::tcp(self.host.clone(), self.port()));
        options.set_keep_alive(self.keep_alive_s);
        if self.password_file.as_os_str().is_empty() {
            if !self.user.is_empty() {
                options.set_username(self.user.clone());
            }
        } else {
            let text = read(&self.password_file, "password_file")?;
            let password = text.split(|&byte| byte == b'\n' || byte == b'\r').next().unwrap_or_default();
            options.set_credentials(self.user.clone(), password.to_vec());
        }
        if self.tls {
            let tls = if self.ca.as_os_str().is_empty() {
                TlsConfiguration::try_default_rustls()
                    .map_err(|error| anyhow::anyhow!("{error:?}"))
                    .context("reading the machine's certificate authorities: install ca-certificates or set sink.mqtt.ca")?
            } else {
                let client_auth = match self.client_cert.as_os_str().is_empty() {
                    true => None,
                    false => {
                        Some((read(&self.client_cert, "client_cert")?, read(&self.client_key, "client_key")?))
                    }
                };
                TlsConfiguration::Simple { ca: read(&self.ca, "ca")?, alpn: None, client_auth }
            };
            options.set_transport(Transport::Tls(tls));
        }
        Ok(options)
    }
}

fn read(path: &PathBuf, key: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {} (sink.mqtt.{key})", path.display()))
}

/// What the thread that drives the connection tells the sink.
#[derive(Default)]
struct Link {
    up: AtomicBool,
    /// Counts connections.
    generation: AtomicU32,
    losses: AtomicU32,
    stop: AtomicBool,
}

pub struct Mqtt {
    settings: Settings,
    prefix: String,
    speaker: Arc<Speaker>,
    client: Client,
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
    generation: u32,
    waiting: VecDeque<(&'static str, Vec<u8>)>,
    state: State,
    health: Option<Vec<u8>>,
    health_at: Instant,
    /// Retained topics that the broker has not been given yet.
    greet: Greeting,
    seq: u16,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Greeting {
    online: bool,
    hello: bool,
    state: bool,
}

impl Mqtt {
    /// Fails on files that cannot be read; never on a broker that does not answer.
    pub fn new(settings: Settings, speaker: Arc<Speaker>) -> Result<Mqtt> {
        let prefix = match settings.prefix.is_empty() {
            true => format!("mien/{}", speaker.device.replace(['#', '+', '/', ' '], "-")),
            false => settings.prefix.clone(),
        };
        let client_id = format!("mien-{}-{:08x}", cut_id(&speaker.device), salt());
        let mut options = settings.options(&client_id)?;
        options.set_last_will(LastWill::new(
            format!("{prefix}/availability"),
            "offline",
            QoS::AtLeastOnce,
            true,
        ));
        let (client, connection) = Client::builder(options)
            .capacity(16)
            .try_build()
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .context("preparing the MQTT client")?;
        let link = Arc::new(Link::default());
        let broker = format!("{}:{}", settings.host, settings.port());
        let thread = std::thread::Builder::new()
            .name("mqtt-link".into())
            .spawn({
                let link = Arc::clone(&link);
                move || drive(connection, &link, &broker)
            })
            .context("starting the thread of the MQTT connection")?;
        Ok(Mqtt {
            waiting: VecDeque::with_capacity(settings.queue),
            state: State::first(&speaker),
            settings,
            prefix,
            speaker,
            client,
            link,
            thread: Some(thread),
            generation: 0,
            health: None,
            health_at: Instant::now(),
            greet: Greeting::default(),
            seq: 0,
            counts: Counts::default(),
        })
    }

    fn wait(&mut self, topic: &'static str, payload: Vec<u8>) {
        if self.waiting.len() == self.settings.queue {
            self.waiting.pop_front();
            self.counts.dropped += 1;
        }
        self.waiting.push_back((topic, payload));
    }

    fn publish(&self, topic: &str, payload: Vec<u8>, retain: bool) -> bool {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain);
        self.client.try_publish(format!("{}/{topic}", self.prefix), payload, options).is_ok()
    }

    /// Gives the connection what it takes now: first who we are, then the state, then what waited.
    fn flush(&mut self) {
        if !self.link.up.load(Ordering::Acquire) {
            return;
        }
        let generation = self.link.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.greet = Greeting { online: true, hello: true, state: true };
            self.health_at = Instant::now();
        }
        if self.greet.hello {
            self.greet.hello = !self.publish("hello", Line::hello(&self.speaker).text().into(), true);
        }
        while let Some((topic, payload)) = self.waiting.pop_front() {
            if !self.publish(topic, payload.clone(), false) {
                self.waiting.push_front((topic, payload));
                return;
            }
            self.counts.sent += 1;
        }
        if self.greet.state {
            self.greet.state = !self.publish("state", Line::State(self.state.clone()).text().into(), true);
        }
        if self.greet.online {
            self.greet.online = !self.publish("availability", b"online".to_vec(), true);
        }
        if Instant::now() >= self.health_at
            && let Some(health) = self.health.take()
            && self.publish("health", health, true)
        {
            self.health_at = Instant::now() + Duration::from_secs(u64::from(self.settings.health_s));
        }
    }

    fn compact(&mut self, event: wire::Event) {
        let mut packet = [0u8; LINE_BYTES_MAX];
        let len = wire::encode(&wire::Message::Event(event), self.seq, &mut packet)
            .expect("an event is far shorter than a packet");
        self.seq = self.seq.wrapping_add(1);
        self.wait("event/compact", packet[..len].to_vec());
    }
}

impl Sink for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn send(&mut self, message: &Message) {
        match message {
            Message::Event(event) => {
                if self.settings.payload != Payload::Compact {
                    self.wait("event", Line::of(message, &self.speaker).text().into());
                }
                if self.settings.payload != Payload::Json {
                    self.compact(*event);
                }
                self.state = State::after(event, &self.speaker);
                self.greet.state = true;
            }
            Message::Reason(_) if self.settings.reasons => {
                self.wait("reason", Line::of(message, &self.speaker).text().into());
            }
            Message::Heartbeat(_) => self.health = Some(Line::of(message, &self.speaker).text().into()),
            Message::Reason(_) | Message::Scores(_) => {}
        }
        self.flush();
    }

    fn tick(&mut self) {
        self.flush();
    }

    fn counts(&self) -> Counts {
        Counts { losses: u64::from(self.link.losses.load(Ordering::Relaxed)), ..self.counts }
    }

    fn close(&mut self) {
        let deadline = Instant::now() + CLOSE_WAIT;
        let mut told = false;
        while self.link.up.load(Ordering::Acquire) && Instant::now() < deadline {
            self.flush();
            if self.waiting.is_empty()
                && !self.greet.state
                && self.publish("availability", b"offline".to_vec(), true)
            {
                told = true;
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.counts.dropped += self.waiting.len() as u64;
        self.waiting.clear();
        self.link.stop.store(true, Ordering::Release);
        if told && self.client.try_disconnect_with_timeout(CLOSE_WAIT).is_ok() {
            let deadline = Instant::now() + CLOSE_WAIT;
            while self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let _ = thread.join();
        }
    }
}

/// The other side: a client that listens to topics, for `mien watch`.
pub struct Listener {
    publications: Receiver<Result<(String, Vec<u8>)>>,
    _client: Client,
}

impl Listener {
    /// Subscribes to a filter; comes back when the broker has agreed.
    pub fn open(settings: &Settings, filter: &str) -> Result<Listener> {
        let broker = format!("{}:{}", settings.host, settings.port());
        let options = settings.options(&format!("mien-watch-{:08x}", salt()))?;
        let (client, mut connection) = Client::builder(options)
            .capacity(16)
            .try_build()
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .context("preparing the MQTT client")?;
        client.subscribe(filter, QoS::AtLeastOnce).with_context(|| format!("subscribing to {filter}"))?;
        let (sender, publications) = std::sync::mpsc::sync_channel(64);
        std::thread::Builder::new()
            .name("mqtt-listen".into())
            .spawn(move || {
                while let Ok(event) = connection.recv() {
                    let said = match event {
                        Ok(Event::Incoming(Packet::Publish(publish))) => Ok((
                            String::from_utf8_lossy(&publish.topic).into_owned(),
                            publish.payload.to_vec(),
                        )),
                        Ok(_) => continue,
                        Err(error) => {
                            Err(anyhow::anyhow!("{}", plain(&error)).context(format!("the broker {broker}")))
                        }
                    };
                    let over = said.is_err();
                    if sender.send(said).is_err() || over {
                        break;
                    }
                }
            })
            .context("starting the thread that listens")?;
        Ok(Listener { publications, _client: client })
    }

    /// Topic and payload of the next publication, or `None` when nothing came in time.
    pub fn next(&self, wait: Duration) -> Result<Option<(String, Vec<u8>)>> {
        match self.publications.recv_timeout(wait) {
            Ok(said) => said.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the connection to the broker is over"),
        }
    }
}

/// Keeps the connection going until told to stop.
fn drive(mut connection: Connection, link: &Link, broker: &str) {
    let mut pause = RETRY_MIN;
    let mut said = false;
    while let Ok(event) = connection.recv() {
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                link.generation.fetch_add(1, Ordering::AcqRel);
                link.up.store(true, Ordering::Release);
                pause = RETRY_MIN;
                match std::mem::take(&mut said) {
                    true => log::warn!("broker is back broker={broker}"),
                    false => log::info!("connected broker={broker}"),
                }
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) => break,
            Ok(_) => {}
            Err(error) => {
                link.up.store(false, Ordering::Release);
                if link.stop.load(Ordering::Acquire) {
                    break;
                }
                if !said {
                    said = true;
                    link.losses.fetch_add(1, Ordering::Relaxed);
                    log::warn!("broker is away, trying again broker={broker}: {}", plain(&error));
                }
                let until = Instant::now() + pause;
                while Instant::now() < until && !link.stop.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
    link.up.store(false, Ordering::Release);
}

fn plain(error: &ConnectionError) -> String {
    use rumqttc::ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(Code::NotAuthorized | Code::BadUserNamePassword) => {
            "the broker refuses user or password (sink.mqtt.user, sink.mqtt.password_file)".into()
        }
        other => other.to_string(),
    }
}

/// Letters and digits of a name, few enough for any broker.
fn cut_id(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).take(8).collect()
}

/// Another one for each process, so that two daemons never fight over a client id.
fn salt() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}
