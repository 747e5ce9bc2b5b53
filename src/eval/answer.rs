//! What a completion answers, and whether it has the form that was asked for: strictly, with the loopholes closed.
//!
//! `tools/train/rewards.py` has the same rules in Python, and `tests/data/claims.json` holds both.

const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// Words of data sets and models for one and the same label. The last four are MAFW's.
const SYNONYMS: [(&str, &str); 12] = [
    ("happiness", "happy"),
    ("joyful", "happy"),
    ("sadness", "sad"),
    ("anger", "angry"),
    ("surprised", "surprise"),
    ("disgusted", "disgust"),
    ("fearful", "fear"),
    ("afraid", "fear"),
    ("contempt", "contemptuous"),
    ("anxiety", "anxious"),
    ("helplessness", "helpless"),
    ("disappointment", "disappointed"),
];

/// Label of a clip on which nobody can decide. It is allowed beside every label set.
pub const UNKNOWN: &str = "unknown";

/// A label as the closed vocabulary spells it: case, blanks, full stops at the ends and the synonyms above do not count.
pub fn canonical(text: &str) -> String {
    let word = text.trim().trim_matches('.').trim().to_lowercase();
    SYNONYMS.iter().find(|(other, _)| *other == word).map_or(word, |(_, own)| (*own).to_owned())
}

/// The label of a set that a word means: its place.
pub fn place(labels: &[String], word: &str) -> Option<usize> {
    let word = canonical(word);
    labels.iter().position(|label| canonical(label) == word)
}

/// The one answer of a completion, canonical. Several answers are none.
pub fn answer_of(completion: &str) -> Option<String> {
    let once = |tag: &str| completion.matches(tag).count() == 1;
    if !once("<answer>") || !once("</answer>") {
        return None;
    }
    let (_, rest) = completion.split_once("<answer>")?;
    rest.split_once("</answer>").map(|(inside, _)| canonical(inside))
}

/// What stands between the first `<think>` and the next `</think>`; empty where there is none.
pub fn thought_of(completion: &str) -> &str {
    let thought = || Some(completion.split_once("<think>")?.1.split_once("</think>")?.0);
    thought().unwrap_or_default()
}

/// A thought, then an answer, each tag once, neither empty, and nothing else.
pub fn well_formed(completion: &str) -> bool {
    let parts = || {
        let rest = completion.strip_prefix("<think>")?;
        let (thought, rest) = rest.split_once("</think>")?;
        let answer = rest.trim_start().strip_prefix("<answer>")?.strip_suffix("</answer>")?;
        Some(!thought.trim().is_empty() && !answer.trim().is_empty())
    };
    TAGS.iter().all(|tag| completion.matches(tag).count() == 1) && parts() == Some(true)
}
