//! Small files that survive a crash and a power cut: written beside their place, flushed, renamed.
//!
//! A file that is cut or damaged is reported, set aside as `NAME.damaged`, and read as if it were missing. A folder that cannot
//! be written is reported once; the daemon goes on without it.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// When bytes have to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// They survive the end of the process.
    Process,
    /// They survive a power cut.
    Power,
}

/// One small JSON file, or nothing where there is no folder for it.
#[derive(Debug)]
pub struct Kept {
    path: Option<PathBuf>,
    reported: bool,
}

impl Kept {
    /// `name` in `folder`; an empty folder keeps nothing.
    pub fn new(folder: &Path, name: &str) -> Kept {
        let path = (!folder.as_os_str().is_empty()).then(|| folder.join(name));
        Kept { path, reported: false }
    }

    /// There is a folder for it.
    pub fn keeps(&self) -> bool {
        self.path.is_some()
    }

    /// What was stored last; `None` where there is nothing, or nothing that can be read.
    pub fn load<T: DeserializeOwned>(&mut self) -> Option<T> {
        let path = self.path.as_ref()?;
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!("{} cannot be read, going on without it: {error}", path.display());
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                set_aside(path, &error);
                None
            }
        }
    }

    /// Replaces the file as a whole.
    pub fn store<T: Serialize>(&mut self, value: &T, durable: Durable) {
        let Some(path) = &self.path else { return };
        let text = serde_json::to_vec(value).expect("plain fields are JSON");
        if let Err(error) = replace(path, &text, durable) {
            self.report(&error);
        }
    }

    pub fn clear(&mut self) {
        let Some(path) = &self.path else { return };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => self.report(&error),
            _ => {}
        }
    }

    fn report(&mut self, error: &io::Error) {
        if let (Some(path), false) = (&self.path, self.reported) {
            log::warn!("{} cannot be written, going on without it: {error}", path.display());
            self.reported = true;
        }
    }
}

/// Moves a damaged file out of the way, and reports it.
pub fn set_aside(path: &Path, why: &dyn std::fmt::Display) {
    let aside = PathBuf::from(format!("{}.damaged", path.display()));
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("kept as {}", aside.display()),
        Err(error) => format!("it cannot be renamed: {error}"),
    };
    log::warn!("{} is damaged and not used ({why}); {kept}", path.display());
}

/// Writes a file as a whole: whoever reads it sees the old content or the new. A device or a pipe is written through.
pub fn replace(path: &Path, bytes: &[u8], durable: Durable) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|facts| !facts.is_file() && !facts.is_dir()) {
        return fs::write(path, bytes);
    }
    let beside = PathBuf::from(format!("{}.new", path.display()));
    let written = write_beside(&beside, bytes, durable).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    if durable == Durable::Power
        && let Some(folder) = path.parent()
    {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn write_beside(beside: &Path, bytes: &[u8], durable: Durable) -> io::Result<()> {
    let mut file = File::create(beside)?;
    file.write_all(bytes)?;
    if durable == Durable::Power {
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_and_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(folder.path(), "numbers.json");
        assert_eq!(kept.load::<Vec<u32>>(), None);
        kept.store(&[3, 4], Durable::Process);
        kept.store(&[5, 6], Durable::Power);
        assert_eq!(Kept::new(folder.path(), "numbers.json").load::<Vec<u32>>(), Some(vec![5, 6]));
        kept.clear();
        kept.clear();
        assert_eq!(kept.load::<Vec<u32>>(), None);
    }

    #[test]
    fn a_cut_empty_or_foreign_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.json");
        for text in ["[5, ", "", "{\"x\": 1}", "\0\0\0"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Kept::new(folder.path(), "numbers.json").load::<Vec<u32>>(), None);
            assert!(!path.exists());
            assert_eq!(fs::read_to_string(folder.path().join("numbers.json.damaged")).unwrap(), text);
        }
    }

    #[test]
    fn without_a_folder_nothing_is_kept_and_nothing_fails() {
        let mut nowhere = Kept::new(Path::new(""), "numbers.json");
        nowhere.store(&1, Durable::Power);
        assert_eq!(nowhere.load::<u32>(), None);
        let mut gone = Kept::new(Path::new("/nowhere/at/all"), "numbers.json");
        gone.store(&1, Durable::Power);
        gone.clear();
        assert_eq!(gone.load::<u32>(), None);
    }
}
