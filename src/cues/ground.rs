//! A reason held against what was measured: a verdict for each of its claims, and its text without those that are contradicted or unsure.

use super::{
    Channel,
    ledger::{Cues, Measured},
    lexicon::{self, Said},
};
use crate::model::Reason;
use std::cmp::Reverse;

/// How a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was measured.
    True,
    /// Something else was measured.
    Contradicted,
    /// It can be measured, but not now: the person is not known yet, is not there, or is turned away.
    NotObservable,
    /// Nothing here measures it.
    NotCheckable,
}

/// A claim of a text with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub said: Said,
    pub verdict: Verdict,
}

/// Every claim of a reason, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grounds(pub Vec<Judged>);

impl Grounds {
    pub fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|judged| judged.verdict == verdict).count()
    }

    /// Of two reasons the one with fewer contradicted claims is better, then the one with more true ones.
    pub fn better_than(&self, other: &Grounds) -> bool {
        let rank =
            |grounds: &Grounds| (Reverse(grounds.count(Verdict::Contradicted)), grounds.count(Verdict::True));
        rank(self) > rank(other)
    }
}

/// Holds the claims of a text against the cues of the window that it is about.
pub fn check(text: &str, cues: &Cues) -> Grounds {
    let judged = |said: Said| Judged { verdict: verdict(&said, cues), said };
    Grounds(lexicon::read(text).into_iter().map(judged).collect())
}

fn verdict(said: &Said, cues: &Cues) -> Verdict {
    let (cue, value) = said.claim;
    if said.other {
        return Verdict::NotCheckable;
    }
    let plain = match (cue, value) {
        ("face", "still") => still(cues),
        _ => of(cue, value, cues),
    };
    match (plain, said.denied) {
        (Verdict::True, true) => Verdict::Contradicted,
        (Verdict::Contradicted, true) => Verdict::True,
        (plain, _) => plain,
    }
}

fn of(cue: &str, value: &str, cues: &Cues) -> Verdict {
    let Some(measured) = cues.iter().find(|measured| measured.cue == cue) else {
        return Verdict::NotCheckable;
    };
    let Measured { value: found, known, observable, .. } = *measured;
    match () {
        () if !known.contains(&value) && (found.is_empty() || !observable) => Verdict::NotCheckable,
        () if !observable => Verdict::NotObservable,
        () if found == value => Verdict::True,
        () => Verdict::Contradicted,
    }
}

/// A face in which something is seen is not still; that nothing is seen does not show that nothing is there.
fn still(cues: &Cues) -> Verdict {
    let face = || cues.iter().filter(|measured| measured.channel == Channel::Face);
    match face().any(|measured| measured.observable && !measured.value.is_empty()) {
        true => Verdict::Contradicted,
        false => Verdict::NotCheckable,
    }
}

/// A text without its contradicted claims.
pub fn without_contradicted(text: &str, grounds: &Grounds) -> String {
    let contradicted = |judged: &&Judged| judged.verdict == Verdict::Contradicted;
    without(text, grounds.0.iter().filter(contradicted).map(|judged| &judged.said))
}

/// What a model said without the claims whose words were less probable than `least`.
pub fn without_unsure(mut said: Reason, least: f32) -> Reason {
    if said.weights.is_empty() {
        return said;
    }
    let thought = said.think.as_deref().unwrap_or(&said.text);
    let at = said.text.find(thought).unwrap_or(0);
    let claims = lexicon::read(thought);
    let unsure = |claim: &&Said| said.probability(at + claim.from..at + claim.to) < least;
    let sure = without(thought, claims.iter().filter(unsure));
    let place = at..at + thought.len();
    said.text.replace_range(place, &sure);
    Reason { think: said.think.is_some().then_some(sure), weights: Vec::new(), ..said }
}

/// A text without some of its claims: items of a list go alone, in running text the sentence goes.
fn without<'a>(text: &str, claims: impl Iterator<Item = &'a Said>) -> String {
    let around = |claim: &Said| {
        item(text, claim.from, claim.to).unwrap_or_else(|| lexicon::sentence(text, claim.from))
    };
    let mut gone: Vec<(usize, usize)> = claims.map(around).collect();
    if gone.is_empty() {
        return text.to_owned();
    }
    gone.sort_unstable();
    let (mut out, mut at) = (String::new(), 0);
    for (from, to) in gone {
        out.push_str(&text[at..from.max(at)]);
        at = at.max(to);
    }
    out.push_str(&text[at..]);
    tidy(&out)
}

/// The claim with the comma that parts it from its neighbour, where it is an item of a list.
fn item(text: &str, from: usize, to: usize) -> Option<(usize, usize)> {
    let after = text[to..].chars().next()?;
    let before = text[..from].trim_end();
    match (before.ends_with(','), after) {
        (true, ',' | '.') => Some((before.len() - 1, to)),
        (false, ',') => Some((from, to + text[to..].find(|c: char| c != ',' && c != ' ').unwrap_or(1))),
        _ => None,
    }
}

/// Without empty lists ("I see ."), lists that begin with a comma, and double spaces.
fn tidy(text: &str) -> String {
    let mut out = text.replace("  ", " ");
    for lead in ["I see", "I hear"] {
        for comma in [" , ", ", "] {
            out = out.replace(&format!("{lead}{comma}"), &format!("{lead} "));
        }
        for end in [" .", "."] {
            out = out.replace(&format!("{lead}{end}"), "");
        }
    }
    out.trim().replace("  ", " ")
}
