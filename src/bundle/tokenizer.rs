//! The published tokenizer, as far as packing needs it: byte-level BPE, checked before the tokenizers crate sees it.
//!
//! Invariant: special tokens are taken out of the tokenizer, so that no text can produce one. Every byte is a token, so that no text is
//! lost. Every merge joins two tokens into a third, which the crate takes for granted.

use super::checkpoint::read_json;
use super::prompt::Encode;
use super::vocabulary::{Token, Vocabulary, bytes_of, char_of};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use tokenizers::Tokenizer;

/// `tokenizer.json` without its special tokens, which stand beside it.
pub struct Published {
    tokenizer: Tokenizer,
    specials: Vec<(String, u32)>,
}

impl Encode for Published {
    fn plain(&self, text: &str) -> Result<Vec<(u32, usize)>> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| anyhow!("tokenising `{text}`: {e}"))?;
        Ok(encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(_, end))| (id, end)).collect())
    }

    fn specials(&self) -> &[(String, u32)] {
        &self.specials
    }
}

/// Reads `tokenizer.json` for an embedding of `rows` rows, and the files beside it that add tokens.
pub fn read(folder: &Path, rows: usize) -> Result<(Published, Vocabulary)> {
    let path = folder.join("tokenizer.json");
    ensure!(
        path.exists() || !folder.join("vocab.json").exists(),
        "{} has vocab.json, but no tokenizer.json: load the tokenizer with transformers (AutoTokenizer) and save it again",
        folder.display()
    );
    let mut json = read_json(&path)?;
    add_tokens(folder, &mut json)?;
    let found = parse(json, rows).with_context(|| format!("in {}", path.display()))?;
    check_added(folder, &found.0, &found.1)?;
    Ok(found)
}

/// Adds the tokens of `tokenizer_config.json` that `tokenizer.json` lacks, as transformers does.
fn add_tokens(folder: &Path, json: &mut Value) -> Result<()> {
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(());
    }
    let config = read_json(&path)?;
    let Some(more) = config["added_tokens_decoder"].as_object() else { return Ok(()) };
    let mut tokens = json["added_tokens"].as_array().cloned().unwrap_or_default();
    for (id, token) in more {
        let id: u64 = id.parse().with_context(|| format!("`{id}` of {} is no id", path.display()))?;
        match tokens.iter().find(|own| own["content"] == token["content"]) {
            Some(own) => ensure!(
                own["id"] == id,
                "{} gives {} the id {id}, but tokenizer.json {}; save the tokenizer again",
                path.display(),
                token["content"],
                own["id"]
            ),
            None => {
                let mut token = token.clone();
                ensure!(token.is_object(), "token {id} of {} is {token}", path.display());
                token["id"] = id.into();
                tokens.push(token);
            }
        }
    }
    ensure!(json.is_object(), "{} is no table of keys and values", folder.join("tokenizer.json").display());
    json["added_tokens"] = tokens.into();
    Ok(())
}

/// Refuses an `added_tokens.json` that names tokens which the tokenizer has not.
fn check_added(folder: &Path, published: &Published, vocabulary: &Vocabulary) -> Result<()> {
    let path = folder.join("added_tokens.json");
    if !path.exists() {
        return Ok(());
    }
    let json = read_json(&path)?;
    let map = json.as_object().with_context(|| format!("{} is no table of tokens", path.display()))?;
    for (name, id) in map {
        let special = published.specials.iter().any(|(own, own_id)| own == name && *id == *own_id);
        let at = id.as_u64().filter(|&id| id < vocabulary.len() as u64);
        let plain = at.is_some_and(|at| {
            matches!(vocabulary.token(at as u32), Token::Bytes(bytes) if bytes_of(name).is_ok_and(|own| own == *bytes))
        });
        ensure!(
            special || plain,
            "{} has the token `{name}` with the id {id}, which tokenizer.json has not; save the tokenizer again",
            path.display()
        );
    }
    Ok(())
}

fn parse(mut json: Value, rows: usize) -> Result<(Published, Vocabulary)> {
    check_stages(&json)?;
    let mut tokens = Tokens { slots: vec![None; rows] };
    let specials = tokens.place_added(&json["added_tokens"])?;
    let vocab = json["model"]["vocab"].as_object().context("there is no vocabulary")?;
    let added: HashMap<&str, u32> = specials.iter().map(|(name, id)| (name.as_str(), *id)).collect();
    for (text, id) in vocab {
        if added.get(text.as_str()).is_some_and(|added| *id == *added) {
            continue;
        }
        ensure!(!text.is_empty(), "token {id} of the vocabulary is empty");
        tokens.place(id, Token::Bytes(bytes_of(text)?))?;
    }
    for byte in 0..=255 {
        let text = char_of(byte).to_string();
        ensure!(
            vocab.contains_key(&text),
            "the byte {byte:#04x} (`{text}`) is no token, so that text would be lost"
        );
    }
    check_merges(&json["model"]["merges"], vocab)?;
    let vocabulary = Vocabulary::new(tokens.slots.into_iter().map(|t| t.unwrap_or(Token::Unused)).collect());
    json["added_tokens"] = json!([]);
    for unused in ["post_processor", "decoder", "truncation", "padding"] {
        json[unused] = Value::Null;
    }
    let bytes = serde_json::to_vec(&json)?;
    let tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| anyhow!("{e}; get the file again"))?;
    Ok((Published { tokenizer, specials }, vocabulary))
}

/// Refuses a tokenizer that does anything but: normalise, split, bytes, merges.
fn check_stages(json: &Value) -> Result<()> {
    let model = &json["model"];
    ensure!(model["type"] == "BPE", "the model is {}, but must be \"BPE\"", model["type"]);
    for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"] {
        let value = &model[key];
        ensure!(
            value.is_null() || *value == "" || *value == false,
            "the model has `{key}` {value}, which is not supported"
        );
    }
    for stage in steps(&json["normalizer"], "normalizers") {
        let kind = &stage["type"];
        let known = ["NFC", "NFD", "NFKC", "NFKD"].iter().any(|known| kind == known);
        ensure!(known, "the normalizer {kind} is not supported");
    }
    let splits = steps(&json["pre_tokenizer"], "pretokenizers");
    let (last, before) =
        splits.split_last().context("this is no byte-level tokenizer: it has no pre-tokenizer")?;
    ensure!(last["type"] == "ByteLevel", "this is no byte-level tokenizer: it ends with {}", last["type"]);
    match before.iter().find(|stage| stage["type"] != "Split") {
        Some(other) => bail!("the pre-tokenizer {} is not supported", other["type"]),
        None => Ok(()),
    }
}

/// The steps of a sequence, of one step, or of none.
fn steps<'a>(stage: &'a Value, list: &str) -> Vec<&'a Value> {
    match stage {
        Value::Null => Vec::new(),
        sequence if sequence["type"] == "Sequence" => {
            sequence[list].as_array().into_iter().flatten().collect()
        }
        one => vec![one],
    }
}

struct Tokens {
    slots: Vec<Option<Token>>,
}

impl Tokens {
    fn place(&mut self, id: &Value, token: Token) -> Result<u32> {
        let rows = self.slots.len();
        let at = id.as_u64().filter(|&id| id < rows as u64);
        let at =
            at.with_context(|| format!("token {token:?} has the id {id}, but the embedding {rows} rows"))?;
        let slot = &mut self.slots[at as usize];
        if let Some(other) = slot {
            bail!("id {at} stands for {other:?} and for {token:?}");
        }
        *slot = Some(token);
        Ok(at as u32)
    }

    /// Names and ids of the added tokens.
    fn place_added(&mut self, added: &Value) -> Result<Vec<(String, u32)>> {
        let (mut out, mut names) = (Vec::new(), HashSet::new());
        for added in added.as_array().into_iter().flatten() {
            let name = added["content"].as_str().filter(|name| !name.is_empty());
            let name = name.context("an added token has no content")?.to_owned();
            for flag in ["lstrip", "rstrip", "single_word"] {
                ensure!(added[flag] != true, "the added token `{name}` has `{flag}`, which is not supported");
            }
            ensure!(names.insert(name.clone()), "the added token `{name}` is there twice");
            let token = if added["special"] == true {
                Token::Special(name.clone())
            } else {
                Token::Literal(name.clone())
            };
            out.push((name, self.place(&added["id"], token)?));
        }
        Ok(out)
    }
}

/// Merges are pairs, or texts with a space between the two.
fn check_merges(merges: &Value, vocab: &Map<String, Value>) -> Result<()> {
    let merges = merges.as_array().context("there is no list of merges")?;
    let mut seen = HashSet::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) if index == 0 && text.starts_with("#version") => continue,
            Value::String(text) => text.split_once(' ').filter(|(_, second)| !second.contains(' ')),
            Value::Array(pair) => match &pair[..] {
                [Value::String(first), Value::String(second)] => Some((first.as_str(), second.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (first, second) =
            pair.with_context(|| format!("merge {index} is {merge}, but must be two tokens"))?;
        for token in [first, second, &format!("{first}{second}")] {
            ensure!(
                vocab.contains_key(token),
                "merge {index} joins `{first}` and `{second}`, but `{token}` is no token of the vocabulary"
            );
        }
        ensure!(seen.insert((first, second)), "merge {index} (`{first}` and `{second}`) is there twice");
    }
    Ok(())
}
