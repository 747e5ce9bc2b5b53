//! A model shown the clips of a manifest, one record each.

use super::{degrade::Degrade, manifest::Line, measured::Measuring, metrics, record::Record};
use crate::{
    bundle::{Bundle, LabelSet},
    cues::{Channel, Cue, ground},
    model::{self, AudioContext, Decoding, Device, Infer, Input, Stop},
    source::{Gives, recorded::whole::Recording},
};
use anyhow::{Result, ensure};
use std::time::Instant;

/// What of a clip the model gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Both,
    Audio,
    Video,
}

impl Given {
    pub fn name(self) -> &'static str {
        match self {
            Given::Both => "both",
            Given::Audio => "audio",
            Given::Video => "video",
        }
    }

    pub fn gives(self) -> Gives {
        Gives { video: self != Given::Audio, audio: self != Given::Video }
    }
}

/// A model that is shown clips.
pub struct Examiner<'a> {
    model: Box<dyn Infer>,
    bundle: &'a Bundle,
    clips: u64,
    measuring: Option<Measuring>,
    sure: f32,
}

impl<'a> Examiner<'a> {
    pub fn open(bundle: &'a Bundle, device: Device, threads: usize) -> Result<Self> {
        let model = model::load(bundle, device, threads)?;
        Ok(Examiner { model, bundle, clips: 0, measuring: None, sure: 0.0 })
    }

    /// Reasons are held against what is measured, too.
    pub fn set_measuring(&mut self, measuring: Option<Measuring>) {
        self.measuring = measuring;
    }

    /// A clip that has its answer already: who is in it is known better after it.
    pub fn pass(&mut self, line: &Line) {
        if let Some(Err(error)) = self.measuring.as_mut().map(|measuring| measuring.clip(line)) {
            log::warn!("clip=\"{}\" not measured: {error:#}", line.id);
        }
    }

    /// Tokens of an answer at most, otherwise the bundle's limit; and how probable the words of a claim are at least that is not left out.
    pub fn set_answers(&mut self, max_new_tokens: Option<usize>, sure: Option<f32>) -> Result<()> {
        self.sure = sure.unwrap_or_default();
        self.model.set_decoding(Decoding { max_new_tokens, weighed: sure.is_some(), ..Decoding::default() })
    }

    /// How much sound is encoded.
    pub fn set_audio_context(&mut self, context: AudioContext) -> Result<()> {
        self.model.set_audio_context(context)
    }

    /// Shows a clip under the prompt `label`; returns when the clip had been read.
    fn see(&mut self, line: &Line, given: Given, degrade: Option<&Degrade>) -> Result<Instant> {
        let shape = self.bundle.shape();
        let mut recording = Recording::open(&line.clip, shape.frames)?;
        self.clips += 1;
        if let Some(degrade) = degrade {
            degrade.change_pictures(&line.id, recording.pictures_mut());
            recording.samples.iter_mut().for_each(|samples| degrade.change_sound(&line.id, samples));
        }
        recording.hear(shape.samples_max());
        let mut frames = recording.frames();
        let mut samples = recording.samples.as_deref();
        match given {
            Given::Audio => frames = None,
            Given::Video => samples = None,
            Given::Both => {}
        }
        ensure!(
            frames.is_some() || samples.is_some(),
            "the clip {} has nothing for a model that is given {}",
            line.clip.display(),
            given.name()
        );
        // Features are kept by number: the pictures of no two clips may share one.
        for (number, _) in frames.iter_mut().flatten() {
            *number |= self.clips << 32;
        }
        let read = Instant::now();
        let words = line.subtitle.as_deref().filter(|_| samples.is_some());
        self.model.see("label", &Input { frames: frames.as_deref(), samples, words })?;
        Ok(read)
    }

    /// Probabilities of the labels, of a clip as it is or made worse.
    pub fn scores(&mut self, line: &Line, set: &LabelSet, degrade: Option<&Degrade>) -> Result<Vec<f32>> {
        let given = match degrade {
            Some(degrade) if !degrade.sound => Given::Video,
            Some(degrade) if !degrade.pictures => Given::Audio,
            _ => Given::Both,
        };
        self.see(line, given, degrade)?;
        Ok(self.model.score(&set.name)?.probabilities.clone())
    }

    /// Scores and, with a prompt, an answer in words; what went wrong stands in the record.
    pub fn answer(&mut self, line: &Line, set: &LabelSet, prompt: Option<&str>, given: Given) -> Record {
        let mut record = Record {
            id: line.id.clone(),
            label: line.label.clone(),
            subset: line.subset.clone(),
            fold: line.fold,
            ..Record::default()
        };
        let measured = self.measuring.as_mut().map(|measuring| measuring.clip(line)).transpose();
        let filled = self.fill(&mut record, line, set, prompt, given);
        match filled.and(measured) {
            Ok(Some(cues)) => record.hold(&cues),
            Ok(None) => {}
            Err(error) => record.error = Some(format!("{error:#}")),
        }
        record
    }

    fn fill(
        &mut self,
        record: &mut Record,
        line: &Line,
        set: &LabelSet,
        prompt: Option<&str>,
        given: Given,
    ) -> Result<()> {
        let began = Instant::now();
        let read = self.see(line, given, None)?;
        let scores = self.model.score(&set.name)?.probabilities.clone();
        record.answer = Some(set.labels[metrics::best(&scores).0].clone());
        if let Some(prompt) = prompt {
            if prompt != "label" {
                self.model.ask(prompt)?;
            }
            let reason = ground::without_unsure(self.model.reason(&mut |_| {})?, self.sure);
            let cues = line.cues.as_ref().map(|cues| known_to(given, cues));
            record.hear(&reason.text, &set.labels, cues.as_deref());
            record.tokens = Some(reason.tokens + usize::from(reason.stop == Stop::EndOfText));
        }
        record.scores = scores;
        record.read_ms = (read - began).as_secs_f64() * 1e3;
        record.ms = read.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }
}

/// The cues of what a model is given: claims about the rest are about what is absent.
fn known_to(given: Given, cues: &[Cue]) -> Vec<Cue> {
    let kept = |cue: &&Cue| match given {
        Given::Audio => cue.modality != Channel::Face,
        Given::Video => cue.modality == Channel::Face,
        Given::Both => true,
    };
    cues.iter().filter(kept).cloned().collect()
}
