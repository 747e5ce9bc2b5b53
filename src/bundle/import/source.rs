//! The values of a bundle's tensors, read from the published ones and laid out as a bundle wants them.

use super::published::{self, Layout, Part, Published};
use super::towers::Tower;
use crate::bundle::checkpoint::Weights;
use crate::bundle::shape::Spec;
use crate::bundle::write::Values;
use anyhow::Result;

pub(super) struct Source<'a> {
    pub(super) omni: &'a Weights,
    pub(super) vision: Tower<'a>,
    pub(super) audio: Tower<'a>,
    pub(super) patch: usize,
}

impl Source<'_> {
    fn find(&self, spec: &Spec) -> Result<(&Weights, Published)> {
        let mut found = published::published(spec, self.patch)?;
        let weights = match found.part {
            Part::Omni => self.omni,
            Part::Vision => {
                found.name = self.vision.name(&found.name);
                self.vision.weights()
            }
            Part::Audio => {
                found.name = self.audio.name(&found.name);
                self.audio.weights()
            }
        };
        Ok((weights, found))
    }

    pub(super) fn require(&self, spec: &Spec) -> Result<()> {
        let (weights, found) = self.find(spec)?;
        weights.require(&found.name, &found.dims)
    }
}

impl Values for Source<'_> {
    fn rows(&mut self, spec: &Spec, first: usize, rows: usize, out: &mut Vec<f32>) -> Result<()> {
        let (weights, found) = self.find(spec)?;
        read_rows(weights, &found, spec, first, rows, out)
    }
}

/// Rows of a tensor as a bundle wants them.
pub(super) fn read_rows(
    weights: &Weights,
    found: &Published,
    spec: &Spec,
    first: usize,
    rows: usize,
    out: &mut Vec<f32>,
) -> Result<()> {
    match found.layout {
        Layout::Same => weights.read(&found.name, first * spec.cols, rows * spec.cols, out),
        Layout::TapsFirst { taps } => {
            let mut stored = Vec::new();
            weights.read(&found.name, first * spec.cols, rows * spec.cols, &mut stored)?;
            let inputs = spec.cols / taps;
            for row in stored.chunks_exact(spec.cols) {
                (0..spec.cols).for_each(|i| out.push(row[i % inputs * taps + i / inputs]));
            }
            Ok(())
        }
        Layout::Transposed => {
            let mut stored = Vec::new();
            weights.read(&found.name, 0, spec.rows * spec.cols, &mut stored)?;
            for tap in first..first + rows {
                (0..spec.cols).for_each(|channel| out.push(stored[channel * spec.rows + tap]));
            }
            Ok(())
        }
    }
}
