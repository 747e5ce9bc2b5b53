//! What memory a run takes, known before it starts.
//!
//! The model is laid out as for a run, shown a window and asked for its scores, and for a reason where the config wants reasons, by a CPU that sizes everything and
//! computes nothing. So the numbers are those of the code that runs, not of a formula beside it.

use super::{plan::Plan, rehearsal};
use crate::{
    backend::{
        Footprint,
        cpu::{Cpu, Precision},
    },
    bundle::Bundle,
    config::Explain,
    machine,
    model::{Infer, Model},
};
use anyhow::{Context, Result};

/// Bytes that a run holds besides its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The program with the tables of the bundle (vocabulary, prompts, labels), measured in this process.
    pub program: usize,
    /// As the CPU backend lays it out.
    pub model: Footprint,
}

impl Memory {
    /// Of `plan`, whose bundle was just opened.
    pub fn of(plan: &Plan, bundle: &Bundle) -> Result<Memory> {
        let own = machine::resident().own;
        let mut model = Model::load(Cpu::planning(Precision::of(bundle.header().quant))?, bundle)
            .context("laying out the model")?;
        plan.model.apply(&mut model)?;
        rehearsal::rehearse(plan, &mut model)?;
        if plan.model.reason != Explain::Off {
            model.ask(&plan.model.reason_prompt)?;
            model.reason(&mut |_| ()).context("asking for a reason")?;
        }
        let program = own + machine::resident().files;
        Ok(Memory { program, model: model.backend().footprint() })
    }
}
