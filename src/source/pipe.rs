//! An external producer: Y4M pictures and raw s16le sound written to FIFOs or files, for cameras that we do not speak to.
//!
//! Units: a reading is stamped by its number and the stream's own rate, counted from the arrival of the first; a producer that falls
//! more than `SLACK_NS` behind its rate is counted from its new arrival, and the gap is told.
//! Loss: a FIFO whose writer has gone waits for the next one, which starts with a header again. A file ends.

use super::{
    Apart, Chunk, Frame, Gives, Modality, Pool, Reading, SAMPLE_RATE, SAMPLES_MOST, Source, SourceCounts,
    edge::Edge,
    monotonic_ns,
    pcm::Pcm,
    resample::Resampler,
    sample_i16,
    y4m::{Header, LINE_BYTES_MAX},
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fstat, open},
    io::{Errno, read},
    pipe::fcntl_setpipe_size,
};
use serde::Deserialize;
use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// How far behind its rate a producer may fall before its readings are stamped anew.
const SLACK_NS: u64 = 500_000_000;

/// Sound is passed on in pieces of at least this and at most 100 ms.
const LEAST_MS: u32 = 20;

/// Room of a FIFO, the most that Linux gives to any user by default.
const PIPE_BYTES: usize = 1 << 20;

/// A FIFO without a writer is looked at this often.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where Y4M comes from.
    pub video: Option<PathBuf>,
    /// Where raw little endian 16 bit sound comes from.
    pub audio: Option<PathBuf>,
    /// The sound's rate in Hz.
    #[serde(default = "audio_rate")]
    pub audio_rate: u32,
    /// The sound's interleaved channels.
    #[serde(default = "audio_channels")]
    pub audio_channels: u32,
}

fn audio_rate() -> u32 {
    SAMPLE_RATE
}

fn audio_channels() -> u32 {
    1
}

impl Settings {
    pub const PATHS: &[&str] = &["video", "audio"];

    pub fn check(&self) -> Result<()> {
        ensure!(self.video.is_some() || self.audio.is_some(), "pipe: set video, audio or both");
        Resampler::new(self.audio_rate, self.audio_channels as usize)
            .map(drop)
            .context("pipe: audio_rate, audio_channels")
    }

    pub fn gives(&self) -> Result<Gives> {
        Ok(Gives { video: self.video.is_some(), audio: self.audio.is_some() })
    }

    /// Says whether the paths are there.
    pub fn probe(&self) -> Result<()> {
        self.check()?;
        [&self.video, &self.audio].into_iter().flatten().try_for_each(|path| attach(path).map(drop))
    }

    pub fn open(&self, pool: &Pool) -> Result<Box<dyn Source>> {
        Ok(Box::new(Pipe::open(self, pool)?))
    }
}

fn attach(path: &Path) -> Result<(OwnedFd, bool)> {
    let name = path.display();
    let fd =
        open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
            let hint =
                if error == Errno::NOENT { format!("; make it with `mkfifo {name}`") } else { String::new() };
            anyhow!("cannot open the pipe {name}: {error}{hint}")
        })?;
    let facts = fstat(&fd).with_context(|| format!("cannot look at the pipe {name}"))?;
    let kind = FileType::from_raw_mode(facts.st_mode);
    ensure!(kind != FileType::Directory, "the pipe {name} is a folder");
    if kind == FileType::Fifo {
        // Fewer turns between producer and reader. A system that does not allow it keeps its own size.
        let _ = fcntl_setpipe_size(&fd, PIPE_BYTES);
    }
    Ok((fd, kind == FileType::RegularFile))
}

/// What one look at a stream brought.
enum Look {
    Bytes(usize),
    Nothing,
    /// The writer has gone, or the file is over.
    End,
}

/// One stream of bytes that comes and goes.
struct Port {
    path: PathBuf,
    fd: Option<OwnedFd>,
    file: bool,
    /// Bytes have come from the present writer.
    flowing: bool,
    over: bool,
    edge: Edge,
}

impl Port {
    fn new(path: &Path, modality: Modality) -> Self {
        let name = if modality == Modality::Video { "pipe-video" } else { "pipe-audio" };
        let edge = Edge::new(name, modality, Duration::ZERO);
        Self { path: path.to_owned(), fd: None, file: false, flowing: false, over: false, edge }
    }

    /// Opens the path if it is not open; false while it cannot be.
    fn attached(&mut self) -> bool {
        if self.fd.is_some() {
            return true;
        }
        if !self.edge.is_due() {
            return false;
        }
        match attach(&self.path) {
            Ok((fd, file)) => (self.fd, self.file) = (Some(fd), file),
            Err(error) => self.edge.fails(&error),
        }
        self.fd.is_some()
    }

    fn read(&mut self, into: &mut [u8]) -> Result<Look> {
        let Some(fd) = &self.fd else { return Ok(Look::Nothing) };
        match read(fd, into) {
            Ok(0) if self.flowing || self.file => Ok(Look::End),
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => Ok(Look::Nothing),
            Ok(bytes) => {
                self.flowing = true;
                Ok(Look::Bytes(bytes))
            }
            Err(error) => bail!("reading the pipe {}: {error}", self.path.display()),
        }
    }

    /// The writer is gone or sends what cannot be read; `close` waits before the next try.
    fn lose(&mut self, why: &anyhow::Error, close: bool) {
        self.flowing = false;
        self.edge.fails(why);
        if close {
            self.fd = None;
        }
    }
}

/// Stamps by number and rate.
struct Stamps {
    /// The stamp of unit 0.
    base_ns: Option<u64>,
    units: u64,
}

impl Stamps {
    fn new() -> Self {
        Self { base_ns: None, units: 0 }
    }

    /// The stamp of the next `units`, of which `num / den` come in a second, and whether they follow on. They have just arrived
    /// whole; the first of them was there `lead` units ago.
    fn next(&mut self, units: u64, lead: u64, num: u32, den: u32) -> (u64, bool) {
        let ns = |units: u64| (u128::from(units) * u128::from(den) * 1_000_000_000 / u128::from(num)) as u64;
        let arrived_ns = monotonic_ns().saturating_sub(ns(lead));
        let expected_ns = self.base_ns.map(|base_ns| base_ns + ns(self.units));
        let follows = expected_ns.is_none_or(|expected_ns| arrived_ns <= expected_ns + SLACK_NS);
        if self.base_ns.is_none() || !follows {
            (self.base_ns, self.units) = (Some(arrived_ns), 0);
        }
        let stamp_ns = self.base_ns.unwrap_or(arrived_ns) + ns(self.units);
        self.units += units;
        (stamp_ns, follows)
    }
}

/// Where in a Y4M stream we are.
enum Place {
    Header,
    FrameLine(Header),
    Planes(Header),
}

struct Video {
    port: Port,
    place: Place,
    line: Vec<u8>,
    planes: Vec<u8>,
    filled: usize,
    stamps: Stamps,
    apart: Apart,
}

struct Audio {
    port: Port,
    rate: u32,
    channels: usize,
    bytes: Vec<u8>,
    filled: usize,
    interleaved: Vec<f32>,
    resampler: Resampler,
    mono: Vec<f32>,
    stamps: Stamps,
}

pub struct Pipe {
    video: Option<Video>,
    audio: Option<Audio>,
    pool: Pool,
    ready: VecDeque<Reading>,
    counts: SourceCounts,
}

impl Pipe {
    pub fn open(settings: &Settings, pool: &Pool) -> Result<Self> {
        settings.check()?;
        let (rate, channels) = (settings.audio_rate, settings.audio_channels as usize);
        let video = settings.video.as_deref().map(|path| Video {
            port: Port::new(path, Modality::Video),
            place: Place::Header,
            line: Vec::with_capacity(LINE_BYTES_MAX),
            planes: Vec::new(),
            filled: 0,
            stamps: Stamps::new(),
            apart: Apart::default(),
        });
        let audio = match settings.audio.as_deref() {
            None => None,
            Some(path) => Some(Audio {
                port: Port::new(path, Modality::Audio),
                rate,
                channels,
                bytes: vec![0; rate as usize / 10 * channels * 2],
                filled: 0,
                interleaved: Vec::with_capacity(rate as usize / 10 * channels),
                resampler: Resampler::new(rate, channels)?,
                mono: Vec::with_capacity(SAMPLE_RATE as usize / 5),
                stamps: Stamps::new(),
            }),
        };
        Ok(Self {
            video,
            audio,
            pool: pool.clone(),
            ready: VecDeque::with_capacity(8),
            counts: SourceCounts::default(),
        })
    }
}

impl Video {
    /// Reads what is there until a reading is ready.
    fn look(&mut self, pool: &Pool, ready: &mut VecDeque<Reading>, counts: &mut SourceCounts) -> Result<()> {
        while self.port.attached() && !self.port.over && ready.is_empty() {
            let look = match &self.place {
                Place::Planes(_) => self.port.read(&mut self.planes[self.filled..]),
                Place::Header | Place::FrameLine(_) => {
                    let mut byte = [0];
                    let look = self.port.read(&mut byte);
                    if let Ok(Look::Bytes(_)) = look {
                        self.line.push(byte[0]);
                    }
                    look
                }
            };
            let lost = match look {
                Ok(Look::Nothing) => return Ok(()),
                Ok(Look::Bytes(bytes)) => match self.step(bytes, pool, ready, counts) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Ok(Look::End) if self.port.file => {
                    self.port.over = true;
                    ready.push_back(Reading::End { modality: Modality::Video });
                    return Ok(());
                }
                Ok(Look::End) => {
                    self.port.lose(&anyhow!("the producer has gone"), false);
                    return self.afresh();
                }
                Err(error) => error,
            };
            if self.port.file {
                return Err(lost.context(format!("the pipe {}", self.port.path.display())));
            }
            self.port.lose(&lost, true);
            return self.afresh();
        }
        Ok(())
    }

    fn afresh(&mut self) -> Result<()> {
        (self.place, self.filled, self.stamps) = (Place::Header, 0, Stamps::new());
        self.line.clear();
        Ok(())
    }

    fn step(
        &mut self,
        bytes: usize,
        pool: &Pool,
        ready: &mut VecDeque<Reading>,
        counts: &mut SourceCounts,
    ) -> Result<()> {
        if let Place::Planes(header) = self.place {
            self.filled += bytes;
            if self.filled == self.planes.len() {
                self.show(header, pool, ready, counts);
                (self.place, self.filled) = (Place::FrameLine(header), 0);
            }
            return Ok(());
        }
        if self.line.last() != Some(&b'\n') {
            ensure!(
                self.line.len() < LINE_BYTES_MAX,
                "not a Y4M stream: a line of more than {LINE_BYTES_MAX} bytes"
            );
            return Ok(());
        }
        self.line.pop();
        self.place = match self.place {
            Place::FrameLine(header) => {
                ensure!(
                    self.line.starts_with(b"FRAME"),
                    "a Y4M stream that lost its step: no FRAME between frames"
                );
                Place::Planes(header)
            }
            _ => {
                let header = Header::parse(&self.line)?;
                self.planes.resize(header.frame_bytes(), 0);
                Place::FrameLine(header)
            }
        };
        self.line.clear();
        Ok(())
    }

    fn show(
        &mut self,
        header: Header,
        pool: &Pool,
        ready: &mut VecDeque<Reading>,
        counts: &mut SourceCounts,
    ) {
        let (captured_ns, follows) = self.stamps.next(1, 0, header.rate.num, header.rate.den);
        self.port.edge.works();
        counts.readings += 1;
        if !follows {
            counts.gaps += 1;
            ready.push_back(Reading::Lost { modality: Modality::Video, at_ns: captured_ns });
        }
        if self.apart.is_near(captured_ns) {
            return;
        }
        self.apart.keep(captured_ns);
        let mut rgb = pool.rgb(header.width * header.height * 3);
        header.rgb(&self.planes, &mut rgb);
        let (height, width) = (header.height as u32, header.width as u32);
        ready.push_back(Reading::Frame(Frame { captured_ns, height, width, rgb }));
    }
}

impl Audio {
    fn look(&mut self, pool: &Pool, ready: &mut VecDeque<Reading>, counts: &mut SourceCounts) -> Result<()> {
        while self.port.attached() && !self.port.over && ready.is_empty() {
            let lost = match self.port.read(&mut self.bytes[self.filled..]) {
                Ok(Look::Nothing) => return Ok(()),
                Ok(Look::Bytes(bytes)) => {
                    self.filled += bytes;
                    if self.filled >= self.rate as usize * LEAST_MS as usize / 1_000 * self.channels * 2 {
                        self.hear(false, pool, ready, counts);
                    }
                    continue;
                }
                Ok(Look::End) => {
                    self.hear(true, pool, ready, counts);
                    if self.port.file {
                        self.port.over = true;
                        ready.push_back(Reading::End { modality: Modality::Audio });
                        return Ok(());
                    }
                    anyhow!("the producer has gone")
                }
                Err(error) if self.port.file => return Err(error),
                Err(error) => error,
            };
            self.port.lose(&lost, false);
            (self.filled, self.stamps) = (0, Stamps::new());
            self.resampler.reset();
            return Ok(());
        }
        Ok(())
    }

    fn hear(&mut self, end: bool, pool: &Pool, ready: &mut VecDeque<Reading>, counts: &mut SourceCounts) {
        let frame = self.channels * 2;
        let whole = self.filled / frame * frame;
        self.interleaved.clear();
        Pcm::I16.read(&self.bytes[..whole], &mut self.interleaved);
        self.bytes.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        self.mono.clear();
        self.resampler.push(&self.interleaved, &mut self.mono);
        if end {
            self.resampler.finish(&mut self.mono);
        }
        if self.mono.is_empty() {
            return;
        }
        let units = self.mono.len() as u64;
        let (captured_ns, follows) = self.stamps.next(units, units, SAMPLE_RATE, 1);
        self.port.edge.works();
        if !follows {
            counts.gaps += 1;
            ready.push_back(Reading::Lost { modality: Modality::Audio, at_ns: captured_ns });
        }
        let mut samples = pool.samples(SAMPLES_MOST);
        samples.extend(self.mono.iter().map(|&sample| sample_i16(sample)));
        counts.readings += 1;
        ready.push_back(Reading::Chunk(Chunk { captured_ns, samples }));
    }
}

impl Source for Pipe {
    fn gives(&self) -> Gives {
        Gives { video: self.video.is_some(), audio: self.audio.is_some() }
    }

    fn read(&mut self, wait: Duration) -> Result<Option<Reading>> {
        let until = Instant::now() + wait;
        loop {
            if let Some(reading) = self.ready.pop_front() {
                return Ok(Some(reading));
            }
            let Self { video, audio, pool, ready, counts } = self;
            if let Some(audio) = audio {
                audio.look(pool, ready, counts)?;
            }
            if let Some(video) = video {
                video.look(pool, ready, counts)?;
            }
            if !self.ready.is_empty() {
                continue;
            }
            let ports = || {
                self.video.iter().map(|video| &video.port).chain(self.audio.iter().map(|audio| &audio.port))
            };
            let left = until.saturating_duration_since(Instant::now());
            let flowing = |port: &&Port| port.flowing && !port.over;
            let mut fds: heapless::Vec<PollFd<'_>, 2> = heapless::Vec::new();
            for fd in ports().filter(flowing).filter_map(|port| port.fd.as_ref()) {
                fds.push(PollFd::new(fd, PollFlags::IN)).unwrap_or_else(|_| unreachable!("two ports"));
            }
            // A FIFO without a writer cannot be waited for: it is ready all the time, or never.
            let all_flow = ports().filter(|port| !port.over).all(|port| port.flowing);
            let pause = if all_flow { left } else { left.min(LOOK) };
            if fds.is_empty() {
                sleep(pause);
            } else {
                let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
                match poll(&mut fds, Some(&pause)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error).context("waiting for the pipes"),
                }
            }
            drop(fds);
            let ports = [
                self.video.as_mut().map(|video| &mut video.port),
                self.audio.as_mut().map(|audio| &mut audio.port),
            ];
            for port in ports.into_iter().flatten().filter(|port| !port.over) {
                if !port.flowing && !port.edge.is_away() {
                    port.edge.fails(&anyhow!("no producer yet"));
                }
                self.ready.extend(port.edge.told());
            }
            if self.ready.is_empty() && Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    fn counts(&self) -> SourceCounts {
        let ports =
            self.video.iter().map(|video| &video.port).chain(self.audio.iter().map(|audio| &audio.port));
        SourceCounts { losses: ports.map(|port| port.edge.losses()).sum(), ..self.counts }
    }

    fn keep_apart(&mut self, apart_ns: u64) {
        if let Some(video) = &mut self.video {
            video.apart = Apart::new(apart_ns);
        }
    }
}
