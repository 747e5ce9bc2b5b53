//! The model file: one GGUF that holds weights, prompts, labels and settings, mapped into memory and checked at load.
//!
//! Whatever can be decided offline was decided when packing (`import`): weight layout, prompt token ids, the branch
//! gate's weights, label token ids, generation settings. Container and block formats are standard GGUF version 3
//! (F32, F16, Q8_0, Q4_0), read by the `gguf` Python package; the architecture `r1-omni`, its keys and its tensor names
//! are ours and stand in `shape.rs`.
//!
//! Invariant: a `Bundle` that opened is complete: every tensor of its shape is there with the right dimensions, every offset
//! lies in the file, every token id lies in the vocabulary.

use anyhow::Result;

/// How the values of a tensor are stored. Sizes in bytes per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    F32,
    F16,
    /// 32 values: f16 scale `d`, 32 x i8; value = d * q.
    Q8_0,
    /// 32 values: f16 scale `d`, 16 bytes; value i = d * (low nibble of byte i - 8), value i+16 = d * (high nibble - 8).
    Q4_0,
}

/// One tensor of a mapped bundle. `data` is little-endian and may be unaligned.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// Outputs; 1 for a vector.
    pub rows: usize,
    /// Inputs; a block never crosses a row.
    pub cols: usize,
    pub data: &'a [u8],
}

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
}

/// One stretch of a prompt: text that is already tokens, or the place where a modality is spliced in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(Vec<u32>),
    Video,
    Audio,
}

/// A named instruction, tokenised for each combination of modalities.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub name: String,
    pub instruction: String,
    /// Branch gate: weights of the video, body and face branches, sum 1.
    pub gate: [f32; 3],
    pub video_audio: Vec<Piece>,
    pub video: Vec<Piece>,
    pub audio: Vec<Piece>,
}

/// A closed set of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelSet {
    pub name: String,
    pub labels: Vec<String>,
    /// Tokens that every `<answer>label</answer>` of the set begins with.
    pub prefix: Vec<u32>,
    /// What follows for each label, up to and including the first token of `</answer>`.
    pub tokens: Vec<Vec<u32>>,
    /// Divides the mean log likelihoods before the softmax; 1 until the bundle is calibrated.
    pub temperature: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub eos: Vec<u32>,
    pub repetition_penalty: f32,
    pub max_new_tokens: usize,
}

impl Kind {
    /// Values per block, bytes per block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Kind::F32 => (1, 4),
            Kind::F16 => (1, 2),
            Kind::Q8_0 => (32, 34),
            Kind::Q4_0 => (32, 18),
        }
    }
    /// Bytes of one row of `cols` values.
    pub fn row_bytes(self, cols: usize) -> usize {
        let (values, bytes) = self.block();
        cols / values * bytes
    }
}

/// A file that was checked and mapped. Clones of the tensors' bytes are never kept.
pub struct Bundle {}

impl Bundle {
    pub fn open(_path: &std::path::Path) -> Result<Bundle> {
        anyhow::bail!("reading bundles is not built yet")
    }
}
