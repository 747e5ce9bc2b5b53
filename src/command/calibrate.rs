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
    ensure!(held_out.problems.is_empty(), "{name}: {}", manifest::describe(&held_out.problems));
    let shifted = args.beside.as_deref().map(|path| labelled(path, set)).transpose()?;
    if let Some(fold) = args.fold {
        held_out.keep_fold(fold).with_context(|| name.to_string())?;
    }
    let all = held_out.lines.len();
    held_out.lines.retain(|line| line.label != UNKNOWN);
    if held_out.lines.len() < all {
        println!("{} clips labelled unknown are left out", all - held_out.lines.len());
    }
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
        Some(shifted) => scored(&mut examiner, &shifted.lines, set)?,
        None => Vec::new(),
    };

    let before: Vec<(&[f32], usize)> = rows.iter().map(|(scores, truth)| (&scores[..], *truth)).collect();
    let old = f64::from(set.temperature);
    let new = metrics::temperature(&before, old);
    let edge = new / old > 0.99 * metrics::TEMPERATURES || old / new > 0.99 * metrics::TEMPERATURES;
    ensure!(
        !edge,
        "no temperature near {old} fits: the label scores of {} say nothing of these clips, or all of it",
        path.display()
    );
    let after: Vec<(Vec<f32>, usize)> =
        before.iter().map(|(row, truth)| (metrics::retempered(row, old, new), *truth)).collect();
    let after: Vec<(&[f32], usize)> = after.iter().map(|(row, truth)| (&row[..], *truth)).collect();

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
    if let Some(path) = &args.beside {
        let beside: Vec<(&[f32], usize)> =
            beside.iter().map(|(scores, truth)| (&scores[..], *truth)).collect();
        let then: Vec<_> =
            beside.iter().map(|(row, truth)| (metrics::retempered(row, old, new), *truth)).collect();
        let then: Vec<(&[f32], usize)> = then.iter().map(|(row, truth)| (&row[..], *truth)).collect();
        println!("{:14}{:>10.4}{:>10.4}  {}", "ECE beside", ece(&beside), ece(&then), path.display());
    }
    println!("{}: written, weights unchanged", output.display());
    Ok(())
}

/// The clips of a manifest that have a label; any fault in it is an error.
fn labelled(path: &Path, set: &LabelSet) -> Result<Manifest> {
    let mut clips = manifest::read(path, &set.labels)?;
    ensure!(clips.problems.is_empty(), "{}: {}", path.display(), manifest::describe(&clips.problems));
    clips.lines.retain(|line| line.label != UNKNOWN);
    ensure!(!clips.lines.is_empty(), "{} has no clip with a label", path.display());
    Ok(clips)
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
