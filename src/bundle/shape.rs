//! The names of a bundle: the keys that hold its sizes, and the table of tensors that follows from them.
//!
//! Keys (u32 unless said; `<stack>` is `vision`, `audio` or `decoder`):
//!
//! | key | is |
//! |---|---|
//! | `r1-omni.version` | 2 |
//! | `r1-omni.<stack>.block_count` | layers that run |
//! | `r1-omni.<stack>.embedding_length`, `.feed_forward_length` | hidden, ffn |
//! | `r1-omni.<stack>.attention.head_count`, `.head_count_kv`, `.key_length` | heads, key/value heads, head size |
//! | `r1-omni.<stack>.attention.epsilon` (f32) | of the stack's norms |
//! | `r1-omni.frames`, `r1-omni.vision.image_size`, `.patch_size` | frames of a window; pixels |
//! | `r1-omni.audio.mel_bins`, `.positions`, `.pool` | mel rows; rows after the convolutions, 20 ms each, at most 1500; rows per token |
//! | `r1-omni.vocab_size`, `r1-omni.context_length`, `r1-omni.decoder.rope.freq_base` (f32) | |
//!
//! Tensors, `(rows, cols)`; M is a product's matrix in the bundle's kind (F16 where `cols` is no multiple of 32), V a vector and T a
//! table, both F32. `i` counts layers, `b` is 1 or 2, `<branch>` is `video` or `body`:
//!
//! | name | shape |
//! |---|---|
//! | `decoder.embed.weight`, `decoder.head.weight` (only where it is not the embedding) | M `(vocab, hidden)` |
//! | `decoder.norm.weight`, `decoder.{i}.{attn_norm,ffn_norm}.weight` | V |
//! | `decoder.{i}.attn_{q,k,v}.{weight,bias}`, `decoder.{i}.attn_o.weight` | M, V |
//! | `decoder.{i}.ffn_{gate,up}.weight`, `decoder.{i}.ffn_down.weight` | M `(ffn, hidden)`, `(hidden, ffn)` |
//! | `vision.patch.{weight,bias}` | M `(hidden, 3 * patch * patch)` in the order channel, y, x; V |
//! | `vision.position.weight`, `audio.position.weight` | T `(positions, hidden)` |
//! | `{vision,audio}.{i}.{ln1,ln2}.{weight,bias}` | V |
//! | `{vision,audio}.{i}.attn_{q,k,v,o}.{weight,bias}` | M, V; no `audio.{i}.attn_k.bias` |
//! | `{vision,audio}.{i}.{fc1,fc2}.{weight,bias}` | M `(ffn, hidden)`, `(hidden, ffn)`; V |
//! | `audio.conv{1,2}.{weight,bias}` | M `(hidden, 3 * inputs)` in the order tap, input; V |
//! | `audio.norm.{weight,bias}` | V |
//! | `fusion.<branch>.s{b}.b{b}.conv{1,3}.weight` | M `(hidden, inputs)` |
//! | `fusion.<branch>.s{b}.b{b}.conv2.weight` | T `(9, hidden)`, taps row-major |
//! | `fusion.<branch>.s{b}.b{b}.norm{1,2,3}.{weight,bias}` | V |
//! | `fusion.<branch>.s{b}.b{b}.se{1,2}.{weight,bias}` | M `(squeezed, hidden)`, `(hidden, squeezed)`; V |
//! | `fusion.<branch>.s1.b1.short.weight`, `.short_norm.{weight,bias}` | M; V |
//! | `fusion.<branch>.sampler.{weight,bias}` | M `(hidden, 8 * hidden)` in the order time, y, x, input; V |
//! | `fusion.<branch>.readout{1,2}.{weight,bias}`, `fusion.face.fc{1,2}.*`, `fusion.audio.fc{1,2}.*` | M; V |
//!
//! Invariant: a `Shape` that `read` returns was checked, so that sums and products of its sizes cannot overflow.

use super::block::Kind;
use super::gguf::{Entry, Value};
use super::keys::Keys;
use super::recipe::Recipe;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

pub const ARCHITECTURE: &str = "r1-omni";
pub const VERSION: u32 = 2;
/// 30 s of sound, the published tower's reach.
pub const POSITIONS_MAX: usize = 1500;
/// Two mel frames make one position of the audio tower.
pub const POSITION_MS: usize = 20;

/// A pre-norm or post-norm transformer stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stack {
    pub layers: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub eps: f32,
}

/// Every size of the model. `spec` names are those of the R1-Omni topology.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Only the layers that run: 11 of SigLIP's 12.
    pub vision: Stack,
    pub image: usize,
    pub patch: usize,
    pub frames: usize,
    pub audio: Stack,
    pub mels: usize,
    /// Rows after the second convolution: half the mel frames.
    pub audio_positions: usize,
    /// Audio rows averaged into one token: 3.
    pub audio_pool: usize,
    pub decoder: Stack,
    pub vocab: usize,
    pub rope_theta: f32,
    /// Longest sequence the decoder is made for.
    pub context: usize,
}

impl Shape {
    /// Patches along one side of a frame.
    pub fn grid(&self) -> usize {
        self.image / self.patch
    }
    /// Visual tokens of one window: 392 for R1-Omni.
    pub fn visual_tokens(&self) -> usize {
        self.frames * (self.grid() / 2) * (self.grid() / 2)
    }
    /// Audio tokens of one window: 500 for R1-Omni.
    pub fn audio_tokens(&self) -> usize {
        self.audio_positions / self.audio_pool
    }
    /// Milliseconds of sound that a window can have: 30 000 for R1-Omni.
    pub fn hears_ms(&self) -> usize {
        self.audio_positions * POSITION_MS
    }
    /// The same in samples of 16 kHz.
    pub fn samples_max(&self) -> usize {
        self.hears_ms() * 16
    }
}

/// What a tensor is for, which decides how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weights of a product, or the embedding.
    Matrix,
    Vector,
    /// Added or multiplied element by element.
    Table,
}

/// One row of the table of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    pub role: Role,
    pub rows: usize,
    pub cols: usize,
}

impl Spec {
    /// The kind it is stored in when the bundle is packed as `quant`.
    pub fn kind(&self, quant: Recipe) -> Kind {
        let kind = quant.kind(&self.name);
        match self.role {
            Role::Vector | Role::Table => Kind::F32,
            Role::Matrix if self.cols.is_multiple_of(kind.block().0) => kind,
            Role::Matrix => Kind::F16,
        }
    }

    /// The entry of a file to be written; its offset is set later.
    pub fn entry(&self, quant: Recipe) -> Entry {
        Entry {
            name: self.name.clone(),
            kind: self.kind(quant),
            rows: self.rows,
            cols: self.cols,
            vector: self.role == Role::Vector,
            offset: 0,
        }
    }
}

/// Outputs of the first squeeze layer of a block: a quarter of its inputs, rounded half to even.
pub fn squeezed(inputs: usize) -> usize {
    (inputs as f64 * 0.25).round_ties_even() as usize
}

/// Every tensor of a bundle of this shape, in file order.
pub fn tensors(shape: &Shape, own_head: bool) -> Vec<Spec> {
    let mut out = Table::default();
    let (v, a, d) = (&shape.vision, &shape.audio, &shape.decoder);

    out.linear("vision.patch", v.hidden, 3 * shape.patch * shape.patch, true);
    out.push("vision.position.weight", Role::Table, shape.grid() * shape.grid(), v.hidden);
    out.tower("vision", v, true);

    out.ear(a, shape.mels, shape.audio_positions);

    for branch in ["video", "body"] {
        for (stage, block) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let inputs = if (stage, block) == (1, 1) { v.hidden } else { d.hidden };
            out.block(
                &format!("fusion.{branch}.s{stage}.b{block}"),
                inputs,
                d.hidden,
                (stage, block) == (1, 1),
            );
            if (stage, block) == (1, 2) {
                out.linear(&format!("fusion.{branch}.sampler"), d.hidden, 8 * d.hidden, true);
            }
        }
        out.linear(&format!("fusion.{branch}.readout1"), d.hidden, d.hidden, true);
        out.linear(&format!("fusion.{branch}.readout2"), d.hidden, d.hidden, true);
    }
    out.linear("fusion.face.fc1", d.hidden, v.hidden, true);
    out.linear("fusion.face.fc2", d.hidden, d.hidden, true);
    out.linear("fusion.audio.fc1", d.hidden, a.hidden, true);
    out.linear("fusion.audio.fc2", d.hidden, d.hidden, true);

    out.linear("decoder.embed", shape.vocab, d.hidden, false);
    for i in 0..d.layers {
        let name = |tail: &str| format!("decoder.{i}.{tail}");
        let kv = d.n_kv_heads * d.head_dim;
        out.push(&name("attn_norm.weight"), Role::Vector, 1, d.hidden);
        out.linear(&name("attn_q"), d.n_heads * d.head_dim, d.hidden, true);
        out.linear(&name("attn_k"), kv, d.hidden, true);
        out.linear(&name("attn_v"), kv, d.hidden, true);
        out.linear(&name("attn_o"), d.hidden, d.n_heads * d.head_dim, false);
        out.push(&name("ffn_norm.weight"), Role::Vector, 1, d.hidden);
        out.linear(&name("ffn_gate"), d.ffn, d.hidden, false);
        out.linear(&name("ffn_up"), d.ffn, d.hidden, false);
        out.linear(&name("ffn_down"), d.hidden, d.ffn, false);
    }
    out.push("decoder.norm.weight", Role::Vector, 1, d.hidden);
    if own_head {
        out.linear("decoder.head", shape.vocab, d.hidden, false);
    }
    out.0
}

/// A table of tensors in the making.
#[derive(Default)]
pub(super) struct Table(pub(super) Vec<Spec>);

impl Table {
    pub(super) fn push(&mut self, name: &str, role: Role, rows: usize, cols: usize) {
        self.0.push(Spec { name: name.to_owned(), role, rows, cols });
    }

    pub(super) fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.push(&format!("{name}.weight"), Role::Matrix, outputs, inputs);
        if bias {
            self.push(&format!("{name}.bias"), Role::Vector, 1, outputs);
        }
    }

    pub(super) fn norm(&mut self, name: &str, hidden: usize) {
        self.push(&format!("{name}.weight"), Role::Vector, 1, hidden);
        self.push(&format!("{name}.bias"), Role::Vector, 1, hidden);
    }

    pub(super) fn attention(&mut self, name: &str, hidden: usize, key_bias: bool) {
        for (part, bias) in [("q", true), ("k", key_bias), ("v", true), ("o", true)] {
            self.linear(&format!("{name}_{part}"), hidden, hidden, bias);
        }
    }

    pub(super) fn ear(&mut self, stack: &Stack, mels: usize, positions: usize) {
        self.linear("audio.conv1", stack.hidden, 3 * mels, true);
        self.linear("audio.conv2", stack.hidden, 3 * stack.hidden, true);
        self.push("audio.position.weight", Role::Table, positions, stack.hidden);
        self.tower("audio", stack, false);
        self.norm("audio.norm", stack.hidden);
    }

    fn tower(&mut self, name: &str, stack: &Stack, key_bias: bool) {
        for i in 0..stack.layers {
            let name = |tail: &str| format!("{name}.{i}.{tail}");
            self.norm(&name("ln1"), stack.hidden);
            self.attention(&name("attn"), stack.hidden, key_bias);
            self.norm(&name("ln2"), stack.hidden);
            self.linear(&name("fc1"), stack.ffn, stack.hidden, true);
            self.linear(&name("fc2"), stack.hidden, stack.ffn, true);
        }
    }

    fn block(&mut self, name: &str, inputs: usize, hidden: usize, short: bool) {
        let name = |tail: &str| format!("{name}.{tail}");
        self.linear(&name("conv1"), hidden, inputs, false);
        self.norm(&name("norm1"), hidden);
        self.push(&name("conv2.weight"), Role::Table, 9, hidden);
        self.norm(&name("norm2"), hidden);
        self.linear(&name("se1"), squeezed(inputs), hidden, true);
        self.linear(&name("se2"), hidden, squeezed(inputs), true);
        self.linear(&name("conv3"), hidden, hidden, false);
        self.norm(&name("norm3"), hidden);
        if short {
            self.linear(&name("short"), hidden, inputs, false);
            self.norm(&name("short_norm"), hidden);
        }
    }
}

/// The keys that `read` turns into the same shape again.
pub fn keys(shape: &Shape) -> Vec<(String, Value)> {
    let mut out = vec![("r1-omni.version".to_owned(), Value::U32(VERSION))];
    let mut put = |name: &str, value: usize| {
        out.push((format!("{ARCHITECTURE}.{name}"), Value::U32(value as u32)));
    };
    put("frames", shape.frames);
    put("vocab_size", shape.vocab);
    put("context_length", shape.context);
    put("vision.image_size", shape.image);
    put("vision.patch_size", shape.patch);
    put("audio.mel_bins", shape.mels);
    put("audio.positions", shape.audio_positions);
    put("audio.pool", shape.audio_pool);
    for (name, stack) in [("vision", &shape.vision), ("audio", &shape.audio), ("decoder", &shape.decoder)] {
        put(&format!("{name}.block_count"), stack.layers);
        put(&format!("{name}.embedding_length"), stack.hidden);
        put(&format!("{name}.feed_forward_length"), stack.ffn);
        put(&format!("{name}.attention.head_count"), stack.n_heads);
        put(&format!("{name}.attention.head_count_kv"), stack.n_kv_heads);
        put(&format!("{name}.attention.key_length"), stack.head_dim);
    }
    for (name, stack) in [("vision", &shape.vision), ("audio", &shape.audio), ("decoder", &shape.decoder)] {
        out.push((format!("{ARCHITECTURE}.{name}.attention.epsilon"), Value::F32(stack.eps)));
    }
    out.push((format!("{ARCHITECTURE}.decoder.rope.freq_base"), Value::F32(shape.rope_theta)));
    out
}

/// The shape that the keys state, checked.
pub fn read(keys: &BTreeMap<String, Value>) -> Result<Shape> {
    let keys = Keys(keys);
    let number = |name: &str, max: usize| keys.number(&format!("{ARCHITECTURE}.{name}"), max);
    let real = |name: &str| keys.positive(&format!("{ARCHITECTURE}.{name}"));
    let stack = |name: &str| -> Result<Stack> {
        Ok(Stack {
            layers: number(&format!("{name}.block_count"), 1 << 10)?,
            hidden: number(&format!("{name}.embedding_length"), 1 << 16)?,
            ffn: number(&format!("{name}.feed_forward_length"), 1 << 18)?,
            n_heads: number(&format!("{name}.attention.head_count"), 1 << 10)?,
            n_kv_heads: number(&format!("{name}.attention.head_count_kv"), 1 << 10)?,
            head_dim: number(&format!("{name}.attention.key_length"), 1 << 12)?,
            eps: real(&format!("{name}.attention.epsilon"))?,
        })
    };
    let version = number("version", usize::MAX)?;
    ensure!(
        version == VERSION as usize,
        "bundle version {version} is not supported, only {VERSION}; pack it again"
    );
    let shape = Shape {
        vision: stack("vision")?,
        image: number("vision.image_size", 1 << 14)?,
        patch: number("vision.patch_size", 1 << 10)?,
        frames: number("frames", 1 << 10)?,
        audio: stack("audio")?,
        mels: number("audio.mel_bins", 1 << 12)?,
        audio_positions: number("audio.positions", POSITIONS_MAX)?,
        audio_pool: number("audio.pool", 1 << 8)?,
        decoder: stack("decoder")?,
        vocab: number("vocab_size", 1 << 24)?,
        rope_theta: real("decoder.rope.freq_base")?,
        context: number("context_length", 1 << 24)?,
    };
    check(&shape).context("in the sizes of the model")?;
    Ok(shape)
}

/// Refuses sizes that do not fit together.
pub fn check(shape: &Shape) -> Result<()> {
    for (name, stack) in [("vision", &shape.vision), ("audio", &shape.audio), ("decoder", &shape.decoder)] {
        ensure!(
            stack.n_heads * stack.head_dim == stack.hidden,
            "{name}: {} heads of {} are not {} wide",
            stack.n_heads,
            stack.head_dim,
            stack.hidden
        );
        ensure!(
            stack.n_heads % stack.n_kv_heads == 0,
            "{name}: {} heads cannot share {} key/value heads",
            stack.n_heads,
            stack.n_kv_heads
        );
        ensure!(
            stack.n_heads == stack.n_kv_heads || name == "decoder",
            "{name}: {} heads but {} key/value heads",
            stack.n_heads,
            stack.n_kv_heads
        );
    }
    ensure!(
        shape.decoder.head_dim.is_multiple_of(2),
        "decoder: rotation needs an even head size, not {}",
        shape.decoder.head_dim
    );
    ensure!(
        shape.image.is_multiple_of(shape.patch) && shape.grid().is_multiple_of(2),
        "vision: {} pixels are not an even number of patches of {}",
        shape.image,
        shape.patch
    );
    ensure!(
        shape.audio_pool <= shape.audio_positions,
        "audio: {} positions make no token",
        shape.audio_positions
    );
    ensure!(
        squeezed(shape.vision.hidden) > 0 && squeezed(shape.decoder.hidden) > 0,
        "fusion: too narrow for its squeeze layers"
    );
    ensure!(
        shape.visual_tokens() + shape.audio_tokens() < shape.context,
        "decoder: a context of {} does not hold {} visual and {} audio tokens",
        shape.context,
        shape.visual_tokens(),
        shape.audio_tokens()
    );
    Ok(())
}
