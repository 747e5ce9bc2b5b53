//! What a bundle says besides sizes and weights: options of the command, generation settings, instructions, labels, gates, licence.

use super::numbers::{count, real};
use super::towers::{Folders, Towers};
use crate::bundle::Recipe;
use crate::bundle::checkpoint::{Weights, read_json, read_small};
use crate::bundle::gate::{self, BertConfig, WordPieces};
use crate::bundle::header::{self, Generation};
use crate::bundle::prompt;
use crate::bundle::vocabulary::{Token, Vocabulary};
use crate::bundle::write::Progress;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What to pack, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `R1-Omni-0.5B`, or the folder that holds it.
    pub checkpoint: PathBuf,
    pub quant: Recipe,
    pub towers: Towers,
    /// Name and instruction, besides `reason` and `label`.
    pub prompts: Vec<(String, String)>,
    /// Name and labels, besides the sets every bundle has.
    pub label_sets: Vec<(String, Vec<String>)>,
    /// Gate weights for every prompt, instead of BERT's.
    pub gate: Option<[f32; 3]>,
    /// Instead of `bert-base-uncased/vocab.txt`.
    pub bert_vocab: Option<PathBuf>,
    /// Instead of the chat template's own system sentence.
    pub system: Option<String>,
    pub name: Option<String>,
    pub license: Option<String>,
    /// The weights are random.
    pub untrained: bool,
}

impl Options {
    pub fn new(checkpoint: &Path, quant: impl Into<Recipe>) -> Options {
        Options {
            checkpoint: checkpoint.to_owned(),
            quant: quant.into(),
            towers: Towers::Auto,
            prompts: Vec::new(),
            label_sets: Vec::new(),
            gate: None,
            bert_vocab: None,
            system: None,
            name: None,
            license: None,
            untrained: false,
        }
    }
}

/// Settings of generation_config.json; sampling is not ours to follow, as upstream decodes greedily.
pub(super) fn generation(
    folder: &Path,
    config: &Value,
    specials: &[(String, u32)],
    vocabulary: &Vocabulary,
) -> Result<Generation> {
    let path = folder.join("generation_config.json");
    let own = if path.exists() { read_json(&path)? } else { Value::Null };
    let repetition_penalty =
        real(&own, "repetition_penalty", Some(1.0)).with_context(|| format!("in {}", path.display()))?;
    ensure!(
        repetition_penalty > 0.0,
        "`repetition_penalty` of {} is {repetition_penalty}, but must be more than 0",
        path.display()
    );
    Ok(Generation {
        eos: eos(folder, &own, config, specials, vocabulary)?,
        repetition_penalty,
        max_new_tokens: count(&own, "max_new_tokens", Some(2048))
            .with_context(|| format!("in {}", path.display()))?,
    })
}

/// The tokens that end a text, from the first file that states any: as numbers, or by name in tokenizer_config.json.
fn eos(
    folder: &Path,
    generation: &Value,
    config: &Value,
    specials: &[(String, u32)],
    vocabulary: &Vocabulary,
) -> Result<Vec<u32>> {
    for (file, stated) in [("generation_config.json", generation), ("config.json", config)] {
        let ids = match &stated["eos_token_id"] {
            Value::Null => continue,
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let known = |id: &Value| {
            let id = u32::try_from(id.as_u64()?).ok().filter(|&id| (id as usize) < vocabulary.len())?;
            (*vocabulary.token(id) != Token::Unused).then_some(id)
        };
        let mut out = Vec::new();
        for id in &ids {
            out.push(known(id).with_context(|| {
                format!("`eos_token_id` of {} names {id}, which is no token", folder.join(file).display())
            })?);
        }
        ensure!(!out.is_empty(), "`eos_token_id` of {} is empty", folder.join(file).display());
        return Ok(out);
    }
    let path = folder.join("tokenizer_config.json");
    let stated = if path.exists() { read_json(&path)?["eos_token"].clone() } else { Value::Null };
    let name = stated.as_str().or_else(|| stated["content"].as_str()).with_context(|| {
        format!("no file of {} states `eos_token_id`: state it in generation_config.json", folder.display())
    })?;
    let found = specials.iter().find(|(special, _)| special == name);
    let (_, id) =
        found.with_context(|| format!("`eos_token` of {} is `{name}`, which is no token", path.display()))?;
    Ok(vec![*id])
}

pub(super) fn instructions(options: &Options) -> Result<Vec<(String, String)>> {
    let mut out = vec![
        ("reason".to_owned(), prompt::REASON.to_owned()),
        ("label".to_owned(), prompt::LABEL.to_owned()),
    ];
    for (name, instruction) in &options.prompts {
        header::check_name(name).context("in --prompt")?;
        match out.iter_mut().find(|(other, _)| other == name) {
            Some(own) if name == "reason" || name == "label" => own.1 = instruction.clone(),
            Some(_) => bail!("--prompt {name} is given twice"),
            None => out.push((name.clone(), instruction.clone())),
        }
    }
    Ok(out)
}

pub(super) fn label_sets(options: &Options) -> Result<Vec<(String, Vec<String>)>> {
    let own = |&(name, labels): &(&str, &[&str])| {
        (name.to_owned(), labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>())
    };
    let mut out: Vec<(String, Vec<String>)> = prompt::LABEL_SETS.iter().map(own).collect();
    for (name, labels) in &options.label_sets {
        header::check_name(name).context("in --labels")?;
        ensure!(
            !out.iter().any(|(other, _)| other == name),
            "--labels {name}: there is a set of this name already"
        );
        out.push((name.clone(), labels.clone()));
    }
    Ok(out)
}

pub(super) fn gates(
    options: &Options,
    folders: &Folders,
    omni: &Weights,
    instructions: &[(String, String)],
    used: &mut Vec<PathBuf>,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<[f32; 3]>> {
    if let Some(gate) = options.gate {
        header::check_gate(gate).context("in --gate")?;
        return Ok(vec![gate; instructions.len()]);
    }
    let folder = folders.beside.join("bert-base-uncased");
    let path = options.bert_vocab.clone().unwrap_or_else(|| folder.join("vocab.txt"));
    ensure!(
        path.exists(),
        "the branch gate needs BERT's vocabulary, but {} is missing: put the folder bert-base-uncased beside the checkpoint, \
         give its vocab.txt with --bert-vocab FILE, or three weights with --gate V,B,F",
        path.display()
    );
    let config_path = folder.join("config.json");
    let mut config = BertConfig::default();
    if config_path.exists() {
        let json = read_json(&config_path)?;
        config.n_heads = count(&json, "num_attention_heads", Some(12))?;
        config.eps = real(&json, "layer_norm_eps", Some(1e-12))?;
        let act = &json["hidden_act"];
        ensure!(
            act.is_null() || act == "gelu",
            "`hidden_act` of {} is {act}, but must be \"gelu\"",
            config_path.display()
        );
        used.push(config_path);
    } else {
        log::info!(
            "{} is missing: BERT's heads are taken to be 64 wide, as published",
            config_path.display()
        );
    }
    let words = WordPieces::new(&read_small(&path)?).with_context(|| format!("in {}", path.display()))?;
    used.push(path);
    let texts: Result<Vec<_>> =
        instructions.iter().map(|(_, text)| words.ids(text, gate::tokens_max(omni))).collect();
    gate::gates(omni, config, &texts?, &mut |layer, layers| {
        tell(Progress { doing: "branch gates", done_bytes: layer as u64, total_bytes: layers as u64 });
    })
}

/// From the first lines of the checkpoint's README.md, where model pages state it.
pub(super) fn license(folder: &Path) -> String {
    let readme = read_small(&folder.join("README.md")).unwrap_or_default();
    let readme = String::from_utf8_lossy(&readme);
    let front = readme.strip_prefix("---").and_then(|rest| rest.split("\n---").next()).unwrap_or("");
    let stated = front.lines().find_map(|line| line.strip_prefix("license:"));
    stated.map_or("not stated by the checkpoint", str::trim).to_owned()
}
