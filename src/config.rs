//! One TOML file, board profile and site: every limit of the daemon in one struct, unknown keys refused.
//!
//! `profile = "board/x.toml"` is read first and the site's keys are laid over it, table by table. Paths are relative to the file
//! that names them. Everything but `model.bundle`, `privacy.purpose`, one source and one sink has a default.
//!
//! Errors name the file, the line and the key, and for a key that is not known the nearest one that is.

use crate::{
    backend::GpuWait,
    bundle::{self, Bundle},
    cues::{self, Task},
    machine,
    model::{self, AudioContext, Decoding, Infer},
    policy, privacy,
    sink::{self, Sinks, cut},
    source::{self, clip, pipe},
    window,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Profiles of profiles of profiles end here.
const DEPTH_MAX: usize = 4;
/// Keys whose values are paths, as `table.key`.
const PATHS: [&str; 9] = [
    "model.bundle",
    "privacy.mute_file",
    "state_dir",
    "words.bundle",
    "nets.folder",
    "nets.voice-activity.file",
    "nets.face-box.file",
    "nets.face-mesh.file",
    "nets.expression.file",
];
/// What `tools/nets fetch` writes beside the nets.
const MANIFEST: &str = "manifest.toml";

#[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A config that this one is laid over.
    pub profile: Option<PathBuf>,
    /// Tables of the profile that this site goes without: `off = ["camera"]`.
    pub off: Vec<String>,
    /// Facts of the hardware, from its profile.
    pub board: Board,
    /// The device's name to the world; empty: the host's.
    pub device: String,
    /// A folder for what must survive a restart: numbers that were used, begins that were told, events that wait for a broker.
    /// Empty: systemd's state directory, else nothing survives.
    pub state_dir: PathBuf,
    pub model: Model,
    pub window: window::Settings,
    #[cfg(feature = "camera")]
    pub camera: Option<crate::source::camera::Settings>,
    #[cfg(feature = "mic")]
    pub mic: Option<crate::source::mic::Settings>,
    pub clip: Option<clip::Settings>,
    pub pipe: Option<pipe::Settings>,
    /// Small nets that measure voices and faces beside the model.
    pub nets: cues::Nets,
    /// A speech recogniser beside the model.
    pub words: Option<Words>,
    /// When the model need not run.
    pub gate: Option<cues::Gate>,
    pub cues: cues::Cues,
    pub policy: policy::Limits,
    pub sink: Sinks,
    pub privacy: privacy::Settings,
    pub daemon: Daemon,
}

#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    pub bundle: PathBuf,
    /// `auto` is a CUDA device where there is one, else the CPU; `cuda` never falls back.
    pub backend: model::Device,
    /// How a CUDA device is waited for: `auto` as its driver decides, `spin` for the soonest answer, `sleep` for a core that rests.
    pub gpu_wait: GpuWait,
    /// Label set of the bundle; empty: its first.
    pub labels: String,
    /// Prompt under which labels are scored; empty: `label`.
    pub prompt: String,
    /// Prompt under which reasons are given; empty: `reason`.
    pub reason_prompt: String,
    /// Whether a label that begins is explained.
    pub reason: Explain,
    /// Tokens of a reason at most. Windows are scored while it is written.
    pub reason_tokens: usize,
    /// Claims of a reason whose words were less probable than this are left out of it; 0: none.
    pub reason_sure: f32,
    /// How much sound is encoded: `whole`, `speech` for what holds sound, or `brief`, with which the decoder does not run silence either.
    pub audio_context: AudioContext,
    /// How far scores are believed: `followed`, less where labels lie closer together than on the clips of the bundle's calibration, where
    /// it was fitted for that (`mien calibrate --follow`); or `fixed`.
    pub temperature: Temperature,
    /// 0: as many as the machine has cores.
    pub threads: usize,
}

impl Model {
    /// How reasons are generated.
    pub fn decoding(&self) -> Decoding {
        Decoding {
            max_new_tokens: Some(self.reason_tokens),
            weighed: self.reason_sure > 0.0,
            ..Decoding::default()
        }
    }

    /// Loads the bundle onto the device that the config names.
    pub fn load(&self, bundle: &Bundle) -> Result<Box<dyn Infer>> {
        model::load_with(bundle, self.backend, self.threads, self.gpu_wait)
    }

    /// Sets a loaded model as the config says.
    pub fn apply(&self, infer: &mut dyn Infer) -> Result<()> {
        infer.set_decoding(self.decoding()).context("model.reason_tokens")?;
        if self.reason != Explain::Off {
            infer.reason_between().context("model.reason")?;
        }
        infer.set_audio_context(self.audio_context).context("model.audio_context")
    }
}

/// `[words]`: who hears what is said. It is a cue, and goes into a prompt that has a place for it (`mien pack --prompt "...{words}..."`); it
/// never leaves the device, but for what a reason says of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Words {
    /// A file that `mien pack --whisper` made.
    pub bundle: PathBuf,
    /// How much sound it encodes: `whole`, or `speech` for what holds sound.
    pub audio_context: AudioContext,
}

impl Default for Words {
    fn default() -> Self {
        Words { bundle: PathBuf::new(), audio_context: AudioContext::Speech }
    }
}

impl Words {
    /// Opens the recogniser's file, and refuses one that hears less than a window.
    pub fn open(&self, window_ms: u32) -> Result<bundle::Words> {
        let at = || format!("words.bundle: {}", self.bundle.display());
        ensure!(
            !self.bundle.as_os_str().is_empty(),
            "words.bundle is not set: name a file that `mien pack --whisper` made"
        );
        let words = bundle::Words::open(&self.bundle).with_context(at)?;
        let hears_ms = words.header().shape.hears_ms();
        ensure!(
            window_ms as usize <= hears_ms,
            "window: window_ms = {window_ms}, but the recogniser hears {hears_ms} ms at once"
        );
        Ok(words)
    }
}

/// Which temperature label scores have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Temperature {
    #[default]
    Followed,
    Fixed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Explain {
    #[default]
    Off,
    OnChange,
}

/// Facts of a board that nothing in the daemon decides by: `mien doctor` and `check-config` show them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Board {
    pub name: String,
    /// A part of the device tree's `model`; empty: the board has none.
    pub model: String,
    pub memory_gb: f32,
    /// What its memory can be read at most.
    pub memory_gb_s: f32,
    /// CUDA architecture, as `sm_87`; empty: no CUDA.
    pub gpu: String,
    /// Files with its currents and its temperatures, with `*` for what is numbered.
    pub power: String,
    pub thermal: String,
}

/// Queues and clocks of the daemon itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    pub heartbeat_ms: u32,
    /// Between two status lines in the log.
    pub status_s: u32,
    /// Readings that wait for the model; the oldest are dropped. 0: as many as one window has.
    pub readings_max: usize,
    /// Messages that wait for each sink; the oldest are dropped.
    pub messages_max: usize,
    /// A window, or a device's answer, that takes longer is a hang: the watchdog is no longer fed.
    pub stall_s: u32,
    /// What to do where the machine cannot score a window in `hop_ms`.
    pub on_late: OnLate,
}

/// What a daemon does that is too slow for its hop, as the first window at the start shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLate {
    /// It ends with exit code 78.
    Refuse,
    /// Its hop becomes the shortest that it can keep.
    Stretch,
    /// It leaves windows out, and counts them.
    #[default]
    Skip,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            bundle: PathBuf::new(),
            backend: model::Device::Auto,
            gpu_wait: GpuWait::Auto,
            labels: String::new(),
            prompt: "label".into(),
            reason_prompt: "reason".into(),
            reason: Explain::Off,
            reason_tokens: 200,
            reason_sure: 0.0,
            audio_context: AudioContext::Whole,
            temperature: Temperature::Followed,
            threads: 0,
        }
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            heartbeat_ms: 1_000,
            status_s: 60,
            readings_max: 0,
            messages_max: 64,
            stall_s: 120,
            on_late: OnLate::Skip,
        }
    }
}

impl Config {
    /// Reads a file and the profiles under it, and refuses what cannot be.
    pub fn read(path: &Path) -> Result<Config> {
        Config::of(layered(path, 0)?, path)
    }

    fn of(table: toml::Table, path: &Path) -> Result<Config> {
        let config: Config = table.try_into().map_err(|error| anyhow!("{}: {error}", path.display()))?;
        config.check().with_context(|| path.display().to_string())?;
        Ok(config)
    }

    /// What no single key can know.
    fn check(&self) -> Result<()> {
        ensure!(
            !self.model.bundle.as_os_str().is_empty(),
            "model.bundle is not set: name a file that `mien pack` made, or one under models/"
        );
        self.privacy.check()?;
        self.policy.check()?;
        self.nets.check()?;
        self.cues.check()?;
        ensure!(
            self.cues.people == cues::Scoring::Largest || self.policy.need.met_by_pictures(),
            "policy.need asks for sound, and cues.people = \"each\" scores faces by their pictures alone: set need = \"any\" or \"video\""
        );
        self.gate.map_or(Ok(()), |gate| gate.check())?;
        ensure!(self.device.len() <= 24, "device = {:?}: at most 24 bytes", self.device);
        ensure!(
            !self.sources().is_empty(),
            "there is no source: add a table [camera], [mic], [clip] or [pipe]"
        );
        ensure!(
            self.clip.is_none() || self.sources().len() == 1,
            "[clip] stands beside another source: a recording is played alone"
        );
        self.sources().iter().try_for_each(source::Settings::check)?;
        let sinks = self.sink.all();
        sinks.iter().try_for_each(sink::Settings::check)?;
        ensure!(
            !sinks.is_empty(),
            "there is no sink: add a table [sink.{}]",
            Sinks::KINDS.join("] or [sink.")
        );
        ensure!(
            (1..=4_096).contains(&self.model.reason_tokens),
            "model.reason_tokens = {}: from 1 to 4096",
            self.model.reason_tokens
        );
        ensure!(
            (0.0..=1.0).contains(&self.model.reason_sure),
            "model.reason_sure = {}: a probability, from 0 to 1",
            self.model.reason_sure
        );
        let daemon = &self.daemon;
        for (name, value, range) in [
            ("heartbeat_ms", daemon.heartbeat_ms as usize, 100..=60_000),
            ("status_s", daemon.status_s as usize, 1..=86_400),
            ("readings_max", daemon.readings_max, 0..=4_096),
            ("messages_max", daemon.messages_max, 8..=4_096),
            ("stall_s", daemon.stall_s as usize, 5..=3_600),
        ] {
            ensure!(
                range.contains(&value),
                "daemon.{name} = {value}: from {} to {}",
                range.start(),
                range.end()
            );
        }
        Ok(())
    }

    /// Readings that wait at most: those of one window, a quarter more, and some.
    pub fn readings_max(&self, frames: usize) -> usize {
        let window = 4 * frames + (self.window.window_ms + self.window.lateness_ms) as usize / 100;
        match self.daemon.readings_max {
            0 => window * 5 / 4 + 16,
            readings_max => readings_max,
        }
    }

    /// Every source that is not switched off.
    pub fn sources(&self) -> Vec<source::Settings> {
        let mut sources = Vec::new();
        #[cfg(feature = "camera")]
        sources.extend(self.camera.iter().cloned().map(source::Settings::Camera));
        #[cfg(feature = "mic")]
        sources.extend(self.mic.iter().cloned().map(source::Settings::Mic));
        sources.extend(self.clip.iter().cloned().map(source::Settings::Clip));
        sources.extend(self.pipe.iter().cloned().map(source::Settings::Pipe));
        sources
    }

    /// The configured name, or the host's.
    pub fn device_name(&self) -> String {
        if !self.device.is_empty() {
            return self.device.clone();
        }
        cut(&machine::host_name(), 24).into()
    }
}

/// The nets of a config, those of its folder's manifest among them. A folder without a manifest has none.
pub fn nets(settings: &cues::Nets) -> Result<cues::Nets> {
    let mut nets = settings.clone();
    let Some(folder) = &settings.folder else { return Ok(nets) };
    let path = folder.join(MANIFEST);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nets),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let listed: cues::Nets = toml::from_str(&text).map_err(|error| explain(&path, &text, &error))?;
    listed.check().with_context(|| path.display().to_string())?;
    let beside = |net: Option<cues::Net>| net.map(|net| cues::Net { file: folder.join(&net.file), ..net });
    nets.voice_activity = nets.voice_activity.or(beside(listed.voice_activity));
    nets.face_box = nets.face_box.or(beside(listed.face_box));
    nets.face_mesh = nets.face_mesh.or(beside(listed.face_mesh));
    nets.expression = nets.expression.or(beside(listed.expression));
    nets.check_face().with_context(|| path.display().to_string())?;
    Ok(nets)
}

/// The nets of a folder; refused where it holds none.
pub fn nets_in(folder: &Path) -> Result<cues::Nets> {
    let nets = nets(&cues::Nets { folder: Some(folder.into()), ..cues::Nets::default() })?;
    let none = Task::ALL.iter().all(|&task| nets.of(task).is_none());
    ensure!(!none, "{} holds no nets: `tools/nets fetch {0}` fills it", folder.display());
    Ok(nets)
}

/// A file laid over its profile. Each file is checked alone first, so that errors have a line.
fn layered(path: &Path, depth: usize) -> Result<toml::Table> {
    ensure!(depth < DEPTH_MAX, "{}: profiles of profiles, more than {DEPTH_MAX} deep", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("reading the config {}", path.display()))?;
    let alone: Config = toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|error| explain(path, &text, &error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for key in PATHS {
        anchor(&mut table, key, folder);
    }
    for (table_name, keys) in source::Settings::paths() {
        keys.iter().for_each(|key| anchor(&mut table, &format!("{table_name}.{key}"), folder));
    }
    for (kind, keys) in Sinks::paths() {
        keys.iter().for_each(|key| anchor(&mut table, &format!("sink.{kind}.{key}"), folder));
    }
    let Some(profile) = alone.profile else { return Ok(table) };
    let mut under = layered(&folder.join(&profile), depth + 1)
        .with_context(|| format!("the profile of {}", path.display()))?;
    for name in &alone.off {
        ensure!(
            under.remove(name).is_some(),
            "{}: off names `{name}`, and the profile has no such table",
            path.display()
        );
    }
    lay(&mut under, table);
    Ok(under)
}

/// Keys of `over` win, table by table.
fn lay(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Makes the path at `table.key` relative to the file that names it.
fn anchor(table: &mut toml::Table, key: &str, folder: &Path) {
    let (tables, last) = key.rsplit_once('.').unwrap_or(("", key));
    let mut at = table;
    for name in tables.split('.').filter(|name| !name.is_empty()) {
        match at.get_mut(name) {
            Some(toml::Value::Table(inner)) => at = inner,
            _ => return,
        }
    }
    if let Some(toml::Value::String(path)) = at.get_mut(last)
        && !path.is_empty()
        && let Some(whole) = folder.join(&*path).to_str()
    {
        *path = whole.into();
    }
}

/// An error of the parser with file, line and table, and the nearest key where one is not known.
fn explain(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let at = error.span().map_or(0, |span| span.start);
    let before = cut(text, at);
    let line = before.matches('\n').count() + 1;
    let table = text.lines().take(line).filter_map(|l| l.trim().strip_prefix('[')?.split(']').next()).last();
    let within = table.map(|table| format!(" in [{table}]")).unwrap_or_default();
    let place = format!("{} line {line}", path.display());
    let message = error.message().trim();
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return anyhow!("{place}: {message}{within}");
    };
    let mut names = rest.split('`').step_by(2);
    let key = names.next().unwrap_or_default();
    let nearest = names.min_by_key(|name| strsim::damerau_levenshtein(key, name));
    let within = match table {
        Some(table) if table.rsplit('.').next() != Some(key) => within,
        _ => String::new(),
    };
    match nearest {
        Some(nearest) => {
            anyhow!("{place}: unknown key `{key}`{within}; the nearest known one is `{nearest}`")
        }
        None => anyhow!("{place}: unknown key `{key}`{within}"),
    }
}

/// The config at `path`, or a refusal.
pub fn read(path: &Path) -> Result<Config> {
    Ok(Source::read(path)?.config)
}

/// A config with the tables that it was made of, so that another version of it can be compared.
#[derive(Clone, Debug)]
pub struct Source {
    pub config: Config,
    table: toml::Table,
}

impl Source {
    pub fn read(path: &Path) -> Result<Source> {
        if path.is_dir() {
            bail!("{} is a folder: name a file", path.display());
        }
        let table = layered(path, 0)?;
        Ok(Source { config: Config::of(table.clone(), path)?, table })
    }

    /// Takes one top-level table over from another version.
    pub fn adopt(&mut self, newer: &Source, name: &str) {
        match newer.table.get(name) {
            Some(value) => drop(self.table.insert(name.into(), value.clone())),
            None => drop(self.table.remove(name)),
        }
    }

    /// Top-level keys and tables whose values differ, in order.
    pub fn changes(&self, newer: &Source) -> Vec<String> {
        let mut names: Vec<&String> = self.table.keys().chain(newer.table.keys()).collect();
        names.sort();
        names.dedup();
        let changed = names.into_iter().filter(|name| self.table.get(*name) != newer.table.get(*name));
        changed.cloned().collect()
    }
}
