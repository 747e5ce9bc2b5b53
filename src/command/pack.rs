//! `mien pack`: make a bundle from a published checkpoint, or a synthetic one without.

use crate::bundle::Kind;
use crate::bundle::synthetic::{self, Preset};
use crate::bundle::write::Progress;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Make a bundle from a published checkpoint.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder R1-Omni-0.5B, or the folder that holds it and the towers.
    #[arg(required_unless_present = "synthetic", conflicts_with = "synthetic")]
    checkpoint: Option<PathBuf>,
    /// File to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Kind of the matrices: f32, f16, q8_0 or q4_0.
    #[arg(long, default_value = "q8_0", value_parser = kind)]
    quant: Kind,
    /// Random weights instead of a checkpoint: tiny or r1-omni-0.5b.
    #[arg(long, value_parser = preset)]
    synthetic: Option<Preset>,
    /// Seed of the random weights.
    #[arg(long, default_value_t = 0, requires = "synthetic")]
    seed: u64,
}

fn kind(name: &str) -> Result<Kind> {
    Kind::from_name(name)
}

fn preset(name: &str) -> Result<Preset> {
    Preset::from_name(name)
}

pub fn run(args: Args) -> Result<()> {
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{msg:32!} {wide_bar} {bytes}/{total_bytes} {eta}")
            .context("drawing progress")?,
    );
    let mut tell = |at: Progress<'_>| {
        bar.set_length(at.total_bytes);
        bar.set_position(at.done_bytes);
        bar.set_message(at.doing.to_owned());
    };
    let file_bytes = match args.synthetic {
        Some(preset) => synthetic::write_file(&args.output, preset, args.seed, args.quant, &mut tell)?,
        None => bail!("packing a checkpoint is not built yet"),
    };
    bar.finish_and_clear();
    println!("{}: {file_bytes} bytes, {}", args.output.display(), args.quant.name());
    Ok(())
}
