//! Digests of a bundle: one of its header and one of each tensor, so that a reader of any part can tell whether it is what was packed.
//!
//! Each byte of the file is covered by exactly one. The header's digest covers all that lies before the first tensor, its own digits
//! taken as `0`; it is the first key, so that its place is known. A tensor's digest covers its bytes and the padding behind them: the
//! SHA-256 over the SHA-256 of each MiB, so that threads can share the work.
//! Limits: damage is found, forgery is not: whoever can write the file can write its digests. A file that changes after it was read is
//! not looked at again.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::thread;

/// Key of the header's digest, and of those of the tensors in file order.
pub const HEADER: &str = "r1-omni.header.sha256";
pub const TENSORS: &str = "r1-omni.tensors.sha256";
/// What stands for a digest until it is known.
pub const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const PIECE: usize = 1 << 20;
/// More threads wait for memory.
const THREADS_MAX: usize = 8;
/// Magic, version, two counts.
const KEYS_AT: usize = 24;

/// As it stands in the file.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of a tensor whose bytes come in runs.
#[derive(Default)]
pub struct Running {
    whole: Sha256,
    piece: Sha256,
    /// Bytes of the piece so far, less than `PIECE`.
    filled: usize,
}

impl Running {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.filled));
            self.piece.update(now);
            self.filled += now.len();
            if self.filled == PIECE {
                self.whole.update(self.piece.finalize_reset());
                self.filled = 0;
            }
            bytes = later;
        }
    }

    pub fn finish(mut self) -> String {
        if self.filled > 0 {
            self.whole.update(self.piece.finalize());
        }
        hex(self.whole)
    }
}

/// The digest of a tensor whose bytes, with the padding, are all there.
pub fn of(bytes: &[u8], threads: usize) -> String {
    let mut digests = vec![[0; 32]; bytes.len().div_ceil(PIECE)];
    let share = digests.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        let mut shares = bytes.chunks(share * PIECE).zip(digests.chunks_mut(share));
        let own = shares.next();
        for (bytes, digests) in shares {
            scope.spawn(|| each_piece(bytes, digests));
        }
        if let Some((bytes, digests)) = own {
            each_piece(bytes, digests);
        }
    });
    hex(Sha256::new_with_prefix(digests.as_flattened()))
}

/// Threads that `of` may use on this machine.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS_MAX)
}

/// Writes the digest of a header whose first key is `HEADER` into it.
pub fn seal(header: &mut [u8]) {
    let digits = digits(header).expect("a header to be written begins with the key of its digest");
    let found = of_header(header, digits.clone());
    header[digits].copy_from_slice(found.as_bytes());
}

/// Compares a header with the digest in it, and returns that.
pub fn check_header(header: &[u8]) -> Result<String> {
    let digits = digits(header)
        .with_context(|| format!("key `{HEADER}` is missing or not the first; pack the checkpoint again"))?;
    let found = of_header(header, digits.clone());
    ensure!(
        header[digits.clone()] == *found.as_bytes(),
        "the header is not the one that was packed (SHA-256 {found}, not {}): the file is damaged; copy or pack it again",
        String::from_utf8_lossy(&header[digits]).escape_debug()
    );
    Ok(found)
}

fn of_header(header: &[u8], digits: Range<usize>) -> String {
    let mut hash = Sha256::new_with_prefix(&header[..digits.start]);
    hash.update(UNKNOWN);
    hash.update(&header[digits.end..]);
    hex(hash)
}

/// Where the header's own digits stand: behind length and name of the first key, the type number of a text and its length.
fn digits(header: &[u8]) -> Option<Range<usize>> {
    const TEXT: u32 = 8;
    let name = [&(HEADER.len() as u64).to_le_bytes(), HEADER.as_bytes()].concat();
    let kind = [&TEXT.to_le_bytes()[..], &(UNKNOWN.len() as u64).to_le_bytes()].concat();
    let rest = header.get(KEYS_AT..)?.strip_prefix(&name[..])?.strip_prefix(&kind[..])?;
    let start = KEYS_AT + name.len() + kind.len();
    (rest.len() >= UNKNOWN.len()).then(|| start..start + UNKNOWN.len())
}

fn each_piece(bytes: &[u8], digests: &mut [[u8; 32]]) {
    for (piece, digest) in bytes.chunks(PIECE).zip(digests) {
        *digest = Sha256::digest(piece).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tensor_is_the_digest_of_its_digest() {
        // printf abc | openssl sha256 -binary | sha256sum
        let wanted = "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358";
        assert_eq!(of(b"abc", 1), wanted);
        let mut running = Running::default();
        running.update(b"a");
        running.update(b"");
        running.update(b"bc");
        assert_eq!(running.finish(), wanted);
    }

    #[test]
    fn runs_and_threads_change_nothing() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE, 5 * PIECE + 77] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let mut running = Running::default();
            bytes.chunks(700_001).for_each(|run| running.update(run));
            let wanted = running.finish();
            for threads in [0, 1, 2, 3, 4, 9] {
                assert_eq!(of(&bytes, threads), wanted, "{len} bytes, {threads} threads");
            }
        }
    }
}
