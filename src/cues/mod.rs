//! Cues: facts of a clip that a reason may speak of, such as a raised brow or a high pitch, and the claims that reasons make of them.
//!
//! A cue is a name with a value, seen in a face, heard in a voice or in words. They come from the log of a recorded clip, or are
//! measured beside the model:
//!
//! ```text
//! Reading -> measure (nets, voice) -> Facts -> ledger -> Measured -+
//!                                                text -> lexicon -+-> ground -> Verdict
//! ```

pub mod claims;
mod gate;
pub mod ground;
pub mod ledger;
pub mod lexicon;
pub mod measure;
pub mod net;
mod settings;
mod tone;

pub use measure::{Facts, Measurer};
pub use settings::{Crop, Cues, Gate, Ground, Layout, Net, Nets, Scoring, Task};

use serde::Deserialize;

/// Where a cue is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    Face,
    Voice,
    Words,
}

/// One logged fact.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Cue {
    pub modality: Channel,
    pub cue: String,
    pub value: String,
    /// False where it is covered, muffled or too faint: to claim it is an error.
    pub observable: bool,
}

use Channel::{Face, Voice, Words};

/// Every cue that can be claimed: its name, where it is found, its values. `no` claims the absence of the whole modality.
pub const CUES: [(&str, Channel, &[&str]); 12] = [
    ("brow", Face, &["raised", "oblique", "lowered"]),
    ("eyes", Face, &["wide", "narrowed"]),
    ("nose", Face, &["wrinkled"]),
    ("mouth", Face, &["smiling", "downturned", "pressed"]),
    ("jaw", Face, &["dropped"]),
    ("face", Face, &["still", "no"]),
    ("pitch", Voice, &["high", "low", "level"]),
    ("range", Voice, &["wide", "narrow", "medium"]),
    ("rate", Voice, &["fast", "slow", "medium"]),
    ("timbre", Voice, &["pressed", "trembling", "soft", "clear"]),
    ("voice", Voice, &["no"]),
    ("words", Words, &["good", "bad", "plain", "no"]),
];

/// How many claims [`face_claims`] gives.
pub const FACE_CLAIMS: usize = 10;

/// The claims that a single look at a face can show, in the order of [`CUES`].
pub fn face_claims() -> impl Iterator<Item = (&'static str, &'static str)> {
    let seen = CUES.iter().filter(|(cue, channel, _)| *channel == Face && *cue != "face");
    seen.flat_map(|(cue, _, values)| values.iter().map(move |value| (*cue, *value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_a_face_are_counted() {
        assert_eq!(face_claims().count(), FACE_CLAIMS);
    }
}
