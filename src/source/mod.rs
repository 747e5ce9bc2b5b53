//! Readings from the world: cameras, microphones, recorded clips, external producers. One file per kind.
//!
//! A source is a value that one thread owns: it calls `read` again and again with a short wait, and stops calling to shut
//! down. Loss and recovery are the source's own affair: it says so once in the log when an edge is lost and once when it
//! heals, and sends `Lost` with the time so far while it is away, so that windows go on.
//!
//! Shapes: a frame is `(height, width, 3)` u8 RGB; a chunk is `(samples,)` i16 at 16 kHz, one channel.
//! Units: `captured_ns` is the kernel's capture time on the monotonic clock (a clip's own time line for recordings).
//! Limits: buffers go round through a `Pool` of a fixed size; in steady state nothing is allocated.

use anyhow::Result;
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use zeroize::Zeroize;

#[cfg(feature = "camera")]
pub mod camera;
pub mod choose;
mod edge;
pub mod jpeg;
#[cfg(feature = "mic")]
pub mod mic;
pub mod pcm;
pub mod pipe;
pub mod pixels;
pub mod recorded;
pub mod resample;
pub mod settings;
#[cfg(feature = "camera")]
pub mod v4l2;
pub mod y4m;

pub use recorded::clip;
pub use settings::Settings;

/// Samples in a second of any `Chunk`.
pub const SAMPLE_RATE: u32 = 16_000;

/// The largest picture taken from anywhere, in pixels: 4096 x 4096, twice what a 4K camera gives. A window holds 8 of them.
pub const PIXELS_MAX: u64 = 1 << 24;

/// One camera image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub captured_ns: u64,
    pub height: u32,
    pub width: u32,
    /// `height * width * 3` bytes, RGB, rows top-down.
    pub rgb: Vec<u8>,
}

/// One period of sound, 16 kHz mono. `captured_ns` is the time of the first sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    pub captured_ns: u64,
    pub samples: Vec<i16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Modality {
    Video,
    Audio,
}

/// What a source says. Closed: the daemon handles each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    Frame(Frame),
    Chunk(Chunk),
    /// Readings of this modality between the last one and `at_ns` are missing (a gap, an unplugged device).
    Lost {
        modality: Modality,
        at_ns: u64,
    },
    /// A recording has no more of this modality.
    End {
        modality: Modality,
    },
}

/// Which modalities a source can send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gives {
    pub video: bool,
    pub audio: bool,
}

impl Gives {
    /// Takes away what a reading says has come to its end.
    pub fn heed(&mut self, reading: &Reading) {
        match reading {
            Reading::End { modality: Modality::Video } => self.video = false,
            Reading::End { modality: Modality::Audio } => self.audio = false,
            _ => {}
        }
    }

    pub fn nothing(self) -> bool {
        !self.video && !self.audio
    }
}

/// What a source has seen since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// Frames and chunks that came.
    pub readings: u64,
    /// Stretches that the device itself reported missing (sequence gaps, overruns).
    pub gaps: u64,
    /// Readings that arrived but could not be used (truncated JPEG, flagged by the driver).
    pub broken: u64,
    /// Times the device or the producer went away.
    pub losses: u64,
}

/// One edge of the world, owned by one thread.
pub trait Source: Send {
    fn gives(&self) -> Gives;

    /// Waits for the next reading, at most about `wait`. `None`: nothing yet, or the recording is over. An error is final.
    fn read(&mut self, wait: Duration) -> Result<Option<Reading>>;

    fn counts(&self) -> SourceCounts;

    /// Frames nearer to the last one than this may be passed over, before they are decoded.
    fn keep_apart(&mut self, _apart_ns: u64) {}
}

/// Which frames are worth decoding.
#[derive(Clone, Copy, Debug, Default)]
struct Apart {
    least_ns: u64,
    last_ns: Option<u64>,
}

impl Apart {
    fn new(least_ns: u64) -> Self {
        Self { least_ns, last_ns: None }
    }

    /// Whether a frame of this time may be passed over.
    fn is_near(&self, at_ns: u64) -> bool {
        self.last_ns.is_some_and(|last_ns| (last_ns..last_ns + self.least_ns).contains(&at_ns))
    }

    /// A frame of this time was decoded.
    fn keep(&mut self, at_ns: u64) {
        self.last_ns = Some(at_ns);
    }
}

/// Now on the clock of live readings.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Room of a buffer for sound: twice the tenth of a second that a source reads at once.
pub const SAMPLES_MOST: usize = SAMPLE_RATE as usize / 5;

/// Buffers that go round: a source takes one, whoever is done with a reading gives it back.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Spare>>);

#[derive(Debug, Default)]
struct Spare {
    rgb: Vec<Vec<u8>>,
    samples: Vec<Vec<i16>>,
    /// The first of each kind has been asked for.
    pictures: bool,
    chunks: bool,
}

impl Pool {
    /// Keeps at most so many spare buffers of each kind.
    pub fn new(frames: usize, chunks: usize) -> Self {
        let (rgb, samples) = (Vec::with_capacity(frames), Vec::with_capacity(chunks));
        Self(Arc::new(Mutex::new(Spare { rgb, samples, ..Spare::default() })))
    }

    /// A buffer of `bytes` with unspecified content. The first asked for brings all the spare ones with it, so that none is made later; the system
    /// gives them memory as they are used.
    pub fn rgb(&self, bytes: usize) -> Vec<u8> {
        let spare = &mut *self.spare();
        if !mem::replace(&mut spare.pictures, true) {
            let count = spare.rgb.capacity();
            spare.rgb.extend((0..count).map(|_| vec![0; bytes]));
        }
        let mut rgb = spare.rgb.pop().unwrap_or_default();
        rgb.resize(bytes, 0);
        rgb
    }

    /// An empty buffer with room for `most` samples; the rest as for `rgb`.
    pub fn samples(&self, most: usize) -> Vec<i16> {
        let spare = &mut *self.spare();
        if !mem::replace(&mut spare.chunks, true) {
            let count = spare.samples.capacity();
            spare.samples.extend((0..count).map(|_| Vec::with_capacity(most)));
        }
        let mut samples = spare.samples.pop().unwrap_or_default();
        samples.clear();
        samples.reserve(most);
        samples
    }

    /// Takes the buffer of a reading back; drops it where there are spares enough.
    pub fn give(&self, reading: Reading) {
        match reading {
            Reading::Frame(frame) => self.give_rgb(frame.rgb),
            Reading::Chunk(chunk) => self.give_samples(chunk.samples),
            Reading::Lost { .. } | Reading::End { .. } => {}
        }
    }

    pub fn give_rgb(&self, rgb: Vec<u8>) {
        let mut spare = self.spare();
        if spare.rgb.len() < spare.rgb.capacity() {
            spare.rgb.push(rgb);
        }
    }

    pub fn give_samples(&self, samples: Vec<i16>) {
        let mut spare = self.spare();
        if spare.samples.len() < spare.samples.capacity() {
            spare.samples.push(samples);
        }
    }

    /// Overwrites what is left of pictures and sound in the spare buffers, also beyond what the newest reading filled.
    pub fn wipe(&self) {
        let mut spare = self.spare();
        spare.rgb.iter_mut().for_each(Zeroize::zeroize);
        spare.samples.iter_mut().for_each(Zeroize::zeroize);
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sample in [-1, 1] as i16, saturated; NaN becomes 0.
pub fn sample_i16(sample: f32) -> i16 {
    (sample * 32_768.0).round_ties_even() as i16
}

/// An i16 sample in [-1, 1).
pub fn sample_f32(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}
