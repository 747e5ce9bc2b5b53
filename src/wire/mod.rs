//! Events and their bytes: all that firmware may know of us. `no_std`, no allocation.
//!
//! On the line a packet is `0x00 | COBS(raw) | 0x00`; the leading zero ends whatever noise came before. `raw` is
//!
//! | bytes | field | |
//! |---|---|---|
//! | 1 | version | [`VERSION`]; another value is another protocol and nothing after it may be read |
//! | 2 | seq | u16 little-endian, of packets on this line, wraps; a step other than 1 is loss, unless a hello with 0 or with another `boot` says that the sender began anew |
//! | 1 | kind | 0 hello, 1 event, 2 heartbeat, 3 reason, 4 grounds, 5 people, 6 faces, 7 second; new kinds are appended |
//! | n | body | postcard: fields in order; integers wider than a byte as LEB128 varints; text as varint length and UTF-8 |
//! | 4 | crc | CRC-32/ISO-HDLC, little-endian, over the kind's schema id (4 bytes, little-endian), then version to body |
//!
//! | kind | fields in order |
//! |---|---|
//! | hello | minor u8, schema u32, boot u64, device text, software text, purpose text, bundle text, bundle_hash 8 bytes, label_set text, labels (count, texts), window_ms u32, hop_ms u32, heartbeat_ms u32 |
//! | event | seq u32, episode u32, kind u8, label u8, confidence_permille u16, track u16, expected u8, present u8, cause u8, at_ms u64, begin_ms u64, window_ms u32, wall_ms u64, wall_synced u8, age_ms u32 |
//! | heartbeat | uptime_ms u64, label u8, episode u32, events u32, windows u32, late u32, dropped u32, video u8, audio u8, muted u8, infer_ms u32 |
//! | reason | episode u32, part u8, parts u8, text |
//! | grounds | episode u32, claims u8, held u8, contradicted u8, unseen u8, contradicted_bits u32 |
//! | people | at_ms u64, count u8, track u16 |
//! | faces | at_ms u64, faces (count, then of each track u16, label u8, confidence_permille u16) |
//! | second | at_ms u64, episode u32, label u8, confidence_permille u16 |
//!
//! The schema id of a kind is FNV-1a (32 bit) of its line in [`SCHEMA`], so a receiver with another idea of the fields
//! sees CRC errors and never wrong values. Kinds are append-only and their fields never change: a new field is a new kind.
//! A value of a small code (event kind, cause, health) that a receiver does not know reads as its `Other`.
//!
//! Units: `_ms`; `at_ms`, `begin_ms` and `uptime_ms` count on the sender's monotonic clock, `wall_ms` is Unix time or 0.
//! `at_ms - begin_ms`, modulo 2^64, of an end is how long its episode lasted, also over a restart of the sender.
//! Invariant: a receiver holds a label as begun from its `Begin` to its `End`, or to a hello with another `boot`.
//! Limits: [`RAW_BYTES_MAX`] before framing, [`LINE_BYTES_MAX`] with it; [`LABELS_MAX`] labels, [`FACES_MAX`] faces.

mod code;
mod decoder;
mod message;
mod packet;

pub use code::{Cause, Health, Kind};
pub use decoder::{Decoder, PacketCounts};
pub use message::*;
pub use packet::{Error, decode, encode, seal};
