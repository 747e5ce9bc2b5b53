//! Patch features to visual tokens: the video, body and face branches, mixed by the branch gate.
//!
//! Shapes: features `(frames * grid * grid, vision hidden)`; tokens `(frames * (grid/2)^2, decoder hidden)` per branch.
//! Invariant: what depends on one frame alone is computed once per frame id, for as long as the frame is in the window; tokens, which
//! depend on a frame and the one before it, once per such pair.

use crate::{
    backend::{Act, Backend, Grid},
    bundle::Shape,
    model::{
        pass::{Linear, Norm, Pass, Scratch, Sizes},
        weights::Loader,
    },
};
use anyhow::Result;
use std::ops::Range;

/// Of the norms inside the convolution blocks.
const BLOCK_EPS: f32 = 1e-5;

/// A convolution block: 1x1, depthwise 3x3, squeeze and excite, 1x1, all with norms, beside a shortcut.
struct Block<B: Backend> {
    /// `(channels, inputs)`
    conv1: Linear<B>,
    /// `(channels,)`
    norm1: Norm<B>,
    /// `(9, channels)`
    taps: B::Buf,
    /// `(channels,)`
    norm2: Norm<B>,
    /// `(squeezed, channels)`
    se1: Linear<B>,
    /// `(channels, squeezed)`
    se2: Linear<B>,
    /// `(channels, channels)`
    conv3: Linear<B>,
    /// `(channels,)`
    norm3: Norm<B>,
    /// `(channels, inputs)` and `(channels,)`, where `inputs` is not `channels`.
    short: Option<(Linear<B>, Norm<B>)>,
}

struct Branch<B: Backend> {
    names: [&'static str; 4],
    s1: [Block<B>; 2],
    /// `(hidden, 8 * hidden)`: two frames, two rows, two columns.
    sampler: Linear<B>,
    s2: [Block<B>; 2],
    /// `(hidden, hidden)`
    readout1: Linear<B>,
    /// `(hidden, hidden)`
    readout2: Linear<B>,
    /// `(frames * grid * grid, hidden)`: after `s1`, by slot.
    kept: B::Buf,
    /// `(visual_tokens, hidden)`: by place in the window.
    tokens: B::Buf,
}

/// What is handed out on the way: after `s1`, the sampler, `s2`, the readout.
const NAMES: [[&str; 4]; 2] = [
    ["video_s1", "video_sampler", "video_s2", "video_tokens"],
    ["body_s1", "body_sampler", "body_s2", "body_tokens"],
];

/// A frame that is not known yet: its place in the window, and the slot that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    pub index: usize,
    slot: usize,
}

pub struct Fusion<B: Backend> {
    branches: [Branch<B>; 2],
    /// `(hidden, vision hidden)`
    face1: Linear<B>,
    /// `(hidden, hidden)`
    face2: Linear<B>,
    /// `(visual_tokens, hidden)`: by slot.
    face_kept: B::Buf,
    /// `(visual_tokens, hidden)`: by place in the window.
    face_tokens: B::Buf,
    /// What `mix` leaves: `(visual_tokens, decoder hidden)`.
    pub tokens: B::Buf,
    /// Which frame each slot of the kept values holds.
    slots: Vec<Option<u64>>,
    /// The frames that the tokens of the branches stand for.
    window: Vec<u64>,
    /// The frames that were admitted last.
    next: Vec<u64>,
    /// By place: where its tokens stood in the window before.
    origins: Vec<Option<usize>>,
    fresh: Vec<Fresh>,
    /// `(frames * grid * grid, hidden)`
    ordered: B::Buf,
    /// `(frames, channels)`
    squeezed: B::Buf,
    /// `(frames, channels)`
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
        let branch = |name: &str, names| -> Result<Branch<B>> {
            let at = |tail: &str| format!("fusion.{name}.{tail}");
            Ok(Branch {
                names,
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
            branches: [branch("video", NAMES[0])?, branch("body", NAMES[1])?],
            face1: loader.linear("fusion.face.fc1")?,
            face2: loader.linear("fusion.face.fc2")?,
            face_kept: alloc(after)?,
            face_tokens: alloc(after)?,
            tokens: alloc(after)?,
            slots: vec![None; frames],
            window: Vec::with_capacity(frames),
            next: Vec::with_capacity(frames),
            origins: Vec::with_capacity(frames),
            fresh: Vec::with_capacity(frames),
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
        Sizes { normed: map, qkv: map.max(unfolded), mixed: map, wide: map.max(unfolded) }
    }

    /// Takes the ids of the next window and says which of its frames are not known yet. Slots of frames that left the window are
    /// given away.
    pub fn admit(&mut self, window: impl Iterator<Item = u64>) -> &[Fresh] {
        let Self { slots, next, fresh, frames, .. } = self;
        next.clear();
        next.extend(window.take(*frames));
        assert!(next.len() == *frames, "a window of {} frames, not {frames}", next.len());
        fresh.clear();
        for (index, id) in next.iter().enumerate() {
            if slots.contains(&Some(*id)) {
                continue;
            }
            let free = slots.iter().position(|slot| slot.is_none_or(|kept| !next.contains(&kept)));
            let slot =
                free.expect("there are as many slots as frames in a window, and this frame has none yet");
            slots[slot] = Some(*id);
            fresh.push(Fresh { index, slot });
        }
        fresh
    }

    /// Frames whose features never came are unknown again.
    pub fn forget(&mut self) {
        self.slots.fill(None);
        self.window.clear();
    }

    /// What depends on one frame alone, for the fresh frames, whose features are the first rows of `features`.
    pub fn keep(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        features: &B::Buf,
    ) -> Result<()> {
        let fresh = &self.fresh;
        let grid = Grid { frames: fresh.len(), height: self.side, width: self.side, channels: self.hidden };
        let whole = self.side * self.side * self.hidden;
        pass.begin("branches");
        for branch in &mut self.branches {
            let [first, second] = &branch.s1;
            let Scratch { normed, qkv, mixed, wide } = scratch;
            let mut room =
                Room { normed, mixed, wide, squeezed: &mut self.squeezed, excited: &mut self.excited };
            first.run(pass, &mut room, features, grid, qkv);
            second.run(pass, &mut room, qkv, grid, &mut self.ordered);
            for (i, Fresh { slot, .. }) in fresh.iter().enumerate() {
                pass.backend.copy(&self.ordered, i * whole, &mut branch.kept, slot * whole, whole);
            }
        }
        pass.linear(features, grid.rows(), &self.face1, Act::Gelu, &mut scratch.wide);
        pass.linear(&scratch.wide, grid.rows(), &self.face2, Act::None, &mut scratch.mixed);
        pass.tap("face_mlp", &scratch.mixed, grid.rows(), self.hidden)?;
        pass.backend.halve(&scratch.mixed, grid, &mut scratch.normed);
        for (i, Fresh { slot, .. }) in fresh.iter().enumerate() {
            let quarter = whole / 4;
            pass.backend.copy(&scratch.normed, i * quarter, &mut self.face_kept, slot * quarter, quarter);
        }
        pass.end("branches", &self.face_kept)
    }

    /// The tokens of the three branches for the window that was admitted, whose frames are all kept.
    pub fn join(&mut self, pass: &mut Pass<'_, B>, scratch: &mut Scratch<B>) -> Result<()> {
        if self.window == self.next {
            return Ok(());
        }
        pass.begin("branches");
        let (frames, quarter) = (self.frames, self.side / 2 * (self.side / 2) * self.hidden);
        let pair = |window: &[u64], at: usize| (at.checked_sub(1).map(|before| window[before]), window[at]);
        let known = |at| (0..self.window.len()).find(|old| pair(&self.window, *old) == pair(&self.next, at));
        self.origins.clear();
        self.origins.extend((0..frames).map(known));
        for branch in &mut self.branches {
            let (old, new) = (&mut scratch.normed, &mut branch.tokens);
            pass.backend.copy(new, 0, old, 0, frames * quarter);
            for (at, origin) in self.origins.iter().enumerate() {
                if let Some(origin) = origin {
                    pass.backend.copy(old, origin * quarter, new, at * quarter, quarter);
                }
            }
        }
        let mut from = 0;
        while from < frames {
            let run = self.origins[from..].iter().take_while(|origin| origin.is_none()).count();
            if run > 0 {
                self.encode(pass, scratch, from..from + run)?;
            }
            from += run.max(1);
        }
        for (at, id) in self.next.iter().enumerate() {
            let slot = slot_of(&self.slots, *id);
            pass.backend.copy(&self.face_kept, slot * quarter, &mut self.face_tokens, at * quarter, quarter);
        }
        pass.tap("face_tokens", &self.face_tokens, frames * quarter / self.hidden, self.hidden)?;
        self.window.clone_from(&self.next);
        pass.end("branches", &self.branches[1].tokens)
    }

    /// The tokens of a run of frames of the window, from those and the frame before them.
    fn encode(&mut self, pass: &mut Pass<'_, B>, scratch: &mut Scratch<B>, run: Range<usize>) -> Result<()> {
        let (whole, hidden) = (self.side * self.side * self.hidden, self.hidden);
        let lead = usize::from(run.start > 0);
        let shown = run.start - lead..run.end;
        let grid = Grid { frames: shown.len(), height: self.side, width: self.side, channels: hidden };
        let half = Grid { frames: run.len(), height: self.side / 2, width: self.side / 2, ..grid };
        let (rows, each) = (half.rows(), half.height * half.width);
        for branch in &mut self.branches {
            let [s1_name, sampler_name, s2_name, tokens_name] = branch.names;
            for (i, id) in self.next[shown.clone()].iter().enumerate() {
                let slot = slot_of(&self.slots, *id);
                pass.backend.copy(&branch.kept, slot * whole, &mut self.ordered, i * whole, whole);
            }
            pass.tap(s1_name, &self.ordered, grid.rows(), hidden)?;
            let Scratch { normed, qkv, mixed, wide } = scratch;
            pass.backend.unfold_time(&self.ordered, grid, wide);
            let width = 8 * hidden;
            let unfolded = if lead > 0 {
                pass.backend.copy(wide, lead * each * width, qkv, 0, rows * width);
                &*qkv
            } else {
                &*wide
            };
            pass.linear(unfolded, rows, &branch.sampler, Act::Silu, &mut self.ordered);
            pass.tap(sampler_name, &self.ordered, rows, hidden)?;
            let [first, second] = &branch.s2;
            let mut room =
                Room { normed, mixed, wide, squeezed: &mut self.squeezed, excited: &mut self.excited };
            first.run(pass, &mut room, &self.ordered, half, qkv);
            second.run(pass, &mut room, qkv, half, &mut self.ordered);
            pass.tap(s2_name, &self.ordered, rows, hidden)?;
            pass.linear(&self.ordered, rows, &branch.readout1, Act::Gelu, mixed);
            pass.linear(mixed, rows, &branch.readout2, Act::None, normed);
            pass.tap(tokens_name, normed, rows, hidden)?;
            pass.backend.copy(normed, 0, &mut branch.tokens, run.start * each * hidden, rows * hidden);
        }
        Ok(())
    }

    /// `tokens` by the weights of the video, body and face branches.
    pub fn mix(&mut self, pass: &mut Pass<'_, B>, gate: [f32; 3]) -> Result<()> {
        let [video, body] = &self.branches;
        let rows = self.frames * (self.side / 2) * (self.side / 2);
        let [of_video, of_body, of_face] = gate;
        let parts = [(&video.tokens, of_video), (&body.tokens, of_body), (&self.face_tokens, of_face)];
        pass.backend.mix(&parts, rows * self.hidden, &mut self.tokens);
        pass.tap("fused_tokens", &self.tokens, rows, self.hidden)
    }
}

fn slot_of(slots: &[Option<u64>], id: u64) -> usize {
    slots.iter().position(|slot| *slot == Some(id)).expect("every frame of the window was admitted")
}

/// What a block works in.
struct Room<'a, B: Backend> {
    normed: &'a mut B::Buf,
    mixed: &'a mut B::Buf,
    wide: &'a mut B::Buf,
    squeezed: &'a mut B::Buf,
    excited: &'a mut B::Buf,
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
    fn run(&self, pass: &mut Pass<'_, B>, room: &mut Room<'_, B>, x: &B::Buf, grid: Grid, out: &mut B::Buf) {
        let rows = grid.rows();
        let Room { normed: b, mixed: a, wide, squeezed, excited } = room;
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
                norm.plain(pass, a, rows, wide);
                pass.backend.add(b, wide, len, Act::Silu, out);
            }
            None => pass.backend.add(b, x, len, Act::Silu, out),
        }
    }
}
