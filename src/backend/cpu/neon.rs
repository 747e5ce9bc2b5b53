//! NEON, with dot products of bytes ([`DOT`]) and products of byte matrices ([`I8MM`]) where the processor has them.
//!
//! A panel is four vectors of four outputs. Dot and matrix products and half-to-float conversions come as assembly: their intrinsics
//! are not stable.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::lanes::{BLOCK, Isa, Lanes, PANEL, Stored, Work, store_tile, tile_float};
use std::arch::{aarch64::*, asm};

/// Widening products and pairwise sums.
pub const PAIRS: u8 = 0;
/// Four bytes a lane.
pub const DOT: u8 = 1;
/// Two rows of eight bytes by two others; for one row dot products.
pub const I8MM: u8 = 2;

#[derive(Clone, Copy)]
pub struct Neon<const BYTES: u8>;

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

/// `dot += w x` over sixteen inputs: quad `k` of every lane in `w[k]`, of x in lane `k`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sixteen_dot(mut dot: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    macro_rules! quad {
        ($lane:literal) => {
            asm!("sdot {dot:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]", dot = inout(vreg) dot, w = in(vreg) w[$lane],
                x = in(vreg) x, lane = const $lane, options(pure, nomem, nostack, preserves_flags))
        };
    }
    // SAFETY: instructions on registers, of a feature that this function states.
    unsafe {
        quad!(0);
        quad!(1);
        quad!(2);
        quad!(3);
    }
    dot
}

/// `dot += x w^T` of row-major matrices in registers: `dot` is `(2, 2)`, `x` and `w` are `(2, 8)`.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn two_by_two(mut dot: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, of a feature that this function states.
    unsafe {
        asm!("smmla {dot:v}.4s, {x:v}.16b, {w:v}.16b", dot = inout(vreg) dot, x = in(vreg) x, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags));
    }
    dot
}

/// `sixteen_dot` without dot products.
#[target_feature(enable = "neon")]
#[inline]
fn sixteen_pairs(dot: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    let quad = |dot, w, x: int32x4_t| {
        let x = vreinterpretq_s8_s32(x);
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
        let high = vpaddlq_s16(vmull_high_s8(w, x));
        vaddq_s32(dot, vpaddq_s32(low, high))
    };
    let x = vreinterpretq_s32_s8(x);
    let dot = quad(dot, w[0], vdupq_laneq_s32::<0>(x));
    let dot = quad(dot, w[1], vdupq_laneq_s32::<1>(x));
    let dot = quad(dot, w[2], vdupq_laneq_s32::<2>(x));
    quad(dot, w[3], vdupq_laneq_s32::<3>(x))
}

/// The tile of both quantised kinds: `weights` gives the four outputs `v` of quad `k`, `sixteen` multiplies.
#[inline(always)]
unsafe fn tile<const M: usize>(
    scales: *const u16,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
    weights: impl Fn(usize, usize, usize) -> int8x16_t,
    sixteen: impl Fn(int32x4_t, [int8x16_t; 4], int8x16_t) -> int32x4_t,
) {
    unsafe {
        let mut acc = [[Quad::splat(0.0); 4]; M];
        for b in 0..blocks {
            let x = x.add(b * M * (BLOCK + 8));
            let xd = x.add(M * BLOCK).cast::<f32>();
            for v in 0..4 {
                let mut dot = [vdupq_n_s32(0); M];
                for half in 0..2 {
                    let w = [0, 1, 2, 3].map(|k| weights(b, half * 4 + k, v));
                    for (m, dot) in dot.iter_mut().enumerate() {
                        *dot = sixteen(*dot, w, vld1q_s8(x.add(m * BLOCK + half * 16).cast()));
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

/// The same for `P` pairs of rows by `two_by_two`: two quads of four outputs become eight inputs of two outputs, twice.
#[inline(always)]
unsafe fn tile_of_pairs<const P: usize>(
    scales: *const u16,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
    weights: impl Fn(usize, usize, usize) -> int8x16_t,
    two_by_two: impl Fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t,
) {
    unsafe {
        let mut acc = [[[Quad::splat(0.0); 4]; 2]; P];
        for b in 0..blocks {
            let x = x.add(b * 2 * P * (BLOCK + 8));
            let xd = x.add(2 * P * BLOCK).cast::<f32>();
            let mut rows = [[vdupq_n_s8(0); P]; 4];
            for (k, rows) in rows.iter_mut().enumerate() {
                for (p, row) in rows.iter_mut().enumerate() {
                    let at = x.add(2 * p * BLOCK + k * 8).cast::<i8>();
                    *row = vcombine_s8(vld1_s8(at), vld1_s8(at.add(BLOCK)));
                }
            }
            for v in 0..4 {
                let mut dot = [[vdupq_n_s32(0); 2]; P];
                for (k, rows) in rows.iter().enumerate() {
                    let low = vreinterpretq_s32_s8(weights(b, 2 * k, v));
                    let high = vreinterpretq_s32_s8(weights(b, 2 * k + 1, v));
                    let first = vreinterpretq_s8_s32(vzip1q_s32(low, high));
                    let second = vreinterpretq_s8_s32(vzip2q_s32(low, high));
                    for (dot, row) in dot.iter_mut().zip(rows) {
                        *dot = [two_by_two(dot[0], *row, first), two_by_two(dot[1], *row, second)];
                    }
                }
                let d = Quad::load_f16(scales.add(b * PANEL + v * 4));
                for (p, dot) in dot.into_iter().enumerate() {
                    let (first, second) = (vreinterpretq_s64_s32(dot[0]), vreinterpretq_s64_s32(dot[1]));
                    let both = [vzip1q_s64(first, second), vzip2q_s64(first, second)];
                    for (i, row) in both.into_iter().enumerate() {
                        let s = d.mul(Quad::splat(*xd.add(2 * p + i)));
                        acc[p][i][v] = Quad(vcvtq_f32_s32(vreinterpretq_s32_s64(row))).fma(s, acc[p][i][v]);
                    }
                }
            }
        }
        for (p, acc) in acc.into_iter().enumerate() {
            store_tile(acc, out.add(2 * p * PANEL));
        }
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
    ($name:ident, $features:literal, $tile:ident, $weights:ident, $multiply:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const N: usize>(
            scales: *const u16,
            w: *const u8,
            x: *const u8,
            blocks: usize,
            out: *mut f32,
        ) {
            unsafe { $tile::<N>(scales, x, blocks, out, $weights(w), |dot, a, b| $multiply(dot, a, b)) }
        }
    };
}

tiles!(tile_q8_i8mm, "neon,i8mm", tile_of_pairs, weights_q8, two_by_two);
tiles!(tile_q4_i8mm, "neon,i8mm", tile_of_pairs, weights_q4, two_by_two);
tiles!(tile_q8_dot, "neon,dotprod", tile, weights_q8, sixteen_dot);
tiles!(tile_q4_dot, "neon,dotprod", tile, weights_q4, sixteen_dot);
tiles!(tile_q8_plain, "neon", tile, weights_q8, sixteen_pairs);
tiles!(tile_q4_plain, "neon", tile, weights_q4, sixteen_pairs);

/// Twelve chains of `multiply`.
#[inline(always)]
unsafe fn spin(rounds: usize, multiply: impl Fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t) -> i32 {
    unsafe {
        let w = vdupq_n_s8(std::hint::black_box(1));
        let mut dot = [vdupq_n_s32(0); 12];
        for _ in 0..rounds {
            for dot in &mut dot {
                *dot = multiply(*dot, w, w);
            }
        }
        dot.into_iter().map(|d| vaddvq_s32(d)).fold(0, i32::wrapping_add)
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn spin_dot(rounds: usize) -> i32 {
    unsafe { spin(rounds, |dot, w, x| sixteen_dot(dot, [w; 4], x)) }
}

#[target_feature(enable = "neon,i8mm")]
unsafe fn spin_i8mm(rounds: usize) -> i32 {
    unsafe { spin(rounds, |dot, w, x| two_by_two(dot, w, x)) }
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

// SAFETY: NEON is part of aarch64; what `BYTES` names beyond it, the caller has checked.
unsafe impl<const BYTES: u8> Isa for Neon<BYTES> {
    type F = Quad;
    const TILE: usize = if BYTES == I8MM { 6 } else { 4 };
    const HEAD_TILE: usize = 4;
    const OFFSET: bool = false;
    const BF16: bool = false;
    const SPIN_OPERATIONS: usize = match BYTES {
        I8MM => 12 * 64,
        DOT => 12 * 128,
        _ => 0,
    };

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) -> W::Out {
        unsafe { work.run::<Self>() }
    }
    unsafe fn spin_int8(rounds: usize) -> i32 {
        unsafe {
            match BYTES {
                I8MM => spin_i8mm(rounds),
                DOT => spin_dot(rounds),
                _ => 0,
            }
        }
    }
    #[inline(always)]
    unsafe fn tile_float<W: Stored>(rows: usize, w: *const W, x: *const f32, depth: usize, out: *mut f32) {
        unsafe {
            match rows {
                1 => tile_float::<W, Quad, 1, 4>(w, x, depth, out),
                4 => tile_float::<W, Quad, 4, 4>(w, x, depth, out),
                6 => tile_float::<W, Quad, 6, 4>(w, x, depth, out),
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
            match (BYTES, rows) {
                (I8MM, 6) => tile_q8_i8mm::<3>(scales, w, x, blocks, out),
                (I8MM, 4) => tile_q8_i8mm::<2>(scales, w, x, blocks, out),
                (I8MM | DOT, _) => by_rows!(rows, tile_q8_dot(scales, w, x, blocks, out)),
                _ => by_rows!(rows, tile_q8_plain(scales, w, x, blocks, out)),
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
            match (BYTES, rows) {
                (I8MM, 6) => tile_q4_i8mm::<3>(scales, w, x, blocks, out),
                (I8MM, 4) => tile_q4_i8mm::<2>(scales, w, x, blocks, out),
                (I8MM | DOT, _) => by_rows!(rows, tile_q4_dot(scales, w, x, blocks, out)),
                _ => by_rows!(rows, tile_q4_plain(scales, w, x, blocks, out)),
            }
        }
    }
    #[inline(always)]
    unsafe fn quantise(x: *const f32, q: *mut i8) -> (f32, i32) {
        unsafe { super::plain::quantise_plain(x, q) }
    }
}
