//! The claims of reasons held against what is measured of their clips, for data that has no log of cues.
//!
//! What is usual of a person is learned over the person's clips, in the order of the manifest; clips without a `person` stand alone,
//! and one of a few seconds has no usual: its claims are not observable.

use super::manifest::Line;
use crate::{
    cues::{
        Gate, Measurer, Nets,
        ground::{self, Verdict},
        ledger::{Cues, Ledger},
    },
    source::{Gives, Pool, Reading, clip},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

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

    /// What stood out in a clip; the person of the clip is known better after it.
    pub fn clip(&mut self, line: &Line) -> Result<Cues> {
        let settings =
            clip::Settings { path: line.clip.clone(), paced: false, frames_per_second: FRAMES_PER_SECOND };
        let pool = Pool::new(2, 2);
        let mut source = settings.open(&pool)?;
        let mut left = source.gives();
        let mut alone = Ledger::default();
        let ledger = match &line.person {
            Some(person) => self.people.entry(person.clone()).or_default(),
            None => &mut alone,
        };
        self.measurer.forget();
        let (start_ns, mut end_ns) = (self.next_ns, self.next_ns);
        while let Some(mut reading) =
            clip::next(&mut *source, &mut left).with_context(|| line.clip.display().to_string())?
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
