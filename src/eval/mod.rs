//! How good a bundle's answers are: manifests and data sets in, one record per clip, and reports as numbers, text and a page.
//!
//! Only `manifest` and `dataset` read files; what is computed from records is pure.

pub mod answer;
pub mod dataset;
pub mod manifest;
pub mod metrics;
pub mod page;
pub mod record;
pub mod report;
