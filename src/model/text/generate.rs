//! From logits to text: which token comes next, when to stop, and text in whole characters.
//!
//! Invariant: the same logits, settings and seed give the same tokens.

use anyhow::{Result, ensure};
use std::collections::HashSet;

/// How an answer is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// `None` takes the most probable token.
    pub sampling: Option<Sampling>,
    /// `None` takes the bundle's.
    pub repetition_penalty: Option<f32>,
    /// `None` takes the bundle's; more than the bundle's is cut to it.
    pub max_new_tokens: Option<usize>,
    /// Only `<think>..</think>\n<answer>LABEL</answer>` with a label of this set.
    pub constrain_to: Option<String>,
    /// No word begins with one of these, whatever its case; in a script without spaces, none of them is said.
    pub avoid: Vec<String>,
    /// The probability of each token is told with the answer.
    pub weighed: bool,
    /// Stop when the same stretch comes again and again.
    pub repetition_guard: bool,
    /// Stop at an end of text; otherwise it is a token like any other, so that an answer has a known length to be measured.
    pub stop_at_end: bool,
}

impl Default for Decoding {
    fn default() -> Self {
        Self {
            sampling: None,
            repetition_penalty: None,
            max_new_tokens: None,
            constrain_to: None,
            avoid: Vec::new(),
            weighed: false,
            repetition_guard: true,
            stop_at_end: true,
        }
    }
}

impl Decoding {
    /// Refuses values that have no meaning, by name.
    pub fn check(&self) -> Result<()> {
        if let Some(Sampling { temperature, top_p, .. }) = self.sampling {
            ensure!(
                temperature > 0.0 && temperature.is_finite(),
                "a temperature of {temperature}; it must be above 0"
            );
            ensure!(top_p > 0.0 && top_p <= 1.0, "a top-p of {top_p}; it must be above 0, at most 1");
        }
        if let Some(penalty) = self.repetition_penalty {
            ensure!(
                penalty > 0.0 && penalty.is_finite(),
                "a repetition penalty of {penalty}; it must be above 0"
            );
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// Only the so many most probable tokens; 0 for all.
    pub top_k: usize,
    /// Only the fewest most probable tokens that have this share; 1 for all.
    pub top_p: f32,
    pub seed: u64,
}

/// Draws the next token from logits.
pub struct Chooser {
    sampling: Sampling,
    penalty: f32,
    state: u64,
    made: HashSet<u32>,
    candidates: Vec<(u32, f32)>,
}

impl Chooser {
    pub fn new(sampling: Sampling, penalty: f32) -> Self {
        let state = sampling.seed;
        Self { sampling, penalty, state, made: HashSet::new(), candidates: Vec::new() }
    }

    /// The next token among those that are `allowed`. Each token that was made before is penalised once, however often it was made. At least one token must be allowed.
    pub fn choose(&mut self, logits: &[f32], allowed: impl Fn(u32) -> bool) -> u32 {
        let (penalty, made) = (self.penalty, &self.made);
        let penalized = |(id, logit): (u32, f32)| {
            let again = penalty != 1.0 && made.contains(&id);
            (
                id,
                if !again {
                    logit
                } else if logit < 0.0 {
                    logit * penalty
                } else {
                    logit / penalty
                },
            )
        };
        let open = (0u32..).zip(logits.iter().copied()).filter(|(id, _)| allowed(*id)).map(penalized);
        let sampling = self.sampling;
        self.candidates.clear();
        self.candidates.extend(open);
        assert!(!self.candidates.is_empty(), "no token of {} is allowed", logits.len());
        let keep = if sampling.top_k == 0 { usize::MAX } else { sampling.top_k }.min(self.candidates.len());
        if keep < self.candidates.len() {
            self.candidates.select_nth_unstable_by(keep - 1, higher_first);
            self.candidates.truncate(keep);
        }
        self.candidates.sort_unstable_by(higher_first);
        let top = f64::from(self.candidates[0].1);
        let weight = |logit: f32| ((f64::from(logit) - top) / f64::from(sampling.temperature)).exp();
        let total: f64 = self.candidates.iter().map(|c| weight(c.1)).sum();
        let mut share = 0.0;
        let within = self.candidates.iter().take_while(|c| {
            let before = share;
            share += weight(c.1) / total;
            before < f64::from(sampling.top_p)
        });
        let kept = within.count().max(1);
        let kept = &self.candidates[..kept];
        let total: f64 = kept.iter().map(|c| weight(c.1)).sum();
        let mut left = uniform(&mut self.state) * total;
        for (id, logit) in kept {
            left -= weight(*logit);
            if left < 0.0 {
                return *id;
            }
        }
        kept[kept.len() - 1].0
    }

    /// The token was made and is penalised from now on.
    pub fn made(&mut self, id: u32) {
        self.made.insert(id);
    }
}

fn higher_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The most probable of the allowed tokens, as it stands. At least one must be allowed.
pub fn most_probable(logits: &[f32], allowed: impl Fn(u32) -> bool) -> u32 {
    let open = (0u32..).zip(logits.iter().copied()).filter(|(id, _)| allowed(*id));
    let higher = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
    open.reduce(higher).expect("the caller allows at least one token").0
}

/// In `[0, 1)`; splitmix64.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

/// Longest stretch whose repetition is noticed.
const STRETCH_MAX: usize = 64;
/// A stretch is repeated when it came this often, and filled at least so many tokens.
const TIMES: usize = 4;
const FILLED_MIN: usize = 48;

/// Notices a stretch of up to 64 tokens that comes again and again.
pub struct Guard {
    tokens: Vec<u32>,
    /// By length of stretch: how many tokens in a row equal the one a stretch before.
    equal: [usize; STRETCH_MAX],
}

impl Default for Guard {
    fn default() -> Self {
        Self { tokens: Vec::new(), equal: [0; STRETCH_MAX] }
    }
}

impl Guard {
    /// Whether the tokens so far end in a repeated stretch.
    pub fn push(&mut self, id: u32) -> bool {
        let n = self.tokens.len();
        self.tokens.push(id);
        let mut repeated = false;
        for (equal, stretch) in self.equal.iter_mut().zip(1..) {
            *equal = if n >= stretch && self.tokens[n - stretch] == id { *equal + 1 } else { 0 };
            let filled = *equal + stretch;
            repeated |= filled >= TIMES * stretch && filled >= FILLED_MIN;
        }
        repeated
    }
}

/// Bytes of tokens to text in whole characters; what can be no character becomes U+FFFD.
#[derive(Default)]
pub struct Characters {
    pending: Vec<u8>,
}

impl Characters {
    pub fn push(&mut self, bytes: &[u8], say: &mut dyn FnMut(&str)) {
        self.pending.extend_from_slice(bytes);
        loop {
            let (valid, bad) = match std::str::from_utf8(&self.pending) {
                Ok(text) => {
                    if !text.is_empty() {
                        say(text);
                    }
                    self.pending.clear();
                    return;
                }
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            if valid > 0 {
                say(&String::from_utf8_lossy(&self.pending[..valid]));
            }
            self.pending.drain(..valid + bad.unwrap_or(0));
            match bad {
                Some(_) => say("\u{fffd}"),
                None => return,
            }
        }
    }

    /// The rest, when no more bytes come.
    pub fn finish(&mut self, say: &mut dyn FnMut(&str)) {
        if !self.pending.is_empty() {
            self.pending.clear();
            say("\u{fffd}");
        }
    }
}

/// Whether a text that goes on with a token's piece says one of `words` there: at the start of a word, or anywhere in a script without
/// spaces.
pub fn says(words: &[String], text: &str, piece: &[u8]) -> bool {
    let words = || words.iter().filter(|word| !word.is_empty());
    let Some(longest) = words().map(String::len).max() else { return false };
    let mut from = text.len().saturating_sub(longest + 4);
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    let before = text[from..].to_lowercase();
    let joined = before.clone() + &String::from_utf8_lossy(piece).to_lowercase();
    words().map(|word| word.to_lowercase()).any(|word| {
        joined.match_indices(&word).any(|(at, _)| {
            let inside = joined[..at].chars().next_back().is_some_and(char::is_alphanumeric);
            at + word.len() > before.len() && !(inside && word.is_ascii())
        })
    })
}

/// The text between the first `<tag>` and the first `</tag>` after it.
pub fn between<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    let (inside, _) = rest.split_once(&format!("</{tag}>"))?;
    Some(inside.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Sampling = Sampling { temperature: 1.0, top_k: 1, top_p: 1.0, seed: 0 };

    fn all(_: u32) -> bool {
        true
    }

    #[test]
    fn a_token_is_penalised_once() {
        let mut chooser = Chooser::new(ONE, 1.1);
        let logits = [2.0, 1.9, -1.0];
        assert_eq!(chooser.choose(&logits, all), 0);
        chooser.made(0);
        chooser.made(0);
        assert_eq!(chooser.choose(&logits, all), 1, "2 / 1.1 is below 1.9");
        assert_eq!(chooser.choose(&[2.1, 1.9, -1.0], all), 0, "2.1 / 1.1 is above 1.9, 2.1 / 1.21 is not");
        chooser.made(2);
        assert_eq!(chooser.choose(&[-9.0, -1.05, -1.0], all), 1, "-1 * 1.1 is below -1.05");
    }

    #[test]
    fn the_first_of_equals_is_taken_and_masks_hold() {
        let mut chooser = Chooser::new(ONE, 1.0);
        assert_eq!(chooser.choose(&[1.0, 3.0, 3.0], all), 1);
        assert_eq!(chooser.choose(&[1.0, 3.0, 3.0], |id| id != 1), 2);
        assert_eq!(chooser.choose(&[f32::NEG_INFINITY; 3], |id| id == 2), 2);
        assert_eq!(most_probable(&[1.0, 3.0, 3.0], all), 1);
        assert_eq!(most_probable(&[f32::NEG_INFINITY; 3], |id| id == 2), 2);
    }

    #[test]
    fn a_seed_repeats_its_tokens_and_shares_follow_the_weights() {
        let logits = [0.0f32, (3.0f32).ln(), -20.0];
        let draw = |seed: u64, top_k: usize, top_p: f32| {
            let sampling = Sampling { temperature: 1.0, top_k, top_p, seed };
            let mut chooser = Chooser::new(sampling, 1.0);
            (0..4000).map(|_| chooser.choose(&logits, all)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 0, 1.0), draw(7, 0, 1.0));
        assert_ne!(draw(7, 0, 1.0), draw(8, 0, 1.0));
        let share = draw(7, 0, 1.0).iter().filter(|id| **id == 1).count() as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert!(draw(7, 1, 1.0).iter().all(|id| *id == 1), "top_k 1 is greedy");
        assert!(draw(7, 0, 0.7).iter().all(|id| *id == 1), "the first token alone has a share of 0.75");
        assert!(draw(7, 0, 0.8).contains(&0), "a share of 0.8 needs both");
    }

    #[test]
    fn repetition_is_noticed_late_enough() {
        fn first(mut tokens: impl Iterator<Item = u32>) -> Option<usize> {
            let mut guard = Guard::default();
            tokens.position(|id| guard.push(id))
        }
        assert_eq!(first(std::iter::repeat_n(5, 100)), Some(47), "one token");
        let stretch = |n: u32| (0..400).map(move |i| i % n);
        assert_eq!(first(stretch(20)), Some(79), "four times twenty");
        assert_eq!(first(stretch(65)), None, "longer than what is watched");
        assert_eq!(first(0..400), None);
        let broken = (0..400).map(|i| if i % 40 == 0 { 1000 + i } else { i % 2 });
        assert_eq!(first(broken), None, "thirty-nine tokens are too few");
    }

    #[test]
    fn words_are_avoided_where_a_word_begins() {
        let words = ["Narrow".to_owned(), "声音高".to_owned(), String::new()];
        for (text, piece, said) in [
            ("I hear ", "narrow", true),
            ("I hear", " narrowed", true),
            ("I hear nar", "row", true),
            ("", "NARROW", true),
            ("un", "narrow", false),
            ("I hear narrow", " range", false),
            ("I hear nar", "ration", false),
            ("他的声音", "高", true),
            ("他的声", "音", false),
        ] {
            assert_eq!(says(&words, text, piece.as_bytes()), said, "`{text}` + `{piece}`");
        }
        assert!(!says(&[], "a", b"narrow"));
        assert!(!says(&words, "a", &[0xe5]), "half a character");
    }

    #[test]
    fn text_comes_in_whole_characters() {
        let mut said = Vec::new();
        let mut characters = Characters::default();
        for byte in "aé你🙂".bytes() {
            characters.push(&[byte], &mut |text| said.push(text.to_owned()));
        }
        characters.finish(&mut |_| panic!("nothing is left"));
        assert_eq!(said, ["a", "é", "你", "🙂"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut said = String::new();
        let mut characters = Characters::default();
        characters.push(&[b'a', 0xff, b'b', 0xe4, 0xbd], &mut |text| said.push_str(text));
        characters.push(b"c", &mut |text| said.push_str(text));
        characters.push(&[0xf0, 0x9f], &mut |text| said.push_str(text));
        characters.finish(&mut |text| said.push_str(text));
        assert_eq!(said, "a\u{fffd}b\u{fffd}c\u{fffd}");
    }

    #[test]
    fn tags_are_found_once() {
        let text = "<think> it rains\n</think>\n<answer> sad </answer><answer>happy</answer>";
        assert_eq!(between(text, "think"), Some("it rains"));
        assert_eq!(between(text, "answer"), Some("sad"));
        assert_eq!(between("<answer>sad", "answer"), None);
        assert_eq!(between("</answer>sad<answer>", "answer"), None);
    }
}
