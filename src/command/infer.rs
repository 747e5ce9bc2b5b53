//! `mien infer`: answer one clip: label scores, the reason as it comes, and what each stage cost.

use crate::{
    bundle::{Bundle, LabelSet, Words},
    command::{Refused, default_bundle, open_bundle},
    model::{
        self, AudioContext, Decoding, Device, Infer, Input, Reason, Sampling, Scores, Stage, Stages, Stop,
        words::{self, Told},
    },
    source::recorded::whole::Recording,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{self, Write},
    path::PathBuf,
};

/// Answer one clip: scores, reason, times per stage.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A file that ffmpeg reads, an MJPEG/PCM AVI, a WAV file, or a folder of images with a WAV file.
    clip: PathBuf,
    /// Bundle to use; otherwise the one in models/.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// label: scores without thinking; reason: the answer in the model's words; both.
    #[arg(long, default_value = "both", value_parser = mode)]
    mode: Mode,
    /// Label set of the scores; otherwise the bundle's first.
    #[arg(long, value_name = "SET")]
    labels: Option<String>,
    /// Prompt of the bundle, instead of `label` for scores and `reason` for the reason.
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Only an answer of the form <think>..</think>, <answer>LABEL</answer>.
    #[arg(long)]
    constrained: bool,
    /// Tokens of the reason at most; otherwise the bundle's limit.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Draw tokens at random, by their likelihood to the power 1 / T; otherwise the likeliest is taken.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from the N likeliest tokens; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature")]
    top_k: usize,
    /// Draw from the fewest likeliest tokens with this share.
    #[arg(long, value_name = "P", default_value_t = 1.0, requires = "temperature")]
    top_p: f32,
    /// The same seed draws the same tokens.
    #[arg(long, default_value_t = 0, requires = "temperature")]
    seed: u64,
    /// Threads; 0 for one per processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// whole: all of the audio tower's time; speech: what holds sound, which is faster and not the same.
    #[arg(long, value_name = "CONTEXT", default_value = "whole")]
    audio_context: AudioContext,
    /// A speech recogniser that `mien pack --whisper` made: what is said goes into a prompt that has a place for it.
    #[arg(long, value_name = "FILE")]
    words: Option<PathBuf>,
    /// auto, cpu, cuda or scalar.
    #[arg(long, default_value = "auto")]
    backend: Device,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Label,
    Reason,
    Both,
}

fn mode(name: &str) -> Result<Mode> {
    Ok(match name {
        "label" => Mode::Label,
        "reason" => Mode::Reason,
        "both" => Mode::Both,
        _ => anyhow::bail!("choose label, reason or both"),
    })
}

pub fn run(args: Args) -> Result<()> {
    let path = args.bundle.clone().map_or_else(default_bundle, Ok)?;
    let bundle = open_bundle(&path)?;
    let set = match &args.labels {
        Some(name) => bundle.label_set(name)?,
        None => bundle.label_sets().first().context("the bundle has no label set")?,
    };
    let prompt_of = |mode: &'static str| args.prompt.as_deref().unwrap_or(mode);
    let modes: &[&'static str] = match args.mode {
        Mode::Label => &["label"],
        Mode::Reason => &["reason"],
        Mode::Both => &["label", "reason"],
    };
    for mode in modes {
        bundle.prompt(prompt_of(mode))?;
    }
    let mut recording = Recording::open(&args.clip, bundle.shape().frames)?;
    recording.hear(bundle.shape().samples_max());
    ensure!(
        recording.frames_total > 0 || recording.samples.is_some(),
        "the clip {} has neither pictures nor sound",
        args.clip.display()
    );

    let mut model = load(&args, &bundle)?;
    model.set_decoding(decoding(&args, set))?;
    model.set_audio_context(args.audio_context)?;
    let stages = Stages::default();
    model.observe(Some(Box::new(stages.clone())));
    let mut out = io::stdout().lock();
    if !args.json {
        introduce(&mut out, &args, &bundle, &recording, &*model)?;
    }
    let frames = recording.frames();
    let input = Input { frames: frames.as_deref(), samples: recording.samples.as_deref(), words: None };
    model.see(prompt_of(modes[0]), &input)?;
    if let (Some(heard), false) = (model.heard(), args.json) {
        writeln!(out, "words     {}", if heard.is_empty() { "none" } else { heard })?;
    }

    let mut scores = None;
    if modes.contains(&"label") {
        let found = model.score(&set.name)?.clone();
        if !args.json {
            bars(&mut out, set, &found)?;
        }
        scores = Some(found);
    }
    let mut reason = None;
    if modes.contains(&"reason") {
        if modes.len() > 1 && prompt_of("reason") != prompt_of("label") {
            model.ask(prompt_of("reason"))?;
        }
        reason = Some(speak(&mut out, &mut *model, args.json)?);
    }
    let stages = stages.take();
    if args.json {
        let mut report = report(&args, &recording, &bundle, (set, scores.as_ref()), reason.as_ref(), &stages);
        if let Some(heard) = model.heard() {
            report["words"] = heard.into();
        }
        writeln!(out, "{report}")?;
    } else {
        table(&mut out, &stages)?;
    }
    Ok(())
}

/// The model, with a recogniser in front of it where one is named.
fn load(args: &Args, bundle: &Bundle) -> Result<Box<dyn Infer>> {
    let model = model::load(bundle, args.backend, args.threads)?;
    let Some(path) = &args.words else { return Ok(model) };
    let file = Words::open(path)
        .with_context(|| Refused(format!("cannot use the recogniser {}", path.display())))?;
    Ok(Box::new(Told::new(model, words::load(&file, args.threads, AudioContext::Speech)?)))
}

fn decoding(args: &Args, set: &LabelSet) -> Decoding {
    let draw = |temperature| Sampling { temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    Decoding {
        sampling: args.temperature.map(draw),
        max_new_tokens: args.max_new_tokens,
        constrain_to: args.constrained.then(|| set.name.clone()),
        ..Decoding::default()
    }
}

/// Says what of the clip the model is shown.
fn introduce(
    out: &mut impl Write,
    args: &Args,
    bundle: &Bundle,
    recording: &Recording,
    model: &dyn Infer,
) -> Result<()> {
    let head = bundle.header();
    writeln!(out, "bundle    {}, {}", head.name, head.quant.name())?;
    if !head.trained {
        writeln!(out, "          UNTRAINED: its weights are random, and so is what it says")?;
    }
    writeln!(out, "device    {}", model.describe())?;
    writeln!(out, "clip      {}", args.clip.display())?;
    match recording.frames_total {
        0 => writeln!(out, "video     none: the prompt leaves its place out")?,
        total => {
            writeln!(out, "video     {} of {total} frames, evenly over the clip", recording.indices.len())?
        }
    }
    match &recording.samples {
        None => writeln!(out, "audio     none: the prompt leaves its place out")?,
        Some(samples) => {
            let seconds = seconds(samples);
            let cut = if recording.sound_cut { "; the sound after that is not heard" } else { "" };
            writeln!(out, "audio     {seconds:.2} s{cut}")?;
        }
    }
    Ok(())
}

fn seconds(samples: &[f32]) -> f64 {
    samples.len() as f64 / crate::feature::mel::RATE_HZ as f64
}

const BAR: f32 = 40.0;

fn bars(out: &mut impl Write, set: &LabelSet, scores: &Scores) -> Result<()> {
    writeln!(out, "\nscores ({})", set.name)?;
    for (label, p) in set.labels.iter().zip(&scores.probabilities) {
        let bar = "#".repeat((p * BAR).round() as usize);
        writeln!(out, "  {label:14} {p:6.3} {bar}")?;
    }
    Ok(())
}

fn speak(out: &mut impl Write, model: &mut dyn Infer, quiet: bool) -> Result<Reason> {
    if quiet {
        return model.reason(&mut |_| {});
    }
    writeln!(out, "\nreason")?;
    let mut broken = None;
    let reason = model.reason(&mut |text| {
        let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        broken = broken.take().or(said.err());
    })?;
    if let Some(error) = broken {
        return Err(error).context("writing the reason");
    }
    let end = match reason.stop {
        Stop::EndOfText => "",
        Stop::MaxNewTokens => " (cut: no more tokens are allowed)",
        Stop::Repetition => " (stopped: the same words came again and again)",
        Stop::Halted => " (stopped)",
    };
    writeln!(out, "\n  {} tokens{end}", reason.tokens)?;
    if let Some(answer) = &reason.answer {
        writeln!(out, "answer    {answer}")?;
    }
    Ok(reason)
}

fn table(out: &mut impl Write, stages: &[Stage]) -> Result<()> {
    writeln!(
        out,
        "\n{:10} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "stage", "calls", "ms", "MB", "GFLOP", "GFLOP/s"
    )?;
    for s in stages {
        let (ms, gflop) = (s.time.as_secs_f64() * 1e3, s.cost.operations as f64 / 1e9);
        let rate = if ms > 0.0 { gflop / ms * 1e3 } else { 0.0 };
        let mb = s.cost.bytes as f64 / 1e6;
        writeln!(out, "{:10} {:>6} {ms:>10.1} {mb:>10.1} {gflop:>10.2} {rate:>10.1}", s.name, s.calls)?;
    }
    let total: f64 = stages.iter().map(|s| s.time.as_secs_f64() * 1e3).sum();
    writeln!(out, "{:10} {:>6} {total:>10.1}", "all", "")?;
    Ok(())
}

fn report(
    args: &Args,
    recording: &Recording,
    bundle: &Bundle,
    (set, scores): (&LabelSet, Option<&Scores>),
    reason: Option<&Reason>,
    stages: &[Stage],
) -> Value {
    let mut missing = Vec::new();
    if recording.frames_total == 0 {
        missing.push("video");
    }
    if recording.samples.is_none() {
        missing.push("audio");
    }
    let scored = scores.map(|s| {
        let pairs = set.labels.iter().zip(&s.probabilities);
        json!({
            "labels": set.name,
            "probabilities": pairs.map(|(label, p)| (label.clone(), json!(p))).collect::<serde_json::Map<_, _>>(),
        })
    });
    let reasoned = reason.map(|r| {
        json!({
            "text": r.text,
            "think": r.think,
            "answer": r.answer,
            "tokens": r.tokens,
            "stop": match r.stop {
                Stop::EndOfText => "end_of_text",
                Stop::MaxNewTokens => "max_new_tokens",
                Stop::Repetition => "repetition",
                Stop::Halted => "halted",
            },
        })
    });
    let stage = |s: &Stage| {
        json!({
            "name": s.name,
            "calls": s.calls,
            "ms": s.time.as_secs_f64() * 1e3,
            "bytes": s.cost.bytes,
            "operations": s.cost.operations,
        })
    };
    json!({
        "clip": args.clip.display().to_string(),
        "bundle": bundle.header().name,
        "trained": bundle.header().trained,
        "frames_total": recording.frames_total,
        "frames": recording.indices,
        "sound_s": recording.samples.as_deref().map(seconds),
        "sound_cut": recording.sound_cut,
        "missing": missing,
        "scores": scored,
        "reason": reasoned,
        "stages": stages.iter().map(stage).collect::<Vec<_>>(),
    })
}
