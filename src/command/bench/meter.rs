//! What the stages of a model took, by window.

use crate::model::{Cost, Observer};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// One stage of one window.
#[derive(Clone, Debug)]
pub struct Sample {
    pub stage: &'static str,
    pub time: Duration,
    pub calls: u64,
    pub cost: Cost,
    /// Of its products alone.
    pub products: Products,
    pub launches: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Products {
    pub time: Duration,
    pub operations: u64,
}

impl Products {
    fn add(&mut self, more: Products) {
        self.time += more.time;
        self.operations += more.operations;
    }
}

/// Adds up the stages of a window.
#[derive(Clone)]
pub struct Meter {
    launches: Arc<AtomicU64>,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    /// When the running stage began, and after how many launches.
    pub begun: Option<(Instant, u64)>,
    pub product: Option<Instant>,
    /// Of the running stage.
    pub products: Products,
    pub samples: Vec<Sample>,
}

impl Meter {
    pub fn new(launches: Arc<AtomicU64>) -> Meter {
        Meter { launches, record: Arc::default() }
    }

    /// The stages since the last call.
    pub fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner).samples)
    }
}

impl Observer for Meter {
    fn begin(&mut self, _stage: &'static str) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.products = Products::default();
        record.begun = Some((Instant::now(), self.launches.load(Relaxed)));
    }

    fn begin_product(&mut self) {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).product = Some(Instant::now());
    }

    fn end_product(&mut self, operations: u64) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let time = record.product.take().map_or(Duration::ZERO, |begun| begun.elapsed());
        record.products.add(Products { time, operations });
    }

    fn end(&mut self, stage: &'static str, cost: Cost) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((begun, launches)) = record.begun.take() else { return };
        let (time, launches) = (begun.elapsed(), self.launches.load(Relaxed) - launches);
        let products = std::mem::take(&mut record.products);
        match record.samples.iter_mut().find(|s| s.stage == stage) {
            Some(s) => {
                s.time += time;
                s.calls += 1;
                s.launches += launches;
                s.cost.bytes += cost.bytes;
                s.cost.operations += cost.operations;
                s.products.add(products);
            }
            None => record.samples.push(Sample { stage, time, calls: 1, cost, products, launches }),
        }
    }
}

/// A stage over all windows.
pub struct Row {
    pub stage: &'static str,
    pub median: Duration,
    pub best: Duration,
    pub sample: Sample,
}

pub fn rows(windows: &[Vec<Sample>]) -> Vec<Row> {
    let Some(first) = windows.first() else { return Vec::new() };
    let row = |s: &Sample| {
        let mut times: Vec<Duration> =
            windows.iter().flatten().filter(|other| other.stage == s.stage).map(|other| other.time).collect();
        times.sort();
        Row { stage: s.stage, median: times[times.len() / 2], best: times[0], sample: s.clone() }
    };
    first.iter().map(row).collect()
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn total_ms(rows: &[Row]) -> f64 {
    rows.iter().map(|r| ms(r.median)).sum()
}
