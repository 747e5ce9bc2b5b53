//! Manifests from the official folders of DFEW, MAFW and RAVDESS.
//!
//! Labels go by name, never by an index that some repositories order otherwise. Nothing is guessed: a folder of another layout is refused
//! with what was expected and what is there. Data sets stay where they are.

use super::manifest::{Kind, Problem};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// Lines of a manifest, and what was wrong on the way.
#[derive(Debug, Default)]
pub struct Found {
    pub lines: Vec<Entry>,
    pub problems: Vec<Problem>,
    /// What a person should know besides.
    pub notes: Vec<String>,
    ids: HashSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: String,
    pub clip: PathBuf,
    pub label: String,
    pub fold: u64,
    /// Where the data set says who it is.
    pub person: Option<u64>,
}

impl Entry {
    /// As a line of a manifest in `folder`: clips below it are named from there.
    pub fn json(&self, folder: &Path) -> Value {
        let clip = self.clip.strip_prefix(folder).unwrap_or(&self.clip);
        let mut line = json!({"id": self.id, "clip": clip.display().to_string(), "label": self.label, "fold": self.fold});
        if let Some(person) = self.person {
            line["person"] = person.into();
        }
        line
    }
}

impl Found {
    fn problem(&mut self, kind: Kind, text: String) {
        self.problems.push(Problem { kind, text });
    }

    /// Takes a clip, unless it is there already; says whether it was taken.
    fn push(&mut self, entry: Entry, at: &str) -> bool {
        let fresh = self.ids.insert(entry.id.clone());
        if fresh {
            self.lines.push(entry);
        } else {
            self.problem(Kind::DuplicateId, format!("{at}: `{}` is there twice", entry.id));
        }
        fresh
    }

    fn official(&mut self, what: &str, found: usize, official: usize) {
        if found != official {
            self.problem(Kind::Unofficial, format!("{what} has {found} clips, the official one {official}"));
        }
    }
}

/// Which part of a data set with folds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Test,
    Train,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Test => "test",
            Split::Train => "train",
        }
    }
}

const FOLDS: std::ops::RangeInclusive<u64> = 1..=5;

/// One of five folds, or the test parts of all: training parts overlap.
fn folds(fold: Option<u64>, split: Split) -> Result<Vec<u64>> {
    match (fold, split) {
        (Some(fold), _) => {
            ensure!(FOLDS.contains(&fold), "there is no fold {fold}: folds are 1 to 5");
            Ok(vec![fold])
        }
        (None, Split::Test) => Ok(FOLDS.collect()),
        (None, Split::Train) => bail!("training parts of the folds overlap: name one with --fold"),
    }
}

/// The first of some folders that is there, or what was expected and what is there instead.
fn expect<'a>(root: &Path, names: &[&'a str], what: &str) -> Result<(PathBuf, &'a str)> {
    for name in names {
        let path = root.join(name);
        if path.exists() {
            return Ok((path, name));
        }
    }
    bail!("{} has no {what}: expected {}, found {}", root.display(), names.join(" or "), listing(root))
}

/// Names in a folder, the first few.
fn listing(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return "no such folder".to_owned() };
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let more = names.len().saturating_sub(8);
    names.truncate(8);
    match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (_, 0) => names.join(", "),
        _ => format!("{}, and {more} more", names.join(", ")),
    }
}

fn text_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8(bytes).ok();
    let text = text.with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

/// The first of these files that exists.
fn first(paths: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    paths.into_iter().find(|path| path.exists())
}

const DFEW_LABELS: [&str; 7] = ["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"];
const DFEW_TEST: [usize; 5] = [2341, 2341, 2340, 2339, 2336];

/// `EmoLabel_DataSplit/test(single-labeled)/set_N.csv` with `video_name,label`, labels from 1; `Clip/original/1.mp4`, whose names are
/// not padded. Where the originals are missing, folders of pictures stand in, which have no sound.
pub fn dfew(root: &Path, fold: Option<u64>, split: Split) -> Result<Found> {
    let mut found = Found::default();
    let (splits, _) = expect(root, &["EmoLabel_DataSplit"], "folder of splits")?;
    let folder = format!("{}(single-labeled)", split.name());
    let (lists, _) = expect(&splits, &[folder.as_str()], "folder of single labels")?;
    let originals = ["Clip/original", "videos", "clip"];
    let silent = ["Clip/clip_224x224", "Clip/jpg_256"];
    let (media, name) = expect(root, &[&originals[..], &silent].concat(), "clips")?;
    if silent.contains(&name) {
        let note = format!("{} has pictures without sound: the originals are not there", media.display());
        found.notes.push(note);
    }
    for fold in folds(fold, split)? {
        let (list, _) = expect(&lists, &[format!("set_{fold}.csv").as_str()], "list")?;
        let text = text_of(&list)?;
        let mut rows = (1..).zip(text.lines());
        let header = rows.next().map_or("", |(_, header)| header.trim());
        ensure!(
            header == "video_name,label",
            "{} begins with `{header}`: expected `video_name,label`",
            list.display()
        );
        let before = found.lines.len();
        for (number, row) in rows.filter(|(_, row)| !row.trim().is_empty()) {
            let at = format!("{}, line {number}", list.display());
            let Some((name, label)) = row.trim().split_once(',') else {
                found.problem(Kind::BadLine, format!("{at}: `{row}`"));
                continue;
            };
            let place = label.trim().parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            let Some(label) = place.and_then(|at| DFEW_LABELS.get(at)) else {
                found.problem(Kind::UnknownLabel, format!("{at}: `{label}` is none of 1 to 7"));
                continue;
            };
            let Ok(n) = name.trim().trim_end_matches(".mp4").parse::<u64>() else {
                found.problem(Kind::BadLine, format!("{at}: `{name}` is no number of a clip"));
                continue;
            };
            let names = [format!("{n}.mp4"), format!("{n:05}.mp4"), format!("{n:05}"), format!("{n}")];
            let Some(clip) = first(names.map(|name| media.join(name))) else {
                found.problem(Kind::MissingClip, format!("{at}: {} has no {n}.mp4", media.display()));
                continue;
            };
            found.push(
                Entry { id: format!("dfew-{n:05}"), clip, label: (*label).to_owned(), fold, person: None },
                &at,
            );
        }
        if split == Split::Test {
            let n = found.lines.len() - before;
            found.official(&format!("test fold {fold}"), n, DFEW_TEST[fold as usize - 1]);
        }
    }
    Ok(found)
}

const MAFW_LABELS: [(&str, &str); 11] = [
    ("anger", "angry"),
    ("disgust", "disgust"),
    ("fear", "fear"),
    ("happiness", "happy"),
    ("neutral", "neutral"),
    ("sadness", "sad"),
    ("surprise", "surprise"),
    ("contempt", "contemptuous"),
    ("anxiety", "anxious"),
    ("helplessness", "helpless"),
    ("disappointment", "disappointed"),
];
const MAFW_TEST: [usize; 5] = [1839, 1837, 1833, 1832, 1831];

/// `Train & Test Set/single/no_caption/set_N/test.txt` with `00025.mp4 anger`; `data/clips/00025.mp4`. The lists with captions leave out
/// every neutral clip and are not UTF-8: they are not read. `compound` takes the lists of compound labels, such as `anger_disgust`; how
/// many clips their folds have is not known here.
pub fn mafw(root: &Path, fold: Option<u64>, split: Split, compound: bool) -> Result<Found> {
    let mut found = Found::default();
    let (sets, _) = expect(root, &["Train & Test Set"], "folder of splits")?;
    let (labels, _) = match compound {
        true => expect(&sets, &["compound"], "folder of compound labels")?,
        false => expect(&sets, &["single"], "folder of single labels (--compound takes the others)")?,
    };
    let (lists, _) =
        expect(&labels, &["no_caption"], "lists with every label (those with captions lack neutral)")?;
    let (media, _) = expect(root, &["data/clips"], "clips")?;
    for fold in folds(fold, split)? {
        let (set, _) = expect(&lists, &[format!("set_{fold}").as_str()], "fold")?;
        let (list, _) = expect(&set, &[format!("{}.txt", split.name()).as_str()], "list")?;
        let text = text_of(&list)?;
        let before = found.lines.len();
        for (number, row) in (1..).zip(text.lines()).filter(|(_, row)| !row.trim().is_empty()) {
            let at = format!("{}, line {number}", list.display());
            let Some((name, word)) = row.trim().split_once([' ', '\t']) else {
                found.problem(Kind::BadLine, format!("{at}: `{row}` is no `CLIP.mp4 LABEL`"));
                continue;
            };
            let word = word.trim().to_lowercase();
            let Some(label) = mafw_label(&word, compound) else {
                let why = match word {
                    _ if compound => "is no label of the eleven, nor several of them with `_` between",
                    _ if word.contains('_') => "is a compound label: --compound takes their lists",
                    _ if word.parse::<u32>().is_ok() => "is an index, whose order differs between copies",
                    _ => "is none of the eleven",
                };
                found.problem(Kind::UnknownLabel, format!("{at}: `{word}` {why}"));
                continue;
            };
            if !name.ends_with(".mp4") || name.contains(['/', '\\']) {
                found.problem(Kind::BadLine, format!("{at}: `{name}` is no name of a film, as 00025.mp4"));
                continue;
            }
            let clip = media.join(name);
            if !clip.is_file() {
                found.problem(Kind::MissingClip, format!("{at}: {} has no {name}", media.display()));
                continue;
            }
            let id = format!("mafw-{}", name.trim_end_matches(".mp4"));
            found.push(Entry { id, clip, label, fold, person: None }, &at);
        }
        if split == Split::Test && !compound {
            let n = found.lines.len() - before;
            found.official(&format!("test fold {fold}"), n, MAFW_TEST[fold as usize - 1]);
        }
    }
    Ok(found)
}

/// A label in our words; several are joined by `_` in the order of the eleven.
fn mafw_label(word: &str, compound: bool) -> Option<String> {
    let parts: Vec<&str> = if compound { word.split('_').collect() } else { vec![word] };
    let named: Vec<&str> =
        MAFW_LABELS.iter().filter(|(theirs, _)| parts.contains(theirs)).map(|(_, own)| *own).collect();
    (named.len() == parts.len()).then(|| named.join("_"))
}

const RAVDESS_LABELS: [&str; 8] =
    ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"];
const RAVDESS_PER_ACTOR: usize = 60;
/// Actors of a fold: six folds of four. There is no official split.
const RAVDESS_FOLD: u64 = 4;

/// `Actor_01..24`, also inside `Video_Speech_Actor_01..24`, with `01-01-06-01-02-01-12.mp4`: modality, channel, emotion, intensity,
/// statement, repetition, actor. Of each performance the film with sound (modality 01) of speech (channel 01) is taken, so that none
/// counts twice. `merge_calm` calls calm neutral, for models that do not know it.
pub fn ravdess(root: &Path, actors: &[u64], merge_calm: bool) -> Result<Found> {
    let mut found = Found::default();
    let mut folders = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("listing {}", root.display()))?.flatten() {
        let path = entry.path();
        let inner = fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path());
        folders.extend(inner.chain([path]).filter(|p| p.is_dir() && actor_of(p).is_some()));
    }
    folders.sort_by_key(|p| (actor_of(p), p.clone()));
    ensure!(
        !folders.is_empty(),
        "{} has no folders of actors: expected Actor_01 to Actor_24, or Video_Speech_Actor_01/Actor_01, found {}",
        root.display(),
        listing(root)
    );
    let there: Vec<u64> = folders.iter().filter_map(|p| actor_of(p)).collect();
    for actor in actors {
        ensure!(there.contains(actor), "{} has no Actor_{actor:02}", root.display());
    }
    let (mut others, mut tables) = (0, 0);
    let mut counts = BTreeMap::new();
    for folder in &folders {
        let actor = actor_of(folder).expect("only such folders were kept");
        if !actors.is_empty() && !actors.contains(&actor) {
            continue;
        }
        counts.entry(actor).or_insert(0);
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .with_context(|| format!("listing {}", folder.display()))?
            .flatten()
            .map(|e| e.path())
            .collect();
        files.sort();
        for clip in files {
            let at = clip.display().to_string();
            match ravdess_clip(&clip, actor, merge_calm) {
                Ok(RavdessFile::Clip(entry)) => {
                    let taken = found.push(entry, &at);
                    *counts.entry(actor).or_insert(0) += usize::from(taken);
                }
                Ok(RavdessFile::SamePerformance) => others += 1,
                Ok(RavdessFile::NoFilm) => tables += 1,
                Err((kind, why)) => found.problem(kind, format!("{at}{why}")),
            }
        }
    }
    if others > 0 {
        let note = "files of songs, or of film or sound alone, were passed over: the same performances again";
        found.notes.push(format!("{others} {note}"));
    }
    if tables > 0 {
        found.notes.push(format!("{tables} files that are no films (.mp4) were passed over"));
    }
    for (actor, clips) in counts {
        found.official(&format!("Actor_{actor:02}"), clips, RAVDESS_PER_ACTOR);
    }
    found.notes.push("folds are six of four actors in order; RAVDESS has no official ones".to_owned());
    Ok(found)
}

enum RavdessFile {
    Clip(Entry),
    /// A song, film or sound alone.
    SamePerformance,
    /// A table, a hidden file.
    NoFilm,
}

/// What a file in the folder of an actor is, or why it cannot be used.
fn ravdess_clip(clip: &Path, actor: u64, merge_calm: bool) -> Result<RavdessFile, (Kind, String)> {
    let stem = clip.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let ending = clip.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if ending == "wav" {
        return Ok(RavdessFile::SamePerformance);
    }
    if ending != "mp4" || stem.starts_with('.') || !clip.is_file() {
        return Ok(RavdessFile::NoFilm);
    }
    let parts: Option<Vec<usize>> = stem.split('-').map(|part| part.parse().ok()).collect();
    let Some([modality, channel, emotion, intensity, statement, repetition, said]) =
        parts.and_then(|parts| <[usize; 7]>::try_from(parts).ok())
    else {
        return Err((Kind::BadLine, " is not named by seven numbers, as 01-01-06-01-02-01-12.mp4".into()));
    };
    if (modality, channel) != (1, 1) {
        return Ok(RavdessFile::SamePerformance);
    }
    let Some(label) = emotion.checked_sub(1).and_then(|i| RAVDESS_LABELS.get(i)) else {
        return Err((Kind::UnknownLabel, format!(": emotion {emotion} is none of 01 to 08")));
    };
    let fits = (1..=2).contains(&intensity) && (1..=2).contains(&statement) && (1..=2).contains(&repetition);
    if said as u64 != actor || !fits || (emotion, intensity) == (1, 2) {
        return Err((Kind::BadLine, " names another actor, or numbers that do not occur".into()));
    }
    let label = if merge_calm && *label == "calm" { "neutral" } else { label };
    let (id, fold) = (format!("ravdess-{stem}"), (actor - 1) / RAVDESS_FOLD + 1);
    let person = Some(actor);
    Ok(RavdessFile::Clip(Entry { id, clip: clip.to_owned(), label: label.to_owned(), fold, person }))
}

fn actor_of(folder: &Path) -> Option<u64> {
    let n = folder.file_name()?.to_str()?.strip_prefix("Actor_")?.parse().ok()?;
    (1..=24).contains(&n).then_some(n)
}
