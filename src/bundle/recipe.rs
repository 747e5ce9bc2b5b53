//! Which kind each matrix of a bundle is stored in.
//!
//! The towers and what joins them run once a window, and errors of their weights meet activations with large outliers: on a trained
//! Whisper tower, Q4_0 moves the output ten times as far as Q8_0 does (`tools/test quant`, without the worst hundredth of positions). The decoder is read whole for
//! every token, so its bytes are what a token costs. `q4` stores each as it bears it.

use super::block::Kind;
use anyhow::{Context, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Every matrix.
    All(Kind),
    /// Q4_0 with searched scales in the decoder, Q8_0 in everything else.
    Q4,
}

impl From<Kind> for Recipe {
    fn from(kind: Kind) -> Recipe {
        Recipe::All(kind)
    }
}

impl Recipe {
    /// As on the command line and in the file: `f32`, `f16`, `q8_0`, `q4_0`, `q4`.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::All(kind) => kind.name(),
            Recipe::Q4 => "q4",
        }
    }

    pub fn from_name(name: &str) -> Result<Recipe> {
        if name == Recipe::Q4.name() {
            return Ok(Recipe::Q4);
        }
        Kind::from_name(name)
            .map(Recipe::All)
            .ok()
            .with_context(|| format!("`{name}` is no kind of weights; choose f32, f16, q8_0, q4_0 or q4"))
    }

    /// The kind of a matrix of this name whose rows are whole blocks.
    pub fn kind(self, name: &str) -> Kind {
        match self {
            Recipe::All(kind) => kind,
            Recipe::Q4 if name.starts_with("decoder.") => Kind::Q4_0,
            Recipe::Q4 => Kind::Q8_0,
        }
    }

    /// Scales of 4-bit blocks are searched instead of taken from the largest value.
    pub fn searches(self) -> bool {
        self == Recipe::Q4
    }

    /// The kind of most products, by which a backend is opened.
    pub fn products(self) -> Kind {
        match self {
            Recipe::All(kind) => kind,
            Recipe::Q4 => Kind::Q8_0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["f32", "f16", "q8_0", "q4_0", "q4"] {
            assert_eq!(Recipe::from_name(name).unwrap().name(), name);
        }
        let error = Recipe::from_name("q5").unwrap_err().to_string();
        assert!(error.contains("q4_0 or q4"), "{error}");
    }
}
