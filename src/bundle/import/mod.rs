//! Published checkpoint folders to a bundle.
//!
//! The folders are `R1-Omni-0.5B` and, beside it, `siglip-base-patch16-224`, `whisper-large-v3` and `bert-base-uncased`. The first
//! holds bf16 copies of both towers and BERT's weights, so that of the others only BERT's vocabulary is needed.
//! Invariant: the same files and options make the same bytes, wherever they lie.
//! Limits: one run of a tensor's rows and one BERT layer in memory.

mod numbers;
mod published;
mod rope;
mod settings;
mod shape;
mod source;
mod towers;
pub mod words;

use super::checkpoint::{Weights, read_json};
use super::digest;
use super::header::{Header, LabelSet, Prompt};
use super::prompt::{self, Encode};
use super::shape as sizes;
use super::write::{self, Progress};
use super::{template, tokenizer};
use anyhow::{Context, Result};
pub use settings::Options;
use sha2::{Digest, Sha256};
use source::Source;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
pub use towers::Towers;
use towers::{AUDIO, Folders, Tower, VISION, folder_name};
pub use words::WordsOptions;

/// Files of the checkpoint besides its weights that may make a difference.
const TEXTS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Packs a checkpoint into `path` and returns the bundle's length in bytes.
pub fn pack(options: &Options, path: &Path, tell: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
    let folders = Folders::find(&options.checkpoint)?;
    let omni = Weights::open(&folders.omni)?;
    let config_path = folders.omni.join("config.json");
    let config = read_json(&config_path)?;
    let in_config = || format!("in {}", config_path.display());
    let texts = TEXTS.iter().map(|name| folders.omni.join(name)).filter(|path| path.exists());
    let mut used: Vec<PathBuf> = texts.collect();
    let vision = Tower::open(&folders, &config, &omni, options.towers, &VISION, &mut used)?;
    let audio = Tower::open(&folders, &config, &omni, options.towers, &AUDIO, &mut used)?;
    let shape = shape::model_shape(&config, &vision, &audio).with_context(in_config)?;
    let own_head = shape::own_head(&config, &omni).with_context(in_config)?;

    let mut source = Source { omni: &omni, vision, audio, patch: shape.patch };
    for spec in sizes::tensors(&shape, own_head) {
        source.require(&spec)?;
    }
    let (encode, vocabulary) = tokenizer::read(&folders.omni, shape.vocab)?;
    let wrapped = numbers::flag(&config, "mm_use_x_start_end").with_context(in_config)?;
    let template = template::read(&folders.omni, options.system.as_deref(), wrapped, encode.specials())?;
    let instructions = settings::instructions(options)?;
    let gates = settings::gates(options, &folders, &omni, &instructions, &mut used, tell)?;
    let prompts: Result<Vec<Prompt>> = instructions
        .iter()
        .zip(gates)
        .map(|((name, instruction), gate)| template.prompt(&encode, name, instruction, gate))
        .collect();
    let sets: Result<Vec<LabelSet>> = settings::label_sets(options)?
        .iter()
        .map(|(name, labels)| template.label_set(&encode, name, labels))
        .collect();

    used.extend(omni.files().map(Path::to_owned));
    used.extend(source.vision.files().chain(source.audio.files()).map(Path::to_owned));
    used.sort();
    used.dedup();
    let header = Header {
        name: options.name.clone().unwrap_or_else(|| folder_name(&folders.omni)),
        description: description(options, &folders.omni, &source),
        license: options.license.clone().unwrap_or_else(|| settings::license(&folders.omni)),
        trained: !options.untrained,
        quant: options.quant,
        sources: hash_all(&used, tell)?,
        generation: settings::generation(&folders.omni, &config, encode.specials(), &vocabulary)?,
        marks: prompt::marks(&encode)?,
        prompts: prompts?,
        label_sets: sets?,
        self_test: None,
        vocabulary,
        shape,
    };
    write::write_file(path, &header, own_head, &mut source, tell)
}

fn description(options: &Options, folder: &Path, source: &Source<'_>) -> String {
    if options.untrained {
        return "UNTRAINED: random weights in the topology of R1-Omni. Its answers mean nothing.".to_owned();
    }
    let (vision, audio) = (source.vision.origin(), source.audio.origin());
    format!("Packed from {}; towers: vision {vision}, audio {audio}", folder_name(folder))
}

/// `sha256  folder/file` of each file.
fn hash_all(paths: &[PathBuf], tell: &mut dyn FnMut(Progress<'_>)) -> Result<Vec<String>> {
    let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
    let total_bytes = paths.iter().map(length).sum();
    let mut done_bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    let mut out = Vec::new();
    for path in paths {
        let context = || format!("reading {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        let mut hash = Sha256::new();
        loop {
            let n = file.read(&mut buffer).with_context(context)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            done_bytes += n as u64;
            tell(Progress { doing: "hashing the checkpoint", done_bytes, total_bytes });
        }
        let folder = path.parent().map(folder_name).unwrap_or_default();
        out.push(format!("{}  {folder}/{}", digest::hex(hash), folder_name(path)));
    }
    Ok(out)
}
