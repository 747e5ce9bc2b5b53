//! An ALSA microphone: captured at a rate and with channels that the device itself has, mixed and resampled to 16 kHz mono.
//!
//! Choice: 16 kHz where the device has it, else 48, 44.1, 32, 96, 8 kHz, else the nearest to 48; one channel where it has
//! one, else two, else the fewest. Formats: S16, S32, FLOAT, S24 in three or four bytes, little endian.
//! Units: `captured_ns` is taken from the driver's monotonic stamp and the samples that wait behind it, smoothed over periods.
//! Recovery: an overrun (EPIPE, POLLERR) is prepared and started again, a suspended stream (ESTRPIPE) resumed; both are told as
//! a gap. A device that is gone (ENODEV, POLLHUP, no samples for `stall_ms`) is closed and looked for again.

use super::{
    Chunk, Gives, Modality, Pool, Reading, SAMPLE_RATE, SAMPLES_MOST, Source, SourceCounts,
    choose::{Miss, Named, choose},
    edge::{DEVICE_STABLE, Edge},
    monotonic_ns,
    pcm::Pcm,
    resample::Resampler,
    sample_i16,
};
use alsa::{
    Card, Ctl, Direction, Output, PCM, ValueOr,
    card::Iter,
    ctl::DeviceIter,
    pcm::{Access, Format, HwParams, State, TstampType},
    poll::{self, Descriptors, Flags, pollfd},
};
use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

const PERIOD_US: u32 = 20_000;
const BUFFER_US: u32 = 500_000;

/// A measured stamp this far after the expected one is believed at once.
const STAMP_JUMP_NS: u64 = 50_000_000;
/// Otherwise stamps move towards what is measured by at most this in one read.
const STAMP_SLEW_NS: i64 = 5_000_000;

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// An ALSA name (`hw:1,0`, `default`), a card's id or a card's name. Empty: the only card that can record.
    pub device: String,
    /// Rate to capture at, in Hz; the device must have it. Unset: chosen.
    pub rate: Option<u32>,
    /// Channels to capture; the device must have so many. Unset: chosen.
    pub channels: Option<u32>,
    /// How long the device may be silent before it is taken for gone.
    pub stall_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { device: String::new(), rate: None, channels: None, stall_ms: 2_000 }
    }
}

impl Settings {
    pub const PATHS: &[&str] = &[];

    pub fn check(&self) -> Result<()> {
        let Self { rate, channels, stall_ms, .. } = self;
        let rate_fits = rate.is_none_or(|rate| (4_000..=384_000).contains(&rate));
        ensure!(rate_fits, "mic: rate = {}: 4000 to 384000 can be used", rate.unwrap_or(0));
        let channels_fit = channels.is_none_or(|channels| (1..=64).contains(&channels));
        ensure!(channels_fit, "mic: channels = {}: 1 to 64 can be used", channels.unwrap_or(0));
        ensure!((100..=120_000).contains(stall_ms), "mic: stall_ms = {stall_ms}: 100 to 120000 can be used");
        Ok(())
    }

    pub fn gives(&self) -> Result<Gives> {
        Ok(Gives { video: false, audio: true })
    }

    /// Says whether it is there and usable, and keeps nothing open.
    pub fn probe(&self) -> Result<()> {
        self.check()?;
        open(self).map(drop).map_err(Miss::into_error)
    }

    pub fn open(&self, pool: &Pool) -> Result<Box<dyn Source>> {
        Ok(Box::new(Mic::open(self, pool)?))
    }
}

/// A sound card's recording device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name to open it by.
    pub pcm: String,
    pub id: String,
    pub card: String,
    pub longname: String,
    pub device: String,
}

impl Named for Found {
    const KIND: &str = "microphone";
    const BY: &str = "ALSA name";

    fn goes_by(&self, name: &str) -> bool {
        [&self.id, &self.card, &self.longname].into_iter().any(|own| own == name)
    }

    fn describe(&self) -> String {
        format!("{} ({})", self.pcm, self.card)
    }
}

/// Every device that can record.
pub fn list() -> Vec<Found> {
    quiet();
    let mut all = Vec::new();
    for card in Iter::new().flatten() {
        list_card(&card, &mut all);
    }
    all
}

fn list_card(card: &Card, all: &mut Vec<Found>) {
    let Ok(control) = Ctl::from_card(card, true) else { return };
    let id = control.card_info().ok().and_then(|info| info.get_id().map(str::to_string).ok());
    let id = id.unwrap_or_else(|| card.get_index().to_string());
    for device in DeviceIter::new(&control) {
        let Ok(info) = control.pcm_info(device as u32, 0, Direction::Capture) else { continue };
        all.push(Found {
            pcm: format!("hw:CARD={id},DEV={device}"),
            id: id.clone(),
            card: card.get_name().unwrap_or_default(),
            longname: card.get_longname().unwrap_or_default(),
            device: info.get_name().unwrap_or("").to_string(),
        });
    }
}

/// libasound writes to standard error by itself; what matters comes back as errors.
fn quiet() {
    let _ = Output::local_error_handler();
}

fn choose_device(name: &str) -> Result<String, Miss> {
    let mut all = list();
    if name.contains(':') || (!name.is_empty() && !all.iter().any(|found| found.goes_by(name))) {
        return Ok(name.to_string());
    }
    if !name.is_empty() {
        // A card that is named stands for its first device.
        all.dedup_by(|next, first| next.id == first.id);
    }
    choose(&all, name).map(|found| found.pcm.clone())
}

/// A device that is capturing.
struct Capturing {
    pcm: PCM,
    format: Pcm,
    channels: usize,
    rate: u32,
    fds: Vec<pollfd>,
    bytes: Vec<u8>,
    interleaved: Vec<f32>,
    resampler: Resampler,
    mono: Vec<f32>,
    /// Device frames since the resampler started afresh.
    taken: u64,
    /// The stamp of the next device frame as expected from the ones before.
    next_ns: Option<u64>,
    last_ns: u64,
    fresh: Instant,
}

const FORMATS: [(Format, Pcm); 5] = [
    (Format::S16LE, Pcm::I16),
    (Format::S32LE, Pcm::I32),
    (Format::FloatLE, Pcm::F32),
    (Format::S24LE, Pcm::I24In32),
    (Format::S243LE, Pcm::I24),
];

/// Fixes the parameters: format, rate, channels.
fn configure(pcm: &PCM, settings: &Settings) -> Result<(Pcm, u32, u32)> {
    let params = HwParams::any(pcm).context("it has no capture parameters")?;
    let _ = params.set_rate_resample(false);
    params.set_access(Access::RWInterleaved).context("it cannot be read interleaved")?;
    let usable = FORMATS.iter().find(|(format, _)| params.test_format(*format).is_ok());
    let (format, pcm_format) = usable.context("it offers none of S16, S32, FLOAT, S24, little endian")?;
    params.set_format(*format)?;
    match settings.channels {
        Some(channels) => {
            let range = (params.get_channels_min().unwrap_or(0), params.get_channels_max().unwrap_or(0));
            params.set_channels(channels).with_context(|| {
                format!(
                    "it has no {channels} channels (channels = {channels}) but {} to {}",
                    range.0, range.1
                )
            })?;
        }
        None => {
            let simple = [1, 2].into_iter().find(|&channels| params.test_channels(channels).is_ok());
            let channels = simple.map_or_else(|| params.get_channels_min(), Ok)?;
            params.set_channels(channels)?;
        }
    }
    let rate = match settings.rate {
        Some(rate) => {
            let range = (params.get_rate_min().unwrap_or(0), params.get_rate_max().unwrap_or(0));
            params.set_rate(rate, ValueOr::Nearest).with_context(|| {
                format!("it has no {rate} Hz (rate = {rate}); its rates lie in {} to {} Hz", range.0, range.1)
            })?;
            rate
        }
        None => {
            let usual = [SAMPLE_RATE, 48_000, 44_100, 32_000, 96_000, 8_000];
            match usual.into_iter().find(|&rate| params.test_rate(rate).is_ok()) {
                Some(rate) => {
                    params.set_rate(rate, ValueOr::Nearest)?;
                    rate
                }
                None => params.set_rate_near(48_000, ValueOr::Nearest)?,
            }
        }
    };
    params.set_buffer_time_near(BUFFER_US, ValueOr::Nearest)?;
    params.set_period_time_near(PERIOD_US, ValueOr::Nearest)?;
    pcm.hw_params(&params).context("it does not take the chosen parameters")?;
    let channels = params.get_channels()?;
    let software = pcm.sw_params_current()?;
    let _ = software.set_tstamp_mode(true);
    let _ = software.set_tstamp_type(TstampType::Monotonic);
    software.set_avail_min(params.get_period_size()?)?;
    pcm.sw_params(&software)?;
    Ok((*pcm_format, rate, channels))
}

fn open(settings: &Settings) -> Result<Capturing, Miss> {
    quiet();
    let name = choose_device(&settings.device)?;
    let pcm = PCM::new(&name, Direction::Capture, true).map_err(|error| {
        let why = match error.errno() {
            libc::ENOENT | libc::ENODEV => "is not there; `mien doctor` lists what is",
            libc::EBUSY => "is in use by another program",
            libc::EACCES | libc::EPERM => "may not be opened by this user; add the user to the group `audio`",
            _ => "cannot be opened",
        };
        Miss::Away(anyhow::Error::from(error).context(format!("microphone {name} {why}")))
    })?;
    let (format, rate, channels) = configure(&pcm, settings)
        .map_err(|error| Miss::Refused(error.context(format!("microphone {name} cannot be used"))))?;
    let resampler = Resampler::new(rate, channels as usize).map_err(Miss::Refused)?;
    let away =
        |error: alsa::Error| Miss::Away(anyhow::Error::from(error).context(format!("microphone {name}")));
    pcm.prepare().and_then(|()| pcm.start()).map_err(away)?;
    let fds = pcm.get().map_err(away)?;
    let frames = (rate / 10) as usize;
    let samples = frames * channels as usize;
    log::info!("mic={name} rate={rate} channels={channels} format={format:?}");
    Ok(Capturing {
        pcm,
        format,
        channels: channels as usize,
        rate,
        fds,
        bytes: vec![0; samples * format.bytes()],
        interleaved: Vec::with_capacity(samples),
        resampler,
        mono: Vec::with_capacity(SAMPLE_RATE as usize / 5),
        taken: 0,
        next_ns: None,
        last_ns: 0,
        fresh: Instant::now(),
    })
}

/// What waiting for the device came to.
enum Woken {
    Samples,
    Nothing,
    Overrun,
    Suspended,
    Gone(anyhow::Error),
}

impl Capturing {
    fn wait(&mut self, wait: Duration) -> Woken {
        if let Err(error) = self.pcm.fill(&mut self.fds) {
            return Woken::Gone(error.into());
        }
        match poll::poll(&mut self.fds, wait.as_millis().min(60_000) as i32) {
            Ok(0) => return Woken::Nothing,
            Err(error) if error.errno().abs() == libc::EINTR => return Woken::Nothing,
            Err(error) => return Woken::Gone(error.into()),
            Ok(_) => {}
        }
        match self.pcm.revents(&self.fds) {
            Ok(flags) if flags.intersects(Flags::HUP | Flags::NVAL) => {
                Woken::Gone(anyhow!("the device hung up"))
            }
            Ok(flags) if flags.contains(Flags::ERR) => match self.pcm.state() {
                State::Suspended => Woken::Suspended,
                State::Disconnected => Woken::Gone(anyhow!("the device is disconnected")),
                _ => Woken::Overrun,
            },
            Ok(flags) if flags.contains(Flags::IN) => Woken::Samples,
            Ok(_) => Woken::Nothing,
            Err(error) => self.sort(error),
        }
    }

    fn sort(&self, error: alsa::Error) -> Woken {
        match error.errno().abs() {
            libc::EAGAIN | libc::EINTR => Woken::Nothing,
            libc::EPIPE => Woken::Overrun,
            libc::ESTRPIPE => Woken::Suspended,
            _ => Woken::Gone(error.into()),
        }
    }

    /// The stamp of the next frame to be read, before it is read.
    fn measure(&self) -> u64 {
        let now_ns = monotonic_ns();
        let Ok(status) = self.pcm.status() else { return now_ns };
        let stamp = status.get_htstamp();
        let stamp_ns = (stamp.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(stamp.tv_nsec as u64);
        let stamp_ns = if stamp_ns.abs_diff(now_ns) < 1_000_000_000 { stamp_ns } else { now_ns };
        let waiting = status.get_avail().clamp(0, 2 * i64::from(self.rate)) as u64;
        stamp_ns.saturating_sub(waiting * 1_000_000_000 / u64::from(self.rate))
    }

    /// Reads what is there, at most 100 ms: the number of frames, and the stamp of the first.
    fn capture(&mut self) -> Result<Option<u64>, Woken> {
        let measured_ns = self.measure();
        let frames = match self.pcm.io_bytes().readi(&mut self.bytes) {
            Ok(0) => return Ok(None),
            Ok(frames) => frames,
            Err(error) => return Err(self.sort(error)),
        };
        let stamp_ns = match self.next_ns {
            Some(expected_ns) if measured_ns < expected_ns + STAMP_JUMP_NS => {
                let off_ns = (measured_ns as i64).wrapping_sub(expected_ns as i64);
                expected_ns.saturating_add_signed((off_ns / 16).clamp(-STAMP_SLEW_NS, STAMP_SLEW_NS))
            }
            _ => measured_ns,
        };
        let stamp_ns = stamp_ns.max(self.last_ns);
        self.last_ns = stamp_ns;
        let ns_of = |frames: u64, rate: u32| frames * 1_000_000_000 / u64::from(rate);
        self.next_ns = Some(stamp_ns + ns_of(frames as u64, self.rate));
        self.interleaved.clear();
        let bytes = frames * self.channels * self.format.bytes();
        self.format.read(&self.bytes[..bytes], &mut self.interleaved);
        self.mono.clear();
        let made_ns = ns_of(self.resampler.made(), SAMPLE_RATE);
        let taken_ns = ns_of(self.taken, self.rate);
        self.resampler.push(&self.interleaved, &mut self.mono);
        self.taken += frames as u64;
        // What comes out now began before what went in now, by the time that the filter holds back.
        let captured_ns = stamp_ns.saturating_sub(taken_ns.saturating_sub(made_ns));
        Ok((!self.mono.is_empty()).then_some(captured_ns))
    }

    fn afresh(&mut self) {
        self.resampler.reset();
        self.taken = 0;
        self.next_ns = None;
    }

    /// Starts again after an overrun or a suspension.
    fn restart(&mut self, suspended: bool) -> Result<()> {
        self.afresh();
        for _ in 0..20 {
            if !suspended {
                break;
            }
            match self.pcm.resume() {
                Ok(()) => return Ok(()),
                Err(error) if error.errno().abs() == libc::EAGAIN => sleep(Duration::from_millis(5)),
                // Not every device can resume; all can start anew.
                Err(_) => break,
            }
        }
        self.pcm.prepare().context("preparing again")?;
        self.pcm.start().context("starting again")
    }
}

pub struct Mic {
    settings: Settings,
    pool: Pool,
    capturing: Option<Capturing>,
    edge: Edge,
    counts: SourceCounts,
}

impl Mic {
    /// A microphone that is absent is waited for; one that cannot be used is an error.
    pub fn open(settings: &Settings, pool: &Pool) -> Result<Self> {
        settings.check()?;
        let mut mic = Self {
            settings: settings.clone(),
            pool: pool.clone(),
            capturing: None,
            edge: Edge::new("mic", Modality::Audio, DEVICE_STABLE),
            counts: SourceCounts::default(),
        };
        match open(settings) {
            Ok(capturing) => mic.capturing = Some(capturing),
            Err(Miss::Refused(error)) => return Err(error),
            Err(Miss::Away(error)) => mic.edge.fails(&error),
        }
        Ok(mic)
    }

    fn lose(&mut self, why: &anyhow::Error) -> Option<Reading> {
        self.capturing = None;
        self.edge.fails(why);
        None
    }

    fn gap(&mut self, suspended: bool) -> Option<Reading> {
        self.counts.gaps += 1;
        log::debug!("mic gap={}", if suspended { "suspended" } else { "overrun" });
        let restarted = self.capturing.as_mut().map_or(Ok(()), |capturing| capturing.restart(suspended));
        if let Err(error) = restarted {
            return self.lose(&error);
        }
        Some(Reading::Lost { modality: Modality::Audio, at_ns: monotonic_ns() })
    }
}

impl Source for Mic {
    fn gives(&self) -> Gives {
        Gives { video: false, audio: true }
    }

    fn read(&mut self, wait: Duration) -> Result<Option<Reading>> {
        let Some(capturing) = &mut self.capturing else {
            let Some(reading) = self.edge.wait(wait) else {
                match open(&self.settings) {
                    Ok(capturing) => self.capturing = Some(capturing),
                    Err(Miss::Away(error) | Miss::Refused(error)) => self.edge.fails(&error),
                }
                return Ok(None);
            };
            return Ok(reading);
        };
        let stamp_ns = match capturing.wait(wait) {
            Woken::Samples => capturing.capture(),
            Woken::Nothing => Ok(None),
            trouble => Err(trouble),
        };
        match stamp_ns {
            Ok(Some(captured_ns)) => {
                capturing.fresh = Instant::now();
                let mut samples = self.pool.samples(SAMPLES_MOST);
                samples.extend(capturing.mono.iter().map(|&sample| sample_i16(sample)));
                self.edge.works();
                self.counts.readings += 1;
                Ok(Some(Reading::Chunk(Chunk { captured_ns, samples })))
            }
            Ok(None) | Err(Woken::Nothing | Woken::Samples) => {
                let limit_ms = self.settings.stall_ms;
                if capturing.fresh.elapsed() > Duration::from_millis(limit_ms.into()) {
                    return Ok(self.lose(&anyhow!("no samples for {limit_ms} ms")));
                }
                Ok(self.edge.told())
            }
            Err(Woken::Overrun) => Ok(self.gap(false)),
            Err(Woken::Suspended) => Ok(self.gap(true)),
            Err(Woken::Gone(error)) => Ok(self.lose(&error)),
        }
    }

    fn counts(&self) -> SourceCounts {
        SourceCounts { losses: self.edge.losses(), ..self.counts }
    }
}
