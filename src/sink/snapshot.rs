//! Every count of a run at one moment.
//!
//! Limits: [`SOURCES_MAX`] sources, [`SINKS_MAX`] sinks and [`STAGES_MAX`] stages; a snapshot is a copy without allocation.

use crate::{
    source::SourceCounts,
    wire::{Health, Heartbeat},
};
use heapless::Vec;
use std::time::Duration;

pub const SOURCES_MAX: usize = 4;
pub const SINKS_MAX: usize = 8;
pub const STAGES_MAX: usize = 12;
/// Stages of the model by name, and how long each took.
pub type Stages = Vec<(&'static str, Duration), STAGES_MAX>;

/// What a sink has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    pub sent: u64,
    /// Messages that the edge did not take.
    pub dropped: u64,
    /// Times the edge was lost.
    pub losses: u64,
    /// Messages that wait for the edge.
    pub waiting: u64,
}

/// Windows by what a gate let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub both: u32,
    pub face: u32,
    pub voice: u32,
    /// Not scored: nobody was there.
    pub nobody: u32,
    /// What scoring those would have taken, at the mean of the others.
    pub saved: Duration,
}

/// Watts of the board in the mean; `None` where no sensor tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drawn {
    /// While the model works.
    pub working_w: Option<f32>,
    /// While it does not.
    pub resting_w: Option<f32>,
}

impl Drawn {
    /// Joules that a time of the model's work takes more than rest.
    pub fn work_j(&self, time: Duration) -> Option<f64> {
        Some(f64::from((self.working_w? - self.resting_w?).max(0.0)) * time.as_secs_f64())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// As it goes out, with the health of each modality and all drops.
    pub heartbeat: Heartbeat,
    pub sources: Vec<(&'static str, SourceCounts), SOURCES_MAX>,
    pub sinks: Vec<(&'static str, SinkCounts), SINKS_MAX>,
    /// Readings and messages that full queues gave up.
    pub queue_drops: u32,
    /// Of the newest window.
    pub stages: Stages,
    /// Zeros without a gate.
    pub passed: Passed,
    pub drawn: Drawn,
    /// How many times the bundle's temperature recent windows ask for; `None` where it is not followed.
    pub unlike: Option<f32>,
    /// How long the model has been busy with one window.
    pub busy: Duration,
}

impl Snapshot {
    /// `muted`, `degraded` while a modality that the site has is not there or no window was scored yet, else `ok`.
    pub fn state(&self) -> &'static str {
        let beat = &self.heartbeat;
        let there = |health| matches!(health, Health::Ok | Health::Off | Health::Ended);
        match beat.muted {
            0 if beat.windows > 0 && there(beat.video) && there(beat.audio) => "ok",
            0 => "degraded",
            _ => "muted",
        }
    }

    /// One line of `key=value`.
    pub fn line(&self) -> String {
        use std::fmt::Write;
        let beat = &self.heartbeat;
        let mut line = format!(
            "state={} uptime_s={} windows={} late={} events={} dropped={} infer_ms={} video={} audio={} muted={}",
            self.state(),
            beat.uptime_ms / 1000,
            beat.windows,
            beat.late,
            beat.events,
            beat.dropped,
            beat.infer_ms,
            beat.video.name(),
            beat.audio.name(),
            beat.muted
        );
        if self.passed != Passed::default() {
            let Passed { both, face, voice, nobody, saved } = self.passed;
            let saved_s = saved.as_secs();
            let _ = write!(
                line,
                " gate_both={both} gate_face={face} gate_voice={voice} gate_nobody={nobody} gate_saved_s={saved_s}"
            );
        }
        if let Some(unlike) = self.unlike {
            let _ = write!(line, " temperature_times={unlike:.2}");
        }
        if let Drawn { working_w: Some(working), resting_w: Some(resting) } = self.drawn {
            let _ = write!(line, " working_w={working:.1} resting_w={resting:.1}");
            if let Some(saved) = self.drawn.work_j(self.passed.saved).filter(|saved| *saved > 0.0) {
                let _ = write!(line, " gate_saved_j={saved:.0}");
            }
        }
        for (name, counts) in &self.sources {
            let SourceCounts { gaps, broken, losses, .. } = counts;
            let _ = write!(line, " {name}_gaps={gaps} {name}_broken={broken} {name}_losses={losses}");
        }
        for (name, counts) in &self.sinks {
            let SinkCounts { sent, dropped, losses, waiting } = counts;
            let _ = write!(
                line,
                " {name}_sent={sent} {name}_dropped={dropped} {name}_waiting={waiting} {name}_losses={losses}"
            );
        }
        line
    }
}
