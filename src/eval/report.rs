//! Records to numbers, and numbers to text. Names that `tools/train/evaluate.py` has too mean the same.
//!
//! Clips labelled `unknown` count in `unknown_recall` alone, clips that could not be read nowhere but in `errors`.

use super::{
    answer::{self, UNKNOWN},
    measured::Verdicts,
    metrics::{self, Bin},
    record::{About, Record},
};
use crate::model::follow::{self, Follower};
use serde::Serialize;
use std::fmt::Write;

/// What a label can hang on, in the order of a report.
pub const SUBSETS: [&str; 6] =
    ["consistent", "face_decides", "voice_decides", "words_decides", "fusion", "missing"];

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub clips: usize,
    pub errors: usize,
    /// Mean recall of the answers over the labels that the clips have, as upstream counts.
    pub uar: Option<f64>,
    /// The same over all declared labels; one without clips counts 0.
    pub uar_declared: Option<f64>,
    pub war: Option<f64>,
    /// Mean F1 over the labels that the clips have.
    pub f1: Option<f64>,
    /// Of the highest label score instead of the answer.
    pub uar_scores: Option<f64>,
    pub war_scores: Option<f64>,
    pub format: Option<f64>,
    pub ece: Option<f64>,
    /// The same at the temperature that follows the clips, one after the other.
    pub ece_followed: Option<f64>,
    pub brier: Option<f64>,
    pub nll: Option<f64>,
    /// Mean risk over all coverages.
    pub aurc: Option<f64>,
    pub claim_precision: Option<f64>,
    pub claim_recall: Option<f64>,
    /// Shares of the claims.
    pub contradiction: Option<f64>,
    pub absent: Option<f64>,
    /// Clips whose cues are known.
    pub cue_clips: usize,
    /// Shares of the claims, held against what was measured.
    pub measured_true: Option<f64>,
    pub measured_contradiction: Option<f64>,
    pub measured_unseen: Option<f64>,
    pub measured_uncheckable: Option<f64>,
    pub tokens: Option<f64>,
    pub unknown_recall: Option<f64>,
    pub uar_consistent: Option<f64>,
    pub uar_face_decides: Option<f64>,
    pub uar_voice_decides: Option<f64>,
    pub uar_words_decides: Option<f64>,
    pub uar_fusion: Option<f64>,
    pub uar_missing: Option<f64>,
    pub subsets: Vec<Subset>,
    pub labels: Vec<String>,
    /// Clips per label.
    pub support: Vec<usize>,
    pub recall: Vec<Option<f64>>,
    /// Rows are the labels, `unknown` last where it occurs; columns the labels, `unknown`, and no or another answer.
    pub confusion: Vec<Vec<usize>>,
    pub bins: Vec<Bin>,
    /// `[coverage, risk]` of the label scores, at most a hundred points.
    pub risk_coverage: Vec<[f64; 2]>,
    pub ms_mean: Option<f64>,
    pub ms_median: Option<f64>,
    pub ms_p95: Option<f64>,
    pub read_ms_median: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Subset {
    pub name: String,
    pub clips: usize,
    pub uar: Option<f64>,
    pub war: Option<f64>,
}

/// ECE of the scores as a daemon would believe them, that sees the clips in their order.
fn followed(about: &About, read: &[&Record]) -> Option<f64> {
    let kind = follow::kind(about.given != "audio", about.given != "video")?;
    let mut follower = Follower::new(about.shift?, kind, about.temperature);
    let mut guesses = Vec::with_capacity(read.len());
    for record in read {
        let mut scores = record.scores.clone();
        follower.temper(&mut scores);
        let (guess, confidence) = metrics::best(&scores);
        if let Some(truth) = answer::place(&about.labels, &record.label) {
            guesses.push((confidence, guess == truth));
        }
    }
    metrics::ece(&metrics::bins(&guesses))
}

/// Points of a curve that are kept.
const POINTS: usize = 100;

pub fn of(about: &About, records: &[Record]) -> Report {
    let labels = &about.labels;
    let place = |word: &str| answer::place(labels, word);
    let errors = records.iter().filter(|r| r.error.is_some()).count();
    let read: Vec<&Record> = records.iter().filter(|r| r.error.is_none()).collect();
    let known: Vec<(usize, &Record)> = read.iter().filter_map(|r| Some((place(&r.label)?, *r))).collect();
    let recalls_of = |clips: &[(usize, &Record)]| {
        let (truths, guesses) = sides(clips, |r| r.answer.as_deref().and_then(place));
        let f1 = metrics::f1_present(&truths, &guesses, labels.len());
        (metrics::recalls(&truths, &guesses, labels.len()), metrics::war(&truths, &guesses), f1)
    };
    let (recall, war, f1) = recalls_of(&known);

    let surest = |(truth, r): &(usize, &Record)| {
        let (guess, confidence) = metrics::best(&r.scores);
        (confidence, guess == *truth)
    };
    let guesses: Vec<(f64, bool)> = known.iter().map(surest).collect();
    let rows: Vec<(&[f32], usize)> = known.iter().map(|(truth, r)| (&r.scores[..], *truth)).collect();
    let (truths, by_scores) = sides(&known, |r| Some(metrics::best(&r.scores).0));
    let bins = metrics::bins(&guesses);
    let curve = metrics::risk_coverage(&guesses);

    let grounding = Grounding::of(&read);
    let measured = |of: fn(&Verdicts) -> usize| {
        let verdicts = || read.iter().filter_map(|r| r.measured.as_ref());
        let claims: usize = verdicts().map(|on| on.claims).sum();
        (claims > 0).then(|| verdicts().map(of).sum::<usize>() as f64 / claims as f64)
    };
    let subset = |name: &str| {
        let clips: Vec<_> =
            known.iter().filter(|(_, r)| r.subset.as_deref() == Some(name)).copied().collect();
        let (recall, war, _) = recalls_of(&clips);
        Subset { name: name.to_owned(), clips: clips.len(), uar: metrics::uar_present(&recall), war }
    };
    let subsets: Vec<Subset> = SUBSETS.iter().map(|name| subset(name)).collect();
    let uar_of = |i: usize| subsets[i].uar;
    let unknown = read.iter().filter(|r| r.label == UNKNOWN);
    let unknown_recall =
        metrics::mean(unknown.map(|r| f64::from(u8::from(r.answer.as_deref() == Some(UNKNOWN)))));
    let ms: Vec<f64> = read.iter().map(|r| r.ms).collect();
    let read_ms: Vec<f64> = read.iter().map(|r| r.read_ms).collect();

    Report {
        clips: records.len(),
        errors,
        uar: metrics::uar_present(&recall),
        uar_declared: if known.is_empty() { None } else { metrics::uar_declared(&recall) },
        war,
        f1,
        uar_scores: metrics::uar_present(&metrics::recalls(&truths, &by_scores, labels.len())),
        war_scores: metrics::war(&truths, &by_scores),
        format: metrics::mean(read.iter().filter_map(|r| r.format)),
        ece: metrics::ece(&bins),
        ece_followed: followed(about, &read),
        brier: metrics::brier(&rows),
        nll: (!rows.is_empty()).then(|| metrics::nll(&rows, 1.0, 1.0)),
        aurc: metrics::mean(curve.iter().map(|(_, risk)| *risk)),
        claim_precision: grounding.precision,
        claim_recall: grounding.recall,
        contradiction: grounding.contradiction,
        absent: grounding.absent,
        cue_clips: grounding.clips,
        measured_true: measured(|on| on.held),
        measured_contradiction: measured(|on| on.contradicted),
        measured_unseen: measured(|on| on.not_observable),
        measured_uncheckable: measured(|on| on.not_checkable),
        tokens: metrics::mean(read.iter().filter_map(|r| Some(r.tokens? as f64))),
        unknown_recall,
        uar_consistent: uar_of(0),
        uar_face_decides: uar_of(1),
        uar_voice_decides: uar_of(2),
        uar_words_decides: uar_of(3),
        uar_fusion: uar_of(4),
        uar_missing: uar_of(5),
        support: (0..labels.len()).map(|i| known.iter().filter(|(t, _)| *t == i).count()).collect(),
        confusion: confusion(labels, &read),
        labels: labels.clone(),
        recall,
        bins: bins.to_vec(),
        risk_coverage: thinned(&curve),
        subsets,
        ms_mean: metrics::mean(ms.iter().copied()),
        ms_median: metrics::quantile(&ms, 0.5),
        ms_p95: metrics::quantile(&ms, 0.95),
        read_ms_median: metrics::quantile(&read_ms, 0.5),
    }
}

/// How the claims of reasons meet the cues of their clips, over the clips with cues.
struct Grounding {
    precision: Option<f64>,
    recall: Option<f64>,
    contradiction: Option<f64>,
    absent: Option<f64>,
    clips: usize,
}

impl Grounding {
    fn of(read: &[&Record]) -> Grounding {
        let cued: Vec<&&Record> = read.iter().filter(|r| r.claims.is_some()).collect();
        let sum = |of: fn(&Record) -> Option<usize>| cued.iter().filter_map(|r| of(r)).sum::<usize>() as f64;
        let (claims, supported, cues) = (sum(|r| r.claims), sum(|r| r.supported), sum(|r| r.cues));
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        Grounding {
            precision: share(supported, claims),
            recall: share(supported, cues),
            contradiction: share(sum(|r| r.contradicted), claims),
            absent: share(sum(|r| r.absent), claims),
            clips: cued.len(),
        }
    }
}

fn sides(
    clips: &[(usize, &Record)],
    guess: impl Fn(&Record) -> Option<usize>,
) -> (Vec<usize>, Vec<Option<usize>>) {
    clips.iter().map(|(truth, r)| (*truth, guess(r))).unzip()
}

fn confusion(labels: &[String], records: &[&Record]) -> Vec<Vec<usize>> {
    let n = labels.len();
    let place = |word: &str| if word == UNKNOWN { Some(n) } else { answer::place(labels, word) };
    let mut out = vec![vec![0; n + 2]; n + 1];
    for r in records {
        if let Some(truth) = place(&r.label) {
            out[truth][r.answer.as_deref().and_then(place).unwrap_or(n + 1)] += 1;
        }
    }
    if out[n].iter().all(|count| *count == 0) {
        out.pop();
    }
    out
}

fn thinned(curve: &[(f64, f64)]) -> Vec<[f64; 2]> {
    let step = curve.len().div_ceil(POINTS).max(1);
    let kept = |i: usize| (i + 1).is_multiple_of(step) || i + 1 == curve.len();
    curve.iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, (c, r))| [*c, *r]).collect()
}

impl Report {
    /// Name, value and what it means, one row per number that there is.
    pub fn rows(&self) -> Vec<(&'static str, String, &'static str)> {
        let percent = |v: Option<f64>| v.map(|v| format!("{:.2} %", 100.0 * v));
        let plain = |v: Option<f64>| v.map(|v| format!("{v:.4}"));
        let ms = |v: Option<f64>| v.map(|v| format!("{v:.1} ms"));
        let all = [
            ("UAR", percent(self.uar), "mean recall over the labels that the clips have"),
            (
                "UAR, declared",
                percent(self.uar_declared),
                "over all labels of the set; one without clips counts 0",
            ),
            ("WAR", percent(self.war), "share of right answers"),
            ("F1, macro", percent(self.f1), "mean over the labels that the clips have"),
            ("UAR by scores", percent(self.uar_scores), "of the label with the highest score"),
            ("WAR by scores", percent(self.war_scores), "the same, share of right ones"),
            ("unknown recall", percent(self.unknown_recall), "clips labelled unknown, answered unknown"),
            ("format", percent(self.format), "a thought, then one answer, nothing else"),
            ("ECE", percent(self.ece), "confidence against being right, ten bins"),
            (
                "ECE, followed",
                percent(self.ece_followed),
                "the same as a daemon's scores: believed less where labels lie close",
            ),
            ("Brier", plain(self.brier), "summed over labels, 0 to 2"),
            ("NLL", plain(self.nll), "of the label scores"),
            ("AURC", plain(self.aurc), "mean risk over coverage"),
            ("claims true", percent(self.claim_precision), "of the claims in reasons"),
            ("cues named", percent(self.claim_recall), "of the cues that can be observed"),
            ("contradicted", percent(self.contradiction), "of the claims"),
            ("about the absent", percent(self.absent), "claims about a modality that is not there"),
            ("measured true", percent(self.measured_true), "of the claims, by what was measured of the clip"),
            ("measured false", percent(self.measured_contradiction), "something else was measured"),
            ("not observable", percent(self.measured_unseen), "not known yet, not there, or turned away"),
            ("not checkable", percent(self.measured_uncheckable), "nothing measures it"),
            ("tokens", self.tokens.map(|v| format!("{v:.1}")), "of an answer, mean"),
            ("time", ms(self.ms_median), "in the model per clip, median"),
            ("time, 95 %", ms(self.ms_p95), ""),
            ("reading", ms(self.read_ms_median), "opening a clip, median"),
        ];
        all.into_iter().filter_map(|(name, value, what)| Some((name, value?, what))).collect()
    }

    /// The report for a terminal.
    pub fn text(&self) -> String {
        let mut out = format!("{} clips", self.clips);
        if self.errors > 0 {
            write!(out, ", {} of them could not be read", self.errors).expect("a string");
        }
        out.push('\n');
        for (name, value, what) in self.rows() {
            out += format!("  {name:18}{value:>10}   {what}").trim_end();
            out.push('\n');
        }
        out += "\n  label              clips    recall   answers\n";
        let columns = self.columns();
        for (i, counts) in self.confusion.iter().enumerate() {
            let recall = self.recall.get(i).copied().unwrap_or(self.unknown_recall);
            let recall = recall.map_or("-".into(), |r| format!("{:.1} %", 100.0 * r));
            let answers = columns.iter().zip(counts).filter(|(_, n)| **n > 0);
            let answers = answers.map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ");
            let clips: usize = counts.iter().sum();
            out += format!("  {:18}{clips:>6}{recall:>10}   {answers}", columns[i]).trim_end();
            out.push('\n');
        }
        if self.subsets.iter().any(|s| s.clips > 0) {
            out += "\n  subset             clips       UAR       WAR\n";
            let percent = |v: Option<f64>| v.map_or("-".into(), |v| format!("{:.1} %", 100.0 * v));
            for s in self.subsets.iter().filter(|s| s.clips > 0) {
                writeln!(out, "  {:18}{:>6}{:>10}{:>10}", s.name, s.clips, percent(s.uar), percent(s.war))
                    .expect("a string");
            }
        }
        out
    }

    /// Names of the confusion matrix's columns, and of its rows as far as there are any.
    pub fn columns(&self) -> Vec<&str> {
        self.labels.iter().map(String::as_str).chain([UNKNOWN, "no answer"]).collect()
    }
}
