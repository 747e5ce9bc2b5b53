//! Where a checkpoint lies: its own folder, the folders beside it, and which copy of each tower is packed.

use super::{numbers, published};
use crate::bundle::checkpoint::{self, ADAPTER, Weights, read_json};
use crate::bundle::shape::Stack;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
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

pub(super) struct Folders {
    pub(super) omni: PathBuf,
    pub(super) beside: PathBuf,
}

impl Folders {
    /// The checkpoint is the folder itself, or the one folder in it whose config.json is R1-Omni's. A config.json that cannot be
    /// read is never passed over.
    pub(super) fn find(given: &Path) -> Result<Folders> {
        let given = given
            .canonicalize()
            .with_context(|| format!("looking for the checkpoint {}", given.display()))?;
        ensure!(given.is_dir(), "{} is not a folder; give the folder of the checkpoint", given.display());
        if given.join("config.json").exists() {
            let beside = given.parent().unwrap_or(&given).to_owned();
            return Ok(Folders { omni: given, beside });
        }
        ensure!(!given.join(ADAPTER).exists(), "{}", checkpoint::adapter(&given));
        let (mut found, mut adapters) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&given).with_context(|| format!("listing {}", given.display()))? {
            let folder = entry?.path();
            let config = folder.join("config.json");
            if config.exists() {
                if read_json(&config)?.get("mm_projector_type").is_some() {
                    found.push(folder);
                }
            } else if folder.join(ADAPTER).exists() {
                adapters.push(folder);
            }
        }
        match (found.len(), adapters.first()) {
            (1, _) => Ok(Folders { omni: found.remove(0), beside: given }),
            (0, Some(folder)) => bail!("{}", checkpoint::adapter(folder)),
            (0, None) => bail!(
                "neither {} nor a folder in it has R1-Omni's config.json; give the folder of the checkpoint",
                given.display()
            ),
            _ => bail!("{} holds {} checkpoints; give the folder of one", given.display(), found.len()),
        }
    }

    /// The folder that a config key names, by its last part, or the published name.
    pub(super) fn tower(&self, config: &Value, key: &str, published: &str) -> Option<PathBuf> {
        let named =
            config[key].as_str().and_then(|path| Path::new(path).file_name()?.to_str().map(str::to_owned));
        let names = [named.as_deref().unwrap_or(published), published];
        names.iter().map(|name| self.beside.join(name)).find(|folder| folder.is_dir())
    }
}

pub(super) struct TowerNames {
    what: &'static str,
    key: &'static str,
    folder: &'static str,
    beside: &'static str,
    embedded: &'static str,
}

pub(super) const VISION: TowerNames = TowerNames {
    what: "vision",
    key: "mm_vision_tower",
    folder: "siglip-base-patch16-224",
    beside: published::VISION_BESIDE,
    embedded: published::VISION_EMBEDDED,
};
pub(super) const AUDIO: TowerNames = TowerNames {
    what: "audio",
    key: "mm_audio_tower",
    folder: "whisper-large-v3",
    beside: published::AUDIO_BESIDE,
    embedded: published::AUDIO_EMBEDDED,
};

/// A tower: its weights where they are not the checkpoint's own, and its config where there is one.
pub(super) struct Tower<'a> {
    own: Option<Weights>,
    omni: &'a Weights,
    prefix: &'static str,
    pub(super) config: Value,
    pub(super) preprocessor: Value,
}

impl<'a> Tower<'a> {
    pub(super) fn open(
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
        let open = |folder: &PathBuf| {
            Weights::open(folder).with_context(|| {
                format!(
                    "the {} tower beside the checkpoint (--towers embedded packs the copy inside)",
                    names.what
                )
            })
        };
        let own = beside.map(open).transpose()?;
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

    pub(super) fn weights(&self) -> &Weights {
        self.own.as_ref().unwrap_or(self.omni)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.own.iter().flat_map(Weights::files)
    }

    pub(super) fn name(&self, tail: &str) -> String {
        format!("{}{tail}", self.prefix)
    }

    pub(super) fn origin(&self) -> String {
        self.own.as_ref().map_or("embedded".to_owned(), |w| folder_name(w.folder()))
    }

    pub(super) fn dims<const N: usize>(&self, tail: &str) -> Result<[usize; N]> {
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
    pub(super) fn layers(&self, stem: &str, tail: &str) -> usize {
        let there = |i: &usize| self.weights().dims(&self.name(&format!("{stem}.{i}.{tail}"))).is_some();
        (0..).take_while(there).count()
    }

    /// A stack of full attention. Where no config says otherwise, heads are 64 wide, as those of the published towers are.
    pub(super) fn stack(
        &self,
        layers: usize,
        hidden: usize,
        ffn: usize,
        config: &Value,
        heads: &str,
        eps: f32,
    ) -> Result<Stack> {
        let n_heads = match config.get(heads) {
            Some(n) => {
                n.as_u64().with_context(|| format!("`{heads}` is {n}, but must be a whole number"))? as usize
            }
            None if hidden.is_multiple_of(64) => numbers::taken(heads, hidden / 64),
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
    pub(super) fn probe(&self) -> &'static str {
        if self.what == "vision" { "embeddings.patch_embedding.weight" } else { "conv1.weight" }
    }
}

pub(super) fn folder_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
