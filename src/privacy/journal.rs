//! When devices could see and hear, for whoever asks later: an append-only file of changes of mode, each with the hash of the one before.
//!
//! One JSON object a line in `modes.jsonl` of the state directory. A line that was changed or taken out breaks the chain from there on;
//! lines cut off the end are not noticed. Beyond [`BYTES_MAX`] the file is set aside as `modes.old.jsonl`, and the chain goes on.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub const BYTES_MAX: u64 = 1 << 20;

/// One change of mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Unix time.
    pub wall_ms: u64,
    /// `start`, `stop`, `signal`, or `devices` for what files and pins did.
    pub by: String,
    /// `open`, `muted`, `unmuted`, `closed`.
    pub to: String,
    /// Of the entry before; empty for the first.
    pub previous: String,
    /// Of this entry: a digest of the fields above.
    pub hash: String,
}

impl Entry {
    fn new(wall_ms: u64, by: &str, to: &str, previous: &str) -> Entry {
        let hash = crate::machine::digits(&[previous, &wall_ms.to_string(), by, to]);
        Entry { wall_ms, by: by.into(), to: to.into(), previous: previous.into(), hash }
    }
}

pub struct Journal {
    path: Option<PathBuf>,
    last: String,
}

impl Journal {
    /// In `folder`; an empty one keeps nothing. What cannot be read is said, and a new chain begins beside it.
    pub fn open(folder: &Path) -> Journal {
        if folder.as_os_str().is_empty() {
            return Journal { path: None, last: String::new() };
        }
        let path = folder.join("modes.jsonl");
        let entries = if path.exists() { check(&path) } else { Ok(Vec::new()) };
        let last = match entries {
            Ok(entries) => entries.last().map(|entry| entry.hash.clone()).unwrap_or_default(),
            Err(error) => {
                log::error!("the list of modes was changed from outside, and is set aside: {error:#}");
                let _ = fs::rename(&path, folder.join("modes.damaged.jsonl"));
                String::new()
            }
        };
        Journal { path: Some(path), last }
    }

    /// Adds an entry, which survives a power cut. What cannot be written is said.
    pub fn add(&mut self, by: &str, to: &str) {
        let Some(path) = &self.path else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Entry::new(since.as_millis() as u64, by, to, &self.last);
        if let Err(error) = append(path, &entry) {
            log::error!("a change of mode is not on record: {error:#}");
            return;
        }
        self.last = entry.hash;
    }
}

fn append(path: &Path, entry: &Entry) -> Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() > BYTES_MAX) {
        fs::rename(path, path.with_file_name("modes.old.jsonl"))?;
    }
    let context = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(context)?;
    let mut line = serde_json::to_string(entry)?;
    line.push('\n');
    file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).with_context(context)
}

/// The entries of a file, or which line does not follow from the one before. A last line that was cut by a power loss is left out.
pub fn check(path: &Path) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in whole.lines().enumerate() {
        let place = || format!("{} line {}", path.display(), number + 1);
        let entry: Entry = serde_json::from_str(line).with_context(place)?;
        let wanted = Entry::new(entry.wall_ms, &entry.by, &entry.to, &entry.previous);
        ensure!(entry == wanted, "{}: it does not fit its hash", place());
        if let Some(before) = entries.last() {
            ensure!(entry.previous == before.hash, "{}: it does not follow the line before", place());
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_goes_on_over_restarts_and_shows_what_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("modes.jsonl");
        for round in 0..3 {
            let mut journal = Journal::open(folder.path());
            journal.add("start", "open");
            journal.add("signal", if round == 1 { "muted" } else { "unmuted" });
        }
        let entries = check(&path).unwrap();
        assert_eq!(entries.len(), 6);
        assert!(entries.windows(2).all(|pair| pair[1].previous == pair[0].hash));

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"muted\"", "\"unmuted\"")).unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("line 4"));
        let without: Vec<&str> =
            text.lines().enumerate().filter(|(i, _)| *i != 2).map(|(_, line)| line).collect();
        fs::write(&path, without.join("\n") + "\n").unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("line 3: it does not follow"));
        let mut journal = Journal::open(folder.path());
        journal.add("start", "open");
        assert_eq!(check(&path).unwrap().len(), 1);
        assert!(folder.path().join("modes.damaged.jsonl").exists());

        fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(check(&path).unwrap().len(), 5);
    }

    #[test]
    fn a_long_file_is_set_aside_and_the_chain_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("modes.jsonl");
        let mut journal = Journal::open(folder.path());
        journal.add("start", &"x".repeat(BYTES_MAX as usize));
        let last = journal.last.clone();
        journal.add("signal", "muted");
        let entries = check(&path).unwrap();
        assert_eq!((entries.len(), entries[0].previous.as_str()), (1, last.as_str()));
        assert!(check(&folder.path().join("modes.old.jsonl")).is_ok());
    }
}
