//! A folder of Whisper, as transformers saves it, to a recogniser's file.
//!
//! Invariant: the same files and options make the same bytes.

use super::numbers::{count, flag};
use super::published::{self, AUDIO_BESIDE, Published};
use super::settings;
use super::source::read_rows;
use super::{folder_name, hash_all};
use crate::bundle::Recipe;
use crate::bundle::checkpoint::{Weights, read_json};
use crate::bundle::contents::Contents;
use crate::bundle::prompt::Encode;
use crate::bundle::shape::{Spec, Stack};
use crate::bundle::tokenizer;
use crate::bundle::words::{Transcript, WordsHeader, WordsShape};
use crate::bundle::write::{self, Progress, Values};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// As PyTorch's norms have it; no config states it.
const EPS: f32 = 1e-5;
const TEXTS: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"];
/// The token that says that nobody speaks, as OpenAI's and transformers' vocabularies name it.
const SILENCE: [&str; 2] = ["<|nospeech|>", "<|nocaptions|>"];

/// What to pack, and how.
#[derive(Clone, Debug)]
pub struct WordsOptions {
    pub folder: PathBuf,
    pub quant: Recipe,
    /// Of a recogniser of many: `en`, `zh`, ...
    pub language: String,
    pub name: Option<String>,
    pub license: Option<String>,
}

/// Packs a recogniser into `path` and returns the file's length in bytes.
pub fn pack(options: &WordsOptions, path: &Path, tell: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
    let folder = &options.folder;
    ensure!(folder.is_dir(), "{} is not a folder; give the folder of the recogniser", folder.display());
    let config_path = folder.join("config.json");
    let config = read_json(&config_path)?;
    let shape = shape(&config).with_context(|| format!("in {}", config_path.display()))?;
    let weights = Weights::open(folder)?;
    let (encode, vocabulary) = tokenizer::read(folder, shape.vocab)?;
    let texts = TEXTS.iter().map(|name| folder.join(name)).filter(|path| path.exists());
    let mut used: Vec<PathBuf> = texts.chain(weights.files().map(Path::to_owned)).collect();
    used.sort();
    let settings_path = folder.join("generation_config.json");
    let transcript = transcript(&read_json(&settings_path)?, options, encode.specials())
        .with_context(|| format!("in {}", settings_path.display()))?;
    let header = WordsHeader {
        name: options.name.clone().unwrap_or_else(|| folder_name(folder)),
        license: options.license.clone().unwrap_or_else(|| settings::license(folder)),
        quant: options.quant,
        sources: Vec::new(),
        shape,
        transcript,
        vocabulary,
    };
    let mut source = Recogniser { weights: &weights };
    for spec in header.tensors(false) {
        source.require(&spec)?;
    }
    let header = WordsHeader { sources: hash_all(&used, tell)?, ..header };
    write::write_file(path, &header, false, &mut source, tell)
}

fn shape(config: &Value) -> Result<WordsShape> {
    let kind = &config["model_type"];
    ensure!(*kind == "whisper", "`model_type` is {kind}, but must be \"whisper\"");
    let hidden = count(config, "d_model", None)?;
    let stack = |part: &str| -> Result<Stack> {
        let heads = format!("{part}_attention_heads");
        let n_heads = count(config, &heads, None)?;
        ensure!(hidden.is_multiple_of(n_heads), "`{heads}`: {hidden} values cannot be {n_heads} heads");
        let layers = count(config, &format!("{part}_layers"), None)?;
        let ffn = count(config, &format!("{part}_ffn_dim"), None)?;
        Ok(Stack { layers, hidden, ffn, n_heads, n_kv_heads: n_heads, head_dim: hidden / n_heads, eps: EPS })
    };
    Ok(WordsShape {
        mels: count(config, "num_mel_bins", None)?,
        audio_positions: count(config, "max_source_positions", Some(1500))?,
        audio: stack("encoder")?,
        words: stack("decoder")?,
        positions: count(config, "max_target_positions", Some(448))?,
        vocab: count(config, "vocab_size", None)?,
    })
}

fn transcript(settings: &Value, options: &WordsOptions, specials: &[(String, u32)]) -> Result<Transcript> {
    let id = |value: &Value, key: &str| -> Result<u32> {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.with_context(|| format!("`{key}` is {value}, but must be a token"))
    };
    let list = |key: &str| -> Result<Vec<u32>> {
        let listed = settings[key].as_array().into_iter().flatten();
        listed.filter(|value| **value != -1).map(|value| id(value, key)).collect()
    };
    let mut opening = vec![id(&settings["decoder_start_token_id"], "decoder_start_token_id")?];
    if flag(settings, "is_multilingual")? {
        let language = &settings["lang_to_id"][format!("<|{}|>", options.language)];
        ensure!(
            !language.is_null(),
            "the recogniser does not know the language `{}`; --language takes one of `lang_to_id`",
            options.language
        );
        opening.push(id(language, "lang_to_id")?);
        opening.push(id(&settings["task_to_id"]["transcribe"], "task_to_id")?);
    } else {
        ensure!(options.language == "en", "the recogniser knows English only, not `{}`", options.language);
    }
    opening.push(id(&settings["no_timestamps_token_id"], "no_timestamps_token_id")?);
    let silence = specials.iter().find(|(name, _)| SILENCE.contains(&name.as_str()));
    let (_, silence) = silence.context("the vocabulary has no token that says that nobody speaks")?;
    Ok(Transcript {
        opening,
        end: id(&settings["eos_token_id"], "eos_token_id")?,
        silence: *silence,
        barred: list("suppress_tokens")?,
        barred_first: list("begin_suppress_tokens")?,
    })
}

struct Recogniser<'a> {
    weights: &'a Weights,
}

impl Recogniser<'_> {
    fn find(&self, spec: &Spec) -> Result<Published> {
        if spec.name.starts_with("audio.") {
            let mut found = published::published(spec, 1)?;
            found.name.insert_str(0, AUDIO_BESIDE);
            return Ok(found);
        }
        published::words(spec)
    }

    fn require(&self, spec: &Spec) -> Result<()> {
        let found = self.find(spec)?;
        self.weights.require(&found.name, &found.dims)
    }
}

impl Values for Recogniser<'_> {
    fn rows(&mut self, spec: &Spec, first: usize, rows: usize, out: &mut Vec<f32>) -> Result<()> {
        read_rows(self.weights, &self.find(spec)?, spec, first, rows, out)
    }
}
