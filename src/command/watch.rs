//! `mien watch`: decode and print events from a serial line, a broker or a file, and count what is wrong with them.

use super::broker;
use crate::{
    sink::{CUT, json, json::Line, serial},
    wire::{Decoder, Message, NO_LABEL, Packet, PacketCounts},
};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::{consts::SIGINT, flag};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_millis(100);

/// Decode and print events from a serial line, a broker or a file.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A tty, mqtt://[USER@]HOST[:PORT]/PREFIX (mqtts:// for TLS), a file of packets or JSON lines, or - for standard input.
    from: String,
    #[arg(long, default_value_t = 115_200)]
    baud: u32,
    /// Stop after so many events.
    #[arg(long)]
    count: Option<u64>,
    /// Stop after so many seconds; with --count, fewer events by then are an error.
    #[arg(long)]
    seconds: Option<u64>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    /// Bad packets and gaps are an error.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    secrets: broker::Secrets,
}

pub fn run(args: Args) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    flag::register(SIGINT, Arc::clone(&stop)).context("preparing for signals")?;
    let mut watch = Watch {
        until: args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        count: args.count,
        json: args.json,
        labels: Vec::new(),
        boot: None,
        events: 0,
        seen: 0,
        bad_lines: 0,
        last_seq: None,
        event_gaps: 0,
        stop,
    };
    let counts = match args.from.split_once("://") {
        Some((scheme, rest)) => subscribe(&args, scheme, rest, &mut watch)?,
        None => stream(&args, &mut watch)?,
    };
    let _ = io::stdout().flush();
    eprintln!("{}", watch.describe(&counts));
    let wrong = counts.errors() + counts.gaps + watch.bad_lines + watch.event_gaps;
    ensure!(!args.strict || wrong == 0, "{wrong} things were wrong with what came");
    if let Some(count) = args.count {
        ensure!(watch.events >= count, "{} of {count} events came", watch.events);
    }
    Ok(())
}

/// What was seen, and when to stop.
struct Watch {
    until: Option<Instant>,
    count: Option<u64>,
    json: bool,
    labels: Vec<String>,
    /// Of the last hello on a line.
    boot: Option<u64>,
    events: u64,
    seen: u64,
    bad_lines: u64,
    last_seq: Option<u32>,
    /// Jumps in the events' own numbers.
    event_gaps: u64,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
            || self.count.is_some_and(|count| self.events >= count)
            || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Prints a line; false when nobody reads any more.
    fn show(&mut self, line: &Line) -> bool {
        self.seen += 1;
        match line {
            Line::Hello(hello) => {
                self.labels = hello.labels.clone();
                self.last_seq = None;
            }
            // Once as JSON and once compact is one event.
            Line::Event(event) if self.last_seq == Some(event.seq) => return true,
            Line::Event(event) => {
                self.events += 1;
                if self.last_seq.replace(event.seq).is_some_and(|last| last.wrapping_add(1) != event.seq) {
                    self.event_gaps += 1;
                }
            }
            _ => {}
        }
        let text = if self.json { line.text() } else { plain(line) };
        writeln!(io::stdout(), "{text}").is_ok()
    }

    /// Feeds bytes; false when it is time to stop.
    fn packets(&mut self, decoder: &mut Decoder, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| match decoder.feed(byte) {
            Some(Ok(packet)) => self.packet(&packet) && !self.over(),
            Some(Err(_)) | None => true,
        })
    }

    fn packet(&mut self, packet: &Packet<'_>) -> bool {
        let name = |index: u8| -> Option<String> {
            let known = self.labels.get(usize::from(index)).cloned();
            known.or_else(|| (index != NO_LABEL).then(|| format!("label-{index}")))
        };
        let line = match &packet.message {
            Message::Hello(hello) => {
                self.boot = Some(hello.boot);
                Line::Hello(json::Hello::of(hello))
            }
            Message::Event(event) => {
                Line::Event(json::Event::of(event, name(event.label).as_deref(), self.boot))
            }
            Message::Heartbeat(beat) => {
                Line::Heartbeat(json::Heartbeat::of(beat, name(beat.label).as_deref()))
            }
            Message::Reason(part) => Line::Reason(json::Reason::plain(part.episode, part.text)),
            Message::Grounds(grounds) => Line::Grounds(json::Grounded::of(grounds)),
            Message::People(people) => Line::People(json::People::of(people)),
            Message::Faces(faces) => Line::Faces(json::Faces::of(faces, name)),
            Message::Second(second) => Line::Second(json::Second::of(second, name(second.label).as_deref())),
        };
        self.show(&line)
    }

    fn describe(&self, counts: &PacketCounts) -> String {
        format!(
            "events={} packets={} crc_errors={} framing_errors={} length_errors={} version_errors={} unknown={} payload_errors={} \
             gaps={} missed={} event_gaps={} bad_lines={}",
            self.events,
            counts.packets,
            counts.crc,
            counts.framing,
            counts.length,
            counts.version,
            counts.unknown,
            counts.payload,
            counts.gaps,
            counts.missed,
            self.event_gaps,
            self.bad_lines
        )
    }
}

/// One line for people.
fn plain(line: &Line) -> String {
    match line {
        Line::Hello(hello) => format!(
            "hello      {} {} bundle={} purpose={} labels={} window_ms={} hop_ms={} boot={}",
            hello.device,
            hello.software,
            hello.bundle,
            hello.purpose,
            hello.labels.join(","),
            hello.window_ms,
            hello.hop_ms,
            hello.boot
        ),
        Line::Event(event) => {
            let mut text = format!(
                "{:>9.1}s {:<8}{:<14}{:>5.2}  {}",
                event.at_ms as f64 / 1000.0,
                event.event,
                event.label.as_deref().unwrap_or("-"),
                event.confidence,
                event.present.join("+")
            );
            if let Some(cause) = &event.cause {
                text += &format!("  {cause}");
            }
            if event.event == "end" {
                text += &format!("  after {:.1}s", event.lasted_ms.unwrap_or_default() as f64 / 1000.0);
            }
            if !event.missing.is_empty() {
                text += &format!("  without {}", event.missing.join("+"));
            }
            text
        }
        Line::State(state) => format!("state      {} {:.2}", state.label, state.confidence),
        Line::Heartbeat(beat) => format!(
            "heartbeat  up {:.0}s label={} windows={} late={} dropped={} video={} audio={} infer_ms={}",
            beat.uptime_ms as f64 / 1000.0,
            beat.label.as_deref().unwrap_or("-"),
            beat.windows,
            beat.late,
            beat.dropped,
            beat.video,
            beat.audio,
            beat.infer_ms
        ),
        Line::Scores(scores) => {
            format!("{:>9.1}s scores  {:?}", scores.at_ms as f64 / 1000.0, scores.smoothed)
        }
        Line::Reason(reason) => {
            let grounds =
                reason.grounds.as_ref().map(|grounds| format!("  {}", grounds.text())).unwrap_or_default();
            format!("           reason  {}{}{grounds}", reason.text, if reason.cut { CUT } else { "" })
        }
        Line::Grounds(json::Grounded { episode, claims, held, contradicted, .. }) => {
            format!("           grounded {held}/{claims} contradicted={contradicted} episode={episode}")
        }
        Line::People(json::People { at_ms, count, track }) => {
            let track = track.map(|track| format!(" track={track}")).unwrap_or_default();
            format!("{:>9.1}s people  {count}{track}", *at_ms as f64 / 1000.0)
        }
        Line::Faces(faces) => format!("{:>9.1}s faces   {}", faces.at_ms as f64 / 1000.0, faces.text()),
        Line::Second(second) => format!(
            "{:>9.1}s second  {} episode={}",
            second.at_ms as f64 / 1000.0,
            second.text(),
            second.episode
        ),
    }
}

/// A tty, a file, or standard input.
fn stream(args: &Args, watch: &mut Watch) -> Result<PacketCounts> {
    let path = Path::new(&args.from);
    if args.from == "-" {
        return read(BufReader::new(io::stdin().lock()), watch);
    }
    let meta = path.metadata().with_context(|| format!("opening {}", path.display()))?;
    if meta.is_file() {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        return read(BufReader::new(file), watch);
    }
    ensure!(!meta.is_dir(), "{} is a folder: name a tty or a file", path.display());
    let line = serial::open(path, args.baud)?;
    listen(&line, path, watch)
}

/// Packets from a tty. What comes before the first delimiter belongs to a packet that began before us.
fn listen(line: &OwnedFd, path: &Path, watch: &mut Watch) -> Result<PacketCounts> {
    let mut decoder = Decoder::new();
    let mut bytes = [0u8; 1024];
    let mut begun = false;
    while !watch.over() {
        let mut fds = [PollFd::new(line, PollFlags::IN)];
        let wait = Timespec { tv_sec: 0, tv_nsec: WAIT.as_nanos() as i64 };
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).with_context(|| format!("waiting for {}", path.display())),
        }
        let seen = fds[0].revents();
        if seen.contains(PollFlags::IN) {
            match rustix::io::read(line, &mut bytes) {
                Ok(0) => bail!("{} hung up", path.display()),
                Ok(len) => {
                    let mut fresh = &bytes[..len];
                    if !begun {
                        let Some(at) = fresh.iter().position(|&byte| byte == 0) else { continue };
                        fresh = &fresh[at..];
                        begun = true;
                    }
                    if !watch.packets(&mut decoder, fresh) {
                        break;
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            }
        } else if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
            bail!("{} hung up", path.display());
        }
    }
    Ok(decoder.counts())
}

/// A recording of packets or of JSON lines: the first byte says which.
fn read(mut input: impl BufRead, watch: &mut Watch) -> Result<PacketCounts> {
    let first = input.fill_buf().context("reading the input")?.first().copied();
    let mut decoder = Decoder::new();
    if first == Some(b'{') {
        for line in input.lines() {
            let line = line.context("reading the input")?;
            let going = match serde_json::from_str::<Line>(&line) {
                Ok(line) => watch.show(&line),
                Err(_) => {
                    watch.bad_lines += 1;
                    true
                }
            };
            if !going || watch.over() {
                break;
            }
        }
        return Ok(decoder.counts());
    }
    loop {
        let bytes = input.fill_buf().context("reading the input")?;
        let len = bytes.len();
        if len == 0 || !watch.packets(&mut decoder, bytes) {
            return Ok(decoder.counts());
        }
        input.consume(len);
    }
}

#[cfg(not(feature = "mqtt"))]
fn subscribe(_: &Args, scheme: &str, _: &str, _: &mut Watch) -> Result<PacketCounts> {
    bail!("{scheme}:// needs a build with the feature `mqtt`")
}

/// Everything that is said under the prefix of an address.
#[cfg(feature = "mqtt")]
fn subscribe(args: &Args, scheme: &str, rest: &str, watch: &mut Watch) -> Result<PacketCounts> {
    use crate::sink::mqtt::{Listener, Publication};
    let settings = args.secrets.settings(scheme, rest)?;
    let filter = match settings.prefix.as_str() {
        "" => "mien/#".into(),
        prefix => format!("{prefix}/#"),
    };
    let listener = Listener::open(&settings, &filter)?;
    let mut decoder = Decoder::new();
    while !watch.over() {
        let Some(Publication { topic, payload }) = listener.next(WAIT)? else { continue };
        let going = if topic.ends_with("/event/compact") {
            watch.packets(&mut decoder, &payload)
        } else if topic.ends_with("/availability") || topic.ends_with("/update") {
            writeln!(io::stderr(), "{topic}: {}", String::from_utf8_lossy(&payload)).is_ok()
        } else {
            match serde_json::from_slice::<Line>(&payload) {
                Ok(line) => watch.show(&line),
                Err(_) => {
                    watch.bad_lines += 1;
                    true
                }
            }
        };
        if !going {
            break;
        }
    }
    Ok(decoder.counts())
}
