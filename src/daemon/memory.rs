//! What memory a run takes, known before it starts.
//!
//! The model is laid out as for a run, shown a window and asked for its scores, and for a reason where the config wants reasons, by
//! a CPU that sizes everything and computes nothing. So the numbers are those of the code that runs, not of a formula beside it.

use super::{
    plan::{Memory, Plan},
    rehearsal,
};
use crate::{
    backend::cpu::{Cpu, Precision},
    bundle::Bundle,
    config::Explain,
    cues::{Task, net::Net},
    machine,
    model::{Infer, Model, words},
};
use anyhow::{Context, Result};

/// What sources, sinks and their threads touch of the program and of their stacks, and a check does not: measured with a recording.
const AT_WORK: usize = 2 << 20;

/// Bytes that a run of `plan` holds besides its queues; its bundle was just opened.
pub fn memory(plan: &Plan, bundle: &Bundle) -> Result<Memory> {
    let own = machine::resident().own;
    let mut model = Model::load(Cpu::planning(Precision::of(bundle.header().quant.products()))?, bundle)
        .context("laying out the model")?;
    plan.model.apply(&mut model)?;
    rehearsal::rehearse(plan, &mut model, true)?;
    if plan.model.reason != Explain::Off {
        model.ask(&plan.model.reason_prompt)?;
        model.reason(&mut |_| ()).context("asking for a reason")?;
    }
    let program = own + machine::resident().files + AT_WORK;
    let picture = plan.sources.iter().map(|(source, _)| source.picture_bytes()).max().unwrap_or(0);
    let nets = Task::ALL.iter().filter_map(|&task| plan.nets.of(task)).map(Net::memory).sum();
    let words = plan.recogniser()?.zip(plan.words.as_ref());
    let words = words.map(|(bundle, words)| words::footprint(&bundle, words.audio_context)).transpose()?;
    let words = words.map_or(0, |words| words.weights + words.cache + words.scratch);
    Ok(Memory { program, model: model.backend().footprint(), nets, words, picture })
}
