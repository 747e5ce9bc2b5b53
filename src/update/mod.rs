//! Updates of a whole application, program and bundle, that undo themselves: two slots with an image each, and the package beneath.
//!
//! RAUC checks and writes images (<https://rauc.readthedocs.io>, boot selection "custom"); this room decides which program a board starts,
//! counts the starts of one that is on trial, and asks the service whether it works. A slot is a file in [`STORE`]; the one that runs is
//! mounted under [`STAGE`], where `current` leads to it, or to `/usr` where the package's program runs.

pub mod engine;
pub mod offer;
pub mod service;
pub mod slots;
pub mod stage;

/// Images and what is known of them. Root's alone.
pub const STORE: &str = "/var/lib/mien-slots";
/// What runs now.
pub const STAGE: &str = "/run/mien-app";
/// The unit that runs the daemon.
pub const UNIT: &str = "mien";
