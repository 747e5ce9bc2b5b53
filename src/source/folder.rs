//! A folder of images as a picture track: PNG and JPEG files in the order of their names, at a given rate.

use super::{
    Frame, PIXELS_MAX, Pool,
    clip::{Pictures, Rate, Step},
};
use anyhow::{Context, Result, ensure};
use image::{ImageReader, Limits};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub struct Folder {
    files: Vec<PathBuf>,
    next: usize,
    rate: Rate,
}

/// What a folder holds that a clip can use, each sorted by name.
pub struct Listing {
    pub images: Vec<PathBuf>,
    pub sounds: Vec<PathBuf>,
}

pub fn list(folder: &Path) -> Result<Listing> {
    let (mut images, mut sounds) = (Vec::new(), Vec::new());
    let entries = folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        match ending.as_str() {
            "png" | "jpg" | "jpeg" => images.push(path),
            "wav" => sounds.push(path),
            _ => {}
        }
    }
    images.sort();
    sounds.sort();
    ensure!(
        !images.is_empty() || !sounds.is_empty(),
        "{} holds no PNG, JPEG or WAV file; a clip folder holds images and at most one WAV",
        folder.display()
    );
    ensure!(
        sounds.len() <= 1,
        "{} holds {} WAV files; a clip has one sound track, keep one",
        folder.display(),
        sounds.len()
    );
    Ok(Listing { images, sounds })
}

impl Folder {
    pub fn new(files: Vec<PathBuf>, rate: Rate) -> Self {
        Self { files, next: 0, rate }
    }
}

impl Pictures for Folder {
    fn next(&mut self, pool: &Pool, _wait: Duration) -> Result<Step<Frame>> {
        let Some(path) = self.files.get(self.next) else { return Ok(Step::End) };
        let captured_ns = self.rate.at_ns(self.next as u64);
        self.next += 1;
        let frame = open_image(path, pool)?;
        Ok(Step::Next(Frame { captured_ns, ..frame }))
    }

    fn skip(&mut self) -> Result<bool> {
        self.next += 1;
        Ok(self.next <= self.files.len())
    }

    fn position(&self) -> u64 {
        self.next as u64
    }
}

fn open_image(path: &Path, pool: &Pool) -> Result<Frame> {
    let mut reader = ImageReader::open(path)
        .and_then(|reader| reader.with_guessed_format())
        .with_context(|| format!("cannot open {}", path.display()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(PIXELS_MAX * 8);
    reader.limits(limits);
    let picture =
        reader.decode().with_context(|| format!("{} is not an image that can be read", path.display()))?;
    let (width, height) = (picture.width(), picture.height());
    let pixels = u64::from(width) * u64::from(height);
    ensure!(
        pixels <= PIXELS_MAX,
        "{} is {width} x {height}; at most {PIXELS_MAX} pixels can be used",
        path.display()
    );
    let picture = picture.into_rgb8();
    let mut rgb = pool.rgb(picture.as_raw().len());
    rgb.copy_from_slice(picture.as_raw());
    Ok(Frame { captured_ns: 0, height, width, rgb })
}
