//! An offer of an update: what a broker keeps for every device that asks, signed by who signs the update files.
//!
//! A device decides by itself whether the offer is for it: for its kind of board, newer than any that it has seen, not tried before, and
//! for as many devices of a hundred as it says. An offer names a file and its hash, never a command. It is CMS in PEM (RFC 5652) around JSON.

use super::engine;
use crate::{
    kept::{self, Durable, Kept},
    machine,
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where a broker keeps it, unless it is asked for elsewhere.
pub const TOPIC: &str = "mien/offer";
/// So often a file is fetched and installed before an offer is left.
pub const TRIES: u8 = 3;

const FILE: &str = "offer.json";
const DOWNLOAD: &str = "offer.raucb";
/// Of an update file, in bytes: two of R1-Omni's bundles.
const BYTES_MAX: u64 = 4 << 30;

/// A version that devices may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    pub version: String,
    /// The boards that it is for, as RAUC has it.
    pub compatible: String,
    pub url: String,
    /// Of the update file, in hexadecimal.
    pub sha256: String,
    pub bytes: u64,
    /// Of all devices.
    pub percent: u8,
    /// Seconds since 1970: of two offers the later one holds.
    pub made: u64,
}

impl Offer {
    /// The offer in a message, where this certificate's key signed it.
    pub fn open(message: &[u8], certificate: &Path) -> Result<Offer> {
        // Boards without a clock of their own: that an offer is no old one is known by `made`.
        let mut openssl = Command::new("openssl")
            .args(["cms", "-verify", "-inform", "PEM", "-binary", "-purpose", "any", "-no_check_time"])
            .arg("-CAfile")
            .arg(certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("openssl cannot be started: install the package openssl")?;
        // It may end before it has read all: what it says then is what counts.
        let _ = openssl.stdin.take().expect("a pipe").write_all(message);
        let output = openssl.wait_with_output().context("openssl")?;
        ensure!(
            output.status.success(),
            "it is not signed by the key of {}: {}",
            certificate.display(),
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("openssl says nothing")
        );
        Offer::parse(&output.stdout)
    }

    fn parse(text: &[u8]) -> Result<Offer> {
        let offer: Offer = serde_json::from_slice(text).context("it is no offer of this mien")?;
        ensure!(
            offer.url.starts_with("https://") || offer.url.starts_with("http://"),
            "its file is at {:?}: neither http:// nor https://",
            offer.url
        );
        ensure!(offer.percent <= 100, "it is for {} devices of a hundred", offer.percent);
        ensure!((1..=BYTES_MAX).contains(&offer.bytes), "its file has {} bytes", offer.bytes);
        ensure!(
            offer.sha256.len() == 64
                && offer.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
            "its hash is no SHA-256"
        );
        Ok(offer)
    }

    /// Which of a hundred places a machine has for this version: the same at every percentage, another for the next version.
    pub fn place(&self, machine: &str) -> u8 {
        let digits = machine::digits(&["offer", &self.version, machine]);
        let number = u64::from_str_radix(&digits, 16).expect("hexadecimal digits");
        (number % 100) as u8
    }
}

/// How an offer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It runs and was found good.
    Good,
    /// It did not work here, and what ran before runs again.
    Back,
    /// It cannot be installed here.
    Refused,
}

impl End {
    /// As the broker is told.
    pub fn name(self) -> &'static str {
        match self {
            End::Good => "good",
            End::Back => "back",
            End::Refused => "refused",
        }
    }
}

/// The last offer that this board took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Of the newest offer that was seen.
    pub made: u64,
    /// Of the file that was taken.
    pub sha256: String,
    pub tries: u8,
    pub end: Option<End>,
}

impl Taken {
    /// What is stored in this folder.
    pub fn load(store: &Path) -> Taken {
        Kept::new(store, FILE).load().unwrap_or_default()
    }

    /// On the disk before this returns: what could not be counted would be tried for ever.
    pub fn store(&self, store: &Path) -> Result<()> {
        fs::create_dir_all(store).with_context(|| format!("cannot make {}", store.display()))?;
        let text = serde_json::to_vec(self).expect("plain fields are JSON");
        let path = store.join(FILE);
        kept::replace(&path, &text, Durable::Power)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// This offer's file is wanted now. True: another one's was before, and what came of it is of no use.
    pub fn turn_to(&mut self, offer: &Offer) -> bool {
        let other = self.sha256 != offer.sha256;
        if other {
            *self = Taken { made: self.made, sha256: offer.sha256.clone(), ..Taken::default() };
        }
        other
    }
}

/// What a board does about an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A newer one was seen: somebody plays an old one again.
    Old,
    OtherBoard,
    /// This file was taken before, and so it ended.
    Over(End),
    /// It is for fewer devices than this one's place.
    Waits,
    Take,
}

/// What a board of this kind, at this place of a hundred, does about an offer.
pub fn answer(offer: &Offer, taken: &Taken, compatible: &str, place: u8) -> Answer {
    let same = taken.sha256 == offer.sha256;
    match taken.end {
        _ if offer.made < taken.made => Answer::Old,
        _ if offer.compatible != compatible => Answer::OtherBoard,
        Some(end) if same => Answer::Over(end),
        // A power cut each time, or a file that is another one.
        None if same && taken.tries >= TRIES => Answer::Over(End::Refused),
        _ if place >= offer.percent => Answer::Waits,
        _ => Answer::Take,
    }
}

/// Fetches the file of an offer into this folder, going on where an earlier try was cut off; its path. Whether it is the offer's is not looked
/// at: see [`check`].
pub fn fetch(offer: &Offer, store: &Path) -> Result<PathBuf> {
    let path = store.join(DOWNLOAD);
    let length = || fs::metadata(&path).map_or(0, |facts| facts.len());
    if length() > offer.bytes {
        forget(store);
    }
    engine::free_for("the rest of the file would", store, offer.bytes - length())?;
    if length() < offer.bytes {
        let output = Command::new("curl")
            .args(["--fail", "--silent", "--show-error", "--location", "--proto", "=http,https"])
            .args(["--connect-timeout", "20", "--speed-time", "60", "--speed-limit", "100"])
            .args(["--continue-at", "-", "--max-filesize", &offer.bytes.to_string(), "--output"])
            .arg(&path)
            .args(["--", &offer.url])
            .output()
            .context("curl cannot be started: install the package curl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", offer.url, said.trim());
    }
    Ok(path)
}

/// What was fetched is the offer's file; another is deleted.
pub fn check(offer: &Offer, store: &Path) -> Result<()> {
    let path = store.join(DOWNLOAD);
    if hash(&path).with_context(|| path.display().to_string())? != offer.sha256 {
        forget(store);
        bail!("{} is not the file that was offered", offer.url);
    }
    Ok(())
}

/// SHA-256 of a file, in hexadecimal.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&piece[..count]),
        }
    }
}

/// Deletes what was fetched.
pub fn forget(store: &Path) {
    let _ = fs::remove_file(store.join(DOWNLOAD));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            version: "3".into(),
            compatible: "mien-arm64".into(),
            url: "http://hub/3.raucb".into(),
            sha256: "ab".repeat(32),
            bytes: 5,
            percent: 10,
            made: 1_000,
        }
    }

    #[test]
    fn a_board_takes_what_is_for_it_and_newer_and_its_turn() {
        let nothing = Taken::default();
        let says = |offer: &Offer, taken: &Taken, place| answer(offer, taken, "mien-arm64", place);
        assert_eq!(says(&offer(), &nothing, 9), Answer::Take);
        assert_eq!(says(&offer(), &nothing, 10), Answer::Waits);
        assert_eq!(says(&Offer { percent: 100, ..offer() }, &nothing, 99), Answer::Take);
        assert_eq!(says(&Offer { percent: 0, ..offer() }, &nothing, 0), Answer::Waits);
        assert_eq!(
            says(&Offer { compatible: "mien-amd64".into(), ..offer() }, &nothing, 0),
            Answer::OtherBoard
        );
        assert_eq!(says(&offer(), &Taken { made: 1_001, ..nothing }, 0), Answer::Old);
    }

    #[test]
    fn what_ended_is_not_tried_again_at_a_higher_percentage() {
        let mut taken = Taken { made: 1_000, ..Taken::default() };
        let later = Offer { percent: 100, made: 2_000, ..offer() };
        for end in [End::Good, End::Back, End::Refused] {
            taken.turn_to(&offer());
            taken.end = Some(end);
            assert_eq!(answer(&later, &taken, "mien-arm64", 0), Answer::Over(end));
            let next = Offer { version: "4".into(), sha256: "cd".repeat(32), ..later.clone() };
            assert_eq!(answer(&next, &taken, "mien-arm64", 0), Answer::Take, "another file is another try");
        }
        let mut cut = Taken::default();
        for n in 0..TRIES {
            assert_eq!(answer(&offer(), &cut, "mien-arm64", 0), Answer::Take);
            assert_eq!(cut.turn_to(&offer()), n == 0);
            cut.tries += 1;
        }
        assert_eq!(answer(&offer(), &cut, "mien-arm64", 0), Answer::Over(End::Refused));
        assert!(cut.turn_to(&Offer { sha256: "cd".repeat(32), ..offer() }));
        assert_eq!((cut.tries, cut.end), (0, None));
    }

    #[test]
    fn a_percentage_is_that_of_the_machines_and_grows_without_leaving_one_out() {
        let places: Vec<u8> = (0..10_000).map(|n| offer().place(&format!("machine-{n}"))).collect();
        for percent in [1, 10, 50] {
            let share = places.iter().filter(|&&place| place < percent).count() as f64 / 100.0;
            // Four standard deviations of a binomial.
            let p = f64::from(percent) / 100.0;
            assert!((share - f64::from(percent)).abs() < 4.0 * (p * (1.0 - p)).sqrt(), "{percent}: {share}");
        }
        let next = Offer { version: "4".into(), ..offer() };
        let moved = (0..100).filter(|n| next.place(&format!("machine-{n}")) != places[*n]).count();
        assert!(moved > 80, "the next version begins with others: {moved}");
    }

    #[test]
    fn an_offer_that_is_none_is_refused_by_name() {
        let text = serde_json::to_string(&offer()).unwrap();
        assert_eq!(Offer::parse(text.as_bytes()).unwrap(), offer());
        for (wrong, part) in [
            (text.replace("http://hub", "file:///etc"), "neither http"),
            (text.replace(":10,", ":101,"), "101 devices"),
            (text.replace("\"bytes\":5", "\"bytes\":0"), "0 bytes"),
            (text.replace("abab", "abaB"), "no SHA-256"),
            (text.replace("percent", "run"), "no offer"),
            (text[..40].to_string(), "no offer"),
            (String::new(), "no offer"),
        ] {
            let error = format!("{:#}", Offer::parse(wrong.as_bytes()).unwrap_err());
            assert!(error.contains(part), "{error}: {wrong}");
        }
    }

    #[test]
    fn what_was_taken_survives_and_damage_is_nothing_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("new");
        let mut taken = Taken { made: 7, ..Taken::default() };
        taken.turn_to(&offer());
        taken.store(&store).unwrap();
        assert_eq!(Taken::load(&store), taken);
        fs::write(store.join(FILE), "{").unwrap();
        assert_eq!(Taken::load(&store), Taken::default());
    }
}
