//! Opens a bundle: maps the file, checks its header, and gives out its tensors, each compared with its digest when it is first read.
//!
//! Invariant: no tensor that differs from its digest leaves `tensor` or `vector`, so that no model is made of one.
//! Limits: a file that another program changes in place between the comparison and the layout of a tensor, or while it stays mapped,
//! is not noticed; one that it cuts ends the process. A model keeps its own copy of the weights.

use super::block::Kind;
use super::contents::Contents;
use super::digest;
use super::gguf;
use super::header::{Generation, Header, LabelSet, Marks, Prompt};
use super::shape::{self, Shape};
use super::tensor::Tensor;
use super::vocabulary::Vocabulary;
use anyhow::{Context, Error, Result, bail, ensure};
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The model's file.
pub type Bundle = Packed<Header>;

/// A file that was checked and mapped: what its keys say, and its tensors.
pub struct Packed<H> {
    header: H,
    tensors: Tensors,
}

impl<H> Deref for Packed<H> {
    type Target = Tensors;

    fn deref(&self) -> &Tensors {
        &self.tensors
    }
}

/// The tensors of a mapped file. Clones of their bytes are never kept.
pub struct Tensors {
    /// The path, for refusals.
    place: String,
    data: Data,
    entries: Vec<gguf::Entry>,
    by_name: HashMap<String, usize>,
    data_at: usize,
    header_digest: String,
    /// One a tensor, in file order.
    digests: Vec<String>,
    checks: Checks,
}

/// A tensor that is not what was packed. The command ends as it does for a bundle that cannot be opened.
#[derive(Debug)]
pub struct Damaged(String);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// Which tensors were compared with their digests so far, and what that took.
struct Checks {
    threads: usize,
    /// Whether a tensor is what was packed, once it was looked at.
    whole: Vec<OnceLock<bool>>,
    bytes: AtomicU64,
    spent_ns: AtomicU64,
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

impl<H: Contents> Packed<H> {
    /// Maps the file and checks its header: sizes, names, token ids. The tensors are not read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        ensure!(file.metadata()?.is_file(), "this is not a file");
        // SAFETY: the mapping is private and read-only. A file that another process cuts or rewrites while it is mapped breaks
        // the promise; bundles are written under another name and renamed, so that ours never change in place.
        let map = unsafe { Mmap::map(&file) }.context("mapping the file into memory")?;
        Self::check(Data::Mapped(map), path.display().to_string())
    }

    /// The same from memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::check(Data::Owned(bytes), "the bundle in memory".to_owned())
    }

    fn check(data: Data, place: String) -> Result<Self> {
        let container = gguf::parse(data.bytes())?;
        let header = H::read(&container.keys);
        if header.is_err() && !container.keys.contains_key(digest::HEADER) {
            // Of another program or an older version, which says more than a missing digest.
            header?;
            bail!("key `{}` is missing; pack the checkpoint again", digest::HEADER);
        }
        let header_digest = digest::check_header(&data.bytes()[..container.data_at])?;
        let header = header?;
        check_tensors(&header, &container)?;
        check_places(&container, data.bytes().len())?;
        let digests = match container.keys.get(digest::TENSORS) {
            Some(gguf::Value::Texts(digests)) if digests.len() == container.tensors.len() => digests.clone(),
            _ => bail!(
                "key `{}` is missing or does not hold one digest a tensor; pack the checkpoint again",
                digest::TENSORS
            ),
        };
        let entries = container.tensors;
        let tensors = Tensors {
            place,
            by_name: entries.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect(),
            checks: Checks::new(entries.len()),
            data_at: container.data_at,
            data,
            entries,
            header_digest,
            digests,
        };
        Ok(Packed { header, tensors })
    }
}

impl<H> Packed<H> {
    /// Everything but the tensors.
    pub fn header(&self) -> &H {
        &self.header
    }
}

impl Bundle {
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
}

impl Tensors {
    /// Whether an optional tensor is there: `decoder.head.weight`.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A tensor of the table in `shape`, compared with its digest when it is asked for the first time.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let index = self.by_name.get(name).with_context(|| format!("the bundle has no tensor `{name}`"))?;
        self.check_digest(*index)?;
        Ok(self.view(&self.entries[*index]))
    }

    /// The values of a tensor, whatever its kind, all finite.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        tensor.check()?;
        Ok(tensor.values())
    }

    /// Every tensor in file order, as it lies there: compared with no digest.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.entries.iter().map(|entry| self.view(entry))
    }

    /// Compares every tensor with its digest and checks that every value is finite. Reads the whole file, so that it is not part
    /// of `open`.
    pub fn verify(&self) -> Result<()> {
        for (index, entry) in self.entries.iter().enumerate() {
            self.check_digest(index)?;
            let tensor = self.view(entry);
            tensor.check()?;
            self.release(&tensor);
        }
        Ok(())
    }

    /// One name for all tensors: the SHA-256 over their digests.
    pub fn digest(&self) -> String {
        digest::hex(Sha256::new_with_prefix(self.digests.concat()))
    }

    /// The digests of the tensors, in file order.
    pub fn digests(&self) -> &[String] {
        &self.digests
    }

    /// What comparing tensors with their digests took so far, as a line of the log.
    pub fn checked(&self) -> String {
        let Checks { threads, bytes, spent_ns, .. } = &self.checks;
        let spent_ms = spent_ns.load(Relaxed) / 1_000_000;
        format!("bundle checked: bytes={} spent_ms={spent_ms} threads={threads}", bytes.load(Relaxed))
    }

    /// SHA-256 of the header, its own digits taken as `0`.
    pub fn header_digest(&self) -> &str {
        &self.header_digest
    }

    /// First bytes of the header's digest. The header holds the tensors' digests, so that this names the whole bundle without
    /// reading it.
    pub fn hash(&self) -> [u8; 8] {
        let digit = |at: usize| u8::from_str_radix(&self.header_digest[at..at + 2], 16);
        std::array::from_fn(|i| digit(2 * i).expect("a digest is made of hexadecimal digits"))
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

    fn check_digest(&self, index: usize) -> Result<()> {
        let (entry, stated) = (&self.entries[index], &self.digests[index]);
        let padded = &self.data.bytes()[entry.offset..padded_end(entry)];
        let whole = *self.checks.whole[index].get_or_init(|| {
            let begun = Instant::now();
            let whole = digest::of(padded, self.checks.threads) == *stated;
            self.checks.count(padded.len(), begun.elapsed());
            whole
        });
        if !whole {
            return Err(Error::new(Damaged(format!(
                "{}: tensor `{}` is not what was packed (its SHA-256 is not {stated}): the file is damaged; copy or pack it again",
                self.place, entry.name
            ))));
        }
        Ok(())
    }
}

impl Checks {
    fn new(tensors: usize) -> Checks {
        Checks {
            threads: digest::threads(),
            whole: (0..tensors).map(|_| OnceLock::new()).collect(),
            bytes: AtomicU64::new(0),
            spent_ns: AtomicU64::new(0),
        }
    }

    fn count(&self, bytes: usize, spent: Duration) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.spent_ns.fetch_add(spent.as_nanos() as u64, Relaxed);
    }
}

/// Refuses a tensor that is missing, of another size or kind than the header's shape asks for, or not part of the model.
fn check_tensors(header: &impl Contents, container: &gguf::Container) -> Result<()> {
    let by_name: HashMap<&str, &gguf::Entry> =
        container.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let specs = header.tensors(by_name.contains_key("decoder.head.weight"));
    for spec in &specs {
        let Some(found) = by_name.get(spec.name.as_str()) else {
            bail!("tensor `{}` is missing; pack the checkpoint again", spec.name);
        };
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
    let known: HashSet<_> = specs.iter().map(|s| s.name.as_str()).collect();
    match container.tensors.iter().find(|t| !known.contains(t.name.as_str())) {
        Some(extra) => bail!("tensor `{}` is not part of the model", extra.name),
        None => Ok(()),
    }
}

/// Refuses a file with bytes that belong to no tensor, or whose last padding is cut.
fn check_places(container: &gguf::Container, file_bytes: usize) -> Result<()> {
    let mut order: Vec<&gguf::Entry> = container.tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    let begins = order.iter().map(|t| t.offset).skip(1).chain([file_bytes]);
    let first = order.first().map_or(file_bytes, |t| t.offset);
    ensure!(
        first == container.data_at,
        "the first tensor does not follow the header: the file is damaged; copy or pack it again"
    );
    for (tensor, next) in order.iter().zip(begins) {
        ensure!(
            padded_end(tensor) == next,
            "tensor `{}` with its padding ends at byte {}, but what follows begins at {next}: the file is cut or damaged; copy or \
             pack it again",
            tensor.name,
            padded_end(tensor)
        );
    }
    Ok(())
}

fn padded_end(entry: &gguf::Entry) -> usize {
    (entry.offset + entry.bytes()).next_multiple_of(gguf::ALIGNMENT as usize)
}
