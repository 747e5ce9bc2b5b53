//! A bench as a table and as JSON.

use super::meter::{Products, Row, ms, total_ms};
use crate::{backend::Ceilings, bundle::Recipe, model::Cost};
use serde_json::json;
use std::time::Duration;

pub struct Report {
    pub device: String,
    pub quant: Recipe,
    pub file_bytes: usize,
    pub open: Duration,
    pub load: Duration,
    /// The first window up to its scores.
    pub first: Duration,
    pub ceilings: Ceilings,
    /// Of products of this bundle, operations a second.
    pub product_per_s: f64,
    pub stages: Vec<Row>,
    pub hop: Vec<Row>,
    pub tokens: usize,
    pub peak_bytes: Option<usize>,
    /// Of speech context: relative root mean squares, and the largest difference of a score.
    pub errors: Vec<(&'static str, f64)>,
}

impl Report {
    fn floor_s(&self, cost: Cost) -> f64 {
        let reading = cost.bytes as f64 / self.ceilings.read_bytes_per_s;
        reading.max(cost.operations as f64 / self.product_per_s)
    }

    pub fn json(&self) -> serde_json::Value {
        let stages = |rows: &[Row]| -> Vec<serde_json::Value> {
            let one = |r: &Row| {
                json!({
                    "stage": r.stage,
                    "calls": r.sample.calls,
                    "median_ms": ms(r.median),
                    "best_ms": ms(r.best),
                    "bytes": r.sample.cost.bytes,
                    "operations": r.sample.cost.operations,
                    "launches": r.sample.launches,
                    "floor_ms": self.floor_s(r.sample.cost) * 1e3,
                    "product_ms": ms(r.sample.products.time),
                    "product_operations": r.sample.products.operations,
                })
            };
            rows.iter().map(one).collect()
        };
        json!({
            "device": self.device,
            "quant": self.quant.name(),
            "file_bytes": self.file_bytes,
            "open_ms": ms(self.open),
            "load_ms": ms(self.load),
            "first_scores_ms": ms(self.first),
            "peak_bytes": self.peak_bytes,
            "int8_per_s": self.ceilings.int8_per_s,
            "f16_per_s": self.ceilings.f16_per_s,
            "f32_per_s": self.ceilings.f32_per_s,
            "read_bytes_per_s": self.ceilings.read_bytes_per_s,
            "tokens": self.tokens,
            "window": stages(&self.stages),
            "window_ms": total_ms(&self.stages),
            "hop": stages(&self.hop),
            "hop_ms": total_ms(&self.hop),
            "speech_context_errors": self.errors.iter().map(|(name, off)| ((*name).to_owned(), json!(off))).collect::<serde_json::Map<_, _>>(),
        })
    }

    pub fn table(&self) -> String {
        let mut out = format!("{}\n", self.device);
        let Ceilings { int8_per_s, f16_per_s, f32_per_s, read_bytes_per_s } = self.ceilings;
        out += &format!(
            "ceilings     int8 {:.0} GOP/s, f16 {:.0} GFLOP/s, f32 {:.0} GFLOP/s, reading {:.1} GB/s\n",
            int8_per_s / 1e9,
            f16_per_s / 1e9,
            f32_per_s / 1e9,
            read_bytes_per_s / 1e9
        );
        out += &format!("bundle       {}, {:.1} MB\n", self.quant.name(), self.file_bytes as f64 / 1e6,);
        let (open, load, first) =
            (self.open.as_secs_f64(), self.load.as_secs_f64(), self.first.as_secs_f64());
        out += &format!(
            "cold start   {:.2} s to first scores: opened in {open:.2} s, loaded in {load:.2} s, first window {first:.2} s\n",
            open + load + first
        );
        if let Some(bytes) = self.peak_bytes {
            let beside = (bytes as f64 - self.file_bytes as f64) / 1e6;
            out += &format!("peak memory  {:.1} MB, the file and {beside:.1} MB\n", bytes as f64 / 1e6);
        }
        if !self.errors.is_empty() {
            let parts: Vec<String> =
                self.errors.iter().map(|(name, off)| format!("{name} {off:.1e}")).collect();
            out += &format!("speech       off from whole context: {}\n", parts.join(", "));
        }
        out += "\nwhole window\n";
        self.print(&self.stages, &mut out);
        if let Some(decode) = self.stages.iter().find(|r| r.stage == "decode") {
            let calls = decode.sample.calls as f64;
            out += &format!(
                "decode: {} tokens, {:.1} tokens/s (best window {:.1})\n",
                self.tokens,
                calls / decode.median.as_secs_f64(),
                calls / decode.best.as_secs_f64()
            );
        }
        out += "\nhop of one frame, labels only\n";
        self.print(&self.hop, &mut out);
        out
    }

    fn print(&self, rows: &[Row], out: &mut String) {
        *out += &format!(
            "{:<10} {:>6} {:>10} {:>10} {:>9} {:>9} {:>8} {:>7} {:>6} {:>9} {:>9}\n",
            "stage", "calls", "ms", "best ms", "MB", "GOP", "GOP/s", "GB/s", "share", "products", "launches"
        );
        for r in rows {
            let (seconds, cost) = (r.median.as_secs_f64(), r.sample.cost);
            let (bytes, operations) = (cost.bytes as f64, cost.operations as f64);
            let products = match r.sample.products {
                // Steps that are repeated as a whole do not show theirs.
                Products { operations, .. } if operations * 2 <= cost.operations => "-".to_owned(),
                Products { time, operations } => {
                    let share = operations as f64 / self.product_per_s / time.as_secs_f64();
                    format!("{:.0}%", 100.0 * share)
                }
            };
            *out += &format!(
                "{:<10} {:>6} {:>10.2} {:>10.2} {:>9.1} {:>9.1} {:>8.1} {:>7.1} {:>5.0}% {products:>9} {:>9}\n",
                r.stage,
                r.sample.calls,
                ms(r.median),
                ms(r.best),
                bytes / 1e6,
                operations / 1e9,
                operations / 1e9 / seconds,
                bytes / 1e9 / seconds,
                100.0 * self.floor_s(cost) / seconds,
                r.sample.launches
            );
        }
        let floor: f64 = rows.iter().map(|r| self.floor_s(r.sample.cost)).sum();
        let (total, best) = (total_ms(rows), rows.iter().map(|r| ms(r.best)).sum::<f64>());
        let share = 100.0 * floor * 1e3 / total;
        *out += &format!(
            "{:<10} {:>6} {total:>10.2} {best:>10.2} {:>9} {:>9} {:>8} {:>7} {share:>5.0}%\n",
            "total", "", "", "", "", ""
        );
    }
}
