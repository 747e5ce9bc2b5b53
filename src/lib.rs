//! `mien`: camera and microphone to compact emotion events, on the device, and why.
//!
//! ```text
//! camera -+                       image -+
//!         +- Reading -> window - Window -+-> model (vision, audio, fusion, decoder) - Scores, Reason -> policy - Event -> sinks
//! mic ----+                         mel -+            over  backend (cpu, cuda)                                  |
//! clip, pipe                                                                                     serial, mqtt, stdout
//! ```
//!
//! Reading goes one way. A module names only modules above it in this file: the order of the `mod` lines is the
//! architecture, and `tests/house.rs` holds it.
//!
//! Invariants:
//! - Time enters with a reading (the kernel's capture stamp), travels in the data and leaves in the event. Between `source` and
//!   `sink` nobody asks a clock, so a recording replays to the same bytes.
//! - Only `source`, `sink`, `privacy`, `daemon`, `command` and `main` touch the world, `bundle` the one file that
//!   it maps, and `eval` lists of clips.
//! - Every queue, ring and buffer is sized at start from the bundle and the config.
//! - No path leads frames or samples off the device: sinks take events.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod wire;

#[cfg(feature = "std")]
pub mod outage;

#[cfg(feature = "std")]
pub mod kept;

#[cfg(feature = "std")]
pub mod machine;

#[cfg(feature = "std")]
pub mod source;

#[cfg(feature = "std")]
pub mod window;

#[cfg(feature = "std")]
pub mod feature;

#[cfg(feature = "std")]
pub mod bundle;

#[cfg(feature = "std")]
pub mod backend;

#[cfg(feature = "std")]
pub mod model;

#[cfg(feature = "std")]
pub mod cues;

#[cfg(feature = "std")]
pub mod eval;

#[cfg(feature = "std")]
pub mod policy;

#[cfg(feature = "std")]
pub mod privacy;

#[cfg(feature = "std")]
pub mod sink;

#[cfg(feature = "std")]
pub mod config;

#[cfg(feature = "std")]
pub mod daemon;

#[cfg(feature = "std")]
pub mod report;

#[cfg(feature = "std")]
pub mod command;
