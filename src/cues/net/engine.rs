//! A net that tract runs.

use super::{Settings, Task, Wants};
use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use std::{fs, sync::Arc};
use tract_onnx::{prelude::*, tract_core::optim::Optimizer};

/// The largest file that is taken.
const FILE_BYTES_MAX: u64 = 64 << 20;

type Plan = Arc<TypedSimplePlan>;

/// A net that is ready to run.
pub struct Net {
    name: &'static str,
    plan: Plan,
    shapes: Vec<Vec<usize>>,
    /// For each output that the task wants its place among the net's own.
    outputs: Vec<usize>,
}

impl Net {
    pub fn load(task: Task, settings: &Settings, wants: &Wants<'_>) -> Result<Net> {
        let name = task.name();
        let file = settings.file.display();
        load(task, settings, wants).with_context(|| format!("the net for {name}, {file}"))
    }

    /// Bytes that a net of this file takes once it is loaded: its weights as they were read and as tract packs them, and its activations.
    /// The three default nets take 27 MB for 4.1 MB of files.
    pub fn memory(settings: &Settings) -> usize {
        fs::metadata(&settings.file).map_or(0, |file| 7 * file.len() as usize)
    }

    /// Runs over one value for each input; what the task wants comes in its order.
    pub fn run<R>(&self, inputs: &[&[f32]], see: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
        let mut values: TVec<TValue> = tvec!();
        for (shape, data) in self.shapes.iter().zip(inputs) {
            values.push(Tensor::from_shape(shape, data).map_err(|e| anyhow!("{e}"))?.into_tvalue());
        }
        let said = self.plan.run(values).map_err(|e| anyhow!("{}: {e}", self.name))?;
        let mut views = Vec::with_capacity(self.outputs.len());
        for &place in &self.outputs {
            views.push(
                said[place]
                    .try_as_plain_ram()
                    .and_then(|plain| plain.as_slice::<f32>())
                    .map_err(|e| anyhow!("{e}"))?,
            );
        }
        let wrong = views.iter().flat_map(|view| view.iter()).any(|v| !v.is_finite());
        ensure!(!wrong, "{}: the net says what is no number", self.name);
        Ok(see(&views))
    }
}

fn load(task: Task, settings: &Settings, wants: &Wants<'_>) -> Result<Net> {
    let bytes = read(settings)?;
    let mut model = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .model_for_read(&mut bytes.as_slice())
        .map_err(|e| anyhow!("is no ONNX net that can be run: {e:#}"))?;
    let names = |outlets: &[OutletId]| -> Vec<String> {
        outlets
            .iter()
            .map(|outlet| model.outlet_label(*outlet).unwrap_or(&model.node(outlet.node).name).to_owned())
            .collect()
    };
    let its_inputs = names(model.input_outlets().map_err(|e| anyhow!("{e}"))?);
    let its_outputs = names(model.output_outlets().map_err(|e| anyhow!("{e}"))?);
    ensure!(
        its_inputs.len() == wants.inputs.len(),
        "has {} inputs ({}), and the task wants {}",
        its_inputs.len(),
        its_inputs.join(", "),
        wants.inputs.len()
    );
    let mut shapes = vec![Vec::new(); its_inputs.len()];
    for (i, (input, shape)) in wants.inputs.iter().enumerate() {
        let place = match its_inputs.len() {
            1 => 0,
            _ => place(&its_inputs, input, "input")?,
        };
        ensure!(place == i, "its input `{input}` is number {place}, and not {i}");
        shapes[place] = shape.to_vec();
        let fact = InferenceFact::dt_shape(f32::datum_type(), *shape);
        model
            .set_input_fact(place, fact)
            .map_err(|e| anyhow!("its input `{input}` cannot be {shape:?}: {e}"))?;
    }
    let outputs = wants.outputs.iter().map(|(output, _)| place(&its_outputs, output, "output"));
    let outputs = outputs.collect::<Result<Vec<usize>>>()?;
    let plan = optimized(model)
        .and_then(IntoRunnable::into_runnable)
        .map_err(|e| anyhow!("cannot be run with these sizes: {e:#}"))?;
    let net = Net { name: task.name(), plan, shapes, outputs };
    rehearse(&net, wants)?;
    Ok(net)
}

/// As tract optimises a net, without looking for axes that could be moved: that is a third of the loading, and a net of pictures runs
/// no faster for it.
fn optimized(model: InferenceModel) -> TractResult<TypedModel> {
    let mut model = model.into_typed()?;
    let mut optimizer = Optimizer::declutter();
    optimizer.passes.retain(|pass| !format!("{pass:?}").starts_with("ChangeAxes"));
    optimizer.optimize(&mut model)?;
    model.optimize()?;
    Ok(model)
}

/// Runs a net on zeros and compares the sizes of what it says.
fn rehearse(net: &Net, wants: &Wants<'_>) -> Result<()> {
    let zeros: Vec<Vec<f32>> = net.shapes.iter().map(|shape| vec![0.0; shape.iter().product()]).collect();
    let zeros: Vec<&[f32]> = zeros.iter().map(Vec::as_slice).collect();
    let sizes = net.run(&zeros, |said| said.iter().map(|view| view.len()).collect::<Vec<_>>())?;
    for ((output, wanted), size) in wants.outputs.iter().zip(sizes) {
        ensure!(size == *wanted, "its output `{output}` has {size} values, and the task wants {wanted}");
    }
    Ok(())
}

fn read(settings: &Settings) -> Result<Vec<u8>> {
    let bytes = fs::metadata(&settings.file).context("cannot be read")?.len();
    ensure!(bytes <= FILE_BYTES_MAX, "has {bytes} bytes: at most {FILE_BYTES_MAX} are taken");
    let bytes = fs::read(&settings.file).context("cannot be read")?;
    if !settings.sha256.is_empty() {
        let found = crate::bundle::hex(Sha256::new_with_prefix(&bytes));
        ensure!(
            found == settings.sha256.to_lowercase(),
            "has the SHA-256 {found}, and {} is asked for; `tools/nets fetch` gets it again",
            settings.sha256
        );
    }
    Ok(bytes)
}

fn place(names: &[String], wanted: &str, what: &str) -> Result<usize> {
    match names.iter().position(|name| name == wanted) {
        Some(place) => Ok(place),
        None => bail!("has no {what} `{wanted}`; its {what}s are {}", names.join(", ")),
    }
}
