//! `mien eval`: what a bundle makes of the clips of a manifest, and how good that is; manifests of data sets; shards as one.

use super::{
    Refused,
    clips::{self, Machine},
};
use crate::{
    bundle::{Bundle, LabelSet},
    config,
    eval::{
        dataset::{self, Split},
        examiner::{Examiner, Given},
        manifest::{self, Line, Manifest},
        measured::{self, Measuring},
        record::{self, About, Journal, Records},
        report,
    },
    kept::{self, Durable},
    model::AudioContext,
    report::evaluation,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::{
    collections::{BTreeSet, HashSet},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
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
    /// Write a manifest again with what is measured of its clips: rewards and claims for data whose cues nobody logged.
    Measure(Measure),
}

#[derive(clap::Args, Debug)]
struct Run {
    /// Bundle; otherwise the one in models/.
    bundle: Option<PathBuf>,
    /// JSON lines {id, clip, label, fold?, subset?, person?, cues?}; clips are relative to it.
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
    /// Hold reasons against what is measured of voices, and with --nets of faces.
    #[arg(long, conflicts_with = "scores_only")]
    measured: bool,
    /// A folder that `tools/nets fetch` filled.
    #[arg(long, value_name = "FOLDER", requires = "measured")]
    nets: Option<PathBuf>,
    /// Tokens of an answer at most; otherwise the bundle's limit.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Leave out claims of a reason whose words were less probable than this (`model.reason_sure` of a config).
    #[arg(long, value_name = "P", conflicts_with = "scores_only", value_parser = probability)]
    sure: Option<f32>,
    /// whole; speech: only what holds sound is encoded; brief: nor is silence run in the decoder.
    #[arg(long, value_name = "CONTEXT", default_value = "whole")]
    audio_context: AudioContext,
    #[command(flatten)]
    machine: Machine,
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
    /// MAFW: the lists of compound labels, such as angry_disgust; the labels are printed for `mien pack --labels`.
    #[arg(long)]
    compound: bool,
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

#[derive(clap::Args, Debug)]
struct Measure {
    /// JSON lines {id, clip, person?, ...}; all keys are kept, and `measured` is added.
    manifest: PathBuf,
    /// Manifest to write, in the same folder: clips are relative to it.
    #[arg(short, long)]
    output: PathBuf,
    /// A folder that `tools/nets fetch` filled; without it voices alone are measured.
    #[arg(long, value_name = "FOLDER")]
    nets: Option<PathBuf>,
    /// Fail at the first clip that cannot be read.
    #[arg(long)]
    strict: bool,
}

fn probability(text: &str) -> Result<f32> {
    let value: f32 = text.parse().context("not a number")?;
    ensure!((0.0..=1.0).contains(&value), "a probability is from 0 to 1");
    Ok(value)
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
        Some(Task::Measure(measure)) => self::measure(&measure),
    }
}

fn evaluate(args: &Run) -> Result<()> {
    let (_, bundle) = clips::bundle(args.bundle.as_deref())?;
    let (set, mut manifest) = clips::inputs(&bundle, args.labels.as_deref(), args.manifest.as_deref())?;
    let path = args.manifest.as_deref().unwrap_or(Path::new(""));
    tell(&manifest, path, args.strict)?;
    if let Some(fold) = args.fold {
        manifest.keep_fold(fold).with_context(|| path.display().to_string())?;
    }
    ensure!(!manifest.lines.is_empty(), "{} has no clip that can be used", path.display());
    for name in ["label"].into_iter().chain(args.prompt()) {
        bundle.prompt(name)?;
    }
    ensure!(
        !args.measured || args.shard == [1, 1],
        "--measured and --shard exclude each other: what is usual of a person is learned over all clips"
    );
    let measuring = args.measuring()?;
    let about = args.about(&bundle, set, &manifest);
    let file = args.journal();
    let (mut journal, mut records) = Journal::open(&file, &about)?;
    records.retain(|record| record.error.is_none());
    let done: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
    let [nth, of] = args.shard;
    let mine: Vec<&Line> = manifest.lines.iter().skip(nth - 1).step_by(of).collect();
    let before = mine.iter().filter(|line| done.contains(&line.id)).count();

    if before < mine.len() {
        let mut examiner = Examiner::open(&bundle, args.machine.backend, args.machine.threads)?;
        examiner.set_answers(args.max_new_tokens, args.sure)?;
        examiner.set_audio_context(args.audio_context)?;
        examiner.set_measuring(measuring);
        let bar = clips::bar(mine.len(), before)?;
        for line in mine {
            if done.contains(&line.id) {
                examiner.pass(line);
                continue;
            }
            let record = examiner.answer(line, set, args.prompt(), args.given());
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
    if of == 1 {
        return write_report(&args.out, &Records { about, records });
    }
    println!(
        "{}: {} of {} clips; when all shards are done: mien eval merge {} --out {}",
        file.display(),
        records.len(),
        about.clips,
        with(&args.out, &format!("*-of-{of}.jsonl")).display(),
        args.out.display()
    );
    Ok(())
}

impl Run {
    fn prompt(&self) -> Option<&str> {
        (!self.scores_only).then_some(self.prompt.as_str())
    }

    fn measuring(&self) -> Result<Option<Measuring>> {
        if !self.measured {
            return Ok(None);
        }
        let nets = self.nets.as_deref().map(config::nets_in).transpose()?.unwrap_or_default();
        Measuring::new(&nets, self.given().gives()).map(Some)
    }

    fn given(&self) -> Given {
        match (self.audio_only, self.video_only) {
            (true, _) => Given::Audio,
            (_, true) => Given::Video,
            _ => Given::Both,
        }
    }

    /// The file of results.
    fn journal(&self) -> PathBuf {
        match self.shard {
            [_, 1] => with(&self.out, "jsonl"),
            [nth, of] => with(&self.out, &format!("{nth}-of-{of}.jsonl")),
        }
    }

    fn about(&self, bundle: &Bundle, set: &LabelSet, manifest: &Manifest) -> About {
        let name = self.manifest.as_deref().and_then(Path::file_name).unwrap_or_default();
        About {
            mien_eval: record::VERSION,
            bundle: bundle.header().name.clone(),
            tensors: bundle.digest(),
            quant: bundle.header().quant.name().to_owned(),
            trained: bundle.header().trained,
            label_set: set.name.clone(),
            labels: set.labels.clone(),
            temperature: set.temperature,
            shift: set.shift,
            prompt: self.prompt().map(str::to_owned),
            max_new_tokens: self.max_new_tokens,
            sure: self.sure,
            given: self.given().name().to_owned(),
            audio_context: self.audio_context,
            measured: self.measured.then(|| match self.nets {
                Some(_) => "voice and face".to_owned(),
                None => "voice".to_owned(),
            }),
            manifest: name.to_string_lossy().into_owned(),
            manifest_sha256: manifest.sha256.clone(),
            fold: self.fold,
            clips: manifest.lines.len(),
            shard: self.shard,
        }
    }
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
    write(&page_file, &evaluation::draw(&all.about, &report, &all.records))?;
    let mut out = io::stdout().lock();
    if !all.about.trained {
        writeln!(out, "UNTRAINED: the weights are random, and these numbers mean nothing")?;
    }
    writeln!(out, "{}\n{} and {}", report.text(), json_file.display(), page_file.display())?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    kept::replace(path, text.as_bytes(), Durable::Process)
        .with_context(|| format!("writing {}", path.display()))
}

fn import(args: &Import) -> Result<()> {
    ensure!(!args.compound || args.dataset == "mafw", "--compound: {} has no compound labels", args.dataset);
    let folder = fs::canonicalize(&args.folder)
        .with_context(|| format!("looking for the data set {}", args.folder.display()))?;
    let refused = || Refused(format!("{} is not laid out as {}", folder.display(), args.dataset));
    let found = match args.dataset.as_str() {
        "dfew" => dataset::dfew(&folder, args.fold, args.split),
        "mafw" => dataset::mafw(&folder, args.fold, args.split, args.compound),
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
    let above = above(&args.output)?;
    let lines: String = found.lines.iter().map(|entry| format!("{}\n", entry.json(&above))).collect();
    write(&args.output, &lines)?;
    println!("{}: {} clips", args.output.display(), found.lines.len());
    if args.compound {
        let labels: BTreeSet<&str> = found.lines.iter().map(|entry| entry.label.as_str()).collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(",");
        println!("the bundle needs a label set of them: mien pack ... --labels \"mafw-compound={labels}\"");
    }
    Ok(())
}

fn measure(args: &Measure) -> Result<()> {
    let at = || args.manifest.display();
    let text =
        fs::read_to_string(&args.manifest).with_context(|| format!("reading the manifest {}", at()))?;
    let (from, to) = (above(&args.manifest)?, above(&args.output)?);
    ensure!(from == to, "--output must lie beside {}: clips are relative to the manifest's folder", at());
    let nets = args.nets.as_deref().map(config::nets_in).transpose()?.unwrap_or_default();
    let mut measuring = Measuring::new(&nets, Given::Both.gives())?;
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    ensure!(!lines.is_empty(), "{} has no clip", at());
    let bar = clips::bar(lines.len(), 0)?;
    let (mut out, mut left_out) = (String::new(), 0);
    for (number, line) in lines {
        let place = || format!("{}, line {}", at(), number + 1);
        let mut line: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).with_context(place)?;
        let key = |name: &str| line.get(name).and_then(|value| value.as_str());
        let clip = from.join(key("clip").with_context(|| format!("{}: no clip", place()))?);
        match measuring.file(&clip, key("person")) {
            Ok(cues) => {
                line.insert("measured".into(), measured::as_json(&cues));
            }
            Err(error) if args.strict => return Err(error.context(place())),
            Err(error) => {
                left_out += 1;
                bar.suspend(|| log::warn!("{}: not measured: {error:#}", place()));
            }
        }
        out += &format!("{}\n", serde_json::Value::Object(line));
        bar.inc(1);
    }
    bar.finish_and_clear();
    write(&args.output, &out)?;
    println!(
        "{}: {} clips, {left_out} of them not measured",
        args.output.display(),
        bar.length().unwrap_or(0)
    );
    Ok(())
}

/// The folder that a file lies in.
fn above(path: &Path) -> Result<PathBuf> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(above).with_context(|| format!("looking for {}", above.display()))
}
