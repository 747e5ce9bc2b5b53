//! Opens a bundle: maps the file, checks everything but the values, and gives out its tensors.

use super::block::Kind;
use super::digest;
use super::gguf;
use super::header::{Generation, Header, LabelSet, Marks, Prompt};
use super::shape::{self, Shape};
use super::tensor::Tensor;
use super::vocabulary::Vocabulary;
use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, fs::File, path::Path};

/// A file that was checked and mapped. Clones of the tensors' bytes are never kept.
pub struct Bundle {
    data: Data,
    header: Header,
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
        let header = Header::read(&container.keys)?;
        let by_name: HashMap<_, _> =
            container.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let own_head = by_name.contains_key("decoder.head.weight");
        let specs = shape::tensors(&header.shape, own_head);
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
        let Some(gguf::Value::Text(digest)) = container.keys.get(super::write::DIGEST) else {
            bail!("key `{}` is missing; pack the checkpoint again", super::write::DIGEST);
        };
        let digest = digest.clone();
        Ok(Bundle { data, header, entries: container.tensors, by_name, data_at: container.data_at, digest })
    }

    /// Everything but the tensors.
    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn shape(&self) -> &Shape {
        &self.header.shape
    }

    pub fn generation(&self) -> &Generation {
        &self.header.generation
    }

    pub fn marks(&self) -> &Marks {
        &self.header.marks
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.header.vocabulary
    }

    pub fn prompts(&self) -> &[Prompt] {
        &self.header.prompts
    }

    pub fn label_sets(&self) -> &[LabelSet] {
        &self.header.label_sets
    }

    /// The prompt of that name, or an error that lists the names there are.
    pub fn prompt(&self, name: &str) -> Result<&Prompt> {
        let names = || self.header.prompts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.header.prompts.iter().find(|p| p.name == name);
        found.with_context(|| format!("the bundle has no prompt `{name}`, only: {}", names()))
    }

    /// The label set of that name, or an error that lists the names there are.
    pub fn label_set(&self, name: &str) -> Result<&LabelSet> {
        let names = || self.header.label_sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.header.label_sets.iter().find(|s| s.name == name);
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
        let found = digest::hex(hash);
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
