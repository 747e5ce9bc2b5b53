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

/// Integer tile: `widen` lays out block `b` of the panel as `(BLOCK, PANEL)`, each input beside its neighbours of other outputs, so that
/// the compiler finds its vectors.
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
    widen: impl Fn(usize, &mut [[i16; PANEL]; BLOCK]),
) {
    let mut weights = [[0i16; PANEL]; BLOCK];
    // SAFETY: the caller's: `out` is `(rows, PANEL)`, and each block of `x` has `rows` rows of BLOCK bytes, then their scales.
    unsafe {
        let out = std::slice::from_raw_parts_mut(out.cast::<[f32; PANEL]>(), rows);
        out.fill([0.0; PANEL]);
        for b in 0..blocks {
            widen(b, &mut weights);
            let d: [f32; PANEL] = scales
                .add(b * PANEL)
                .cast::<[u16; PANEL]>()
                .read_unaligned()
                .map(|bits| f16::from_bits(bits).to_f32());
            let x = x.add(b * rows * (BLOCK + 8));
            for (m, out) in out.iter_mut().enumerate() {
                let q = x.add(m * BLOCK).cast::<[i8; BLOCK]>().read_unaligned();
                let xd = *x.add(rows * BLOCK).cast::<f32>().add(m);
                let dots = dots(&weights, &q);
                for lane in 0..PANEL {
                    out[lane] += dots[lane] as f32 * (d[lane] * xd);
                }
            }
        }
    }
}

/// One block of a row against sixteen outputs. Two products of signed bytes fit into 16 bits: `2 * 128 * 127 < 2^15`, as `q` is never
/// -128.
#[inline(always)]
fn dots(weights: &[[i16; PANEL]; BLOCK], q: &[i8; BLOCK]) -> [i32; PANEL] {
    let mut sums = [0i32; PANEL];
    for (pair, q) in weights.chunks_exact(2).zip(q.chunks_exact(2)) {
        let (a, b) = (i16::from(q[0]), i16::from(q[1]));
        for lane in 0..PANEL {
            let two = pair[0][lane].wrapping_mul(a).wrapping_add(pair[1][lane].wrapping_mul(b));
            sums[lane] += i32::from(two);
        }
    }
    sums
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
        let widen = |b: usize, weights: &mut [[i16; PANEL]; BLOCK]| {
            // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK bytes.
            let block =
                unsafe { w.add(b * PANEL * BLOCK).cast::<[[i32; PANEL]; BLOCK / 4]>().read_unaligned() };
            for (quad, rows) in block.iter().zip(weights.chunks_exact_mut(4)) {
                for k in 0..4 {
                    for lane in 0..PANEL {
                        rows[k][lane] = (i32::from_le(quad[lane]) << (24 - 8 * k) >> 24) as i16;
                    }
                }
            }
        };
        // SAFETY: the caller's.
        unsafe { tile(rows, scales, x, blocks, out, widen) }
    }
    unsafe fn tile_q4(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    ) {
        let widen = |b: usize, weights: &mut [[i16; PANEL]; BLOCK]| {
            // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK / 2 bytes.
            let block =
                unsafe { w.add(b * PANEL * BLOCK / 2).cast::<[[i32; PANEL]; BLOCK / 8]>().read_unaligned() };
            let (low, high) = weights.split_at_mut(BLOCK / 2);
            for ((quad, low), high) in block.iter().zip(low.chunks_exact_mut(4)).zip(high.chunks_exact_mut(4))
            {
                for k in 0..4 {
                    for lane in 0..PANEL {
                        let four = i32::from_le(quad[lane]) >> (8 * k);
                        low[k][lane] = (four & 15) as i16 - 8;
                        high[k][lane] = (four >> 4 & 15) as i16 - 8;
                    }
                }
            }
        };
        // SAFETY: the caller's.
        unsafe { tile(rows, scales, x, blocks, out, widen) }
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
