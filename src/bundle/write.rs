//! Writes a bundle: header first, then tensor after tensor in short runs of rows, under another name until it is whole.
//!
//! Invariant: the same header and values make the same bytes. Under the final name there is a whole bundle or what was there before.
//! Limits: memory is one run of rows, whatever the size of the tensors.

use super::block::{self, Unfit};
use super::contents::Contents;
use super::digest::{self, Running};
use super::gguf::{self, Entry, Value};
use super::header::Header;
use super::open::Bundle;
use super::shape::Spec;
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::File;
use std::io::{BufWriter, Cursor, Seek, Write};
use std::path::Path;

/// Values converted at once.
const RUN_VALUES: usize = 1 << 20;

/// Where the values of a bundle come from.
pub trait Values {
    /// Appends `rows` rows from `first` of the tensor to `out`, which is empty.
    fn rows(&mut self, spec: &Spec, first: usize, rows: usize, out: &mut Vec<f32>) -> Result<()>;
}

/// What is being read or written, and how far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub doing: &'a str,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Writes the bundle to `path` and returns its length in bytes.
pub fn write_file(
    path: &Path,
    header: &impl Contents,
    own_head: bool,
    values: &mut dyn Values,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<u64> {
    let plan = Plan::new(header, own_head)?;
    let file_bytes = plan.file_bytes;
    replace(path, file_bytes, |file| plan.write(file, values, tell))?;
    Ok(file_bytes)
}

/// Values of a bundle that is there already: what it stored is what is stored anew.
pub struct Stored<'a>(pub &'a Bundle);

impl Values for Stored<'_> {
    fn rows(&mut self, spec: &Spec, first: usize, rows: usize, out: &mut Vec<f32>) -> Result<()> {
        let tensor = self.0.tensor(&spec.name)?;
        let row_bytes = tensor.kind.row_bytes(tensor.cols);
        block::decode(tensor.kind, &tensor.data[first * row_bytes..(first + rows) * row_bytes], out);
        Ok(())
    }
}

/// Writes a bundle with another header and the tensors of `bundle`, byte for byte, under the digests that it states; `path` may be
/// its own file.
pub fn write_header(path: &Path, bundle: &Bundle, header: &Header) -> Result<()> {
    let mut plan = Plan::new(header, bundle.has("decoder.head.weight"))?;
    let tensors = bundle.tensor_bytes();
    ensure!(
        plan.start.len() + tensors.len() == plan.file_bytes as usize,
        "another header needs other tensors: {} and {} bytes are not {}",
        plan.start.len(),
        tensors.len(),
        plan.file_bytes
    );
    let start = plan.stated(bundle.digests().to_vec());
    replace(path, plan.file_bytes, |mut file| {
        file.write_all(&start)?;
        Ok(file.write_all(tensors)?)
    })
}

/// Writes a file of `file_bytes` under another name until it is whole.
fn replace(path: &Path, file_bytes: u64, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    ensure!(folder.is_dir(), "the folder {} does not exist; make it first", folder.display());
    ensure!(!path.is_dir(), "{} is a folder; name a file", path.display());
    let context = || format!("writing {} (nothing was left under this name)", path.display());
    let mut name = path.file_name().context("the bundle needs a file name")?.to_owned();
    name.push(".part-");
    let unfinished = tempfile::Builder::new().prefix(&name).tempfile_in(folder).with_context(context)?;
    let free = free_bytes(folder);
    ensure!(
        free.is_none_or(|free| free >= file_bytes),
        "{} needs {file_bytes} bytes, but its disk has {} left; free some or choose another place",
        path.display(),
        free.unwrap_or(0)
    );
    write(unfinished.as_file()).with_context(context)?;
    unfinished.as_file().sync_all().with_context(context)?;
    open_to_all(unfinished.as_file()).with_context(context)?;
    unfinished.persist(path).map_err(|e| e.error).with_context(context)?;
    Ok(())
}

/// The same into memory.
pub fn write_bytes(header: &impl Contents, own_head: bool, values: &mut dyn Values) -> Result<Vec<u8>> {
    let plan = Plan::new(header, own_head)?;
    let mut out = Cursor::new(Vec::with_capacity(plan.file_bytes as usize));
    plan.write(&mut out, values, &mut |_| ())?;
    Ok(out.into_inner())
}

struct Plan {
    keys: Vec<(String, Value)>,
    specs: Vec<Spec>,
    entries: Vec<Entry>,
    /// The header as bytes, before its digests are known.
    start: Vec<u8>,
    file_bytes: u64,
    /// Scales of 4-bit blocks are searched.
    searches: bool,
}

impl Plan {
    /// Refuses what no bundle could be opened with.
    fn new<H: Contents>(header: &H, own_head: bool) -> Result<Plan> {
        H::read(&header.keys().into_iter().collect())?;
        let mut keys = vec![(digest::HEADER.to_owned(), Value::Text(digest::UNKNOWN.to_owned()))];
        keys.extend(header.keys());
        let specs = header.tensors(own_head);
        let mut entries: Vec<Entry> = specs.iter().map(|s| s.entry(header.quant())).collect();
        let unknown = vec![digest::UNKNOWN.to_owned(); entries.len()];
        keys.push((digest::TENSORS.to_owned(), Value::Texts(unknown)));
        let (start, file_bytes) = gguf::header(&keys, &mut entries);
        Ok(Plan { keys, specs, entries, start, file_bytes, searches: header.quant().searches() })
    }

    /// The header as bytes, with the digests of the tensors and its own.
    fn stated(&mut self, digests: Vec<String>) -> Vec<u8> {
        self.keys.pop();
        self.keys.push((digest::TENSORS.to_owned(), Value::Texts(digests)));
        let (mut start, _) = gguf::header(&self.keys, &mut self.entries);
        assert_eq!(start.len(), self.start.len(), "the header's length depends on no digest");
        digest::seal(&mut start);
        start
    }

    fn write(
        mut self,
        out: impl Write + Seek,
        values: &mut dyn Values,
        tell: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, out);
        out.write_all(&self.start)?;
        let mut done = self.start.len() as u64;
        let mut digests = Vec::with_capacity(self.specs.len());
        for (spec, entry) in self.specs.iter().zip(&self.entries) {
            let mut digest = Running::default();
            let from = done;
            encode(spec, entry, self.searches, values, &mut |bytes| {
                digest.update(bytes);
                out.write_all(bytes)?;
                done += bytes.len() as u64;
                tell(Progress { doing: &spec.name, done_bytes: done, total_bytes: self.file_bytes });
                Ok(())
            })?;
            assert_eq!(done - from, entry.bytes() as u64, "bytes of `{}`", spec.name);
            let padding =
                &[0; gguf::ALIGNMENT as usize][..(done.next_multiple_of(gguf::ALIGNMENT) - done) as usize];
            digest.update(padding);
            out.write_all(padding)?;
            done += padding.len() as u64;
            digests.push(digest.finish());
        }
        assert_eq!(done, self.file_bytes, "bytes written");
        out.rewind()?;
        out.write_all(&self.stated(digests))?;
        out.flush()?;
        Ok(())
    }
}

/// The stored form of a tensor, a run of rows at a time.
fn encode(
    spec: &Spec,
    entry: &Entry,
    searches: bool,
    values: &mut dyn Values,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let rows_at_once = (RUN_VALUES / spec.cols).clamp(1, spec.rows);
    let (mut run, mut bytes) = (Vec::new(), Vec::new());
    for first in (0..spec.rows).step_by(rows_at_once) {
        let rows = rows_at_once.min(spec.rows - first);
        run.clear();
        values.rows(spec, first, rows, &mut run).with_context(|| format!("in tensor `{}`", spec.name))?;
        assert_eq!(run.len(), rows * spec.cols, "values of {} rows of `{}`", rows, spec.name);
        bytes.clear();
        let encode = if searches { block::encode_searched } else { block::encode };
        encode(entry.kind, &run, &mut bytes).map_err(|unfit| refuse(unfit, spec, entry, first, &run))?;
        put(&bytes)?;
    }
    Ok(())
}

fn refuse(unfit: Unfit, spec: &Spec, entry: &Entry, first: usize, run: &[f32]) -> anyhow::Error {
    let (row, col) = (first + unfit.at() / spec.cols, unfit.at() % spec.cols);
    match unfit {
        Unfit::NotFinite { at } => anyhow!(
            "tensor `{}` holds {} in row {row}, column {col}: the checkpoint is damaged; get it again",
            spec.name,
            run[at]
        ),
        Unfit::TooLarge { .. } => anyhow!(
            "tensor `{}` is too large for {} near row {row}, column {col}; pack with --quant f32",
            spec.name,
            entry.kind.name()
        ),
    }
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Temporary files are private to their owner; a bundle is readable like any other file.
fn open_to_all(file: &File) -> Result<()> {
    Ok(rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(0o644))?)
}
