//! The Y4M header, and a frame's planes to RGB.
//!
//! Layout: `YUV4MPEG2 W640 H480 F30:1 C420jpeg ...` and a newline; before each frame `FRAME` and a newline; then the planes,
//! luma, blue, red, 8 bit, without padding. `C420` in all its variants, `C422`, `C444`, `Cmono`; `XCOLORRANGE=FULL` is minded.

use super::{
    PIXELS_MAX,
    pixels::{self, Lanes},
    recorded::Rate,
};
use anyhow::{Context, Result, bail, ensure};

/// The longest header line that is read.
pub const LINE_BYTES_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub width: usize,
    pub height: usize,
    pub rate: Rate,
    /// Luma samples per chroma sample, across and down; `None` without chroma.
    chroma: Option<(usize, usize)>,
    full_range: bool,
}

impl Header {
    /// The first line, without its newline.
    pub fn parse(line: &[u8]) -> Result<Self> {
        let line = std::str::from_utf8(line).ok().context("not a Y4M stream")?;
        let mut fields = line.split(' ');
        ensure!(fields.next() == Some("YUV4MPEG2"), "not a Y4M stream: it does not start with YUV4MPEG2");
        let mut header =
            Self { width: 0, height: 0, rate: Rate::new(25, 1), chroma: Some((2, 2)), full_range: false };
        for field in fields {
            let Some(kind) = field.chars().next() else { continue };
            let value = &field[kind.len_utf8()..];
            match kind {
                'W' => header.width = value.parse().with_context(|| format!("a Y4M width of {value}"))?,
                'H' => header.height = value.parse().with_context(|| format!("a Y4M height of {value}"))?,
                'F' => header.rate = rate(value).with_context(|| format!("a Y4M frame rate of {value}"))?,
                'C' => {
                    header.chroma = match value {
                        "420" | "420jpeg" | "420paldv" | "420mpeg2" => Some((2, 2)),
                        "422" => Some((2, 1)),
                        "444" => Some((1, 1)),
                        "mono" => None,
                        _ => bail!("Y4M of kind C{value}: C420, C422, C444 and Cmono of 8 bit can be read"),
                    }
                }
                'X' if value == "COLORRANGE=FULL" => header.full_range = true,
                _ => {}
            }
        }
        let pixels = (header.width as u64).saturating_mul(header.height as u64);
        ensure!(
            (1..=PIXELS_MAX).contains(&pixels),
            "Y4M of {} x {}: 1 to {PIXELS_MAX} pixels can be used",
            header.width,
            header.height
        );
        Ok(header)
    }

    /// Bytes of a frame's planes.
    pub fn frame_bytes(&self) -> usize {
        let chroma =
            self.chroma.map_or(0, |(across, down)| self.width.div_ceil(across) * self.height.div_ceil(down));
        self.width * self.height + 2 * chroma
    }

    pub fn rgb(&self, planes: &[u8], out: &mut [u8]) {
        assert_eq!(planes.len(), self.frame_bytes(), "the planes of one frame");
        assert_eq!(out.len(), self.width * self.height * 3, "RGB of one frame");
        let range = if self.full_range { pixels::FULL } else { pixels::LIMITED };
        let (luma, chroma) = planes.split_at(self.width * self.height);
        let (blue, red) = chroma.split_at(chroma.len() / 2);
        let rows = luma.chunks_exact(self.width).zip(out.chunks_exact_mut(self.width * 3));
        for (line, (luma, out)) in rows.enumerate() {
            let Some((across, down)) = self.chroma else {
                range.row(out, |from| Lanes::grey(luma, from));
                continue;
            };
            let width = self.width.div_ceil(across);
            let colours = line / down * width..(line / down + 1) * width;
            let (blue, red) = (&blue[colours.clone()], &red[colours]);
            match across {
                1 => range.row(out, |from| Lanes::planar::<1>(luma, blue, red, from)),
                _ => range.row(out, |from| Lanes::planar::<2>(luma, blue, red, from)),
            }
        }
    }
}

fn rate(value: &str) -> Option<Rate> {
    let (num, den) = value.split_once(':')?;
    Some(Rate::new(num.parse().ok()?, den.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_odd_ones_refused() {
        let header = Header::parse(b"YUV4MPEG2 W5 H3 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2").unwrap();
        assert_eq!((header.width, header.height, header.rate), (5, 3, Rate::new(30_000, 1_001)));
        assert_eq!(header.frame_bytes(), 15 + 2 * 3 * 2);
        assert_eq!(Header::parse(b"YUV4MPEG2 W5 H3 C444").unwrap().frame_bytes(), 45);
        assert_eq!(Header::parse(b"YUV4MPEG2 W5 H3 C422").unwrap().frame_bytes(), 15 + 2 * 3 * 3);
        assert_eq!(Header::parse(b"YUV4MPEG2 W5 H3 Cmono").unwrap().frame_bytes(), 15);
        for bad in [
            "P6",
            "YUV4MPEG2",
            "YUV4MPEG2 W0 H3",
            "YUV4MPEG2 W-5 H3",
            "YUV4MPEG2 W5 H3 Fx",
            "YUV4MPEG2 W5 H3 C420p10",
            "YUV4MPEG2 W99999999999 H99999999999",
        ] {
            assert!(Header::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn planes_of_every_kind_are_turned_pixel_by_pixel() {
        for (kind, across, down) in [("420", 2, 2), ("422", 2, 1), ("444", 1, 1)] {
            for (width, height) in (1..40).map(|width| (width, 3)) {
                let line = format!("YUV4MPEG2 W{width} H{height} C{kind}");
                let header = Header::parse(line.as_bytes()).unwrap();
                let planes: Vec<u8> = (0..header.frame_bytes()).map(|i| (i * 89 % 253) as u8).collect();
                let mut out = vec![0; width * height * 3];
                header.rgb(&planes, &mut out);
                let (luma, chroma) = planes.split_at(width * height);
                let (blue, red) = chroma.split_at(chroma.len() / 2);
                let places = (0..height).flat_map(|row| (0..width).map(move |x| (row, x)));
                let want = places.flat_map(|(row, x)| {
                    let colour = row / down * width.div_ceil(across) + x / across;
                    pixels::LIMITED.pixel(
                        luma[row * width + x].into(),
                        blue[colour].into(),
                        red[colour].into(),
                    )
                });
                assert_eq!(out, want.collect::<Vec<_>>(), "{line}");
            }
        }
    }

    #[test]
    fn planes_become_rgb() {
        let header = Header::parse(b"YUV4MPEG2 W3 H2 C420jpeg").unwrap();
        let mut out = [0; 18];
        header.rgb(&[20, 30, 40, 50, 60, 70, 100, 110, 140, 150], &mut out);
        let want =
            [(20, 100, 140), (30, 100, 140), (40, 110, 150), (50, 100, 140), (60, 100, 140), (70, 110, 150)];
        let want: Vec<u8> = want.iter().flat_map(|&(y, u, v)| pixels::LIMITED.pixel(y, u, v)).collect();
        assert_eq!(out[..], want);

        let header = Header::parse(b"YUV4MPEG2 W2 H1 C444 XCOLORRANGE=FULL").unwrap();
        let mut out = [0; 6];
        header.rgb(&[0, 255, 128, 128, 128, 128], &mut out);
        assert_eq!(out, [0, 0, 0, 255, 255, 255]);

        let header = Header::parse(b"YUV4MPEG2 W2 H1 Cmono").unwrap();
        let mut out = [0; 6];
        header.rgb(&[16, 235], &mut out);
        assert_eq!(out, [0, 0, 0, 255, 255, 255]);
    }
}
