//! Published checkpoint folders to a bundle.
//!
//! The folders are `R1-Omni-0.5B` and, beside it, `siglip-base-patch16-224`, `whisper-large-v3` and `bert-base-uncased`. The first
//! holds bf16 copies of both towers and BERT's weights, so that of the others only BERT's vocabulary is needed.
//! Invariant: the same files and options make the same bytes, wherever they lie.
//! Limits: one run of a tensor's rows and one BERT layer in memory.

use super::checkpoint::{Weights, read_json, read_small};
use super::gate::{self, BertConfig, WordPieces};
use super::head::{self, Head};
use super::prompt;
use super::published::{self, Layout, Part, Published};
use super::shape::{self, Spec};
use super::tokenizer;
use super::write::{self, Progress, Values};
use super::{Generation, Kind, LabelSet, Prompt, Shape, Stack};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Which copy of the towers is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towers {
    /// The folders beside the checkpoint, as upstream does.
    Beside,
    /// The copies inside the checkpoint.
    Embedded,
    /// Beside where the folder is there, else embedded.
    Auto,
}

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

/// Packs a checkpoint into `path` and returns the bundle's length in bytes.
pub fn pack(options: &Options, path: &Path, tell: &mut dyn FnMut(Progress<'_>)) -> Result<u64> {
    let folders = Folders::find(&options.checkpoint)?;
    let omni = Weights::open(&folders.omni)?;
    let config = read_json(&folders.omni.join("config.json"))?;
    let mut used = vec![folders.omni.join("config.json")];
    let vision = Tower::open(&folders, &config, &omni, options.towers, &VISION, &mut used)?;
    let audio = Tower::open(&folders, &config, &omni, options.towers, &AUDIO, &mut used)?;
    let shape = model_shape(&config, &vision, &audio)
        .with_context(|| format!("in {}", folders.omni.join("config.json").display()))?;
    let own_head = own_head(&config, &omni)?;

    let mut source = Source { omni: &omni, vision, audio, patch: shape.patch };
    for spec in shape::tensors(&shape, own_head) {
        source.require(&spec)?;
    }
    let (encode, vocabulary) = tokenizer::read(&folders.omni, shape.vocab)?;
    used.push(folders.omni.join("tokenizer.json"));
    let wrapped = config["mm_use_x_start_end"] == true;
    let template = tokenizer::template(&folders.omni, options.system.as_deref(), wrapped)?;
    let instructions = instructions(options)?;
    let gates = gates(options, &folders, &omni, &instructions, &mut used, tell)?;
    let prompts: Result<Vec<Prompt>> = instructions
        .iter()
        .zip(gates)
        .map(|((name, instruction), gate)| template.prompt(&encode, name, instruction, gate))
        .collect();
    let sets: Result<Vec<LabelSet>> =
        label_sets(options)?.iter().map(|(name, labels)| template.label_set(&encode, name, labels)).collect();

    used.extend(omni.files().map(Path::to_owned));
    used.extend(source.vision.files().chain(source.audio.files()).map(Path::to_owned));
    used.sort();
    used.dedup();
    let head = Head {
        name: options.name.clone().unwrap_or_else(|| folder_name(&folders.omni)),
        description: match options.untrained {
            true => {
                "UNTRAINED: random weights in the topology of R1-Omni. Its answers mean nothing.".to_owned()
            }
            false => format!(
                "Packed from {}; towers: vision {}, audio {}",
                folder_name(&folders.omni),
                source.vision.origin(),
                source.audio.origin()
            ),
        },
        license: options.license.clone().unwrap_or_else(|| license(&folders.omni)),
        trained: !options.untrained,
        quant: options.quant,
        sources: hash_all(&used, tell)?,
        generation: generation(&folders.omni, &config, shape.vocab)?,
        marks: prompt::marks(&encode)?,
        prompts: prompts?,
        label_sets: sets?,
        vocabulary,
        shape,
    };
    write::write_file(path, &head, own_head, &mut source, tell)
}

struct Folders {
    omni: PathBuf,
    beside: PathBuf,
}

impl Folders {
    /// The checkpoint is the folder itself, or the one folder in it whose config.json is R1-Omni's.
    fn find(given: &Path) -> Result<Folders> {
        let given = given
            .canonicalize()
            .with_context(|| format!("looking for the checkpoint {}", given.display()))?;
        ensure!(given.is_dir(), "{} is not a folder; give the folder of the checkpoint", given.display());
        if given.join("config.json").exists() {
            let beside = given.parent().unwrap_or(&given).to_owned();
            return Ok(Folders { omni: given, beside });
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&given).with_context(|| format!("listing {}", given.display()))? {
            let folder = entry?.path();
            if let Ok(config) = read_json(&folder.join("config.json"))
                && config.get("mm_projector_type").is_some()
            {
                found.push(folder);
            }
        }
        match found.len() {
            1 => Ok(Folders { omni: found.remove(0), beside: given }),
            0 => bail!(
                "neither {} nor a folder in it has R1-Omni's config.json; give the folder of the checkpoint",
                given.display()
            ),
            _ => bail!("{} holds {} checkpoints; give the folder of one", given.display(), found.len()),
        }
    }

    /// The folder that a config key names, by its last part, or the published name.
    fn tower(&self, config: &Value, key: &str, published: &str) -> Option<PathBuf> {
        let named =
            config[key].as_str().and_then(|path| Path::new(path).file_name()?.to_str().map(str::to_owned));
        let names = [named.as_deref().unwrap_or(published), published];
        names.iter().map(|name| self.beside.join(name)).find(|folder| folder.is_dir())
    }
}

struct TowerNames {
    what: &'static str,
    key: &'static str,
    folder: &'static str,
    beside: &'static str,
    embedded: &'static str,
}

const VISION: TowerNames = TowerNames {
    what: "vision",
    key: "mm_vision_tower",
    folder: "siglip-base-patch16-224",
    beside: published::VISION_BESIDE,
    embedded: published::VISION_EMBEDDED,
};
const AUDIO: TowerNames = TowerNames {
    what: "audio",
    key: "mm_audio_tower",
    folder: "whisper-large-v3",
    beside: published::AUDIO_BESIDE,
    embedded: published::AUDIO_EMBEDDED,
};

/// A tower: its weights where they are not the checkpoint's own, and its config where there is one.
struct Tower<'a> {
    own: Option<Weights>,
    omni: &'a Weights,
    prefix: &'static str,
    config: Value,
    preprocessor: Value,
}

impl<'a> Tower<'a> {
    fn open(
        folders: &Folders,
        config: &Value,
        omni: &'a Weights,
        towers: Towers,
        names: &TowerNames,
        used: &mut Vec<PathBuf>,
    ) -> Result<Tower<'a>> {
        let folder = folders.tower(config, names.key, names.folder);
        let path = |name: &str| folder.as_ref().map(|folder| folder.join(name)).filter(|path| path.exists());
        let read = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(Value::Null), read_json);
        let preprocessor = read(&path("preprocessor_config.json"))?;
        let path = path("config.json");
        let tower_config = read(&path)?;
        used.extend(path);
        let beside = match (towers, &folder) {
            (Towers::Beside, None) => bail!(
                "the {} tower is not beside the checkpoint: put the folder {} into {}, or pack with --towers embedded",
                names.what,
                names.folder,
                folders.beside.display()
            ),
            (Towers::Embedded, _) | (Towers::Auto, None) => None,
            (Towers::Beside | Towers::Auto, Some(folder)) => Some(folder),
        };
        let own = beside.map(|folder| Weights::open(folder)).transpose()?;
        let prefix = if own.is_some() { names.beside } else { names.embedded };
        let tower = Tower { own, omni, prefix, config: tower_config, preprocessor };
        if tower.own.is_none() && tower.weights().dims(&tower.name(names.probe())).is_none() {
            bail!(
                "{} holds no copy of the {} tower: put the folder {} beside it",
                folders.omni.display(),
                names.what,
                names.folder
            );
        }
        Ok(tower)
    }

    fn weights(&self) -> &Weights {
        self.own.as_ref().unwrap_or(self.omni)
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        self.own.iter().flat_map(Weights::files)
    }

    fn name(&self, tail: &str) -> String {
        format!("{}{tail}", self.prefix)
    }

    fn origin(&self) -> String {
        self.own.as_ref().map_or("embedded".to_owned(), |w| folder_name(w.folder()))
    }

    fn dims<const N: usize>(&self, tail: &str) -> Result<[usize; N]> {
        let name = self.name(tail);
        let folder = self.weights().folder().display();
        let dims = self.weights().dims(&name).with_context(|| {
            format!("{folder} has no tensor `{name}`: this is another model, or it is incomplete")
        })?;
        dims.try_into()
            .ok()
            .with_context(|| format!("tensor `{name}` of {folder} is {dims:?}, of {N} dimensions"))
    }

    /// Layers that are stored.
    fn layers(&self, stem: &str, tail: &str) -> usize {
        let there = |i: &usize| self.weights().dims(&self.name(&format!("{stem}.{i}.{tail}"))).is_some();
        (0..).take_while(there).count()
    }

    /// A stack of full attention; where no config says otherwise, heads are 64 wide, as published.
    fn stack(
        &self,
        layers: usize,
        hidden: usize,
        ffn: usize,
        config: &Value,
        heads: &str,
        eps: f32,
    ) -> Result<Stack> {
        let n_heads = match config.get(heads) {
            Some(n) => n.as_u64().with_context(|| format!("`{heads}` is {n}"))? as usize,
            None if hidden.is_multiple_of(64) => hidden / 64,
            None => bail!(
                "{hidden} values are no heads of 64; put the tower's folder with its config.json beside"
            ),
        };
        ensure!(n_heads > 0 && hidden.is_multiple_of(n_heads), "{hidden} values cannot be {n_heads} heads");
        Ok(Stack { layers, hidden, ffn, n_heads, n_kv_heads: n_heads, head_dim: hidden / n_heads, eps })
    }
}

impl TowerNames {
    /// A tensor that every copy has.
    fn probe(&self) -> &'static str {
        if self.what == "vision" { "embeddings.patch_embedding.weight" } else { "conv1.weight" }
    }
}

fn model_shape(config: &Value, vision: &Tower<'_>, audio: &Tower<'_>) -> Result<Shape> {
    for (key, wanted) in [
        ("mm_projector_type", "all_in_one_small"),
        ("mm_audio_projector_type", "mlp2x_gelu"),
        ("hidden_act", "silu"),
    ] {
        ensure!(config[key] == wanted, "`{key}` is {}, but must be \"{wanted}\"", config[key]);
    }
    let feature = &config["mm_vision_select_feature"];
    ensure!(
        feature.is_null() || feature == "patch",
        "`mm_vision_select_feature` is {feature}, but must be \"patch\""
    );
    for key in ["rope_scaling", "use_sliding_window"] {
        let value = &config[key];
        ensure!(value.is_null() || *value == false, "`{key}` is {value}, which is not supported");
    }
    let frames = count(config, "num_frames", Some(8))?;
    let (vision, image, patch) = vision_stack(config, vision).context("in the vision tower")?;
    let (audio, mels, audio_positions) = audio_stack(audio).context("in the audio tower")?;
    let (hidden, n_heads) =
        (count(config, "hidden_size", None)?, count(config, "num_attention_heads", None)?);
    let decoder = Stack {
        layers: count(config, "num_hidden_layers", None)?,
        hidden,
        ffn: count(config, "intermediate_size", None)?,
        n_heads,
        n_kv_heads: count(config, "num_key_value_heads", Some(n_heads))?,
        head_dim: count(config, "head_dim", Some(hidden / n_heads))?,
        eps: real(config, "rms_norm_eps", 1e-6)?,
    };
    let shape = Shape {
        vision,
        image,
        patch,
        frames,
        audio,
        mels,
        audio_positions,
        audio_pool: 3,
        decoder,
        vocab: count(config, "vocab_size", None)?,
        rope_theta: real(config, "rope_theta", 1e6)?,
        context: count(config, "max_position_embeddings", Some(32_768))?,
    };
    shape::read(&shape::keys(&shape).into_iter().collect())
}

fn vision_stack(config: &Value, tower: &Tower<'_>) -> Result<(Stack, usize, usize)> {
    let own = tower.config.get("vision_config").unwrap_or(&tower.config);
    let act = &own["hidden_act"];
    ensure!(
        act.is_null() || act == "gelu_pytorch_tanh",
        "`hidden_act` is {act}, but must be \"gelu_pytorch_tanh\""
    );
    let [hidden, _, patch, _] = tower.dims("embeddings.patch_embedding.weight")?;
    let [positions, _] = tower.dims("embeddings.position_embedding.weight")?;
    let [ffn, _] = tower.dims("encoder.layers.0.mlp.fc1.weight")?;
    let stored = tower.layers("encoder.layers", "layer_norm1.weight");
    let select = config["mm_vision_select_layer"].as_i64().unwrap_or(-2);
    let run = if select < 0 { stored as i64 + 1 + select } else { select };
    ensure!(
        (1..=stored as i64).contains(&run),
        "`mm_vision_select_layer` is {select}, but the tower has {stored} layers"
    );
    let grid = positions.isqrt();
    ensure!(grid * grid == positions, "{positions} positions are no square");
    let stack = tower.stack(
        run as usize,
        hidden,
        ffn,
        own,
        "num_attention_heads",
        real(own, "layer_norm_eps", 1e-6)?,
    )?;
    Ok((stack, grid * patch, patch))
}

fn audio_stack(tower: &Tower<'_>) -> Result<(Stack, usize, usize)> {
    let act = &tower.config["activation_function"];
    ensure!(act.is_null() || act == "gelu", "`activation_function` is {act}, but must be \"gelu\"");
    let [hidden, mels, _] = tower.dims("conv1.weight")?;
    let [positions, _] = tower.dims("embed_positions.weight")?;
    let [ffn, _] = tower.dims("layers.0.fc1.weight")?;
    let whole_seconds = positions.is_multiple_of(50).then_some(positions / 50);
    for (key, stated, found) in [
        ("max_source_positions", &tower.config, Some(positions)),
        ("num_mel_bins", &tower.config, Some(mels)),
        ("feature_size", &tower.preprocessor, Some(mels)),
        ("nb_max_frames", &tower.preprocessor, Some(2 * positions)),
        ("n_samples", &tower.preprocessor, Some(320 * positions)),
        ("chunk_length", &tower.preprocessor, whole_seconds),
        ("hop_length", &tower.preprocessor, Some(160)),
        ("n_fft", &tower.preprocessor, Some(400)),
        ("sampling_rate", &tower.preprocessor, Some(16_000)),
    ] {
        let (stated, Some(found)) = (&stated[key], found) else { continue };
        ensure!(
            stated.is_null() || *stated == found,
            "`{key}` is {stated}, but its weights of {positions} positions and {mels} mels need {found}"
        );
    }
    let layers = tower.layers("layers", "fc1.weight");
    let stack = tower.stack(layers, hidden, ffn, &tower.config, "encoder_attention_heads", 1e-5)?;
    Ok((stack, mels, positions))
}

fn count(config: &Value, key: &str, default: Option<usize>) -> Result<usize> {
    let found = match (&config[key], default) {
        (Value::Null, Some(default)) => Some(default),
        (value, _) => value.as_u64().filter(|n| (1..=1 << 24).contains(n)).map(|n| n as usize),
    };
    found.with_context(|| {
        format!("`{key}` is {}, but must be a whole number from 1 to {}", config[key], 1 << 24)
    })
}

fn real(config: &Value, key: &str, default: f32) -> Result<f32> {
    match &config[key] {
        Value::Null => Ok(default),
        value => value
            .as_f64()
            .map(|v| v as f32)
            .with_context(|| format!("`{key}` is {value}, but must be a number")),
    }
}

/// Whether the head is not the embedding.
fn own_head(config: &Value, omni: &Weights) -> Result<bool> {
    let tied = config["tie_word_embeddings"] != false;
    let stored = omni.dims("lm_head.weight").is_some();
    ensure!(
        tied || stored,
        "{} has no tensor `lm_head.weight`, but its embedding is not tied",
        omni.folder().display()
    );
    Ok(!tied)
}

/// Settings of generation_config.json; sampling is not ours to follow, as upstream decodes greedily.
fn generation(folder: &Path, config: &Value, vocab: usize) -> Result<Generation> {
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

fn instructions(options: &Options) -> Result<Vec<(String, String)>> {
    let mut out = vec![
        ("reason".to_owned(), prompt::REASON.to_owned()),
        ("label".to_owned(), prompt::LABEL.to_owned()),
    ];
    for (name, instruction) in &options.prompts {
        head::check_name(name).context("in --prompt")?;
        match out.iter_mut().find(|(other, _)| other == name) {
            Some(own) if name == "reason" || name == "label" => own.1 = instruction.clone(),
            Some(_) => bail!("--prompt {name} is given twice"),
            None => out.push((name.clone(), instruction.clone())),
        }
    }
    Ok(out)
}

fn label_sets(options: &Options) -> Result<Vec<(String, Vec<String>)>> {
    let own = |&(name, labels): &(&str, &[&str])| {
        (name.to_owned(), labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>())
    };
    let mut out: Vec<(String, Vec<String>)> = prompt::LABEL_SETS.iter().map(own).collect();
    for (name, labels) in &options.label_sets {
        head::check_name(name).context("in --labels")?;
        ensure!(
            !out.iter().any(|(other, _)| other == name),
            "--labels {name}: there is a set of this name already"
        );
        out.push((name.clone(), labels.clone()));
    }
    Ok(out)
}

fn gates(
    options: &Options,
    folders: &Folders,
    omni: &Weights,
    instructions: &[(String, String)],
    used: &mut Vec<PathBuf>,
    tell: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<[f32; 3]>> {
    if let Some(gate) = options.gate {
        head::check_gate(gate).context("in --gate")?;
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
fn license(folder: &Path) -> String {
    let readme = read_small(&folder.join("README.md")).unwrap_or_default();
    let readme = String::from_utf8_lossy(&readme);
    let front = readme.strip_prefix("---").and_then(|rest| rest.split("\n---").next()).unwrap_or("");
    let stated = front.lines().find_map(|line| line.strip_prefix("license:"));
    stated.map_or("not stated by the checkpoint", str::trim).to_owned()
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
        out.push(format!("{}  {folder}/{}", write::hex(hash), folder_name(path)));
    }
    Ok(out)
}

struct Source<'a> {
    omni: &'a Weights,
    vision: Tower<'a>,
    audio: Tower<'a>,
    patch: usize,
}

impl Source<'_> {
    fn find(&self, spec: &Spec) -> Result<(&Weights, Published)> {
        let mut found = published::published(spec, self.patch)?;
        let weights = match found.part {
            Part::Omni => self.omni,
            Part::Vision => {
                found.name = self.vision.name(&found.name);
                self.vision.weights()
            }
            Part::Audio => {
                found.name = self.audio.name(&found.name);
                self.audio.weights()
            }
        };
        Ok((weights, found))
    }

    fn require(&self, spec: &Spec) -> Result<()> {
        let (weights, found) = self.find(spec)?;
        weights.require(&found.name, &found.dims)
    }
}

impl Values for Source<'_> {
    fn rows(&mut self, spec: &Spec, first: usize, rows: usize, out: &mut Vec<f32>) -> Result<()> {
        let (weights, found) = self.find(spec)?;
        match found.layout {
            Layout::Same => weights.read(&found.name, first * spec.cols, rows * spec.cols, out),
            Layout::TapsFirst { taps } => {
                let mut stored = Vec::new();
                weights.read(&found.name, first * spec.cols, rows * spec.cols, &mut stored)?;
                let inputs = spec.cols / taps;
                for row in stored.chunks_exact(spec.cols) {
                    (0..spec.cols).for_each(|i| out.push(row[i % inputs * taps + i / inputs]));
                }
                Ok(())
            }
            Layout::Transposed => {
                let mut stored = Vec::new();
                weights.read(&found.name, 0, spec.rows * spec.cols, &mut stored)?;
                for tap in first..first + rows {
                    (0..spec.cols).for_each(|channel| out.push(stored[channel * spec.rows + tap]));
                }
                Ok(())
            }
        }
    }
}
