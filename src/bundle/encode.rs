//! Text to tokens on the device, with nothing but the vocabulary: byte-level BPE whose merges stand in the order of their tokens' numbers,
//! as GPT-2's, Qwen's and every tiktoken vocabulary has them.
//!
//! Text is cut before it is merged as Qwen2's pattern cuts it: contractions, words with one sign before them, single digits, runs of
//! signs, white space.
//! Limits: a letter is what Unicode calls alphabetic, so that a combining vowel stays with its word where the pattern would cut it. Text is
//! not normalised.

use super::vocabulary::{Token, Vocabulary};
use std::collections::HashMap;

const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// A vocabulary turned around.
#[derive(Clone, Debug)]
pub struct Encoder {
    ids: HashMap<Vec<u8>, u32>,
}

impl Encoder {
    pub fn new(vocabulary: &Vocabulary) -> Encoder {
        let plain = |id: u32| match vocabulary.token(id) {
            Token::Bytes(bytes) => Some((bytes.clone(), id)),
            _ => None,
        };
        Encoder { ids: (0..vocabulary.len() as u32).filter_map(plain).collect() }
    }

    /// Tokens of ordinary text; nothing in it is special. A byte that is no token is left out.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece(rest));
            self.merge(piece.as_bytes(), &mut out);
            rest = after;
        }
        out
    }

    /// Joins the two neighbours whose token has the lowest number, until none can be joined.
    fn merge(&self, piece: &[u8], out: &mut Vec<u32>) {
        if let Some(id) = self.ids.get(piece) {
            return out.push(*id);
        }
        let mut ends: Vec<usize> = (1..=piece.len()).collect();
        loop {
            let start = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
            let joined = |i: usize| self.ids.get(&piece[start(i)..ends[i + 1]]).map(|id| (*id, i));
            let Some((_, at)) = (0..ends.len() - 1).filter_map(joined).min() else { break };
            ends.remove(at);
        }
        let mut start = 0;
        for end in ends {
            out.extend(self.ids.get(&piece[start..end]));
            start = end;
        }
    }
}

/// Bytes of the first piece of a text that is not empty.
fn piece(text: &str) -> usize {
    let mut chars = text.chars();
    let first = chars.next().expect("a piece of no text");
    let second = chars.next();
    let run = |text: &str, of: &dyn Fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    let letter = |c: char| c.is_alphabetic();
    let sign = |c: char| !c.is_whitespace() && !c.is_alphabetic() && !c.is_numeric();
    let line = |c: char| c == '\r' || c == '\n';
    let contraction =
        |short: &&&str| text.get(..short.len()).is_some_and(|start| start.eq_ignore_ascii_case(short));
    if let Some(short) = CONTRACTIONS.iter().find(contraction) {
        return short.len();
    }
    if letter(first) {
        return run(text, &letter);
    }
    let after = first.len_utf8();
    if !line(first) && !first.is_numeric() && second.is_some_and(letter) {
        return after + run(&text[after..], &letter);
    }
    if first.is_numeric() {
        return after;
    }
    let lead = if first == ' ' { 1 } else { 0 };
    let signs = run(&text[lead..], &sign);
    if signs > 0 {
        let end = lead + signs;
        return end + run(&text[end..], &line);
    }
    // White space: up to its last line break, or all but the last character where a word follows.
    let blank = run(text, &|c| c.is_whitespace());
    if let Some(last) = text[..blank].rfind(line) {
        return last + 1;
    }
    let last = text[..blank].chars().next_back().map_or(0, char::len_utf8);
    if blank < text.len() && blank > last { blank - last } else { blank }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        let (mut out, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (first, after) = rest.split_at(piece(rest));
            out.push(first);
            rest = after;
        }
        out
    }

    #[test]
    fn text_is_cut_as_the_pattern_cuts_it() {
        assert_eq!(pieces("I'm fine, it's 42!"), ["I", "'m", " fine", ",", " it", "'s", " ", "4", "2", "!"]);
        assert_eq!(pieces("  two  spaces "), [" ", " two", " ", " spaces", " "]);
        assert_eq!(pieces("a\n\n b?!\nc"), ["a", "\n\n", " b", "?!\n", "c"]);
        assert_eq!(pieces("\"Yes\" 你好。"), ["\"Yes", "\"", " 你好", "。"]);
    }

    #[test]
    fn the_lowest_token_is_joined_first() {
        let word = |text: &str| Token::Bytes(text.as_bytes().to_vec());
        let vocabulary = Vocabulary::new(["a", "b", "c", "bc", "ab", "abc"].into_iter().map(word).collect());
        let encoder = Encoder::new(&vocabulary);
        assert_eq!(encoder.encode("abc"), [5]);
        assert_eq!(encoder.encode("abcbcab"), [5, 3, 4]);
        assert_eq!(encoder.encode("axb"), [0, 1], "a byte that is no token is left out");
    }
}
