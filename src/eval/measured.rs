//! The claims of reasons held against what is measured of their clips, for data that has no log of cues.
//!
//! What is usual of a person is learned over the person's clips, in the order of the manifest; clips without a `person` stand alone,
//! and one of a few seconds has no usual: its claims are not observable.

use super::manifest::Line;
use crate::{
    cues::{
        Channel, Gate, Measurer, Nets,
        ground::{self, Verdict},
        ledger::{self, Cues, Ledger},
    },
    source::{Gives, Pool, Reading, clip},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::HashMap, path::Path};

/// Between two clips, so that nothing of one reaches into the next.
const APART_NS: u64 = 10_000_000_000;
/// Of a folder of pictures.
const FRAMES_PER_SECOND: u32 = 25;

/// Verdicts on the claims of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    pub claims: usize,
    #[serde(rename = "true")]
    pub held: usize,
    pub contradicted: usize,
    pub not_observable: usize,
    pub not_checkable: usize,
}

impl Verdicts {
    /// Holds the claims of a text against what was measured.
    pub fn on(text: &str, cues: &Cues) -> Verdicts {
        let grounds = ground::check(text, cues);
        Verdicts {
            claims: grounds.0.len(),
            held: grounds.count(Verdict::True),
            contradicted: grounds.count(Verdict::Contradicted),
            not_observable: grounds.count(Verdict::NotObservable),
            not_checkable: grounds.count(Verdict::NotCheckable),
        }
    }
}

/// Measures one clip after the other.
pub struct Measuring {
    measurer: Measurer,
    given: Gives,
    people: HashMap<String, Ledger>,
    next_ns: u64,
}

impl Measuring {
    /// Without nets voices alone are measured.
    pub fn new(nets: &Nets, given: Gives) -> Result<Measuring> {
        let measurer = Measurer::new(nets, Gate::default(), Default::default(), 1)?;
        Ok(Measuring { measurer, given, people: HashMap::new(), next_ns: 0 })
    }

    /// What stood out in the clip of a manifest's line.
    pub fn clip(&mut self, line: &Line) -> Result<Cues> {
        self.file(&line.clip, line.person.as_deref())
    }

    /// What stood out in a clip; the person of the clip is known better after it.
    pub fn file(&mut self, path: &Path, person: Option<&str>) -> Result<Cues> {
        let settings =
            clip::Settings { path: path.into(), paced: false, frames_per_second: FRAMES_PER_SECOND };
        let pool = Pool::new(2, 2);
        let mut source = settings.open(&pool)?;
        let mut left = source.gives();
        let mut alone = Ledger::default();
        let ledger = match person {
            Some(person) => self.people.entry(person.to_owned()).or_default(),
            None => &mut alone,
        };
        self.measurer.forget();
        let (start_ns, mut end_ns) = (self.next_ns, self.next_ns);
        while let Some(mut reading) =
            clip::next(&mut *source, &mut left).with_context(|| path.display().to_string())?
        {
            let (at_ns, wanted) = match &mut reading {
                Reading::Frame(frame) => (&mut frame.captured_ns, self.given.video),
                Reading::Chunk(chunk) => (&mut chunk.captured_ns, self.given.audio),
                Reading::Lost { .. } | Reading::End { .. } => continue,
            };
            *at_ns += start_ns;
            end_ns = end_ns.max(*at_ns);
            if wanted {
                let mut facts = self.measurer.take(&mut reading);
                // A face that was away has another number; the person of the next clip is the same.
                if let Some(largest) = facts.faces.as_mut().and_then(|faces| faces.people.first_mut()) {
                    largest.track = 1;
                }
                ledger.push(&facts);
            }
            pool.give(reading);
        }
        self.next_ns = end_ns + APART_NS;
        Ok(ledger.cues(start_ns, end_ns))
    }
}

/// What was measured of a clip, as a manifest's key `measured` has it: `{modality, cue, value, known, observable}` for each cue. `value` is
/// one of `known`, the values that are told apart, or empty: none of them.
pub fn as_json(cues: &Cues) -> Value {
    let one = |m: &ledger::Measured| {
        let modality = match m.channel {
            Channel::Face => "face",
            Channel::Voice => "voice",
            Channel::Words => "words",
        };
        let known: Vec<&str> = m.known.into_iter().filter(|value| !value.is_empty()).collect();
        json!({"modality": modality, "cue": m.cue, "value": m.value, "known": known, "observable": m.observable})
    };
    cues.iter().map(one).collect()
}
