//! Patch features to visual tokens: the video, body and face branches, mixed by the branch gate.
//!
//! Shapes: features `(frames * grid * grid, vision hidden)`; tokens `(frames * (grid/2)^2, decoder hidden)` per branch.
//! Invariant: what depends on one frame alone is computed once per frame id, for as long as the frame is in the window; the
//! branches are computed again only when the window's frames change.

use crate::{
    backend::{Act, Backend, Grid},
    bundle::Shape,
    model::{
        observe::Pass,
        weights::{Linear, Loader, Norm, Scratch, Sizes},
    },
};
use anyhow::Result;

/// Of the norms inside the convolution blocks.
const BLOCK_EPS: f32 = 1e-5;

/// A convolution block: 1x1, depthwise 3x3, squeeze and excite, 1x1, all with norms, beside a shortcut.
struct Block<B: Backend> {
    conv1: Linear<B>,
    norm1: Norm<B>,
    taps: B::Buf,
    norm2: Norm<B>,
    se1: Linear<B>,
    se2: Linear<B>,
    conv3: Linear<B>,
    norm3: Norm<B>,
    short: Option<(Linear<B>, Norm<B>)>,
}

struct Branch<B: Backend> {
    name: &'static str,
    s1: [Block<B>; 2],
    sampler: Linear<B>,
    s2: [Block<B>; 2],
    readout1: Linear<B>,
    readout2: Linear<B>,
    /// After `s1`, by slot.
    kept: B::Buf,
    tokens: B::Buf,
}

pub struct Fusion<B: Backend> {
    branches: [Branch<B>; 2],
    face1: Linear<B>,
    face2: Linear<B>,
    face_kept: B::Buf,
    face_tokens: B::Buf,
    /// What `mix` leaves: `(visual_tokens, decoder hidden)`.
    pub tokens: B::Buf,
    /// Which frame each slot of the kept values holds.
    slots: Vec<Option<u64>>,
    /// The frames that the tokens of the branches stand for.
    window: Vec<u64>,
    between: B::Buf,
    ordered: B::Buf,
    squeezed: B::Buf,
    excited: B::Buf,
    side: usize,
    frames: usize,
    hidden: usize,
}

impl<B: Backend> Fusion<B> {
    pub fn load(loader: &Loader<'_, B>, shape: &Shape) -> Result<Self> {
        let (side, frames, hidden) = (shape.grid(), shape.frames, shape.decoder.hidden);
        let alloc = |len: usize| loader.backend.alloc(len);
        let (before, after) = (frames * side * side * hidden, shape.visual_tokens() * hidden);
        let branch = |name: &'static str| -> Result<Branch<B>> {
            let at = |tail: &str| format!("fusion.{name}.{tail}");
            Ok(Branch {
                name,
                s1: [Block::load(loader, &at("s1.b1"))?, Block::load(loader, &at("s1.b2"))?],
                sampler: loader.linear(&at("sampler"))?,
                s2: [Block::load(loader, &at("s2.b1"))?, Block::load(loader, &at("s2.b2"))?],
                readout1: loader.linear(&at("readout1"))?,
                readout2: loader.linear(&at("readout2"))?,
                kept: alloc(before)?,
                tokens: alloc(after)?,
            })
        };
        Ok(Self {
            branches: [branch("video")?, branch("body")?],
            face1: loader.linear("fusion.face.fc1")?,
            face2: loader.linear("fusion.face.fc2")?,
            face_kept: alloc(after)?,
            face_tokens: alloc(after)?,
            tokens: alloc(after)?,
            slots: vec![None; frames],
            window: Vec::with_capacity(frames),
            between: alloc(before)?,
            ordered: alloc(before)?,
            squeezed: alloc(frames * hidden.max(shape.vision.hidden))?,
            excited: alloc(frames * hidden.max(shape.vision.hidden))?,
            side,
            frames,
            hidden,
        })
    }

    pub fn sizes(shape: &Shape) -> Sizes {
        let rows = shape.frames * shape.grid() * shape.grid();
        let map = rows * shape.decoder.hidden;
        let unfolded = shape.visual_tokens() * 8 * shape.decoder.hidden;
        Sizes { normed: map, mixed: map, wide: map.max(unfolded), ..Sizes::default() }
    }

    /// Indices of the frames of a window that are not known yet, each with the slot it gets. Slots of frames that left the
    /// window are given away.
    pub fn admit(&mut self, window: &[u64]) -> Vec<(usize, usize)> {
        assert!(window.len() == self.frames, "a window of {} frames, not {}", window.len(), self.frames);
        let mut fresh = Vec::with_capacity(self.frames);
        for (index, id) in window.iter().enumerate() {
            if self.slots.contains(&Some(*id)) {
                continue;
            }
            let free = self.slots.iter().position(|slot| slot.is_none_or(|kept| !window.contains(&kept)));
            let slot =
                free.expect("there are as many slots as frames in a window, and this frame has none yet");
            self.slots[slot] = Some(*id);
            fresh.push((index, slot));
        }
        fresh
    }

    /// Frames whose features never came are unknown again.
    pub fn forget(&mut self) {
        self.slots.fill(None);
        self.window.clear();
    }

    /// What depends on one frame alone, for the first rows of `features`, kept in `slots`.
    pub fn keep(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        features: &B::Buf,
        slots: &[usize],
    ) -> Result<()> {
        let grid = Grid { frames: slots.len(), height: self.side, width: self.side, channels: self.hidden };
        let whole = self.side * self.side * self.hidden;
        pass.begin("branches");
        for branch in &mut self.branches {
            let [first, second] = &branch.s1;
            let gates = (&mut self.squeezed, &mut self.excited);
            first.run(pass, scratch, gates, features, grid, &mut self.between);
            let gates = (&mut self.squeezed, &mut self.excited);
            second.run(pass, scratch, gates, &self.between, grid, &mut self.ordered);
            for (i, slot) in slots.iter().enumerate() {
                pass.backend.copy(&self.ordered, i * whole, &mut branch.kept, slot * whole, whole);
            }
        }
        pass.linear(features, grid.rows(), &self.face1, Act::Gelu, &mut scratch.wide);
        pass.linear(&scratch.wide, grid.rows(), &self.face2, Act::None, &mut scratch.mixed);
        pass.tap("face_mlp", &scratch.mixed, grid.rows(), self.hidden)?;
        pass.backend.halve(&scratch.mixed, grid, &mut scratch.normed);
        for (i, slot) in slots.iter().enumerate() {
            let quarter = whole / 4;
            pass.backend.copy(&scratch.normed, i * quarter, &mut self.face_kept, slot * quarter, quarter);
        }
        pass.end("branches", &self.face_kept)
    }

    /// The tokens of the three branches for a window whose frames are all kept.
    pub fn join(&mut self, pass: &mut Pass<'_, B>, scratch: &mut Scratch<B>, window: &[u64]) -> Result<()> {
        if self.window == window {
            return Ok(());
        }
        let known = |id: &u64| self.slots.iter().position(|s| *s == Some(*id));
        let slots: Vec<usize> =
            window.iter().map(|id| known(id).expect("every frame of the window was admitted")).collect();
        let whole = self.side * self.side * self.hidden;
        let grid = Grid { frames: self.frames, height: self.side, width: self.side, channels: self.hidden };
        let half = Grid { height: self.side / 2, width: self.side / 2, ..grid };
        let (rows, hidden) = (half.rows(), self.hidden);
        pass.begin("branches");
        for branch in &mut self.branches {
            let name = branch.name;
            for (i, slot) in slots.iter().enumerate() {
                pass.backend.copy(&branch.kept, slot * whole, &mut self.ordered, i * whole, whole);
            }
            pass.tap(&format!("{name}_s1"), &self.ordered, grid.rows(), hidden)?;
            pass.backend.unfold_time(&self.ordered, grid, &mut scratch.wide);
            pass.linear(&scratch.wide, rows, &branch.sampler, Act::Silu, &mut branch.tokens);
            pass.tap(&format!("{name}_sampler"), &branch.tokens, rows, hidden)?;
            let [first, second] = &branch.s2;
            let gates = (&mut self.squeezed, &mut self.excited);
            first.run(pass, scratch, gates, &branch.tokens, half, &mut self.ordered);
            let gates = (&mut self.squeezed, &mut self.excited);
            second.run(pass, scratch, gates, &self.ordered, half, &mut branch.tokens);
            pass.tap(&format!("{name}_s2"), &branch.tokens, rows, hidden)?;
            pass.linear(&branch.tokens, rows, &branch.readout1, Act::Gelu, &mut scratch.mixed);
            pass.linear(&scratch.mixed, rows, &branch.readout2, Act::None, &mut branch.tokens);
            pass.tap(&format!("{name}_tokens"), &branch.tokens, rows, hidden)?;
        }
        for (i, slot) in slots.iter().enumerate() {
            let quarter = whole / 4;
            pass.backend.copy(&self.face_kept, slot * quarter, &mut self.face_tokens, i * quarter, quarter);
        }
        pass.tap("face_tokens", &self.face_tokens, rows, hidden)?;
        self.window.clear();
        self.window.extend_from_slice(window);
        pass.end("branches", &self.branches[1].tokens)
    }

    /// `tokens` by the weights of the video, body and face branches.
    pub fn mix(&mut self, pass: &mut Pass<'_, B>, gate: [f32; 3]) -> Result<()> {
        let [video, body] = &self.branches;
        let rows = self.frames * (self.side / 2) * (self.side / 2);
        let parts = [&video.tokens, &body.tokens, &self.face_tokens];
        pass.backend.mix(parts, gate, rows * self.hidden, &mut self.tokens);
        pass.tap("fused_tokens", &self.tokens, rows, self.hidden)
    }
}

impl<B: Backend> Block<B> {
    fn load(loader: &Loader<'_, B>, name: &str) -> Result<Self> {
        let at = |tail: &str| format!("{name}.{tail}");
        let short = if loader.bundle.has(&at("short.weight")) {
            Some((loader.linear(&at("short"))?, loader.norm(&at("short_norm"), BLOCK_EPS)?))
        } else {
            None
        };
        Ok(Self {
            conv1: loader.linear(&at("conv1"))?,
            norm1: loader.norm(&at("norm1"), BLOCK_EPS)?,
            taps: loader.vector(&at("conv2.weight"))?,
            norm2: loader.norm(&at("norm2"), BLOCK_EPS)?,
            se1: loader.linear(&at("se1"))?,
            se2: loader.linear(&at("se2"))?,
            conv3: loader.linear(&at("conv3"))?,
            norm3: loader.norm(&at("norm3"), BLOCK_EPS)?,
            short,
        })
    }

    /// `x` is `(grid.rows(), inputs)`, `out` is `(grid.rows(), grid.channels)`.
    fn run(
        &self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        (squeezed, excited): (&mut B::Buf, &mut B::Buf),
        x: &B::Buf,
        grid: Grid,
        out: &mut B::Buf,
    ) {
        let rows = grid.rows();
        let (a, b) = (&mut scratch.mixed, &mut scratch.normed);
        pass.linear(x, rows, &self.conv1, Act::None, a);
        self.norm1.act(pass, a, rows, Act::Silu, b);
        pass.backend.depthwise(b, grid, &self.taps, a);
        self.norm2.act(pass, a, rows, Act::Silu, b);
        pass.backend.squeeze(b, grid, squeezed);
        pass.linear(squeezed, grid.frames, &self.se1, Act::Silu, excited);
        pass.linear(excited, grid.frames, &self.se2, Act::None, squeezed);
        pass.backend.excite(b, grid, squeezed);
        pass.linear(b, rows, &self.conv3, Act::None, a);
        self.norm3.plain(pass, a, rows, b);
        let len = rows * grid.channels;
        match &self.short {
            Some((short, norm)) => {
                pass.linear(x, rows, short, Act::None, a);
                norm.plain(pass, a, rows, &mut scratch.wide);
                pass.backend.add(b, &scratch.wide, len, Act::Silu, out);
            }
            None => pass.backend.add(b, x, len, Act::Silu, out),
        }
    }
}
