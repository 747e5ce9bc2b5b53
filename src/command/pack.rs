//! `mien pack`: make a bundle from a published checkpoint, or a synthetic one without.

use crate::bundle::import::{self, Options, Towers, WordsOptions};
use crate::bundle::synthetic::{self, Preset};
use crate::bundle::write::Progress;
use crate::bundle::{Header, Kind, Recipe, write};
use crate::command::{Refused, open_bundle};
use crate::model::{self, Device, self_test};
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Make a bundle from a published checkpoint.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder R1-Omni-0.5B, or the folder that holds it and the towers; or a bundle, to measure its self-test anew, or to store its matrices
    /// as another --quant.
    #[arg(required_unless_present_any = ["synthetic", "whisper"], conflicts_with = "synthetic")]
    checkpoint: Option<PathBuf>,
    /// File to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Kind of the matrices: f32, f16, q8_0 or q4_0; or q4, which is q4_0 in the decoder and q8_0 in everything else. q8_0 where it
    /// is not said.
    #[arg(long, value_parser = Recipe::from_name)]
    quant: Option<Recipe>,
    /// Copies of the towers to pack: those beside the checkpoint, those inside it, or beside where they are there.
    #[arg(long, value_parser = towers)]
    towers: Option<Towers>,
    /// Another instruction, as plain text; may take the place of `reason` and `label`. Repeatable.
    #[arg(long = "prompt", value_name = "NAME=TEXT", value_parser = named)]
    prompts: Vec<(String, String)>,
    /// Another set of labels. Repeatable.
    #[arg(long = "labels", value_name = "NAME=a,b,c", value_parser = named)]
    labels: Vec<(String, String)>,
    /// Weights of the video, body and face branches for every prompt, instead of BERT's.
    #[arg(long, value_name = "V,B,F", value_parser = gate)]
    gate: Option<[f32; 3]>,
    /// BERT's vocab.txt, where the folder bert-base-uncased is not beside the checkpoint.
    #[arg(long, value_name = "FILE")]
    bert_vocab: Option<PathBuf>,
    /// System sentence, instead of the chat template's own.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Name of the bundle, instead of the folder's.
    #[arg(long)]
    name: Option<String>,
    /// Licence of the weights, instead of what the checkpoint's README.md states.
    #[arg(long)]
    license: Option<String>,
    /// Mark the weights as random.
    #[arg(long)]
    untrained: bool,
    /// Leave the self-test out: this machine need not run the model.
    #[arg(long)]
    no_self_test: bool,
    /// A speech recogniser instead: the folder of a Whisper, as transformers saves it (config.json, model.safetensors, tokenizer.json).
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["checkpoint", "synthetic"])]
    whisper: Option<PathBuf>,
    /// What a recogniser of many languages is to hear.
    #[arg(long, value_name = "CODE", default_value = "en", requires = "whisper")]
    language: String,
    /// Random weights instead of a checkpoint: tiny or r1-omni-0.5b.
    #[arg(long, value_name = "SIZE", value_parser = Preset::from_name)]
    synthetic: Option<Preset>,
    /// Seed of the random weights.
    #[arg(long, default_value_t = 0, requires = "synthetic")]
    seed: u64,
}

fn towers(name: &str) -> Result<Towers> {
    Ok(match name {
        "auto" => Towers::Auto,
        "beside" => Towers::Beside,
        "embedded" => Towers::Embedded,
        _ => anyhow::bail!("choose auto, beside or embedded"),
    })
}

fn named(argument: &str) -> Result<(String, String)> {
    let (name, value) = argument.split_once('=').context("this must be NAME=...")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn gate(argument: &str) -> Result<[f32; 3]> {
    let weights: Result<Vec<f32>, _> = argument.split(',').map(|w| w.trim().parse()).collect();
    weights?.try_into().ok().context("this must be three weights: V,B,F")
}

impl Args {
    /// Refuses what only packing a checkpoint can do, where none is packed.
    fn check(&self) -> Result<()> {
        ensure!(
            self.synthetic.is_none() || !self.asks_for_more(),
            "--synthetic has prompts, labels and a name of its own: name nothing but --output, --quant and --seed"
        );
        if let Some(path) = self.checkpoint.as_deref().filter(|path| path.is_file()) {
            ensure!(
                !self.asks_for_more(),
                "{} is a bundle, and its prompts and labels stay as they are: name nothing but --output and --quant, or pack its checkpoint",
                path.display()
            );
        }
        Ok(())
    }

    /// Something that only packing a checkpoint can do.
    fn asks_for_more(&self) -> bool {
        let texts = [&self.system, &self.name, &self.license];
        self.towers.is_some()
            || self.no_self_test && self.quant.is_none()
            || self.gate.is_some()
            || self.bert_vocab.is_some()
            || self.untrained
            || !self.prompts.is_empty()
            || !self.labels.is_empty()
            || texts.into_iter().any(Option::is_some)
    }
}

/// Has this machine's processor score the window of the self-test, and writes the bundle's scores into its header; weights stay as
/// they are.
fn with_self_test(from: &Path, to: &Path) -> Result<()> {
    let bundle = open_bundle(from)?;
    let bar = ProgressBar::new_spinner().with_message("measuring the self-test");
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut infer = model::load(&bundle, Device::Cpu, 0).context("loading the model for its self-test")?;
    let test = self_test::measure(&bundle, infer.as_mut()).context("measuring the self-test")?;
    drop(infer);
    let header = Header { self_test: Some(test), ..bundle.header().clone() };
    write::write_header(to, &bundle, &header)?;
    bar.finish_and_clear();
    Ok(())
}

/// The same for what was just packed, where this machine can: one that packs need not be one that can run what it packed. Its length.
fn tested(path: &Path, file_bytes: u64) -> Result<u64> {
    match with_self_test(path, path) {
        Ok(()) => Ok(fs::metadata(path)?.len()),
        Err(error) => {
            log::warn!("packed without a self-test: {error:#}");
            Ok(file_bytes)
        }
    }
}

/// The matrices of a bundle as other kinds; what it lost when it was packed stays lost. Its length.
fn store_anew(from: &Path, to: &Path, quant: Recipe, tell: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
    let bundle = open_bundle(from)?;
    bundle.verify().with_context(|| Refused(format!("cannot use the bundle {}", from.display())))?;
    let header = Header { quant, self_test: None, ..bundle.header().clone() };
    write::write_file(to, &header, bundle.has("decoder.head.weight"), &mut write::Stored(&bundle), tell)
}

/// A speech recogniser's folder. The file's length.
fn pack_words(folder: &Path, args: &Args, tell: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
    ensure!(
        args.prompts.is_empty() && args.labels.is_empty() && args.gate.is_none() && args.towers.is_none(),
        "a speech recogniser has no prompts, labels, gate or towers"
    );
    let options = WordsOptions {
        folder: folder.to_owned(),
        quant: args.quant.unwrap_or(Kind::Q8_0.into()),
        language: args.language.clone(),
        name: args.name.clone(),
        license: args.license.clone(),
    };
    import::words::pack(&options, &args.output, tell)
        .with_context(|| Refused(format!("cannot pack {}", folder.display())))
}

pub fn run(args: Args) -> Result<()> {
    let bar = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{msg:32!} {wide_bar} {percent:>3} %  {eta}")
            .context("drawing progress")?,
    );
    let mut tell = |at: Progress<'_>| {
        bar.set_length(at.total_bytes);
        bar.set_position(at.done_bytes);
        bar.set_message(at.doing.to_owned());
    };
    args.check()?;
    if let Some(path) = args.checkpoint.as_deref().filter(|path| path.is_file()) {
        let Some(quant) = args.quant else {
            with_self_test(path, &args.output)?;
            println!("{}: written with a self-test, weights unchanged", args.output.display());
            return Ok(());
        };
        let mut file_bytes = store_anew(path, &args.output, quant, &mut tell)?;
        bar.finish_and_clear();
        if !args.no_self_test {
            file_bytes = tested(&args.output, file_bytes)?;
        }
        println!("{}: {file_bytes} bytes, {}", args.output.display(), quant.name());
        return Ok(());
    }
    if let Some(folder) = &args.whisper {
        let file_bytes = pack_words(folder, &args, &mut tell)?;
        bar.finish_and_clear();
        println!("{}: {file_bytes} bytes, a speech recogniser", args.output.display());
        return Ok(());
    }
    let output = args.output.clone();
    let kind = args.quant.unwrap_or(Kind::Q8_0.into());
    let quant = kind.name();
    let tests = args.synthetic.is_none() && !args.no_self_test;
    let mut file_bytes = match (args.synthetic, args.checkpoint) {
        (Some(preset), _) => synthetic::write_file(&output, preset, args.seed, kind, &mut tell)?,
        (None, Some(checkpoint)) => {
            let labels = |list: &str| list.split(',').map(|label| label.trim().to_owned()).collect();
            let options = Options {
                towers: args.towers.unwrap_or(Towers::Auto),
                prompts: args.prompts,
                label_sets: args.labels.iter().map(|(name, list)| (name.clone(), labels(list))).collect(),
                gate: args.gate,
                bert_vocab: args.bert_vocab,
                system: args.system,
                name: args.name,
                license: args.license,
                untrained: args.untrained,
                ..Options::new(&checkpoint, kind)
            };
            import::pack(&options, &output, &mut tell)
                .with_context(|| Refused(format!("cannot pack {}", checkpoint.display())))?
        }
        (None, None) => anyhow::bail!("name a checkpoint to pack, or --synthetic tiny"),
    };
    bar.finish_and_clear();
    if tests {
        file_bytes = tested(&output, file_bytes)?;
    }
    println!("{}: {file_bytes} bytes, {quant}", output.display());
    Ok(())
}
