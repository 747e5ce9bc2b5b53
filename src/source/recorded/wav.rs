//! WAV files as sound tracks: 8 to 32 bit integers, 32 and 64 bit floats, any rate, any number of channels.
//!
//! Read as the world writes them: a data size of 0, of 0xFFFFFFFF, or beyond the file means "to the end" (a recorder or a pipe
//! that never went back to its header), and a sample has the width of its container, with the valid bits on the left. Other codecs are
//! left to ffmpeg.
//! Limits: `BLOCK` frames are held at a time.

use super::track::{Sound, Step};
use crate::source::{pcm::Pcm, resample::Resampler};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

/// Frames read at a time.
const BLOCK: usize = 4_096;
/// Chunks before the data that are looked into.
const CHUNKS_MAX: usize = 1_000;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `None`: a codec that this reader does not know.
    format: Option<Pcm>,
    rate: u32,
    channels: u16,
    /// Where the samples start, and how many bytes of them there are.
    start: u64,
    bytes: u64,
}

impl Header {
    /// Reads the chunks up to the samples.
    pub fn read(path: &Path) -> Result<Header> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let whole = file.metadata().with_context(|| format!("cannot read {name}"))?.len();
        let mut file = BufReader::new(file);
        let cut = || format!("{name} is not a WAV file that can be read: it ends before its samples begin");
        let mut at = 12;
        let mut format = None;
        for _ in 0..CHUNKS_MAX {
            let mut head = [0; 8];
            file.seek(SeekFrom::Start(at)).with_context(cut)?;
            file.read_exact(&mut head).with_context(cut)?;
            let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            at += 8;
            match &head[..4] {
                b"fmt " => {
                    let mut content = Vec::new();
                    (&mut file).take(u64::from(size.min(64))).read_to_end(&mut content).with_context(cut)?;
                    format = Some(parse(&content).with_context(|| format!("{name}: its fmt chunk"))?);
                }
                b"data" => {
                    let Some((format, rate, channels)) = format else {
                        bail!("{name} is not a WAV file that can be read: its data comes before its format");
                    };
                    let rest = whole.saturating_sub(at);
                    let stated = u64::from(size);
                    if stated > rest && size < 0x7fff_0000 {
                        log::warn!("sound={name} ends early: {stated} bytes are stated and {rest} are there");
                    }
                    let bytes = if stated == 0 || stated > rest { rest } else { stated };
                    return Ok(Header { format, rate, channels, start: at, bytes });
                }
                _ => {}
            }
            at += u64::from(size) + u64::from(size & 1);
        }
        bail!("{name} is not a WAV file that can be read: {CHUNKS_MAX} chunks and no samples")
    }

    /// This reader knows its samples.
    pub fn is_pcm(&self) -> bool {
        self.format.is_some()
    }
}

/// Format (where it is known), rate and channels of a `fmt ` chunk.
fn parse(content: &[u8]) -> Result<(Option<Pcm>, u32, u16)> {
    ensure!(content.len() >= 16, "{} bytes, 16 needed", content.len());
    let u16_at = |at: usize| u16::from_le_bytes([content[at], content[at + 1]]);
    let (channels, align, bits) = (u16_at(2), u16_at(12), u16_at(14));
    let rate = u32::from_le_bytes([content[4], content[5], content[6], content[7]]);
    ensure!(channels > 0 && rate > 0, "{channels} channels at {rate} Hz");
    let tag = match u16_at(0) {
        0xfffe if content.len() >= 26 => u16_at(24),
        tag => tag,
    };
    // The container's width counts; the valid bits stand on its left.
    let width = align / channels;
    let format = match (tag, width) {
        (1 | 3, width) if align % channels != 0 || u32::from(width) * 8 < u32::from(bits) => None,
        (1, 1) => Some(Pcm::U8),
        (1, 2) => Some(Pcm::I16),
        (1, 3) => Some(Pcm::I24),
        (1, 4) => Some(Pcm::I32),
        (3, 4) => Some(Pcm::F32),
        (3, 8) => Some(Pcm::F64),
        _ => None,
    };
    Ok((format, rate, channels))
}

pub struct Wav {
    name: String,
    file: BufReader<File>,
    left: u64,
    format: Pcm,
    channels: usize,
    bytes: Vec<u8>,
    interleaved: Vec<f32>,
    resampler: Resampler,
    ended: bool,
}

impl Wav {
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let header = Header::read(path)?;
        let format = header.format.with_context(|| format!("{name}: its codec is not plain PCM"))?;
        let channels = usize::from(header.channels);
        let resampler = Resampler::new(header.rate, channels).with_context(|| name.clone())?;
        let mut file = BufReader::new(File::open(path).with_context(|| format!("cannot open {name}"))?);
        file.seek(SeekFrom::Start(header.start)).with_context(|| format!("reading {name}"))?;
        let interleaved = Vec::with_capacity(BLOCK * channels);
        let bytes = Vec::with_capacity(BLOCK * channels * format.bytes());
        Ok(Self {
            name,
            file,
            left: header.bytes,
            format,
            channels,
            bytes,
            interleaved,
            resampler,
            ended: false,
        })
    }

    /// Reads the next block; false at the end.
    fn fill(&mut self) -> Result<bool> {
        let frame = (self.format.bytes() * self.channels) as u64;
        let wanted = (BLOCK as u64 * frame).min(self.left / frame * frame);
        self.bytes.clear();
        (&mut self.file)
            .take(wanted)
            .read_to_end(&mut self.bytes)
            .with_context(|| format!("reading {}", self.name))?;
        self.left -= wanted;
        self.interleaved.clear();
        let whole = self.bytes.len() / frame as usize * frame as usize;
        self.format.read(&self.bytes[..whole], &mut self.interleaved);
        Ok(whole as u64 == wanted && self.left >= frame)
    }
}

impl Sound for Wav {
    fn next(&mut self, into: &mut Vec<f32>, _wait: Duration) -> Result<Step<()>> {
        if self.ended {
            return Ok(Step::End);
        }
        let more = self.fill()?;
        self.resampler.push(&self.interleaved, into);
        if !more {
            self.resampler.finish(into);
            self.ended = true;
        }
        Ok(Step::Next(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(fmt: &[u8], more: &[u8], data_size: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"RIFF\xff\xff\xff\xffWAVEfmt ".to_vec();
        bytes.extend((fmt.len() as u32).to_le_bytes());
        bytes.extend(fmt);
        bytes.extend(more);
        bytes.extend(b"data");
        bytes.extend(data_size.to_le_bytes());
        bytes.extend(data);
        bytes
    }

    /// `fmt ` of 16 kHz mono.
    fn fmt(tag: u16, align: u16, bits: u16) -> Vec<u8> {
        let mut fmt = tag.to_le_bytes().to_vec();
        fmt.extend(1u16.to_le_bytes());
        fmt.extend(16_000u32.to_le_bytes());
        fmt.extend((16_000 * u32::from(align)).to_le_bytes());
        fmt.extend(align.to_le_bytes());
        fmt.extend(bits.to_le_bytes());
        fmt
    }

    fn heard(bytes: &[u8]) -> Result<Vec<f32>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        std::fs::write(&path, bytes).unwrap();
        let mut sound = Wav::open(&path)?;
        let mut samples = Vec::new();
        while let Step::Next(()) = sound.next(&mut samples, Duration::ZERO)? {}
        Ok(samples)
    }

    #[test]
    fn a_size_that_was_never_written_means_to_the_end() {
        let data = [0, 0x40, 0, 0xc0, 0, 0x20];
        for size in [6, 0, u32::MAX, u32::MAX - 1, 0x7fff_f000, 600] {
            assert_eq!(heard(&wav(&fmt(1, 2, 16), b"", size, &data)).unwrap(), [0.5, -0.5, 0.25], "{size}");
        }
        let list = b"LIST\x04\0\0\0INFOodd \x03\0\0\0abc\0";
        assert_eq!(heard(&wav(&fmt(1, 2, 16), list, u32::MAX, &data)).unwrap().len(), 3);
        assert_eq!(
            heard(&wav(&fmt(1, 2, 16), b"", 4, &data)).unwrap(),
            [0.5, -0.5],
            "what follows is no sound"
        );
        assert_eq!(heard(&wav(&fmt(1, 2, 16), b"", 0, b"")).unwrap(), [0.0; 0]);
    }

    #[test]
    fn valid_bits_stand_on_the_left_of_their_container() {
        let mut twenty_in_24 = fmt(0xfffe, 3, 24);
        twenty_in_24.extend([22, 0, 20, 0, 4, 0, 0, 0, 1, 0]);
        twenty_in_24.extend(*b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        assert_eq!(heard(&wav(&twenty_in_24, b"", 3, &[0, 0, 0x40])).unwrap(), [0.5]);
        assert_eq!(heard(&wav(&fmt(1, 4, 24), b"", 4, &[0, 0, 0, 0x40])).unwrap(), [0.5], "24 bits in 32");
        assert_eq!(heard(&wav(&fmt(1, 2, 12), b"", 2, &[0, 0x40])).unwrap(), [0.5], "12 bits in 16");
        assert_eq!(heard(&wav(&fmt(3, 8, 64), b"", 8, &0.25f64.to_le_bytes())).unwrap(), [0.25]);
    }

    #[test]
    fn other_codecs_are_somebody_elses_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        for (tag, align, bits) in [(7, 1, 8), (6, 1, 8), (2, 256, 4), (0x31, 65, 0), (0x55, 1, 0), (1, 2, 32)]
        {
            std::fs::write(&path, wav(&fmt(tag, align, bits), b"", 2, &[0, 0])).unwrap();
            assert!(!Header::read(&path).unwrap().is_pcm(), "tag {tag}");
        }
        let whole = wav(&fmt(1, 2, 16), b"", 6, &[0; 6]);
        for len in 12..44 {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = format!("{:#}", Header::read(&path).unwrap_err());
            assert!(error.contains("a.wav"), "{error}");
        }
        let mut silent = fmt(1, 2, 16);
        silent[2] = 0;
        assert!(heard(&wav(&silent, b"", 2, &[0, 0])).is_err());
    }
}
