//! A decoder at work on one prompt: prefilled, its labels scored, an answer generated.
//!
//! Invariant: keys and values of the text that two prompts begin with are computed once.

use crate::{
    backend::{Backend, Halt},
    bundle::{Generation, LabelSet, Marks, Vocabulary},
    model::{
        infer::{Reason, Scores, Stop},
        pass::{Pass, Scratch},
        text::{
            answer::{Answer, Wish},
            constrain::Form,
            decoder::{Decoder, Sizing, Span},
            generate::{Decoding, most_probable},
            score::Tally,
        },
        weights::Loader,
    },
};
use anyhow::{Context, Result, ensure};
use std::ops::Range;

/// A part of a prompt.
pub enum Part<'a, B: Backend> {
    Text(&'a [u32]),
    /// So many rows of embeddings, `(rows, hidden)`.
    Rows(&'a B::Buf, usize),
    /// So many positions at which silence stands ([`Session::keep_silence`]).
    Silence(usize),
}

impl<B: Backend> Clone for Part<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Part<'_, B> {}

/// What a bundle says of text.
pub struct Language {
    pub label_sets: Vec<LabelSet>,
    pub generation: Generation,
    pub marks: Marks,
    pub vocabulary: Vocabulary,
}

impl Language {
    fn label_set(&self, name: &str) -> Result<&LabelSet> {
        let names = || self.label_sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.label_sets.iter().find(|s| s.name == name);
        found.with_context(|| format!("the bundle has no label set `{name}`, only: {}", names()))
    }
}

pub struct Session<B: Backend> {
    decoder: Decoder<B>,
    language: Language,
    decoding: Decoding,
    tally: Tally,
    /// `(hidden,)`: last row of the prompt.
    prompt_row: B::Buf,
    /// `(hidden,)`: last row of the answer so far.
    row: B::Buf,
    /// Positions of the prompt.
    asked: Option<usize>,
    /// The text whose keys and values stand at the first positions.
    prefix: Vec<u32>,
    writing: Option<Writing>,
    halt: Halt,
}

/// An answer in the making.
struct Writing {
    answer: Answer,
    penalty: f32,
    prompt_len: usize,
    position: usize,
    /// Where another prompt was run in between: the text whose keys and values lie aside with the answer's.
    aside: Option<Vec<u32>>,
}

impl<B: Backend> Session<B> {
    pub fn load(loader: &Loader<'_, B>, sizing: Sizing<'_>, language: Language) -> Result<Self> {
        let rows_max = sizing.limits.rows_max;
        Ok(Self {
            decoder: Decoder::load(loader, sizing)?,
            tally: Tally::new(&language.label_sets, rows_max),
            language,
            decoding: Decoding::default(),
            prompt_row: loader.backend.alloc(sizing.stack.hidden)?,
            row: loader.backend.alloc(sizing.stack.hidden)?,
            asked: None,
            prefix: Vec::with_capacity(rows_max),
            writing: None,
            halt: Halt::default(),
        })
    }

    /// Forgets the text before the first rows of embeddings, so that the next prompt is prefilled from its first position.
    pub fn forget_prefix(&mut self) {
        self.prefix.clear();
    }

    /// Forgets the prompt: nothing can be scored or answered until the next.
    pub fn forget(&mut self) {
        self.asked = None;
    }

    /// All layers over a prompt.
    pub fn prefill<'p>(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        parts: impl Iterator<Item = Part<'p, B>> + Clone,
    ) -> Result<()>
    where
        B: 'p,
    {
        self.asked = None;
        self.lay_aside(pass);
        let opening: &[u32] = match parts.clone().next() {
            Some(Part::Text(ids)) => ids,
            _ => &[],
        };
        let known = opening.iter().zip(&self.prefix).take_while(|(a, b)| a == b).count();
        self.prefix.truncate(known);
        let decoder = &mut self.decoder;
        let mut span = Span { rows: 0, start: known };
        for (i, part) in parts.enumerate() {
            span.rows += match part {
                Part::Text(ids) => {
                    let ids = if i == 0 { &ids[known..] } else { ids };
                    decoder.embed(pass, ids, span.rows);
                    ids.len()
                }
                Part::Rows(embeddings, count) => {
                    decoder.place(pass, embeddings, count, span.rows);
                    count
                }
                Part::Silence(count) => {
                    if span.rows > 0 {
                        decoder.run_for_last(pass, scratch, span)?;
                    }
                    let at = span.start + span.rows;
                    decoder.put_silence(pass, at..at + count);
                    span = Span { rows: 0, start: at + count };
                    0
                }
            };
        }
        let Span { rows, start } = span;
        ensure!(rows > 0, "the prompt is empty, or ends in silence");
        decoder.tap_rows(pass, "input_embeds", rows)?;
        let last = decoder.run_for_last(pass, scratch, span)?;
        decoder.keep_row(pass, last, &mut self.prompt_row);
        pass.end("prefill", &self.prompt_row)?;
        if self.halt.raised() {
            // What stands at the first positions may be undone work.
            self.prefix.clear();
        } else {
            self.prefix.extend_from_slice(&opening[known..]);
        }
        self.asked = Some(start + rows);
        Ok(())
    }

    /// How likely each label of a set is after the prompt.
    pub fn score(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        label_set: &str,
    ) -> Result<&Scores> {
        let prompt_len = self.asked.context("there is nothing to score: no window was seen yet")?;
        let set = self.language.label_set(label_set)?;
        self.tally.score(&mut self.decoder, pass, scratch, (&self.prompt_row, prompt_len), set)
    }

    /// An answer in the making ends when it is raised.
    pub fn halt_when(&mut self, halt: Halt) {
        self.halt = halt;
    }

    /// Takes the memory for answers that wait while other prompts are scored.
    pub fn make_room(&mut self, pass: &mut Pass<'_, B>) -> Result<()> {
        self.decoder.make_room(pass)
    }

    /// Takes the memory for what silence leaves, or gives it back.
    pub fn make_room_for_silence(&mut self, pass: &mut Pass<'_, B>, wanted: bool) -> Result<()> {
        self.decoder.make_room_for_silence(pass, wanted)
    }

    /// Keeps the keys and values at positions of the prompt that was prefilled last, for prompts in which they stand for silence.
    pub fn keep_silence(&mut self, pass: &mut Pass<'_, B>, positions: Range<usize>) {
        self.decoder.keep_silence(pass, positions);
    }

    /// Goes on with the answer to the prompt, or begins it: one step of the decoder, or what needs none. `say` gets text as it comes,
    /// whole characters only. `None` until the answer is whole.
    pub fn write_on(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Option<Reason>> {
        let mut writing = match self.writing.take() {
            Some(writing) => writing,
            None => self.begin_answer(pass)?,
        };
        self.asked = None;
        if let Some(prefix) = writing.aside.take() {
            self.decoder.take_back(pass);
            self.prefix = prefix;
        }
        let Some(stop) = self.advance(pass, scratch, &mut writing, say)? else {
            self.writing = Some(writing);
            return Ok(None);
        };
        let Writing { answer, prompt_len, .. } = writing;
        self.asked = Some(prompt_len);
        if pass.wants("tokens") {
            let ids: Vec<f32> = answer.made().iter().map(|id| *id as f32).collect();
            pass.tap_host("tokens", 1, ids.len(), &ids);
        }
        Ok(Some(answer.finish(stop, say)))
    }

    /// Ends the answer in the making where it stands.
    pub fn cut_short(&mut self) -> Option<Reason> {
        Some(self.writing.take()?.answer.finish(Stop::Halted, &mut |_| ()))
    }

    fn begin_answer(&mut self, pass: &mut Pass<'_, B>) -> Result<Writing> {
        let prompt_len = self.asked.context("there is nothing to reason about: no window was seen yet")?;
        let form = self.form(&self.decoding)?;
        let generation = &self.language.generation;
        let penalty = self.decoding.repetition_penalty.unwrap_or(generation.repetition_penalty);
        let open = |id| form.as_ref().is_none_or(|f| f.thinkable(id));
        self.decoder.begin_answer(pass, penalty, open);
        let tokens_max = self.max_new_tokens(&self.decoding);
        let answer = Answer::new(form, &self.decoding, penalty, tokens_max);
        Ok(Writing { answer, penalty, prompt_len, position: prompt_len, aside: None })
    }

    /// Another prompt is to be run: the answer in the making waits, or is given up where there is no room for it.
    fn lay_aside(&mut self, pass: &mut Pass<'_, B>) {
        let Some(writing) = self.writing.take_if(|writing| writing.aside.is_none()) else { return };
        if self.decoder.set_aside(pass) {
            let prefix = std::mem::take(&mut self.prefix);
            self.writing = Some(Writing { aside: Some(prefix), ..writing });
        }
    }

    /// One wish of the answer; tells why it ends.
    fn advance(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        writing: &mut Writing,
        say: &mut dyn FnMut(&str),
    ) -> Result<Option<Stop>> {
        if self.halt.raised() {
            return Ok(Some(Stop::Halted));
        }
        let Writing { answer, penalty, position, .. } = writing;
        let ids = match answer.wish() {
            Wish::Stop(stop) => return Ok(Some(stop)),
            Wish::Forced(ids) => {
                self.decoder.penalise(pass, &ids, *penalty);
                ids
            }
            Wish::Choose { label } => {
                let likeliest = self.step(pass, scratch, answer, position)?;
                let vocabulary = &self.language.vocabulary;
                let mut refused = false;
                let id = loop {
                    let id = match () {
                        () if answer.samples() && !label => answer.sample(self.decoder.latest_logits(pass)?),
                        () if label || refused => {
                            most_probable(self.decoder.latest_logits(pass)?, |id| answer.allows(id))
                        }
                        () => likeliest,
                    };
                    refused = !label && answer.refuses(id, vocabulary);
                    if !refused {
                        break id;
                    }
                };
                if answer.ends(id, &self.language.generation.eos) {
                    return Ok(Some(Stop::EndOfText));
                }
                if answer.is_weighed() {
                    answer.weigh(self.decoder.latest_likelihood(pass, id)?);
                }
                let ids = answer.chosen(id);
                self.decoder.penalise(pass, &ids[1..], *penalty);
                ids
            }
        };
        Ok(answer.take(&ids, &self.language.vocabulary, say).then_some(Stop::Repetition))
    }

    /// Feeds what was made so far and returns the likeliest of what may come next; `logits` are of all that could.
    fn step(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        answer: &mut Answer,
        position: &mut usize,
    ) -> Result<u32> {
        let Self { decoder, prompt_row, row, .. } = self;
        pass.begin("decode");
        let (first, pending) = answer.pending();
        let of_prompt = first && pending.is_empty();
        if of_prompt {
            decoder.copy_row(pass, prompt_row, row);
        }
        // A value that is asked for in the middle of a step keeps it from being repeated as a whole.
        let whole = pending.len() == 1 && !pass.wants("llm_hidden_last");
        let start = *position;
        *position += pending.len();
        let likeliest = if whole {
            decoder.step(pass, scratch, pending[0], start)?
        } else {
            if !pending.is_empty() {
                let rows = pending.len();
                decoder.embed(pass, pending, 0);
                decoder.run(pass, scratch, &[Span { rows, start }])?;
                decoder.keep_row(pass, rows - 1, row);
            }
            decoder.choose(pass, row)?
        };
        answer.fed();
        pass.end_on_host("decode");
        for (name, is_due) in [("prefill_logits", of_prompt), ("step_logits", true)] {
            if is_due && pass.wants(name) {
                let logits = decoder.latest_logits(pass)?;
                pass.tap_host(name, 1, logits.len(), logits);
            }
        }
        Ok(likeliest)
    }

    /// How answers are generated from now on; refused where the bundle cannot do it.
    pub fn set_decoding(&mut self, decoding: Decoding) -> Result<()> {
        decoding.check()?;
        self.form(&decoding)?;
        self.decoding = decoding;
        Ok(())
    }

    fn max_new_tokens(&self, decoding: &Decoding) -> usize {
        let most = self.language.generation.max_new_tokens;
        decoding.max_new_tokens.unwrap_or(most).min(most)
    }

    fn form(&self, decoding: &Decoding) -> Result<Option<Form>> {
        let Some(name) = &decoding.constrain_to else { return Ok(None) };
        let set = self.language.label_set(name)?;
        let form = Form::new(&self.language.marks, set, &self.language.vocabulary)?;
        let (least, most) = (form.least(), self.max_new_tokens(decoding));
        ensure!(
            least <= most,
            "an answer of `{name}` may take {least} tokens, but at most {most} may be made"
        );
        Ok(Some(form))
    }
}
