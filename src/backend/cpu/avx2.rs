//! AVX2 with FMA and F16C, and with dot products of bytes where the processor has them ([`PAIRS`], [`DOT`], [`DOT_512`]).
//!
//! Without them int8 products take the magnitude of the weights and move their sign to x, so that `vpmaddubsw` cannot saturate
//! (`2 * 128 * 127 < 2^15`); a panel is two vectors of eight outputs.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::lanes::{BLOCK, Isa, Lanes, PANEL, Stored, Work, store_tile, tile_float};
use std::arch::x86_64::*;

/// Pairs of bytes, then of words.
pub const PAIRS: u8 = 0;
/// AVX-VNNI.
pub const DOT: u8 = 1;
/// The same instruction as processors with AVX-512 VNNI and VL encode it.
pub const DOT_512: u8 = 2;

#[derive(Clone, Copy)]
pub struct Avx2<const FOUR: u8>;

#[derive(Clone, Copy)]
pub struct Eight(__m256);

// SAFETY: AVX2, FMA and F16C only, legal below `enter`; loads and stores touch 8 values.
unsafe impl Lanes for Eight {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        unsafe { Eight(_mm256_set1_ps(v)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Eight(_mm256_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        unsafe { Eight(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm256_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Eight(_mm256_add_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Eight(_mm256_sub_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Eight(_mm256_mul_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Eight(_mm256_div_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { Eight(_mm256_fmadd_ps(self.0, b.0, c.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Eight(_mm256_max_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Eight(_mm256_min_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe { Eight(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Eight(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Eight(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

/// `dot += w x` over four signed bytes a lane.
#[target_feature(enable = "avx2")]
#[inline]
fn four_pairs(dot: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// The same for unsigned w.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn four_dot(dot: __m256i, w: __m256i, x: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(dot, w, x)
}

#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
#[inline]
fn four_dot_512(dot: __m256i, w: __m256i, x: __m256i) -> __m256i {
    _mm256_dpbusd_epi32(dot, w, x)
}

/// The tile of both quantised kinds: `weights` gives the eight-output half `v` of quad `k`, `four` multiplies.
#[inline(always)]
unsafe fn tile<const M: usize>(
    scales: *const u16,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
    weights: impl Fn(usize, usize, usize) -> __m256i,
    four: impl Fn(__m256i, __m256i, __m256i) -> __m256i,
) {
    unsafe {
        let mut acc = [[Eight::splat(0.0); 2]; M];
        for b in 0..blocks {
            let x = x.add(b * M * (BLOCK + 8));
            let xd = x.add(M * BLOCK).cast::<f32>();
            let start = x.add(M * (BLOCK + 4)).cast::<i32>();
            for v in 0..2 {
                let mut dot = [_mm256_setzero_si256(); M];
                for (m, dot) in dot.iter_mut().enumerate() {
                    *dot = _mm256_set1_epi32(*start.add(m));
                }
                for k in 0..8 {
                    let w = weights(b, k, v);
                    for (m, dot) in dot.iter_mut().enumerate() {
                        let xk = x.add(m * BLOCK + k * 4).cast::<i32>().read_unaligned();
                        *dot = four(*dot, w, _mm256_set1_epi32(xk));
                    }
                }
                let d = Eight::load_f16(scales.add(b * PANEL + v * 8));
                for m in 0..M {
                    let s = d.mul(Eight::splat(*xd.add(m)));
                    acc[m][v] = Eight(_mm256_cvtepi32_ps(dot[m])).fma(s, acc[m][v]);
                }
            }
        }
        store_tile(acc, out);
    }
}

#[inline(always)]
unsafe fn weights_q8(w: *const u8) -> impl Fn(usize, usize, usize) -> __m256i {
    // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK bytes.
    move |b, k, v| unsafe { _mm256_loadu_si256(w.add(b * PANEL * BLOCK + k * 64 + v * 32).cast()) }
}

#[inline(always)]
unsafe fn weights_q4(w: *const u8) -> impl Fn(usize, usize, usize) -> __m256i {
    // SAFETY: a panel holds `blocks` blocks of PANEL * BLOCK / 2 bytes.
    move |b, k, v| unsafe {
        let pair = _mm256_loadu_si256(w.add(b * PANEL * BLOCK / 2 + k % 4 * 64 + v * 32).cast());
        let nibble = if k < 4 { pair } else { _mm256_srli_epi16::<4>(pair) };
        _mm256_and_si256(nibble, _mm256_set1_epi8(15))
    }
}

#[inline(always)]
unsafe fn weights_q4_signed(w: *const u8) -> impl Fn(usize, usize, usize) -> __m256i {
    // SAFETY: as above.
    let weights = unsafe { weights_q4(w) };
    move |b, k, v| unsafe { _mm256_sub_epi8(weights(b, k, v), _mm256_set1_epi8(8)) }
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

tiles!(tile_q8_pairs, "avx2,fma,f16c", weights_q8, four_pairs);
tiles!(tile_q4_pairs, "avx2,fma,f16c", weights_q4_signed, four_pairs);
tiles!(tile_q8_dot, "avx2,fma,f16c,avxvnni", weights_q8, four_dot);
tiles!(tile_q4_dot, "avx2,fma,f16c,avxvnni", weights_q4, four_dot);
tiles!(tile_q8_dot_512, "avx2,fma,f16c,avx512vl,avx512vnni", weights_q8, four_dot_512);
tiles!(tile_q4_dot_512, "avx2,fma,f16c,avx512vl,avx512vnni", weights_q4, four_dot_512);

/// Twelve chains of `four`.
#[inline(always)]
unsafe fn spin(rounds: usize, four: impl Fn(__m256i, __m256i, __m256i) -> __m256i) -> i32 {
    unsafe {
        let w = _mm256_set1_epi32(std::hint::black_box(0x0101_0101));
        let mut dot = [_mm256_setzero_si256(); 12];
        for _ in 0..rounds {
            for dot in &mut dot {
                *dot = four(*dot, w, w);
            }
        }
        dot.into_iter().map(|d| _mm256_extract_epi32::<0>(d)).fold(0, i32::wrapping_add)
    }
}

/// The products themselves change from round to round, so that none is taken out of the loop.
#[target_feature(enable = "avx2")]
unsafe fn spin_pairs(rounds: usize) -> i32 {
    unsafe {
        spin(rounds, |dot, w, _| _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_maddubs_epi16(dot, w), w)))
    }
}

#[target_feature(enable = "avx2,avxvnni")]
unsafe fn spin_dot(rounds: usize) -> i32 {
    unsafe { spin(rounds, |dot, w, x| four_dot(dot, w, x)) }
}

#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
unsafe fn spin_dot_512(rounds: usize) -> i32 {
    unsafe { spin(rounds, |dot, w, x| four_dot_512(dot, w, x)) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_float_of<W: Stored, const M: usize>(w: *const W, x: *const f32, depth: usize, out: *mut f32) {
    unsafe { tile_float::<W, Eight, M, 2>(w, x, depth, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter<W: Work, const FOUR: u8>(work: W) -> W::Out {
    unsafe { work.run::<Avx2<FOUR>>() }
}

macro_rules! by_rows {
    ($rows:expr, $f:ident ( $($arg:expr),* )) => {
        match $rows {
            1 => $f::<1>($($arg),*),
            4 => $f::<4>($($arg),*),
            6 => $f::<6>($($arg),*),
            rows => unreachable!("no tile of {rows} rows"),
        }
    };
}

// SAFETY: `enter` states the features, which the caller has checked, as it has those of `FOUR`; tiles enable what they use.
unsafe impl<const FOUR: u8> Isa for Avx2<FOUR> {
    type F = Eight;
    const TILE: usize = 6;
    const HEAD_TILE: usize = 4;
    const OFFSET: bool = FOUR != PAIRS;
    const BF16: bool = false;
    const SPIN_OPERATIONS: usize = 12 * 64;

    unsafe fn spin_int8(rounds: usize) -> i32 {
        unsafe {
            match FOUR {
                PAIRS => spin_pairs(rounds),
                DOT => spin_dot(rounds),
                _ => spin_dot_512(rounds),
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) -> W::Out {
        unsafe { enter::<W, FOUR>(work) }
    }
    #[inline(always)]
    unsafe fn tile_float<W: Stored>(rows: usize, w: *const W, x: *const f32, depth: usize, out: *mut f32) {
        unsafe {
            match rows {
                1 => tile_float_of::<W, 1>(w, x, depth, out),
                4 => tile_float_of::<W, 4>(w, x, depth, out),
                6 => tile_float_of::<W, 6>(w, x, depth, out),
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
            match FOUR {
                PAIRS => by_rows!(rows, tile_q8_pairs(scales, w, x, blocks, out)),
                DOT => by_rows!(rows, tile_q8_dot(scales, w, x, blocks, out)),
                _ => by_rows!(rows, tile_q8_dot_512(scales, w, x, blocks, out)),
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
            match FOUR {
                PAIRS => by_rows!(rows, tile_q4_pairs(scales, w, x, blocks, out)),
                DOT => by_rows!(rows, tile_q4_dot(scales, w, x, blocks, out)),
                _ => by_rows!(rows, tile_q4_dot_512(scales, w, x, blocks, out)),
            }
        }
    }
    #[inline(always)]
    unsafe fn quantise(x: *const f32, q: *mut i8) -> (f32, i32) {
        unsafe { super::plain::quantise_plain(x, q) }
    }
}
