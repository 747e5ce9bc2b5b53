//! Camera pixels to RGB: packed and planar YUV by the integer form of BT.601.
//!
//! Shapes: out is `(height, width, 3)` u8 RGB without padding; in, rows are `stride` bytes apart.
//! Formula, limited range, for luma `y` and chroma `u`, `v` as stored, `>>` arithmetic, results clamped to 0..=255:
//!
//! ```text
//! c = 298 (y - 16)    d = u - 128    e = v - 128
//! r = (c + 409 e + 128) >> 8
//! g = (c - 100 d - 208 e + 128) >> 8
//! b = (c + 516 d + 128) >> 8
//! ```
//!
//! Chroma is not interpolated: a sample colours all pixels that share it. The code has whole multiples of 256 taken out of the
//! products, which changes no bit: what is left fits 16 bits, and as many pixels as a vector holds are turned at once.

use super::PIXELS_MAX;
use std::fmt;

/// Why a picture could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Fewer bytes than the picture's size needs.
    Short,
    /// A JPEG without its end.
    Truncated,
    /// Not a JPEG, or one that cannot be decoded.
    Jpeg,
    /// More pixels than `PIXELS_MAX`, or none.
    Size,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("too few bytes for the picture"),
            Self::Truncated => f.write_str("a JPEG without its end"),
            Self::Jpeg => f.write_str("not a JPEG that can be decoded"),
            Self::Size => write!(f, "a picture without pixels or with more than {PIXELS_MAX}"),
        }
    }
}

impl std::error::Error for Broken {}

/// Factors of the formula, less whole multiples of 256.
pub struct Range {
    black: i16,
    luma: i16,
    red_e: i16,
    green_d: i16,
    green_e: i16,
    blue_d: i16,
}

/// What cameras and films send.
pub const LIMITED: Range = Range { black: 16, luma: 42, red_e: 153, green_d: -100, green_e: 48, blue_d: 4 };

/// What JPEG has, with `c = 256 y`: `r = c + 359 e`, `g = c - 88 d - 183 e`, `b = c + 454 d`, `+ 128 >> 8`.
pub const FULL: Range = Range { black: 0, luma: 0, red_e: 103, green_d: -88, green_e: 73, blue_d: -58 };

/// Pixels that are turned at once.
const LANES: usize = 16;

/// So many pixels beside each other, their bytes as stored.
pub struct Lanes {
    y: [i16; LANES],
    u: [i16; LANES],
    v: [i16; LANES],
}

impl Range {
    /// One pixel, from its bytes as stored.
    #[inline]
    pub fn pixel(&self, y: i16, u: i16, v: i16) -> [u8; 3] {
        let (c, d, e) = (y - self.black, u - 128, v - 128);
        let luma = self.luma * c + 128;
        let r = c + e + ((luma + self.red_e * e) >> 8);
        let g = c - e + ((luma + self.green_d * d + self.green_e * e) >> 8);
        let b = c + 2 * d + ((luma + self.blue_d * d) >> 8);
        [r.clamp(0, 255) as u8, g.clamp(0, 255) as u8, b.clamp(0, 255) as u8]
    }

    /// A function of its own, so that it is compiled to vectors wherever it is called from.
    #[inline(never)]
    fn turn(&self, lanes: &Lanes, out: &mut [u8; 3 * LANES]) {
        let Lanes { y, u, v } = lanes;
        let (mut r, mut g, mut b) = ([0; LANES], [0; LANES], [0; LANES]);
        for i in 0..LANES {
            [r[i], g[i], b[i]] = self.pixel(y[i], u[i], v[i]);
        }
        for i in 0..LANES {
            (out[3 * i], out[3 * i + 1], out[3 * i + 2]) = (r[i], g[i], b[i]);
        }
    }

    /// Turns a row; `lanes` gives its pixels from a column on.
    #[inline]
    pub fn row(&self, out: &mut [u8], lanes: impl Fn(usize) -> Lanes) {
        let (whole, rest) = out.as_chunks_mut();
        for (block, out) in whole.iter_mut().enumerate() {
            self.turn(&lanes(block * LANES), out);
        }
        if !rest.is_empty() {
            let mut last = [0; 3 * LANES];
            self.turn(&lanes(whole.len() * LANES), &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

impl Lanes {
    fn yuyv(row: &[u8], from: usize) -> Self {
        let bytes: [u8; 2 * LANES] = taken(row, 2 * from);
        let (mut lanes, mut chroma) = (Self::BLACK, [0; LANES]);
        for i in 0..LANES {
            let word = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
            (lanes.y[i], chroma[i]) = ((word & 0xff) as i16, (word >> 8) as i16);
        }
        for i in 0..LANES {
            (lanes.u[i], lanes.v[i]) = (chroma[i & !1], chroma[i | 1]);
        }
        lanes
    }

    fn nv12(luma: &[u8], pairs: &[u8], from: usize) -> Self {
        let (luma, pairs): ([u8; LANES], [u8; LANES]) = (taken(luma, from), taken(pairs, from));
        let mut lanes = Self::BLACK;
        for i in 0..LANES {
            lanes.y[i] = luma[i].into();
            lanes.u[i] = pairs[i & !1].into();
            lanes.v[i] = pairs[i | 1].into();
        }
        lanes
    }

    /// From rows of three planes, of which the colours hold a sample for each `ACROSS` pixels, 1 or 2.
    #[inline]
    pub fn planar<const ACROSS: usize>(luma: &[u8], blue: &[u8], red: &[u8], from: usize) -> Self {
        let luma: [u8; LANES] = taken(luma, from);
        let (blue, red): ([u8; LANES], [u8; LANES]) = match ACROSS {
            1 => (taken(blue, from), taken(red, from)),
            _ => (taken(blue, from / ACROSS), taken(red, from / ACROSS)),
        };
        let mut lanes = Self::BLACK;
        for i in 0..LANES {
            lanes.y[i] = luma[i].into();
            lanes.u[i] = blue[i / ACROSS].into();
            lanes.v[i] = red[i / ACROSS].into();
        }
        lanes
    }

    pub fn grey(luma: &[u8], from: usize) -> Self {
        Self { y: taken::<LANES>(luma, from).map(i16::from), ..Self::BLACK }
    }

    const BLACK: Self = Self { y: [16; LANES], u: [128; LANES], v: [128; LANES] };
}

/// Bytes from a place on; zeros beyond the end.
#[inline]
fn taken<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let rest = bytes.get(from..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk() {
        return *whole;
    }
    let mut taken = [0; N];
    taken[..rest.len()].copy_from_slice(rest);
    taken
}

/// `(height, width / 2, 4)` bytes `y0 u y1 v`. An odd last column has its own pair.
pub fn yuyv(data: &[u8], stride: usize, width: usize, height: usize, out: &mut [u8]) -> Result<(), Broken> {
    let bytes = width.div_ceil(2) * 4;
    let lines = rows(data, stride, bytes, height)?;
    for (line, out) in lines.zip(out.chunks_exact_mut(width * 3)) {
        LIMITED.row(out, |from| Lanes::yuyv(&line[..bytes], from));
    }
    Ok(())
}

/// A luma plane, then at `chroma` a plane of `u v` pairs for each 2 x 2 pixels; both with the same stride.
pub fn nv12(data: &[u8], stride: usize, width: usize, height: usize, out: &mut [u8]) -> Result<(), Broken> {
    let luma = stride.checked_mul(height).ok_or(Broken::Size)?;
    let chroma = data.get(luma..).ok_or(Broken::Short)?;
    let lumas = rows(data, stride, width, height)?;
    let bytes = width.div_ceil(2) * 2;
    rows(chroma, stride, bytes, height.div_ceil(2)).map(drop)?;
    for (line, (luma, out)) in lumas.zip(out.chunks_exact_mut(width * 3)).enumerate() {
        let pairs = &chroma[line / 2 * stride..][..bytes];
        LIMITED.row(out, |from| Lanes::nv12(&luma[..width], pairs, from));
    }
    Ok(())
}

/// RGB with padded rows.
pub fn rgb24(data: &[u8], stride: usize, width: usize, height: usize, out: &mut [u8]) -> Result<(), Broken> {
    for (line, out) in rows(data, stride, width * 3, height)?.zip(out.chunks_exact_mut(width * 3)) {
        out.copy_from_slice(&line[..width * 3]);
    }
    Ok(())
}

/// Rows of at least `row` bytes, `stride` apart; the last one may lack its padding.
fn rows(
    data: &[u8],
    stride: usize,
    row: usize,
    height: usize,
) -> Result<impl Iterator<Item = &[u8]>, Broken> {
    if height == 0 || row == 0 || stride < row {
        return Err(Broken::Size);
    }
    let whole =
        stride.checked_mul(height - 1).and_then(|bytes| bytes.checked_add(row)).ok_or(Broken::Size)?;
    if data.len() < whole {
        return Err(Broken::Short);
    }
    Ok(data.chunks(stride).take(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bt601_at_its_corners() {
        assert_eq!(LIMITED.pixel(16, 128, 128), [0, 0, 0]);
        assert_eq!(LIMITED.pixel(235, 128, 128), [255, 255, 255]);
        assert_eq!(LIMITED.pixel(126, 128, 128), [128, 128, 128]);
        assert_eq!(LIMITED.pixel(81, 90, 240), [255, 0, 0]);
        assert_eq!(LIMITED.pixel(145, 54, 34), [0, 255, 1]);
        assert_eq!(LIMITED.pixel(41, 240, 110), [0, 0, 255]);
        assert_eq!(LIMITED.pixel(0, 0, 0), [0, 135, 0]);
        assert_eq!(LIMITED.pixel(255, 255, 255), [255, 125, 255]);
    }

    #[test]
    fn bt601_is_near_the_real_one() {
        for (y, u, v) in
            (16..=235).step_by(7).flat_map(|y| (16..=240).step_by(16).map(move |c| (y, c, 256 - c)))
        {
            let (fy, fu, fv) = (1.164_383 * f64::from(y - 16), f64::from(u - 128), f64::from(v - 128));
            let real = [fy + 1.596_027 * fv, fy - 0.391_762 * fu - 0.812_968 * fv, fy + 2.017_232 * fu];
            for (real, ours) in real.iter().zip(LIMITED.pixel(y, u, v)) {
                assert!(
                    (real.clamp(0.0, 255.0) - f64::from(ours)).abs() <= 1.5,
                    "{y} {u} {v}: {real} {ours}"
                );
            }
        }
    }

    #[test]
    fn what_is_taken_out_of_the_products_changes_no_bit() {
        let clamp = |value: i32| (value >> 8).clamp(0, 255) as u8;
        for (y, u, v) in
            (0..256).flat_map(|y| (0..256).flat_map(move |u| (y % 3..256).step_by(3).map(move |v| (y, u, v))))
        {
            let (d, e) = (u - 128, v - 128);
            let c = 298 * (y - 16);
            let limited = [c + 409 * e + 128, c - 100 * d - 208 * e + 128, c + 516 * d + 128];
            assert_eq!(LIMITED.pixel(y as i16, u as i16, v as i16), limited.map(clamp), "{y} {u} {v}");
            let c = 256 * y;
            let full = [c + 359 * e + 128, c - 88 * d - 183 * e + 128, c + 454 * d + 128];
            assert_eq!(FULL.pixel(y as i16, u as i16, v as i16), full.map(clamp), "{y} {u} {v}");
        }
    }

    #[test]
    fn rows_of_any_width_are_turned_pixel_by_pixel() {
        for width in 1..3 * LANES + 3 {
            let (chroma, height) = (width.div_ceil(2), 2);
            let data: Vec<u8> = (0..width * 8 + 16).map(|i| (i * 89 % 253) as u8).collect();
            let mut out = vec![0; width * height * 3];
            let pixel = |y: u8, u: u8, v: u8| LIMITED.pixel(y.into(), u.into(), v.into());
            let places = || (0..height).flat_map(|row| (0..width).map(move |x| (row, x)));

            yuyv(&data, 4 * chroma, width, height, &mut out).unwrap();
            let want = places().flat_map(|(row, x)| {
                let pair = &data[(row * chroma + x / 2) * 4..];
                pixel(pair[x % 2 * 2], pair[1], pair[3])
            });
            assert_eq!(out, want.collect::<Vec<_>>(), "yuyv, width {width}");

            let stride = 2 * chroma;
            nv12(&data, stride, width, height, &mut out).unwrap();
            let want = places().flat_map(|(row, x)| {
                let pair = &data[height * stride + x / 2 * 2..];
                pixel(data[row * stride + x], pair[0], pair[1])
            });
            assert_eq!(out, want.collect::<Vec<_>>(), "nv12, width {width}");
        }
    }

    #[test]
    fn yuyv_rows_with_padding_and_an_odd_width() {
        let data = [16, 128, 235, 128, 126, 90, 0, 240, 9, 9, 81, 90, 81, 240, 16, 128, 7, 128];
        let mut out = [7; 18];
        yuyv(&data, 10, 3, 2, &mut out).unwrap();
        let mut want = Vec::new();
        for (y, u, v) in
            [(16, 128, 128), (235, 128, 128), (126, 90, 240), (81, 90, 240), (81, 90, 240), (16, 128, 128)]
        {
            want.extend_from_slice(&LIMITED.pixel(y, u, v));
        }
        assert_eq!(out[..], want);
        assert_eq!(yuyv(&data[..17], 10, 3, 2, &mut out), Err(Broken::Short));
        assert_eq!(yuyv(&data, 7, 3, 2, &mut out), Err(Broken::Size));
    }

    #[test]
    fn nv12_shares_chroma_between_four_pixels() {
        let data = [10, 20, 30, 0, 40, 50, 60, 0, 70, 80, 90, 0, 100, 110, 120, 130, 140, 150, 160, 170];
        let mut out = [0; 27];
        nv12(&data, 4, 3, 3, &mut out).unwrap();
        let mut want = Vec::new();
        for (y, u, v) in [
            (10, 100, 110),
            (20, 100, 110),
            (30, 120, 130),
            (40, 100, 110),
            (50, 100, 110),
            (60, 120, 130),
            (70, 140, 150),
            (80, 140, 150),
            (90, 160, 170),
        ] {
            want.extend_from_slice(&LIMITED.pixel(y, u, v));
        }
        assert_eq!(out[..], want);
        assert_eq!(nv12(&data[..19], 4, 3, 3, &mut out), Err(Broken::Short));
        assert_eq!(nv12(&data[..3], 4, 3, 3, &mut out), Err(Broken::Short));
    }

    #[test]
    fn rgb24_drops_the_padding() {
        let mut out = [0; 12];
        rgb24(&[1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12], 8, 2, 2, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(rgb24(&[0; 13], 8, 2, 2, &mut out), Err(Broken::Short));
        assert_eq!(rgb24(&[], usize::MAX, 2, 2, &mut out), Err(Broken::Size));
    }
}
