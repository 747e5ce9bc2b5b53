//! Watching a model at work: its stages with what they cost, and its intermediate values by name.
//!
//! Nothing is measured or copied while nobody observes. The model asks no clock; an observer may.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

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
