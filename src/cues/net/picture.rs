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
        let covers = (self.step().ceil() as usize).clamp(1, 8);
        let half = (size as f32 - 1.0) / 2.0;
        let part = 1.0 / covers as f32;
        for v in 0..size {
            for u in 0..size {
                let mut sum = [0.0f32; 3];
                for (i, j) in (0..covers).flat_map(|i| (0..covers).map(move |j| (i, j))) {
                    let offset = |k: usize| (k as f32 + 0.5) * part - 0.5;
                    let (x, y) = self.place(u as f32 - half + offset(i), v as f32 - half + offset(j));
                    let pixel = bilinear(frame, x - 0.5, y - 0.5);
                    (0..3).for_each(|c| sum[c] += pixel[c]);
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
