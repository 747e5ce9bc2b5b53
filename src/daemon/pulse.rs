//! Signs of life while the core is busy: heartbeats to the sinks, the service manager's watchdog, a status line in the log.
//!
//! The watchdog is fed only while the core and every source get on: a window, or a device's answer, that takes longer than `stall_s`
//! starves it.

use super::{controls::Controls, exits::Exits, status::Status};
use crate::{
    config,
    machine::power::Meter,
    sink::{Message, snapshot::Drawn},
};
use sd_notify::NotifyState;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The service is ready then, come readings or not: its status says that it is degraded.
const READY_WAIT: Duration = Duration::from_secs(5);

/// The pulse's thread.
pub fn beat(
    exits: &Exits,
    status: &Status,
    controls: &Controls,
    daemon: &config::Daemon,
    power: &str,
    done: &AtomicBool,
) {
    let mut draw = Draw::new(power);
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
        status.set_drawn(draw.look(now, !seen.busy.is_zero()));
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

/// Between two looks at the sensor of the board's power.
const LOOK: Duration = Duration::from_millis(200);

/// What the board draws, by what the model does.
struct Draw {
    meter: Option<Meter>,
    next: Option<Instant>,
    /// Watts in sum, and looks.
    working: (f64, u32),
    resting: (f64, u32),
}

impl Draw {
    fn new(pattern: &str) -> Draw {
        Draw { meter: Meter::find(pattern), next: None, working: (0.0, 0), resting: (0.0, 0) }
    }

    fn look(&mut self, now: Instant, working: bool) -> Drawn {
        if let Some(meter) = self.meter.as_ref().filter(|_| self.next.is_none_or(|next| now >= next)) {
            self.next = Some(now + LOOK);
            let (sum, looks) = if working { &mut self.working } else { &mut self.resting };
            if let Some(watts) = meter.watts() {
                (*sum, *looks) = (*sum + f64::from(watts), *looks + 1);
            }
        }
        let mean = |(sum, looks): (f64, u32)| (looks > 0).then(|| (sum / f64::from(looks)) as f32);
        Drawn { working_w: mean(self.working), resting_w: mean(self.resting) }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager was not told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn power_is_told_apart_by_what_the_model_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("power1_input");
        let mut now = Instant::now();
        fs::write(&file, "4000000").unwrap();
        let mut draw = Draw::new(file.to_str().unwrap());
        let mut look = |microwatts: &str, working| {
            fs::write(&file, microwatts).unwrap();
            now += LOOK;
            draw.look(now, working)
        };
        assert_eq!(look("4000000", false), Drawn { working_w: None, resting_w: Some(4.0) });
        look("9000000", true);
        let drawn = look("11000000", true);
        assert_eq!(drawn, Drawn { working_w: Some(10.0), resting_w: Some(4.0) });
        assert_eq!(look("gone", true), drawn, "a sensor that fails changes nothing");
        assert_eq!(drawn.work_j(Duration::from_secs(3)), Some(18.0));
        assert_eq!(Draw::new("").look(now, true), Drawn::default());
    }
}
