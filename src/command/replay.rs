//! `mien replay`: the windows of a record through the policy again.

use super::Refused;
use crate::{
    config,
    policy::{Limits, Observation, Policy},
    sink::{json, json::Line, record::Noted},
    wire::{Cause, Event, LABELS_MAX},
};
use anyhow::{Context, Result, bail, ensure};
use std::{collections::VecDeque, fs, path::PathBuf};

/// Put the windows of a record through the policy again, and compare the events with those that were told.
///
/// A record is made by `mien run CONFIG --record FILE`. With --config, the events that other thresholds would have told are printed.
#[derive(clap::Args, Debug)]
pub struct Args {
    record: PathBuf,
    /// Take the thresholds of this config instead of the record's.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print what differs only, and fail where something does.
    #[arg(long, conflicts_with = "config")]
    diff: bool,
}

pub fn run(args: Args) -> Result<()> {
    let name = args.record.display();
    let text = fs::read_to_string(&args.record).with_context(|| format!("reading {name}"))?;
    let other = match &args.config {
        Some(path) => {
            let refuse = || Refused(format!("cannot use the config {}", path.display()));
            Some(config::read(path).with_context(refuse)?.policy)
        }
        None => None,
    };
    let (again, differing) = replay(&text, other).with_context(|| name.to_string())?;
    if args.diff {
        differing.iter().for_each(|line| println!("{line}"));
        ensure!(differing.is_empty(), "{} of {} events differ", differing.len(), again.len());
        println!("{name}: {} events, the same again", again.len());
    } else {
        again.iter().for_each(|event| println!("{}", event.text()));
    }
    Ok(())
}

/// What a policy is replayed with.
struct Replay {
    policy: Policy,
    boot: u64,
    labels: Vec<String>,
    /// Events that were made and not yet compared.
    made: VecDeque<Event>,
    again: Vec<Line>,
    differing: Vec<String>,
}

/// The events again, and what differs from those of the record.
fn replay(text: &str, other: Option<Limits>) -> Result<(Vec<Line>, Vec<String>)> {
    let mut replay: Option<Replay> = None;
    let mut boot = 0;
    for (number, line) in text.lines().enumerate() {
        let place = || format!("line {}", number + 1);
        if let Ok(noted) = serde_json::from_str::<Noted>(line) {
            match (noted, &mut replay) {
                (Noted::Policy { limits, labels }, none @ None) => {
                    limits.check().with_context(place)?;
                    ensure!((1..=LABELS_MAX).contains(&labels.len()), "{}: {} labels", place(), labels.len());
                    let first = first_seq(text);
                    let policy = Policy::new(other.clone().unwrap_or(limits), labels.len(), first);
                    let (made, again, differing) = (VecDeque::new(), Vec::new(), Vec::new());
                    *none = Some(Replay { policy, boot, labels, made, again, differing });
                }
                (Noted::Window { at_ms, window_ms, expected, present, nobody, scores }, Some(replay)) => {
                    let labels = replay.labels.len();
                    let fits = scores.as_ref().is_none_or(|scores| scores.len() == labels);
                    ensure!(fits, "{}: a window needs {labels} scores", place());
                    let scores = scores.as_deref();
                    let seen = Observation { at_ms, window_ms, expected, present, nobody, scores };
                    replay.made.extend(replay.policy.push(&seen));
                }
                _ => bail!("{}: a record has one policy line, before its windows", place()),
            }
            continue;
        }
        match serde_json::from_str::<Line>(line)
            .with_context(|| format!("{} is no line of a record", place()))?
        {
            Line::Hello(hello) => boot = u64::from_str_radix(&hello.boot, 16).with_context(place)?,
            Line::Event(told) => {
                let replay =
                    replay.as_mut().with_context(|| format!("{}: an event before the policy", place()))?;
                replay.compare(told);
            }
            _ => {}
        }
    }
    let mut replay =
        replay.context("there is no policy line: make a record with `mien run CONFIG --record FILE`")?;
    while let Some(event) = replay.made.pop_front() {
        let event = replay.line(&event);
        replay.differing.push(format!("only again: {}", event.text()));
        replay.again.push(event);
    }
    Ok((replay.again, replay.differing))
}

impl Replay {
    fn line(&self, event: &Event) -> Line {
        let label = self.labels.get(usize::from(event.label)).map(String::as_str);
        Line::Event(json::Event::of(event, label, Some(self.boot)))
    }

    /// Compares an event that was told with the next that was made. What came from outside (a mute, a stop) is done again first.
    fn compare(&mut self, told: json::Event) {
        if self.made.is_empty()
            && let Some(cause) = told.cause.as_deref().and_then(Cause::from_name)
            && matches!(cause, Cause::Muted | Cause::Shutdown | Cause::InputEnd)
        {
            self.made.extend(self.policy.close(told.at_ms, cause));
        }
        // The end of what an earlier run began is no event of this one.
        if told.cause.as_deref() == Some(Cause::Restart.name()) {
            return;
        }
        // Stamps of the wall clock and ages are not the policy's.
        let told = Line::Event(json::Event { wall_ms: None, wall_synced: None, age_ms: 0, ..told });
        match self.made.pop_front() {
            None => self.differing.push(format!("only told: {}", told.text())),
            Some(made) => {
                let made = self.line(&made);
                if made != told {
                    self.differing.push(format!("told:  {}\nagain: {}", told.text(), made.text()));
                }
                self.again.push(made);
            }
        }
    }
}

/// Number of the first event that is this run's own.
fn first_seq(text: &str) -> u32 {
    let events = text.lines().filter_map(|line| match serde_json::from_str(line) {
        Ok(Line::Event(event)) if event.cause.as_deref() != Some(Cause::Restart.name()) => Some(event.seq),
        _ => None,
    });
    events.take(1).next().unwrap_or(0)
}
