//! Images as the vision tower reads them: bicubic to a square with antialiasing, then to `[-1, 1]`.
//!
//! Shapes: in `(height, width, 3)` u8; out `(3, size, size)` f32, channel order RGB.
//! Invariant: the same bytes as Pillow's `resize(.., BICUBIC)`, columns before rows, with 8 bits in between; the aspect
//! ratio is not kept.
//! Limits: the filters of the last picture size are kept, and made again when the size changes.

use zeroize::Zeroize;

const FRACTION_BITS: u32 = 22;

/// The fixed-point filter of one axis.
#[derive(Debug)]
struct Axis {
    /// First source index and number of taps of every output.
    spans: Vec<(usize, usize)>,
    /// Taps of all outputs, `stride` apart.
    taps: Vec<i32>,
    stride: usize,
}

/// Resizes pictures to one square size; keeps its filters and its middle picture between calls, and overwrites that in the end.
#[derive(Debug)]
pub struct Resizer {
    size: usize,
    source: (usize, usize),
    columns: Axis,
    rows: Axis,
    middle: Vec<u8>,
}

impl Drop for Resizer {
    fn drop(&mut self) {
        self.middle.zeroize();
    }
}

impl Resizer {
    pub fn new(size: usize) -> Self {
        let same = || Axis::new(size, size);
        Self { size, source: (size, size), columns: same(), rows: same(), middle: Vec::new() }
    }

    /// `out` is `(size, size, 3)`.
    pub fn resize(&mut self, rgb: &[u8], height: usize, width: usize, out: &mut [u8]) {
        let size = self.size;
        assert!(
            height > 0 && width > 0 && rgb.len() == height * width * 3,
            "{} bytes for {height} x {width} RGB",
            rgb.len()
        );
        assert!(out.len() == size * size * 3, "{} bytes for {size} x {size} RGB", out.len());
        if self.source != (height, width) {
            self.columns = Axis::new(width, size);
            self.rows = Axis::new(height, size);
            self.source = (height, width);
        }
        if width == size {
            self.down(rgb, out);
            return;
        }
        let mut middle = std::mem::take(&mut self.middle);
        middle.resize(height * size * 3, 0);
        for (from, to) in rgb.chunks_exact(width * 3).zip(middle.chunks_exact_mut(size * 3)) {
            for (o, pixel) in to.chunks_exact_mut(3).enumerate() {
                let (taps, first) = self.columns.taps(o);
                let mut sum = [1i32 << (FRACTION_BITS - 1); 3];
                for (tap, source) in taps.iter().zip(from[first * 3..].chunks_exact(3)) {
                    for (s, v) in sum.iter_mut().zip(source) {
                        *s += i32::from(*v) * tap;
                    }
                }
                for (p, s) in pixel.iter_mut().zip(sum) {
                    *p = narrow(s);
                }
            }
        }
        self.down(&middle, out);
        self.middle = middle;
    }

    /// The second pass: `(height, size, 3)` to `(size, size, 3)`.
    fn down(&self, from: &[u8], out: &mut [u8]) {
        let line = self.size * 3;
        if from.len() == out.len() {
            out.copy_from_slice(from);
            return;
        }
        for (o, to) in out.chunks_exact_mut(line).enumerate() {
            let (taps, first) = self.rows.taps(o);
            for (x, p) in to.iter_mut().enumerate() {
                let column = from[first * line + x..].iter().step_by(line);
                let sum = taps
                    .iter()
                    .zip(column)
                    .fold(1i32 << (FRACTION_BITS - 1), |s, (t, v)| s + i32::from(*v) * t);
                *p = narrow(sum);
            }
        }
    }
}

impl Axis {
    fn new(inputs: usize, outputs: usize) -> Self {
        let scale = inputs as f64 / outputs as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let stride = support.ceil() as usize * 2 + 1;
        let mut axis = Self { spans: Vec::with_capacity(outputs), taps: vec![0; outputs * stride], stride };
        let mut weights = Vec::with_capacity(stride);
        for (o, taps) in axis.taps.chunks_exact_mut(stride).enumerate() {
            let center = (o as f64 + 0.5) * scale;
            let low = (center - support + 0.5).max(0.0) as usize;
            let high = ((center + support + 0.5) as usize).min(inputs);
            weights.clear();
            weights.extend((low..high).map(|i| cubic((i as f64 - center + 0.5) * (1.0 / stretch))));
            let total: f64 = weights.iter().sum();
            for (t, w) in taps.iter_mut().zip(&weights) {
                *t = (w / total * f64::from(1 << FRACTION_BITS)).round() as i32;
            }
            axis.spans.push((low, high - low));
        }
        axis
    }

    fn taps(&self, output: usize) -> (&[i32], usize) {
        let (first, count) = self.spans[output];
        (&self.taps[output * self.stride..][..count], first)
    }
}

fn narrow(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Keys' kernel with `a = -1/2`.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// One byte of colour as the tower sees it.
pub fn normalize(value: u8) -> f32 {
    ((f64::from(value) * (1.0 / 255.0)) as f32 - 0.5) / 0.5
}

/// `(size, size, 3)` u8 to `(3, size, size)` f32 in `[-1, 1]`.
pub fn planes(rgb: &[u8], out: &mut [f32]) {
    assert!(
        rgb.len() == out.len() && rgb.len().is_multiple_of(3),
        "{} bytes into {} values",
        rgb.len(),
        out.len()
    );
    let pixels = rgb.len() / 3;
    let table: [f32; 256] = std::array::from_fn(|v| normalize(v as u8));
    for (i, pixel) in rgb.chunks_exact(3).enumerate() {
        for (c, v) in pixel.iter().enumerate() {
            out[c * pixels + i] = table[usize::from(*v)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        for (height, width) in [(1, 1), (3, 700), (224, 500), (97, 224), (1, 10_000)] {
            let mut out = vec![0; 224 * 224 * 3];
            let rgb: Vec<u8> = [7u8, 130, 255].repeat(height * width);
            Resizer::new(224).resize(&rgb, height, width, &mut out);
            assert!(out.chunks_exact(3).all(|p| p == [7, 130, 255]), "{height} x {width}");
        }
    }

    #[test]
    fn the_right_size_is_left_alone() {
        let rgb: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 37 % 251) as u8).collect();
        let mut out = vec![0; rgb.len()];
        Resizer::new(16).resize(&rgb, 16, 16, &mut out);
        assert_eq!(out, rgb);
    }

    #[test]
    fn filters_follow_the_picture_size() {
        let small: Vec<u8> = (0..20 * 30 * 3).map(|i| (i * 91 % 256) as u8).collect();
        let large: Vec<u8> = (0..50 * 40 * 3).map(|i| (i * 57 % 256) as u8).collect();
        let mut kept = Resizer::new(24);
        for (rgb, height, width) in [(&small, 20, 30), (&large, 50, 40), (&small, 20, 30)] {
            let (mut a, mut b) = (vec![0; 24 * 24 * 3], vec![0; 24 * 24 * 3]);
            kept.resize(rgb, height, width, &mut a);
            Resizer::new(24).resize(rgb, height, width, &mut b);
            assert_eq!(a, b, "{height} x {width}");
        }
    }

    #[test]
    fn colours_span_minus_one_to_one() {
        assert_eq!(normalize(0), -1.0);
        assert_eq!(normalize(255), 1.0);
        let mut out = [0.0; 6];
        planes(&[0, 255, 51, 255, 0, 51], &mut out);
        assert_eq!(out[..4], [-1.0, 1.0, 1.0, -1.0]);
        assert!((out[4] + 0.6).abs() < 1e-7 && out[4] == out[5]);
    }
}
