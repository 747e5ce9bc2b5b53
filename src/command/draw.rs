//! `mien draw`: draw the events of a run as a picture.
//!
//! Input is what `stdout` printed (JSON lines), or a recording of a serial line. Output is one SVG that needs nothing else.

use crate::{
    kept::{self, Durable},
    report::story::{self, Story},
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
};

/// Draw the events of a run as a picture.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// JSON lines of `mien run` or `mien watch --json`, a recording of a serial line, or - for standard input.
    events: PathBuf,
    /// The picture (SVG).
    #[arg(short, long, default_value = "events.svg")]
    out: PathBuf,
    /// Heading; default: device and bundle.
    #[arg(long)]
    title: Option<String>,
    /// What was really shown, JSON lines with `start_ms`, `end_ms` and `label`: drawn as outlines, and compared.
    #[arg(long)]
    truth: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let name = args.events.display().to_string();
    let mut bytes = Vec::new();
    match name.as_str() {
        "-" => io::stdin().read_to_end(&mut bytes).map(drop),
        _ => fs::read(&args.events).map(|read| bytes = read),
    }
    .with_context(|| format!("reading {name}"))?;
    let lines = story::lines(&bytes);
    ensure!(!lines.is_empty(), "{name} holds neither JSON lines of events nor packets");
    let mut story = Story::of(&lines);
    ensure!(story.end_ms > story.start_ms, "{name} holds no event and no scores: there is nothing to draw");
    if let Some(path) = &args.truth {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let read = text.lines().enumerate().map(|(i, line)| {
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1))
        });
        story.truth = read.collect::<Result<_>>()?;
    }
    let svg = story.draw(args.title.as_deref());
    kept::replace(&args.out, svg.as_bytes(), Durable::Process)
        .with_context(|| format!("writing {}", args.out.display()))?;
    print!("{}", story.compare());
    println!(
        "{}: {} episodes of {} labels over {:.1} s",
        args.out.display(),
        story.episodes.len(),
        story.labels.len(),
        (story.end_ms - story.start_ms) as f64 / 1000.0
    );
    Ok(())
}
