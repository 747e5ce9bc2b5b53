//! Everything that a run is made of, as values: nothing is opened here.
//!
//! Invariant: every number is resolved, and [`Plan::limits`] is the one table of them; `check-config` prints it.

use super::pace::Pace;
use crate::{
    backend::Footprint,
    bundle,
    config::{self, Explain},
    cues::{self, Crop, Ground, Measurer, Scoring, Task},
    model::{
        Infer,
        follow::Follower,
        words::{self, Told},
    },
    policy, privacy,
    sink::{self, Message, Setup, Speaker},
    source::{self, Gives, Pool, SAMPLE_RATE},
    window::{self, PARTS_MAX},
    wire::LINE_BYTES_MAX,
};
use anyhow::{Result, ensure};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// A source that gives nothing for so long has stalled.
pub const STALL: Duration = Duration::from_secs(2);

/// Readings that wait to be measured: a third of a second of a camera and a microphone, and a net takes a tenth of that.
pub const MEASURED_MAX: usize = 16;

/// What a run is made of, but the model.
#[derive(Clone, Debug)]
pub struct Plan {
    pub pace: Pace,
    pub sources: Vec<(source::Settings, Gives)>,
    pub sinks: Vec<sink::Settings>,
    pub privacy: privacy::Settings,
    pub window: window::Settings,
    /// Pictures per window.
    pub frames: usize,
    /// Pixels of a picture as the model sees it, across and down.
    pub side: usize,
    pub policy: policy::Limits,
    /// Those of the folder's manifest among them.
    pub nets: cues::Nets,
    pub words: Option<config::Words>,
    pub gate: Option<cues::Gate>,
    pub cues: cues::Cues,
    pub model: config::Model,
    /// Of its label set, where the temperature is to be followed.
    pub followers: Option<[Follower; 3]>,
    /// Its `readings_max` is never 0 here.
    pub daemon: config::Daemon,
    /// Empty: nothing survives a restart.
    pub state_dir: PathBuf,
    pub speaker: Arc<Speaker>,
    /// Name of the board's profile; empty without one.
    pub board: String,
    /// Files of its sensors of power, with `*` for what is numbered.
    pub power: String,
    /// Bytes of the bundle's file.
    pub bundle_bytes: usize,
}

/// Bytes that a run holds besides its queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The program with the tables of the bundle (vocabulary, prompts, labels), measured in this process.
    pub program: usize,
    /// As the CPU backend lays it out.
    pub model: Footprint,
    /// Small nets.
    pub nets: usize,
    /// The speech recogniser.
    pub words: usize,
    /// One picture of the source whose pictures are the largest; 0 where only its writer knows.
    pub picture: usize,
}

/// Every limit of a run in resolved numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub rows: Vec<Limit>,
    /// Bytes of a run that takes its readings as they come.
    pub sum: usize,
    /// Bytes of a run whose every queue is full.
    pub sum_most: usize,
}

impl Limits {
    /// Refuses a run that takes more than `free` bytes. That may change: no fault of the config.
    pub fn fit(&self, free: usize) -> Result<()> {
        ensure!(
            self.sum <= free,
            "a run takes {}, and {} can be had: free memory, or use a smaller bundle (`mien pack --quant q4_0`)",
            size(self.sum),
            size(free)
        );
        Ok(())
    }
}

/// Bytes as people read them.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// One row of the table of limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub what: &'static str,
    pub limit: String,
    /// Bytes at most; `None` where it takes no memory worth a number.
    pub bytes: Option<usize>,
}

impl Plan {
    /// What the sources can send.
    pub fn gives(&self) -> Gives {
        let gives = |of: fn(&Gives) -> bool| self.sources.iter().any(|(_, gives)| of(gives));
        Gives { video: gives(|gives| gives.video), audio: gives(|gives| gives.audio) }
    }

    pub fn hop_ns(&self) -> u64 {
        u64::from(self.window.hop_ms) * 1_000_000
    }

    /// Live frames nearer to each other than this are passed over: no window would show them. Half of the time after which a source
    /// counts as stalled, at most.
    pub fn keep_ns(&self) -> u64 {
        let quarter_ns = u64::from(self.window.window_ms) * 1_000_000 / self.frames as u64 / 4;
        quarter_ns.min(STALL.as_nanos() as u64 / 2)
    }

    /// Whether claims of reasons are held against what was measured.
    pub fn grounds(&self) -> bool {
        self.model.reason != Explain::Off && self.cues.ground != Ground::Off
    }

    /// Whether each face is scored, and not the largest alone.
    pub fn scores_each(&self) -> bool {
        self.cues.people == Scoring::Each
    }

    /// Whether anything asks for measured voices and faces.
    fn measures(&self) -> bool {
        self.gate.is_some() || self.cues.crop != Crop::None || self.grounds()
    }

    /// The recogniser's file, where one is wanted.
    pub fn recogniser(&self) -> Result<Option<bundle::Words>> {
        self.words.as_ref().map(|words| words.open(self.window.window_ms)).transpose()
    }

    /// The model, told what is said where the plan has a recogniser.
    pub fn told(&self, infer: Box<dyn Infer>) -> Result<Box<dyn Infer>> {
        let Some((file, words)) = self.recogniser()?.zip(self.words.as_ref()) else { return Ok(infer) };
        let recogniser = words::load(&file, self.model.threads, words.audio_context)?;
        Ok(Box::new(Told::new(infer, recogniser)))
    }

    /// What measures voices and faces, where anything asks for it; its nets are loaded.
    pub fn measurer(&self) -> Result<Option<Measurer>> {
        if !self.measures() {
            return Ok(None);
        }
        // A track's number tells nothing of a person: it begins anywhere.
        let first_track = (self.speaker.boot as u16).max(1);
        Measurer::new(&self.nets, self.gate.unwrap_or_default(), self.cues, first_track).map(Some)
    }

    /// What cannot be measured for want of a net, with the next step.
    pub fn without_nets(&self) -> Vec<String> {
        let gives = self.gives();
        let asked = self.gate.is_some() || self.cues.crop == Crop::Face || self.nets.folder.is_some();
        let missing = |task: Task| {
            let needed = match task {
                Task::VoiceActivity => gives.audio && self.gate.is_some(),
                Task::FaceBox | Task::FaceMesh => gives.video,
                // No default net does it.
                Task::Expression => false,
            };
            asked && needed && self.nets.of(task).is_none()
        };
        let folder = self.nets.folder.as_ref().map_or("FOLDER".into(), |folder| folder.display().to_string());
        let row = |task: &Task| {
            let what = match task {
                Task::VoiceActivity => "every sound counts as a voice",
                Task::FaceBox => "every picture counts as one with a face, and faces are not measured",
                Task::FaceMesh => "faces are found and not measured",
                Task::Expression => "what a face shows is left to the mesh",
            };
            format!("no net for {}: {what}; `tools/nets fetch {folder}` gets it", task.name())
        };
        Task::ALL.iter().filter(|task| missing(**task)).map(row).collect()
    }

    /// Readings that wait at most: for the model, and for being measured.
    fn readings(&self) -> usize {
        self.daemon.readings_max + if self.measures() { MEASURED_MAX } else { 0 }
    }

    /// Buffers of readings, for all sources together.
    pub fn pool(&self) -> Pool {
        let readings = self.readings();
        Pool::new(readings, readings)
    }

    pub fn setup(&self) -> Setup {
        Setup { speaker: Arc::clone(&self.speaker), state_dir: self.state_dir.clone() }
    }

    pub fn limits(&self, memory: &Memory) -> Limits {
        let (window, policy, daemon) = (&self.window, &self.policy, &self.daemon);
        let row = |what, limit: String, bytes| Limit { what, limit, bytes };
        let readings = self.readings() * memory.picture;
        let sound_ms = window.window_ms + window.lateness_ms;
        let sound_bytes =
            (sound_ms + window.window_ms) as usize * SAMPLE_RATE as usize / 1_000 * size_of::<f32>();
        let board = (!self.board.is_empty()).then(|| row("board", self.board.clone(), None));
        let rows = vec![
            row(
                "window",
                format!("{} ms every {} ms, {} pictures", window.window_ms, window.hop_ms, self.frames),
                None,
            ),
            row(
                "begin",
                format!(
                    "score {:.2} for {} ms, smoothed over {} ms",
                    policy.enter, policy.dwell_ms, policy.smooth_ms
                ),
                None,
            ),
            row(
                "end",
                format!("score below {:.2}, or {} ms without input", policy.exit, policy.patience_ms),
                None,
            ),
            row("heartbeat", format!("every {} ms", daemon.heartbeat_ms), None),
            row("sound", format!("{sound_ms} ms"), Some(sound_bytes)),
            row(
                "pictures in windows",
                self.pictures_held().to_string(),
                Some(memory.picture + self.pictures_held() * memory.picture.min(self.side * self.side * 3)),
            ),
            row("readings queued", self.readings().to_string(), Some(readings)),
            row(
                "messages queued per sink",
                daemon.messages_max.to_string(),
                Some(daemon.messages_max * size_of::<Message>() * self.sinks.len()),
            ),
            row("packet", "1".into(), Some(LINE_BYTES_MAX)),
            row("program and tables", "vocabulary, prompts, labels".into(), Some(memory.program)),
            row(
                "weights",
                format!("{}, read once from its {} bytes", self.speaker.bundle, self.bundle_bytes),
                Some(memory.model.weights),
            ),
            row("small nets", self.nets_named(), (memory.nets > 0).then_some(memory.nets)),
            row(
                "speech recogniser",
                if self.words.is_some() { "weights, keys and values, scratch".into() } else { "none".into() },
                (memory.words > 0).then_some(memory.words),
            ),
            row("keys and values", "the longest prompt and answer".into(), Some(memory.model.cache)),
            row("scratch", "activations and packed inputs".into(), Some(memory.model.scratch)),
        ];
        let faces = self.scores_each().then(|| self.faces_row(memory));
        let rows: Vec<Limit> = rows.into_iter().chain(faces).collect();
        let sum_most: usize = rows.iter().filter_map(|row| row.bytes).sum();
        let sum = sum_most - readings;
        Limits { rows: board.into_iter().chain(rows).collect(), sum, sum_most }
    }

    fn nets_named(&self) -> String {
        let names: Vec<&str> =
            Task::ALL.iter().filter(|task| self.nets.of(**task).is_some()).map(|task| task.name()).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// Pictures of one face each, with the one that is cut out before it is made small.
    fn faces_row(&self, memory: &Memory) -> Limit {
        let held = self.pictures_held() * PARTS_MAX;
        let bytes = Some(memory.picture + held * self.side * self.side * 3);
        Limit { what: "faces in windows", limit: held.to_string(), bytes }
    }

    fn pictures_held(&self) -> usize {
        let ms = u64::from(self.window.window_ms + self.window.lateness_ms + self.window.hop_ms);
        (ms * self.frames as u64).div_ceil(u64::from(self.window.window_ms)) as usize
    }
}
