//! A folder of images as a picture track: PNG and JPEG files in the natural order of their names, at a given rate.
//!
//! `frame_2` comes before `frame_10`. Names that begin with a dot (`._frame.jpg` of a Mac) are passed over, and a photo that says so in
//! its EXIF data is turned upright.

use super::track::{Pictures, Rate, Step};
use crate::source::{Frame, PIXELS_MAX, Pool};
use anyhow::{Context, Result, ensure};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, metadata::Orientation};
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
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
        match ending.as_str() {
            "png" | "jpg" | "jpeg" => images.push(path),
            "wav" => sounds.push(path),
            _ => {}
        }
    }
    images.sort_by_cached_key(|path| natural(path));
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

/// A key that orders digits by their number: text and numbers in turn, then the name itself.
fn natural(path: &Path) -> (Vec<(String, u128)>, PathBuf) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = Vec::new();
    let mut rest = &*name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[text..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - text);
        let number = rest[text..text + digits].parse().unwrap_or(u128::MAX);
        parts.push((rest[..text].to_string(), number));
        rest = &rest[text + digits..];
    }
    (parts, path.to_owned())
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
    let unreadable = || format!("{} is not an image that can be read", path.display());
    let mut decoder = reader.into_decoder().with_context(unreadable)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    ensure!(
        pixels <= PIXELS_MAX,
        "{} is {width} x {height}; at most {PIXELS_MAX} pixels can be used: make it smaller",
        path.display()
    );
    let mut picture = DynamicImage::from_decoder(decoder).with_context(unreadable)?;
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width(), picture.height());
    let picture = picture.into_rgb8();
    let mut rgb = pool.rgb(picture.as_raw().len());
    rgb.copy_from_slice(picture.as_raw());
    Ok(Frame { captured_ns: 0, height, width, rgb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_people_count() {
        let mut names =
            ["b1", "a10.png", "a2.png", "a02.png", "a.png", "a2b.png", "A3.png"].map(PathBuf::from).to_vec();
        names.sort_by_cached_key(|path| natural(path));
        let names: Vec<&str> = names.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(names, ["A3.png", "a02.png", "a2.png", "a2b.png", "a10.png", "a.png", "b1"]);
    }
}
