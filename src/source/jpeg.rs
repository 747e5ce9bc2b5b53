//! JPEG pictures as cameras and films send them, to RGB.

use super::{PIXELS_MAX, Pool, pixels::Broken};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

/// Decodes JPEG pictures as cameras and MJPEG files hold them, also those that leave out the standard Huffman tables.
#[derive(Debug, Default)]
pub struct Jpeg {
    whole: Vec<u8>,
}

/// A decoded picture.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    pub height: u32,
    pub width: u32,
    pub rgb: Vec<u8>,
}

impl Jpeg {
    /// Takes a picture whose scan is whole, with or without its end marker, and with all of its Huffman tables, some or none.
    pub fn decode(&mut self, data: &[u8], pool: &Pool) -> Result<Picture, Broken> {
        if !data.starts_with(&SOI) {
            return Err(Broken::Jpeg);
        }
        let Some(end) = data.windows(2).rposition(|pair| pair == EOI) else {
            return self.decode_open(data, pool);
        };
        let data = &data[..end + EOI.len()];
        if has_every_table(data) {
            return decode_whole(data, pool);
        }
        self.with_tables(data);
        decode_whole(&self.whole, pool)
    }

    /// A picture without its end marker. Whatever follows a whole scan changes nothing, and bits after one that is cut are
    /// decoded as if they belonged to it: two endings tell which it is.
    fn decode_open(&mut self, data: &[u8], pool: &Pool) -> Result<Picture, Broken> {
        let padding = data.iter().rev().take_while(|byte| **byte == 0).count();
        let end = data.len() - padding;
        // A stuffed zero belongs to the scan.
        let stuffed = usize::from(padding > 0 && data[end - 1] == 0xff);
        self.with_tables(&data[..end + stuffed]);
        let scan = self.whole.len();
        let mut ended = |tail: &[u8]| {
            self.whole.truncate(scan);
            self.whole.extend_from_slice(tail);
            self.whole.extend_from_slice(&EOI);
            decode_whole(&self.whole, pool).map_err(|_| Broken::Truncated)
        };
        let picture = ended(&[])?;
        let other = ended(&[0x5a; 256])?;
        let same = picture == other;
        pool.give_rgb(other.rgb);
        if same {
            return Ok(picture);
        }
        pool.give_rgb(picture.rgb);
        Err(Broken::Truncated)
    }

    /// Lays the standard tables before the picture's own, which win.
    fn with_tables(&mut self, data: &[u8]) {
        self.whole.clear();
        self.whole.extend_from_slice(&SOI);
        push_standard_tables(&mut self.whole);
        self.whole.extend_from_slice(&data[SOI.len()..]);
    }
}

fn decode_whole(data: &[u8], pool: &Pool) -> Result<Picture, Broken> {
    let side = 1 << 16;
    let options = DecoderOptions::default()
        .set_max_width(side)
        .set_max_height(side)
        .set_strict_mode(false)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    decoder.decode_headers().map_err(|_| Broken::Jpeg)?;
    let info = decoder.info().ok_or(Broken::Jpeg)?;
    let pixels = u64::from(info.width) * u64::from(info.height);
    if pixels == 0 || pixels > PIXELS_MAX {
        return Err(Broken::Size);
    }
    let bytes = pixels as usize * 3;
    if decoder.output_buffer_size() != Some(bytes) {
        return Err(Broken::Jpeg);
    }
    let mut rgb = pool.rgb(bytes);
    if decoder.decode_into(&mut rgb).is_err() {
        pool.give_rgb(rgb);
        return Err(Broken::Jpeg);
    }
    Ok(Picture { height: info.height.into(), width: info.width.into(), rgb })
}

const SOI: [u8; 2] = [0xff, 0xd8];
const EOI: [u8; 2] = [0xff, 0xd9];

/// Whether the four tables of a baseline picture are all defined before its first scan.
fn has_every_table(data: &[u8]) -> bool {
    let mut seen = [false; 4];
    let mut at = SOI.len();
    while let Some(&[marker, kind, high, low]) = data.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        match (marker, kind) {
            (0xff, 0xff) => {
                at += 1;
                continue;
            }
            (0xff, 0xc4) => {
                for class in tables(data.get(at + 4..at + 2 + length).unwrap_or_default()) {
                    if let Some(place) = [0x00, 0x01, 0x10, 0x11].iter().position(|known| *known == class) {
                        seen[place] = true;
                    }
                }
            }
            (0xff, 0xda) => break,
            (0xff, _) => {}
            _ => break,
        }
        at += 2 + length;
    }
    seen == [true; 4]
}

/// Class and number of each Huffman table in a segment: a byte, 16 counts, and as many values.
fn tables(mut segment: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (class, rest) = segment.split_first()?;
        let values: usize = rest.get(..16)?.iter().map(|count| usize::from(*count)).sum();
        segment = rest.get(16 + values..)?;
        Some(*class)
    })
}

fn push_standard_tables(jpeg: &mut Vec<u8>) {
    let tables: [(u8, &[u8]); 4] =
        [(0x00, &DC_LUMA), (0x01, &DC_CHROMA), (0x10, &AC_LUMA), (0x11, &AC_CHROMA)];
    let length = 2 + tables.iter().map(|(_, table)| 1 + table.len()).sum::<usize>();
    jpeg.extend_from_slice(&[0xff, 0xc4, (length >> 8) as u8, length as u8]);
    for (class, table) in tables {
        jpeg.push(class);
        jpeg.extend_from_slice(table);
    }
}

// The typical tables of the JPEG standard, annex K.3: 16 counts of codes per length, then the values.
const DC_LUMA: [u8; 28] = [
    0x00, 0x01, 0x05, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
];
const DC_CHROMA: [u8; 28] = [
    0x00, 0x03, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
];
const AC_LUMA: [u8; 178] = [
    0x00, 0x02, 0x01, 0x03, 0x03, 0x02, 0x04, 0x03, 0x05, 0x05, 0x04, 0x04, 0x00, 0x00, 0x01, 0x7d, 0x01,
    0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
    0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62,
    0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35,
    0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56,
    0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77,
    0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6,
    0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5,
    0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2,
    0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
];
const AC_CHROMA: [u8; 178] = [
    0x00, 0x02, 0x01, 0x02, 0x04, 0x04, 0x03, 0x04, 0x07, 0x05, 0x04, 0x04, 0x00, 0x01, 0x02, 0x77, 0x00,
    0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
    0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72,
    0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a,
    0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55,
    0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76,
    0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4,
    0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3,
    0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2,
    0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
];

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;

    fn picture() -> Vec<u8> {
        let rgb: Vec<u8> = (0..48 * 32 * 3).map(|k| (k * 31 / 7 % 251) as u8).collect();
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 90)
            .encode(&rgb, 48, 32, image::ExtendedColorType::Rgb8)
            .unwrap();
        jpeg
    }

    fn without_tables(jpeg: &[u8]) -> Vec<u8> {
        let (mut out, mut at) = (jpeg[..2].to_vec(), 2);
        loop {
            let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            match jpeg[at + 1] {
                0xda => break,
                0xc4 => {}
                _ => out.extend_from_slice(&jpeg[at..end]),
            }
            at = end;
        }
        out.extend_from_slice(&jpeg[at..]);
        out
    }

    #[test]
    fn a_jpeg_without_huffman_tables_is_the_same_picture() {
        let (jpeg, pool) = (picture(), Pool::default());
        let bare = without_tables(&jpeg);
        assert!(jpeg.len() - bare.len() >= 420, "the encoder wrote all four tables");
        let whole = Jpeg::default().decode(&jpeg, &pool).unwrap();
        assert_eq!((whole.width, whole.height), (48, 32));
        assert_eq!(Jpeg::default().decode(&bare, &pool).unwrap(), whole);
    }

    #[test]
    fn truncated_jpegs_are_told_and_padding_is_not_minded() {
        let (mut jpeg, pool) = (picture(), Pool::default());
        assert_eq!(Jpeg::default().decode(&jpeg[..jpeg.len() / 2], &pool), Err(Broken::Truncated));
        assert_eq!(Jpeg::default().decode(&[], &pool), Err(Broken::Jpeg));
        let whole = Jpeg::default().decode(&jpeg, &pool).unwrap();
        jpeg.extend_from_slice(&[0; 37]);
        assert_eq!(Jpeg::default().decode(&jpeg, &pool).unwrap(), whole);
    }

    #[test]
    fn a_scan_that_is_whole_needs_no_end_marker_and_one_that_is_cut_is_no_picture() {
        let (jpeg, pool) = (picture(), Pool::default());
        let whole = Jpeg::default().decode(&jpeg, &pool).unwrap();
        let mut open = jpeg[..jpeg.len() - 2].to_vec();
        assert_eq!(Jpeg::default().decode(&open, &pool).unwrap(), whole);
        open.extend([0; 40]);
        assert_eq!(Jpeg::default().decode(&open, &pool).unwrap(), whole);
        for part in 2..9 {
            let cut = &jpeg[..jpeg.len() * part / 10];
            assert!(Jpeg::default().decode(cut, &pool).is_err(), "{part} tenths");
        }
    }

    #[test]
    fn tables_that_are_partly_there_win_over_the_standard_ones() {
        let (jpeg, pool) = (picture(), Pool::default());
        let whole = Jpeg::default().decode(&jpeg, &pool).unwrap();
        // Its own first table only, in front of the scan.
        let bare = without_tables(&jpeg);
        let scan = bare.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        let mut table = vec![0xff, 0xc4, 0, (3 + DC_LUMA.len()) as u8, 0x00];
        table.extend(DC_LUMA);
        let partly = [&bare[..scan], &table, &bare[scan..]].concat();
        assert!(!has_every_table(&partly) && has_every_table(&jpeg));
        assert_eq!(Jpeg::default().decode(&partly, &pool).unwrap(), whole);
    }

    #[test]
    fn flipped_bits_never_panic() {
        let (jpeg, pool) = (picture(), Pool::new(1, 1));
        for at in 0..jpeg.len().min(700) {
            let mut hurt = jpeg.clone();
            hurt[at] ^= 1 << (at % 8);
            let _ = Jpeg::default().decode(&hurt, &pool);
        }
    }
}
