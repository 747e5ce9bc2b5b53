//! CAN bus, for cars and machines: what holds now and how the device is, as two classic frames of 8 bytes each.
//!
//! `board/can/mien.dbc` describes them. Integers are little-endian.
//!
//! | id | byte | field |
//! |---|---|---|
//! | `id` | 0 | label: index into the bundle's label set; 255 none |
//! | | 1 | confidence in steps of 0.5 % |
//! | | 2 | bits 0 and 1: video and audio in the window; 2 and 3: the site has them; 4: muted |
//! | | 3 | low half: kind of event (0: a heartbeat), high half: counter, one more with each frame |
//! | | 4 | cause of the event |
//! | | 5 | age of the event when it was made, in 100 ms |
//! | | 6, 7 | episode, modulo 65536 |
//! | `id + 1` | 0 | health of video (low half) and audio (high half) |
//! | | 1 | counter |
//! | | 2, 3 | windows scored, modulo 65536 |
//! | | 4, 5 | messages dropped, at most 65535 |
//! | | 6, 7 | time of the last window in the model, in 10 ms |
//!
//! The first goes out with each event and each heartbeat, the second with each heartbeat: a receiver that missed an event knows what
//! holds one heartbeat later. Reasons do not fit and are not sent.

mod bus;

pub use bus::{Bus, Frame, FrameKind};

use super::{Message, Setup, Sink, SinkCounts, ledger::Ledger, ledger::Told};
use crate::{
    kept::Kept,
    outage::{self, Change, Outage},
    wire::{Event, Health, Heartbeat, Kind, NO_LABEL},
};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

const RETRY: outage::Limits = outage::Limits {
    pause_min: Duration::from_millis(250),
    pause_max: Duration::from_secs(5),
    stable: Duration::from_secs(1),
};
/// Highest 11-bit id whose successor is one as well.
const ID_MAX: u32 = 0x7fe;

#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub enabled: bool,
    /// The network interface, set up by the system: `ip link set can0 up type can bitrate 500000`.
    pub interface: String,
    /// 11-bit id of the first frame; the second has the next.
    pub id: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { enabled: true, interface: "can0".into(), id: 0x5e0 }
    }
}

impl Settings {
    pub const PATHS: &[&str] = &[];

    pub fn check(&self) -> Result<()> {
        ensure!(!self.interface.is_empty(), "sink.can.interface is empty: name one, as can0");
        ensure!(self.id <= ID_MAX, "sink.can.id = {}: at most {ID_MAX} (0x7fe)", self.id);
        Ok(())
    }

    pub fn probe(&self, _: &Setup) -> Result<()> {
        Bus::open(&self.interface, None).map(drop)
    }

    pub fn open(&self, setup: &Setup) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Can::new(self.clone(), setup)))
    }
}

/// Makes the two frames. Pure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// What the last event said, while it holds.
    holds: Option<Event>,
    /// As the last heartbeat said.
    muted: bool,
    counter: u8,
}

impl Frames {
    /// The first frame, for an event.
    pub fn event(&mut self, event: &Event) -> [u8; 8] {
        match event.kind {
            Kind::Begin => self.holds = Some(*event),
            Kind::Change => {
                if let Some(holds) = &mut self.holds {
                    holds.confidence_permille = event.confidence_permille;
                }
            }
            Kind::End | Kind::Unknown | Kind::Other => self.holds = None,
        }
        let label = if matches!(event.kind, Kind::Begin | Kind::Change) { event.label } else { NO_LABEL };
        let kind = u8::from(event.kind);
        let age = (event.age_ms / 100).min(255) as u8;
        let modalities = event.present | event.expected << 2;
        self.state(
            label,
            event.confidence_permille,
            modalities,
            kind,
            u8::from(event.cause),
            age,
            event.episode,
        )
    }

    /// Both frames, for a heartbeat.
    pub fn beat(&mut self, beat: &Heartbeat) -> [[u8; 8]; 2] {
        self.muted = beat.muted == 1;
        let there = |health: Health| u8::from(health == Health::Ok);
        let expected = |health: Health| u8::from(health != Health::Off);
        let modalities = there(beat.video)
            | there(beat.audio) << 1
            | expected(beat.video) << 2
            | expected(beat.audio) << 3;
        let confidence = self.holds.map_or(0, |holds| holds.confidence_permille);
        let state = self.state(beat.label, confidence, modalities, 0, 0, 0, beat.episode);
        let [windows_low, windows_high] = (beat.windows as u16).to_le_bytes();
        let [dropped_low, dropped_high] = (beat.dropped.min(0xffff) as u16).to_le_bytes();
        let [model_low, model_high] = ((beat.infer_ms / 10).min(0xffff) as u16).to_le_bytes();
        let health = u8::from(beat.video) | u8::from(beat.audio) << 4;
        let health = [
            health,
            self.counter,
            windows_low,
            windows_high,
            dropped_low,
            dropped_high,
            model_low,
            model_high,
        ];
        [state, health]
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one frame in their order")]
    fn state(
        &mut self,
        label: u8,
        confidence_permille: u16,
        modalities: u8,
        kind: u8,
        cause: u8,
        age: u8,
        episode: u32,
    ) -> [u8; 8] {
        self.counter = self.counter.wrapping_add(1);
        let [low, high] = (episode as u16).to_le_bytes();
        let confidence = (confidence_permille / 5) as u8;
        let flags = modalities | u8::from(self.muted) << 4;
        [label, confidence, flags, kind | self.counter << 4, cause, age, low, high]
    }
}

struct Can {
    settings: Settings,
    bus: Option<Bus>,
    outage: Outage,
    frames: Frames,
    ledger: Ledger,
    counts: SinkCounts,
}

impl Can {
    /// Never fails: an interface that is not there yet is looked for again.
    fn new(settings: Settings, setup: &Setup) -> Can {
        let boot = setup.speaker.boot;
        let mut can = Can {
            settings,
            bus: None,
            outage: Outage::new(RETRY, boot),
            frames: Frames::default(),
            ledger: Ledger::new(Kept::new(&setup.state_dir, "can.json"), boot),
            counts: SinkCounts::default(),
        };
        can.attend();
        can
    }

    /// Opens the interface when it is time to, and sends what is owed.
    fn attend(&mut self) {
        let now = Instant::now();
        if self.bus.is_none() && self.outage.is_due(now) {
            match Bus::open(&self.settings.interface, None) {
                Ok(bus) => self.bus = Some(bus),
                Err(error) => self.lose(&error),
            }
        }
        while self.bus.is_some()
            && let Some(event) = self.ledger.due()
        {
            self.ledger.sending(&event);
            let bytes = self.frames.event(&event);
            if !self.put(self.settings.id, bytes) {
                self.counts.dropped += self.ledger.failed();
                return;
            }
            self.ledger.sent(&event);
        }
    }

    fn lose(&mut self, error: &anyhow::Error) {
        self.bus = None;
        if self.outage.fails(Instant::now()) == Some(Change::Lost) {
            log::warn!("CAN is away, trying again: {error:#}");
        }
        self.counts.losses = self.outage.losses();
    }

    /// Whether the bus took the frame.
    fn put(&mut self, id: u32, bytes: [u8; 8]) -> bool {
        let Some(bus) = &self.bus else { return false };
        match bus.put(&Frame::data(id, bytes)) {
            Ok(()) => {
                self.counts.sent += 1;
                if let Some(Change::Back(away)) = self.outage.works(Instant::now()) {
                    let interface = &self.settings.interface;
                    log::warn!("CAN is back interface={interface} away_s={}", away.as_secs());
                }
                true
            }
            Err(error) => {
                self.lose(&error);
                false
            }
        }
    }
}

impl Sink for Can {
    fn name(&self) -> &'static str {
        "can"
    }

    fn left(&self) -> Option<&Told> {
        self.ledger.left()
    }

    fn send(&mut self, message: &Message) {
        if let Message::Event(event) = message {
            self.counts.dropped += self.ledger.push(*event);
        }
        self.attend();
        if let Message::Heartbeat(beat) = message {
            let [state, health] = self.frames.beat(beat);
            let id = self.settings.id;
            for (id, bytes) in [(id, state), (id + 1, health)] {
                self.counts.dropped += u64::from(!self.put(id, bytes));
            }
        }
    }

    fn tick(&mut self) {
        self.attend();
    }

    fn counts(&self) -> SinkCounts {
        self.counts
    }

    fn close(&mut self) {
        self.attend();
    }
}
