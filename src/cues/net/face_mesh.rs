//! Points of one face: a net over its box, turned upright by its eyes (MediaPipe face mesh).
//!
//! Shapes: 192 x 192 pixels in; 468 points `(x, y, z)` and one flag out.
//! Units: pixels of the picture; the flag is a probability that it is a face at all.

use super::{Face, Net, Settings, Task, Wants};
use crate::{cues::measure::POINTS, source::Frame};
use anyhow::Result;

const SIZE: usize = 192;

/// A net that finds the points of a face.
pub struct FaceMesh {
    net: Net,
    settings: Settings,
    input: Vec<f32>,
    points: Box<[[f32; 3]; POINTS]>,
}

impl FaceMesh {
    pub fn load(settings: &Settings) -> Result<FaceMesh> {
        let [points, flag] = settings.outputs(Task::FaceMesh);
        let wants = Wants {
            inputs: &[("input", &settings.layout.shape(SIZE))],
            outputs: &[(points, 3 * POINTS), (flag, 1)],
        };
        let net = Net::load(Task::FaceMesh, settings, &wants)?;
        let input = vec![0.0; 3 * SIZE * SIZE];
        Ok(FaceMesh { net, settings: settings.clone(), input, points: Box::new([[0.0; 3]; POINTS]) })
    }

    /// Overwrites what was seen.
    pub fn forget(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.input);
        self.input.resize(3 * SIZE * SIZE, 0.0);
        self.points.fill([0.0; 3]);
    }

    /// The points of a face, and how sure the net is that it is one.
    pub fn find(&mut self, frame: &Frame, face: &Face) -> Result<(&[[f32; 3]; POINTS], f32)> {
        let cut = face.cut(SIZE);
        cut.fill(frame, SIZE, &self.settings, &mut self.input);
        let points = &mut self.points;
        let flag = self.net.run(&[&self.input], |said| {
            let half = SIZE as f32 / 2.0;
            for (point, own) in points.iter_mut().zip(said[0].chunks_exact(3)) {
                let (x, y) = cut.place(own[0] - half, own[1] - half);
                *point = [x, y, own[2] * cut.step()];
            }
            1.0 / (1.0 + (-said[1][0].clamp(-80.0, 80.0)).exp())
        })?;
        Ok((&self.points, flag))
    }
}
