//! Short vectors of f32 that one generic kernel is written over, and the instruction set that runs it.
//!
//! A kernel is a [`Work`]: generic code that is inlined into a function compiled for one instruction set
//! ([`Isa::enter`]), so that every intrinsic below it is legal there and nowhere else.
//! Invariant: methods of [`Lanes`] and the tiles of [`Isa`] are called below `enter` only. That, and pointers that are
//! good for the stated lengths, is the safety contract of every `unsafe fn` here.

/// A panel of weights holds the rows of this many outputs; also the lanes of a tile's result.
pub const PANEL: usize = 16;
/// Values that share one scale in the quantised kinds.
pub const BLOCK: usize = 32;

/// A vector of `N` f32.
///
/// # Safety
/// Implementations may use instructions that only [`Isa::enter`] of their set makes legal.
pub unsafe trait Lanes: Copy {
    const N: usize;
    unsafe fn splat(v: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn load_f16(p: *const u16) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn div(self, b: Self) -> Self;
    /// `self * b + c`
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// `b` where either is NaN.
    unsafe fn max(self, b: Self) -> Self;
    /// `b` where either is NaN.
    unsafe fn min(self, b: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// To the nearest whole number, ties to even.
    unsafe fn round(self) -> Self;
    /// `2^self` for whole `self` in `-126 ..= 127`; anything for NaN.
    unsafe fn pow2(self) -> Self;
    unsafe fn sum(self) -> f32;
    /// `self * 2^n` for whole `n` up to 127; below -126 something as small, or zero.
    #[inline(always)]
    unsafe fn scale2(self, n: Self) -> Self {
        unsafe { self.mul(Self::splat(-126.0).max(n).pow2()) }
    }
}

/// Generic code to be compiled for one instruction set.
pub trait Work {
    type Out;
    /// # Safety
    /// Runs below [`Isa::enter`]; must be `#[inline(always)]`. Its pointers are good for its shapes.
    unsafe fn run<I: Isa>(self) -> Self::Out;
}

/// An instruction set: its vectors and its product tiles.
///
/// A tile multiplies `rows` packed rows of x with one panel: `out[m][lane] = sum_k x[m][k] w[lane][k]`, `out` is
/// `(rows, PANEL)`. `rows` is 1, `FEW`, `TILE` or `HEAD_TILE`. Packed layouts are those of `panels` and `pack`.
///
/// # Safety
/// `enter` must only be called on a processor that has the set.
pub unsafe trait Isa: Copy + 'static {
    type F: Lanes;
    /// Rows of a tile in products of many rows.
    const TILE: usize;
    /// Rows of a tile where a handful of rows comes.
    const FEW: usize = 4;
    /// Rows of a tile in attention; divides 64.
    const HEAD_TILE: usize;
    /// Q8_0 weights are stored plus 128, for dot products of unsigned with signed bytes.
    const OFFSET: bool;
    /// `tile_bf16` and `pair_bf16` are there.
    const BF16: bool;

    unsafe fn enter<W: Work>(work: W) -> W::Out;
    unsafe fn tile_float<W: Stored>(rows: usize, w: *const W, x: *const f32, depth: usize, out: *mut f32);
    unsafe fn tile_q8(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    );
    unsafe fn tile_q4(
        rows: usize,
        scales: *const u16,
        w: *const u8,
        x: *const u8,
        blocks: usize,
        out: *mut f32,
    );
    /// Products of pairs: `w` is `(pairs, PANEL)`, `x` is `(pairs, rows)`, each u32 two bf16, the earlier one low.
    unsafe fn tile_bf16(_rows: usize, _w: *const u32, _x: *const u32, _pairs: usize, _out: *mut f32) {
        unreachable!("this instruction set has no bf16 products")
    }
    /// `out[lane] = bf16(a[lane]) | bf16(b[lane]) << 16`
    unsafe fn pair_bf16(_a: Self::F, _b: Self::F, _out: *mut u32) {
        unreachable!("this instruction set has no bf16 products")
    }
    /// Operations of one round of `spin_int8`; 0 without byte products.
    const SPIN_OPERATIONS: usize = 0;
    /// Byte products on registers alone, as fast as they go.
    unsafe fn spin_int8(_rounds: usize) -> i32 {
        0
    }
    /// Asks for the line at `p`, which may lie anywhere.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    /// `to[d * PANEL + m] = rows[m * stride + d] * scale` for `m < count`, zeros for the other lanes.
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
            for d in 0..dims {
                for m in 0..PANEL {
                    *to.add(d * PANEL + m) = if m < count { *rows.add(m * stride + d) * scale } else { 0.0 };
                }
            }
        }
    }
    /// 32 values to `d * q`: the scale and the sum of q. A block that holds NaN or infinity has a scale that is not
    /// finite and q = 0; below 1e-30 everything counts as zero.
    unsafe fn quantise(x: *const f32, q: *mut i8) -> (f32, i32);
}

/// How a float weight is stored: f32, or the bits of an f16.
pub trait Stored: Copy {
    /// # Safety
    /// `p` is good for `F::N` of them; below [`Isa::enter`].
    unsafe fn load<F: Lanes>(p: *const Self) -> F;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<F: Lanes>(p: *const f32) -> F {
        // SAFETY: the caller's contract.
        unsafe { F::load(p) }
    }
}

impl Stored for u16 {
    #[inline(always)]
    unsafe fn load<F: Lanes>(p: *const u16) -> F {
        // SAFETY: the caller's contract.
        unsafe { F::load_f16(p) }
    }
}

/// Float tile over any lanes: `V` vectors make a panel.
///
/// # Safety
/// `w` is `(depth, PANEL)`, `x` is `(depth, M)`, `out` is `(M, PANEL)`; below [`Isa::enter`].
#[inline(always)]
pub unsafe fn tile_float<W: Stored, F: Lanes, const M: usize, const V: usize>(
    w: *const W,
    x: *const f32,
    depth: usize,
    out: *mut f32,
) {
    unsafe {
        let mut acc = [[F::splat(0.0); V]; M];
        for k in 0..depth {
            let (w, x) = (w.add(k * PANEL), x.add(k * M));
            let mut wv = [F::splat(0.0); V];
            for (v, wv) in wv.iter_mut().enumerate() {
                *wv = W::load(w.add(v * F::N));
            }
            for m in 0..M {
                let xm = F::splat(*x.add(m));
                for v in 0..V {
                    acc[m][v] = wv[v].fma(xm, acc[m][v]);
                }
            }
        }
        store_tile(acc, out);
    }
}

/// # Safety
/// `out` is `(M, PANEL)`; below [`Isa::enter`].
#[inline(always)]
pub unsafe fn store_tile<F: Lanes, const M: usize, const V: usize>(acc: [[F; V]; M], out: *mut f32) {
    unsafe {
        for (m, row) in acc.into_iter().enumerate() {
            for (v, value) in row.into_iter().enumerate() {
                value.store(out.add(m * PANEL + v * F::N));
            }
        }
    }
}
