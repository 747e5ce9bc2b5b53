//! `mien eval`: what a bundle makes of the clips of a manifest, and how good that is; manifests of data sets; shards as one.

use super::{Refused, default_bundle, open_bundle};
use crate::{
    bundle::{Bundle, LabelSet},
    eval::{
        dataset::{self, Split},
        manifest::{self, Line, Manifest},
        metrics, page,
        record::{self, About, Journal, Record, Records},
        report,
    },
    model::{self, Decoding, Device, Infer, Input, Stop},
    source::recorded::whole::Recording,
};
use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::{
    collections::HashSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

/// Evaluate a bundle on a manifest of clips.
///
/// Results go to OUT.jsonl, one line per clip: the same command goes on where it was stopped. At the end OUT.json and OUT.html hold
/// the report.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    run: Run,
}

#[derive(clap::Subcommand, Debug)]
enum Task {
    /// Make one report of the results of shards, or again of one.
    Merge(Merge),
    /// Write a manifest of a data set in its official layout.
    Import(Import),
}

#[derive(clap::Args, Debug)]
struct Run {
    /// Bundle; otherwise the one in models/.
    bundle: Option<PathBuf>,
    /// JSON lines {id, clip, label, fold?, subset?, cues?}; clips are relative to it.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Results and reports go to OUT.jsonl, OUT.json and OUT.html.
    #[arg(long, default_value = "eval")]
    out: PathBuf,
    /// Label set; otherwise the bundle's first.
    #[arg(long, value_name = "SET")]
    labels: Option<String>,
    /// Prompt of the answers.
    #[arg(long, value_name = "NAME", default_value = "reason")]
    prompt: String,
    /// No answers in words: the label with the highest score is the answer.
    #[arg(long)]
    scores_only: bool,
    /// Only clips of this fold.
    #[arg(long, value_name = "N")]
    fold: Option<u64>,
    /// Every n-th clip from the i-th on, as i/n; results go to OUT.i-of-n.jsonl.
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = shard)]
    shard: [usize; 2],
    /// Fail at the first problem of the manifest or of a clip.
    #[arg(long)]
    strict: bool,
    /// Leave out the pictures.
    #[arg(long, conflicts_with = "video_only")]
    audio_only: bool,
    /// Leave out the sound.
    #[arg(long)]
    video_only: bool,
    /// Tokens of an answer at most; otherwise the bundle's limit.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    #[command(flatten)]
    machine: Machine,
}

/// Where a model runs.
#[derive(clap::Args, Debug)]
pub struct Machine {
    /// Threads; 0 for one per processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// auto, cpu, cuda or scalar.
    #[arg(long, default_value = "auto")]
    backend: Device,
}

#[derive(clap::Args, Debug)]
struct Merge {
    /// Results of the shards (JSON lines).
    #[arg(required = true)]
    parts: Vec<PathBuf>,
    /// The report goes to OUT.json and OUT.html, and all results to OUT.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Clips may be missing.
    #[arg(long)]
    incomplete: bool,
}

#[derive(clap::Args, Debug)]
struct Import {
    /// dfew, mafw or ravdess.
    #[arg(value_parser = ["dfew", "mafw", "ravdess"])]
    dataset: String,
    /// Its folder.
    folder: PathBuf,
    /// Manifest to write.
    #[arg(short, long)]
    output: PathBuf,
    /// DFEW, MAFW: one of five folds; otherwise the test parts of all.
    #[arg(long, value_name = "N")]
    fold: Option<u64>,
    /// DFEW, MAFW: the part of the fold: test or train.
    #[arg(long, default_value = "test", value_parser = split)]
    split: Split,
    /// RAVDESS: only these actors, as 1,2,20.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    actors: Vec<u64>,
    /// RAVDESS: calm counts as neutral, for models that do not know it.
    #[arg(long)]
    merge_calm: bool,
    /// Fail where anything is wrong.
    #[arg(long)]
    strict: bool,
}

fn shard(text: &str) -> Result<[usize; 2]> {
    let parts = text.split_once('/').and_then(|(i, n)| Some([i.parse().ok()?, n.parse().ok()?]));
    let shard: [usize; 2] = parts.context("a shard is i/n, such as 2/4")?;
    ensure!((1..=shard[1]).contains(&shard[0]), "there is no shard {text}: they count from 1");
    Ok(shard)
}

fn split(text: &str) -> Result<Split> {
    match text {
        "test" => Ok(Split::Test),
        "train" => Ok(Split::Train),
        _ => bail!("choose test or train"),
    }
}

pub fn run(args: Args) -> Result<()> {
    match args.task {
        None => evaluate(&args.run),
        Some(Task::Merge(merge)) => self::merge(&merge),
        Some(Task::Import(import)) => self::import(&import),
    }
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

fn evaluate(args: &Run) -> Result<()> {
    let (_, bundle) = bundle(args.bundle.as_deref())?;
    let (set, mut manifest) = inputs(&bundle, args.labels.as_deref(), args.manifest.as_deref())?;
    let path = args.manifest.as_deref().unwrap_or(Path::new(""));
    tell(&manifest, path, args.strict)?;
    if let Some(fold) = args.fold {
        manifest.keep_fold(fold).with_context(|| path.display().to_string())?;
    }
    ensure!(!manifest.lines.is_empty(), "{} has no clip that can be used", path.display());
    let prompt = (!args.scores_only).then_some(args.prompt.as_str());
    for name in ["label"].into_iter().chain(prompt) {
        bundle.prompt(name)?;
    }
    let [nth, of] = args.shard;
    let about = About {
        mien_eval: record::VERSION,
        bundle: bundle.header().name.clone(),
        tensors: bundle.digest(),
        quant: bundle.header().quant.name().to_owned(),
        trained: bundle.header().trained,
        label_set: set.name.clone(),
        labels: set.labels.clone(),
        temperature: set.temperature,
        prompt: prompt.map(str::to_owned),
        max_new_tokens: args.max_new_tokens,
        given: match (args.audio_only, args.video_only) {
            (true, _) => "audio",
            (_, true) => "video",
            _ => "both",
        }
        .to_owned(),
        manifest: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        manifest_sha256: manifest.sha256.clone(),
        fold: args.fold,
        clips: manifest.lines.len(),
        shard: args.shard,
    };
    let file = match of {
        1 => with(&args.out, "jsonl"),
        _ => with(&args.out, &format!("{nth}-of-{of}.jsonl")),
    };
    let (mut journal, mut records) = Journal::open(&file, &about)?;
    let done: HashSet<&str> = records.iter().filter(|r| r.error.is_none()).map(|r| r.id.as_str()).collect();
    let mine = manifest.lines.iter().skip(nth - 1).step_by(of);
    let (before, left): (Vec<&Line>, Vec<&Line>) = mine.partition(|line| done.contains(line.id.as_str()));
    records.retain(|record| record.error.is_none());

    if !left.is_empty() {
        let mut eye = Eye::open(&bundle, &args.machine)?;
        let decoding = Decoding { max_new_tokens: args.max_new_tokens, ..Decoding::default() };
        eye.model.set_decoding(decoding)?;
        let bar = bar(before.len() + left.len(), before.len())?;
        for line in left {
            let record = eye.answer(line, set, prompt, &about.given);
            journal.push(&record)?;
            if let Some(error) = &record.error {
                ensure!(!args.strict, "`{}`: {error}", record.id);
                bar.suspend(|| log::warn!("clip=\"{}\" error=\"{error}\"", record.id));
            }
            records.push(record);
            bar.inc(1);
            let right = records.iter().filter(|r| r.answer.as_ref() == Some(&r.label)).count();
            bar.set_message(format!("{:.1} % right", 100.0 * right as f64 / records.len() as f64));
        }
        bar.finish_and_clear();
    }
    if of > 1 {
        println!(
            "{}: {} of {} clips; when all shards are done: mien eval merge {} --out {}",
            file.display(),
            records.len(),
            about.clips,
            with(&args.out, &format!("*-of-{of}.jsonl")).display(),
            args.out.display()
        );
        return Ok(());
    }
    write_report(&args.out, &Records { about, records })
}

/// Says what is wrong with a manifest; `strict` refuses it.
fn tell(manifest: &Manifest, path: &Path, strict: bool) -> Result<()> {
    if manifest.problems.is_empty() {
        return Ok(());
    }
    let problems = manifest::describe(&manifest.problems);
    ensure!(!strict, "{}: {problems}", path.display());
    eprintln!("{}: {problems}\n{} clips remain", path.display(), manifest.lines.len());
    Ok(())
}

/// `stem.ending`, whatever dots the stem has.
fn with(stem: &Path, ending: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Clips done of clips in all.
pub fn bar(clips: usize, done: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{pos}/{len} clips {wide_bar} {per_sec} {eta}  {msg}")
        .context("drawing progress")?;
    let bar = ProgressBar::new(clips as u64).with_style(style).with_position(done as u64);
    bar.reset_eta();
    Ok(bar)
}

/// A model and the clips it has been shown.
pub struct Eye<'a> {
    model: Box<dyn Infer>,
    bundle: &'a Bundle,
    clips: u64,
}

impl<'a> Eye<'a> {
    pub fn open(bundle: &'a Bundle, machine: &Machine) -> Result<Self> {
        let model = model::load(bundle, machine.backend, machine.threads)?;
        Ok(Eye { model, bundle, clips: 0 })
    }

    /// Shows a clip under the prompt `label`; returns when the clip had been read.
    fn see(&mut self, line: &Line, given: &str) -> Result<Instant> {
        let shape = self.bundle.shape();
        let mut recording = Recording::open(&line.clip, shape.frames)?;
        recording.hear(shape.samples_max());
        let mut frames = recording.frames();
        let mut samples = recording.samples.as_deref();
        match given {
            "audio" => frames = None,
            "video" => samples = None,
            _ => {}
        }
        ensure!(
            frames.is_some() || samples.is_some(),
            "the clip {} has nothing for a model that is given {given}",
            line.clip.display()
        );
        // Features are kept by number: the pictures of no two clips may share one.
        self.clips += 1;
        for (number, _) in frames.iter_mut().flatten() {
            *number |= self.clips << 32;
        }
        let read = Instant::now();
        self.model.see("label", &Input { frames: frames.as_deref(), samples })?;
        Ok(read)
    }

    /// Probabilities of the labels.
    pub fn scores(&mut self, line: &Line, set: &LabelSet) -> Result<Vec<f32>> {
        self.see(line, "both")?;
        Ok(self.model.score(&set.name)?.probabilities.clone())
    }

    fn answer(&mut self, line: &Line, set: &LabelSet, prompt: Option<&str>, given: &str) -> Record {
        let mut record = Record {
            id: line.id.clone(),
            label: line.label.clone(),
            subset: line.subset.clone(),
            fold: line.fold,
            ..Record::default()
        };
        if let Err(error) = self.fill(&mut record, line, set, prompt, given) {
            record.error = Some(format!("{error:#}"));
        }
        record
    }

    fn fill(
        &mut self,
        record: &mut Record,
        line: &Line,
        set: &LabelSet,
        prompt: Option<&str>,
        given: &str,
    ) -> Result<()> {
        let began = Instant::now();
        let read = self.see(line, given)?;
        let scores = self.model.score(&set.name)?.probabilities.clone();
        record.answer = Some(set.labels[metrics::best(&scores).0].clone());
        if let Some(prompt) = prompt {
            if prompt != "label" {
                self.model.ask(prompt)?;
            }
            let reason = self.model.reason(&mut |_| {})?;
            let cues = line.cues.as_ref().map(|cues| known_to(given, cues));
            record.hear(&reason.text, &set.labels, cues.as_deref());
            record.tokens = Some(reason.tokens + usize::from(reason.stop == Stop::EndOfText));
        }
        record.scores = scores;
        record.read_ms = (read - began).as_secs_f64() * 1e3;
        record.ms = read.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }
}

/// The cues of what a model is given: claims about the rest are about what is absent.
fn known_to(given: &str, cues: &[crate::cues::Cue]) -> Vec<crate::cues::Cue> {
    use crate::cues::Modality::Face;
    let kept = |cue: &&crate::cues::Cue| match given {
        "audio" => cue.modality != Face,
        "video" => cue.modality == Face,
        _ => true,
    };
    cues.iter().filter(kept).cloned().collect()
}

fn merge(args: &Merge) -> Result<()> {
    let parts: Result<Vec<_>> =
        args.parts.iter().map(|path| Ok((path.clone(), record::read(path)?.0))).collect();
    let all = record::merge(parts?, args.incomplete)?;
    let lines = with(&args.out, "jsonl");
    ensure!(
        args.parts.len() == 1 || !args.parts.contains(&lines),
        "{} is one of the parts; choose another --out",
        lines.display()
    );
    if args.parts.len() > 1 {
        let mut text = serde_json::to_string(&all.about)? + "\n";
        for record in &all.records {
            text += &(serde_json::to_string(record)? + "\n");
        }
        write(&lines, &text)?;
    }
    write_report(&args.out, &all)
}

/// Prints a report and writes it as JSON and as a page.
fn write_report(out: &Path, all: &Records) -> Result<()> {
    let report = report::of(&all.about, &all.records);
    let (json_file, page_file) = (with(out, "json"), with(out, "html"));
    write(&json_file, &format!("{}\n", json!({"about": all.about, "report": report})))?;
    write(&page_file, &page::draw(&all.about, &report, &all.records))?;
    let mut out = io::stdout().lock();
    if !all.about.trained {
        writeln!(out, "UNTRAINED: the weights are random, and these numbers mean nothing")?;
    }
    writeln!(out, "{}\n{} and {}", report.text(), json_file.display(), page_file.display())?;
    Ok(())
}

/// Writes a file whole, or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let context = || format!("writing {}", path.display());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.persist(path).map_err(|e| e.error).with_context(context)?;
    Ok(())
}

fn import(args: &Import) -> Result<()> {
    let folder = fs::canonicalize(&args.folder)
        .with_context(|| format!("looking for the data set {}", args.folder.display()))?;
    let refused = || Refused(format!("{} is not laid out as {}", folder.display(), args.dataset));
    let found = match args.dataset.as_str() {
        "dfew" => dataset::dfew(&folder, args.fold, args.split),
        "mafw" => dataset::mafw(&folder, args.fold, args.split),
        _ => dataset::ravdess(&folder, &args.actors, args.merge_calm),
    }
    .with_context(refused)?;
    for note in &found.notes {
        eprintln!("{note}");
    }
    if !found.problems.is_empty() {
        let problems = manifest::describe(&found.problems);
        ensure!(!args.strict, "{}: {problems}", folder.display());
        eprintln!("{}: {problems}", folder.display());
    }
    ensure!(!found.lines.is_empty(), "{} has no clip that can be used", folder.display());
    let above = match args.output.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    let above = fs::canonicalize(above).with_context(|| format!("looking for {}", above.display()))?;
    let lines: String = found.lines.iter().map(|entry| format!("{}\n", entry.json(&above))).collect();
    write(&args.output, &lines)?;
    println!("{}: {} clips", args.output.display(), found.lines.len());
    Ok(())
}
