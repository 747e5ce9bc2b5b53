//! Asks systemd how the daemon is.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// What systemd shows of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// `active`, `activating`, `failed` and others.
    pub active: String,
    /// `loaded`, `not-found` and others.
    pub load: String,
    pid: i32,
    /// The daemon's own status line.
    pub line: String,
}

impl Shown {
    fn of(text: &str) -> Shown {
        let mut shown = Shown::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("ActiveState", value)) => shown.active = value.into(),
                Some(("LoadState", value)) => shown.load = value.into(),
                Some(("MainPID", value)) => shown.pid = value.parse().unwrap_or(0),
                Some(("StatusText", value)) => shown.line = value.into(),
                _ => {}
            }
        }
        shown
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.line.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }

    /// `ok`, `degraded`, `muted`; empty before the daemon says anything.
    pub fn state(&self) -> &str {
        self.value("state").unwrap_or_default()
    }

    /// The daemon works: what is asked for was seen with all devices there, or devices are closed because they have to be. A device that
    /// was missing before may be missing still.
    pub fn healthy(&self, first: First, was_degraded: bool) -> bool {
        let seen = self.value(first.key()).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0) > 0;
        match self.state() {
            "muted" => true,
            "ok" => seen,
            "degraded" => seen && was_degraded,
            _ => false,
        }
    }
}

/// What has to be seen of a daemon since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Window,
    Event,
}

impl First {
    fn key(self) -> &'static str {
        match self {
            First::Window => "windows",
            First::Event => "events",
        }
    }
}

pub fn ask(unit: &str) -> Result<Shown> {
    let output = Command::new("systemctl")
        .args(["show", "--property=LoadState,ActiveState,MainPID,StatusText", "--", unit])
        .output()
        .context("systemctl cannot be started: is this a machine with systemd?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl cannot show {unit}: {}", said.trim());
    let shown = Shown::of(&String::from_utf8_lossy(&output.stdout));
    ensure!(shown.load != "not-found", "systemd knows no service {unit}");
    Ok(shown)
}

/// Waits until the service is healthy; its status line.
pub fn wait(unit: &str, first: First, was_degraded: bool, within: Duration) -> Result<Shown> {
    let start = Instant::now();
    loop {
        let shown = ask(unit)?;
        if shown.healthy(first, was_degraded) {
            return Ok(shown);
        }
        if start.elapsed() >= within {
            let said = if shown.line.is_empty() { "it has said nothing yet" } else { &shown.line };
            bail!("{unit} is {} and not well within {} s: {said}", shown.active, within.as_secs());
        }
        // The status line is brought up to date on SIGUSR2, where we may send it.
        if !shown.line.is_empty()
            && let Some(process) = Pid::from_raw(shown.pid)
        {
            let _ = kill_process(process, Signal::USR2);
        }
        thread::sleep(Duration::from_millis(250).min(within));
    }
}

/// `systemctl ACTION UNIT`; without waiting for what it does where `wait` is false.
pub fn control(action: &str, unit: &str, wait: bool) -> Result<()> {
    let mut command = Command::new("systemctl");
    if !wait {
        command.arg("--no-block");
    }
    let status = command.args([action, unit]).status().context("systemctl cannot be started")?;
    ensure!(status.success(), "systemctl {action} {unit} failed: journalctl -u {unit} says why");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "LoadState=loaded\nActiveState=active\nMainPID=214\nStatusText=state=STATE uptime_s=4 windows=WINDOWS late=0 \
                         events=0 dropped=0 video=ok\n";

    fn shown(state: &str, windows: &str) -> Shown {
        Shown::of(&SHOWN.replace("STATE uptime", &format!("{state} uptime")).replace("WINDOWS", windows))
    }

    #[test]
    fn healthy_is_a_window_with_every_device_or_a_mute() {
        let well = |state, windows, first, before| shown(state, windows).healthy(first, before);
        assert!(well("ok", "2", First::Window, false));
        assert!(!well("ok", "0", First::Window, false));
        assert!(!well("ok", "2", First::Event, false));
        assert!(!well("degraded", "2", First::Window, false));
        assert!(well("degraded", "2", First::Window, true));
        assert!(well("muted", "0", First::Window, false));
        assert!(!well("on-fire", "2", First::Window, true));
    }

    #[test]
    fn what_systemd_shows_is_read_whatever_the_order() {
        let seen = shown("ok", "2");
        assert_eq!(
            (seen.active.as_str(), seen.load.as_str(), seen.pid, seen.state()),
            ("active", "loaded", 214, "ok")
        );
        let nothing = Shown::of("StatusText=\nMainPID=0\nActiveState=inactive\nSomething=else\n=\n");
        assert_eq!((nothing.state(), nothing.healthy(First::Window, true)), ("", false));
    }
}
