//! One answer as it grows: what may come next, what was made, when it ends. Pure: logits come as arguments.

use crate::{
    bundle::Vocabulary,
    model::{
        infer::{Reason, Stop},
        text::{
            constrain::{Form, Next},
            generate::{Characters, Chooser, Decoding, Guard, between, says},
        },
    },
};

/// What an answer asks for next.
pub enum Wish {
    /// These tokens and no others.
    Forced(Vec<u32>),
    /// One token of the decoder's choice; plainly the most probable of a label's.
    Choose {
        label: bool,
    },
    Stop(Stop),
}

pub struct Answer {
    form: Option<Form>,
    chooser: Option<Chooser>,
    guard: Option<Guard>,
    avoid: Vec<String>,
    /// Tokens that would say what is avoided here.
    refused: Vec<u32>,
    stop_at_end: bool,
    tokens_max: usize,
    characters: Characters,
    text: String,
    made: Vec<u32>,
    /// As in [`Reason::weights`], before `text` is trimmed.
    weights: Vec<(usize, f32)>,
    /// Of the token that was chosen last.
    weight: f32,
    weighed: bool,
    /// Tokens that the decoder has not seen yet.
    pending: Vec<u32>,
    /// Nothing was fed yet.
    first: bool,
}

impl Answer {
    pub fn new(form: Option<Form>, decoding: &Decoding, penalty: f32, tokens_max: usize) -> Answer {
        Answer {
            guard: (decoding.repetition_guard && form.is_none()).then(Guard::default),
            stop_at_end: decoding.stop_at_end && form.is_none(),
            avoid: decoding.avoid.clone(),
            refused: Vec::new(),
            form,
            chooser: decoding.sampling.map(|sampling| Chooser::new(sampling, penalty)),
            tokens_max,
            characters: Characters::default(),
            text: String::new(),
            made: Vec::new(),
            weights: Vec::new(),
            weight: 0.0,
            weighed: decoding.weighed,
            pending: Vec::new(),
            first: true,
        }
    }

    pub fn wish(&mut self) -> Wish {
        let left = self.tokens_max - self.made.len();
        if left == 0 {
            return Wish::Stop(Stop::MaxNewTokens);
        }
        match self.form.as_mut().map_or(Next::Choose { label: false }, |form| form.next(left)) {
            Next::Done => Wish::Stop(Stop::EndOfText),
            Next::Forced(ids) => Wish::Forced(ids),
            Next::Choose { label } => Wish::Choose { label },
        }
    }

    /// Whether this token may come next.
    pub fn allows(&self, id: u32) -> bool {
        !self.refused.contains(&id) && self.form.as_ref().is_none_or(|form| form.allows(id))
    }

    /// Refuses a token here that would say what is avoided.
    pub fn refuses(&mut self, id: u32, vocabulary: &Vocabulary) -> bool {
        let refused = says(&self.avoid, &self.text, vocabulary.piece(id));
        if refused {
            self.refused.push(id);
        }
        refused
    }

    /// Whether tokens are drawn, not just the likeliest taken.
    pub fn samples(&self) -> bool {
        self.chooser.is_some()
    }

    /// Draws the next token; only where the answer samples.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let (form, chooser, refused) = (&self.form, self.chooser.as_mut(), &self.refused);
        let allowed = |id| !refused.contains(&id) && form.as_ref().is_none_or(|form| form.allows(id));
        chooser.expect("the caller asked whether the answer samples").choose(logits, allowed)
    }

    /// Whether the probabilities of what is chosen are wanted.
    pub fn is_weighed(&self) -> bool {
        self.weighed
    }

    /// The logarithm of the probability of the token that is taken next.
    pub fn weigh(&mut self, log: f32) {
        self.weight = log;
    }

    /// Whether this token ends the answer.
    pub fn ends(&self, id: u32, eos: &[u32]) -> bool {
        self.stop_at_end && eos.contains(&id)
    }

    /// A token that was wished for, with those that must follow it at once.
    pub fn chosen(&mut self, id: u32) -> Vec<u32> {
        self.refused.clear();
        let mut ids = vec![id];
        if let Some(form) = &mut self.form {
            ids.extend(form.made(id));
        }
        ids
    }

    /// Tokens that were made. Returns whether the answer repeats itself.
    pub fn take(&mut self, ids: &[u32], vocabulary: &Vocabulary, say: &mut dyn FnMut(&str)) -> bool {
        for &id in ids {
            if let Some(chooser) = &mut self.chooser {
                chooser.made(id);
            }
            self.made.push(id);
            self.pending.push(id);
            let text = &mut self.text;
            self.characters.push(vocabulary.piece(id), &mut |some| {
                text.push_str(some);
                say(some);
            });
            if self.weighed {
                self.weights.push((self.text.len(), std::mem::take(&mut self.weight)));
            }
            if self.guard.as_mut().is_some_and(|guard| guard.push(id)) {
                return true;
            }
        }
        false
    }

    /// Whether nothing was fed yet, and the tokens that the decoder has not seen.
    pub fn pending(&self) -> (bool, &[u32]) {
        (self.first, &self.pending)
    }

    /// The decoder has seen them.
    pub fn fed(&mut self) {
        self.first = false;
        self.pending.clear();
    }

    pub fn made(&self) -> &[u32] {
        &self.made
    }

    pub fn finish(mut self, stop: Stop, say: &mut dyn FnMut(&str)) -> Reason {
        let text = &mut self.text;
        self.characters.finish(&mut |some| {
            text.push_str(some);
            say(some);
        });
        let part = |tag: &str| between(&self.text, tag).map(str::to_owned);
        let (think, answer) = (part("think"), part("answer"));
        let text = self.text.trim().to_owned();
        let blank = self.text.len() - self.text.trim_start().len();
        let weights = self.weights.iter().map(|&(end, log)| (end.saturating_sub(blank), log)).collect();
        Reason { text, think, answer, tokens: self.made.len(), stop, weights }
    }
}
