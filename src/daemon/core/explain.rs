//! Reasons: asked for when a label begins, written a token at a time between the windows, held against what was measured.

use super::{State, Writing};
use crate::{
    backend::Lost,
    cues::{Ground, ledger},
    daemon::{pace::Pace, thought::Thought},
    model::{Decoding, Reason, Sampling},
    sink::Message,
};
use anyhow::Result;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How a reason is asked for once more: not the likeliest words again, and without those that were contradicted.
const AGAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1 };

impl State<'_> {
    /// Begins a reason for what the model was shown last; a recording that is played fast waits for it. After a `first` one that had
    /// contradicted claims it is sampled.
    pub(super) fn explain(&mut self, episode: u32, first: Option<Thought>) -> Result<()> {
        let shown = self.shown;
        let mut cues = self.ledger.cues(shown.start_ns, shown.end_ns);
        if let Some(said) = self.infer.heard() {
            cues.push(ledger::words(said)).ok();
        }
        let started = Instant::now();
        let decoding = match &first {
            Some(first) => Decoding {
                sampling: Some(AGAIN),
                avoid: first.contradictions(),
                ..self.plan.model.decoding()
            },
            None => self.plan.model.decoding(),
        };
        let asked = match self.plan.cues.ground {
            Ground::AskAgain => self.infer.set_decoding(decoding),
            _ => Ok(()),
        }
        .and_then(|()| self.infer.ask(&self.plan.model.reason_prompt));
        self.infer_time += started.elapsed();
        let writing = Writing { episode, shown, cues, first };
        match asked {
            Ok(()) => self.writing = Some(writing),
            Err(error) => return self.without_reason(writing, error),
        }
        match self.plan.pace {
            Pace::Fast => self.write_to_the_end(),
            // The first token comes from the prompt's last row, which another window would write over.
            Pace::Live | Pace::Paced => self.write_on(),
        }
    }

    /// The next token of the reason in the making, where there is one.
    pub(super) fn write_on(&mut self) -> Result<()> {
        if self.writing.is_none() {
            return Ok(());
        }
        self.status.set_busy(true);
        let started = Instant::now();
        let said = self.infer.reason_on(&mut |_| {});
        self.infer_time += started.elapsed();
        self.status.set_busy(false);
        if matches!(said, Ok(None)) && !self.halt.raised() {
            return Ok(());
        }
        let Some(writing) = self.writing.take() else { return Ok(()) };
        match said {
            _ if self.halt.raised() => Ok(()),
            Ok(Some(said)) => self.finish(writing, said),
            Ok(None) => Ok(()),
            Err(error) => self.without_reason(writing, error),
        }
    }

    /// A machine that is behind always has a window to score: the reason gets as much time as the last one took.
    pub(super) fn write_for(&mut self, time: Duration) -> Result<()> {
        let started = Instant::now();
        while self.writing.is_some() && started.elapsed() < time && !self.halt.raised() {
            self.write_on()?;
        }
        Ok(())
    }

    pub(super) fn write_to_the_end(&mut self) -> Result<()> {
        while self.writing.is_some() {
            self.write_on()?;
        }
        Ok(())
    }

    /// Ends the reason in the making where it stands, if the label is gone that it is about.
    pub(super) fn cut_old_reason(&mut self) {
        let holds = |episode: u32| self.policy.holds().is_some_and(|(_, now)| now == episode);
        if self.writing.as_ref().is_none_or(|writing| holds(writing.episode)) {
            return;
        }
        if let (Some(writing), Some(said)) = (self.writing.take(), self.infer.cut_reason()) {
            let Writing { episode, shown, cues, first } = writing;
            let mut cut = Thought::of(said, shown, &cues, self.plan);
            cut.cut = true;
            // A whole reason is worth more than half of another.
            self.tell_reason(episode, first.unwrap_or(cut));
        }
    }

    pub(super) fn give_reason_up(&mut self) {
        self.writing = None;
        self.infer.cut_reason();
    }

    /// A reason is whole: it is told, or asked for once more where a claim of it is contradicted and the config says so.
    fn finish(&mut self, writing: Writing, said: Reason) -> Result<()> {
        let Writing { episode, shown, cues, first } = writing;
        let thought = Thought::of(said, shown, &cues, self.plan);
        match first {
            None if thought.contradicted() && self.plan.cues.ground == Ground::AskAgain => {
                return self.explain(episode, Some(thought));
            }
            Some(first) if !thought.better_than(&first) => self.tell_reason(episode, first),
            _ => self.tell_reason(episode, thought),
        }
        Ok(())
    }

    fn tell_reason(&self, episode: u32, thought: Thought) {
        self.exits.send(&Message::Reason(Arc::new(thought.reason(episode))));
    }

    fn without_reason(&mut self, writing: Writing, error: anyhow::Error) -> Result<()> {
        self.writing = None;
        let Writing { episode, first, .. } = writing;
        if let Some(first) = first {
            self.tell_reason(episode, first);
        }
        if error.is::<Lost>() {
            return Err(error);
        }
        log::error!("no reason for episode {episode}: {error:#}");
        Ok(())
    }
}
