//! AVI files with MJPEG pictures and PCM sound, read without help; OpenDML files of any length too.
//!
//! Layout: `RIFF` of `AVI ` (then `AVIX`), in it `LIST hdrl` with one `LIST strl` per stream (`strh`, `strf`) and `LIST movi`
//! with one chunk per picture (`00dc`) or stretch of sound (`01wb`), perhaps grouped in `LIST rec `.
//! Limits: one picture's bytes at a time are held, at most `CHUNK_BYTES_MAX`.

use super::track::{Pictures, Rate, Sound, Step};
use crate::source::{Frame, Pool, jpeg::Jpeg, pcm::Pcm, pixels::Broken, resample::Resampler};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read, Seek},
    path::{Path, PathBuf},
    time::Duration,
};

const CHUNK_BYTES_MAX: u32 = 64 << 20;

/// What the header says of the first picture stream and the first sound stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub video: Option<Video>,
    pub audio: Option<Audio>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    stream: u8,
    pub rate: Rate,
    /// Pictures are JPEG: this reader can read them.
    pub jpeg: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    stream: u8,
    format: Option<Pcm>,
    rate: u32,
    channels: u16,
}

impl Audio {
    /// Plain PCM: this reader can read it.
    pub fn pcm(&self) -> bool {
        self.format.is_some()
    }
}

/// Chunks of a RIFF file in their order, lists entered.
struct Walk {
    file: BufReader<File>,
    /// Where the next chunk header stands.
    at: u64,
    bytes: u64,
    name: String,
    /// Chunks without padding were seen and reported.
    unpadded: bool,
}

/// What can be a chunk's name: `00dc`, `LIST`, `idx1`.
fn is_name(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b' ')
}

struct Entry {
    name: [u8; 4],
    /// For a list, its kind.
    list: Option<[u8; 4]>,
    bytes: u32,
}

impl Walk {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        let name = path.display().to_string();
        Ok(Self { file: BufReader::with_capacity(1 << 16, file), at: 0, bytes, name, unpadded: false })
    }

    /// The next chunk; its content is to be read by `content` or is skipped. `None` at the end or where the file is cut.
    fn next(&mut self) -> std::io::Result<Option<Entry>> {
        let here = self.file.stream_position()?;
        self.file.seek_relative(self.at as i64 - here as i64)?;
        let mut header = [0; 8];
        if self.at + 8 > self.bytes || !filled(self.file.read_exact(&mut header))? {
            return Ok(None);
        }
        let name = [header[0], header[1], header[2], header[3]];
        let bytes = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if &name == b"RIFF" || &name == b"LIST" {
            let mut kind = [0; 4];
            if !filled(self.file.read_exact(&mut kind))? {
                return Ok(None);
            }
            self.at += 12;
            return Ok(Some(Entry { name, list: Some(kind), bytes }));
        }
        self.at += 8 + u64::from(bytes) + u64::from(bytes & 1);
        if bytes & 1 == 1 {
            self.check_padding()?;
        }
        Ok(Some(Entry { name, list: None, bytes }))
    }

    /// Some writers leave the padding of odd chunks out: then the next name stands a byte earlier.
    fn check_padding(&mut self) -> std::io::Result<()> {
        let here = self.file.stream_position()?;
        self.file.seek_relative(self.at as i64 - 1 - here as i64)?;
        let mut bytes = [0; 5];
        let whole = filled(self.file.read_exact(&mut bytes))?;
        let there = self.file.stream_position()?;
        self.file.seek_relative(here as i64 - there as i64)?;
        if whole && is_name(&bytes[..4]) && !is_name(&bytes[1..]) {
            if !std::mem::replace(&mut self.unpadded, true) {
                log::warn!("clip={} has chunks without padding: read as if they had", self.name);
            }
            self.at -= 1;
        }
        Ok(())
    }

    /// The content of the chunk just returned by `next`; false where the file is cut.
    fn content(&mut self, bytes: u32, into: &mut Vec<u8>) -> std::io::Result<bool> {
        into.resize(bytes as usize, 0);
        filled(self.file.read_exact(into))
    }
}

fn filled(read: std::io::Result<()>) -> std::io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads what the streams are.
pub fn header(path: &Path) -> Result<Header> {
    let name = path.display();
    let mut walk = Walk::open(path)?;
    let mut header = Header { video: None, audio: None };
    let (mut stream, mut kind, mut rate, mut content) = (0_u8, [0; 4], Rate::new(25, 1), Vec::new());
    while let Some(entry) = walk.next().with_context(|| format!("reading {name}"))? {
        if entry.list == Some(*b"movi") {
            return Ok(header);
        }
        if !matches!(&entry.name, b"strh" | b"strf") {
            continue;
        }
        ensure!(entry.bytes <= 1 << 16, "{name}: a stream header of {} bytes", entry.bytes);
        if !walk.content(entry.bytes, &mut content).with_context(|| format!("reading {name}"))? {
            break;
        }
        if &entry.name == b"strh" {
            ensure!(content.len() >= 28, "{name}: a stream header of {} bytes, 28 needed", content.len());
            kind = [content[0], content[1], content[2], content[3]];
            rate = Rate::new(u32_at(&content, 24), u32_at(&content, 20));
        } else {
            match &kind {
                b"vids" if header.video.is_none() => header.video = Some(video(&content, stream, rate)),
                b"auds" if header.audio.is_none() => header.audio = Some(audio(&content, stream)),
                _ => {}
            }
            stream = stream.saturating_add(1);
        }
    }
    bail!("{name} is cut off: an AVI file that ends before its pictures and sound begin")
}

fn video(format: &[u8], stream: u8, rate: Rate) -> Video {
    let jpeg = format.get(16..20).is_some_and(|code| code.eq_ignore_ascii_case(b"mjpg"));
    Video { stream, rate, jpeg }
}

fn audio(format: &[u8], stream: u8) -> Audio {
    if format.len() < 16 {
        return Audio { stream, format: None, rate: 0, channels: 0 };
    }
    let (channels, rate, bits) = (u16_at(format, 2), u32_at(format, 4), u16_at(format, 14));
    let tag = match (u16_at(format, 0), format.len()) {
        (0xfffe, 26..) => u16_at(format, 24),
        (tag, _) => tag,
    };
    let format = match (tag, bits) {
        (1, 8) => Some(Pcm::U8),
        (1, 16) => Some(Pcm::I16),
        (1, 24) => Some(Pcm::I24),
        (1, 32) => Some(Pcm::I32),
        (3, 32) => Some(Pcm::F32),
        _ => None,
    };
    Audio { stream, format, rate, channels }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The chunks of one stream.
struct Stream {
    path: PathBuf,
    walk: Walk,
    digits: [u8; 2],
    inside: bool,
}

impl Stream {
    fn open(path: &Path, stream: u8) -> Result<Self> {
        let digits = [b'0' + stream / 10 % 10, b'0' + stream % 10];
        Ok(Self { path: path.to_owned(), walk: Walk::open(path)?, digits, inside: false })
    }

    /// The size of the next chunk of this stream, its content not read.
    fn next(&mut self) -> Result<Option<u32>> {
        loop {
            let entry = self.walk.next().with_context(|| format!("reading {}", self.path.display()))?;
            let Some(entry) = entry else { return Ok(None) };
            match entry.list {
                Some(kind) => self.inside |= &kind == b"movi",
                None if self.inside && entry.name[..2] == self.digits && entry.name[2] != b'p' => {
                    return Ok(Some(entry.bytes));
                }
                None => {}
            }
        }
    }

    fn content(&mut self, bytes: u32, into: &mut Vec<u8>) -> Result<bool> {
        let name = self.path.display();
        ensure!(bytes <= CHUNK_BYTES_MAX, "{name}: a chunk of {bytes} bytes, at most {CHUNK_BYTES_MAX}");
        let whole = self.walk.content(bytes, into).with_context(|| format!("reading {name}"))?;
        if !whole {
            log::warn!("clip={name} ends early: the file is cut off");
        }
        Ok(whole)
    }
}

/// The picture track.
pub struct AviPictures {
    stream: Stream,
    rate: Rate,
    index: u64,
    bytes: Vec<u8>,
    jpeg: Jpeg,
    broken: u64,
    why: Option<Broken>,
}

impl AviPictures {
    pub fn open(path: &Path, video: &Video) -> Result<Self> {
        let stream = Stream::open(path, video.stream)?;
        Ok(Self {
            stream,
            rate: video.rate,
            index: 0,
            bytes: Vec::new(),
            jpeg: Jpeg::default(),
            broken: 0,
            why: None,
        })
    }
}

impl Pictures for AviPictures {
    fn next(&mut self, pool: &Pool, _wait: Duration) -> Result<Step<Frame>> {
        loop {
            let Some(bytes) = self.stream.next()? else { return Ok(Step::End) };
            let captured_ns = self.rate.at_ns(self.index);
            self.index += 1;
            // An empty chunk repeats the picture before it.
            if bytes == 0 {
                continue;
            }
            if !self.stream.content(bytes, &mut self.bytes)? {
                return Ok(Step::End);
            }
            match self.jpeg.decode(&self.bytes, pool) {
                Ok(picture) => {
                    let (height, width, rgb) = (picture.height, picture.width, picture.rgb);
                    return Ok(Step::Next(Frame { captured_ns, height, width, rgb }));
                }
                Err(broken) => {
                    self.broken += 1;
                    self.why.get_or_insert(broken);
                    let (name, index) = (self.stream.path.display(), self.index - 1);
                    log::debug!("clip={name} picture={index} left out: {broken}");
                }
            }
        }
    }

    fn skip(&mut self) -> Result<bool> {
        self.index += 1;
        Ok(self.stream.next()?.is_some())
    }

    fn position(&self) -> u64 {
        self.index
    }

    fn broken(&self) -> u64 {
        self.broken
    }

    fn why_broken(&self) -> Option<String> {
        self.why.map(|why| why.to_string())
    }
}

/// The sound track.
pub struct AviSound {
    stream: Stream,
    pcm: Pcm,
    channels: usize,
    bytes: Vec<u8>,
    interleaved: Vec<f32>,
    resampler: Resampler,
    ended: bool,
}

impl AviSound {
    pub fn open(path: &Path, audio: &Audio) -> Result<Self> {
        let name = path.display();
        let pcm = audio.format.with_context(|| format!("{name}: its sound is not plain PCM"))?;
        let channels = usize::from(audio.channels);
        let resampler = Resampler::new(audio.rate, channels).with_context(|| name.to_string())?;
        let stream = Stream::open(path, audio.stream)?;
        Ok(Self {
            stream,
            pcm,
            channels,
            bytes: Vec::new(),
            interleaved: Vec::new(),
            resampler,
            ended: false,
        })
    }
}

impl Sound for AviSound {
    fn next(&mut self, into: &mut Vec<f32>, _wait: Duration) -> Result<Step<()>> {
        if self.ended {
            return Ok(Step::End);
        }
        let more = match self.stream.next()? {
            Some(bytes) => self.stream.content(bytes, &mut self.bytes)?,
            None => false,
        };
        if more {
            let frame = self.pcm.bytes() * self.channels;
            let whole = self.bytes.len() / frame * frame;
            self.interleaved.clear();
            self.pcm.read(&self.bytes[..whole], &mut self.interleaved);
            self.resampler.push(&self.interleaved, into);
        } else {
            self.resampler.finish(into);
            self.ended = true;
        }
        Ok(Step::Next(()))
    }
}
