//! Which instruction set runs the kernels, chosen when the backend is made.

#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{
    lanes::{Isa, Work},
    plain,
};
use crate::bundle::Kind;
use anyhow::{Result, bail};

/// What the processor can do, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Dot products of bytes in 256 bits, however the processor encodes them.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Level {
    /// Every level of this machine, best last.
    pub fn available() -> Vec<Level> {
        #[allow(unused_mut)]
        let mut levels = vec![Level::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                levels.push(Level::Avx2);
                if has!("avxvnni") || has!("avx512vl") && has!("avx512vnni") {
                    levels.push(Level::AvxVnni);
                }
                if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                    levels.push(Level::Avx512);
                    if has!("avx512bf16") {
                        levels.push(Level::Avx512Bf16);
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            levels.push(Level::Neon);
            if has!("dotprod") {
                levels.push(Level::NeonDot);
                if has!("i8mm") {
                    levels.push(Level::NeonI8mm);
                }
            }
        }
        levels
    }

    /// The best level, or the best that `MIEN_CPU` allows.
    pub fn detect() -> Result<Level> {
        let available = Level::available();
        let Ok(mask) = std::env::var("MIEN_CPU") else {
            return Ok(available[available.len() - 1]);
        };
        match available.iter().rev().find(|level| level.name() == mask) {
            Some(level) => Ok(*level),
            None => bail!(
                "MIEN_CPU={mask} is no level of this machine, which has {}",
                available.iter().map(|l| l.name()).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => "neon-dot",
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm => "neon-i8mm",
        }
    }

    /// How far a score of the default bundle may be from the scalar reference, for a bundle whose matrices are of this kind. Quantised
    /// products take x as bytes, which the reference does not; `tests/levels.rs` holds the bound.
    pub fn score_bound(self, kind: Kind) -> f32 {
        match (kind, self.run(Facts).bf16) {
            (Kind::F32, _) => 1e-3,
            (Kind::F16, _) => 1e-2,
            (Kind::Q8_0 | Kind::Q4_0, false) => 0.05,
            // 0.13 was seen on a clip between two labels.
            (Kind::Q8_0 | Kind::Q4_0, true) => 0.2,
        }
    }

    /// Rows of a tile for `rows` rows of x.
    pub fn tile(self, rows: usize) -> usize {
        let facts = self.run(Facts);
        match rows {
            0 | 1 => 1,
            rows if rows <= facts.few => facts.few,
            _ => facts.tile,
        }
    }

    pub fn run<W: Work>(self, work: W) -> W::Out {
        // SAFETY: a level is made by `available` alone, from what the processor reports.
        unsafe {
            match self {
                Level::Plain => plain::Plain::enter(work),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => avx2::Avx2::<{ avx2::PAIRS }>::enter(work),
                #[cfg(target_arch = "x86_64")]
                Level::AvxVnni if std::arch::is_x86_feature_detected!("avxvnni") => {
                    avx2::Avx2::<{ avx2::DOT }>::enter(work)
                }
                #[cfg(target_arch = "x86_64")]
                Level::AvxVnni => avx2::Avx2::<{ avx2::DOT_512 }>::enter(work),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => avx512::Avx512::<false>::enter(work),
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16 => avx512::Avx512::<true>::enter(work),
                #[cfg(target_arch = "aarch64")]
                Level::Neon => neon::Neon::<{ neon::PAIRS }>::enter(work),
                #[cfg(target_arch = "aarch64")]
                Level::NeonDot => neon::Neon::<{ neon::DOT }>::enter(work),
                #[cfg(target_arch = "aarch64")]
                Level::NeonI8mm => neon::Neon::<{ neon::I8MM }>::enter(work),
            }
        }
    }
}

/// Bytes of a core's second level cache as Linux tells them; half a megabyte where it does not.
pub fn second_level_bytes() -> usize {
    let told = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    told.trim().strip_suffix('K').and_then(|k| k.parse::<usize>().ok()).map_or(512 << 10, |k| k << 10)
}

/// What the rest of the backend asks of an instruction set.
pub struct Facts;

pub struct IsaFacts {
    pub few: usize,
    pub tile: usize,
    pub offset: bool,
    pub bf16: bool,
}

impl Work for Facts {
    type Out = IsaFacts;
    #[inline(always)]
    unsafe fn run<I: Isa>(self) -> IsaFacts {
        IsaFacts { few: I::FEW, tile: I::TILE, offset: I::OFFSET, bf16: I::BF16 }
    }
}
