//! MQTT 3.1.1: events for whoever listens, state for whoever comes later.
//!
//! | topic under `prefix` | retained | payload |
//! |---|---|---|
//! | `availability` | yes | `online`, again with every `health`; `offline` as last will and on a clean stop |
//! | `hello` | yes | JSON: which device and machine, and the labels |
//! | `state` | yes | JSON, what holds now |
//! | `health` | yes | JSON, the latest heartbeat |
//! | `event` | no | JSON |
//! | `event/compact` | no | the packet of `wire`, as on a serial line |
//! | `reason` | no | JSON |
//! | `ros` | yes | JSON, what holds now as `hri_msgs/Expression` (`board/ros`), where asked for |
//! | `DISCOVERY/device/mien_ID/config` | yes | JSON for Home Assistant (`discovery`), again whenever it says on `DISCOVERY/status` that it is born |
//!
//! Everything goes out with QoS 1, and a message counts as sent when the broker has confirmed it. Events and reasons wait in an
//! `outbox`, on disk where there is a `state_dir`. The client id is that of the machine and the device's name, so that a broker
//! ends the session of an earlier process instead of sending its will later.
//!
//! Two devices of one name would mark each other offline. Before the first publication of a connection the retained `hello` and
//! `availability` are read: if another machine speaks there and is online, this sink leaves and says what to do. Besides, only Home
//! Assistant's birth is subscribed to; nothing that a broker sends changes what the daemon does.
//! Limits: `queue` messages wait; retained topics keep only their latest.

mod discovery;
mod link;
mod outbox;
mod settings;

pub use link::{Link, Listener, Progress, Publication, options};
pub use settings::{Payload, Settings};

use super::{
    Message, Setup, Sink, SinkCounts, Speaker,
    json::{self, Line, Ros, State},
    ledger::Told,
};
use crate::{
    machine,
    wire::{self, LINE_BYTES_MAX},
};
use anyhow::{Context, Result, bail};
use link::{Receipt, Subscription, Will};
use outbox::Outbox;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

const CLOSE_WAIT: Duration = Duration::from_millis(1_500);
/// How long `check-config` waits for a broker.
const PROBE_WAIT: Duration = Duration::from_secs(5);
/// How long retained topics may take after the broker has agreed to send them.
const MEET_WAIT: Duration = Duration::from_millis(500);
/// All devices answer a birth of Home Assistant within this.
const BIRTH_MS_MAX: u64 = 2_000;
/// Publications that a broker has not confirmed yet, at most.
const IN_FLIGHT_MAX: usize = 8;

pub struct Mqtt {
    settings: Settings,
    prefix: String,
    speaker: Arc<Speaker>,
    link: Link,
    outbox: Outbox,
    /// Receipts of the entries at the front of the outbox, one or two each.
    in_flight: VecDeque<Vec<Receipt>>,
    meeting: Meeting,
    generation: u32,
    state: State,
    /// `None` before the first event, and where nobody asked for it.
    ros: Option<Ros>,
    health: Option<Vec<u8>>,
    health_at: Instant,
    /// Retained topics that the broker has not been given yet.
    greet: Greeting,
    /// Who is there, as its retained topic says it.
    people: Option<String>,
    /// What each face shows, likewise.
    faces: Option<String>,
    /// What is shown beside the label that holds, likewise.
    second: Option<String>,
    /// Home Assistant's births are listened to on this connection.
    births_asked: bool,
    /// Home Assistant was born: it is told of this device again then.
    told_again_at: Option<Instant>,
    seq: u16,
    confirmed: u64,
}

#[derive(Clone, Copy, Default)]
struct Greeting {
    online: bool,
    hello: bool,
    state: bool,
    ros: bool,
    people: bool,
    faces: bool,
    second: bool,
    device: bool,
}

impl Greeting {
    const ALL: Greeting = Greeting {
        online: true,
        hello: true,
        state: true,
        ros: true,
        people: true,
        faces: true,
        second: true,
        device: true,
    };
}

/// Finding out whether another machine speaks under this name.
enum Meeting {
    /// No connection yet, or a new one that was not asked.
    Due,
    Asked {
        subscription: Subscription,
        granted_at: Option<Instant>,
        other: Option<Box<json::Hello>>,
        online: bool,
    },
    Done,
    /// Another machine has the name: nothing is published.
    Taken,
}

impl Mqtt {
    /// Fails on files that cannot be read; never on a broker that does not answer.
    pub fn open(settings: Settings, setup: &Setup) -> Result<Mqtt> {
        let speaker = Arc::clone(&setup.speaker);
        let prefix = settings.prefix(&speaker.device);
        let will = Will { topic: format!("{prefix}/availability"), payload: "offline" };
        let options = link::options(&settings, &format!("mien-{}", settings.id(&speaker)), Some(will))?;
        let outbox_path = match setup.state_dir.as_os_str().is_empty() {
            true => setup.state_dir.clone(),
            false => setup.state_dir.join("mqtt.jsonl"),
        };
        Ok(Mqtt {
            link: Link::open(options, &settings.address(), speaker.boot)?,
            outbox: Outbox::open(outbox_path, settings.queue, speaker.boot),
            in_flight: VecDeque::with_capacity(IN_FLIGHT_MAX),
            state: State::first(&speaker),
            ros: None,
            settings,
            prefix,
            speaker,
            meeting: Meeting::Due,
            generation: 0,
            health: None,
            health_at: Instant::now(),
            greet: Greeting::default(),
            people: None,
            faces: None,
            second: None,
            births_asked: false,
            told_again_at: None,
            seq: 0,
            confirmed: 0,
        })
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn publish(&self, name: &str, payload: Vec<u8>, retain: bool) -> Option<Receipt> {
        self.link.publish(self.topic(name), payload, retain)
    }

    /// Moves everything that can move now.
    fn advance(&mut self) {
        if !self.link.is_up() || matches!(self.meeting, Meeting::Taken) {
            return;
        }
        let generation = self.link.generation();
        if generation != self.generation {
            self.generation = generation;
            self.meeting = Meeting::Due;
            self.greet = Greeting::ALL;
            self.births_asked = false;
            self.health_at = Instant::now();
        }
        if !self.meet() {
            return;
        }
        if self.greet.hello {
            self.greet.hello =
                self.publish("hello", Line::hello(&self.speaker).text().into(), true).is_none();
        }
        self.discover();
        self.confirm();
        self.send_waiting();
        self.send_retained();
    }

    /// Tells Home Assistant of this device: at every connection, and after its birth, a little later on each device.
    fn discover(&mut self) {
        if self.settings.discovery.is_empty() {
            return;
        }
        let status = format!("{}/status", self.settings.discovery);
        if !self.births_asked {
            self.births_asked = self.link.subscribe(std::slice::from_ref(&status)).is_some();
        }
        while let Some(publication) = self.link.next(Duration::ZERO) {
            if publication.topic == status && publication.payload == b"online" {
                let late_ms = machine::random().unwrap_or_default() % BIRTH_MS_MAX;
                self.told_again_at = Some(Instant::now() + Duration::from_millis(late_ms));
            }
        }
        if self.told_again_at.is_some_and(|at| Instant::now() >= at) {
            self.told_again_at = None;
            self.greet = Greeting { online: true, state: true, device: true, ..self.greet };
        }
        if self.greet.device {
            let (topic, said) = discovery::config(&self.settings, &self.prefix, &self.speaker);
            let topic = format!("{}/{topic}", self.settings.discovery);
            self.greet.device = self.link.publish(topic, said.to_string().into(), true).is_none();
        }
    }

    /// Whether it is known that no other machine speaks under this name.
    fn meet(&mut self) -> bool {
        let topics = [self.topic("hello"), self.topic("availability")];
        match &mut self.meeting {
            Meeting::Done => true,
            Meeting::Taken => false,
            Meeting::Due => {
                if let Some(subscription) = self.link.subscribe(&topics) {
                    self.meeting =
                        Meeting::Asked { subscription, granted_at: None, other: None, online: false };
                }
                false
            }
            Meeting::Asked { subscription, granted_at, other, online } => {
                while let Some(publication) = self.link.next(Duration::ZERO) {
                    note(&publication, &topics, other, online);
                }
                let Some(since) = *granted_at else {
                    match subscription.granted() {
                        Some(true) => *granted_at = Some(Instant::now()),
                        Some(false) => {
                            log::debug!(
                                "the broker does not let {} be read: twins are not noticed",
                                topics[0]
                            );
                            self.meeting = Meeting::Done;
                        }
                        None => {}
                    }
                    return false;
                };
                let twin = other.as_ref().filter(|other| is_twin(other, &self.speaker) && *online);
                if let Some(twin) = twin {
                    log::error!("{}", twin_text(&self.prefix, twin));
                    self.meeting = Meeting::Taken;
                    self.link.disconnect(CLOSE_WAIT);
                    return false;
                }
                if since.elapsed() < MEET_WAIT {
                    return false;
                }
                self.link.unsubscribe(&topics);
                self.meeting = Meeting::Done;
                true
            }
        }
    }

    /// Takes what the broker has confirmed out of the outbox.
    fn confirm(&mut self) {
        while let Some(receipts) = self.in_flight.front_mut() {
            let progress: Vec<Progress> = receipts.iter_mut().map(Receipt::progress).collect();
            if progress.contains(&Progress::GivenBack) {
                // Whatever came after it was given back as well, and goes out again in order.
                self.in_flight.clear();
                return;
            }
            if progress.contains(&Progress::Pending) {
                return;
            }
            self.in_flight.pop_front();
            self.outbox.confirm();
            self.confirmed += 1;
        }
    }

    fn send_waiting(&mut self) {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(entry) = self.outbox.get(self.in_flight.len()) else { return };
            let (text, event) = (entry.text.clone(), entry.event);
            let mut receipts = Vec::with_capacity(2);
            if let Some(event) = event.filter(|_| self.settings.payload != Payload::Json) {
                let Some(receipt) = self.publish("event/compact", self.packet(event), false) else { return };
                receipts.push(receipt);
                self.seq = self.seq.wrapping_add(1);
            }
            if event.is_none() || self.settings.payload != Payload::Compact {
                let topic = if event.is_some() { "event" } else { "reason" };
                match self.publish(topic, text.into(), false) {
                    Some(receipt) => receipts.push(receipt),
                    None if receipts.is_empty() => return,
                    None => {}
                }
            }
            self.in_flight.push_back(receipts);
        }
    }

    fn packet(&self, event: wire::Event) -> Vec<u8> {
        let mut packet = [0u8; LINE_BYTES_MAX];
        let len = wire::encode(&wire::Message::Event(event), self.seq, &mut packet)
            .expect("an event is far shorter than a packet");
        packet[..len].to_vec()
    }

    fn send_retained(&mut self) {
        if self.greet.state && self.outbox.len() == self.in_flight.len() {
            let state = Line::State(self.state.clone()).text().into();
            self.greet.state = self.publish("state", state, true).is_none();
        }
        if self.greet.ros
            && let Some(ros) = &self.ros
        {
            self.greet.ros = self.publish("ros", ros.text().into(), true).is_none();
        }
        if self.greet.people
            && let Some(people) = &self.people
        {
            self.greet.people = self.publish("people", people.clone().into(), true).is_none();
        }
        if self.greet.faces
            && let Some(faces) = &self.faces
        {
            self.greet.faces = self.publish("faces", faces.clone().into(), true).is_none();
        }
        if self.greet.second
            && let Some(second) = &self.second
        {
            self.greet.second = self.publish("second", second.clone().into(), true).is_none();
        }
        if self.greet.online {
            self.greet.online = self.publish("availability", b"online".to_vec(), true).is_none();
        }
        if Instant::now() >= self.health_at
            && let Some(health) = self.health.take()
            && self.publish("health", health, true).is_some()
        {
            self.health_at = Instant::now() + Duration::from_secs(u64::from(self.settings.health_s));
            self.greet.online = true;
        }
    }
}

impl Sink for Mqtt {
    fn name(&self) -> &'static str {
        "mqtt"
    }

    fn left(&self) -> Option<&Told> {
        self.outbox.left()
    }

    fn send(&mut self, message: &Message) {
        match message {
            Message::Event(event) => {
                let text = Line::of(message, &self.speaker).text();
                self.outbox.put(text, Some(*event), self.in_flight.len());
                self.state = State::after(event, &self.speaker);
                self.ros = self.settings.ros.then(|| Ros::after(event, &self.speaker));
                (self.greet.state, self.greet.ros) = (true, true);
            }
            Message::Reason(_) if self.settings.reasons => {
                let text = Line::of(message, &self.speaker).text();
                self.outbox.put(text, None, self.in_flight.len());
            }
            Message::Heartbeat(_) => self.health = Some(Line::of(message, &self.speaker).text().into()),
            Message::People(_) => {
                self.people = Some(Line::of(message, &self.speaker).text());
                self.greet.people = true;
            }
            Message::Faces(_) => {
                self.faces = Some(Line::of(message, &self.speaker).text());
                self.greet.faces = true;
            }
            Message::Second(_) => {
                self.second = Some(Line::of(message, &self.speaker).text());
                self.greet.second = true;
            }
            Message::Reason(_) | Message::Scores(_) => {}
        }
        self.advance();
    }

    fn tick(&mut self) {
        self.advance();
    }

    fn counts(&self) -> SinkCounts {
        SinkCounts {
            sent: self.confirmed,
            dropped: self.outbox.dropped(),
            losses: self.link.losses(),
            waiting: self.outbox.len() as u64,
        }
    }

    fn close(&mut self) {
        let deadline = Instant::now() + CLOSE_WAIT;
        let mut goodbye = None;
        while self.link.is_up() && !matches!(self.meeting, Meeting::Taken) && Instant::now() < deadline {
            self.advance();
            if goodbye.is_none() && self.outbox.is_empty() && !self.greet.state {
                goodbye = self.publish("availability", b"offline".to_vec(), true);
            }
            if goodbye.as_mut().is_some_and(|receipt| receipt.progress() != Progress::Pending) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if !self.outbox.is_empty() {
            let kept = if self.outbox.in_memory() { "lost" } else { "kept for the next start" };
            log::warn!("{} messages for the broker are {kept}", self.outbox.len());
        }
        self.link
            .disconnect(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100)));
    }
}

fn note(
    publication: &Publication,
    topics: &[String; 2],
    other: &mut Option<Box<json::Hello>>,
    online: &mut bool,
) {
    if publication.topic == topics[1] {
        *online = publication.payload == b"online";
    } else if publication.topic == topics[0]
        && let Ok(Line::Hello(hello)) = serde_json::from_slice(&publication.payload)
    {
        *other = Some(Box::new(hello));
    }
}

fn is_twin(hello: &json::Hello, speaker: &Speaker) -> bool {
    hello.machine.as_ref().is_some_and(|machine| *machine != speaker.machine)
}

fn twin_text(prefix: &str, twin: &json::Hello) -> String {
    format!(
        "another machine ({}, device {:?}) is online under the topic {prefix}: nothing is published. Give one of the two another \
         name (`device`) or another sink.mqtt.prefix; if that machine is gone for good, clear its retained topic: \
         mosquitto_pub -r -n -t {prefix}/availability",
        twin.machine.as_deref().unwrap_or_default(),
        twin.device
    )
}

impl Settings {
    /// Connects once, and refuses a broker that is not there, refuses us, or knows another machine by our name.
    pub fn probe(&self, setup: &Setup) -> Result<()> {
        let prefix = self.prefix(&setup.speaker.device);
        let topics = [format!("{prefix}/hello"), format!("{prefix}/availability")];
        let id = format!("mien-check-{:08x}", machine::random()? as u32);
        let seen = link::try_once(self, &id, PROBE_WAIT, &topics).context("trying the broker")?;
        let (mut other, mut online) = (None::<Box<json::Hello>>, false);
        seen.iter().for_each(|publication| note(publication, &topics, &mut other, &mut online));
        match other.filter(|other| online && is_twin(other, &setup.speaker)) {
            Some(twin) => bail!("{}", twin_text(&prefix, &twin)),
            None => Ok(()),
        }
    }

    pub fn open(&self, setup: &Setup) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Mqtt::open(self.clone(), setup)?))
    }
}
