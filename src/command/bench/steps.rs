//! One step of the model at a time, on command, so that another program can be timed in turn with it on the same minutes of a machine.
//!
//! In: one word a line. Out: one JSON object a line, first that the model is ready, then what each step took.
//! Units: `ms`; bytes and operations as in `Cost`. Steps that need a seen window (prefill, decode) take the last one.

use super::{
    args::Args,
    meter::{Sample, ms},
    scene::{Bench, Measured},
};
use crate::{bundle::Bundle, machine, model::Infer};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead, Write},
    time::Instant,
};

pub fn run<B: Measured>(
    args: &Args,
    bundle: Bundle,
    commands: impl BufRead,
    out: &mut impl Write,
) -> Result<()> {
    let (quant, file_bytes) = (bundle.header().quant, bundle.file_bytes());
    let mut bench = Bench::<B>::load(args, &bundle)?;
    drop(bundle);
    let mut tell = |answer: Value| -> Result<()> {
        writeln!(out, "{answer}")?;
        Ok(out.flush()?)
    };
    tell(json!({ "ready": bench.model.describe(), "quant": quant.name(), "file_bytes": file_bytes }))?;
    for line in commands.lines() {
        let line = line.context("reading a step")?;
        let begun = Instant::now();
        let said = bench.step(line.trim()).with_context(|| format!("step `{}`", line.trim()))?;
        let took = begun.elapsed();
        let stages: serde_json::Map<_, _> = bench.meter.take().iter().map(stage).collect();
        tell(json!({
            "step": line.trim(),
            "ms": ms(took),
            "stages": stages,
            "peak_bytes": machine::resident_bytes_max(),
            "said": said,
        }))?;
    }
    Ok(())
}

fn stage(s: &Sample) -> (String, Value) {
    let row = json!({
        "ms": ms(s.time),
        "calls": s.calls,
        "bytes": s.cost.bytes,
        "operations": s.cost.operations,
        "product_ms": ms(s.products.time),
        "product_operations": s.products.operations,
    });
    (s.stage.to_owned(), row)
}

impl<B: Measured> Bench<'_, B> {
    /// What a step has to say beside its time.
    fn step(&mut self, name: &str) -> Result<Value> {
        Ok(match name {
            "window" => {
                self.label(self.frames)?;
                json!({ "tokens": self.reason()? })
            }
            "label" => {
                self.label(self.frames)?;
                Value::Null
            }
            "hop" => {
                self.label(1)?;
                Value::Null
            }
            "vision" => {
                self.encode_frames()?;
                Value::Null
            }
            "audio" => {
                self.encode_sound()?;
                Value::Null
            }
            "prefill" => {
                self.model.forget_prefix();
                self.model.ask(&self.prompt)?;
                Value::Null
            }
            "decode" => json!({ "tokens": self.reason()? }),
            "ceilings" => {
                let c = self.ceilings()?;
                json!({
                    "int8_per_s": c.int8_per_s,
                    "f16_per_s": c.f16_per_s,
                    "f32_per_s": c.f32_per_s,
                    "read_bytes_per_s": c.read_bytes_per_s,
                })
            }
            _ => bail!("choose window, label, hop, vision, audio, prefill, decode or ceilings"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{
        Kind,
        synthetic::{self, Preset},
    };

    fn told(commands: &str) -> Result<Vec<Value>> {
        let bundle = synthetic::bundle(Preset::Tiny, 1, Kind::Q4_0)?;
        let args = Args { tokens: 3, threads: 2, ..Args::of(Preset::Tiny) };
        let mut out = Vec::new();
        run::<crate::backend::cpu::Cpu>(&args, bundle, commands.as_bytes(), &mut out)?;
        Ok(out.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    #[test]
    fn every_step_answers_with_its_stages() {
        let answers = told("window\nhop\nlabel\nvision\naudio\nprefill\ndecode\nceilings\n").unwrap();
        assert_eq!(answers.len(), 9, "{answers:?}");
        assert!(answers[0]["file_bytes"].as_u64().unwrap() > 0);
        let calls = |at: usize, stage: &str| answers[at]["stages"][stage]["calls"].as_u64().unwrap_or(0);
        let counts = |at| ["vision", "audio", "prefill", "score", "decode"].map(|stage| calls(at, stage));
        assert_eq!(counts(1), [1, 1, 1, 1, 3], "window");
        assert_eq!(counts(2), [1, 1, 1, 1, 0], "hop");
        assert_eq!(counts(3), [1, 1, 1, 1, 0], "label");
        assert_eq!(counts(4), [1, 0, 0, 0, 0], "vision");
        assert_eq!(counts(5), [0, 1, 0, 0, 0], "audio");
        assert_eq!(counts(6), [0, 0, 1, 0, 0], "prefill");
        assert_eq!(counts(7), [0, 0, 0, 0, 3], "decode");
        let operations =
            |at: usize, stage: &str| answers[at]["stages"][stage]["operations"].as_u64().unwrap();
        assert!(operations(2, "vision") * 4 < operations(3, "vision"), "a hop encodes one frame");
        assert!(operations(6, "prefill") > operations(2, "prefill"), "a prefill takes the whole prompt");
        let of_products = answers[5]["stages"]["audio"]["product_operations"].as_u64().unwrap();
        assert!(
            of_products > 0 && of_products < operations(5, "audio"),
            "attention is no product with weights"
        );
        assert!(answers[8]["said"]["read_bytes_per_s"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn what_is_no_step_is_refused_by_name() {
        let error = format!("{:#}", told("window\nlunch\n").unwrap_err());
        assert!(error.contains("`lunch`") && error.contains("decode"), "{error}");
    }
}
