//! `mien cues`: what is measured of a recording beside the model, one JSON line for each window.
//!
//! No emotion is inferred: a line names what was heard and seen, and who was there.

use crate::{
    config,
    cues::{
        Crop, Gate, Measurer,
        ledger::{Ledger, Measured, Presence},
        measure::{Heard, Voice},
    },
    source::{Pool, Reading, Source, clip},
};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
};

/// What is measured of a recording beside the model: voice, face, who is there. No emotion is inferred.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A recording, as `mien infer` takes it.
    clip: PathBuf,
    /// A folder that `tools/nets fetch` filled; without it voices alone are measured.
    #[arg(long)]
    nets: Option<PathBuf>,
    #[arg(long, default_value_t = 4_000)]
    window_ms: u64,
    #[arg(long, default_value_t = 1_000)]
    hop_ms: u64,
    /// Of a folder of pictures.
    #[arg(long, default_value_t = 25)]
    frames_per_second: u32,
    /// Every 10 ms of sound instead, as `ms hz level_db`; hz is 0 where there is no voice.
    #[arg(long)]
    pitch: bool,
    /// Every phrase and every look at a face instead, as JSON.
    #[arg(long, conflicts_with = "pitch")]
    facts: bool,
}

/// One window.
#[derive(Serialize)]
struct Line<'a> {
    start_ms: u64,
    end_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    voice: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    face: Option<bool>,
    people: u8,
    cues: BTreeMap<&'a str, &'a str>,
    /// Cues that could not be measured here.
    unobservable: Vec<&'a str>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!((100..=30_000).contains(&args.window_ms), "--window-ms {}: from 100 to 30000", args.window_ms);
    ensure!((100..=60_000).contains(&args.hop_ms), "--hop-ms {}: from 100 to 60000", args.hop_ms);
    let settings =
        clip::Settings { path: args.clip.clone(), paced: false, frames_per_second: args.frames_per_second };
    settings.check()?;
    let pool = Pool::new(2, 2);
    let mut source = settings.open(&pool)?;
    let mut out = io::stdout().lock();
    if args.pitch {
        return pitch(&mut *source, &pool, &mut out);
    }
    let nets = args.nets.as_deref().map(config::nets_in).transpose()?.unwrap_or_default();
    let mut measurer = Measurer::new(&nets, Gate::default(), Crop::None, 1)?;
    let mut ledger = Ledger::default();
    let mut due_ms = args.window_ms;
    let mut left = source.gives();
    while let Some(mut reading) = clip::next(&mut *source, &mut left)? {
        let at_ms = match &reading {
            Reading::Frame(frame) => frame.captured_ns,
            Reading::Chunk(chunk) => chunk.captured_ns,
            Reading::Lost { at_ns, .. } => *at_ns,
            Reading::End { .. } => continue,
        } / 1_000_000;
        while at_ms >= due_ms {
            if !args.facts {
                tell(&mut out, &ledger, due_ms - args.window_ms, due_ms)?;
            }
            due_ms += args.hop_ms;
        }
        let facts = measurer.take(&mut reading);
        if args.facts {
            for phrase in &facts.phrases {
                writeln!(out, "{}", serde_json::json!({ "phrase": phrase }))?;
            }
            if let Some(faces) = &facts.faces {
                writeln!(out, "{}", serde_json::json!({ "faces": faces }))?;
            }
        }
        ledger.push(&facts);
        pool.give(reading);
    }
    if !args.facts {
        tell(&mut out, &ledger, due_ms - args.window_ms, due_ms)?;
    }
    Ok(())
}

fn tell(out: &mut impl Write, ledger: &Ledger, start_ms: u64, end_ms: u64) -> Result<()> {
    let (start_ns, end_ns) = (start_ms * 1_000_000, end_ms * 1_000_000);
    let Presence { voice, face, people, .. } = ledger.presence(start_ns, end_ns);
    let cues = ledger.cues(start_ns, end_ns);
    let seen = |observable| cues.iter().filter(move |m: &&Measured| m.observable == observable);
    let line = Line {
        start_ms,
        end_ms,
        voice,
        face,
        people,
        cues: seen(true).map(|m| (m.cue, m.value)).collect(),
        unobservable: seen(false).map(|m| m.cue).collect(),
    };
    writeln!(out, "{}", serde_json::to_string(&line)?)?;
    Ok(())
}

fn pitch(source: &mut dyn Source, pool: &Pool, out: &mut impl Write) -> Result<()> {
    let mut voice = Voice::default();
    let mut text = String::new();
    let mut left = source.gives();
    while let Some(reading) = clip::next(source, &mut left)? {
        if let Reading::Chunk(chunk) = &reading {
            voice.push(chunk, |heard| {
                if let Heard::Step(at_ns, step) = heard {
                    text += &format!("{} {:.2} {:.1}\n", at_ns / 1_000_000, step.hz, step.level_db);
                }
            });
            out.write_all(text.as_bytes())?;
            text.clear();
        }
        pool.give(reading);
    }
    Ok(())
}
