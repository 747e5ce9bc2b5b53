//! Token ids to bytes.
//!
//! Invariant: every id below `len` has a piece; those of special and unused tokens are empty, so that text is what the pieces
//! of its tokens say one after the other.

use super::gguf::Value;
use anyhow::{Context, Result, bail, ensure};

const TEXT: i32 = 1;
const SPECIAL: i32 = 3;
const LITERAL: i32 = 4;
const UNUSED: i32 = 5;

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// Part of a text, as bytes; may end inside a character.
    Bytes(Vec<u8>),
    /// Steers the model; never part of a text. Holds its name.
    Special(String),
    /// Added to the vocabulary, but part of a text.
    Literal(String),
    /// A row of the embedding without a token.
    Unused,
}

/// The tokens of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<Token>,
}

impl Vocabulary {
    pub fn new(tokens: Vec<Token>) -> Vocabulary {
        Vocabulary { tokens }
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Panics for an id outside of the vocabulary.
    pub fn token(&self, id: u32) -> &Token {
        &self.tokens[id as usize]
    }

    /// What a token adds to a text; nothing for special and unused ones. Panics for an id outside of the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        match self.token(id) {
            Token::Bytes(bytes) => bytes,
            Token::Literal(text) => text.as_bytes(),
            Token::Special(_) | Token::Unused => &[],
        }
    }

    /// The text of `ids`, without special tokens; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.piece(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Tokens by number and name, for people.
    pub fn names(&self, ids: &[u32]) -> String {
        let name = |&id: &u32| match self.token(id) {
            Token::Special(name) => format!("{id} {name}"),
            other => format!("{id} {other:?}"),
        };
        ids.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Keys of a file; `split` names how text is cut before it is merged.
    pub(super) fn keys(&self, split: &str) -> [(String, Value); 4] {
        let (tokens, types) = self.to_texts();
        [
            ("model", Value::Text("gpt2".to_owned())),
            ("pre", Value::Text(split.to_owned())),
            ("tokens", Value::Texts(tokens)),
            ("token_type", Value::I32s(types)),
        ]
        .map(|(name, value)| (format!("tokenizer.ggml.{name}"), value))
    }

    fn to_texts(&self) -> (Vec<String>, Vec<i32>) {
        let pair = |(id, token): (usize, &Token)| match token {
            Token::Bytes(bytes) => (bytes.iter().map(|&b| char_of(b)).collect(), TEXT),
            Token::Special(name) => (name.clone(), SPECIAL),
            Token::Literal(text) => (text.clone(), LITERAL),
            Token::Unused => (format!("[UNUSED{id}]"), UNUSED),
        };
        self.tokens.iter().enumerate().map(pair).unzip()
    }

    pub(super) fn from_texts(texts: &[String], types: &[i32]) -> Result<Vocabulary> {
        ensure!(
            texts.len() == types.len(),
            "there are {} tokens, but {} token types",
            texts.len(),
            types.len()
        );
        let token = |(id, (text, kind)): (usize, (&String, &i32))| -> Result<Token> {
            Ok(match *kind {
                TEXT => Token::Bytes(bytes_of(text).with_context(|| format!("in token {id}"))?),
                SPECIAL => Token::Special(text.clone()),
                LITERAL => Token::Literal(text.clone()),
                UNUSED => Token::Unused,
                other => bail!("token {id} `{text}` has the type {other}, which is not 1, 3, 4 or 5"),
            })
        };
        let tokens: Result<_> = texts.iter().zip(types).enumerate().map(token).collect();
        Ok(Vocabulary { tokens: tokens? })
    }
}

/// The character that byte-level vocabularies write for a byte: itself where it prints, else one from U+0100 on.
pub fn char_of(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    char::from_u32(code).expect("codes up to 0x143 are characters")
}

/// The bytes of a byte-level text.
pub fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let byte = |c: char| -> Result<u8> {
        Ok(match u32::from(c) {
            code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code as u8,
            code @ 0x100..=0x120 => (code - 0x100) as u8,
            code @ 0x121..=0x142 => (code - 0x121 + 0x7f) as u8,
            0x143 => 0xad,
            _ => bail!("`{text}` holds `{c}`, which is not part of a byte-level vocabulary"),
        })
    };
    text.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_characters_are_one_to_one() {
        let all: String = (0..=255).map(char_of).collect();
        assert_eq!(bytes_of(&all).unwrap(), (0..=255).collect::<Vec<u8>>());
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xff)), ('\u{120}', '\u{10a}', '\u{ff}'));
        assert!(bytes_of("a b").is_err());
    }

    #[test]
    fn text_leaves_special_tokens_out() {
        let vocabulary = Vocabulary::new(vec![
            Token::Bytes(vec![0xe4, 0xbd]),
            Token::Special("<|im_end|>".into()),
            Token::Bytes(vec![0xa0]),
            Token::Literal("<think>".into()),
            Token::Unused,
        ]);
        assert_eq!(vocabulary.text(&[0, 1, 2, 4, 3]), "你<think>");
        assert_eq!(vocabulary.text(&[0]), "\u{fffd}");
        let (texts, types) = vocabulary.to_texts();
        assert_eq!(Vocabulary::from_texts(&texts, &types).unwrap(), vocabulary);
    }
}
