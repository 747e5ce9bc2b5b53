//! NEON, and its dot products of bytes where the processor has them (`DOT`).
//!
//! A panel is four vectors of four outputs. Dot products and half-to-float conversions come as assembly: their intrinsics are
//! not stable.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::lanes::{BLOCK, Isa, Lanes, PANEL, Stored, Work, store_tile, tile_float};
use std::arch::{aarch64::*, asm};

#[derive(Clone, Copy)]
pub struct Neon<const DOT: bool>;

#[derive(Clone, Copy)]
pub struct Quad(float32x4_t);

// SAFETY: NEON only, which every aarch64 has; loads and stores touch 4 values.
unsafe impl Lanes for Quad {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        unsafe { Quad(vdupq_n_f32(v)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Quad(vld1q_f32(p)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        unsafe {
            let (half, wide): (uint16x4_t, float32x4_t);
            half = vld1_u16(p);
            asm!("fcvtl {wide:v}.4s, {half:v}.4h", wide = out(vreg) wide, half = in(vreg) half,
                options(pure, nomem, nostack, preserves_flags));
            Quad(wide)
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { vst1q_f32(p, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Quad(vaddq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Quad(vsubq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Quad(vmulq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Quad(vdivq_f32(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { Quad(vfmaq_f32(c.0, self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Quad(vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Quad(vbslq_f32(vcltq_f32(self.0, b.0), self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe { Quad(vabsq_f32(self.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Quad(vrndnq_f32(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        unsafe {
            let n = vaddq_s32(vcvtnq_s32_f32(self.0), vdupq_n_s32(127));
            Quad(vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }
}

/// `dot += w x` over four bytes a lane.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn four_dot(mut dot: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, of a feature that this function states.
    unsafe {
        asm!("sdot {dot:v}.4s, {w:v}.16b, {x:v}.16b", dot = inout(vreg) dot, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    dot
}

/// The same without dot products.
#[target_feature(enable = "neon")]
#[inline]
fn four_pairs(dot: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    let high = vpaddlq_s16(vmull_high_s8(w, x));
    vaddq_s32(dot, vpaddq_s32(low, high))
}

/// The tile of both quantised kinds: `weights` gives the four outputs `v` of quad `k`, `four` multiplies.
#[inline(always)]
unsafe fn tile<const M: usize>(
    scales: *const u16,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
    weights: impl Fn(usize, usize, usize) -> int8x16_t,
    four: impl Fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t,
) {
    unsafe {
        let mut acc = [[Quad::splat(0.0); 4]; M];
        for b in 0..blocks {
            let x = x.add(b * M * (BLOCK + 8));
            let xd = x.add(M * BLOCK).cast::<f32>();
            for v in 0..4 {
                let mut dot = [vdupq_n_s32(0); M];
                for k in 0..8 {
                    let w = weights(b, k, v);
                    for (m, dot) in dot.iter_mut().enumerate() {
                        let xk = x.add(m * BLOCK + k * 4).cast::<i32>().read_unaligned();
                        *dot = four(*dot, w, vreinterpretq_s8_s32(vdupq_n_s32(xk)));
                    }
                }
                let d = Quad::load_f16(scales.add(b * PANEL + v * 4));
                for m in 0..M {
                    let s = d.mul(Quad::splat(*xd.add(m)));
                    acc[m][v] = Quad(vcvtq_f32_s32(dot[m])).fma(s, acc[m][v]);
                }
            }
        }
        store_tile(acc, out);
    }
}

#[inline(always)]
unsafe fn weights_q8(w: *const u8) -> impl Fn(usize, usize, usize) -> int8x16_t {
    // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK bytes.
    move |b, k, v| unsafe { vld1q_s8(w.add(b * PANEL * BLOCK + k * 64 + v * 16).cast()) }
}

#[inline(always)]
unsafe fn weights_q4(w: *const u8) -> impl Fn(usize, usize, usize) -> int8x16_t {
    // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK / 2 bytes.
    move |b, k, v| unsafe {
        let pair = vld1q_u8(w.add(b * PANEL * BLOCK / 2 + k % 4 * 64 + v * 16));
        let nibble = if k < 4 { vandq_u8(pair, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(pair) };
        vsubq_s8(vreinterpretq_s8_u8(nibble), vdupq_n_s8(8))
    }
}

macro_rules! tiles {
    ($name:ident, $features:literal, $weights:ident, $four:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize>(
            scales: *const u16,
            w: *const u8,
            x: *const u8,
            blocks: usize,
            out: *mut f32,
        ) {
            unsafe { tile::<M>(scales, x, blocks, out, $weights(w), |dot, w, x| $four(dot, w, x)) }
        }
    };
}

tiles!(tile_q8_dot, "neon,dotprod", weights_q8, four_dot);
tiles!(tile_q4_dot, "neon,dotprod", weights_q4, four_dot);
tiles!(tile_q8_pairs, "neon", weights_q8, four_pairs);
tiles!(tile_q4_pairs, "neon", weights_q4, four_pairs);

#[target_feature(enable = "neon,dotprod")]
fn spin_dot(rounds: usize) -> i32 {
    let w = vdupq_n_s8(std::hint::black_box(1));
    let mut dot = [vdupq_n_s32(0); 12];
    for _ in 0..rounds {
        for dot in &mut dot {
            *dot = four_dot(*dot, w, w);
        }
    }
    dot.into_iter().map(|d| vaddvq_s32(d)).fold(0, i32::wrapping_add)
}

macro_rules! by_rows {
    ($rows:expr, $f:ident ( $($arg:expr),* )) => {
        match $rows {
            1 => $f::<1>($($arg),*),
            4 => $f::<4>($($arg),*),
            rows => unreachable!("no tile of {rows} rows"),
        }
    };
}

// SAFETY: NEON is part of aarch64; dot products are used with `DOT` alone, which the caller has checked.
unsafe impl<const DOT: bool> Isa for Neon<DOT> {
    type F = Quad;
    const TILE: usize = 4;
    const HEAD_TILE: usize = 4;
    const OFFSET: bool = false;
    const BF16: bool = false;
    const SPIN_OPERATIONS: usize = if DOT { 12 * 32 } else { 0 };

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) -> W::Out {
        unsafe { work.run::<Self>() }
    }
    unsafe fn spin_int8(rounds: usize) -> i32 {
        if DOT { unsafe { spin_dot(rounds) } } else { 0 }
    }
    #[inline(always)]
    unsafe fn tile_float<W: Stored>(rows: usize, w: *const W, x: *const f32, depth: usize, out: *mut f32) {
        unsafe {
            match rows {
                1 => tile_float::<W, Quad, 1, 4>(w, x, depth, out),
                4 => tile_float::<W, Quad, 4, 4>(w, x, depth, out),
                _ => unreachable!("no tile of {rows} rows"),
            }
        }
    }
    #[inline(always)]
    unsafe fn tile_q8(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    ) {
        unsafe {
            if DOT {
                by_rows!(rows, tile_q8_dot(scales, w, x, blocks, out))
            } else {
                by_rows!(rows, tile_q8_pairs(scales, w, x, blocks, out))
            }
        }
    }
    #[inline(always)]
    unsafe fn tile_q4(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    ) {
        unsafe {
            if DOT {
                by_rows!(rows, tile_q4_dot(scales, w, x, blocks, out))
            } else {
                by_rows!(rows, tile_q4_pairs(scales, w, x, blocks, out))
            }
        }
    }
    #[inline(always)]
    unsafe fn quantise(x: *const f32, q: *mut i8) -> (f32, i32) {
        unsafe { super::plain::quantise_plain(x, q) }
    }
}
