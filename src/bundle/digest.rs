//! Digests as a bundle states them.

use sha2::{Digest, Sha256};

/// As it stands in the file.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
