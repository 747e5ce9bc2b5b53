//! Signs of life while the core is busy: heartbeats to the sinks, the service manager's watchdog, a status line in the log.
//!
//! The watchdog is fed only while the core and every source get on: a window, or a device's answer, that takes longer than `stall_s`
//! starves it.

use super::{controls::Controls, exits::Exits, status::Status};
use crate::{config, sink::Message};
use sd_notify::NotifyState;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The service is ready then, come readings or not: its status says that it is degraded.
const READY_WAIT: Duration = Duration::from_secs(5);

/// The pulse's thread.
pub fn beat(exits: &Exits, status: &Status, controls: &Controls, daemon: &config::Daemon, done: &AtomicBool) {
    let gate = &controls.gate;
    let step = Duration::from_millis(u64::from(daemon.heartbeat_ms));
    let status_step = Duration::from_secs(u64::from(daemon.status_s));
    let stall = Duration::from_secs(u64::from(daemon.stall_s));
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let start = Instant::now();
    let (mut beat_at, mut status_at, mut watchdog_at) = (start + step, start + status_step, start);
    let (mut ready, mut starved) = (false, false);
    let mut muted = gate.muted();
    while !done.load(Ordering::Acquire) {
        let mut next = beat_at.min(status_at);
        if watchdog.is_some() {
            next = next.min(watchdog_at);
        }
        thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        let now = Instant::now();
        if gate.muted() != muted {
            muted = !muted;
            gate.note("devices", if muted { "closed" } else { "open" });
        }
        let seen = status.snapshot(muted);
        if !ready && (seen.heartbeat.windows > 0 || now - start >= READY_WAIT) {
            ready = true;
            if seen.heartbeat.windows == 0 {
                log::warn!("no window came in {} s: {}", READY_WAIT.as_secs(), seen.line());
            }
            notify(&[NotifyState::Ready, NotifyState::Status(&seen.line())]);
        }
        if now >= beat_at {
            beat_at += step * (1 + (now - beat_at).as_millis() as u32 / daemon.heartbeat_ms);
            exits.send(&Message::Heartbeat(seen.heartbeat));
        }
        if let Some(step) = watchdog
            && now >= watchdog_at
        {
            watchdog_at = now + step;
            let hang = match (seen.busy >= stall, status.hung(stall)) {
                (true, _) => Some(format!("one window takes {} s", seen.busy.as_secs())),
                (false, Some(source)) => Some(format!("the {source} hangs in its device")),
                (false, None) => None,
            };
            match hang {
                None => notify(&[NotifyState::Watchdog]),
                Some(what) if !std::mem::replace(&mut starved, true) => {
                    log::error!("{what}: the watchdog is no longer fed");
                }
                Some(_) => {}
            }
        }
        if now >= status_at || controls.tell.swap(false, Ordering::AcqRel) {
            status_at = now + status_step;
            let line = seen.line();
            notify(&[NotifyState::Status(&line)]);
            log::info!("{line}");
        }
    }
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager was not told: {error}");
    }
}
