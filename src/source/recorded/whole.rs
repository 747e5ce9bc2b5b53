//! A whole clip as one window: the frames that the published model would look at, and the first 30 s of sound.
//!
//! Sampling: of `n` frames, frame `i` of `k` is number `round_half_even((n - 1) / k * (i + 0.5) + 1e-6)`; short clips repeat.
//! Limits: the clip is read once to count and once to choose; `k` frames and 30 s of sound are kept, whatever its length.

use super::{
    ffmpeg::{self, Probe},
    kind::Kind,
    track::{Pictures, Rate, Step},
};
use crate::source::{Frame, Pool, SAMPLE_RATE};
use anyhow::{Result, bail};
use std::{path::Path, time::Duration};

/// The longest reach of an audio tower.
const SECONDS_MAX: u32 = 30;

/// Long enough for any file; recordings are not interrupted.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Pictures in the whole clip.
    pub frames_total: u64,
    /// The number in the clip of each frame that the model sees, rising; short clips repeat.
    pub indices: Vec<u64>,
    /// The different ones among them, with their number as id.
    pictures: Vec<(u64, Frame)>,
    /// 16 kHz mono, `None` without a sound track.
    pub samples: Option<Vec<f32>>,
    /// There was more sound than `samples` holds.
    pub sound_cut: bool,
}

impl Recording {
    /// Reads a clip of any kind; `frames` is what the model looks at.
    pub fn open(path: &Path, frames: usize) -> Result<Self> {
        let kind = Kind::of(path)?;
        let (mut frames_total, mut indices, mut pictures) = (0, Vec::new(), Vec::new());
        if kind.gives().video {
            frames_total = count(&kind, path)?;
            if frames_total == 0 {
                bail!("the clip {} has a picture track without a single picture", path.display());
            }
            indices = sample(frames_total, frames);
            let why;
            (pictures, why) = pick(&kind, path, &indices)?;
            if pictures.is_empty() {
                bail!(
                    "none of the {frames_total} pictures of the clip {} could be read{}",
                    path.display(),
                    why.map(|why| format!(": {why}")).unwrap_or_default()
                );
            }
        }
        let (samples, sound_cut) = match listen(&kind, path)? {
            Some((samples, _)) if samples.is_empty() => {
                log::warn!(
                    "clip={} has a sound track without a single sample: sound is missing",
                    path.display()
                );
                (None, false)
            }
            Some((samples, cut)) => (Some(samples), cut),
            None => (None, false),
        };
        Ok(Self { frames_total, indices, pictures, samples, sound_cut })
    }

    /// Keeps of the sound what a model hears: its first `samples_max` samples.
    pub fn hear(&mut self, samples_max: usize) {
        if let Some(samples) = &mut self.samples {
            self.sound_cut |= samples.len() > samples_max;
            samples.truncate(samples_max);
        }
    }

    /// Its different pictures, to be changed.
    pub fn pictures_mut(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.pictures.iter_mut().map(|(_, frame)| frame)
    }

    /// The model's frames in order, each with an id that is the same for the same picture; `None` without pictures.
    pub fn frames(&self) -> Option<Vec<(u64, &Frame)>> {
        if self.pictures.is_empty() {
            return None;
        }
        let nearest = |index: u64| {
            let after = self.pictures.partition_point(|(id, _)| *id <= index);
            let (id, frame) = &self.pictures[after.saturating_sub(1)];
            (*id, frame)
        };
        Some(self.indices.iter().map(|&index| nearest(index)).collect())
    }
}

/// The numbers of the `frames` frames to look at among `total`; none among none.
pub fn sample(total: u64, frames: usize) -> Vec<u64> {
    let Some(last) = total.checked_sub(1) else { return Vec::new() };
    let step = last as f64 / frames as f64;
    (0..frames).map(|i| (step * (i as f64 + 0.5) + 1e-6).round_ties_even() as u64).collect()
}

fn count(kind: &Kind, path: &Path) -> Result<u64> {
    match kind {
        Kind::Ffmpeg(probe) => probe.video.map_or(Ok(0), |video| ffmpeg::PROGRAMS.count(path, video.index)),
        Kind::Folder { images, .. } => Ok(images.len() as u64),
        Kind::Avi(_) => {
            let Some(mut pictures) = kind.pictures(path, Rate::new(1, 1))? else { return Ok(0) };
            let mut total = 0;
            while pictures.skip()? {
                total += 1;
            }
            Ok(total)
        }
    }
}

/// A picture and its place in the clip.
type Numbered = (u64, Frame);

/// The pictures of the given numbers, each once, and why the first was left out that could not be read: the one before stands for
/// it.
fn pick(kind: &Kind, path: &Path, indices: &[u64]) -> Result<(Vec<Numbered>, Option<String>)> {
    let mut indices = indices.to_vec();
    indices.dedup();
    let pool = Pool::default();
    let mut picked = Vec::with_capacity(indices.len());
    if let Kind::Ffmpeg(Probe { video: Some(video), .. }) = kind {
        let mut pictures = ffmpeg::PROGRAMS.pick(path, video, &indices)?;
        for &index in &indices {
            match next(&mut pictures, &pool)? {
                Some(frame) => picked.push((index, frame)),
                None => break,
            }
        }
        if picked.len() < indices.len() {
            let (got, wanted) = (picked.len(), indices.len());
            log::warn!(
                "clip={} gave {got} of {wanted} chosen pictures: the last one stands for the rest",
                path.display()
            );
        }
        return Ok((picked, None));
    }
    let Some(mut pictures) = kind.pictures(path, Rate::new(1, 1))? else { return Ok((picked, None)) };
    for index in indices {
        while pictures.position() < index && pictures.skip()? {}
        if pictures.position() > index {
            continue;
        }
        if let Some(frame) = next(pictures.as_mut(), &pool)? {
            picked.push((index, frame));
        }
    }
    Ok((picked, pictures.why_broken()))
}

fn next(pictures: &mut dyn Pictures, pool: &Pool) -> Result<Option<Frame>> {
    loop {
        match pictures.next(pool, WAIT)? {
            Step::Next(frame) => return Ok(Some(frame)),
            Step::Wait => {}
            Step::End => return Ok(None),
        }
    }
}

fn listen(kind: &Kind, path: &Path) -> Result<Option<(Vec<f32>, bool)>> {
    let Some(mut sound) = kind.sound(path, Some(SECONDS_MAX + 1))? else { return Ok(None) };
    let wanted = (SECONDS_MAX * SAMPLE_RATE) as usize;
    let mut samples = Vec::new();
    while samples.len() <= wanted {
        match sound.next(&mut samples, WAIT)? {
            Step::Next(()) | Step::Wait => {}
            Step::End => break,
        }
    }
    let cut = samples.len() > wanted;
    samples.truncate(wanted);
    for sample in &mut samples {
        if !sample.is_finite() {
            *sample = 0.0;
        }
    }
    Ok(Some((samples, cut)))
}
