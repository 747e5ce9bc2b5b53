//! The list of clips to evaluate: JSON lines `{id, clip, label, fold?, subset?, person?, subtitle?, cues?}`, checked line by line.
//!
//! Paths are relative to the manifest's folder. A `subtitle` is what is said, for a prompt with a place for it. Other keys are allowed
//! and not used. A bad line is a problem with a kind, a line number and a name; the others can still be used.

use super::answer::{self, UNKNOWN};
use crate::cues::{CUES, Cue};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// One clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub id: String,
    pub clip: PathBuf,
    /// As the label set spells it, or `unknown`.
    pub label: String,
    pub fold: Option<u64>,
    /// What the label hangs on, such as `face_decides`.
    pub subset: Option<String>,
    /// Who is in it: clips of one person share what is usual of the person.
    pub person: Option<String>,
    /// What is said in it.
    pub subtitle: Option<String>,
    /// `None` where nobody logged any.
    pub cues: Option<Vec<Cue>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    BadLine,
    MissingClip,
    UnknownLabel,
    DuplicateId,
    WrongFold,
    /// Of data sets: more or fewer clips than the official ones.
    Unofficial,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::BadLine => "bad line",
            Kind::MissingClip => "missing clip",
            Kind::UnknownLabel => "unknown label",
            Kind::DuplicateId => "duplicate id",
            Kind::WrongFold => "wrong fold",
            Kind::Unofficial => "unofficial split",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    /// Where it is and what: `line 7: ...`.
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Manifest {
    pub lines: Vec<Line>,
    pub problems: Vec<Problem>,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// Problems that are named one by one.
const NAMED_MAX: usize = 20;

/// Counts by kind, then the first problems by name; empty without any.
pub fn describe(problems: &[Problem]) -> String {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for problem in problems {
        *counts.entry(problem.kind).or_default() += 1;
    }
    let plural =
        |(kind, n): (&Kind, &usize)| format!("{n} {}{}", kind.name(), if *n == 1 { "" } else { "s" });
    let mut text = counts.iter().map(plural).collect::<Vec<_>>().join(", ");
    for problem in problems.iter().take(NAMED_MAX) {
        write!(text, "\n  {}: {}", problem.kind.name(), problem.text).expect("a string");
    }
    if problems.len() > NAMED_MAX {
        write!(text, "\n  ... and {} more", problems.len() - NAMED_MAX).expect("a string");
    }
    text
}

/// Reads and checks a manifest for a label set. Lines with a problem are left out.
pub fn read(path: &Path, labels: &[String]) -> Result<Manifest> {
    let bytes = fs::read(path).with_context(|| format!("reading the manifest {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let sha256 = crate::bundle::digest::hex(Sha256::new_with_prefix(&bytes));
    let mut manifest = Manifest { lines: Vec::new(), problems: Vec::new(), sha256 };
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut foldless = Vec::new();
    for (number, raw) in (1..).zip(bytes.split(|b| *b == b'\n')) {
        if raw.trim_ascii().is_empty() {
            continue;
        }
        let mut problem = |kind, text: String| {
            manifest.problems.push(Problem { kind, text: format!("line {number}: {text}") });
        };
        let line = match line(raw, folder, labels) {
            Ok(line) => line,
            Err((kind, text)) => {
                problem(kind, text);
                continue;
            }
        };
        if let Some(before) = ids.get(&line.id) {
            problem(Kind::DuplicateId, format!("`{}` was line {before}", line.id));
        } else if !line.clip.exists() {
            problem(Kind::MissingClip, format!("`{}` has no {}", line.id, line.clip.display()));
        } else {
            ids.insert(line.id.clone(), number);
            if line.fold.is_none() {
                foldless.push((number, line.id.clone()));
            }
            manifest.lines.push(line);
        }
    }
    if foldless.len() < manifest.lines.len() {
        for (number, id) in foldless {
            let text = format!("line {number}: `{id}` has no fold, but other lines do");
            manifest.problems.push(Problem { kind: Kind::WrongFold, text });
        }
        manifest.lines.retain(|line| line.fold.is_some());
    }
    Ok(manifest)
}

fn line(raw: &[u8], folder: &Path, labels: &[String]) -> Result<Line, (Kind, String)> {
    let bad = |text: String| (Kind::BadLine, text);
    let value: Value = serde_json::from_slice(raw).map_err(|error| bad(format!("not JSON: {error}")))?;
    let text = |key: &str| {
        let found = value[key].as_str().filter(|text| !text.is_empty());
        found.ok_or_else(|| bad(format!("`{key}` must be a text, but is {}", value[key])))
    };
    let (id, clip, word) = (text("id")?, text("clip")?, text("label")?);
    let label = match answer::place(labels, word) {
        Some(place) => labels[place].clone(),
        None if answer::canonical(word) == UNKNOWN => UNKNOWN.to_owned(),
        None => {
            return Err((
                Kind::UnknownLabel,
                format!("`{id}` is `{word}`, not one of {}", labels.join(", ")),
            ));
        }
    };
    let fold = match &value["fold"] {
        Value::Null => None,
        fold => match fold.as_u64() {
            Some(fold @ 1..) => Some(fold),
            _ => {
                return Err((
                    Kind::WrongFold,
                    format!("`{id}` has fold {fold}, but folds are whole numbers from 1"),
                ));
            }
        },
    };
    let cues = match &value["cues"] {
        Value::Null => None,
        cues => Some(read_cues(cues).map_err(|error| bad(format!("`{id}`: {error:#}")))?),
    };
    let subset = value["subset"].as_str().map(str::to_owned);
    let person = match &value["person"] {
        Value::Null => None,
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        other => return Err(bad(format!("`{id}` has person {other}, but a person is a name or a number"))),
    };
    let subtitle = value["subtitle"].as_str().map(str::to_owned);
    Ok(Line { id: id.to_owned(), clip: folder.join(clip), label, fold, subset, person, subtitle, cues })
}

fn read_cues(value: &Value) -> Result<Vec<Cue>> {
    let cues: Vec<Cue> = serde_json::from_value(value.clone()).context("`cues`")?;
    for cue in &cues {
        let found = CUES.iter().find(|(name, ..)| *name == cue.cue);
        let Some((_, modality, values)) = found else { bail!("there is no cue `{}`", cue.cue) };
        ensure!(
            *modality == cue.modality && values.contains(&cue.value.as_str()),
            "the cue `{}` cannot be `{}` in {:?}",
            cue.cue,
            cue.value,
            cue.modality
        );
    }
    Ok(cues)
}

impl Manifest {
    /// Keeps one fold, or refuses where no line has it.
    pub fn keep_fold(&mut self, fold: u64) -> Result<()> {
        let mut there: Vec<u64> = self.lines.iter().filter_map(|line| line.fold).collect();
        there.sort_unstable();
        there.dedup();
        let names = there.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let have =
            if there.is_empty() { "no line has a fold".to_owned() } else { format!("folds are {names}") };
        ensure!(there.contains(&fold), "there is no fold {fold}: {have}");
        self.lines.retain(|line| line.fold == Some(fold));
        Ok(())
    }
}
