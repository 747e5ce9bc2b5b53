//! RAUC, asked through its command line: what an update file is, and its installation.

use super::slots::Slot;
use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::Command,
};

/// RAUC's own configuration: the slots, who may sign, which boards.
pub const CONFIG: &str = "/usr/lib/mien/rauc.conf";
/// The certificate of who signs updates for this board.
pub const CERTIFICATE: &str = "/etc/mien/update.pem";
/// Where a board whose own system is updated by RAUC has its configuration.
pub const SYSTEM_CONFIG: &str = "/etc/rauc/system.conf";
/// RAUC's unit.
pub const ENGINE: &str = "rauc";
/// Left free on the disk, in bytes.
const SPARE: u64 = 16 << 20;

/// What an update file says of itself; its signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub compatible: String,
    pub version: String,
    /// Of the image, in bytes.
    pub bytes: u64,
}

impl Info {
    /// Of `rauc info --output-format=json`.
    fn parse(text: &str) -> Option<Info> {
        let all: Value = serde_json::from_str(text).ok()?;
        let word = |key: &str| Some(all.get(key)?.as_str()?.to_string());
        let images = all.get("images")?.as_array()?;
        let image = images.iter().find_map(|image| image.get("app"))?;
        Some(Info {
            compatible: word("compatible")?,
            version: word("version")?,
            bytes: image.get("size")?.as_u64()?,
        })
    }
}

/// Reads a file and checks who signed it.
pub fn info(file: &Path) -> Result<Info> {
    let output = Command::new("rauc")
        .args(["--conf", CONFIG, "info", "--output-format=json"])
        .arg(file)
        .output()
        .context("rauc cannot be started: install the package mien-update")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", last_words(&said));
    let text = String::from_utf8_lossy(&output.stdout);
    Info::parse(text.trim()).context("it holds no image of an application (`image.app`)")
}

/// What this board is to RAUC.
pub fn compatible() -> Result<String> {
    let text =
        fs::read_to_string(CONFIG).with_context(|| format!("{CONFIG}: install the package mien-update"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("compatible="));
    Ok(line.with_context(|| format!("{CONFIG} names no `compatible`"))?.trim().to_string())
}

/// There are so many bytes on the disk of this folder, and some to spare.
pub fn free_for(what: &str, store: &Path, bytes: u64) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let disk = rustix::fs::statvfs(store).with_context(|| store.display().to_string())?;
    let (free, need) = (disk.f_bavail * disk.f_frsize, bytes + SPARE);
    ensure!(
        free >= need,
        "{} has {} MB free, and {what} need {} MB: make room, then try again",
        store.display(),
        free / 1_000_000,
        need / 1_000_000
    );
    Ok(())
}

/// Makes both slots large enough for an image, or says by how much the disk is too small.
pub fn make_room(store: &Path, bytes: u64) -> Result<()> {
    let mut wanted = 0;
    for slot in Slot::ALL {
        let length = fs::metadata(store.join(slot.file())).map_or(0, |facts| facts.len());
        wanted += bytes.saturating_sub(length);
    }
    fs::create_dir_all(store).with_context(|| format!("cannot make {}", store.display()))?;
    free_for("two slots for this image", store, wanted)?;
    for slot in Slot::ALL {
        let path = store.join(slot.file());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| path.display().to_string())?;
        if file.metadata()?.len() < bytes {
            fallocate(&file, FallocateFlags::empty(), 0, bytes)
                .with_context(|| format!("{}: no room for {bytes} bytes", path.display()))?;
        }
    }
    Ok(())
}

/// Has RAUC write the file into the slot that does not run. Its progress goes to standard output.
pub fn install(file: &Path) -> Result<()> {
    let output =
        Command::new("rauc").arg("install").arg(file).stdout(std::process::Stdio::inherit()).output();
    let output = output.context("rauc cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", last_words(&said));
    Ok(())
}

/// The versions that RAUC's status file has for both slots.
pub fn versions(store: &Path) -> [Option<String>; 2] {
    let text = fs::read_to_string(store.join("rauc.status")).unwrap_or_default();
    ["[slot.app.0]", "[slot.app.1]"].map(|head| {
        let (_, rest) = text.split_once(head)?;
        let section = rest.split("\n[").next()?;
        Some(section.lines().find_map(|line| line.strip_prefix("bundle.version="))?.to_string())
    })
}

/// The last line that says what failed.
fn last_words(said: &str) -> String {
    let lines = || said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let word =
        lines().find(|line| line.contains("rror") || line.contains("ailed")).or_else(|| lines().next());
    word.unwrap_or("rauc failed and said nothing").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rauc_says_of_a_file_is_read() {
        let text = r#"{"compatible":"mien-arm64","version":"0.2.0","description":null,"build":null,
            "hooks":[],"hash":"d3","images":[{"app":{"filename":"app.img","checksum":"c0ffee","size":5103616,"hooks":[]}}]}"#;
        let info = Info { compatible: "mien-arm64".into(), version: "0.2.0".into(), bytes: 5_103_616 };
        assert_eq!(Info::parse(text), Some(info));
        for wrong in ["", "[]", r#"{"compatible":"x","version":"1","images":[{"rootfs":{"size":1}}]}"#] {
            assert_eq!(Info::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_last_words_of_rauc_are_told() {
        let said = "rauc-Message: 10:00:00: Reading bundle\nfailed to verify signature: unable to get local issuer certificate\n\n";
        assert_eq!(last_words(said), "failed to verify signature: unable to get local issuer certificate");
        assert_eq!(last_words("something\n"), "something");
        assert_eq!(last_words(""), "rauc failed and said nothing");
    }

    #[test]
    fn slots_grow_with_the_image_and_a_full_disk_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("slots");
        let lengths = || Slot::ALL.map(|slot| fs::metadata(store.join(slot.file())).unwrap().len());
        make_room(&store, 5000).unwrap();
        assert_eq!(lengths(), [5000, 5000]);
        fs::write(store.join("a.img"), vec![7; 9000]).unwrap();
        make_room(&store, 8000).unwrap();
        assert_eq!(lengths(), [9000, 8000]);
        assert_eq!(fs::read(store.join("a.img")).unwrap(), vec![7; 9000], "what is there stays");
        let error = make_room(&store, 1 << 60).unwrap_err().to_string();
        assert!(error.contains("two slots for this image need"), "{error}");
        assert_eq!(lengths(), [9000, 8000]);
    }

    #[test]
    fn versions_stand_in_raucs_status() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(versions(folder.path()), [None, None]);
        let text = "[slot.app.1]\nbundle.compatible=mien-arm64\nbundle.version=0.3.0\nstatus=ok\n\n[slot.app.0]\nstatus=pending\n";
        fs::write(folder.path().join("rauc.status"), text).unwrap();
        assert_eq!(versions(folder.path()), [None, Some("0.3.0".into())]);
    }
}
