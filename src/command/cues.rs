//! `mien cues`: what is measured of a recording beside the model, one JSON line for each window.
//!
//! No emotion is inferred: a line names what was heard and seen, and who was there.

use super::Refused;
use crate::{
    bundle::Words,
    config,
    cues::{
        Cues, Gate, Measurer,
        ledger::{Ledger, Measured, Presence},
        measure::{Heard, Voice},
    },
    model::{
        AudioContext,
        words::{self, Transcribe},
    },
    source::{self, Pool, Reading, SAMPLE_RATE, Source, clip},
};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What is measured of a recording beside the model: voice, face, who is there. No emotion is inferred.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A recording, as `mien infer` takes it.
    clip: PathBuf,
    /// A folder that `tools/nets fetch` filled; without it voices alone are measured.
    #[arg(long)]
    nets: Option<PathBuf>,
    /// A speech recogniser that `mien pack --whisper` made: what was said in each window, in words.
    #[arg(long, value_name = "FILE")]
    words: Option<PathBuf>,
    /// How much sound the recogniser encodes: whole, or speech for what holds sound.
    #[arg(long, value_name = "HOW", default_value = "speech", requires = "words")]
    audio_context: AudioContext,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<String>,
}

/// Hears the words of the last window.
struct Listener {
    recogniser: Box<dyn Transcribe>,
    /// The last ones, a window long at most.
    samples: Vec<f32>,
    window: usize,
    /// Samples of the recording so far.
    total: usize,
}

impl Listener {
    fn open(path: &Path, context: AudioContext, window_ms: u64) -> Result<Listener> {
        let refuse = || Refused(format!("cannot use the recogniser {}", path.display()));
        let bundle = Words::open(path).with_context(refuse)?;
        let recogniser = words::load(&bundle, 0, context).with_context(refuse)?;
        let (window, hears_ms) = (window_ms as usize * SAMPLE_RATE as usize / 1_000, recogniser.hears_ms());
        ensure!(window_ms as usize <= hears_ms, "--window-ms {window_ms}: the recogniser hears {hears_ms}");
        Ok(Listener { recogniser, samples: Vec::new(), window, total: 0 })
    }

    fn push(&mut self, reading: &Reading) {
        if let Reading::Chunk(chunk) = reading {
            self.total += chunk.samples.len();
            let over = (self.samples.len() + chunk.samples.len()).saturating_sub(self.window);
            self.samples.drain(..over.min(self.samples.len()));
            self.samples.extend(chunk.samples.iter().map(|sample| source::sample_f32(*sample)));
        }
    }

    fn words(&mut self, start_ms: u64) -> Result<String> {
        let first = self.total - self.samples.len();
        let before = (start_ms as usize * SAMPLE_RATE as usize / 1_000).saturating_sub(first);
        let heard = self.recogniser.transcribe(&self.samples[before.min(self.samples.len())..])?;
        Ok(if heard.heard() { heard.text } else { String::new() })
    }
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
    let mut measurer = Measurer::new(&nets, Gate::default(), Cues::default(), 1)?;
    let mut ledger = Ledger::default();
    let open = |path: &Path| Listener::open(path, args.audio_context, args.window_ms);
    let mut listener = args.words.as_deref().map(open).transpose()?;
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
                tell(&mut out, &ledger, &mut listener, due_ms - args.window_ms, due_ms)?;
            }
            due_ms += args.hop_ms;
        }
        if let Some(listener) = &mut listener {
            listener.push(&reading);
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
        tell(&mut out, &ledger, &mut listener, due_ms - args.window_ms, due_ms)?;
    }
    Ok(())
}

fn tell(
    out: &mut impl Write,
    ledger: &Ledger,
    listener: &mut Option<Listener>,
    start_ms: u64,
    end_ms: u64,
) -> Result<()> {
    let (start_ns, end_ns) = (start_ms * 1_000_000, end_ms * 1_000_000);
    let presence = ledger.presence(start_ns, end_ns);
    let (Presence { voice, face, .. }, people) = (presence, presence.people());
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
        words: listener.as_mut().filter(|_| voice != Some(false)).map(|l| l.words(start_ms)).transpose()?,
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
