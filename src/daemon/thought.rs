//! What the model said of a window, held against what was measured of it.

use super::plan::Plan;
use crate::{
    cues::{
        Ground,
        ground::{self, Grounds, Verdict},
        ledger::Cues,
    },
    model::Reason,
    sink::EpisodeReason,
};

/// What the model was shown.
#[derive(Clone, Copy, Default)]
pub struct Shown {
    pub start_ns: u64,
    pub end_ns: u64,
    /// Bits of the wire.
    pub present: u8,
    /// Faces in its last look.
    pub people: u8,
}

/// A reason's text with its verdicts.
pub struct Thought {
    shown: Shown,
    text: String,
    answer: Option<String>,
    grounds: Option<Grounds>,
    /// Its label was gone before it was written to its end.
    pub cut: bool,
}

impl Thought {
    /// Without claims that are unsure or contradicted, where the plan says so.
    pub fn of(said: Reason, shown: Shown, cues: &Cues, plan: &Plan) -> Thought {
        let said = ground::without_unsure(said, plan.model.reason_sure);
        let text = said.think.unwrap_or(said.text);
        let text = text.strip_prefix("<think>").unwrap_or(&text).trim().to_owned();
        let grounds = plan.grounds().then(|| ground::check(&text, cues));
        let thought = Thought { shown, text, answer: said.answer, grounds, cut: false };
        match &thought.grounds {
            Some(found) if thought.contradicted() && plan.cues.ground == Ground::DropContradicted => {
                let text = ground::without_contradicted(&thought.text, found);
                Thought { grounds: Some(ground::check(&text, cues)), text, ..thought }
            }
            _ => thought,
        }
    }

    pub fn contradicted(&self) -> bool {
        self.grounds.as_ref().is_some_and(|grounds| grounds.count(Verdict::Contradicted) > 0)
    }

    /// What its contradicted claims say, each in a word.
    pub fn contradictions(&self) -> Vec<String> {
        let claims = self.grounds.iter().flat_map(|grounds| &grounds.0);
        claims
            .filter(|judged| judged.verdict == Verdict::Contradicted)
            .map(|judged| self.text[judged.said.word.clone()].to_owned())
            .collect()
    }

    pub fn better_than(&self, other: &Thought) -> bool {
        match (&self.grounds, &other.grounds) {
            (Some(own), Some(other)) => own.better_than(other),
            _ => false,
        }
    }

    pub fn reason(self, episode: u32) -> EpisodeReason {
        let Thought { shown, text, answer, grounds, cut } = self;
        let at_ms = shown.end_ns / 1_000_000;
        EpisodeReason {
            episode,
            at_ms,
            text,
            present: shown.present,
            answer,
            cut,
            grounds,
            people: shown.people,
        }
    }
}
