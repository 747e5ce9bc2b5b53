//! exp, sigmoid and the activations over lanes.
//!
//! Polynomials are minimax fits made for this file: `exp` within 2 ulp on [-87, 88] (clamped outside, NaN stays NaN); `erfc` within
//! 3e-8 of `exp(-z^2) t P(t)`, `t = 1 / (1 + 0.4 z)`.

use super::lanes::Lanes;
use crate::backend::Act;

/// # Safety
/// Below `Isa::enter`.
#[inline(always)]
pub unsafe fn exp<F: Lanes>(x: F) -> F {
    unsafe {
        let x = F::splat(88.0).min(F::splat(-87.0).max(x));
        let n = x.mul(F::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(F::splat(-0.693_359_4), x);
        let r = n.fma(F::splat(2.121_944_4e-4), r);
        let p = F::splat(1.395_047_8e-3);
        let p = p.fma(r, F::splat(8.368_882e-3));
        let p = p.fma(r, F::splat(4.166_620_6e-2));
        let p = p.fma(r, F::splat(1.666_652e-1));
        let p = p.fma(r, F::splat(0.5));
        let p = p.fma(r.mul(r), r).add(F::splat(1.0));
        p.mul(n.pow2())
    }
}

/// `2^x` for `x <= 0`, within 2 ulp, or within 1.1e-4 where it is rounded to bf16 anyway (`COARSE`). Far below -126 it is
/// next to nothing or zero.
///
/// # Safety
/// Below `Isa::enter`.
#[inline(always)]
pub unsafe fn exp2<F: Lanes, const COARSE: bool>(x: F) -> F {
    unsafe {
        let n = x.round();
        let r = x.sub(n);
        let one = F::splat(1.0);
        let p = if COARSE {
            let p = F::splat(5.597_713_4e-2);
            let p = p.fma(r, F::splat(0.242_225_5));
            p.fma(r, F::splat(0.693_112_5)).fma(r, one)
        } else {
            let p = F::splat(1.547_621e-4);
            let p = p.fma(r, F::splat(1.340_027_3e-3));
            let p = p.fma(r, F::splat(9.618_004e-3));
            let p = p.fma(r, F::splat(5.550_328e-2));
            let p = p.fma(r, F::splat(0.240_226_5));
            p.fma(r, F::splat(std::f32::consts::LN_2)).fma(r, one)
        };
        p.scale2(n)
    }
}

/// `x / (1 + exp(-x))`
///
/// # Safety
/// Below `Isa::enter`.
#[inline(always)]
pub unsafe fn silu<F: Lanes>(x: F) -> F {
    unsafe {
        let one = F::splat(1.0);
        x.div(exp(F::splat(0.0).sub(x)).add(one))
    }
}

/// `1 / (1 + exp(-x))`
///
/// # Safety
/// Below `Isa::enter`.
#[inline(always)]
pub unsafe fn sigmoid<F: Lanes>(x: F) -> F {
    unsafe {
        let one = F::splat(1.0);
        one.div(exp(F::splat(0.0).sub(x)).add(one))
    }
}

/// `max(x, 0) - |x| erfc(|x| / sqrt 2) / 2`
#[inline(always)]
unsafe fn gelu<F: Lanes>(x: F) -> F {
    unsafe {
        let z = x.abs().mul(F::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = F::splat(1.0).div(z.fma(F::splat(0.4), F::splat(1.0)));
        let p = F::splat(-0.200_259_83);
        let p = p.fma(t, F::splat(0.709_149_7));
        let p = p.fma(t, F::splat(-0.370_911_8));
        let p = p.fma(t, F::splat(0.468_277_28));
        let p = p.fma(t, F::splat(0.161_822_32));
        let p = p.fma(t, F::splat(0.231_922_29));
        let erfc = exp(F::splat(0.0).sub(z.mul(z))).mul(p.mul(t));
        let half = x.abs().mul(F::splat(0.5));
        F::splat(0.0).max(x).sub(half.mul(erfc))
    }
}

/// `x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))`
#[inline(always)]
unsafe fn gelu_tanh<F: Lanes>(x: F) -> F {
    unsafe {
        let inner = x.mul(x).fma(F::splat(0.044715), F::splat(1.0)).mul(x);
        x.mul(sigmoid(inner.mul(F::splat(1.595_769))))
    }
}

/// # Safety
/// Below `Isa::enter`.
#[inline(always)]
pub unsafe fn activate<F: Lanes>(act: Act, x: F) -> F {
    unsafe {
        match act {
            Act::None => x,
            Act::Gelu => gelu(x),
            Act::GeluTanh => gelu_tanh(x),
            Act::Silu => silu(x),
        }
    }
}
