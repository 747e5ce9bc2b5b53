//! The run: threads, bounded queues, counters, shutdown.
//!
//! One thread per source, one per sink, one for the pulse (heartbeats, watchdog, the status line), and the caller's, which owns
//! window, model and policy and thus all state that changes. Where voices and faces are measured, a thread does it on the way of the
//! readings, so that a fact comes with its reading.
//!
//! ```text
//! source threads -- Inbox --> measure -- Inbox --> core (window, model, policy) -- Queue<Message>, one each --> sink threads
//!                                                                   pulse (heartbeats) --^
//! ```
//!
//! Pace: live and paced, a full queue drops its oldest and counts, and a model that is late takes the newest window. A recording
//! that is played fast waits instead, nothing is dropped, and the same recording gives the same messages.
//! Limits: both kinds of queue have their length from the config; what circulates between them comes from one pool. From a reading to
//! the serial line nothing is allocated after the first windows (`tests/steady.rs`). What does allocate, for as long as it is told: a
//! reason its tokens and text, what is heard its words, a line of JSON or an MQTT message its text, what is kept on disk and the minute's status line theirs.

mod beside;
mod controls;
mod core;
mod edge;
mod exits;
mod inbox;
mod measure;
mod memory;
mod newest;
mod numbers;
mod others;
mod pace;
mod plan;
mod prepare;
mod pulse;
mod queue;
mod rehearsal;
mod run;
mod status;
mod summary;
mod thought;
mod threads;
mod timer;

pub use controls::Controls;
pub use exits::Exits;
pub use memory::memory;
pub use pace::Pace;
pub use plan::{Limit, Limits, Plan, size};
pub use prepare::prepare;
pub use queue::{Popped, Queue};
pub use rehearsal::{keep_up, rehearse};
pub use run::{open_sinks, run};
pub use summary::Summary;
