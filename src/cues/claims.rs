//! What a reason claims, in a small closed grammar, and how it stands against the cues of a clip.
//!
//! A claim is `VALUE CUE` in a list after "I see" or "I hear": "I see raised brow, wide eyes. I hear high pitch, bad words." "no face",
//! "no voice" and "no words" claim an absence. Anything else is text without a claim. `tools/train/claims.py` is the same in Python,
//! and `tests/data/claims.json` holds both.

use super::{CUES, Channel, Cue};
use std::collections::HashSet;

/// A cue and the value that is claimed of it.
pub type Claim = (&'static str, &'static str);

/// Counts of one reason's distinct claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub supported: usize,
    /// The cue is there and says otherwise, or an absence is claimed of what is there.
    pub contradicted: usize,
    /// The claim is about a modality that the clip does not have.
    pub absent: usize,
    /// Nothing of the kind was logged, or it cannot be observed.
    pub unsupported: usize,
    /// How many cues there were to name.
    pub cues: usize,
}

impl Standing {
    pub fn claims(&self) -> usize {
        self.supported + self.contradicted + self.absent + self.unsupported
    }
}

/// The distinct claims of a text, in order.
pub fn read(text: &str) -> Vec<Claim> {
    let mut found = Vec::new();
    for list in lists(text) {
        for part in list.split(',') {
            if let Some(claim) = claim(part.trim())
                && !found.contains(&claim)
            {
                found.push(claim);
            }
        }
    }
    found
}

/// What stands between "I see" or "I hear" and the next full stop.
fn lists(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].find("I ") {
        let start = at + next;
        at = start + 1;
        let inside_a_word =
            text[..start].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let rest = &text[start..];
        let Some(rest) = rest.strip_prefix("I see ").or_else(|| rest.strip_prefix("I hear ")) else {
            continue;
        };
        if inside_a_word {
            continue;
        }
        let Some((list, after)) = rest.split_once('.') else { break };
        found.push(list);
        at = text.len() - after.len();
    }
    found
}

fn claim(text: &str) -> Option<Claim> {
    let (value, cue) = text.split_once(' ')?;
    let (cue, _, values) = CUES.iter().find(|(name, ..)| *name == cue)?;
    Some((*cue, *values.iter().find(|v| **v == value)?))
}

/// Where a cue of the table is to be found.
pub fn modality(cue: &str) -> Option<Channel> {
    CUES.iter().find(|(name, ..)| *name == cue).map(|(_, modality, _)| *modality)
}

/// The claims that are true of a clip: its observable cues, and the absence of what is missing.
pub fn observable(cues: &[Cue]) -> HashSet<(&str, &str)> {
    let seen = || cues.iter().filter(|c| c.observable);
    let mut out: HashSet<(&str, &str)> = seen().map(|c| (c.cue.as_str(), c.value.as_str())).collect();
    for (name, modality) in [("face", Channel::Face), ("voice", Channel::Voice), ("words", Channel::Words)] {
        if !seen().any(|c| c.modality == modality) {
            out.insert((name, "no"));
        }
    }
    out
}

/// How the claims of a thought stand against the logged cues.
pub fn check(thought: &str, cues: &[Cue]) -> Standing {
    let facts = observable(cues);
    let mut standing = Standing { cues: facts.len(), ..Standing::default() };
    let present = |wanted| facts.iter().any(|(cue, value)| *value != "no" && modality(cue) == Some(wanted));
    let still = ("face", "still");
    for claimed in read(thought) {
        let (cue, value) = claimed;
        let of = modality(cue).expect("a claim names a cue of the table");
        let spoken_of = || {
            let face_is_still = facts.contains(&still) && of == Channel::Face;
            facts.iter().any(|(known, _)| *known == cue) || face_is_still || claimed == still
        };
        let count = if facts.contains(&claimed) {
            &mut standing.supported
        } else if value == "no" {
            &mut standing.contradicted
        } else if !present(of) {
            &mut standing.absent
        } else if spoken_of() {
            &mut standing.contradicted
        } else {
            &mut standing.unsupported
        };
        *count += 1;
    }
    standing
}
