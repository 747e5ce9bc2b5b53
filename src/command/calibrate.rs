//! `mien calibrate`: fit the temperature of the label scores on held-out clips, and store it in the bundle.

use super::clips::{self, Machine};
use crate::{
    bundle::{LabelSet, write},
    eval::{
        answer::UNKNOWN,
        examiner::Examiner,
        manifest::{self, Line, Manifest},
        metrics,
    },
};
use anyhow::{Context, Result, ensure};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// Fit the temperature of the label scores on held-out clips, and store it in the bundle.
///
/// Weights stay as they are. Use clips that the model was neither trained nor will be evaluated on.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Bundle to calibrate; replaced unless --output names another file.
    bundle: PathBuf,
    /// Held-out clips: JSON lines {id, clip, label, fold?}.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// Clips of other people, rooms or devices: say what the new temperature does to these, which it is not fitted on.
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Write here instead.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Label set; otherwise the bundle's first.
    #[arg(long, value_name = "SET")]
    labels: Option<String>,
    /// Only clips of this fold.
    #[arg(long, value_name = "N")]
    fold: Option<u64>,
    #[command(flatten)]
    machine: Machine,
}

/// Fewer clips say too little.
const CLIPS_MIN: usize = 50;

pub fn run(args: Args) -> Result<()> {
    let (path, bundle) = clips::bundle(Some(&args.bundle))?;
    let (set, mut held_out) = clips::inputs(&bundle, args.labels.as_deref(), Some(&args.manifest))?;
    let name = args.manifest.display();
    if let Some(fold) = args.fold {
        held_out.keep_fold(fold).with_context(|| name.to_string())?;
    }
    keep_labelled(&args.manifest, &mut held_out)?;
    let shifted = match &args.beside {
        None => None,
        Some(path) => {
            let mut shifted = manifest::read(path, &set.labels)?;
            keep_labelled(path, &mut shifted)?;
            ensure!(!shifted.lines.is_empty(), "{} has no clip with a label", path.display());
            Some((path, shifted))
        }
    };
    let lines = &held_out.lines;
    ensure!(
        lines.len() >= CLIPS_MIN,
        "{name} has {} clips with a label: a temperature needs at least {CLIPS_MIN}",
        lines.len()
    );
    let labels: HashSet<&str> = lines.iter().map(|line| line.label.as_str()).collect();
    ensure!(labels.len() >= 2, "every clip of {name} has the same label: a temperature needs at least two");

    let mut examiner = Examiner::open(&bundle, args.machine.backend, args.machine.threads)?;
    let rows = scored(&mut examiner, lines, set)?;
    let beside = match &shifted {
        Some((_, shifted)) => scored(&mut examiner, &shifted.lines, set)?,
        None => Vec::new(),
    };

    let before = borrowed(&rows);
    let old = f64::from(set.temperature);
    let new = metrics::temperature(&before, old);
    let edge = new / old > 0.99 * metrics::TEMPERATURES || old / new > 0.99 * metrics::TEMPERATURES;
    ensure!(
        !edge,
        "no temperature near {old} fits: the label scores of {} say nothing of these clips, or all of it",
        path.display()
    );
    let tempered = retempered(&rows, old, new);
    let after = borrowed(&tempered);

    let mut head = bundle.header().clone();
    for own in head.label_sets.iter_mut().filter(|own| own.name == set.name) {
        own.temperature = new as f32;
    }
    if let Some(test) = head.self_test.as_mut().filter(|test| test.labels == set.name) {
        test.scores = metrics::retempered(&test.scores, old, new);
    }
    let output = args.output.as_ref().unwrap_or(&path);
    write::write_header(output, &bundle, &head)?;
    println!("{} clips, label set {}", lines.len(), set.name);
    println!("{:14}{:>10}{:>10}", "", "before", "after");
    println!("{:14}{old:>10.4}{new:>10.4}", "temperature");
    println!("{:14}{:>10.4}{:>10.4}", "NLL", metrics::nll(&before, 1.0, 1.0), metrics::nll(&after, 1.0, 1.0));
    println!("{:14}{:>10.4}{:>10.4}", "ECE", ece(&before), ece(&after));
    if let Some((path, _)) = &shifted {
        let tempered = retempered(&beside, old, new);
        let (before, after) = (ece(&borrowed(&beside)), ece(&borrowed(&tempered)));
        println!("{:14}{before:>10.4}{after:>10.4}  {}", "ECE beside", path.display());
    }
    println!("{}: written, weights unchanged", output.display());
    Ok(())
}

/// Leaves the clips that have a label; any fault in the manifest is an error.
fn keep_labelled(path: &Path, clips: &mut Manifest) -> Result<()> {
    let name = path.display();
    ensure!(clips.problems.is_empty(), "{name}: {}", manifest::describe(&clips.problems));
    let all = clips.lines.len();
    clips.lines.retain(|line| line.label != UNKNOWN);
    if clips.lines.len() < all {
        println!("{name}: {} clips labelled unknown are left out", all - clips.lines.len());
    }
    Ok(())
}

fn borrowed(rows: &[(Vec<f32>, usize)]) -> Vec<(&[f32], usize)> {
    rows.iter().map(|(scores, truth)| (&scores[..], *truth)).collect()
}

/// The same rows at another temperature.
fn retempered(rows: &[(Vec<f32>, usize)], old: f64, new: f64) -> Vec<(Vec<f32>, usize)> {
    rows.iter().map(|(scores, truth)| (metrics::retempered(scores, old, new), *truth)).collect()
}

/// Each clip's scores and the place of its label.
fn scored(examiner: &mut Examiner, lines: &[Line], set: &LabelSet) -> Result<Vec<(Vec<f32>, usize)>> {
    let bar = clips::bar(lines.len(), 0)?;
    let mut rows = Vec::with_capacity(lines.len());
    for line in lines {
        let scores = examiner.scores(line, set).with_context(|| format!("`{}`", line.id))?;
        let truth = set.labels.iter().position(|label| *label == line.label);
        rows.push((scores, truth.context("the manifest was checked for this label set")?));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

fn ece(rows: &[(&[f32], usize)]) -> f64 {
    let guess = |(row, truth): &(&[f32], usize)| {
        let (guess, confidence) = metrics::best(row);
        (confidence, guess == *truth)
    };
    metrics::ece(&metrics::bins(&rows.iter().map(guess).collect::<Vec<_>>())).unwrap_or(0.0)
}
