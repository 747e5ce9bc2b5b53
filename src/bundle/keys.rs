//! Keys of a file, read as what they must be: a refusal names the key and the next step.

use super::gguf::{self, Value};
use super::recipe::Recipe;
use super::vocabulary::Vocabulary;
use anyhow::{Context, Result, bail, ensure};
use std::{collections::BTreeMap, fmt};

/// The keys that every file has.
pub(super) fn general(
    architecture: &str,
    name: &str,
    description: &str,
    license: &str,
) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    vec![
        ("general.architecture".to_owned(), text(architecture)),
        ("general.name".to_owned(), text(name)),
        ("general.description".to_owned(), text(description)),
        ("general.license".to_owned(), text(license)),
        ("general.alignment".to_owned(), Value::U32(gguf::ALIGNMENT as u32)),
    ]
}

pub(super) fn ids(tokens: &[u32]) -> Value {
    Value::I32s(tokens.iter().map(|&t| t as i32).collect())
}

/// A file of another kind than the one that was asked for.
#[derive(Debug)]
pub struct OtherKind(String);

impl fmt::Display for OtherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OtherKind {}

/// The keys of a file, read as what they must be.
pub(super) struct Keys<'a>(pub(super) &'a BTreeMap<String, Value>);

impl<'a> Keys<'a> {
    pub(super) fn get(&self, key: &str) -> Result<&'a Value> {
        self.0.get(key).with_context(|| format!("key `{key}` is missing; pack the checkpoint again"))
    }

    /// Refuses another architecture, with the next step.
    pub(super) fn architecture(&self, wanted: &str, next: &str) -> Result<()> {
        let found = self.text("general.architecture")?;
        ensure!(
            found == wanted,
            OtherKind(format!("the architecture is `{found}`, but must be `{wanted}`: {next}"))
        );
        Ok(())
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        match self.get(key)? {
            Value::Text(text) => Ok(text),
            other => bail!("key `{key}` is {other:?}, but must be a text"),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<&'a [String]> {
        match self.get(key)? {
            Value::Texts(texts) => Ok(texts),
            _ => bail!("key `{key}` must be an array of texts"),
        }
    }

    pub(super) fn i32s(&self, key: &str) -> Result<&'a [i32]> {
        match self.get(key)? {
            Value::I32s(numbers) => Ok(numbers),
            _ => bail!("key `{key}` must be an array of i32"),
        }
    }

    pub(super) fn positive(&self, key: &str) -> Result<f32> {
        match self.get(key)? {
            Value::F32(v) if v.is_finite() && *v > 0.0 => Ok(*v),
            other => bail!("key `{key}` is {other:?}, but must be a positive f32"),
        }
    }

    /// A whole number from 1 on.
    pub(super) fn number(&self, key: &str, max: usize) -> Result<usize> {
        match self.get(key)? {
            Value::U32(v) if *v >= 1 && *v as usize <= max => Ok(*v as usize),
            other => bail!("key `{key}` is {other:?}, but must be a u32 from 1 to {max}"),
        }
    }

    pub(super) fn recipe(&self, key: &str) -> Result<Recipe> {
        let name = self.text(key)?;
        Recipe::from_name(name).with_context(|| format!("key `{key}` is `{name}`"))
    }

    /// The vocabulary of an embedding of `rows` rows.
    pub(super) fn vocabulary(&self, rows: usize) -> Result<Vocabulary> {
        let (texts, types) = (self.texts("tokenizer.ggml.tokens")?, self.i32s("tokenizer.ggml.token_type")?);
        let vocabulary = Vocabulary::from_texts(texts, types).context("in the vocabulary")?;
        let tokens = vocabulary.len();
        ensure!(tokens == rows, "the vocabulary has {tokens} tokens, but the embedding {rows} rows");
        Ok(vocabulary)
    }

    pub(super) fn tokens(&self, key: &str, vocab: usize) -> Result<Vec<u32>> {
        self.i32s(key)?.iter().map(|&id| token(key, id, vocab)).collect()
    }
}

pub(super) fn token(key: &str, id: i32, vocab: usize) -> Result<u32> {
    ensure!(
        id >= 0 && (id as usize) < vocab,
        "key `{key}` holds token {id}, outside of the vocabulary of {vocab}"
    );
    Ok(id as u32)
}
