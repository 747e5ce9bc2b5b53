//! Memory of the CPU backend: zeroed, aligned to cache lines, in huge pages where it is large.

use anyhow::{Context, Result};
use std::{ptr::NonNull, sync::Arc};

/// From this size on memory comes from the kernel directly, in huge pages if it has them.
const LARGE_BYTES: usize = 1 << 20;
/// Weights are laid into pieces of this size, so that all but the last lie in whole huge pages.
const PIECE_BYTES: usize = 32 << 20;
/// A huge page of x86-64, and of aarch64 with pages of 4 KiB.
pub const HUGE_BYTES: usize = 2 << 20;
const LINE: usize = 64;

/// Bytes of the allocator or of the kernel.
struct Bytes {
    at: NonNull<u8>,
    bytes: usize,
    mapped: bool,
}

// SAFETY: owned bytes; sharing follows the borrow of the owner.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

fn no_memory(bytes: usize) -> String {
    format!(
        "no memory for {bytes} bytes: `mien check-config` says what a run takes; free some, or pack a smaller bundle"
    )
}

fn layout(bytes: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(bytes, LINE).unwrap_or_else(|_| panic!("{bytes} bytes is no size"))
}

impl Bytes {
    fn new(bytes: usize) -> Result<Bytes> {
        // Miri knows no advice on mappings.
        if bytes >= LARGE_BYTES && !cfg!(miri) {
            use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
            // SAFETY: a fresh private mapping that nobody else knows; advice on all of it.
            let at = unsafe {
                let protection = ProtFlags::READ | ProtFlags::WRITE;
                let at = mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)
                    .with_context(|| no_memory(bytes))?;
                let _ = madvise(at, bytes, Advice::LinuxHugepage);
                at
            };
            let at = NonNull::new(at.cast()).context("a mapping at address zero")?;
            return Ok(Bytes { at, bytes, mapped: true });
        }
        // SAFETY: the layout has a size.
        let at = unsafe { std::alloc::alloc_zeroed(layout(bytes)) };
        let at = NonNull::new(at).with_context(|| no_memory(bytes))?;
        Ok(Bytes { at, bytes, mapped: false })
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: made by `new` with the same size and the same way; nobody uses it any more.
        unsafe {
            if self.mapped {
                let _ = rustix::mm::munmap(self.at.as_ptr().cast(), self.bytes);
            } else {
                std::alloc::dealloc(self.at.as_ptr(), layout(self.bytes));
            }
        }
    }
}

/// A stretch of bytes, alone or as part of a larger piece that lives as long as its last part.
pub struct Memory {
    piece: Arc<Bytes>,
    from: usize,
    bytes: usize,
}

impl Memory {
    pub fn new(bytes: usize) -> Result<Memory> {
        let bytes = bytes.next_multiple_of(LINE).max(LINE);
        Ok(Memory { piece: Arc::new(Bytes::new(bytes)?), from: 0, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows to at least `bytes`; what it held is lost when it does.
    pub fn reserve(&mut self, bytes: usize) {
        if bytes > self.bytes {
            *self = Memory::new(bytes).unwrap_or_else(|error| panic!("scratch memory: {error:#}"));
        }
    }

    pub fn ptr<T>(&self) -> *mut T {
        const { assert!(align_of::<T>() <= LINE) };
        self.piece.at.as_ptr().wrapping_add(self.from).cast()
    }
}

/// Hands out parts of large pieces, one after the other; nothing is given back before all parts of a piece are gone.
#[derive(Default)]
pub struct Arena {
    piece: Option<Arc<Bytes>>,
    used: usize,
}

impl Arena {
    pub fn take(&mut self, bytes: usize) -> Result<Memory> {
        let bytes = bytes.next_multiple_of(LINE).max(LINE);
        if bytes >= PIECE_BYTES {
            return Memory::new(bytes);
        }
        let piece = match &self.piece {
            Some(piece) if self.used + bytes <= piece.bytes => Arc::clone(piece),
            _ => {
                let piece = Arc::new(Bytes::new(PIECE_BYTES)?);
                (self.piece, self.used) = (Some(Arc::clone(&piece)), 0);
                piece
            }
        };
        self.used += bytes;
        Ok(Memory { piece, from: self.used - bytes, bytes })
    }
}

/// Activations: f32.
pub struct Buf {
    memory: Memory,
    len: usize,
}

impl Buf {
    pub fn new(len: usize) -> Result<Buf> {
        Ok(Buf { memory: Memory::new(len * 4)?, len })
    }
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The first `len` values.
    pub fn first(&self, len: usize) -> &[f32] {
        assert!(len <= self.len, "{len} values of a buffer of {}", self.len);
        // SAFETY: `len` f32 lie in the memory, zeroed at birth.
        unsafe { std::slice::from_raw_parts(self.memory.ptr(), len) }
    }
    pub fn first_mut(&mut self, len: usize) -> &mut [f32] {
        assert!(len <= self.len, "{len} values of a buffer of {}", self.len);
        // SAFETY: as `first`, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory.ptr(), len) }
    }
}

/// A place that several threads write, each its own part.
#[derive(Clone, Copy)]
pub struct Out(pub *mut f32);

// SAFETY: the writers of one job write disjoint parts; that is stated where it is made.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub fn at(self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }
}
