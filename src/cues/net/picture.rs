//! Parts of pictures as a net wants them: cut out, turned, scaled, normalised.

use super::super::settings::{Layout, Net as Settings};
use crate::source::Frame;

/// A pixel of a cut is the mean of at most so many, squared.
const COVERS_MAX: usize = 8;
/// Side of the largest cut whose columns are found once.
const SIDE_MAX: usize = 192;

/// From a pixel of the cut to one of the picture: `x = a u - b v + x0`, `y = b u + a v + y0`, with `u`, `v` counted from the cut's middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    pub x0: f32,
    pub y0: f32,
    pub a: f32,
    pub b: f32,
}

impl Cut {
    /// A square of the side `side` about a middle, turned by `angle`, cut to `size` pixels.
    pub fn square(x0: f32, y0: f32, side: f32, angle: f32, size: usize) -> Cut {
        let step = side / size as f32;
        Cut { x0, y0, a: step * angle.cos(), b: step * angle.sin() }
    }

    /// Where a point of the cut lies in the picture.
    pub fn place(&self, u: f32, v: f32) -> (f32, f32) {
        (self.a * u - self.b * v + self.x0, self.b * u + self.a * v + self.y0)
    }

    /// Pixels of the picture for one of the cut.
    pub fn step(&self) -> f32 {
        self.a.hypot(self.b)
    }

    /// Fills `out` (`3 * size * size`). Where a pixel of the cut covers several of the picture, their mean is taken; outside is black.
    pub fn fill(&self, frame: &Frame, size: usize, settings: &Settings, out: &mut [f32]) {
        let covers = (self.step().round() as usize).clamp(1, COVERS_MAX);
        let part = 1.0 / covers as f32;
        let first = 0.5 * part - 0.5 - (size as f32 - 1.0) / 2.0;
        let mut put = |u: usize, v: usize, sum: [f32; 3]| {
            for (c, sum) in sum.into_iter().enumerate() {
                let at = match settings.layout {
                    Layout::Nchw => (c * size + v) * size + u,
                    Layout::Nhwc => (v * size + u) * 3 + c,
                };
                out[at] = (sum * part * part - settings.mean) * settings.scale;
            }
        };
        if covers > 1 && self.b == 0.0 && size <= SIDE_MAX {
            return self.fill_upright(frame, size, covers, put);
        }
        for v in 0..size {
            for u in 0..size {
                let (x, y) = self.place(u as f32 + first, v as f32 + first);
                let sum = match covers {
                    1 => bilinear(frame, x - 0.5, y - 0.5),
                    _ => self.sum(frame, x, y, covers),
                };
                put(u, v, sum);
            }
        }
    }

    /// Sum of `covers * covers` pixels from a place on.
    fn sum(&self, frame: &Frame, mut x: f32, mut y: f32, covers: usize) -> [f32; 3] {
        let part = 1.0 / covers as f32;
        let mut sum = [0.0; 3];
        for _ in 0..covers {
            let (mut px, mut py) = (x, y);
            for _ in 0..covers {
                nearest(frame, px, py, &mut sum);
                (px, py) = (px + self.a * part, py + self.b * part);
            }
            (x, y) = (x - self.b * part, y + self.a * part);
        }
        sum
    }

    /// The same for a cut that is not turned: rows and columns are found once.
    fn fill_upright(
        &self,
        frame: &Frame,
        size: usize,
        covers: usize,
        mut put: impl FnMut(usize, usize, [f32; 3]),
    ) {
        let middle = (size * covers) as f32 / 2.0;
        let inside = |at: f32, whole: u32| (at >= 0.0 && at < whole as f32).then_some(at as usize);
        let step = self.a / covers as f32;
        let place = |i: usize, middle_px: f32| (i as f32 + 0.5 - middle) * step + middle_px;
        let mut columns = [None; SIDE_MAX * COVERS_MAX];
        for (i, column) in columns[..size * covers].iter_mut().enumerate() {
            *column = inside(place(i, self.x0), frame.width).map(|x| 3 * x);
        }
        for v in 0..size {
            let mut sums = [[0u32; 3]; SIDE_MAX];
            for i in v * covers..(v + 1) * covers {
                let Some(y) = inside(place(i, self.y0), frame.height) else { continue };
                let row = &frame.rgb[y * frame.width as usize * 3..][..frame.width as usize * 3];
                for (sum, columns) in sums.iter_mut().zip(columns[..size * covers].chunks_exact(covers)) {
                    for &x in columns.iter().flatten() {
                        let pixel = &row[x..x + 3];
                        (0..3).for_each(|c| sum[c] += u32::from(pixel[c]));
                    }
                }
            }
            sums[..size].iter().enumerate().for_each(|(u, sum)| put(u, v, sum.map(|sum| sum as f32)));
        }
    }
}

/// Adds the pixel at a place; outside is black.
fn nearest(frame: &Frame, x: f32, y: f32, sum: &mut [f32; 3]) {
    if x < 0.0 || y < 0.0 || x >= frame.width as f32 || y >= frame.height as f32 {
        return;
    }
    let at = (y as usize * frame.width as usize + x as usize) * 3;
    for (sum, &value) in sum.iter_mut().zip(&frame.rgb[at..at + 3]) {
        *sum += f32::from(value);
    }
}

/// A picture between its pixels; black outside.
fn bilinear(frame: &Frame, x: f32, y: f32) -> [f32; 3] {
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = (x - left, y - top);
    if left >= 0.0 && top >= 0.0 && left + 1.0 < frame.width as f32 && top + 1.0 < frame.height as f32 {
        let across = 3 * frame.width as usize;
        let at = top as usize * across + 3 * left as usize;
        let (above, below) = (&frame.rgb[at..at + 6], &frame.rgb[at + across..at + across + 6]);
        let mix = |a: u8, b: u8, by: f32| f32::from(a) * (1.0 - by) + f32::from(b) * by;
        return [0, 1, 2]
            .map(|c| mix(above[c], above[c + 3], fx) * (1.0 - fy) + mix(below[c], below[c + 3], fx) * fy);
    }
    let mut sum = [0.0f32; 3];
    for (dx, dy) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let (px, py) = (left + dx, top + dy);
        if px < 0.0 || py < 0.0 || px >= frame.width as f32 || py >= frame.height as f32 {
            continue;
        }
        let share = (1.0 - (fx - dx).abs()) * (1.0 - (fy - dy).abs());
        let at = (py as usize * frame.width as usize + px as usize) * 3;
        (0..3).for_each(|c| sum[c] += share * f32::from(frame.rgb[at + c]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture whose red grows to the right and whose green grows downwards.
    fn ramp(width: u32, height: u32) -> Frame {
        let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7])).collect();
        Frame { captured_ns: 0, height, width, rgb }
    }

    fn plain() -> Settings {
        Settings { scale: 1.0, ..Settings::default() }
    }

    #[test]
    fn a_cut_shows_its_part_of_the_picture_at_any_scale() {
        let frame = ramp(200, 100);
        for side in [8.0f32, 16.0, 40.0, 80.0] {
            let size = 8;
            let mut out = vec![0.0; 3 * size * size];
            Cut::square(100.0, 50.0, side, 0.0, size).fill(&frame, size, &plain(), &mut out);
            let step = side / size as f32;
            for (v, u) in (0..size).flat_map(|v| (0..size).map(move |u| (v, u))) {
                let x = 100.0 + (u as f32 - 3.5) * step - 0.5;
                let y = 50.0 + (v as f32 - 3.5) * step - 0.5;
                let at = v * size + u;
                assert!((out[at] - x).abs() < 0.6, "side {side}, {u} {v}: {} for {x}", out[at]);
                assert!((out[size * size + at] - y).abs() < 0.6, "side {side}");
                assert!((out[2 * size * size + at] - 7.0).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn an_upright_cut_is_the_same_as_one_that_is_hardly_turned() {
        let frame = ramp(250, 180);
        for (side, x0) in [(250.0f32, 125.0f32), (330.0, 125.0), (97.0, 20.0)] {
            let size = 32;
            let (mut upright, mut turned) = (vec![0.0; 3 * size * size], vec![0.0; 3 * size * size]);
            Cut::square(x0, 90.0, side, 0.0, size).fill(&frame, size, &plain(), &mut upright);
            Cut::square(x0, 90.0, side, 1e-6, size).fill(&frame, size, &plain(), &mut turned);
            let off = upright.iter().zip(&turned).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let far = upright.iter().zip(&turned).filter(|(a, b)| (*a - *b).abs() > 0.5).count();
            assert!(
                far * 100 < upright.len(),
                "side {side}: {far} of {} differ, by {off} at most",
                upright.len()
            );
        }
    }

    #[test]
    fn outside_is_black_and_channels_may_come_last() {
        let frame = ramp(20, 20);
        let (size, settings) = (4, Settings { layout: Layout::Nhwc, ..plain() });
        let mut out = vec![1.0; 3 * size * size];
        Cut::square(-40.0, -40.0, 8.0, 0.3, size).fill(&frame, size, &settings, &mut out);
        assert!(out.iter().all(|v| *v == 0.0));
        Cut::square(10.0, 10.0, 4.0, 0.0, size).fill(&frame, size, &settings, &mut out);
        assert!(out.chunks_exact(3).all(|pixel| (pixel[2] - 7.0).abs() < 1e-3));
    }

    #[test]
    fn places_of_the_cut_turn_with_it() {
        let cut = Cut::square(50.0, 60.0, 96.0, std::f32::consts::FRAC_PI_2, 96);
        let (x, y) = cut.place(10.0, 0.0);
        assert!((x - 50.0).abs() < 1e-4 && (y - 70.0).abs() < 1e-4, "{x} {y}");
    }
}
