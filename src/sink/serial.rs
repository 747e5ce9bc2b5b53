//! A serial line: any tty at any rate, the packets of `wire`, and nothing else on it.
//!
//! The line is opened raw, exclusive and without waiting. A hello goes out when it opens and every `hello_s`; sequence numbers
//! go on over a reopen, so that a receiver sees what it missed. A tty that vanishes, or is not there yet, is looked for with
//! growing pauses. When it is back, the hello is followed by the end that is owed and the begin of what holds ([`super::ledger`]).
//!
//! Limits: one packet at a time; a line that takes nothing for `write_ms` costs that packet.

use super::{
    CUT, Message, Setup, Sink, SinkCounts, Speaker, cut,
    ledger::{Ledger, Told},
};
use crate::{
    kept::Kept,
    outage::{self, Change, Outage},
    wire::{self, LINE_BYTES_MAX, REASON_BYTES_MAX, ReasonPart},
};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    termios::{self, ControlModes, OptionalActions},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

const RETRY: outage::Limits = outage::Limits {
    pause_min: Duration::from_millis(250),
    pause_max: Duration::from_secs(5),
    stable: Duration::ZERO,
};
/// How long closing waits for a line to take what was written.
const CLOSE_WAIT: Duration = Duration::from_millis(1_500);

#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub enabled: bool,
    /// `/dev/ttyUSB0`, or better a link under `/dev/serial/by-id`.
    pub tty: PathBuf,
    pub baud: u32,
    pub hello_s: u32,
    /// How long a full line may make us wait.
    pub write_ms: u32,
    /// Reasons too, in parts.
    pub reasons: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let tty = PathBuf::new();
        Settings { enabled: true, tty, baud: 115_200, hello_s: 10, write_ms: 500, reasons: false }
    }
}

impl Settings {
    pub const PATHS: &[&str] = &[];

    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.tty.as_os_str().is_empty(),
            "sink.serial.tty is not set: name a tty such as /dev/ttyUSB0"
        );
        ensure!(
            (50..=16_000_000).contains(&self.baud),
            "sink.serial.baud = {}: from 50 to 16000000",
            self.baud
        );
        ensure!((1..=3600).contains(&self.hello_s), "sink.serial.hello_s = {}: from 1 to 3600", self.hello_s);
        ensure!(
            (1..=10_000).contains(&self.write_ms),
            "sink.serial.write_ms = {}: from 1 to 10000",
            self.write_ms
        );
        Ok(())
    }
}

impl Settings {
    /// Opens the line once.
    pub fn probe(&self, _: &Setup) -> Result<()> {
        open(&self.tty, self.baud).map(drop)
    }

    pub fn open(&self, setup: &Setup) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Serial::new(self.clone(), setup)))
    }
}

pub struct Serial {
    settings: Settings,
    speaker: Arc<Speaker>,
    line: Option<OwnedFd>,
    seq: u16,
    hello_at: Instant,
    outage: Outage,
    ledger: Ledger,
    counts: SinkCounts,
    /// Said again after a hello.
    people: Option<wire::People>,
    faces: Option<wire::Faces>,
    second: Option<wire::Second>,
}

impl Serial {
    /// Never fails: a tty that is not there yet is looked for again.
    pub fn new(settings: Settings, setup: &Setup) -> Serial {
        let speaker = Arc::clone(&setup.speaker);
        let mut serial = Serial {
            outage: Outage::new(RETRY, speaker.boot),
            ledger: Ledger::new(Kept::new(&setup.state_dir, "serial.json"), speaker.boot),
            settings,
            speaker,
            line: None,
            seq: 0,
            hello_at: Instant::now(),
            counts: SinkCounts::default(),
            people: None,
            faces: None,
            second: None,
        };
        serial.attend();
        serial
    }

    /// Opens the line when it is time to, says hello when it is time to, and sends what is owed.
    fn attend(&mut self) {
        let now = Instant::now();
        if self.line.is_none() && self.outage.is_due(now) {
            match open(&self.settings.tty, self.settings.baud) {
                Ok(line) => {
                    self.line = Some(line);
                    self.hello_at = now;
                }
                Err(error) => self.lose(&error),
            }
        }
        if self.line.is_some() && now >= self.hello_at {
            self.hello_at = now + Duration::from_secs(u64::from(self.settings.hello_s));
            let speaker = Arc::clone(&self.speaker);
            self.put(&wire::Message::Hello(speaker.hello()));
            if let Some(people) = self.people {
                self.put(&wire::Message::People(people));
            }
            if let Some(faces) = self.faces.clone() {
                self.put(&wire::Message::Faces(faces));
            }
            if let Some(second) = self.second {
                self.put(&wire::Message::Second(second));
            }
        }
        self.settle();
    }

    /// Sends what the receiver has to be told, as far as the line takes it.
    fn settle(&mut self) {
        while self.line.is_some()
            && let Some(event) = self.ledger.due()
        {
            self.ledger.sending(&event);
            if !self.put(&wire::Message::Event(event)) {
                self.counts.dropped += self.ledger.failed();
                return;
            }
            self.ledger.sent(&event);
        }
    }

    fn lose(&mut self, error: &anyhow::Error) {
        self.line = None;
        if self.outage.fails(Instant::now()) == Some(Change::Lost) {
            log::warn!("serial line is away, trying again: {error:#}");
        }
        self.counts.losses = self.outage.losses();
    }

    /// Whether the line took the whole packet.
    fn put(&mut self, message: &wire::Message<'_>) -> bool {
        let mut packet = [0u8; LINE_BYTES_MAX];
        let seq = self.seq;
        self.seq = self.seq.wrapping_add(1);
        let Some(line) = &self.line else {
            return false;
        };
        let sent = match wire::encode(message, seq, &mut packet) {
            Ok(len) => write(line, &packet[..len], Duration::from_millis(u64::from(self.settings.write_ms)))
                .with_context(|| format!("writing to {}", self.settings.tty.display())),
            Err(error) => {
                log::error!("a message does not fit a packet: {error:?}");
                Ok(false)
            }
        };
        if let Err(error) = &sent {
            self.lose(error);
        }
        let sent = sent.unwrap_or(false);
        self.counts.sent += u64::from(sent);
        if sent && let Some(Change::Back(away)) = self.outage.works(Instant::now()) {
            let tty = self.settings.tty.display();
            log::warn!("serial line is back tty={tty} away_s={}", away.as_secs());
        }
        sent
    }

    /// A packet that nobody asks for again.
    fn put_once(&mut self, message: &wire::Message<'_>) {
        self.counts.dropped += u64::from(!self.put(message));
    }
}

impl Sink for Serial {
    fn name(&self) -> &'static str {
        "serial"
    }

    fn left(&self) -> Option<&Told> {
        self.ledger.left()
    }

    fn send(&mut self, message: &Message) {
        if let Message::Event(event) = message {
            self.counts.dropped += self.ledger.push(*event);
        }
        self.attend();
        match message {
            Message::Heartbeat(beat) => self.put_once(&wire::Message::Heartbeat(*beat)),
            Message::Reason(reason) => {
                let cut = format!("{}{CUT}", reason.text);
                let text = if reason.cut { &cut } else { &reason.text };
                let parts = if self.settings.reasons { parts(reason.episode, text) } else { Vec::new() };
                for part in parts {
                    self.put_once(&wire::Message::Reason(part));
                }
                if let Some(grounds) = reason.grounds() {
                    self.put_once(&wire::Message::Grounds(grounds));
                }
            }
            Message::People(people) => {
                self.people = Some(*people);
                self.put_once(&wire::Message::People(*people));
            }
            Message::Faces(faces) => {
                self.faces = Some(faces.clone());
                self.put_once(&wire::Message::Faces(faces.clone()));
            }
            Message::Second(second) => {
                self.second = Some(*second);
                self.put_once(&wire::Message::Second(*second));
            }
            Message::Event(_) | Message::Scores(_) => {}
        }
    }

    fn tick(&mut self) {
        self.attend();
        if let Some(line) = &self.line
            && hung_up(line)
        {
            self.lose(&anyhow::anyhow!("{} hung up", self.settings.tty.display()));
        }
    }

    fn counts(&self) -> SinkCounts {
        self.counts
    }

    fn close(&mut self) {
        self.attend();
        if let Some(line) = &self.line {
            drain(line, CLOSE_WAIT);
        }
    }
}

/// A text in packets of whole characters; what does not fit 255 of them is cut.
pub fn parts(episode: u32, text: &str) -> Vec<ReasonPart<'_>> {
    let mut texts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() && texts.len() < 255 {
        let (part, after) = rest.split_at(cut(rest, REASON_BYTES_MAX).len());
        texts.push(part);
        rest = after;
    }
    let parts = texts.len() as u8;
    texts
        .into_iter()
        .enumerate()
        .map(|(i, text)| ReasonPart { episode, part: i as u8, parts, text })
        .collect()
}

/// Opens a tty raw and exclusive, at a rate. A tty that has no rates (a virtual one) is said and taken as it is.
pub fn open(tty: &Path, baud: u32) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let line = rustix::fs::open(tty, flags, Mode::empty()).with_context(|| match tty.exists() {
        true => format!("opening {} (is the user in the group `dialout`?)", tty.display()),
        false => format!("opening {}", tty.display()),
    })?;
    if !termios::isatty(&line) {
        bail!("{} is not a tty", tty.display());
    }
    if let Err(error) = termios::ioctl_tiocexcl(&line) {
        log::debug!("no exclusive use of {}: {error}", tty.display());
    }
    let mut state =
        termios::tcgetattr(&line).with_context(|| format!("reading the settings of {}", tty.display()))?;
    state.make_raw();
    state.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    state.control_modes &= !(ControlModes::CRTSCTS | ControlModes::CSTOPB | ControlModes::PARENB);
    termios::tcsetattr(&line, OptionalActions::Now, &state)
        .with_context(|| format!("making {} raw", tty.display()))?;
    let set = state.set_speed(baud).and_then(|()| termios::tcsetattr(&line, OptionalActions::Now, &state));
    match (set, termios::tcgetattr(&line)) {
        (Ok(()), Ok(now)) if now.output_speed() == baud => {}
        (Ok(()), Ok(now)) => {
            log::warn!("{} runs at {} baud, not at {baud}", tty.display(), now.output_speed())
        }
        (Err(error), _) | (_, Err(error)) => {
            log::warn!("{} takes no rate of {baud} baud ({error}); used as it is", tty.display())
        }
    }
    Ok(line)
}

/// Writes all, or gives up at the deadline (`false`: the packet is cut, its successor's leading zero ends it).
pub fn write(line: &OwnedFd, mut bytes: &[u8], wait: Duration) -> Result<bool> {
    let deadline = Instant::now() + wait;
    while !bytes.is_empty() {
        match rustix::io::write(line, bytes) {
            Ok(0) => bail!("the line takes nothing any more"),
            Ok(taken) => bytes = &bytes[taken..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || !ready(line, PollFlags::OUT, left)? {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Waits until the line can do what is asked; an error when it hung up.
pub fn ready(line: &OwnedFd, wanted: PollFlags, wait: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(line, wanted)];
    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    match poll(&mut fds, Some(&wait)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let seen = fds[0].revents();
    ensure!(!seen.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL), "the line hung up");
    Ok(seen.intersects(wanted))
}

fn hung_up(line: &OwnedFd) -> bool {
    ready(line, PollFlags::OUT, Duration::ZERO).is_err()
}

/// Waits until what was written has left, without trusting a line that stands still.
fn drain(line: &OwnedFd, wait: Duration) {
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline && !hung_up(line) && queued(line) > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that the kernel still holds.
fn queued(line: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int through the pointer, and `bytes` is one that outlives the call.
    let rc = unsafe { libc::ioctl(line.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if rc == 0 { bytes } else { 0 }
}
