//! Recorded clips as a source: a folder of images with a WAV, a WAV, an MJPEG/PCM AVI, an image, or anything that ffmpeg reads.
//!
//! Units: `captured_ns` starts at 0 with the clip: frame `k` at `k / rate`, sample `k` at `k / 16000` s.
//! Order: by the time at which a reading is whole, pictures before sound; the same clip gives the same readings every time.
//! Limits: one picture and a few chunks are held, however long the clip is.

use super::{
    kind::Kind,
    track::{Pictures, Rate, Sound, Step},
};
use crate::source::{
    Chunk, Frame, Gives, Modality, Pool, Reading, SAMPLE_RATE, SAMPLES_MOST, Source, SourceCounts, sample_i16,
};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

/// For the first picture of a recording.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// For the next reading of one.
const NEXT_WAIT: Duration = Duration::from_secs(60);

/// Samples in a chunk: 100 ms.
const CHUNK: usize = SAMPLE_RATE as usize / 10;

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// A file or a folder.
    pub path: PathBuf,
    /// At the speed of life; otherwise as fast as readings are taken.
    #[serde(default = "paced")]
    pub paced: bool,
    /// The rate of a folder of images; files know their own.
    #[serde(default = "frames_per_second")]
    pub frames_per_second: u32,
}

/// The next reading of a recording; `None` when all of `left` has come to its end. Fails where nothing comes for a minute.
pub fn next(source: &mut dyn Source, left: &mut Gives) -> Result<Option<Reading>> {
    if left.nothing() {
        return Ok(None);
    }
    let reading = source.read(NEXT_WAIT).context("reading the recording")?;
    let reading =
        reading.with_context(|| format!("the recording gave nothing for {} s", NEXT_WAIT.as_secs()))?;
    left.heed(&reading);
    Ok(Some(reading))
}

impl Settings {
    pub const PATHS: &[&str] = &["path"];

    pub fn check(&self) -> Result<()> {
        let rate = self.frames_per_second;
        ensure!((1..=1_000).contains(&rate), "clip: frames_per_second = {rate}: 1 to 1000 can be used");
        Ok(())
    }

    /// What the recording holds; it is looked into.
    pub fn gives(&self) -> Result<Gives> {
        let clip = Clip::open(self, &Pool::default());
        Ok(clip.with_context(|| format!("clip.path = {}", self.path.display()))?.gives())
    }

    /// Bytes of the first picture; 0 without one.
    pub fn picture_bytes(&self) -> usize {
        let first = |mut clip: Clip| loop {
            match clip.read(FIRST_WAIT).ok()?? {
                Reading::Frame(frame) => break Some(frame.rgb.len()),
                Reading::Chunk(_) | Reading::Lost { .. } => (),
                Reading::End { .. } => break None,
            }
        };
        let unpaced = Settings { paced: false, ..self.clone() };
        Clip::open(&unpaced, &Pool::default()).ok().and_then(first).unwrap_or(0)
    }

    pub fn probe(&self) -> Result<()> {
        self.gives().map(drop)
    }

    pub fn open(&self, pool: &Pool) -> Result<Box<dyn Source>> {
        let clip = Clip::open(self, pool);
        Ok(Box::new(clip.with_context(|| format!("opening the clip {}", self.path.display()))?))
    }
}

fn paced() -> bool {
    true
}

fn frames_per_second() -> u32 {
    25
}

/// A clip that is being played.
pub struct Clip {
    name: String,
    gives: Gives,
    paced: bool,
    started: Option<Instant>,
    pictures: Option<Box<dyn Pictures>>,
    sound: Option<Box<dyn Sound>>,
    frame: Option<Frame>,
    /// A picture could be read.
    shown: bool,
    samples: Vec<f32>,
    samples_taken: usize,
    sound_over: bool,
    sent: u64,
    pool: Pool,
    counts: SourceCounts,
}

impl Clip {
    pub fn open(settings: &Settings, pool: &Pool) -> Result<Self> {
        let path = &settings.path;
        settings.check()?;
        let kind = Kind::of(path)?;
        Ok(Self {
            name: path.display().to_string(),
            gives: kind.gives(),
            paced: settings.paced,
            started: None,
            pictures: kind.pictures(path, Rate::new(settings.frames_per_second, 1))?,
            sound: kind.sound(path, None)?,
            frame: None,
            shown: false,
            samples: Vec::with_capacity(1 << 16),
            samples_taken: 0,
            sound_over: false,
            sent: 0,
            pool: pool.clone(),
            counts: SourceCounts::default(),
        })
    }

    /// Looks ahead until a picture (or the end of them) and a chunk (or the end of sound) are known.
    fn look(&mut self, wait: Duration) -> Result<Look> {
        if self.frame.is_none()
            && let Some(pictures) = &mut self.pictures
        {
            match pictures.next(&self.pool, wait)? {
                Step::Next(frame) => {
                    self.shown = true;
                    self.frame = Some(frame);
                }
                Step::Wait => return Ok(Look::Wait),
                Step::End => {
                    let broken = pictures.broken();
                    self.counts.broken += broken;
                    let why = pictures.why_broken();
                    self.pictures = None;
                    if let Some(why) = why {
                        let name = &self.name;
                        ensure!(
                            self.shown,
                            "none of the {broken} pictures of the clip {name} could be read: {why}"
                        );
                        log::warn!("clip={name} pictures_left_out={broken}, the first: {why}");
                    }
                    return Ok(Look::End(Modality::Video));
                }
            }
        }
        while !self.sound_over && self.samples.len() - self.samples_taken < CHUNK {
            let Some(sound) = &mut self.sound else { break };
            self.samples.drain(..self.samples_taken);
            self.samples_taken = 0;
            match sound.next(&mut self.samples, wait)? {
                Step::Next(()) => {}
                Step::Wait => return Ok(Look::Wait),
                Step::End => self.sound_over = true,
            }
        }
        if self.sound.is_some() && self.sound_over && self.samples.len() == self.samples_taken {
            self.sound = None;
            if self.sent == 0 {
                log::warn!("clip={} has a sound track without a single sample: sound is missing", self.name);
            }
            return Ok(Look::End(Modality::Audio));
        }
        let chunk = (self.samples.len() - self.samples_taken).min(CHUNK);
        let whole_ns = samples_ns(self.sent + chunk as u64);
        Ok(match &self.frame {
            Some(frame) if chunk == 0 || frame.captured_ns <= whole_ns => Look::Frame(frame.captured_ns),
            None if chunk == 0 => Look::Over,
            _ => Look::Chunk(chunk, whole_ns),
        })
    }
}

enum Look {
    Wait,
    End(Modality),
    Frame(u64),
    /// So many samples, whole at that time.
    Chunk(usize, u64),
    Over,
}

fn samples_ns(samples: u64) -> u64 {
    samples * (1_000_000_000 / u64::from(SAMPLE_RATE))
}

impl Source for Clip {
    fn gives(&self) -> Gives {
        self.gives
    }

    fn read(&mut self, wait: Duration) -> Result<Option<Reading>> {
        let until = Instant::now() + wait;
        let look = self.look(wait)?;
        if let (true, Look::Frame(due) | Look::Chunk(_, due)) = (self.paced, &look) {
            let due = *self.started.get_or_insert_with(Instant::now) + Duration::from_nanos(*due);
            sleep(due.min(until).saturating_duration_since(Instant::now()));
            if due > until {
                return Ok(None);
            }
        }
        let reading = match look {
            Look::Wait => return Ok(None),
            Look::Over => {
                sleep(wait);
                return Ok(None);
            }
            Look::End(modality) => return Ok(Some(Reading::End { modality })),
            Look::Frame(_) => Reading::Frame(self.frame.take().expect("a frame was seen")),
            Look::Chunk(length, _) => {
                let mut samples = self.pool.samples(SAMPLES_MOST);
                let taken = &self.samples[self.samples_taken..][..length];
                samples.extend(taken.iter().map(|&sample| sample_i16(sample)));
                let captured_ns = samples_ns(self.sent);
                self.samples_taken += length;
                self.sent += length as u64;
                Reading::Chunk(Chunk { captured_ns, samples })
            }
        };
        self.counts.readings += 1;
        Ok(Some(reading))
    }

    fn counts(&self) -> SourceCounts {
        self.counts
    }
}
