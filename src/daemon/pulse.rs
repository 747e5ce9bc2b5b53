//! Signs of life while the core is busy: heartbeats to the sinks, the service manager's watchdog, a status line in the log.
//!
//! The watchdog is fed only while the core gets on: a window that takes longer than `stall_s` starves it.

use super::{Exits, Plan};
use crate::{
    config,
    privacy::Gate,
    sink::Message,
    source::{Gives, Modality, Reading},
    wire::{Health, Heartbeat, NO_LABEL},
};
use sd_notify::NotifyState;
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A source that gives nothing for so long has stalled.
const STALL: Duration = Duration::from_secs(2);
/// The service is ready then, come readings or not.
const READY_WAIT: Duration = Duration::from_secs(5);

/// What the threads know of each other.
pub struct Status {
    started: Instant,
    /// Time of the newest reading: video, audio.
    newest_ns: [AtomicU64; 2],
    dropped: AtomicU32,
    shared: Mutex<Shared>,
}

#[derive(Clone, Copy)]
struct Shared {
    video: Edge,
    audio: Edge,
    beat: Heartbeat,
    /// The core works on a window since then.
    busy: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Edge {
    health: Health,
    last: Option<Instant>,
}

impl Edge {
    fn now(&self) -> Health {
        match (self.health, self.last) {
            (Health::Ok, Some(last)) if last.elapsed() > STALL => Health::Stalled,
            (health, _) => health,
        }
    }
}

impl Status {
    pub fn new(plan: &Plan) -> Status {
        let edge =
            |given: bool| Edge { health: if given { Health::Absent } else { Health::Off }, last: None };
        let video = edge(plan.devices.iter().any(|(_, gives)| gives.video));
        let audio = edge(plan.devices.iter().any(|(_, gives)| gives.audio));
        let beat = Heartbeat { label: NO_LABEL, ..Heartbeat::default() };
        Status {
            started: Instant::now(),
            newest_ns: [AtomicU64::new(0), AtomicU64::new(0)],
            dropped: AtomicU32::new(0),
            shared: Mutex::new(Shared { video, audio, beat, busy: None }),
        }
    }

    /// What the sources of this run can give.
    pub fn gives(&self) -> Gives {
        let shared = self.lock();
        Gives { video: shared.video.health != Health::Off, audio: shared.audio.health != Health::Off }
    }

    pub fn note(&self, reading: &Reading) {
        let (modality, health, at_ns) = match *reading {
            Reading::Frame(ref frame) => (Modality::Video, Health::Ok, frame.captured_ns),
            Reading::Chunk(ref chunk) => (Modality::Audio, Health::Ok, chunk.captured_ns),
            Reading::Lost { modality, at_ns } => (modality, Health::Absent, at_ns),
            Reading::End { modality } => (modality, Health::Ended, 0),
        };
        self.newest_ns[modality as usize].fetch_max(at_ns, Ordering::AcqRel);
        let mut shared = self.lock();
        let edge = match modality {
            Modality::Video => &mut shared.video,
            Modality::Audio => &mut shared.audio,
        };
        *edge = Edge { health, last: Some(Instant::now()) };
    }

    /// A frame came that was not needed.
    pub fn saw(&self, modality: Modality) {
        let mut shared = self.lock();
        match modality {
            Modality::Video => shared.video.last = Some(Instant::now()),
            Modality::Audio => shared.audio.last = Some(Instant::now()),
        }
    }

    /// Whether readings have passed a time: every modality, or one of them by `lateness_ns`.
    pub fn passed(&self, at_ns: u64, lateness_ns: u64) -> bool {
        let gives = self.gives();
        let newest = |modality: Modality| self.newest_ns[modality as usize].load(Ordering::Acquire);
        let (video, audio) = (newest(Modality::Video), newest(Modality::Audio));
        let all = (!gives.video || video >= at_ns) && (!gives.audio || audio >= at_ns);
        all || video.max(audio) >= at_ns + lateness_ns
    }

    pub fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub fn set_busy(&self, busy: bool) {
        self.lock().busy = busy.then(Instant::now);
    }

    pub fn set_beat(&self, beat: Heartbeat) {
        self.lock().beat = beat;
    }

    fn heartbeat(&self, muted: bool) -> Heartbeat {
        let shared = *self.lock();
        let health = |edge: Edge| match (muted, edge.health) {
            (true, Health::Ok | Health::Absent) => Health::Muted,
            _ => edge.now(),
        };
        Heartbeat {
            uptime_ms: self.started.elapsed().as_millis() as u64,
            dropped: self.dropped(),
            video: health(shared.video),
            audio: health(shared.audio),
            muted: u8::from(muted),
            ..shared.beat
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pulse's thread.
pub fn beat(exits: &Exits, status: &Status, gate: &Gate, daemon: &config::Daemon, done: &AtomicBool) {
    let step = Duration::from_millis(u64::from(daemon.heartbeat_ms));
    let status_step = Duration::from_secs(u64::from(daemon.status_s));
    let stall = Duration::from_secs(u64::from(daemon.stall_s));
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let start = Instant::now();
    let (mut beat_at, mut status_at, mut watchdog_at) = (start + step, start + status_step, start);
    let (mut ready, mut starved) = (false, false);
    while !done.load(Ordering::Acquire) {
        let mut next = beat_at.min(status_at);
        if watchdog.is_some() {
            next = next.min(watchdog_at);
        }
        thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        let now = Instant::now();
        let beat = status.heartbeat(gate.muted());
        if !ready && (beat.windows > 0 || now - start >= READY_WAIT) {
            ready = true;
            notify(&[NotifyState::Ready, NotifyState::Status(&line(&beat))]);
        }
        if now >= beat_at {
            beat_at += step * (1 + (now - beat_at).as_millis() as u32 / daemon.heartbeat_ms);
            exits.send(&Message::Heartbeat(beat));
        }
        if let Some(step) = watchdog
            && now >= watchdog_at
        {
            watchdog_at = now + step;
            let busy = status.lock().busy.map(|since| since.elapsed()).unwrap_or_default();
            if busy < stall {
                notify(&[NotifyState::Watchdog]);
            } else if !std::mem::replace(&mut starved, true) {
                log::error!("one window takes {} s: the watchdog is no longer fed", busy.as_secs());
            }
        }
        if now >= status_at {
            status_at = now + status_step;
            let line = line(&beat);
            notify(&[NotifyState::Status(&line)]);
            log::info!("{line}");
        }
    }
    notify(&[NotifyState::Stopping]);
}

fn line(beat: &Heartbeat) -> String {
    format!(
        "uptime_s={} windows={} late={} events={} dropped={} infer_ms={} video={} audio={} muted={}",
        beat.uptime_ms / 1000,
        beat.windows,
        beat.late,
        beat.events,
        beat.dropped,
        beat.infer_ms,
        beat.video.name(),
        beat.audio.name(),
        beat.muted
    )
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager was not told: {error}");
    }
}
