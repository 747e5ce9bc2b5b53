//! Where faces are: a short-range single-shot detector over the whole picture (MediaPipe BlazeFace).
//!
//! Shapes: 128 x 128 pixels in, letterboxed; 896 anchors of strides 8, 16, 16, 16 out, each with a box and six points.
//! Units: pixels of the picture.

use super::{Net, Settings, Task, Wants, picture::Cut};
use crate::source::Frame;
use anyhow::Result;

const SIZE: usize = 128;
const ANCHORS: usize = 896;
/// Numbers of an anchor: middle and size of the box, then six points.
const NUMBERS: usize = 16;
/// Of a face's longer side: what other nets are given of it.
const MARGIN: f32 = 1.5;
/// Boxes that overlap by more are of one face.
const SAME: f32 = 0.3;
/// Faces of a picture at most.
pub const FACES_MAX: usize = crate::window::PARTS_MAX;

/// One face.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Face {
    pub score: f32,
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
    /// The eyes: at the left and at the right of the picture.
    pub eyes: [(f32, f32); 2],
}

impl Face {
    pub fn width(&self) -> f32 {
        self.right - self.left
    }

    pub fn area(&self) -> f32 {
        (self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)
    }

    /// The face turned upright by its eyes, with chin and forehead.
    pub fn cut(&self, size: usize) -> Cut {
        let [left, right] = self.eyes;
        let angle = (right.1 - left.1).atan2(right.0 - left.0);
        let (x, y) = ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0);
        Cut::square(x, y, MARGIN * self.width().max(self.bottom - self.top), angle, size)
    }

    /// Shared area over joint area.
    pub fn overlap(&self, other: &Face) -> f32 {
        let wide = self.right.min(other.right) - self.left.max(other.left);
        let high = self.bottom.min(other.bottom) - self.top.max(other.top);
        let shared = wide.max(0.0) * high.max(0.0);
        shared / (self.area() + other.area() - shared).max(1e-6)
    }
}

/// A net that finds faces.
pub struct FaceBox {
    net: Net,
    settings: Settings,
    input: Vec<f32>,
}

impl FaceBox {
    pub fn load(settings: &Settings) -> Result<FaceBox> {
        let [boxes, scores] = settings.outputs(Task::FaceBox);
        let wants = Wants {
            inputs: &[("input", &settings.layout.shape(SIZE))],
            outputs: &[(boxes, ANCHORS * NUMBERS), (scores, ANCHORS)],
        };
        let net = Net::load(Task::FaceBox, settings, &wants)?;
        Ok(FaceBox { net, settings: settings.clone(), input: vec![0.0; 3 * SIZE * SIZE] })
    }

    /// Overwrites what was seen.
    pub fn forget(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.input);
        self.input.resize(3 * SIZE * SIZE, 0.0);
    }

    /// Faces with a score of at least `least`, the largest first.
    pub fn find(&mut self, frame: &Frame, least: f32) -> Result<heapless::Vec<Face, FACES_MAX>> {
        let (width, height) = (frame.width as f32, frame.height as f32);
        let cut = Cut::square(width / 2.0, height / 2.0, width.max(height), 0.0, SIZE);
        cut.fill(frame, SIZE, &self.settings, &mut self.input);
        self.net.run(&[&self.input], |said| {
            let mut faces = joined(said[0], said[1], least);
            for face in &mut faces {
                let (left, top) = cut.place(face.left, face.top);
                let (right, bottom) = cut.place(face.right, face.bottom);
                let eyes = face.eyes.map(|(x, y)| cut.place(x, y));
                *face = Face { left, top, right, bottom, eyes, ..*face };
            }
            faces.sort_unstable_by(|a, b| b.area().total_cmp(&a.area()));
            faces
        })
    }
}

/// Middle of an anchor in parts of the picture.
fn anchor(index: usize) -> (f32, f32) {
    let (index, side, each) = if index < 512 { (index, 16, 2) } else { (index - 512, 8, 6) };
    let cell = index / each;
    scaled(((cell % side) as f32 + 0.5, (cell / side) as f32 + 0.5), 1.0 / side as f32)
}

fn scaled((x, y): (f32, f32), by: f32) -> (f32, f32) {
    (x * by, y * by)
}

/// One anchor's face, in pixels of the cut counted from its middle.
fn face(numbers: &[f32], score: f32, index: usize) -> Face {
    let (ax, ay) = scaled(anchor(index), SIZE as f32);
    let half = SIZE as f32 / 2.0;
    let (x, y) = (numbers[0] + ax - half, numbers[1] + ay - half);
    let (wide, high) = (numbers[2] / 2.0, numbers[3] / 2.0);
    let point = |k: usize| (numbers[4 + 2 * k] + ax - half, numbers[5 + 2 * k] + ay - half);
    Face {
        score,
        left: x - wide,
        top: y - high,
        right: x + wide,
        bottom: y + high,
        eyes: [point(0), point(1)],
    }
}

/// The best boxes, each the mean of those that overlap it, weighted by their scores.
fn joined(numbers: &[f32], scores: &[f32], least: f32) -> heapless::Vec<Face, FACES_MAX> {
    let share = |logit: f32| 1.0 / (1.0 + (-logit.clamp(-80.0, 80.0)).exp());
    let mut taken = [false; ANCHORS];
    let mut found = heapless::Vec::new();
    while !found.is_full() {
        let open = (0..ANCHORS).filter(|&i| !taken[i] && share(scores[i]) >= least);
        let Some(best) = open.max_by(|&a, &b| scores[a].total_cmp(&scores[b])) else { break };
        let of = |i: usize| face(&numbers[i * NUMBERS..(i + 1) * NUMBERS], share(scores[i]), i);
        let top = of(best);
        let mut sum = Face::default();
        let mut weight = 0.0;
        for i in 0..ANCHORS {
            if taken[i] || share(scores[i]) < least {
                continue;
            }
            let one = of(i);
            if i != best && one.overlap(&top) <= SAME {
                continue;
            }
            taken[i] = true;
            weight += one.score;
            sum.left += one.score * one.left;
            sum.top += one.score * one.top;
            sum.right += one.score * one.right;
            sum.bottom += one.score * one.bottom;
            for (sum, eye) in sum.eyes.iter_mut().zip(one.eyes) {
                *sum = (sum.0 + one.score * eye.0, sum.1 + one.score * eye.1);
            }
        }
        let by = 1.0 / weight;
        let mean = Face {
            score: top.score,
            left: sum.left * by,
            top: sum.top * by,
            right: sum.right * by,
            bottom: sum.bottom * by,
            eyes: sum.eyes.map(|eye| scaled(eye, by)),
        };
        found.push(mean).ok();
    }
    found
}
