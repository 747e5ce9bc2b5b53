//! `mien`: camera and microphone to compact emotion events, on the device, and why.
//!
//! ```text
//! camera -+                       image -+
//!         +- Reading -> window - Window -+-> model (vision, audio, fusion, decoder) - Scores, Reason -> policy - Event -> sinks
//! mic ----+                         mel -+            over  backend (cpu, cuda)                                  |
//! clip, pipe                                                                                     serial, mqtt, stdout, page
//! ```
//!
//! | Room | What is in it |
//! |---|---|
//! | [`wire`] | the packet on the line, for firmware too (`no_std`) |
//! | [`outage`], [`kept`], [`machine`], [`update`] | losing and healing of a device; small files that outlive a power cut; what the machine says of itself; which program it starts |
//! | [`source`], [`feature`], [`window`] | readings; pictures and sound as the towers want them; windows of them |
//! | [`bundle`], [`backend`], [`model`] | weights as a file; ops on the CPU and on CUDA; the model over any of them |
//! | [`cues`], [`eval`], [`report`] | what reasons claim and what is measured of voice and face; sets, answers and figures; pages and drawings |
//! | [`policy`], [`privacy`], [`sink`] | scores to events; what may run and what may leave; serial line, MQTT, standard output, status page |
//! | [`config`], [`daemon`], [`command`] | the TOML file; a run; what a user types |
//!
//! `tests/house` holds the following:
//! - A module names only modules above it in this file: the order of the `mod` lines is the architecture. No file imports itself
//!   in a circle, and no command names another.
//! - Time enters with a reading (the kernel's capture stamp), travels in the data and leaves in the event. `window`, `feature`,
//!   `policy` and `cues` ask no clock, so a recording replays to the same bytes.
//! - Who opens files, starts threads, asks a clock, reads the environment, starts a process, or names a crate stands in a list with
//!   its reason. No daemon opens a connection but the MQTT client's, and nobody listens but the page.
//!
//! `tests/limits.rs` holds that a run takes the memory that [`daemon::Plan::limits`] says, within a tenth. A sink is given a
//! [`sink::Message`], which has no room for pictures or sound.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod wire;

#[cfg(feature = "std")]
pub mod outage;

#[cfg(feature = "std")]
pub mod kept;

#[cfg(feature = "std")]
pub mod machine;

#[cfg(feature = "std")]
pub mod update;

#[cfg(feature = "std")]
pub mod source;

#[cfg(feature = "std")]
pub mod feature;

#[cfg(feature = "std")]
pub mod window;

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
