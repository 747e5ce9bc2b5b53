//! How good a bundle's answers are: manifests and data sets in, one record per clip, and reports as numbers and text.
//!
//! `manifest`, `dataset`, `record`, `examiner` and `measured` read files; what is computed from records is pure.

pub mod answer;
pub mod dataset;
pub mod degrade;
pub mod examiner;
pub mod manifest;
pub mod measured;
pub mod metrics;
pub mod record;
pub mod report;
