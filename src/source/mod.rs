//! Readings from the world: cameras, microphones, recorded clips, external producers. One file per kind.
//!
//! Shapes: a frame is `(height, width, 3)` u8 RGB; a chunk is `(samples,)` i16 at 16 kHz, one channel.
//! Units: `captured_ns` is the kernel's capture time on the monotonic clock (a clip's own time line for recordings).

/// One camera image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub captured_ns: u64,
    pub height: u32,
    pub width: u32,
    /// `height * width * 3` bytes, RGB, rows top-down.
    pub rgb: Vec<u8>,
}

/// One period of sound, 16 kHz mono. `captured_ns` is the time of the first sample.
#[derive(Clone, Debug, PartialEq, Eq)]
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
