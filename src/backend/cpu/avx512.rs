//! AVX-512 with VNNI, and with bf16 products where the processor has them (`BF16`).
//!
//! Bound of the int8 tiles: a block of 32 costs 8 dot products, one multiplication and one fused multiply-add per row and panel on the
//! two multiplying ports, so they reach at most 8 / 10 of the dot product ceiling.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::lanes::{BLOCK, Isa, Lanes, PANEL, Stored, Work, store_tile, tile_float};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub struct Avx512<const BF16: bool>;

#[derive(Clone, Copy)]
pub struct Sixteen(__m512);

// SAFETY: AVX-512F only, legal below `enter`; loads and stores touch 16 values.
unsafe impl Lanes for Sixteen {
    const N: usize = 16;
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        unsafe { Sixteen(_mm512_set1_ps(v)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Sixteen(_mm512_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self {
        unsafe { Sixteen(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { Sixteen(_mm512_add_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { Sixteen(_mm512_sub_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { Sixteen(_mm512_mul_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        unsafe { Sixteen(_mm512_div_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        unsafe { Sixteen(_mm512_fmadd_ps(self.0, b.0, c.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { Sixteen(_mm512_max_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        unsafe { Sixteen(_mm512_min_ps(self.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe { Sixteen(_mm512_abs_ps(self.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Sixteen(_mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        unsafe {
            let n = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Sixteen(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn scale2(self, n: Self) -> Self {
        unsafe { Sixteen(_mm512_scalef_ps(self.0, n.0)) }
    }
}

/// Four bytes for every lane.
#[inline(always)]
unsafe fn four_bytes(p: *const u8) -> __m512i {
    unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
unsafe fn ask(p: *const u8) {
    unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn spin_int8(rounds: usize) -> i32 {
    let mut dot = [_mm512_setzero_si512(); 12];
    let w = _mm512_set1_epi32(std::hint::black_box(0x0101_0101));
    for _ in 0..rounds {
        for dot in &mut dot {
            *dot = _mm512_dpbusd_epi32(*dot, w, w);
        }
    }
    dot.into_iter().map(|d| _mm512_reduce_add_epi32(d)).fold(0, i32::wrapping_add)
}

/// One row streams its weights: ask for them this many bytes ahead.
const AHEAD: usize = 8192;

#[inline(always)]
unsafe fn finish_block<const M: usize>(
    dot: &[__m512i; M],
    scales: *const u16,
    x: *const u8,
    acc: &mut [[Sixteen; 1]; M],
) {
    unsafe {
        let d = Sixteen::load_f16(scales);
        let xd = x.add(M * BLOCK).cast::<f32>();
        for m in 0..M {
            let s = d.mul(Sixteen::splat(*xd.add(m)));
            acc[m][0] = Sixteen(_mm512_cvtepi32_ps(dot[m])).fma(s, acc[m][0]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_q8<const M: usize>(
    scales: *const u16,
    w: *const u8,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
) {
    unsafe {
        let mut acc = [[Sixteen::splat(0.0)]; M];
        for b in 0..blocks {
            let (w, x) = (w.add(b * PANEL * BLOCK), x.add(b * M * (BLOCK + 8)));
            if M == 1 {
                for line in 0..8 {
                    ask(w.wrapping_add(AHEAD + line * 64));
                }
            }
            let start = x.add(M * (BLOCK + 4)).cast::<i32>();
            let mut dot = [_mm512_setzero_si512(); M];
            for (m, dot) in dot.iter_mut().enumerate() {
                *dot = _mm512_set1_epi32(*start.add(m));
            }
            for k in 0..8 {
                let wk = _mm512_loadu_si512(w.add(k * 64).cast());
                for (m, dot) in dot.iter_mut().enumerate() {
                    *dot = _mm512_dpbusd_epi32(*dot, wk, four_bytes(x.add(m * BLOCK + k * 4)));
                }
            }
            finish_block(&dot, scales.add(b * PANEL), x, &mut acc);
        }
        store_tile(acc, out);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile_q4<const M: usize>(
    scales: *const u16,
    w: *const u8,
    x: *const u8,
    blocks: usize,
    out: *mut f32,
) {
    unsafe {
        let low = _mm512_set1_epi8(15);
        let mut acc = [[Sixteen::splat(0.0)]; M];
        for b in 0..blocks {
            let (w, x) = (w.add(b * PANEL * BLOCK / 2), x.add(b * M * (BLOCK + 8)));
            if M == 1 {
                for line in 0..4 {
                    ask(w.wrapping_add(AHEAD + line * 64));
                }
            }
            let start = x.add(M * (BLOCK + 4)).cast::<i32>();
            let mut dot = [_mm512_setzero_si512(); M];
            for (m, dot) in dot.iter_mut().enumerate() {
                *dot = _mm512_set1_epi32(*start.add(m));
            }
            for k in 0..4 {
                let pair = _mm512_loadu_si512(w.add(k * 64).cast());
                let wk = _mm512_and_si512(pair, low);
                for (m, dot) in dot.iter_mut().enumerate() {
                    *dot = _mm512_dpbusd_epi32(*dot, wk, four_bytes(x.add(m * BLOCK + k * 4)));
                }
                let wk = _mm512_and_si512(_mm512_srli_epi16::<4>(pair), low);
                for (m, dot) in dot.iter_mut().enumerate() {
                    *dot = _mm512_dpbusd_epi32(*dot, wk, four_bytes(x.add(m * BLOCK + 16 + k * 4)));
                }
            }
            finish_block(&dot, scales.add(b * PANEL), x, &mut acc);
        }
        store_tile(acc, out);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16<const M: usize>(w: *const u32, x: *const u32, pairs: usize, out: *mut f32) {
    unsafe {
        let mut acc = [[Sixteen::splat(0.0)]; M];
        for k in 0..pairs {
            let wk: __m512bh = std::mem::transmute(_mm512_loadu_si512(w.add(k * PANEL).cast()));
            for (m, acc) in acc.iter_mut().enumerate() {
                let xm: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(k * M + m) as i32));
                acc[0] = Sixteen(_mm512_dpbf16_ps(acc[0].0, wk, xm));
            }
        }
        store_tile(acc, out);
    }
}

/// Sixteen rows to sixteen columns: pairs, fours, then quarters of registers.
#[inline(always)]
unsafe fn transpose16(r: [__m512; 16]) -> [__m512; 16] {
    unsafe {
        let mut four = [_mm512_setzero_ps(); 16];
        for g in 0..4 {
            let (a, b, c, d) = (r[g * 4], r[g * 4 + 1], r[g * 4 + 2], r[g * 4 + 3]);
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            four[g * 4] = _mm512_shuffle_ps::<0x44>(ab, cd);
            four[g * 4 + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
            let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            four[g * 4 + 2] = _mm512_shuffle_ps::<0x44>(ab, cd);
            four[g * 4 + 3] = _mm512_shuffle_ps::<0xee>(ab, cd);
        }
        // four[g * 4 + i] holds columns i, i + 4, i + 8, i + 12 of rows 4 g .. 4 g + 3.
        let mut out = [_mm512_setzero_ps(); 16];
        for i in 0..4 {
            let (a, b, c, d) = (four[i], four[4 + i], four[8 + i], four[12 + i]);
            let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
            out[i] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
            out[i + 8] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
            let (ab, cd) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
            out[i + 4] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
            out[i + 12] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
        }
        out
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn enter_plain<W: Work>(work: W) -> W::Out {
    unsafe { work.run::<Avx512<false>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn enter_bf16<W: Work>(work: W) -> W::Out {
    unsafe { work.run::<Avx512<true>>() }
}

#[target_feature(enable = "avx512f")]
unsafe fn tile_float_of<W: Stored, const M: usize>(w: *const W, x: *const f32, depth: usize, out: *mut f32) {
    unsafe { tile_float::<W, Sixteen, M, 1>(w, x, depth, out) }
}

macro_rules! by_rows {
    ($rows:expr, $f:ident ( $($arg:expr),* )) => {
        match $rows {
            1 => $f::<1>($($arg),*),
            4 => $f::<4>($($arg),*),
            12 => $f::<12>($($arg),*),
            16 => $f::<16>($($arg),*),
            rows => unreachable!("no tile of {rows} rows"),
        }
    };
}

// SAFETY: both `enter`s state the features, which the caller has checked; tiles enable what they use.
unsafe impl<const BF: bool> Isa for Avx512<BF> {
    type F = Sixteen;
    const TILE: usize = 12;
    const HEAD_TILE: usize = 16;
    const OFFSET: bool = true;
    const BF16: bool = BF;
    const SPIN_OPERATIONS: usize = 12 * 128;

    unsafe fn spin_int8(rounds: usize) -> i32 {
        unsafe { spin_int8(rounds) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { ask(p) }
    }

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) -> W::Out {
        unsafe { if BF { enter_bf16(work) } else { enter_plain(work) } }
    }
    #[inline(always)]
    unsafe fn tile_float<W: Stored>(rows: usize, w: *const W, x: *const f32, depth: usize, out: *mut f32) {
        unsafe {
            match rows {
                1 => tile_float_of::<W, 1>(w, x, depth, out),
                4 => tile_float_of::<W, 4>(w, x, depth, out),
                12 => tile_float_of::<W, 12>(w, x, depth, out),
                16 => tile_float_of::<W, 16>(w, x, depth, out),
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
            match rows {
                1 => tile_q8::<1>(scales, w, x, blocks, out),
                4 => tile_q8::<4>(scales, w, x, blocks, out),
                12 => tile_q8::<12>(scales, w, x, blocks, out),
                _ => unreachable!("no tile of {rows} rows"),
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
            match rows {
                1 => tile_q4::<1>(scales, w, x, blocks, out),
                4 => tile_q4::<4>(scales, w, x, blocks, out),
                12 => tile_q4::<12>(scales, w, x, blocks, out),
                _ => unreachable!("no tile of {rows} rows"),
            }
        }
    }
    #[inline(always)]
    unsafe fn tile_bf16(rows: usize, w: *const u32, x: *const u32, pairs: usize, out: *mut f32) {
        unsafe { by_rows!(rows, tile_bf16(w, x, pairs, out)) }
    }
    #[inline(always)]
    unsafe fn pair_bf16(a: Sixteen, b: Sixteen, out: *mut u32) {
        unsafe {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(b.0, a.0));
            // Words 0, 16, 1, 17, ..: those of a and b in turn.
            let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            let turns = _mm512_or_si512(
                lanes,
                _mm512_slli_epi32::<16>(_mm512_add_epi32(lanes, _mm512_set1_epi32(16))),
            );
            _mm512_storeu_si512(out.cast(), _mm512_permutexvar_epi16(turns, both));
        }
    }
    #[inline(always)]
    unsafe fn transpose(
        rows: *const f32,
        stride: usize,
        count: usize,
        dims: usize,
        scale: f32,
        to: *mut f32,
    ) {
        unsafe {
            for d in (0..dims).step_by(16) {
                let mask = if dims - d >= 16 { 0xffff } else { (1u16 << (dims - d)) - 1 };
                let mut r = [_mm512_setzero_ps(); 16];
                for m in 0..count {
                    let row = _mm512_maskz_loadu_ps(mask, rows.add(m * stride + d));
                    r[m] = _mm512_mul_ps(row, _mm512_set1_ps(scale));
                }
                let columns = transpose16(r);
                for (i, column) in columns.into_iter().enumerate().take(dims - d) {
                    _mm512_storeu_ps(to.add((d + i) * PANEL), column);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn quantise(x: *const f32, q: *mut i8) -> (f32, i32) {
        unsafe {
            let (a, b) = (_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16)));
            let bits = |v| _mm512_castps_si512(_mm512_abs_ps(v));
            // NaN orders above infinity above every number.
            let top = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(bits(a), bits(b))));
            if !top.is_finite() || top < 1e-30 {
                _mm256_storeu_si256(q.cast(), _mm256_setzero_si256());
                return (if top.is_finite() { 0.0 } else { top }, 0);
            }
            let inverse = _mm512_set1_ps(127.0 / top);
            let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
            let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
            _mm_storeu_si128(q.cast(), _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(q.add(16).cast(), _mm512_cvtepi32_epi8(b));
            (top / 127.0, _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)))
        }
    }
}
