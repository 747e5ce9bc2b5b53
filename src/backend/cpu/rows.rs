//! Norms, sums, means and the highest value: one pass over rows, lanes along the columns.
//! Safety contract of every `unsafe fn` here: that of `lanes`.

use super::{
    lanes::{Isa, Lanes, Work},
    math::{activate, exp, sigmoid},
    memory::{Buf, Out},
};
use crate::backend::{Act, format::penalised};

/// The values of `p[i..]` up to lane `left`, zeros after.
#[inline(always)]
unsafe fn load_some<F: Lanes>(p: *const f32, left: usize) -> F {
    unsafe {
        if left >= F::N {
            return F::load(p);
        }
        let mut edge = [0f32; 16];
        std::ptr::copy_nonoverlapping(p, edge.as_mut_ptr(), left);
        F::load(edge.as_ptr())
    }
}

#[inline(always)]
unsafe fn store_some<F: Lanes>(v: F, p: *mut f32, left: usize) {
    unsafe {
        if left >= F::N {
            return v.store(p);
        }
        let mut edge = [0f32; 16];
        v.store(edge.as_mut_ptr());
        std::ptr::copy_nonoverlapping(edge.as_ptr(), p, left);
    }
}

/// `sum(f(x))`, four chains of lanes.
#[inline(always)]
unsafe fn reduce<F: Lanes>(x: &[f32], f: impl Fn(F, F) -> F) -> f32 {
    unsafe {
        let mut acc = [F::splat(0.0); 4];
        let mut i = 0;
        while i + 4 * F::N <= x.len() {
            for (j, acc) in acc.iter_mut().enumerate() {
                *acc = f(F::load(x.as_ptr().add(i + j * F::N)), *acc);
            }
            i += 4 * F::N;
        }
        let mut sum = acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum();
        while i < x.len() {
            let left = (x.len() - i).min(F::N);
            let mut edge = [0f32; 16];
            let mut part = [0f32; 16];
            std::ptr::copy_nonoverlapping(x.as_ptr().add(i), edge.as_mut_ptr(), left);
            f(F::load(edge.as_ptr()), F::splat(0.0)).store(part.as_mut_ptr());
            sum += part[..left].iter().sum::<f32>();
            i += F::N;
        }
        sum
    }
}

/// `power^-1/2`; NaN for infinity, by which a norm would divide its row to zeros.
fn inverse_root(power: f32) -> f32 {
    if power.is_finite() { 1.0 / power.sqrt() } else { f32::NAN }
}

/// One row of `layer_norm` or, without `bias`, of `rms_norm`.
pub struct Norm<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub eps: f32,
    pub act: Act,
    pub out: Out,
}

impl Work for Norm<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Norm { x, gain, bias, eps, act, out } = self;
        let cols = x.len();
        // SAFETY: every access is below `cols`, the length of x, gain, bias and the row of `out`.
        unsafe {
            let mean = match bias {
                Some(_) => reduce::<I::F>(x, |v, acc| acc.add(v)) / cols as f32,
                None => 0.0,
            };
            let m = I::F::splat(mean);
            let squares = reduce::<I::F>(x, |v, acc| {
                let v = v.sub(m);
                v.fma(v, acc)
            });
            let scale = I::F::splat(inverse_root(squares / cols as f32 + eps));
            let mut i = 0;
            while i < cols {
                let left = cols - i;
                let v = load_some::<I::F>(x.as_ptr().add(i), left).sub(m).mul(scale);
                let g = load_some::<I::F>(gain.as_ptr().add(i), left);
                let y = match bias {
                    Some(bias) => v.fma(g, load_some(bias.as_ptr().add(i), left)),
                    None => v.mul(g),
                };
                store_some(activate(act, y), out.at(i), left);
                i += I::F::N;
            }
        }
    }
}

/// `out = act(a + b)`, or with `weights` the sum of three.
pub enum Elements<'a> {
    Add {
        a: &'a [f32],
        b: &'a [f32],
        act: Act,
        out: Out,
    },
    /// `len` values from `at` on of weighted parts.
    Mix {
        parts: &'a [(&'a Buf, f32)],
        at: usize,
        len: usize,
        out: Out,
    },
    /// One row times `sigmoid(s)`, in place.
    Excite {
        s: &'a [f32],
        x: Out,
    },
}

impl Work for Elements<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // SAFETY: every access is below the length of the parts, which share it with `out`.
        unsafe {
            match self {
                Elements::Add { a, b, act, out } => {
                    for i in (0..a.len()).step_by(I::F::N) {
                        let left = a.len() - i;
                        let sum = load_some::<I::F>(a.as_ptr().add(i), left);
                        let sum = sum.add(load_some(b.as_ptr().add(i), left));
                        store_some(activate(act, sum), out.at(i), left);
                    }
                }
                Elements::Mix { parts, at, len, out } => {
                    for i in (0..len).step_by(I::F::N) {
                        let left = len - i;
                        let mut sum = I::F::splat(0.0);
                        for (part, weight) in parts {
                            let part = part.first(at + len).as_ptr().add(at + i);
                            sum = load_some::<I::F>(part, left).fma(I::F::splat(*weight), sum);
                        }
                        store_some(sum, out.at(i), left);
                    }
                }
                Elements::Excite { s, x } => {
                    for i in (0..s.len()).step_by(I::F::N) {
                        let left = s.len() - i;
                        let gate = sigmoid(load_some::<I::F>(s.as_ptr().add(i), left));
                        store_some(gate.mul(load_some(x.at(i), left)), x.at(i), left);
                    }
                }
            }
        }
    }
}

/// `out[c]` is the mean over rows of `cols` values of x, `counts[0] x counts[1]` of them, `strides` values apart.
pub struct Means<'a> {
    pub x: &'a [f32],
    pub counts: [usize; 2],
    pub strides: [usize; 2],
    pub cols: usize,
    pub out: Out,
}

impl Work for Means<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Means { x, counts, strides, cols, out } = self;
        let last = (counts[0] - 1) * strides[0] + (counts[1] - 1) * strides[1] + cols;
        assert!(x.len() >= last, "x holds {} values, {last} needed", x.len());
        let share = 1.0 / (counts[0] * counts[1]) as f32;
        for i in (0..cols).step_by(I::F::N) {
            // SAFETY: the furthest value read is `last`, and `out` holds `cols` values.
            unsafe {
                let mut sum = I::F::splat(0.0);
                for (a, b) in (0..counts[0]).flat_map(|a| (0..counts[1]).map(move |b| (a, b))) {
                    let from = x.as_ptr().add(a * strides[0] + b * strides[1] + i);
                    sum = sum.add(load_some(from, cols - i));
                }
                store_some(sum.mul(I::F::splat(share)), out.at(i), cols - i);
            }
        }
    }
}

/// One pixel of a depthwise 3x3: the taps that lie inside, each a row of x beside a row of weights.
pub struct Taps<'a> {
    pub taps: &'a [(&'a [f32], &'a [f32])],
    pub out: Out,
}

impl Work for Taps<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Taps { taps, out } = self;
        let cols = taps[0].0.len();
        for i in (0..cols).step_by(I::F::N) {
            // SAFETY: all rows and `out` hold `cols` values.
            unsafe {
                let mut sum = I::F::splat(0.0);
                for (x, w) in taps {
                    let x = load_some::<I::F>(x.as_ptr().add(i), cols - i);
                    sum = x.fma(load_some(w.as_ptr().add(i), cols - i), sum);
                }
                store_some(sum, out.at(i), cols - i);
            }
        }
    }
}

/// The highest of some values, and over all of them, the sum of `exp(value - highest)`; NaN where one is not finite.
pub struct LogSum<'a> {
    pub values: &'a [f32],
}

impl Work for LogSum<'_> {
    type Out = (f32, f32);
    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> (f32, f32) {
        const LANES: usize = 16;
        let mut tops = [f32::NEG_INFINITY; LANES];
        for values in self.values.chunks(LANES) {
            for (top, value) in tops.iter_mut().zip(values) {
                *top = if *value > *top { *value } else { *top };
            }
        }
        let top = tops.into_iter().fold(f32::NEG_INFINITY, f32::max);
        // SAFETY: `reduce` stays inside the slice; this is below `Isa::enter`.
        let sum = unsafe {
            let (high, none) = (I::F::splat(top), I::F::splat(0.0));
            reduce::<I::F>(self.values, |v, acc| acc.add(v.fma(none, exp(v.sub(high)))))
        };
        (top, sum)
    }
}

/// The highest of penalised values; minus infinity where there is none.
pub struct Highest<'a> {
    pub values: &'a [f32],
    pub penalties: &'a [f32],
}

impl Work for Highest<'_> {
    type Out = f32;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> f32 {
        const LANES: usize = 16;
        let mut tops = [f32::NEG_INFINITY; LANES];
        let keep = |top: &mut f32, value, penalty| {
            let value = penalised(value, penalty);
            *top = if value > *top { value } else { *top };
        };
        let (values, penalties) = (self.values.chunks_exact(LANES), self.penalties.chunks_exact(LANES));
        for (value, penalty) in values.remainder().iter().zip(penalties.remainder()) {
            keep(&mut tops[0], *value, *penalty);
        }
        for (values, penalties) in values.zip(penalties) {
            for lane in 0..LANES {
                keep(&mut tops[lane], values[lane], penalties[lane]);
            }
        }
        tops.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
