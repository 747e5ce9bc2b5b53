//! Wall time for events, and whether anything keeps it right.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Made by systemd-timesyncd when it has synchronised the clock.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    pub ms: u64,
    /// The kernel says that its clock is synchronised.
    pub synced: bool,
}

pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall { ms: since.as_millis() as u64, synced: synced() }
}

/// As the kernel says it; a service that may not ask the kernel (`ProtectClock=`) looks for timesyncd's file.
fn synced() -> bool {
    // SAFETY: an all-zero `timex` is a valid one, and with `modes` 0 the call only fills it in.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut timex)
    };
    match state {
        0..libc::TIME_ERROR => true,
        libc::TIME_ERROR => false,
        _ => Path::new(TIMESYNC).exists(),
    }
}
