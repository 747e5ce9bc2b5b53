//! What the scalar judge and the fast paths must read alike: packed rows, rotation angles, penalised values.

use crate::bundle::{Kind, Tensor};
use anyhow::{Result, ensure};
use half::f16;

/// Kind and columns that `parts` share, to be stacked rows under rows; refuses by name what does not fit.
pub fn stacked(parts: &[Tensor<'_>]) -> Result<(Kind, usize)> {
    let (kind, cols) = (parts[0].kind, parts[0].cols);
    for part in parts {
        ensure!(
            part.kind == kind && part.cols == cols,
            "{} is {:?} with {} columns and cannot be stacked on {}, {kind:?} with {cols}",
            part.name,
            part.kind,
            part.cols,
            parts[0].name
        );
        ensure!(cols.is_multiple_of(kind.block().0), "{}: {cols} columns split a block", part.name);
        let bytes = part.rows * kind.row_bytes(cols);
        ensure!(part.data.len() == bytes, "{} holds {} bytes, not {bytes}", part.name, part.data.len());
    }
    Ok((kind, cols))
}

/// One row of packed values, exactly as the format defines them.
pub fn unpack_row(kind: Kind, data: &[u8], out: &mut [f32]) {
    assert_eq!(data.len(), kind.row_bytes(out.len()), "bytes of a row of {} values, {kind:?}", out.len());
    let scale = |block: &[u8]| f16::from_le_bytes([block[0], block[1]]).to_f32();
    match kind {
        Kind::F32 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Kind::F16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = scale(b);
            }
        }
        Kind::Q8_0 => {
            for (o, b) in out.chunks_exact_mut(32).zip(data.chunks_exact(34)) {
                let d = scale(b);
                for (o, &q) in o.iter_mut().zip(&b[2..]) {
                    *o = d * f32::from(q as i8);
                }
            }
        }
        Kind::Q4_0 => {
            for (o, b) in out.chunks_exact_mut(32).zip(data.chunks_exact(18)) {
                let d = scale(b);
                for (i, &q) in b[2..].iter().enumerate() {
                    o[i] = d * (f32::from(q & 15) - 8.0);
                    o[i + 16] = d * (f32::from(q >> 4) - 8.0);
                }
            }
        }
    }
}

/// Rotation angle of dimension pair `i` at position `p`: the frequency is rounded to f32 first, as upstream stores it.
pub fn rope_angle(p: usize, i: usize, head_dim: usize, theta: f32) -> f32 {
    let frequency = f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32;
    p as f32 * frequency
}

/// A value under its penalty, as `Backend::highest` orders them; NaN where the penalty bars it.
#[inline(always)]
pub fn penalised(value: f32, penalty: f32) -> f32 {
    let penalised = if value > 0.0 { value / penalty } else { value * penalty };
    if penalty != 0.0 { penalised } else { f32::NAN }
}

/// The place of the highest value, as `Backend::highest` finds it.
pub fn highest(values: &[f32], penalties: &[f32]) -> Option<usize> {
    let penalised =
        values.iter().zip(penalties).map(|(value, penalty)| penalised(*value, *penalty)).enumerate();
    let open = penalised.filter(|(_, value)| !value.is_nan());
    open.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(place, _)| place)
}
