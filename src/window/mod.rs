//! Readings to windows: the stretch of time that one inference sees, from rings that are sized at start.
//!
//! Shapes: a window has exactly `frames` pictures or none, and `window_ms * 16` samples in [-1, 1) or none.
//! Units: `_ns` on the capture clock; nothing here asks what time it is.
//! Grid: time is cut into cells of `window_ms / frames`, counted from the first reading. Of each cell the picture nearest to its
//! middle is kept, so windows that overlap share pictures and their ids. A cell without a picture shows its nearest neighbour's.
//! Due: a window goes out when every modality that is expected has passed its end, or one of them has passed it by `lateness_ms`;
//! at the end of recordings, while there are readings that no window has shown.
//! Size: with [`Windows::fit_to`], pictures that were kept are held as the model sees them, all but the newest.
//! Parts: with [`Windows::with_parts`], squares of a picture (faces) are kept beside it, each as the model sees it.
//! Invariant: windows come in order, `hop_ms` apart; a stretch without readings of more than `JUMP_MS` starts the grid anew.
//! Limits: sound of `window_ms + lateness_ms` and one picture per cell; a window is at most 30 s, and no longer than the bundle hears.

mod shelf;

use crate::source::{Chunk, Frame, Gives, Modality, Pool, Reading, SAMPLE_RATE, sample_f32};
use anyhow::{Result, ensure};
use serde::Deserialize;
use shelf::{Picture, Shelf};
use zeroize::Zeroize;

pub use shelf::{PARTS_MAX, Part};

/// The most pictures that a window can have.
pub const FRAMES_MAX: usize = 32;

/// The longest step from one window to the next.
pub const HOP_MS_MAX: u32 = 60_000;

/// A stamp further ahead than this is a new beginning, not a gap.
pub const JUMP_MS: u64 = 60_000;

/// Sound whose stamp is off by at most this follows on: stamps jitter, samples do not.
pub const JITTER_MS: u64 = 20;

/// The id of a face's picture is the picture's own with the face's number from this bit on: a device makes fewer pictures than this.
const WHO_SHIFT: u32 = 48;

/// Stamps from here on are no clock's.
const STAMP_NS_MAX: u64 = 1 << 62;

const SAMPLES_PER_MS: u64 = SAMPLE_RATE as u64 / 1_000;
const NS_PER_MS: u64 = 1_000_000;

/// Samples written between two looks at whether a window is due.
const PIECE: usize = 1_600;

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How much time one inference sees.
    pub window_ms: u32,
    /// The step from one window to the next, a multiple of a window's cell.
    pub hop_ms: u32,
    /// How long one modality waits for the other, in time of the data.
    pub lateness_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window_ms: 4_000, hop_ms: 1_000, lateness_ms: 500 }
    }
}

impl Settings {
    /// Refuses what cannot be for a model that looks at `frames` pictures.
    pub fn check(&self, frames: usize) -> Result<()> {
        let Self { window_ms, hop_ms, lateness_ms } = *self;
        ensure!(
            (1..=FRAMES_MAX).contains(&frames),
            "a window of {frames} pictures: 1 to {FRAMES_MAX} can be had"
        );
        ensure!((100..=30_000).contains(&window_ms), "window_ms = {window_ms}: 100 to 30000 can be used");
        ensure!((1..=HOP_MS_MAX).contains(&hop_ms), "hop_ms = {hop_ms}: 1 to {HOP_MS_MAX} can be used");
        ensure!(lateness_ms <= 10_000, "lateness_ms = {lateness_ms}: 0 to 10000 can be used");
        ensure!(
            (u64::from(hop_ms) * frames as u64).is_multiple_of(u64::from(window_ms)),
            "hop_ms = {hop_ms} is no multiple of window_ms / {frames} = {} ms: overlapping windows would share no pictures",
            f64::from(window_ms) / frames as f64
        );
        Ok(())
    }
}

/// What a window shows, and what it lacks.
#[derive(Clone, Debug)]
pub struct Window<'a> {
    /// WindowCounts all windows from the start, 0, 1, ...
    pub index: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub video: Video,
    pub audio: Audio,
    pictures: heapless::Vec<(u64, &'a Frame), FRAMES_MAX>,
    parts: heapless::Vec<&'a [(u16, Frame)], FRAMES_MAX>,
    samples: &'a [f32],
}

/// What is to be said of a window's pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Video {
    /// Frames that arrived with a stamp in the window.
    pub seen: u32,
    /// Different pictures among those shown.
    pub distinct: u32,
    /// Times the source said that frames are missing.
    pub gaps: u32,
}

/// What is to be said of a window's sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audio {
    /// Samples that never came and stand as 0.
    pub missing: u32,
    /// Stretches of such samples.
    pub gaps: u32,
}

impl Window<'_> {
    /// The pictures in order, each with an id that stays the same as long as the picture does; `None` without any.
    pub fn frames(&self) -> Option<&[(u64, &Frame)]> {
        (!self.pictures.is_empty()).then_some(&self.pictures[..])
    }

    /// The same of one face, where a picture without it shows the nearest one that has it; empty where none has.
    pub fn frames_of(&self, who: u16) -> heapless::Vec<(u64, &Frame), FRAMES_MAX> {
        let part = |at: usize| {
            let frame = self.parts[at].iter().find(|(whose, _)| *whose == who)?;
            Some((self.pictures[at].0 | u64::from(who) << WHO_SHIFT, &frame.1))
        };
        (0..self.parts.len()).filter_map(|at| nearest(at, self.parts.len(), part)).collect()
    }

    /// 16 kHz mono; `None` where not a single sample came.
    pub fn samples(&self) -> Option<&[f32]> {
        (self.audio.missing as usize != self.samples.len()).then_some(self.samples)
    }
}

/// What was left out since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    pub windows: u64,
    /// Frames older than any window to come.
    pub frames_late: u64,
    /// Samples that came again or too late.
    pub samples_late: u64,
    /// Times the grid started anew.
    pub jumps: u64,
    /// Readings with a stamp that is no time.
    pub stamps_bad: u64,
}

/// One cell of the grid.
#[derive(Debug, Default)]
struct Cell {
    number: u64,
    seen: u32,
    gaps: u32,
    picture: Option<Picture>,
}

/// Takes readings, gives windows.
#[derive(Debug)]
pub struct Windows {
    settings: Settings,
    frames: usize,
    shelf: Shelf,
    origin_ns: Option<u64>,
    /// Windows since the origin that are out.
    out: u64,
    /// How far each modality has come, from the origin; `None` where it is not expected any more.
    video_ns: Option<u64>,
    audio_ns: Option<u64>,
    /// The end of the last reading, from the origin.
    data_ns: u64,
    cells: Box<[Cell]>,
    /// The cell whose picture is as it came.
    newest: u64,
    next_id: u64,
    /// A missing sample is NaN. Sample `k` stands at `k % sound.len()`.
    sound: Box<[f32]>,
    sound_end: u64,
    /// Sound is running: the next chunk follows on if its stamp is near.
    sound_runs: bool,
    shown: Box<[f32]>,
    counts: WindowCounts,
}

/// What was seen and heard does not stay: pictures go back to the pool, sound is overwritten.
impl Drop for Windows {
    fn drop(&mut self) {
        for cell in &mut self.cells {
            cell.picture.take().into_iter().for_each(|picture| self.shelf.take_back(picture));
        }
        self.sound.zeroize();
        self.shown.zeroize();
    }
}

impl Windows {
    /// `frames` pictures per window; a modality that is not given is never waited for. Old buffers go back to the pool.
    pub fn new(settings: Settings, frames: usize, gives: Gives, pool: Pool) -> Result<Self> {
        settings.check(frames)?;
        let samples = |ms: u32| (u64::from(ms) * SAMPLES_PER_MS) as usize;
        let Settings { window_ms, lateness_ms, .. } = settings;
        let late_cells = (lateness_ms as usize * frames).div_ceil(window_ms as usize);
        Ok(Self {
            settings,
            frames,
            shelf: Shelf::new(pool),
            origin_ns: None,
            out: 0,
            video_ns: gives.video.then_some(0),
            audio_ns: gives.audio.then_some(0),
            data_ns: 0,
            cells: (0..frames + late_cells + 2).map(|_| Cell::default()).collect(),
            newest: 0,
            next_id: 0,
            sound: vec![f32::NAN; samples(window_ms + lateness_ms) + 2 * PIECE].into(),
            sound_end: 0,
            sound_runs: false,
            shown: vec![0.0; samples(window_ms)].into(),
            counts: WindowCounts::default(),
        })
    }

    /// Holds pictures as the model sees them, `side` pixels across and down, with the bytes that it would make of them: what a camera
    /// sends is some times larger. The newest stays as it came while a better one may come.
    pub fn fit_to(mut self, side: usize) -> Self {
        self.shelf.fit_to(side, self.cells.len());
        self
    }

    /// Keeps parts of pictures beside them, for windows that are fit to a size.
    pub fn with_parts(mut self) -> Self {
        self.shelf.keep_parts(self.cells.len());
        self
    }

    /// Pictures held at most.
    pub fn frames_held_max(&self) -> usize {
        self.cells.len()
    }

    /// Bytes of the sound rings.
    pub fn sound_bytes(&self) -> usize {
        (self.sound.len() + self.shown.len()) * size_of::<f32>()
    }

    pub fn counts(&self) -> WindowCounts {
        self.counts
    }

    /// Takes a reading and calls `see` for every window that is due now. An error of `see` comes back at once; what was left of
    /// the reading is dropped.
    pub fn push(&mut self, reading: Reading, see: impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        self.push_with(reading, &[], see)
    }

    /// The same for a picture with parts, [`PARTS_MAX`] at most.
    pub fn push_with(
        &mut self,
        reading: Reading,
        parts: &[Part],
        mut see: impl FnMut(&Window<'_>) -> Result<()>,
    ) -> Result<()> {
        match reading {
            Reading::Frame(frame) => {
                if let (Some(at_ns), Some(_)) = (self.place(frame.captured_ns, &mut see)?, self.video_ns) {
                    self.video_ns = self.video_ns.max(Some(at_ns));
                    self.due(&mut see)?;
                    self.show(at_ns, frame, parts);
                } else {
                    self.shelf.pool.give_rgb(frame.rgb);
                }
            }
            Reading::Chunk(chunk) => {
                if let (Some(_), Some(_)) = (self.place(chunk.captured_ns, &mut see)?, self.audio_ns) {
                    self.hear(&chunk, &mut see)?;
                }
                self.shelf.pool.give_samples(chunk.samples);
            }
            Reading::Lost { modality, at_ns } => {
                if let Some(at_ns) = self.place(at_ns, &mut see)? {
                    self.lose(modality, at_ns, &mut see)?;
                }
            }
            Reading::End { modality } => {
                match modality {
                    Modality::Video => self.video_ns = None,
                    Modality::Audio => self.audio_ns = None,
                }
                match (self.video_ns, self.audio_ns) {
                    (None, None) => self.flush(&mut see)?,
                    _ => self.due(&mut see)?,
                }
            }
        }
        Ok(())
    }

    /// A stamp as time from the origin, 0 where it is older; starts the grid where there is none or where the stamp is far ahead.
    fn place(&mut self, at_ns: u64, see: &mut impl FnMut(&Window<'_>) -> Result<()>) -> Result<Option<u64>> {
        if at_ns >= STAMP_NS_MAX {
            self.counts.stamps_bad += 1;
            return Ok(None);
        }
        let Some(origin_ns) = self.origin_ns else {
            self.origin_ns = Some(at_ns);
            return Ok(Some(0));
        };
        let newest_ns = self.video_ns.max(self.audio_ns).unwrap_or(0).max(self.data_ns);
        if at_ns <= origin_ns + newest_ns + JUMP_MS * NS_PER_MS {
            return Ok(Some(at_ns.saturating_sub(origin_ns)));
        }
        self.flush(see)?;
        self.counts.jumps += 1;
        self.origin_ns = Some(at_ns);
        self.out = 0;
        self.video_ns = self.video_ns.map(|_| 0);
        self.audio_ns = self.audio_ns.map(|_| 0);
        self.data_ns = 0;
        self.sound_end = 0;
        self.sound_runs = false;
        self.newest = 0;
        for cell in &mut self.cells {
            std::mem::take(cell).picture.into_iter().for_each(|picture| self.shelf.take_back(picture));
        }
        Ok(Some(0))
    }

    fn show(&mut self, at_ns: u64, frame: Frame, parts: &[Part]) {
        let number = at_ns * self.frames as u64 / self.window_ns();
        let off_middle = self.off_middle(number, at_ns);
        if number < self.first_cell() || frame.captured_ns < self.origin_ns.unwrap_or(0) {
            self.counts.frames_late += 1;
            self.shelf.pool.give_rgb(frame.rgb);
            return;
        }
        self.data_ns = self.data_ns.max(at_ns + 1);
        let origin_ns = self.origin_ns.unwrap_or(0);
        let held = self.cell_mut(number).picture.as_ref();
        let held_ns = held.map(|held| held.frame.captured_ns - origin_ns);
        let held_off_middle = held_ns.map(|held_ns| self.off_middle(number, held_ns));
        let picture = Picture::new(self.next_id, frame, parts);
        let cell = self.cell_mut(number);
        cell.seen += 1;
        let unused = match held_off_middle {
            Some(held) if held <= off_middle => Some(picture),
            _ => cell.picture.replace(picture),
        };
        self.next_id += 1;
        unused.into_iter().for_each(|picture| self.shelf.take_back(picture));
        let settled = self.newest.min(number);
        self.newest = self.newest.max(number);
        if settled != self.newest {
            self.settle(settled);
        }
    }

    /// No better picture of this cell is expected.
    fn settle(&mut self, number: u64) {
        let slot = (number % self.cells.len() as u64) as usize;
        let cell = &mut self.cells[slot];
        if let Some(picture) = cell.picture.as_mut().filter(|_| cell.number == number) {
            self.shelf.settle(picture);
        }
    }

    /// Distance of a time from the middle of a cell, in units of `1 / (2 * frames)` ns.
    fn off_middle(&self, number: u64, at_ns: u64) -> u64 {
        (at_ns * 2 * self.frames as u64).abs_diff((2 * number + 1) * self.window_ns())
    }

    /// The cell, emptied where it held an older one.
    fn cell_mut(&mut self, number: u64) -> &mut Cell {
        let slot = (number % self.cells.len() as u64) as usize;
        let cell = &mut self.cells[slot];
        if cell.number != number {
            let old = std::mem::replace(cell, Cell { number, ..Cell::default() });
            old.picture.into_iter().for_each(|picture| self.shelf.take_back(picture));
        }
        cell
    }

    fn hear(&mut self, chunk: &Chunk, see: &mut impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        let origin_ns = self.origin_ns.unwrap_or(0);
        let jitter = if self.sound_runs { JITTER_MS * SAMPLES_PER_MS } else { 0 };
        let mut samples = &chunk.samples[..];
        let early = if chunk.captured_ns < origin_ns { sample_at(origin_ns - chunk.captured_ns) } else { 0 };
        let start = sample_at(chunk.captured_ns.saturating_sub(origin_ns));
        if start > self.sound_end + jitter {
            self.miss(start, see)?;
        }
        let behind = early + self.sound_end - start.min(self.sound_end);
        if behind > jitter {
            let again = if behind + jitter >= samples.len() as u64 { samples.len() } else { behind as usize };
            self.counts.samples_late += again as u64;
            samples = &samples[again..];
        }
        self.sound_runs = true;
        for piece in samples.chunks(PIECE) {
            let ring = self.sound.len() as u64;
            for (position, &sample) in (self.sound_end..).zip(piece) {
                self.sound[(position % ring) as usize] = sample_f32(sample);
            }
            self.heard(piece.len() as u64);
            self.data_ns = self.data_ns.max(sample_ns(self.sound_end));
            self.due(see)?;
        }
        Ok(())
    }

    /// Sound up to `end` never came.
    fn miss(&mut self, end: u64, see: &mut impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        let ring = self.sound.len() as u64;
        while self.sound_end < end {
            let piece = (end - self.sound_end).min(PIECE as u64);
            for position in self.sound_end..self.sound_end + piece {
                self.sound[(position % ring) as usize] = f32::NAN;
            }
            self.heard(piece);
            self.due(see)?;
        }
        Ok(())
    }

    fn heard(&mut self, samples: u64) {
        self.sound_end += samples;
        self.audio_ns = self.audio_ns.map(|ns| ns.max(sample_ns(self.sound_end)));
    }

    fn lose(
        &mut self,
        modality: Modality,
        at_ns: u64,
        see: &mut impl FnMut(&Window<'_>) -> Result<()>,
    ) -> Result<()> {
        match modality {
            Modality::Video if self.video_ns.is_some() => {
                self.video_ns = self.video_ns.max(Some(at_ns));
                self.due(see)?;
                let number = at_ns * self.frames as u64 / self.window_ns();
                if number >= self.first_cell() {
                    self.cell_mut(number).gaps += 1;
                }
            }
            Modality::Audio if self.audio_ns.is_some() => {
                self.sound_runs = false;
                self.miss(at_ns * SAMPLES_PER_MS / NS_PER_MS, see)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends every window whose time has come.
    fn due(&mut self, see: &mut impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        let lateness_ns = u64::from(self.settings.lateness_ms) * NS_PER_MS;
        loop {
            let end_ns = self.start_ns() + self.window_ns();
            let expected = || [self.video_ns, self.audio_ns].into_iter().flatten();
            let passed = expected().min().is_some_and(|slowest| slowest >= end_ns);
            let waited = expected().max().is_some_and(|fastest| fastest >= end_ns + lateness_ns);
            if !passed && !waited {
                return Ok(());
            }
            self.send(see)?;
        }
    }

    /// Sends the windows that still have something new to show.
    fn flush(&mut self, see: &mut impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        let (window_ns, hop_ns) = (self.window_ns(), self.hop_ns());
        loop {
            let start_ns = self.start_ns();
            let shown_ns = if self.out == 0 { 0 } else { start_ns - hop_ns + window_ns };
            if self.origin_ns.is_none() || self.data_ns <= start_ns.max(shown_ns) {
                return Ok(());
            }
            self.send(see)?;
        }
    }

    fn send(&mut self, see: &mut impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        let (start_ns, first) = (self.start_ns(), self.first_cell());
        if (first..first + self.frames as u64).contains(&self.newest) {
            self.settle(self.newest);
        }
        let audio = self.listen(start_ns / NS_PER_MS * SAMPLES_PER_MS);
        self.out += 1;
        let index = self.counts.windows;
        self.counts.windows += 1;
        let mut video = Video::default();
        let (mut pictures, mut parts) =
            (heapless::Vec::new(), heapless::Vec::<&[(u16, Frame)], FRAMES_MAX>::new());
        let ring = self.cells.len() as u64;
        let cell = |offset: usize| {
            let number = first + offset as u64;
            Some(&self.cells[(number % ring) as usize]).filter(|cell| cell.number == number)
        };
        let picture = |offset: usize| cell(offset).and_then(|cell| cell.picture.as_ref());
        for offset in 0..self.frames {
            if let Some(cell) = cell(offset) {
                video.seen += cell.seen;
                video.gaps += cell.gaps;
                video.distinct += u32::from(cell.picture.is_some());
            }
            if let Some(shown) = nearest(offset, self.frames, picture) {
                pictures.push((shown.id, &shown.frame)).expect("`check` bounds the pictures of a window");
                parts.push(&shown.parts).expect("`check` bounds the pictures of a window");
            }
        }
        let start_ns = self.origin_ns.unwrap_or(0) + start_ns;
        let end_ns = start_ns + self.window_ns();
        see(&Window { index, start_ns, end_ns, video, audio, pictures, parts, samples: &self.shown })
    }

    /// Copies the sound of a window that starts at sample `start` out of the ring.
    fn listen(&mut self, start: u64) -> Audio {
        let ring = self.sound.len() as u64;
        let mut audio = Audio::default();
        let mut gone = false;
        for (position, shown) in (start..).zip(&mut self.shown) {
            let sample =
                if position < self.sound_end { self.sound[(position % ring) as usize] } else { f32::NAN };
            let missing = sample.is_nan();
            *shown = if missing { 0.0 } else { sample };
            audio.missing += u32::from(missing);
            audio.gaps += u32::from(missing && !gone);
            gone = missing;
        }
        audio
    }

    /// Start of the next window, from the origin.
    fn start_ns(&self) -> u64 {
        self.out * self.hop_ns()
    }

    /// The first cell of the next window.
    fn first_cell(&self) -> u64 {
        let Settings { window_ms, hop_ms, .. } = self.settings;
        self.out * (u64::from(hop_ms) * self.frames as u64 / u64::from(window_ms))
    }

    fn window_ns(&self) -> u64 {
        u64::from(self.settings.window_ms) * NS_PER_MS
    }

    fn hop_ns(&self) -> u64 {
        u64::from(self.settings.hop_ms) * NS_PER_MS
    }
}

/// What the nearest of `count` places to `at` has, the earlier of two.
fn nearest<T>(at: usize, count: usize, of: impl Fn(usize) -> Option<T>) -> Option<T> {
    (0..count).find_map(|away| {
        let before = at.checked_sub(away).and_then(&of);
        before.or_else(|| Some(at + away).filter(|&after| after < count).and_then(&of))
    })
}

/// The sample nearest to a time.
fn sample_at(ns: u64) -> u64 {
    ns / NS_PER_MS * SAMPLES_PER_MS + (ns % NS_PER_MS * SAMPLES_PER_MS + NS_PER_MS / 2) / NS_PER_MS
}

fn sample_ns(samples: u64) -> u64 {
    samples * NS_PER_MS / SAMPLES_PER_MS
}
