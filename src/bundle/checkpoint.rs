//! Reads the weights of a checkpoint folder: safetensors, one file or sharded, bf16, f16 or f32.
//!
//! Invariant: what `open` lists lies in its file. Only headers are mapped; values are read in runs, so that memory stays small
//! whatever the size of the files.
//! Limits: a header has at most 100 MB, a JSON file 256 MiB.

use super::download;
use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const JSON_BYTES_MAX: u64 = 256 << 20;
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Of a LoRA adapter, as `peft` saves it.
pub const ADAPTER: &str = "adapter_config.json";

/// The tensors of one folder.
pub struct Weights {
    folder: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Found>,
}

struct Found {
    file: usize,
    dtype: Dtype,
    dims: Vec<usize>,
    /// From the start of the file.
    at: u64,
}

impl Weights {
    /// Opens `model.safetensors`, or without it the files that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Weights> {
        let (whole, index) = (folder.join(WHOLE), folder.join(INDEX));
        let mut out = Weights { folder: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        if whole.exists() {
            if index.exists() {
                log::warn!("{} is not used: {WHOLE} stands beside it", index.display());
            }
            out.add(&whole, None)?;
            return Ok(out);
        }
        ensure!(index.exists(), "{}", without_weights(folder));
        let json = read_json(&index)?;
        let by_file = shards(&json).with_context(|| format!("in {}", index.display()))?;
        let missing: Vec<&str> = by_file.keys().copied().filter(|file| !folder.join(file).exists()).collect();
        ensure!(
            missing.is_empty(),
            "{} names {} files, of which {} are missing: {}. The download is incomplete; get them too",
            index.display(),
            by_file.len(),
            missing.len(),
            missing.join(", ")
        );
        for (file, wanted) in by_file {
            out.add(&folder.join(file), Some(&wanted))?;
        }
        Ok(out)
    }

    /// Paths of the files that hold the weights.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Dimensions of a tensor.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.dims.as_slice())
    }

    /// Refuses a tensor that is missing, of another shape, or of a type that holds no weights.
    pub fn require(&self, name: &str, dims: &[usize]) -> Result<()> {
        let found = self.tensors.get(name).with_context(|| {
            format!(
                "{} has no tensor `{name}`: this is another model, or it is incomplete",
                self.folder.display()
            )
        })?;
        let file = self.files[found.file].0.display();
        ensure!(
            found.dims == dims,
            "tensor `{name}` of {file} is {:?}, but must be {dims:?}: this is another model, or its config.json is",
            found.dims
        );
        ensure!(
            matches!(found.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16),
            "tensor `{name}` of {file} holds {:?}; only F32, F16 and BF16 can be packed",
            found.dtype
        );
        Ok(())
    }

    /// Appends `count` values from the value `first` of a tensor that `require` accepted.
    pub fn read(&self, name: &str, first: usize, count: usize, out: &mut Vec<f32>) -> Result<()> {
        let found = &self.tensors[name];
        let (path, file) = &self.files[found.file];
        let size = if found.dtype == Dtype::F32 { 4 } else { 2 };
        let mut bytes = vec![0; count * size];
        file.read_exact_at(&mut bytes, found.at + (first * size) as u64)
            .with_context(|| format!("reading tensor `{name}` of {}", path.display()))?;
        let start = out.len();
        let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match found.dtype {
            Dtype::F32 => {
                out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            }
            Dtype::F16 => out.extend(halves().map(|b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => out.extend(halves().map(|b| bf16::from_le_bytes(b).to_f32())),
            other => panic!("tensor `{name}` of {other:?} was accepted"),
        }
        if let Some(at) = out[start..].iter().position(|v| !v.is_finite()) {
            bail!(
                "tensor `{name}` of {} holds {} at value {}: the file is damaged; get it again",
                path.display(),
                out[start + at],
                first + at
            );
        }
        Ok(())
    }

    /// A whole tensor of the given dimensions.
    pub fn whole(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        self.require(name, dims)?;
        let mut out = Vec::new();
        self.read(name, 0, dims.iter().product(), &mut out)?;
        Ok(out)
    }

    /// Adds the tensors of a file; of a shard, those that the index puts there.
    fn add(&mut self, path: &Path, wanted: Option<&HashSet<&str>>) -> Result<()> {
        let context = || format!("reading {}", path.display());
        let file = File::open(path).with_context(context)?;
        ensure!(file.metadata().with_context(context)?.is_file(), "{} is not a file", path.display());
        // SAFETY: private and read-only; only the header is read, below, and the mapping ends with this function.
        let map = unsafe { Mmap::map(&file) }.with_context(context)?;
        download::check(&map[..map.len().min(512)]).with_context(context)?;
        let (header_bytes, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            anyhow::anyhow!("{} is no whole safetensors file ({e}); get it again", path.display())
        })?;
        check_names(&map[8..8 + header_bytes]).with_context(context)?;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            if wanted.is_some_and(|wanted| !wanted.contains(name.as_str())) {
                continue;
            }
            let at = (8 + header_bytes + info.data_offsets.0) as u64;
            let found = Found { file: index, dtype: info.dtype, dims: info.shape.clone(), at };
            self.tensors.insert(name, found);
        }
        for name in wanted.into_iter().flatten() {
            ensure!(
                self.tensors.get(*name).is_some_and(|t| t.file == index),
                "{} lacks tensor `{name}`, which the index puts there; get the files again",
                path.display()
            );
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }
}

/// Files of an index, each with its tensors.
fn shards(index: &serde_json::Value) -> Result<BTreeMap<&str, HashSet<&str>>> {
    let map = index["weight_map"].as_object().context("there is no `weight_map`; get the file again")?;
    let mut by_file: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().unwrap_or_default();
        ensure!(
            file.ends_with(".safetensors") && !file.contains(['/', '\\']),
            "tensor `{tensor}` is in `{file}`, which is no file of this folder"
        );
        by_file.entry(file).or_default().insert(tensor);
    }
    Ok(by_file)
}

/// What a folder without readable weights is, and what to do about it.
fn without_weights(folder: &Path) -> String {
    let has = |name: &str| folder.join(name).exists();
    let place = folder.display();
    if has(ADAPTER) || has("adapter_model.safetensors") {
        return adapter(folder);
    }
    if let Some(old) =
        ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|name| has(name))
    {
        return format!(
            "{place} holds {old}, but no {WHOLE}: load it with transformers and save it with `save_pretrained(..., \
             safe_serialization=True)`"
        );
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut others: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    others.sort();
    match others.as_slice() {
        [] => format!("{place} has neither {WHOLE} nor {INDEX}; get the files again"),
        [only] => format!("{place} has no {WHOLE}, but {only}: rename it if it is the whole model"),
        many => format!(
            "{place} has {} files of weights, but no {INDEX} that tells what is where; get it too",
            many.len()
        ),
    }
}

/// The refusal of a LoRA adapter.
pub fn adapter(folder: &Path) -> String {
    let config = read_json(&folder.join(ADAPTER)).unwrap_or_default();
    let base = config["base_model_name_or_path"].as_str().unwrap_or("another model");
    format!(
        "{} is an adapter of {base}, not a model: merge it into {base} first (`merge_and_unload` of peft) and pack the result",
        folder.display()
    )
}

/// A whole JSON file.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    let bytes = read_small(path)?;
    for mark in [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"] {
        ensure!(
            !bytes.starts_with(mark),
            "{} begins with a byte order mark, which JSON must not have: save it as UTF-8 without one",
            path.display()
        );
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON; get it again", path.display()))
}

/// A whole file that is text of some kind.
pub fn read_small(path: &Path) -> Result<Vec<u8>> {
    let context = || format!("reading {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(context)?;
    ensure!(bytes.len() as u64 <= JSON_BYTES_MAX, "{} is larger than {JSON_BYTES_MAX} bytes", path.display());
    download::check(&bytes).with_context(context)?;
    Ok(bytes)
}

/// Refuses a header that names a tensor twice, which JSON readers pass over.
fn check_names(header: &[u8]) -> Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("tensors by name")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if let Some(name) = seen.replace(name) {
                    return Err(de::Error::custom(format!(
                        "tensor `{name}` is there twice; get the file again"
                    )));
                }
            }
            Ok(())
        }
    }
    Ok(serde_json::Deserializer::from_slice(header).deserialize_map(Names)?)
}
