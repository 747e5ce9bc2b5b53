//! The model file: one GGUF that holds weights, prompts, labels and settings, mapped into memory and checked at load.
//!
//! Whatever can be decided offline was decided when packing (`import`): weight layout, prompt token ids, the branch
//! gate's weights, label token ids, generation settings. Container and block formats are standard GGUF version 3
//! (F32, F16, Q8_0, Q4_0), read by the `gguf` Python package; the architecture `r1-omni`, its keys and its tensor names
//! are ours and stand in `shape.rs` and `head.rs`.
//!
//! Invariant: a `Bundle` that opened is complete: every tensor of its shape is there with the right dimensions, every offset lies
//! in the file, every token id lies in the vocabulary. Values are refused where they are not finite by whoever reads them first:
//! a backend that lays out a matrix, `vector`, `verify`.

pub mod block;
pub mod checkpoint;
pub mod gate;
pub mod gguf;
pub mod head;
pub mod import;
pub mod prompt;
pub mod published;
pub mod shape;
pub mod synthetic;
mod tensor;
pub mod tokenizer;
pub mod vocabulary;
pub mod write;

use anyhow::{Context, Result, bail, ensure};
use head::Head;
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, fs::File, path::Path};
pub use tensor::{Kind, Tensor};
pub use vocabulary::Vocabulary;

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

/// Two mel frames make one position of the audio tower.
const POSITION_MS: usize = 20;

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

/// Tokens that frame an answer: `<think>`, `</think>\n` and `</answer>`; `<answer>` stands in the label sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    pub think_open: Vec<u32>,
    pub think_close: Vec<u32>,
    pub answer_close: Vec<u32>,
}

/// A file that was checked and mapped. Clones of the tensors' bytes are never kept.
pub struct Bundle {
    data: Data,
    head: Head,
    entries: Vec<gguf::Entry>,
    by_name: HashMap<String, usize>,
    data_at: usize,
    digest: String,
}

enum Data {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Mapped(map) => map,
            Data::Owned(bytes) => bytes,
        }
    }

    fn release(&self, part: &[u8]) {
        let Data::Mapped(map) = self else { return };
        let Some(offset) = (part.as_ptr() as usize).checked_sub(map.as_ptr() as usize) else { return };
        if offset + part.len() > map.len() {
            return;
        }
        // SAFETY: the mapping is read-only, so that pages given back come again from the file with the same bytes.
        let given =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len()) };
        if let Err(error) = given {
            log::debug!("memory of a tensor was not given back: bytes={} error={error}", part.len());
        }
    }
}

impl Bundle {
    /// Maps the file and checks its header: sizes, names, token ids. The tensors are not read.
    pub fn open(path: &Path) -> Result<Bundle> {
        let file = File::open(path)?;
        ensure!(file.metadata()?.is_file(), "this is not a file");
        // SAFETY: the mapping is private and read-only. A file that another process cuts or rewrites while it is mapped breaks
        // the promise; bundles are written under another name and renamed, so that ours never change in place.
        let map = unsafe { Mmap::map(&file) }.context("mapping the file into memory")?;
        Self::check(Data::Mapped(map))
    }

    /// The same from memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Bundle> {
        Self::check(Data::Owned(bytes))
    }

    fn check(data: Data) -> Result<Bundle> {
        let container = gguf::parse(data.bytes())?;
        let head = Head::read(&container.keys)?;
        let by_name: HashMap<_, _> =
            container.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let own_head = by_name.contains_key("decoder.head.weight");
        let specs = shape::tensors(&head.shape, own_head);
        for spec in &specs {
            let Some(&index) = by_name.get(&spec.name) else {
                bail!("tensor `{}` is missing; pack the checkpoint again", spec.name);
            };
            let found = &container.tensors[index];
            ensure!(
                (found.rows, found.cols) == (spec.rows, spec.cols),
                "tensor `{}` is {} x {}, but must be {} x {}; pack the checkpoint again",
                spec.name,
                found.rows,
                found.cols,
                spec.rows,
                spec.cols
            );
            ensure!(
                spec.role == shape::Role::Matrix || found.kind == Kind::F32,
                "tensor `{}` is stored as {}, but must be f32; pack the checkpoint again",
                spec.name,
                found.kind.name()
            );
        }
        if specs.len() < container.tensors.len() {
            let known: std::collections::HashSet<_> = specs.iter().map(|s| s.name.as_str()).collect();
            let extra = container.tensors.iter().find(|t| !known.contains(t.name.as_str()));
            bail!("tensor `{}` is not part of the model", extra.map_or("?", |t| &t.name));
        }
        let Some(gguf::Value::Text(digest)) = container.keys.get(write::DIGEST) else {
            bail!("key `{}` is missing; pack the checkpoint again", write::DIGEST);
        };
        let digest = digest.clone();
        Ok(Bundle { data, head, entries: container.tensors, by_name, data_at: container.data_at, digest })
    }

    /// Everything but the tensors.
    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn shape(&self) -> &Shape {
        &self.head.shape
    }

    pub fn generation(&self) -> &Generation {
        &self.head.generation
    }

    pub fn marks(&self) -> &Marks {
        &self.head.marks
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.head.vocabulary
    }

    pub fn prompts(&self) -> &[Prompt] {
        &self.head.prompts
    }

    pub fn label_sets(&self) -> &[LabelSet] {
        &self.head.label_sets
    }

    /// The prompt of that name, or an error that lists the names there are.
    pub fn prompt(&self, name: &str) -> Result<&Prompt> {
        let names = || self.head.prompts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.head.prompts.iter().find(|p| p.name == name);
        found.with_context(|| format!("the bundle has no prompt `{name}`, only: {}", names()))
    }

    /// The label set of that name, or an error that lists the names there are.
    pub fn label_set(&self, name: &str) -> Result<&LabelSet> {
        let names = || self.head.label_sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.head.label_sets.iter().find(|s| s.name == name);
        found.with_context(|| format!("the bundle has no label set `{name}`, only: {}", names()))
    }

    /// Whether an optional tensor is there: `decoder.head.weight`.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A tensor of the table in `shape`.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let index = self.by_name.get(name).with_context(|| format!("the bundle has no tensor `{name}`"))?;
        Ok(self.view(&self.entries[*index]))
    }

    /// The values of a tensor, whatever its kind, all finite.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        tensor.check()?;
        Ok(tensor.values())
    }

    /// Every tensor in file order.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.entries.iter().map(|entry| self.view(entry))
    }

    /// Checks that every value is finite and compares all tensors with the digest in the header. Reads the whole file, so that it
    /// is not part of `open`.
    pub fn verify(&self) -> Result<()> {
        for tensor in self.tensors() {
            tensor.check()?;
        }
        let mut hash = Sha256::new();
        hash.update(self.tensor_bytes());
        let found = write::hex(hash);
        ensure!(
            found == self.digest,
            "the tensors are not those that were packed (SHA-256 {found}, not {}): the file is damaged; copy or pack it again",
            self.digest
        );
        Ok(())
    }

    /// SHA-256 of all tensors as it was when they were packed.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// First bytes of the header's SHA-256. The header holds the tensors' digest, so that this names the whole bundle without
    /// reading it.
    pub fn hash(&self) -> [u8; 8] {
        let mut first = [0; 8];
        first.copy_from_slice(&Sha256::digest(&self.data.bytes()[..self.data_at])[..8]);
        first
    }

    /// Gives the memory of a tensor's bytes back where they are mapped: whoever laid them out elsewhere needs them no more. They
    /// stay readable, from the file.
    pub fn release(&self, tensor: &Tensor<'_>) {
        self.data.release(tensor.data);
    }

    /// Everything behind the header.
    pub fn tensor_bytes(&self) -> &[u8] {
        &self.data.bytes()[self.data_at..]
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> usize {
        self.data.bytes().len()
    }

    fn view<'a>(&'a self, entry: &'a gguf::Entry) -> Tensor<'a> {
        let data = &self.data.bytes()[entry.offset..entry.offset + entry.bytes()];
        Tensor { name: &entry.name, kind: entry.kind, rows: entry.rows, cols: entry.cols, data }
    }
}
