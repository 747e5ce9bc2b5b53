//! Frames to patch features: the vision tower, each frame on its own.
//!
//! Shapes: pixels `(frames, 3, image, image)`; features `(frames * grid * grid, hidden)`, patches row-major.

use crate::{
    backend::{Act, Backend, Grid},
    bundle::Shape,
    feature::image::{Resizer, planes},
    model::{
        omni::tower::{Reach, Tower},
        pass::{Linear, Pass, Scratch, Sizes},
        weights::{Loader, zeros},
    },
    source::Frame,
};
use anyhow::Result;

pub struct Vision<B: Backend> {
    /// `(hidden, 3 * patch * patch)`
    patch: Linear<B>,
    /// `(grid * grid, hidden)`
    positions: B::Buf,
    tower: Tower<B>,
    resizer: Resizer,
    /// `(image, image, 3)` of one frame.
    square: Vec<u8>,
    /// `(3, image, image)` of one frame.
    planes: Vec<f32>,
    /// `(frames, 3, image, image)`
    pixels: B::Buf,
    /// What `encode` leaves: `(frames * grid * grid, hidden)`.
    pub features: B::Buf,
    frame: Grid,
    patch_size: usize,
    patches: usize,
    hidden: usize,
}

impl<B: Backend> Vision<B> {
    pub fn load(loader: &Loader<'_, B>, shape: &Shape) -> Result<Self> {
        let patches = shape.grid() * shape.grid();
        let frame = Grid { frames: 1, height: shape.image, width: shape.image, channels: 3 };
        let values = frame.rows() * 3;
        Ok(Self {
            patch: loader.linear("vision.patch")?,
            positions: loader.vector("vision.position.weight")?,
            tower: Tower::load(loader, "vision", &shape.vision, Act::GeluTanh)?,
            resizer: Resizer::new(shape.image),
            square: zeros(values)?,
            planes: zeros(values)?,
            pixels: loader.backend.alloc(shape.frames * values)?,
            features: loader.backend.alloc(shape.frames * patches * shape.vision.hidden)?,
            frame,
            patch_size: shape.patch,
            patches,
            hidden: shape.vision.hidden,
        })
    }

    pub fn sizes(shape: &Shape) -> Sizes {
        let rows = shape.frames * shape.grid() * shape.grid();
        let unfolded = rows * 3 * shape.patch * shape.patch;
        Tower::<B>::sizes(&shape.vision, rows).max(Sizes { wide: unfolded, ..Sizes::default() })
    }

    /// Encodes up to `Shape::frames` frames into the first rows of `features`.
    pub fn encode<'f>(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        pictures: impl ExactSizeIterator<Item = &'f Frame>,
    ) -> Result<()> {
        let (values, frames) = (self.planes.len(), pictures.len());
        pass.begin("images");
        for (i, frame) in pictures.enumerate() {
            self.resizer.resize(&frame.rgb, frame.height as usize, frame.width as usize, &mut self.square);
            planes(&self.square, &mut self.planes);
            pass.backend.write(&self.planes, &mut self.pixels, i * values);
        }
        pass.end_on_host("images");
        pass.tap("pixel_values", &self.pixels, frames, values)?;

        pass.begin("vision");
        let grid = Grid { frames, ..self.frame };
        let rows = frames * self.patches;
        pass.backend.unfold_patches(&self.pixels, grid, self.patch_size, &mut scratch.wide);
        pass.linear(&scratch.wide, rows, &self.patch, Act::None, &mut scratch.mixed);
        let len = rows * self.hidden;
        pass.backend.add(&scratch.mixed, &self.positions, len, Act::None, &mut self.features);
        pass.tap("vision_embeddings", &self.features, rows, self.hidden)?;
        self.tower.run(pass, scratch, &mut self.features, frames, self.patches, Reach::Own);
        pass.end("vision", &self.features)?;
        pass.tap("vision_hidden", &self.features, rows, self.hidden)
    }
}
