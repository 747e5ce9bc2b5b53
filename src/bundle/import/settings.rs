//! What a bundle says besides sizes and weights: options of the command, generation settings, instructions, labels, gates, licence.

use super::shape::{count, real};
use super::towers::{Folders, Towers};
use crate::bundle::block::Kind;
use crate::bundle::checkpoint::{Weights, read_json, read_small};
use crate::bundle::gate::{self, BertConfig, WordPieces};
use crate::bundle::header::{self, Generation};
use crate::bundle::prompt;
use crate::bundle::write::Progress;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What to pack, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `R1-Omni-0.5B`, or the folder that holds it.
    pub checkpoint: PathBuf,
    pub quant: Kind,
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
    pub fn new(checkpoint: &Path, quant: Kind) -> Options {
        Options {
            checkpoint: checkpoint.to_owned(),
            quant,
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
pub(super) fn generation(folder: &Path, config: &Value, vocab: usize) -> Result<Generation> {
    let path = folder.join("generation_config.json");
    let own = if path.exists() { read_json(&path)? } else { Value::Null };
    let eos = own.get("eos_token_id").unwrap_or(&config["eos_token_id"]);
    let list = match eos {
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    };
    let id = |id: &Value| id.as_u64().filter(|&id| id < vocab as u64).map(|id| id as u32);
    let eos = list.iter().map(id).collect::<Option<Vec<u32>>>();
    let eos = eos.with_context(|| format!("`eos_token_id` of {} is no token", path.display()))?;
    let repetition_penalty = real(&own, "repetition_penalty", 1.0)?;
    ensure!(
        repetition_penalty.is_finite() && repetition_penalty > 0.0,
        "`repetition_penalty` of {} is {repetition_penalty}",
        path.display()
    );
    Ok(Generation { eos, repetition_penalty, max_new_tokens: count(&own, "max_new_tokens", Some(2048))? })
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
        config.eps = real(&json, "layer_norm_eps", 1e-12)?;
        used.push(config_path);
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
