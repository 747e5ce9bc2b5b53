//! How long each stage of the newest window took in the model.

use crate::{
    model::{Cost, Observer},
    sink::snapshot::Stages,
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Times stages by name; a stage that comes more than once is summed. Clones share one record. Nothing is allocated.
#[derive(Clone, Default)]
pub struct Timer(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    begun: Option<Instant>,
    stages: Stages,
}

impl Timer {
    /// The stages since the last call, in the order in which they came first.
    pub fn take(&self) -> Stages {
        std::mem::take(&mut self.lock().stages)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Timer {
    fn begin(&mut self, _stage: &'static str) {
        self.lock().begun = Some(Instant::now());
    }

    fn end(&mut self, stage: &'static str, _cost: Cost) {
        let mut record = self.lock();
        let time = record.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        match record.stages.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += time,
            // Stages beyond the room are not shown.
            None => drop(record.stages.push((stage, time))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_summed_by_name_until_they_are_taken() {
        let timer = Timer::default();
        let mut observer = timer.clone();
        for stage in ["vision", "decode", "decode"] {
            observer.begin(stage);
            std::thread::sleep(Duration::from_millis(3));
            observer.end(stage, Cost::default());
        }
        let stages = timer.take();
        assert_eq!(stages.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["vision", "decode"]);
        assert!(stages[1].1 >= Duration::from_millis(6));
        assert!(timer.take().is_empty());
    }
}
