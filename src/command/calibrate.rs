//! `mien calibrate`: fit the temperature of the label scores on held-out clips, and store it in the bundle.

use super::clips::{self, Machine};
use crate::{
    bundle::{LabelSet, Shift, write},
    eval::{
        answer::UNKNOWN,
        degrade::{self, Degrade},
        examiner::Examiner,
        manifest::{self, Line, Manifest},
        metrics,
    },
    model::follow,
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
    /// Fit as well how the temperature follows places that are unlike the clips: they are scored again, made worse in nine ways.
    #[arg(long)]
    follow: bool,
    /// Clips of other people, rooms or devices: say what the new temperature does to these, which it is not fitted on. May be given several times.
    #[arg(long, value_name = "FILE")]
    beside: Vec<PathBuf>,
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

/// Both modalities, as `follow::kind` says.
const BOTH: usize = 2;
/// Fewer clips say too little.
const CLIPS_MIN: usize = 50;

pub fn run(args: Args) -> Result<()> {
    let (path, bundle) = clips::bundle(Some(&args.bundle))?;
    let (set, mut held_out) = clips::inputs(&bundle, args.labels.as_deref(), Some(&args.manifest))?;
    if let Some(fold) = args.fold {
        held_out.keep_fold(fold).with_context(|| args.manifest.display().to_string())?;
    }
    check(&args.manifest, &held_out)?;
    let beside = args.beside.iter().map(|path| {
        let clips = manifest::read(path, &set.labels)?;
        check(path, &clips)?;
        ensure!(
            clips.lines.iter().any(|line| line.label != UNKNOWN),
            "{} has no clip with a label",
            path.display()
        );
        anyhow::Ok((path, clips))
    });
    let beside = beside.collect::<Result<Vec<_>>>()?;
    enough(&args.manifest, &held_out.lines)?;

    let mut examiner = Examiner::open(&bundle, args.machine.backend, args.machine.threads)?;
    let mut score = |lines: &[Line], degrade: Option<&Degrade>| scored(&mut examiner, lines, set, degrade);
    let clips = score(&held_out.lines, None)?;
    let old = f64::from(set.temperature);
    let new = metrics::temperature(&clips.labelled(), old);
    let edge = new / old > 0.99 * metrics::TEMPERATURES || old / new > 0.99 * metrics::TEMPERATURES;
    ensure!(
        !edge,
        "no temperature near {old} fits: the label scores of {} say nothing of these clips, or all of it",
        path.display()
    );
    let mut rows = vec![Row { name: "as they are".into(), kind: BOTH, clips }];
    for degrade in degrade::ALL.iter().filter(|_| args.follow) {
        let kind = follow::kind(degrade.pictures, degrade.sound).context("a clip without anything")?;
        let clips = score(&held_out.lines, Some(degrade))
            .with_context(|| format!("--follow, {}: every clip needs pictures and sound", degrade.name))?;
        rows.push(Row { name: degrade.name.into(), kind, clips });
    }
    let shift = args.follow.then(|| fitted(&rows, old, new)).transpose()?;
    for (path, clips) in &beside {
        let name = format!("beside: {}", path.file_name().unwrap_or_default().display());
        rows.push(Row { name, kind: BOTH, clips: score(&clips.lines, None)? });
    }

    let mut head = bundle.header().clone();
    for own in head.label_sets.iter_mut().filter(|own| own.name == set.name) {
        (own.temperature, own.shift) = (new as f32, shift);
    }
    if let Some(test) = head.self_test.as_mut().filter(|test| test.labels == set.name) {
        test.scores = metrics::retempered(&test.scores, old, new);
    }
    let output = args.output.as_ref().unwrap_or(&path);
    write::write_header(output, &bundle, &head)?;
    tell(&rows, set, (old, new), shift);
    if set.shift.is_some() && shift.is_none() {
        println!(
            "the temperature is fixed from now on: what it followed was dropped; --follow fits it again"
        );
    }
    println!("{}: written, weights unchanged", output.display());
    Ok(())
}

/// Clips of one kind.
struct Row {
    name: String,
    /// As `follow::kind` says.
    kind: usize,
    clips: Scored,
}

/// Scores of clips at the temperature that the bundle had, each with the place of its label; `None` for `unknown`.
struct Scored(Vec<(Vec<f32>, Option<usize>)>);

impl Scored {
    fn labelled(&self) -> Vec<(&[f32], usize)> {
        self.0.iter().filter_map(|(scores, truth)| Some((&scores[..], (*truth)?))).collect()
    }

    fn margin(&self, temperature: f64) -> f64 {
        let margins = self.0.iter().map(|(scores, _)| follow::margin(scores, temperature));
        metrics::mean(margins).unwrap_or(0.0)
    }

    /// Expected calibration error and negative log likelihood at another temperature.
    fn at(&self, old: f64, new: f64) -> (f64, f64) {
        let rows = self.labelled();
        let guess = |(scores, truth): &(&[f32], usize)| {
            let (guess, confidence) = metrics::best(&metrics::retempered(scores, old, new));
            (confidence, guess == *truth)
        };
        let bins = metrics::bins(&rows.iter().map(guess).collect::<Vec<_>>());
        (metrics::ece(&bins).unwrap_or(0.0), metrics::nll(&rows, old, new))
    }

    fn right(&self) -> f64 {
        let rows = self.labelled();
        let right = rows.iter().filter(|(scores, truth)| metrics::best(scores).0 == *truth);
        right.count() as f64 / rows.len().max(1) as f64
    }
}

/// How fast the temperature grows as the margin falls: the least squares through what fits the clips as they are. One modality alone has a
/// temperature of its own.
fn fitted(rows: &[Row], old: f64, new: f64) -> Result<Shift> {
    let mut shift = Shift { margins: [0.0; 3], factors: [1.0; 3], slope: 0.0 };
    let (mut closer_sum, mut both_sum) = (0.0, 0.0);
    let usual = rows[0].clips.margin(old);
    for Row { kind, clips, .. } in rows {
        let (margin, times) = (clips.margin(old), metrics::temperature(&clips.labelled(), old) / new);
        if *kind == BOTH {
            closer_sum += (usual - margin).powi(2);
            both_sum += (usual - margin) * times.ln();
        } else {
            (shift.margins[*kind], shift.factors[*kind]) = (margin as f32, times as f32);
        }
    }
    shift.margins[BOTH] = usual as f32;
    shift.slope = (both_sum / closer_sum) as f32;
    ensure!(
        shift.slope.is_finite() && shift.slope > 0.0 && shift.margins.iter().all(|margin| *margin > 0.0),
        "--follow: clips that were made worse are not scored with less margin, so that nothing can be followed"
    );
    Ok(shift)
}

/// A table: a line for each kind of clips, with the temperature that is followed where there is one.
fn tell(rows: &[Row], set: &LabelSet, (old, new): (f64, f64), shift: Option<Shift>) {
    println!("{} clips, label set {}: temperature {old:.4}, now {new:.4}", rows[0].clips.0.len(), set.name);
    if let Some(Shift { slope, .. }) = shift {
        println!("the temperature grows by {slope:.2} for each unit that the margin falls, in logarithms");
    }
    let width = rows.iter().map(|row| row.name.len() + 1).max().unwrap_or(0);
    println!(
        "{:width$}{:>7}{:>8}{:>18}{:>18}{:>26}",
        "clips", "right", "margin", "before: ECE, NLL", "now: ECE, NLL", "followed: T, ECE, NLL"
    );
    for Row { name, kind, clips } in rows {
        let pair = |(ece, nll): (f64, f64)| format!("{ece:.3} {nll:6.3}");
        let margin = clips.margin(old);
        let followed = shift.map_or(String::new(), |shift| {
            let here = new * follow::times(shift, *kind, margin);
            format!("{here:.2} {}", pair(clips.at(old, here)))
        });
        println!(
            "{name:width$}{:>6.1}%{margin:>8.3}{:>18}{:>18}{followed:>26}",
            100.0 * clips.right(),
            pair(clips.at(old, old)),
            pair(clips.at(old, new)),
        );
    }
}

fn enough(path: &Path, lines: &[Line]) -> Result<()> {
    let name = path.display();
    let labels: Vec<&str> =
        lines.iter().map(|line| line.label.as_str()).filter(|label| *label != UNKNOWN).collect();
    ensure!(
        labels.len() >= CLIPS_MIN,
        "{name} has {} clips with a label: a temperature needs at least {CLIPS_MIN}",
        labels.len()
    );
    let distinct: HashSet<&str> = labels.into_iter().collect();
    ensure!(distinct.len() >= 2, "every clip of {name} has the same label: a temperature needs at least two");
    Ok(())
}

/// Any fault in the manifest is an error; clips labelled `unknown` say how sure scores are, and not whether they are right.
fn check(path: &Path, clips: &Manifest) -> Result<()> {
    let name = path.display();
    ensure!(clips.problems.is_empty(), "{name}: {}", manifest::describe(&clips.problems));
    let unknown = clips.lines.iter().filter(|line| line.label == UNKNOWN).count();
    if unknown > 0 {
        println!("{name}: {unknown} clips labelled unknown count for the margin only");
    }
    Ok(())
}

/// Each clip's scores and the place of its label.
fn scored(
    examiner: &mut Examiner,
    lines: &[Line],
    set: &LabelSet,
    degrade: Option<&Degrade>,
) -> Result<Scored> {
    let bar = clips::bar(lines.len(), 0)?;
    bar.set_message(degrade.map_or("", |degrade| degrade.name));
    let mut rows = Vec::with_capacity(lines.len());
    for line in lines {
        let scores = examiner.scores(line, set, degrade).with_context(|| format!("`{}`", line.id))?;
        let truth = set.labels.iter().position(|label| *label == line.label);
        rows.push((scores, truth));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Scored(rows))
}
