//! The set that every machine has: four lanes of plain arithmetic, signed bytes, no intrinsics.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::lanes::{BLOCK, Isa, Lanes, PANEL, Stored, Work, tile_float};
use half::f16;

#[derive(Clone, Copy)]
pub struct Four([f32; 4]);

#[derive(Clone, Copy)]
pub struct Plain;

macro_rules! each {
    ($a:expr, $b:expr, $f:expr) => {{
        let (a, b, f) = ($a.0, $b.0, $f);
        Four([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
    }};
}

// SAFETY: plain arithmetic; loads and stores touch `N` values at pointers that the callers answer for.
unsafe impl Lanes for Four {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn splat(v: f32) -> Four {
        Four([v; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Four {
        unsafe { Four(p.cast::<[f32; 4]>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Four {
        unsafe { Four(p.cast::<[u16; 4]>().read_unaligned().map(|v| f16::from_bits(v).to_f32())) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { p.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Four) -> Four {
        each!(self, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Four) -> Four {
        each!(self, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Four) -> Four {
        each!(self, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, b: Four) -> Four {
        each!(self, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Four, c: Four) -> Four {
        unsafe { self.mul(b).add(c) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Four) -> Four {
        each!(self, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, b: Four) -> Four {
        each!(self, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(self) -> Four {
        Four(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn round(self) -> Four {
        Four(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Four {
        Four(self.0.map(|v| f32::from_bits(((v as i32 + 127) << 23) as u32)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        (self.0[0] + self.0[2]) + (self.0[1] + self.0[3])
    }
}

/// Integer tile: `weight` gives the panel's weight of a lane, value `k` of the block.
///
/// # Safety
/// As [`Isa::tile_q8`].
#[inline(always)]
unsafe fn tile(
    rows: usize,
    scales: *const u16,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
    weight: impl Fn(usize, usize, usize) -> i32,
) {
    unsafe {
        std::slice::from_raw_parts_mut(out, rows * PANEL).fill(0.0);
        for b in 0..blocks {
            let x = x.add(b * rows * (BLOCK + 8));
            for lane in 0..PANEL {
                let d = f16::from_bits(*scales.add(b * PANEL + lane)).to_f32();
                for m in 0..rows {
                    let q = x.add(m * BLOCK) as *const i8;
                    let dot: i32 = (0..BLOCK).map(|k| weight(b, lane, k) * i32::from(*q.add(k))).sum();
                    let xd = *(x.add(rows * BLOCK) as *const f32).add(m);
                    *out.add(m * PANEL + lane) += dot as f32 * (d * xd);
                }
            }
        }
    }
}

// SAFETY: needs nothing that the target does not have.
unsafe impl Isa for Plain {
    type F = Four;
    const TILE: usize = 4;
    const HEAD_TILE: usize = 4;
    const OFFSET: bool = false;
    const BF16: bool = false;

    unsafe fn enter<W: Work>(work: W) -> W::Out {
        unsafe { work.run::<Plain>() }
    }
    unsafe fn tile_float<W: Stored>(rows: usize, w: *const W, x: *const f32, depth: usize, out: *mut f32) {
        unsafe {
            match rows {
                1 => tile_float::<W, Four, 1, 4>(w, x, depth, out),
                4 => tile_float::<W, Four, 4, 4>(w, x, depth, out),
                _ => unreachable!("no tile of {rows} rows"),
            }
        }
    }
    unsafe fn tile_q8(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    ) {
        let weight = |b: usize, lane: usize, k: usize| {
            // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK bytes.
            i32::from(unsafe { *w.add(b * PANEL * BLOCK + k / 4 * 64 + lane * 4 + k % 4) } as i8)
        };
        unsafe { tile(rows, scales, x, blocks, out, weight) }
    }
    unsafe fn tile_q4(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    ) {
        let weight = |b: usize, lane: usize, k: usize| {
            // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK / 2 bytes.
            let byte = unsafe { *w.add(b * PANEL * BLOCK / 2 + k % 16 / 4 * 64 + lane * 4 + k % 4) };
            i32::from(if k < 16 { byte & 15 } else { byte >> 4 }) - 8
        };
        unsafe { tile(rows, scales, x, blocks, out, weight) }
    }
    unsafe fn quantise(x: *const f32, q: *mut i8) -> (f32, i32) {
        unsafe { quantise_plain(x, q) }
    }
}

/// [`Isa::quantise`] without intrinsics.
///
/// # Safety
/// 32 values at `x` and at `q`.
pub unsafe fn quantise_plain(x: *const f32, q: *mut i8) -> (f32, i32) {
    // SAFETY: the caller's contract.
    let (x, q) = unsafe { (std::slice::from_raw_parts(x, BLOCK), std::slice::from_raw_parts_mut(q, BLOCK)) };
    let top = f32::from_bits(x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0));
    if !top.is_finite() || top < 1e-30 {
        q.fill(0);
        return (if top.is_finite() { 0.0 } else { top }, 0);
    }
    let inverse = 127.0 / top;
    let mut sum = 0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse).round_ties_even() as i8;
        sum += i32::from(*q);
    }
    (top / 127.0, sum)
}
