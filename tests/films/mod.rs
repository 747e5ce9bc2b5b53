//! AVI files made chunk by chunk, whole or wrong.
#![allow(dead_code)]

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
};

/// A file in the making: literal chunks, sizes filled in at the end.
pub struct AviFile {
    file: File,
    open: Vec<u64>,
}

impl AviFile {
    pub fn create(path: &Path) -> Self {
        let mut avi = Self { file: File::create(path).unwrap(), open: Vec::new() };
        avi.begin(b"RIFF", b"AVI ");
        avi
    }

    pub fn begin(&mut self, name: &[u8], kind: &[u8]) {
        self.file.write_all(name).unwrap();
        self.open.push(self.file.stream_position().unwrap());
        self.file.write_all(&[0; 4]).unwrap();
        self.file.write_all(kind).unwrap();
    }

    pub fn end(&mut self) {
        let start = self.open.pop().unwrap();
        let end = self.file.stream_position().unwrap();
        self.file.seek(SeekFrom::Start(start)).unwrap();
        self.file.write_all(&((end - start - 4) as u32).to_le_bytes()).unwrap();
        self.file.seek(SeekFrom::Start(end)).unwrap();
    }

    pub fn chunk(&mut self, name: &[u8], content: &[u8]) {
        self.file.write_all(name).unwrap();
        self.file.write_all(&(content.len() as u32).to_le_bytes()).unwrap();
        self.file.write_all(content).unwrap();
        self.file.write_all(&vec![0; content.len() % 2]).unwrap();
    }

    pub fn video(&mut self, code: &[u8; 4], rate: u32, scale: u32) {
        self.begin(b"LIST", b"strl");
        let mut header = [0; 56];
        header[..8].copy_from_slice(b"vidsMJPG");
        header[20..24].copy_from_slice(&scale.to_le_bytes());
        header[24..28].copy_from_slice(&rate.to_le_bytes());
        self.chunk(b"strh", &header);
        let mut format = [0; 40];
        format[16..20].copy_from_slice(code);
        self.chunk(b"strf", &format);
        self.end();
    }

    pub fn audio(&mut self, tag: u16, rate: u32, channels: u16, bits: u16) {
        self.begin(b"LIST", b"strl");
        let mut header = [0; 56];
        header[..4].copy_from_slice(b"auds");
        self.chunk(b"strh", &header);
        let mut format = Vec::new();
        format.extend_from_slice(&tag.to_le_bytes());
        format.extend_from_slice(&channels.to_le_bytes());
        format.extend_from_slice(&rate.to_le_bytes());
        format.extend_from_slice(&(rate * u32::from(channels * bits / 8)).to_le_bytes());
        format.extend_from_slice(&(channels * bits / 8).to_le_bytes());
        format.extend_from_slice(&bits.to_le_bytes());
        self.chunk(b"strf", &format);
        self.end();
    }
}

pub fn jpeg(number: u8) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let picture = image::RgbImage::from_pixel(16, 8, image::Rgb([number * 8; 3]));
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&picture).unwrap();
    jpeg
}

/// Samples of a saw.
pub fn ramp(length: usize) -> Vec<i16> {
    (0..length).map(|k| (k * 37 % 65_536) as u16 as i16).collect()
}

/// `frames` pictures at 10 a second, each with so many samples of 16 kHz mono sound, in two RIFF parts and with a `rec ` list.
pub fn write_avi(path: &Path, frames: u8, samples: usize) {
    let mut avi = AviFile::create(path);
    avi.begin(b"LIST", b"hdrl");
    avi.chunk(b"avih", &[0; 56]);
    avi.video(b"MJPG", 10, 1);
    avi.audio(1, 16_000, 1, 16);
    avi.end();
    avi.chunk(b"JUNK", &[7; 5]);
    avi.begin(b"LIST", b"movi");
    let sound: Vec<u8> =
        ramp(usize::from(frames) * samples).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for number in 0..frames {
        if number == frames / 2 {
            avi.end();
            avi.end();
            avi.begin(b"RIFF", b"AVIX");
            avi.begin(b"LIST", b"movi");
        }
        avi.begin(b"LIST", b"rec ");
        avi.chunk(b"00dc", &jpeg(number));
        avi.chunk(b"01wb", &sound[usize::from(number) * samples * 2..][..samples * 2]);
        avi.end();
    }
    avi.end();
    avi.chunk(b"idx1", b"00dc ignored");
    avi.end();
}
