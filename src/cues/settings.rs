//! What a config says of measured cues: the nets, the gate, and what becomes of claims that are contradicted.

use anyhow::{Result, ensure};
use serde::Deserialize;
use std::path::PathBuf;

/// What a net is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    VoiceActivity,
    FaceBox,
    FaceMesh,
    Expression,
}

impl Task {
    pub const ALL: [Task; 4] = [Task::VoiceActivity, Task::FaceBox, Task::FaceMesh, Task::Expression];

    /// Its key in a config and in a folder's manifest.
    pub fn name(self) -> &'static str {
        match self {
            Task::VoiceActivity => "voice-activity",
            Task::FaceBox => "face-box",
            Task::FaceMesh => "face-mesh",
            Task::Expression => "expression",
        }
    }

    /// Names of its outputs where a config gives none: the default net's.
    fn outputs(self) -> &'static [&'static str] {
        match self {
            Task::VoiceActivity => &["output", "stateN"],
            Task::FaceBox => &["regressors", "classificators"],
            Task::FaceMesh => &["conv2d_21", "conv2d_31"],
            Task::Expression => &["output"],
        }
    }
}

/// Pixels across of the largest picture that a net is given.
const SIZE_MAX: usize = 1_024;

/// The order of a picture's dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    #[default]
    Nchw,
    Nhwc,
}

impl Layout {
    /// Of one square picture.
    pub fn shape(self, size: usize) -> [usize; 4] {
        match self {
            Layout::Nchw => [1, 3, size, size],
            Layout::Nhwc => [1, size, size, 3],
        }
    }
}

/// One net: an ONNX file, and how it wants its input.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Net {
    pub file: PathBuf,
    /// Compared when the net is loaded; empty: not.
    pub sha256: String,
    pub licence: String,
    /// The package that it came from.
    pub source: String,
    pub layout: Layout,
    /// A value of the input is `(pixel - mean) * scale`, with pixels from 0 to 255.
    pub mean: f32,
    pub scale: f32,
    /// Names of the outputs in the task's order: `[speech, state]`, `[boxes, scores]`, `[points, flag]`, `[shares]`. Empty: the
    /// default net's.
    pub outputs: Vec<String>,
    /// Of an expression net alone: the claim that each number of its output is about, such as `smiling mouth`; empty for one that is
    /// not used.
    pub labels: Vec<String>,
    /// Of an expression net alone: pixels of its picture, across and down; 0 for 224.
    pub size: usize,
}

impl Default for Net {
    fn default() -> Self {
        Net {
            file: PathBuf::new(),
            sha256: String::new(),
            licence: String::new(),
            source: String::new(),
            layout: Layout::Nchw,
            mean: 0.0,
            scale: 1.0 / 255.0,
            outputs: Vec::new(),
            labels: Vec::new(),
            size: 0,
        }
    }
}

impl Net {
    /// The names of a task's outputs, of which there are `N`.
    pub fn outputs<const N: usize>(&self, task: Task) -> [&str; N] {
        std::array::from_fn(|i| self.outputs.get(i).map_or(task.outputs()[i], String::as_str))
    }

    fn check(&self, task: Task) -> Result<()> {
        let name = task.name();
        ensure!(!self.file.as_os_str().is_empty(), "nets.{name}.file is not set: name an ONNX file");
        ensure!(
            self.outputs.is_empty() || self.outputs.len() == task.outputs().len(),
            "nets.{name}.outputs has {} names: the task has {}",
            self.outputs.len(),
            task.outputs().len()
        );
        ensure!(
            task == Task::Expression || (self.labels.is_empty() && self.size == 0),
            "nets.{name} has labels or a size, which only nets.expression has"
        );
        ensure!(self.size <= SIZE_MAX, "nets.{name}.size = {}: at most {SIZE_MAX}", self.size);
        ensure!(
            self.scale.is_finite() && self.scale != 0.0 && self.mean.is_finite(),
            "nets.{name}: mean = {}, scale = {}: numbers, and a scale that is not 0",
            self.mean,
            self.scale
        );
        Ok(())
    }
}

/// `[nets]`: small nets beside the model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Nets {
    /// A folder that `tools/nets fetch` filled: its `manifest.toml` names a net for each task.
    pub folder: Option<PathBuf>,
    pub voice_activity: Option<Net>,
    pub face_box: Option<Net>,
    pub face_mesh: Option<Net>,
    pub expression: Option<Net>,
}

impl Nets {
    pub fn of(&self, task: Task) -> Option<&Net> {
        match task {
            Task::VoiceActivity => self.voice_activity.as_ref(),
            Task::FaceBox => self.face_box.as_ref(),
            Task::FaceMesh => self.face_mesh.as_ref(),
            Task::Expression => self.expression.as_ref(),
        }
    }

    pub fn check(&self) -> Result<()> {
        Task::ALL.iter().try_for_each(|&task| self.of(task).map_or(Ok(()), |net| net.check(task)))?;
        if self.folder.is_none() {
            self.check_face()?;
        }
        Ok(())
    }

    /// Refuses a net that looks at a face where none finds it.
    pub fn check_face(&self) -> Result<()> {
        for task in [Task::FaceMesh, Task::Expression] {
            ensure!(
                self.of(task).is_none() || self.face_box.is_some(),
                "nets.{} stands without nets.face-box, which finds the face",
                task.name()
            );
        }
        Ok(())
    }
}

/// `[gate]`: when the model need not run. Absent, it always runs.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// Somebody speaks when the probability reached this twice in a row ...
    pub voice_on: f32,
    /// ... until it has been below this one for `hangover_ms`.
    pub voice_off: f32,
    pub hangover_ms: u32,
    /// Looks for a face in a second: while there is none, and while there is one.
    pub idle_hz: f32,
    pub face_hz: f32,
    /// A look is a hit where box and mesh are at least so sure; two hits of three are a face.
    pub face_score: f32,
    pub mesh_score: f32,
    /// A face is gone when there was no hit for so long.
    pub lost_ms: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            voice_on: 0.5,
            voice_off: 0.35,
            hangover_ms: 300,
            idle_hz: 2.0,
            face_hz: 5.0,
            face_score: 0.5,
            mesh_score: 0.5,
            lost_ms: 2_000,
        }
    }
}

impl Gate {
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("voice_on", self.voice_on),
            ("voice_off", self.voice_off),
            ("face_score", self.face_score),
            ("mesh_score", self.mesh_score),
        ] {
            ensure!((0.0..=1.0).contains(&value), "gate.{name} = {value}: a probability, from 0 to 1");
        }
        ensure!(
            self.voice_off <= self.voice_on,
            "gate.voice_off = {} is above gate.voice_on = {}",
            self.voice_off,
            self.voice_on
        );
        for (name, value) in [("idle_hz", self.idle_hz), ("face_hz", self.face_hz)] {
            ensure!((0.1..=30.0).contains(&value), "gate.{name} = {value}: from 0.1 to 30");
        }
        for (name, value) in [("hangover_ms", self.hangover_ms), ("lost_ms", self.lost_ms)] {
            ensure!(value <= 60_000, "gate.{name} = {value}: at most 60000");
        }
        Ok(())
    }
}

/// What becomes of a claim that what was measured contradicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// Claims are not compared with anything.
    Off,
    /// Each claim has its verdict beside it.
    #[default]
    Mark,
    /// Contradicted claims are taken out of the text.
    DropContradicted,
    /// A reason with a contradicted claim is asked for once more; the better grounded one is told.
    AskAgain,
}

/// What of a picture the model sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// All of it, as the published model does.
    #[default]
    None,
    /// The largest face with a margin, where there is one.
    Face,
}

/// Who is scored where there is more than one face.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// The largest face.
    #[default]
    Largest,
    /// The largest with the sound, then each of the others by its pictures alone (whose voice it is is not known), as time allows.
    Each,
}

/// `[cues]`: what is measured beside the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cues {
    pub ground: Ground,
    pub crop: Crop,
    pub people: Scoring,
}

impl Cues {
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.people != Scoring::Each || self.crop == Crop::Face,
            "cues.people = \"each\" without cues.crop = \"face\": each is scored by pictures that are cut to the face"
        );
        Ok(())
    }
}
