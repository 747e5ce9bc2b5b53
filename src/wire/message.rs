//! What is said on the line, field by field, and the constants of the protocol.

use super::code::{Cause, Health, Kind};
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// First byte of every packet: the protocol's major version.
pub const VERSION: u8 = 1;
/// Counts appended kinds and codes within a major version.
pub const MINOR: u8 = 3;
/// Bytes of a packet before framing.
pub const RAW_BYTES_MAX: usize = 512;
/// Bytes of a packet on the line: COBS adds one in 254, and a zero on each side.
pub const LINE_BYTES_MAX: usize = RAW_BYTES_MAX + RAW_BYTES_MAX / 254 + 1 + 2;
pub const LABELS_MAX: usize = 16;
/// Faces in one [`Faces`].
pub const FACES_MAX: usize = 8;
/// Bytes of text in one [`ReasonPart`].
pub const REASON_BYTES_MAX: usize = 160;
/// `Event::label` when there is none.
pub const NO_LABEL: u8 = 255;
/// Bits of `Event::expected` and `Event::present`.
pub const VIDEO: u8 = 1;
pub const AUDIO: u8 = 2;

/// One line per kind, in the order of the kinds. Frozen: what changes here is another protocol.
pub const SCHEMA: [&str; 8] = [
    "hello minor:u8 schema:u32 boot:u64 device:str software:str purpose:str bundle:str bundle_hash:[u8;8] label_set:str labels:[str] window_ms:u32 hop_ms:u32 heartbeat_ms:u32",
    "event seq:u32 episode:u32 kind:u8 label:u8 confidence_permille:u16 track:u16 expected:u8 present:u8 cause:u8 at_ms:u64 begin_ms:u64 window_ms:u32 wall_ms:u64 wall_synced:u8 age_ms:u32",
    "heartbeat uptime_ms:u64 label:u8 episode:u32 events:u32 windows:u32 late:u32 dropped:u32 video:u8 audio:u8 muted:u8 infer_ms:u32",
    "reason episode:u32 part:u8 parts:u8 text:str",
    "grounds episode:u32 claims:u8 held:u8 contradicted:u8 unseen:u8 contradicted_bits:u32",
    "people at_ms:u64 count:u8 track:u16",
    "faces at_ms:u64 faces:[track:u16,label:u8,confidence_permille:u16]",
    "second at_ms:u64 episode:u32 label:u8 confidence_permille:u16",
];

/// Schema ids in the order of the kinds: the CRC of a packet begins with its kind's.
pub const SCHEMA_IDS: [u32; SCHEMA.len()] = {
    let mut ids = [0; SCHEMA.len()];
    let mut i = 0;
    while i < ids.len() {
        ids[i] = fnv1a(SCHEMA[i], FNV);
        i += 1;
    }
    ids
};

/// Hash of every kind, as a hello carries it.
pub const SCHEMA_HASH: u32 = {
    let mut hash = FNV;
    let mut i = 0;
    while i < SCHEMA.len() {
        hash = fnv1a(SCHEMA[i], hash);
        i += 1;
    }
    hash
};

const FNV: u32 = 0x811c_9dc5;

const fn fnv1a(text: &str, seed: u32) -> u32 {
    let bytes = text.as_bytes();
    let mut hash = seed;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

/// One decoded packet; text borrows from the decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet<'a> {
    pub seq: u16,
    pub message: Message<'a>,
}

/// The closed set of what is said on the line. Append only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "without an allocator there is nowhere else to put a hello")]
pub enum Message<'a> {
    #[serde(borrow)]
    Hello(Hello<'a>),
    Event(Event),
    Heartbeat(Heartbeat),
    #[serde(borrow)]
    Reason(ReasonPart<'a>),
    Grounds(Grounds),
    People(People),
    Faces(Faces),
    Second(Second),
}

/// Who speaks, and the names of the labels. Sent when a line opens and again now and then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello<'a> {
    pub minor: u8,
    /// [`SCHEMA_HASH`] of the sender.
    pub schema: u32,
    /// Random, one per start of the daemon: another value ends whatever was begun.
    pub boot: u64,
    pub device: &'a str,
    pub software: &'a str,
    /// What the site declared it uses emotion events for.
    pub purpose: &'a str,
    pub bundle: &'a str,
    /// First bytes of the SHA-256 of the bundle's header, which holds that of its tensors.
    pub bundle_hash: [u8; 8],
    pub label_set: &'a str,
    /// `Event::label` is an index into these.
    #[serde(borrow)]
    pub labels: Vec<&'a str, LABELS_MAX>,
    pub window_ms: u32,
    pub hop_ms: u32,
    /// A receiver that hears nothing for three of these may call the sender dead.
    pub heartbeat_ms: u32,
}

/// A change of what is known about a person's expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Of events, the same on every sink; with `boot` of the hello and the device's name it is unique for ever. A gap means that
    /// a queue dropped some, or that the daemon began anew.
    pub seq: u32,
    /// `seq` of the `Begin` that this belongs to; its own for `Unknown`.
    pub episode: u32,
    pub kind: Kind,
    /// Index into the hello's labels, or [`NO_LABEL`].
    pub label: u8,
    /// Smoothed score of the label when this was decided.
    pub confidence_permille: u16,
    /// Which person; 0 while there is one.
    pub track: u16,
    /// Modalities the site has: [`VIDEO`] | [`AUDIO`].
    pub expected: u8,
    /// Modalities the window had.
    pub present: u8,
    pub cause: Cause,
    /// End of the window that decided.
    pub at_ms: u64,
    /// `at_ms` of the `Begin`, modulo 2^64 where that was before the sender's clock began; equal to `at_ms` for `Begin` and
    /// `Unknown`.
    pub begin_ms: u64,
    pub window_ms: u32,
    /// Unix time of `at_ms`, or 0 where there is none (a recording).
    pub wall_ms: u64,
    /// 1: the machine's clock was synchronised.
    pub wall_synced: u8,
    /// From the end of the window to this event's making; 0 for recordings.
    pub age_ms: u32,
}

impl Event {
    /// How long the label held, for an `End`.
    pub fn lasted_ms(&self) -> u64 {
        self.at_ms.wrapping_sub(self.begin_ms)
    }

    /// Expected modalities that the window lacked.
    pub fn missing(&self) -> u8 {
        self.expected & !self.present
    }
}

/// Signs of life: calm and dead look different.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub uptime_ms: u64,
    /// What holds now, or [`NO_LABEL`].
    pub label: u8,
    /// Of what holds now; 0 when nothing does.
    pub episode: u32,
    /// Events made so far.
    pub events: u32,
    /// Windows scored.
    pub windows: u32,
    /// Windows skipped because the model was busy.
    pub late: u32,
    /// Messages that full queues dropped.
    pub dropped: u32,
    pub video: Health,
    pub audio: Health,
    /// 1: devices are closed on request.
    pub muted: u8,
    /// Of the last window.
    pub infer_ms: u32,
}

/// A stretch of the model's reason for an episode: text to read, never a fact to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonPart<'a> {
    pub episode: u32,
    /// From 0.
    pub part: u8,
    pub parts: u8,
    pub text: &'a str,
}

/// How the claims of an episode's reason stand against what was measured; follows its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounds {
    pub episode: u32,
    /// Claims of the reason.
    pub claims: u8,
    /// Measured to be so.
    pub held: u8,
    pub contradicted: u8,
    /// Of a kind that is measured, but not now: nobody there, turned away, not known yet.
    pub unseen: u8,
    /// Bit `i`: claim `i` is contradicted, in the order of the text; claims from the 32nd on have none.
    pub contradicted_bits: u32,
}

/// Faces that are there, said when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct People {
    /// End of the window in which they were seen.
    pub at_ms: u64,
    pub count: u8,
    /// The largest face, which is scored: the same number as long as it is followed; 0 without one. No identity.
    pub track: u16,
}

/// What each face shows, where each is scored; said when it changes, and all of it at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faces {
    /// End of the window in which they were seen.
    pub at_ms: u64,
    /// The one that events are about first.
    pub faces: Vec<Face, FACES_MAX>,
}

/// What one face shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Face {
    /// As of [`People`]: the same number as long as it is followed. No identity.
    pub track: u16,
    /// Index into the hello's labels, or [`NO_LABEL`].
    pub label: u8,
    /// Smoothed score of the label; 0 without one.
    pub confidence_permille: u16,
}

/// What is shown beside the label of an episode: the likeliest other label, where it is likely enough; said when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// End of the window that decided.
    pub at_ms: u64,
    /// As of [`Event::episode`].
    pub episode: u32,
    /// Index into the hello's labels, or [`NO_LABEL`]: nothing beside the label any more.
    pub label: u8,
    /// Smoothed score of this label; 0 without one.
    pub confidence_permille: u16,
}
