//! Recorded clips as a source: a folder of images with a WAV, a WAV, an MJPEG/PCM AVI, an image, or anything that ffmpeg reads.
//!
//! Units: `captured_ns` starts at 0 with the clip: frame `k` at `k / rate`, sample `k` at `k / 16000` s.
//! Order: by the time at which a reading is whole, pictures before sound; the same clip gives the same readings every time.
//! Limits: one picture and a few chunks are held, however long the clip is.

use super::{
    Chunk, Counts, Frame, Gives, Modality, Pool, Reading, SAMPLE_RATE, SAMPLES_MOST, Source,
    avi::{self, AviPictures, AviSound},
    ffmpeg::{self, Probe},
    folder::{self, Folder},
    sample_i16,
    wav::Wav,
};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// Samples in a chunk: 100 ms.
const CHUNK: usize = SAMPLE_RATE as usize / 10;

#[derive(Clone, Debug, Deserialize)]
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

impl Settings {
    pub fn check(&self) -> Result<()> {
        let rate = self.frames_per_second;
        ensure!((1..=1_000).contains(&rate), "clip: frames_per_second = {rate}: 1 to 1000 can be used");
        Ok(())
    }
}

fn paced() -> bool {
    true
}

fn frames_per_second() -> u32 {
    25
}

/// Pictures per second as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub num: u32,
    pub den: u32,
}

impl Rate {
    /// A fraction with a zero in it becomes 25.
    pub fn new(num: u32, den: u32) -> Self {
        if num == 0 || den == 0 { Self { num: 25, den: 1 } } else { Self { num, den } }
    }

    pub fn per_second(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }

    /// The time of picture `index`.
    pub fn at_ns(self, index: u64) -> u64 {
        let at = u128::from(index) * u128::from(self.den) * 1_000_000_000 / u128::from(self.num);
        at.try_into().unwrap_or(u64::MAX)
    }
}

/// One step along a track.
pub(super) enum Step<T> {
    Next(T),
    /// Nothing within the wait.
    Wait,
    End,
}

/// A picture track, read forward once.
pub(super) trait Pictures: Send {
    fn next(&mut self, pool: &Pool, wait: Duration) -> Result<Step<Frame>>;

    /// Passes over one picture without decoding; false at the end.
    fn skip(&mut self) -> Result<bool>;

    /// The number of the picture that `next` would look at first.
    fn position(&self) -> u64;

    /// Pictures that could not be decoded.
    fn broken(&self) -> u64 {
        0
    }
}

/// A sound track, read forward once: appends 16 kHz mono.
pub(super) trait Sound: Send {
    fn next(&mut self, into: &mut Vec<f32>, wait: Duration) -> Result<Step<()>>;
}

/// What a path holds and how it is read.
pub(super) enum Kind {
    Folder { images: Vec<PathBuf>, sound: Option<PathBuf> },
    Avi(avi::Header),
    Ffmpeg(Probe),
}

impl Kind {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let name = path.display();
        let facts = fs::metadata(path).with_context(|| format!("cannot open the clip {name}"))?;
        if facts.is_dir() {
            let folder::Listing { images, mut sounds } = folder::list(path)?;
            return Ok(Self::Folder { images, sound: sounds.pop() });
        }
        ensure!(facts.len() > 0, "the clip {name} is empty (0 bytes)");
        let mut start = Vec::new();
        File::open(path)
            .and_then(|file| file.take(12).read_to_end(&mut start))
            .with_context(|| format!("cannot read the clip {name}"))?;
        let kind = match &start[..] {
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] => {
                Self::Folder { images: Vec::new(), sound: Some(path.to_owned()) }
            }
            [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' '] => {
                let header = avi::header(path)?;
                let ours = header.video.as_ref().is_none_or(|video| video.jpeg)
                    && header.audio.as_ref().is_none_or(avi::Audio::pcm);
                if ours { Self::Avi(header) } else { Self::Ffmpeg(ffmpeg::PROGRAMS.probe(path)?) }
            }
            [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => {
                Self::Folder { images: vec![path.to_owned()], sound: None }
            }
            _ => Self::Ffmpeg(ffmpeg::PROGRAMS.probe(path)?),
        };
        let gives = kind.gives();
        ensure!(gives.video || gives.audio, "the clip {name} has neither pictures nor sound");
        Ok(kind)
    }

    pub(super) fn gives(&self) -> Gives {
        match self {
            Self::Folder { images, sound } => Gives { video: !images.is_empty(), audio: sound.is_some() },
            Self::Avi(header) => Gives { video: header.video.is_some(), audio: header.audio.is_some() },
            Self::Ffmpeg(probe) => Gives { video: probe.video.is_some(), audio: probe.audio },
        }
    }

    pub(super) fn pictures(&self, path: &Path, folder_rate: Rate) -> Result<Option<Box<dyn Pictures>>> {
        Ok(match self {
            Self::Folder { images, .. } if images.is_empty() => None,
            Self::Folder { images, .. } => Some(Box::new(Folder::new(images.clone(), folder_rate))),
            Self::Avi(header) => match &header.video {
                Some(video) => Some(Box::new(AviPictures::open(path, video)?)),
                None => None,
            },
            Self::Ffmpeg(probe) => match probe.video {
                Some(rate) => Some(Box::new(ffmpeg::PROGRAMS.pictures(path, rate)?)),
                None => None,
            },
        })
    }

    /// The sound track, of which perhaps only the first `seconds` are wanted.
    pub(super) fn sound(&self, path: &Path, seconds: Option<u32>) -> Result<Option<Box<dyn Sound>>> {
        Ok(match self {
            Self::Folder { sound: None, .. } => None,
            Self::Folder { sound: Some(wav), .. } => Some(Box::new(Wav::open(wav)?)),
            Self::Avi(header) => match &header.audio {
                Some(audio) => Some(Box::new(AviSound::open(path, audio)?)),
                None => None,
            },
            Self::Ffmpeg(probe) if probe.audio => Some(Box::new(ffmpeg::PROGRAMS.sound(path, seconds)?)),
            Self::Ffmpeg(_) => None,
        })
    }
}

/// A clip that is being played.
pub struct Clip {
    gives: Gives,
    paced: bool,
    started: Option<Instant>,
    pictures: Option<Box<dyn Pictures>>,
    sound: Option<Box<dyn Sound>>,
    frame: Option<Frame>,
    samples: Vec<f32>,
    samples_taken: usize,
    sound_over: bool,
    sent: u64,
    pool: Pool,
    counts: Counts,
}

impl Clip {
    pub fn open(settings: &Settings, pool: &Pool) -> Result<Self> {
        let path = &settings.path;
        settings.check()?;
        let kind = Kind::of(path)?;
        Ok(Self {
            gives: kind.gives(),
            paced: settings.paced,
            started: None,
            pictures: kind.pictures(path, Rate::new(settings.frames_per_second, 1))?,
            sound: kind.sound(path, None)?,
            frame: None,
            samples: Vec::with_capacity(1 << 16),
            samples_taken: 0,
            sound_over: false,
            sent: 0,
            pool: pool.clone(),
            counts: Counts::default(),
        })
    }

    /// Looks ahead until a picture (or the end of them) and a chunk (or the end of sound) are known.
    fn look(&mut self, wait: Duration) -> Result<Look> {
        if self.frame.is_none()
            && let Some(pictures) = &mut self.pictures
        {
            match pictures.next(&self.pool, wait)? {
                Step::Next(frame) => self.frame = Some(frame),
                Step::Wait => return Ok(Look::Wait),
                Step::End => {
                    self.counts.broken += pictures.broken();
                    self.pictures = None;
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

    fn counts(&self) -> Counts {
        self.counts
    }
}

/// Says whether a clip can be played, and what it gives.
pub fn probe(settings: &Settings) -> Result<Gives> {
    Clip::open(settings, &Pool::default()).map(|clip| clip.gives())
}
