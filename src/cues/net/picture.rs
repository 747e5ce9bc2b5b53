//! Parts of pictures as a net wants them: cut out, turned, scaled, normalised.

use super::super::settings::{Layout, Net as Settings};
use crate::source::Frame;

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
        let covers = (self.step().round() as usize).clamp(1, 8);
        let half = (size as f32 - 1.0) / 2.0;
        let part = 1.0 / covers as f32;
        let first = 0.5 * part - 0.5 - half;
        for v in 0..size {
            for u in 0..size {
                let mut sum = [0.0f32; 3];
                let (mut x, mut y) = self.place(u as f32 + first, v as f32 + first);
                if covers == 1 {
                    sum = bilinear(frame, x - 0.5, y - 0.5);
                } else {
                    for _ in 0..covers {
                        let (mut px, mut py) = (x, y);
                        for _ in 0..covers {
                            nearest(frame, px, py, &mut sum);
                            (px, py) = (px + self.a * part, py + self.b * part);
                        }
                        (x, y) = (x - self.b * part, y + self.a * part);
                    }
                }
                for (c, sum) in sum.into_iter().enumerate() {
                    let at = match settings.layout {
                        Layout::Nchw => (c * size + v) * size + u,
                        Layout::Nhwc => (v * size + u) * 3 + c,
                    };
                    out[at] = (sum * part * part - settings.mean) * settings.scale;
                }
            }
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
