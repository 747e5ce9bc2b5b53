//! The container: GGUF version 3, little-endian, as the `gguf` Python package reads and writes it. Knows no model.
//!
//! Layout: magic, version, tensor count, key count; the keys with their values; one entry per tensor (name, dimensions with the
//! fastest first, kind, offset); padding; then the tensors, each at a multiple of the alignment.
//! Invariant: what `parse` returns lies inside the bytes it was given, and no two tensors share a byte.
//! Limits: nothing is allocated for a count before the bytes for it are known to be there.

use super::block::Kind;
use super::download;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashMap};

pub const ALIGNMENT: u64 = 32;
const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Bytes of a tensor name, as in the GGUF specification.
const NAME_MAX: u64 = 64;
const KEY_MAX: u64 = 65535;

/// The value of a key. Arrays of other types than these are checked and left out (`Other`).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
    Other,
}

/// A tensor to be written, or one found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    pub rows: usize,
    pub cols: usize,
    /// One dimension in the file; `rows` is 1.
    pub vector: bool,
    /// From the start of the file.
    pub offset: usize,
}

impl Entry {
    /// Bytes of the tensor.
    pub fn bytes(&self) -> usize {
        self.rows * self.kind.row_bytes(self.cols)
    }
}

/// A parsed header.
#[derive(Clone, Debug)]
pub struct Container {
    pub keys: BTreeMap<String, Value>,
    pub tensors: Vec<Entry>,
    /// Where the tensors begin.
    pub data_at: usize,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Q4_0 => 2,
            Kind::Q8_0 => 8,
        }
    }

    fn from_code(code: u32) -> Option<Kind> {
        [Kind::F32, Kind::F16, Kind::Q4_0, Kind::Q8_0].into_iter().find(|k| k.code() == code)
    }
}

/// Header bytes for `keys` and `tensors`, up to the first tensor. Sets the offsets and returns the length of the whole file.
pub fn header(keys: &[(String, Value)], tensors: &mut [Entry]) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&(keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        put_text(&mut out, key);
        put_value(&mut out, value);
    }
    let mut relative = 0u64;
    let mut relatives = Vec::with_capacity(tensors.len());
    for tensor in tensors.iter() {
        put_text(&mut out, &tensor.name);
        let dims: &[usize] = if tensor.vector { &[tensor.cols] } else { &[tensor.cols, tensor.rows] };
        out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|&d| out.extend_from_slice(&(d as u64).to_le_bytes()));
        out.extend_from_slice(&tensor.kind.code().to_le_bytes());
        out.extend_from_slice(&relative.to_le_bytes());
        relatives.push(relative);
        relative = (relative + tensor.bytes() as u64).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    for (tensor, relative) in tensors.iter_mut().zip(relatives) {
        tensor.offset = out.len() + relative as usize;
    }
    let file_bytes = out.len() as u64 + relative;
    (out, file_bytes)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |code: u32, bytes: &[u8]| {
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    let list = |element: u32, count: usize| {
        let mut head = element.to_le_bytes().to_vec();
        head.extend_from_slice(&(count as u64).to_le_bytes());
        head
    };
    match value {
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::Text(v) => {
            put(8, &[]);
            put_text(out, v);
        }
        Value::I32s(v) => {
            put(9, &list(5, v.len()));
            v.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
        Value::F32s(v) => {
            put(9, &list(6, v.len()));
            v.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
        Value::Texts(v) => {
            put(9, &list(8, v.len()));
            v.iter().for_each(|x| put_text(out, x));
        }
        Value::Other => panic!("a value of another type cannot be written"),
    }
}

/// Reads the header and checks that every tensor lies in the file.
pub fn parse(file: &[u8]) -> Result<Container> {
    download::check(file)?;
    let mut at = Cursor { file, at: 0 };
    ensure!(
        at.take(4).is_ok_and(|magic| magic == MAGIC),
        "this is no GGUF file (it does not begin with GGUF); a bundle is made with `mien pack`"
    );
    let version = at.u32()?;
    ensure!(
        version == VERSION,
        "GGUF version {version} is not supported, only {VERSION}; pack the checkpoint again"
    );
    let n_tensors = at.count("the tensor count", 24)?;
    let n_keys = at.count("the key count", 13)?;
    let mut keys = BTreeMap::new();
    for index in 0..n_keys {
        let key = at.text(KEY_MAX).with_context(|| format!("in the name of key {index} of {n_keys}"))?;
        let value = at.value().with_context(|| format!("in the value of key `{key}`"))?;
        ensure!(keys.insert(key.clone(), value).is_none(), "key `{key}` is there twice");
    }
    let alignment = match keys.get("general.alignment") {
        None => ALIGNMENT,
        Some(Value::U32(a)) if a.is_power_of_two() && *a >= 8 && *a <= 1 << 20 => u64::from(*a),
        Some(other) => bail!("key `general.alignment` is {other:?}, but must be a power of two"),
    };
    let mut raw = Vec::new();
    for index in 0..n_tensors {
        let name =
            at.text(NAME_MAX).with_context(|| format!("in the name of tensor {index} of {n_tensors}"))?;
        let entry = at.tensor(name.clone()).with_context(|| format!("in the entry of tensor `{name}`"))?;
        raw.push(entry);
    }
    let data_at = (at.at as u64).next_multiple_of(alignment);
    let mut seen = HashMap::new();
    let mut tensors = Vec::with_capacity(raw.len());
    for (mut entry, relative) in raw {
        let name = entry.name.clone();
        ensure!(seen.insert(name.clone(), ()).is_none(), "tensor `{name}` is there twice");
        ensure!(
            relative % alignment == 0,
            "tensor `{name}` begins at {relative}, not at a multiple of {alignment}"
        );
        let end = data_at.checked_add(relative).and_then(|start| start.checked_add(entry.bytes() as u64));
        match end {
            Some(end) if end <= file.len() as u64 => entry.offset = end as usize - entry.bytes(),
            _ => bail!(
                "tensor `{name}` ends after the file ({} bytes from {relative} in a file of {} bytes): \
                 the file is cut or damaged; copy or pack it again",
                entry.bytes(),
                file.len()
            ),
        }
        tensors.push(entry);
    }
    let mut order: Vec<&Entry> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        ensure!(
            pair[0].offset + pair[0].bytes() <= pair[1].offset,
            "tensors `{}` and `{}` overlap",
            pair[0].name,
            pair[1].name
        );
    }
    Ok(Container { keys, tensors, data_at: data_at.min(file.len() as u64) as usize })
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        ensure!(
            len <= self.left(),
            "the file ends at {} of the {len} bytes expected from {}: it is cut or damaged; copy or pack it again",
            self.left(),
            self.at
        );
        let bytes = &self.file[self.at..self.at + len];
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of at least `least` bytes each, which must fit into what is left.
    fn count(&mut self, what: &str, least: usize) -> Result<usize> {
        let count = self.u64()?;
        ensure!(
            count <= (self.left() / least) as u64,
            "{what} is {count}, more than the {} bytes that are left can hold: the file is cut or damaged",
            self.left()
        );
        Ok(count as usize)
    }

    fn text(&mut self, max: u64) -> Result<String> {
        let len = self.u64()?;
        ensure!(
            len <= max.min(self.left() as u64),
            "a text of {len} bytes does not fit here: the file is damaged"
        );
        let bytes = self.take(len as usize)?;
        Ok(std::str::from_utf8(bytes).context("a text is not UTF-8: the file is damaged")?.to_owned())
    }

    fn value(&mut self) -> Result<Value> {
        Ok(match self.u32()? {
            4 => Value::U32(self.u32()?),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.take(1)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                other => bail!("a bool holds {other:?}"),
            },
            8 => Value::Text(self.text(u64::MAX)?),
            10 => Value::U64(self.u64()?),
            9 => self.list()?,
            other => {
                self.take(scalar_bytes(other)?)?;
                Value::Other
            }
        })
    }

    fn list(&mut self) -> Result<Value> {
        let element = self.u32()?;
        if element == 8 {
            let count = self.count("the length of an array of texts", 8)?;
            let texts: Result<_> = (0..count).map(|_| self.text(u64::MAX)).collect();
            return Ok(Value::Texts(texts?));
        }
        ensure!(element != 9, "arrays of arrays are not supported");
        let size = scalar_bytes(element)?;
        let count = self.count("the length of an array", size)?;
        let bytes = self.take(count * size)?;
        let words = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        Ok(match element {
            5 => Value::I32s(words().map(i32::from_le_bytes).collect()),
            6 => Value::F32s(words().map(f32::from_le_bytes).collect()),
            _ => Value::Other,
        })
    }

    /// The entry without its final offset, and the offset from the start of the data.
    fn tensor(&mut self, name: String) -> Result<(Entry, u64)> {
        let n_dims = self.u32()?;
        ensure!((1..=2).contains(&n_dims), "it has {n_dims} dimensions; tensors here have 1 or 2");
        let cols = self.u64()?;
        let rows = if n_dims == 2 { self.u64()? } else { 1 };
        let code = self.u32()?;
        let Some(kind) = Kind::from_code(code) else {
            bail!(
                "its kind has the number {code}; supported are F32, F16, Q8_0 and Q4_0: pack the checkpoint again"
            );
        };
        let (per_block, block_bytes) = kind.block();
        ensure!(cols > 0 && rows > 0, "its dimensions {rows} x {cols} hold nothing");
        ensure!(cols % per_block as u64 == 0, "its {cols} columns are not whole blocks of {per_block}");
        let bytes =
            (cols / per_block as u64).checked_mul(block_bytes as u64).and_then(|row| row.checked_mul(rows));
        ensure!(
            bytes.is_some_and(|b| b <= self.file.len() as u64) && cols <= self.file.len() as u64 * 2,
            "its dimensions {rows} x {cols} are larger than the file: the file is cut or damaged"
        );
        let relative = self.u64()?;
        let entry =
            Entry { name, kind, rows: rows as usize, cols: cols as usize, vector: n_dims == 1, offset: 0 };
        Ok((entry, relative))
    }
}

fn scalar_bytes(code: u32) -> Result<usize> {
    Ok(match code {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => bail!("a value has the type number {code}, which GGUF does not know: the file is damaged"),
    })
}
