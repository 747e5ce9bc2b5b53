//! Watching a model at work: its stages with what they cost, and its intermediate values by name.
//!
//! Nothing is measured or copied while nobody observes. The model asks no clock; an observer may.

use anyhow::Result;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::backend::{Act, Backend};
use crate::model::weights::Linear;

/// What a stage had to do at least: bytes of weights, and operations (two per multiply-add) of products and attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u64,
    pub operations: u64,
}

/// Told of every stage and asked for every value.
pub trait Observer: Send {
    fn begin(&mut self, _stage: &'static str) {}
    /// The device has finished the stage.
    fn end(&mut self, _stage: &'static str, _cost: Cost) {}
    /// A product of a stage is about to run.
    fn begin_product(&mut self) {}
    /// It ran, or a device that works by itself has it in its queue.
    fn end_product(&mut self, _operations: u64) {}
    /// Whether `value` should be called under this name.
    fn wants(&self, _name: &str) -> bool {
        false
    }
    /// An intermediate value, `(rows, cols)`, channels last.
    fn value(&mut self, _name: &str, _rows: usize, _cols: usize, _values: &[f32]) {}
}

/// One stage, summed over its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub name: &'static str,
    pub calls: usize,
    pub time: Duration,
    pub cost: Cost,
}

/// Records how long the stages took. Clones share one record, so that one can be read while the model holds the other.
#[derive(Clone, Default)]
pub struct Stages(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    begun: Option<Instant>,
    stages: Vec<Stage>,
}

impl Stages {
    /// The stages so far in the order of their first call; the record begins anew.
    pub fn take(&self) -> Vec<Stage> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).stages)
    }
}

impl Observer for Stages {
    fn begin(&mut self, _stage: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).begun = Some(Instant::now());
    }

    fn end(&mut self, stage: &'static str, cost: Cost) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = record.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        match record.stages.iter_mut().find(|s| s.name == stage) {
            Some(s) => {
                s.calls += 1;
                s.time += time;
                s.cost = Cost {
                    bytes: s.cost.bytes + cost.bytes,
                    operations: s.cost.operations + cost.operations,
                };
            }
            None => record.stages.push(Stage { name: stage, calls: 1, time, cost }),
        }
    }
}

/// A value that was handed out: `(rows, cols)`, channels last.
#[derive(Clone, Debug, PartialEq)]
pub struct Tapped {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f32>,
}

/// Keeps the values of the wanted names, every time they come by. Clones share one record.
#[derive(Clone, Default)]
pub struct Taps {
    wanted: HashSet<String>,
    values: Arc<Mutex<Vec<Tapped>>>,
}

impl Taps {
    pub fn of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { wanted: names.into_iter().map(Into::into).collect(), values: Arc::default() }
    }

    /// The values so far, in the order they came; the record begins anew.
    pub fn take(&self) -> Vec<Tapped> {
        std::mem::take(&mut self.values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Taps {
    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(name)
    }

    fn value(&mut self, name: &str, rows: usize, cols: usize, values: &[f32]) {
        let tapped = Tapped { name: name.to_owned(), rows, cols, values: values.to_vec() };
        self.values.lock().unwrap_or_else(PoisonError::into_inner).push(tapped);
    }
}

/// A backend on its way through the model, with whoever watches.
pub struct Pass<'a, B: Backend> {
    pub backend: &'a mut B,
    observer: Option<&'a mut (dyn Observer + 'static)>,
    cost: Cost,
}

impl<'a, B: Backend> Pass<'a, B> {
    pub fn new(backend: &'a mut B, observer: Option<&'a mut (dyn Observer + 'static)>) -> Self {
        Self { backend, observer, cost: Cost::default() }
    }

    pub fn begin(&mut self, stage: &'static str) {
        if let Some(observer) = &mut self.observer {
            self.cost = Cost::default();
            observer.begin(stage);
        }
    }

    /// `result` is what the stage wrote last.
    pub fn end(&mut self, stage: &'static str, result: &B::Buf) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            self.backend.read(result, 0, &mut [0.0])?;
            observer.end(stage, self.cost);
        }
        Ok(())
    }

    /// The end of a stage that ran outside of the device.
    pub fn end_on_host(&mut self, stage: &'static str) {
        if let Some(observer) = &mut self.observer {
            observer.end(stage, self.cost);
        }
    }

    pub fn wants(&self, name: &str) -> bool {
        self.observer.as_ref().is_some_and(|o| o.wants(name))
    }

    pub fn tap(&mut self, name: &str, buf: &B::Buf, rows: usize, cols: usize) -> Result<()> {
        if self.wants(name) {
            let mut values = vec![0.0; rows * cols];
            self.backend.read(buf, 0, &mut values)?;
            self.tap_host(name, rows, cols, &values);
        }
        Ok(())
    }

    pub fn tap_host(&mut self, name: &str, rows: usize, cols: usize, values: &[f32]) {
        if let Some(observer) = self.observer.as_mut().filter(|o| o.wants(name)) {
            observer.value(name, rows, cols, values);
        }
    }

    /// What was counted since the stage began.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    pub fn add(&mut self, cost: Cost) {
        self.cost.bytes += cost.bytes;
        self.cost.operations += cost.operations;
    }

    /// Counts `operations` that no matrix accounts for.
    pub fn count(&mut self, operations: usize) {
        self.cost.operations += operations as u64;
    }

    fn product(&mut self, rows: usize, w: &Linear<B>, run: impl FnOnce(&mut B)) {
        let operations = 2 * (rows * w.outputs * w.inputs) as u64;
        self.add(Cost { bytes: w.bytes as u64, operations });
        if let Some(observer) = &mut self.observer {
            observer.begin_product();
        }
        run(self.backend);
        if let Some(observer) = &mut self.observer {
            observer.end_product(operations);
        }
    }

    /// `out = act(x W^T + b)`
    pub fn linear(&mut self, x: &B::Buf, rows: usize, w: &Linear<B>, act: Act, out: &mut B::Buf) {
        self.product(rows, w, |backend| backend.linear(x, rows, &w.matrix, w.bias.as_ref(), act, out));
    }

    /// `out += x W^T + b`
    pub fn linear_add(&mut self, x: &B::Buf, rows: usize, w: &Linear<B>, out: &mut B::Buf) {
        self.product(rows, w, |backend| backend.linear_add(x, rows, &w.matrix, w.bias.as_ref(), out));
    }

    /// `out = silu(x G^T) * (x U^T)`
    pub fn linear_gated(&mut self, x: &B::Buf, rows: usize, w: &Linear<B>, out: &mut B::Buf) {
        self.product(rows, w, |backend| backend.linear_gated(x, rows, &w.matrix, out));
    }
}
