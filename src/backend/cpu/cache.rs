//! Keys and values of every decoder layer, laid out for one query that reads them all.
//!
//! Shapes, per layer and head: keys `(positions / 16, head_dim, 16)`, values `(positions, head_dim)`; f16, or f32 where exactness is
//! asked for. Positions are padded to 16.
//! Limits: f16 holds magnitudes up to 65504; beyond, a key or value becomes infinite.

use super::{lanes::PANEL, memory::Memory};
use crate::backend::Heads;
use crate::backend::format::rope_angle;
use anyhow::Result;
use half::f16;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    F16,
    F32,
}

pub struct Cache {
    pub heads: Heads,
    pub positions_max: usize,
    pub entry: Entry,
    keys: Memory,
    values: Memory,
    /// cos and sin of every position and pair, for `theta`.
    turns: Vec<(f32, f32)>,
    theta: f32,
}

impl Cache {
    /// Exchanges keys and values with those of a cache of the same size.
    pub fn exchange(&mut self, other: &mut Cache) {
        assert_eq!(
            (self.heads, self.positions_max),
            (other.heads, other.positions_max),
            "caches of two sizes"
        );
        std::mem::swap(&mut self.keys, &mut other.keys);
        std::mem::swap(&mut self.values, &mut other.values);
    }

    pub fn new(layers: usize, heads: Heads, positions_max: usize, entry: Entry) -> Result<Cache> {
        let padded = positions_max.next_multiple_of(PANEL);
        let size = if entry == Entry::F16 { 2 } else { 4 };
        let bytes = layers * heads.n_kv_heads * padded * heads.head_dim * size;
        Ok(Cache {
            heads,
            positions_max,
            entry,
            keys: Memory::new(bytes)?,
            values: Memory::new(bytes)?,
            turns: vec![(0.0, 0.0); positions_max * heads.head_dim / 2],
            theta: f32::NAN,
        })
    }

    /// Copies the keys and values of positions in every layer out of a cache with the same heads and layers.
    pub fn take_positions(&mut self, from: &Cache, positions: Range<usize>) {
        let layers = self.layers();
        let kind = (from.heads, from.entry, from.layers());
        assert_eq!((self.heads, self.entry, layers), kind, "caches of two kinds");
        assert!(
            positions.end <= self.positions_max.min(from.positions_max),
            "positions {positions:?} of {} and {}",
            self.positions_max,
            from.positions_max
        );
        for (layer, head) in
            (0..layers).flat_map(|layer| (0..self.heads.n_kv_heads).map(move |head| (layer, head)))
        {
            let whole = positions.start.next_multiple_of(PANEL)..positions.end / PANEL * PANEL;
            let edges = positions.clone().filter(|position| !whole.contains(position));
            for (position, d) in edges.flat_map(|at| (0..self.heads.head_dim).map(move |d| (at, d))) {
                let (to, at) = (self.key_at(layer, head, position, d), from.key_at(layer, head, position, d));
                self.copy_entries(&self.keys, to, &from.keys, at, 1);
            }
            let len = whole.len() * self.heads.head_dim;
            let (to, at) =
                (self.key_at(layer, head, whole.start, 0), from.key_at(layer, head, whole.start, 0));
            self.copy_entries(&self.keys, to, &from.keys, at, len);
            let (to, at) =
                (self.value_at(layer, head, positions.start), from.value_at(layer, head, positions.start));
            self.copy_entries(&self.values, to, &from.values, at, positions.len() * self.heads.head_dim);
        }
    }

    fn copy_entries(&self, to: &Memory, to_at: usize, from: &Memory, from_at: usize, len: usize) {
        let size = if self.entry == Entry::F16 { 2 } else { 4 };
        let (bytes, to_at, from_at) = (len * size, to_at * size, from_at * size);
        assert!(to_at + bytes <= to.bytes() && from_at + bytes <= from.bytes(), "{bytes} bytes at {to_at}");
        // SAFETY: below the sizes of two memories, of which `self` is borrowed alone by the caller.
        unsafe {
            std::ptr::copy_nonoverlapping(from.ptr::<u8>().add(from_at), to.ptr::<u8>().add(to_at), bytes)
        };
    }

    fn layers(&self) -> usize {
        let size = if self.entry == Entry::F16 { 2 } else { 4 };
        self.keys.bytes() / (self.head_at(1, 0) * size)
    }

    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes() + self.turns.len() * size_of::<(f32, f32)>()
    }

    fn head_at(&self, layer: usize, head: usize) -> usize {
        let padded = self.positions_max.next_multiple_of(PANEL);
        (layer * self.heads.n_kv_heads + head) * padded * self.heads.head_dim
    }

    fn key_at(&self, layer: usize, head: usize, position: usize, d: usize) -> usize {
        self.head_at(layer, head) + (position / PANEL * self.heads.head_dim + d) * PANEL + position % PANEL
    }

    fn value_at(&self, layer: usize, head: usize, position: usize) -> usize {
        self.head_at(layer, head) + position * self.heads.head_dim
    }

    pub fn keys<T>(&self, layer: usize, head: usize) -> *const T {
        self.keys.ptr::<T>().wrapping_add(self.head_at(layer, head))
    }

    pub fn values<T>(&self, layer: usize, head: usize) -> *const T {
        self.values.ptr::<T>().wrapping_add(self.head_at(layer, head))
    }

    fn get(&self, memory: &Memory, at: usize) -> f32 {
        assert!(at < memory.bytes() / if self.entry == Entry::F16 { 2 } else { 4 }, "entry {at}");
        // SAFETY: below the size of the memory, which was zeroed at birth.
        unsafe {
            match self.entry {
                Entry::F16 => f16::from_bits(*memory.ptr::<u16>().add(at)).to_f32(),
                Entry::F32 => *memory.ptr::<f32>().add(at),
            }
        }
    }

    pub fn key(&self, layer: usize, head: usize, position: usize, d: usize) -> f32 {
        self.get(&self.keys, self.key_at(layer, head, position, d))
    }

    pub fn value(&self, layer: usize, head: usize, position: usize, d: usize) -> f32 {
        self.get(&self.values, self.value_at(layer, head, position) + d)
    }

    /// # Safety
    /// `out` holds `head_dim` values.
    pub unsafe fn value_row(&self, layer: usize, head: usize, position: usize, out: *mut f32) {
        for d in 0..self.heads.head_dim {
            // SAFETY: the caller's contract.
            unsafe { *out.add(d) = self.value(layer, head, position, d) };
        }
    }

    /// Makes the table of turns for `theta`, once.
    pub fn prepare(&mut self, theta: f32) {
        if self.theta == theta {
            return;
        }
        let half = self.heads.head_dim / 2;
        for (at, turn) in self.turns.iter_mut().enumerate() {
            let (sin, cos) = f64::from(rope_angle(at / half, at % half, half * 2, theta)).sin_cos();
            *turn = (cos as f32, sin as f32);
        }
        self.theta = theta;
    }

    pub fn turns(&self, position: usize) -> &[(f32, f32)] {
        let half = self.heads.head_dim / 2;
        &self.turns[position * half..][..half]
    }

    /// Stores the key and value rows of one position; `row` is `k | v` of all heads.
    ///
    /// # Safety
    /// Nobody else reads or writes this position of this layer meanwhile.
    pub unsafe fn store(&self, layer: usize, position: usize, row: &[f32]) {
        let Heads { n_kv_heads, head_dim, .. } = self.heads;
        assert!(position < self.positions_max, "position {position} of {}", self.positions_max);
        assert_eq!(row.len(), 2 * n_kv_heads * head_dim, "k | v of {n_kv_heads} heads of {head_dim}");
        let put = |memory: &Memory, at: usize, v: f32| {
            assert!(at < memory.bytes() / if self.entry == Entry::F16 { 2 } else { 4 }, "entry {at}");
            // SAFETY: below the size of the memory; the caller keeps others away.
            unsafe {
                match self.entry {
                    Entry::F16 => *memory.ptr::<u16>().add(at) = f16::from_f32(v).to_bits(),
                    Entry::F32 => *memory.ptr::<f32>().add(at) = v,
                }
            }
        };
        let (keys, values) = row.split_at(n_kv_heads * head_dim);
        for (i, (k, v)) in keys.iter().zip(values).enumerate() {
            let (head, d) = (i / head_dim, i % head_dim);
            put(&self.keys, self.key_at(layer, head, position, d), *k);
            put(&self.values, self.value_at(layer, head, position) + d, *v);
        }
    }
}
