//! Exits for events: serial, MQTT, CAN, standard output, a status page. One file or folder per kind, and one line in [`settings`].
//!
//! A sink is a value that one thread owns. It is told [`Message`]s as they come and [`Sink::tick`]ed when none do, so that it
//! can look after its connection. A sink never fails: what it cannot send it counts, and an edge that is lost is reported once in
//! the log when it goes and once when it is back.
//!
//! Invariant: for every begin that a receiver got it gets one end, also over a lost edge, a full queue and a restart
//! ([`ledger`], [`backlog`]).

pub mod backlog;
#[cfg(feature = "can")]
pub mod can;
pub mod clock;
pub mod exit;
pub mod json;
pub mod ledger;
pub mod message;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "page")]
pub mod page;
pub mod record;
pub mod serial;
pub mod settings;
pub mod snapshot;
pub mod stdout;

pub use exit::{Setup, Sink};
pub(crate) use message::cut;
pub use message::{CUT, EpisodeReason, Message, Speaker, WindowScores};
pub use settings::{Settings, Sinks};
pub use snapshot::{SinkCounts, Snapshot};
