//! What was said of each clip, one JSON line each, behind a line that says what run it is of.
//!
//! Invariant: a file that was cut in the middle of a line can be gone on with; one of another run is refused.

use super::{answer, measured::Verdicts};
use crate::{
    bundle::Shift,
    cues::{claims, ledger},
    model::AudioContext,
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

pub const VERSION: u32 = 1;

/// What a run is of. Two runs whose `About` is equal but for the shard can be merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub mien_eval: u32,
    pub bundle: String,
    /// SHA-256 of the bundle's tensors.
    pub tensors: String,
    pub quant: String,
    pub trained: bool,
    pub label_set: String,
    pub labels: Vec<String>,
    /// Of the label scores.
    pub temperature: f32,
    /// How it follows a place; nothing where the bundle was not fitted for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<Shift>,
    /// Prompt of the answers; none where only labels are scored.
    pub prompt: Option<String>,
    pub max_new_tokens: Option<usize>,
    /// Claims whose words were less probable are left out of answers; nothing where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sure: Option<f32>,
    /// `both`, `audio` or `video`: what the model was given.
    pub given: String,
    #[serde(default, skip_serializing_if = "AudioContext::is_whole")]
    pub audio_context: AudioContext,
    /// What reasons were held against: `voice`, or `voice and face`; nothing where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
    pub manifest: String,
    pub manifest_sha256: String,
    pub fold: Option<u64>,
    /// Clips of all shards.
    pub clips: usize,
    /// This one, of how many.
    pub shard: [usize; 2],
}

/// One clip. Fields that `tools/train/evaluate.py` has too are called the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub label: String,
    pub subset: Option<String>,
    pub fold: Option<u64>,
    /// The whole completion; none where only labels were scored.
    pub said: Option<String>,
    /// As the label set spells it, another word as it was said, or none. Without a completion, the label with the highest score.
    pub answer: Option<String>,
    /// 1 where the completion has its form.
    pub format: Option<f64>,
    /// Probabilities in the order of the label set.
    pub scores: Vec<f32>,
    /// Counts of the reason's claims, where cues are known.
    pub claims: Option<usize>,
    pub supported: Option<usize>,
    pub contradicted: Option<usize>,
    pub absent: Option<usize>,
    pub cues: Option<usize>,
    /// How the reason's claims stand against what was measured of the clip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Verdicts>,
    /// Made, the end of text among them.
    pub tokens: Option<usize>,
    /// Milliseconds to open the clip, and in the model.
    pub read_ms: f64,
    pub ms: f64,
    /// Why there is no answer.
    pub error: Option<String>,
}

impl Record {
    /// Judges a completion.
    pub fn hear(&mut self, said: &str, labels: &[String], cues: Option<&[crate::cues::Cue]>) {
        let said = said.trim();
        self.answer = answer::answer_of(said).map(|word| match answer::place(labels, &word) {
            Some(place) => labels[place].clone(),
            None => word,
        });
        self.format = Some(f64::from(u8::from(answer::well_formed(said))));
        if let Some(cues) = cues {
            let standing = claims::check(answer::thought_of(said), cues);
            self.claims = Some(standing.claims());
            self.supported = Some(standing.supported);
            self.contradicted = Some(standing.contradicted);
            self.absent = Some(standing.absent);
            self.cues = Some(standing.cues);
        }
        self.said = Some(said.to_owned());
    }

    /// Holds the reason against what was measured of the clip.
    pub fn hold(&mut self, cues: &ledger::Cues) {
        self.measured = self.said.as_deref().map(|said| Verdicts::on(answer::thought_of(said), cues));
    }
}

/// Records of one run; the last one of a clip counts.
#[derive(Debug)]
pub struct Records {
    pub about: About,
    pub records: Vec<Record>,
}

/// Reads a file of records, and how many of its bytes are whole lines.
pub fn read(path: &Path) -> Result<(Records, u64)> {
    let mut text = String::new();
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("opening the results {name}"))?;
    file.read_to_string(&mut text).with_context(|| format!("reading the results {name}"))?;
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let mut lines = text[..whole].lines();
    let about = lines.next().with_context(|| format!("{name} is no result of `mien eval`: it is empty"))?;
    let about: About =
        serde_json::from_str(about).with_context(|| format!("{name} is no result of `mien eval`"))?;
    ensure!(about.mien_eval == VERSION, "{name} is of version {}, not {VERSION}", about.mien_eval);
    let mut records: Vec<Record> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (number, line) in (2..).zip(lines) {
        let record: Record = serde_json::from_str(line)
            .with_context(|| format!("{name}, line {number}: damaged; delete the line"))?;
        let scored = record.scores.len() == about.labels.len();
        ensure!(
            record.error.is_some() || scored,
            "{name}, line {number}: {} scores for {} labels",
            record.scores.len(),
            about.labels.len()
        );
        match places.get(&record.id) {
            Some(&place) => records[place] = record,
            None => {
                places.insert(record.id.clone(), records.len());
                records.push(record);
            }
        }
    }
    Ok((Records { about, records }, whole as u64))
}

/// A file that records are appended to, each whole before the next is made.
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Goes on with a file of the same run, or begins one. Gives the records it holds.
    pub fn open(path: &Path, about: &About) -> Result<(Journal, Vec<Record>)> {
        let context = || format!("writing the results {}", path.display());
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(path).with_context(context)?;
        let journal = |file| Journal { file, path: path.to_owned() };
        if !begun(path)? {
            file.set_len(0).with_context(context)?;
            let mut journal = journal(file);
            journal.line(about)?;
            return Ok((journal, Vec::new()));
        }
        let (found, whole) = read(path)?;
        if found.about != *about {
            bail!(
                "{} holds the results of another run ({}); choose another --out, or delete it",
                path.display(),
                difference(&found.about, about)
            );
        }
        file.set_len(whole).with_context(context)?;
        file.seek(SeekFrom::End(0)).with_context(context)?;
        Ok((journal(file), found.records))
    }

    pub fn push(&mut self, record: &Record) -> Result<()> {
        self.line(record)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).context("writing JSON")?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("writing the results {}", self.path.display()))
    }
}

/// Whether the file has a first line. One that is not ours is refused before it is lost.
fn begun(path: &Path) -> Result<bool> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("reading the results {name}"))?;
    let ours = bytes.iter().zip(b"{\"mien_eval\"").all(|(a, b)| a == b);
    ensure!(ours, "{name} is no result of `mien eval`; choose another --out");
    Ok(bytes.contains(&b'\n'))
}

/// The first field in which two runs differ.
fn difference(found: &About, wanted: &About) -> String {
    let fields = |about: &About| serde_json::to_value(about).unwrap_or_default();
    let (found, wanted) = (fields(found), fields(wanted));
    let differs = |key: &&String| found[key.as_str()] != wanted[key.as_str()];
    match wanted.as_object().and_then(|all| all.keys().find(differs)) {
        Some(key) => format!("its {key} is {}, not {}", found[key.as_str()], wanted[key.as_str()]),
        None => "it differs".to_owned(),
    }
}

/// Shards of one run as one. Every clip must be there once, unless `incomplete`.
pub fn merge(parts: Vec<(PathBuf, Records)>, incomplete: bool) -> Result<Records> {
    let mut parts = parts.into_iter();
    let (first, mut all) = parts.next().context("name the results to merge")?;
    let mut shards = vec![(all.about.shard, first.clone())];
    let mut from: HashMap<String, PathBuf> =
        all.records.iter().map(|r| (r.id.clone(), first.clone())).collect();
    for (path, part) in parts {
        let other = About { shard: all.about.shard, ..part.about.clone() };
        if other != all.about {
            let why = difference(&other, &all.about);
            bail!("{} is of another run than {}: {why}", path.display(), first.display());
        }
        for record in part.records {
            if let Some(before) = from.insert(record.id.clone(), path.clone()) {
                bail!("`{}` is in {} and in {}", record.id, before.display(), path.display());
            }
            all.records.push(record);
        }
        shards.push((part.about.shard, path));
    }
    let missing = all.about.clips.saturating_sub(all.records.len());
    if missing > 0 && !incomplete {
        let names = shards.iter().map(|([i, n], path)| format!("{} is {i}/{n}", path.display()));
        bail!(
            "{missing} of {} clips are missing ({}); run the other shards to their end, or merge with --incomplete",
            all.about.clips,
            names.collect::<Vec<_>>().join(", ")
        );
    }
    all.about.shard = [1, 1];
    Ok(all)
}
