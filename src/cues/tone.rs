//! Words to their tone: good or bad, by a short list of English words and what denies them.
//!
//! Limits: a list knows no irony and no context. Where it finds nothing, or as much of one as of the other, the tone is not known.

/// Words that stand for a good tone, and for a bad one.
const GOOD: [&str; 40] = [
    "good",
    "great",
    "nice",
    "lovely",
    "wonderful",
    "excellent",
    "amazing",
    "awesome",
    "fantastic",
    "beautiful",
    "perfect",
    "brilliant",
    "happy",
    "glad",
    "pleased",
    "delighted",
    "love",
    "loved",
    "like",
    "enjoy",
    "enjoyed",
    "fun",
    "best",
    "better",
    "thanks",
    "thank",
    "welcome",
    "congratulations",
    "hope",
    "fine",
    "well",
    "yes",
    "hooray",
    "proud",
    "kind",
    "sweet",
    "easy",
    "win",
    "won",
    "success",
];
const BAD: [&str; 48] = [
    "bad",
    "terrible",
    "awful",
    "horrible",
    "worst",
    "worse",
    "hate",
    "hated",
    "sad",
    "angry",
    "mad",
    "upset",
    "annoyed",
    "annoying",
    "disgusting",
    "gross",
    "ugly",
    "stupid",
    "idiot",
    "dumb",
    "damn",
    "hell",
    "scared",
    "afraid",
    "fear",
    "worried",
    "sorry",
    "pain",
    "hurt",
    "hurts",
    "cry",
    "crying",
    "fail",
    "failed",
    "failure",
    "wrong",
    "problem",
    "lost",
    "lose",
    "dead",
    "die",
    "kill",
    "sick",
    "tired",
    "alone",
    "never",
    "shut",
    "despair",
];
/// A word of a tone that follows one of these, with at most one word between, has the other tone.
const DENIALS: [&str; 10] =
    ["not", "no", "isn't", "wasn't", "don't", "doesn't", "didn't", "can't", "won't", "nothing"];

/// `good`, `bad`, or nothing.
pub fn tone(text: &str) -> &'static str {
    let lower = text.to_lowercase().replace('\u{2019}', "'");
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphabetic() && c != '\'').filter(|word| !word.is_empty()).collect();
    let mut sum = 0i32;
    for (i, word) in words.iter().enumerate() {
        let worth = i32::from(GOOD.contains(word)) - i32::from(BAD.contains(word));
        let denied = words[i.saturating_sub(2)..i].iter().any(|before| DENIALS.contains(before));
        sum += if denied { -worth } else { worth };
    }
    match sum {
        1.. => "good",
        0 => "",
        _ => "bad",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_tone_unless_it_is_denied() {
        for (text, expected) in [
            ("That was a wonderful day, thank you!", "good"),
            ("I hate this. It hurts.", "bad"),
            ("It's not good.", "bad"),
            ("Don't be afraid.", "good"),
            ("Not a bad idea", "good"),
            ("The train leaves at ten.", ""),
            ("It was the best of times, it was the worst of times", ""),
            ("I don\u{2019}t like it", "bad"),
            ("", ""),
        ] {
            assert_eq!(tone(text), expected, "{text}");
        }
    }
}
