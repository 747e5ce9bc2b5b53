//! What commands over many clips share: the bundle, the label set, the manifest, the machine, the bar of progress.

use super::{default_bundle, open_bundle};
use crate::{
    bundle::{Bundle, LabelSet},
    eval::manifest::{self, Manifest},
    model::Device,
};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

/// Where a model runs.
#[derive(clap::Args, Debug)]
pub struct Machine {
    /// Threads; 0 for one per processor.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// auto, cpu, cuda or scalar.
    #[arg(long, default_value = "auto")]
    pub backend: Device,
}

/// Bundle, label set and manifest of a command, checked.
pub fn inputs<'a>(
    bundle: &'a Bundle,
    labels: Option<&str>,
    manifest: Option<&Path>,
) -> Result<(&'a LabelSet, Manifest)> {
    let set = match labels {
        Some(name) => bundle.label_set(name)?,
        None => bundle.label_sets().first().context("the bundle has no label set")?,
    };
    let path = manifest.context("name the clips with --manifest FILE")?;
    let manifest = manifest::read(path, &set.labels)?;
    Ok((set, manifest))
}

/// Opens the named bundle, or the default one.
pub fn bundle(path: Option<&Path>) -> Result<(PathBuf, Bundle)> {
    let path = path.map_or_else(default_bundle, |path| Ok(path.to_owned()))?;
    let bundle = open_bundle(&path)?;
    Ok((path, bundle))
}

/// Clips done of clips in all.
pub fn bar(clips: usize, done: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{pos}/{len} clips {wide_bar} {per_sec} {eta}  {msg}")
        .context("drawing progress")?;
    let bar = ProgressBar::new(clips as u64).with_style(style).with_position(done as u64);
    bar.reset_eta();
    Ok(bar)
}
