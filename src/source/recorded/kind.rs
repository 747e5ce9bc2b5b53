//! What a path holds, and which format reads it: told by the first bytes, never by the name.

use super::{
    avi::{self, AviPictures, AviSound},
    ffmpeg::{self, Probe},
    folder::{self, Folder},
    track::{Pictures, Rate, Sound},
    wav::{self, Wav},
};
use crate::source::Gives;
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// What a path holds and how it is read.
pub(in crate::source) enum Kind {
    Folder { images: Vec<PathBuf>, sound: Option<PathBuf> },
    Avi(avi::Header),
    Ffmpeg(Probe),
}

impl Kind {
    pub(in crate::source) fn of(path: &Path) -> Result<Self> {
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
                if wav::Header::read(path)?.is_pcm() {
                    Self::Folder { images: Vec::new(), sound: Some(path.to_owned()) }
                } else {
                    Self::Ffmpeg(ffmpeg::PROGRAMS.probe(path)?)
                }
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

    pub(in crate::source) fn gives(&self) -> Gives {
        match self {
            Self::Folder { images, sound } => Gives { video: !images.is_empty(), audio: sound.is_some() },
            Self::Avi(header) => Gives { video: header.video.is_some(), audio: header.audio.is_some() },
            Self::Ffmpeg(probe) => Gives { video: probe.video.is_some(), audio: probe.audio.is_some() },
        }
    }

    pub(in crate::source) fn pictures(
        &self,
        path: &Path,
        folder_rate: Rate,
    ) -> Result<Option<Box<dyn Pictures>>> {
        Ok(match self {
            Self::Folder { images, .. } if images.is_empty() => None,
            Self::Folder { images, .. } => Some(Box::new(Folder::new(images.clone(), folder_rate))),
            Self::Avi(header) => match &header.video {
                Some(video) => Some(Box::new(AviPictures::open(path, video)?)),
                None => None,
            },
            Self::Ffmpeg(probe) => match &probe.video {
                Some(video) => Some(Box::new(ffmpeg::PROGRAMS.pictures(path, video)?)),
                None => None,
            },
        })
    }

    /// The sound track, of which perhaps only the first `seconds` are wanted.
    pub(in crate::source) fn sound(
        &self,
        path: &Path,
        seconds: Option<u32>,
    ) -> Result<Option<Box<dyn Sound>>> {
        Ok(match self {
            Self::Folder { sound: None, .. } => None,
            Self::Folder { sound: Some(wav), .. } => Some(Box::new(Wav::open(wav)?)),
            Self::Avi(header) => match &header.audio {
                Some(audio) => Some(Box::new(AviSound::open(path, audio)?)),
                None => None,
            },
            Self::Ffmpeg(probe) => match probe.audio {
                Some(index) => {
                    let seconds = seconds.map(f64::from).into_iter().chain(probe.seconds).reduce(f64::min);
                    Some(Box::new(ffmpeg::PROGRAMS.sound(path, index, seconds)?))
                }
                None => None,
            },
        })
    }
}
