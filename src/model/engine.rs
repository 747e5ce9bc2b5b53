//! A loaded model: towers, branches and decoder over one backend, and what was last seen.
//!
//! Invariant: nothing is encoded twice. Frame features live as long as their frame is in the window, media tokens until the next
//! `see`, keys and values of the text before the first modality until another prompt begins differently.

use crate::{
    backend::Backend,
    bundle::{Bundle, Generation, LabelSet, Marks, Piece, Prompt, Shape, Vocabulary},
    model::{
        Infer, Input, Reason, Scores, Stop,
        audio::{Audio, AudioContext},
        constrain::{Form, Next},
        decoder::{Decoder, Limits, Span},
        fusion::Fusion,
        generate::{Characters, Chooser, Decoding, Guard, between, most_probable},
        observe::{Observer, Pass},
        score::{log_probability, softmax},
        vision::Vision,
        weights::{Loader, Scratch},
    },
};
use anyhow::{Context, Result, bail, ensure};

/// Rows of logits at once.
const PICKS_MIN: usize = 16;

pub struct Model<B: Backend> {
    backend: B,
    vision: Vision<B>,
    audio: Audio<B>,
    fusion: Fusion<B>,
    decoder: Decoder<B>,
    scratch: Scratch<B>,
    /// Last row of the prompt; last row of the answer so far.
    prompt_row: B::Buf,
    row: B::Buf,
    facts: Facts,
    limits: Limits,
    tally: Tally,
    decoding: Decoding,
    observer: Option<Box<dyn Observer>>,
    seen: Option<Seen>,
    /// Positions of the prompt that was prefilled over what was seen.
    asked: Option<usize>,
    /// The text whose keys and values stand at the first positions.
    prefix: Vec<u32>,
}

/// Where labels are scored.
struct Tally {
    means: Vec<f64>,
    spans: Vec<Span>,
    /// By row: whose likelihood its logits hold, and of which token.
    wanted: Vec<(usize, u32)>,
    scores: Scores,
}

impl Tally {
    fn new(label_sets: &[LabelSet], rows_max: usize) -> Tally {
        let labels = label_sets.iter().map(|set| set.labels.len()).max().unwrap_or(0);
        Tally {
            means: Vec::with_capacity(labels),
            spans: Vec::with_capacity(labels),
            wanted: Vec::with_capacity(rows_max),
            scores: Scores { probabilities: Vec::with_capacity(labels) },
        }
    }
}

/// What a bundle says besides its weights.
struct Facts {
    shape: Shape,
    prompts: Vec<Prompt>,
    label_sets: Vec<LabelSet>,
    generation: Generation,
    marks: Marks,
    vocabulary: Vocabulary,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    video: bool,
    audio: bool,
}

impl<B: Backend> Model<B> {
    pub fn load(backend: B, bundle: &Bundle) -> Result<Self> {
        let facts = Facts {
            shape: bundle.shape().clone(),
            prompts: bundle.prompts().to_vec(),
            label_sets: bundle.label_sets().to_vec(),
            generation: bundle.generation().clone(),
            marks: bundle.marks().clone(),
            vocabulary: bundle.vocabulary().clone(),
        };
        let shape = &facts.shape;
        let limits = facts.limits()?;
        let sizes = Vision::<B>::sizes(shape)
            .max(Audio::<B>::sizes(shape))
            .max(Fusion::<B>::sizes(shape))
            .max(Decoder::<B>::sizes(shape, limits));
        let loader = Loader { backend: &backend, bundle };
        Ok(Self {
            vision: Vision::load(&loader, shape)?,
            audio: Audio::load(&loader, shape)?,
            fusion: Fusion::load(&loader, shape)?,
            decoder: Decoder::load(&loader, shape, limits)?,
            scratch: Scratch::new(&backend, sizes)?,
            prompt_row: backend.alloc(shape.decoder.hidden)?,
            row: backend.alloc(shape.decoder.hidden)?,
            backend,
            limits,
            tally: Tally::new(&facts.label_sets, limits.rows_max),
            facts,
            decoding: Decoding::default(),
            observer: None,
            seen: None,
            asked: None,
            prefix: Vec::with_capacity(limits.rows_max),
        })
    }

    /// Forgets the text before the first modality, so that the next prompt is prefilled from its first position.
    pub fn forget_prefix(&mut self) {
        self.prefix.clear();
    }

    /// Encodes what the input holds in place of what was seen of it before; the next `ask` is about it.
    pub fn encode(&mut self, input: &Input<'_>) -> Result<()> {
        self.check(input)?;
        self.encode_checked(input)
    }

    fn encode_checked(&mut self, input: &Input<'_>) -> Result<()> {
        let encoded = self.encode_parts(input);
        if encoded.is_err() {
            self.fusion.forget();
        }
        encoded
    }

    fn encode_parts(&mut self, input: &Input<'_>) -> Result<()> {
        let Self { backend, vision, audio, fusion, scratch, observer, .. } = self;
        let mut pass = Pass::new(backend, observer.as_deref_mut());
        if let Some(frames) = input.frames {
            let fresh = fusion.admit(frames.iter().map(|(id, _)| *id));
            if !fresh.is_empty() {
                vision.encode(&mut pass, scratch, fresh.iter().map(|f| frames[f.index].1))?;
                fusion.keep(&mut pass, scratch, &vision.features)?;
            }
            fusion.join(&mut pass, scratch)?;
        }
        if let Some(samples) = input.samples {
            audio.encode(&mut pass, scratch, samples)?;
        }
        Ok(())
    }

    fn check(&self, input: &Input<'_>) -> Result<()> {
        ensure!(
            input.frames.is_some() || input.samples.is_some(),
            "a window without video and without audio"
        );
        let Some(frames) = input.frames else { return Ok(()) };
        let wanted = self.facts.shape.frames;
        ensure!(frames.len() == wanted, "{} frames, but the model sees {wanted} at once", frames.len());
        for (id, f) in frames {
            let bytes = u64::from(f.height) * u64::from(f.width) * 3;
            ensure!(
                bytes > 0 && bytes == f.rgb.len() as u64,
                "frame {id} is {} x {} but holds {} bytes, not {bytes}",
                f.height,
                f.width,
                f.rgb.len()
            );
        }
        Ok(())
    }

    /// Log likelihood of every label, mean over its tokens, to `tally.means`.
    fn label_means(&mut self, prompt_len: usize, set: usize) -> Result<()> {
        let Self { backend, decoder, scratch, observer, prompt_row, limits, facts, tally, .. } = self;
        let set = &facts.label_sets[set];
        let Tally { means: sums, spans, wanted, .. } = tally;
        let mut pass = Pass::new(backend, observer.as_deref_mut());
        pass.begin("score");
        sums.clear();
        sums.resize(set.tokens.len(), 0.0);
        let first = |sums: &mut [f64], logits: &[f32]| {
            for (sum, tokens) in sums.iter_mut().zip(&set.tokens) {
                *sum += log_probability(logits, tokens[0]);
            }
        };
        if set.prefix.is_empty() {
            first(sums, decoder.logits_of(&mut pass, prompt_row)?);
        } else {
            let rows = set.prefix.len();
            decoder.embed(&mut pass, &set.prefix, 0);
            decoder.run(&mut pass, scratch, &[Span { rows, start: prompt_len }])?;
            decoder.logits(&mut pass, rows - 1, 1, |_, logits| first(sums, logits))?;
        }
        let start = prompt_len + set.prefix.len();
        let mut next = 0;
        while next < set.tokens.len() {
            spans.clear();
            wanted.clear();
            while let Some(tokens) = set.tokens.get(next) {
                if wanted.len() + tokens.len() - 1 > limits.rows_max {
                    break;
                }
                let rows = tokens.len() - 1;
                if rows > 0 {
                    decoder.embed(&mut pass, &tokens[..rows], wanted.len());
                    spans.push(Span { rows, start });
                    wanted.extend(tokens[1..].iter().map(|id| (next, *id)));
                }
                next += 1;
            }
            if !spans.is_empty() {
                decoder.run(&mut pass, scratch, spans)?;
                decoder.logits(&mut pass, 0, wanted.len(), |row, logits| {
                    let (label, id) = wanted[row];
                    sums[label] += log_probability(logits, id);
                })?;
            }
        }
        for (sum, tokens) in sums.iter_mut().zip(&set.tokens) {
            *sum /= tokens.len() as f64;
        }
        pass.end("score", decoder.result())
    }

    /// Feeds what was made so far and returns the likeliest of what may come next; `logits` are of all that could.
    fn step(&mut self, pending: &mut Vec<u32>, position: &mut usize, first: bool) -> Result<u32> {
        let Self { backend, decoder, scratch, observer, prompt_row, row, facts, .. } = self;
        let mut pass = Pass::new(backend, observer.as_deref_mut());
        pass.begin("decode");
        let of_prompt = first && pending.is_empty();
        if of_prompt {
            pass.backend.copy(prompt_row, 0, row, 0, facts.shape.decoder.hidden);
        }
        // A value that is asked for in the middle of a step keeps it from being repeated as a whole.
        let whole = pending.len() == 1 && !pass.wants("llm_hidden_last");
        if !pending.is_empty() && !whole {
            let rows = pending.len();
            decoder.embed(&mut pass, pending, 0);
            decoder.run(&mut pass, scratch, &[Span { rows, start: *position }])?;
            decoder.keep_row(&mut pass, rows - 1, row);
            *position += rows;
            pending.clear();
        }
        let likeliest = if whole {
            let at = *position;
            *position += 1;
            let id = pending.remove(0);
            decoder.step(&mut pass, scratch, id, at)?
        } else {
            decoder.choose(&mut pass, row)?
        };
        pass.end_on_host("decode");
        for (name, is_due) in [("prefill_logits", of_prompt), ("step_logits", true)] {
            if is_due && pass.wants(name) {
                let logits = decoder.latest_logits(&mut pass)?;
                pass.tap_host(name, 1, logits.len(), logits);
            }
        }
        Ok(likeliest)
    }

    fn logits(&mut self) -> Result<&[f32]> {
        self.decoder.latest_logits(&mut Pass::new(&mut self.backend, None))
    }

    fn max_new_tokens(&self) -> usize {
        let most = self.facts.generation.max_new_tokens;
        self.decoding.max_new_tokens.unwrap_or(most).min(most)
    }

    fn form(&self) -> Result<Option<Form>> {
        let Some(name) = &self.decoding.constrain_to else { return Ok(None) };
        let set = self.facts.label_set(name)?;
        let form = Form::new(&self.facts.marks, set, &self.facts.vocabulary)?;
        let (least, most) = (form.least(), self.max_new_tokens());
        ensure!(
            least <= most,
            "an answer of `{name}` may take {least} tokens, but at most {most} may be made"
        );
        Ok(Some(form))
    }
}

impl<B: Backend> Infer for Model<B> {
    fn describe(&self) -> String {
        let Limits { rows_max, positions_max, .. } = self.limits;
        format!("{}; {rows_max} rows at once, {positions_max} positions", self.backend.describe())
    }

    fn see(&mut self, prompt: &str, input: &Input<'_>) -> Result<()> {
        self.facts.prompt(prompt)?;
        self.check(input)?;
        (self.seen, self.asked) = (None, None);
        self.encode_checked(input)?;
        self.seen = Some(Seen { video: input.frames.is_some(), audio: input.samples.is_some() });
        self.ask(prompt)
    }

    fn ask(&mut self, prompt: &str) -> Result<()> {
        self.asked = None;
        let Self { backend, decoder, scratch, observer, fusion, audio, prompt_row, facts, prefix, .. } = self;
        let seen = self.seen.context("there is nothing to ask about: no window was seen yet")?;
        let prompt = facts.prompt(prompt)?;
        let pieces = prompt.pieces(seen)?;
        let shape = &facts.shape;
        let mut pass = Pass::new(backend, observer.as_deref_mut());
        pass.begin("prefill");
        if seen.video {
            pass.tap_host("gate_weights", 1, 3, &prompt.gate);
            fusion.mix(&mut pass, prompt.gate)?;
        }
        let opening: &[u32] = match pieces.first() {
            Some(Piece::Text(ids)) => ids,
            _ => &[],
        };
        let known = opening.iter().zip(prefix.iter()).take_while(|(a, b)| a == b).count();
        let mut rows = 0;
        for (i, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Text(ids) => {
                    let ids = if i == 0 { &ids[known..] } else { ids };
                    decoder.embed(&mut pass, ids, rows);
                    rows += ids.len();
                }
                Piece::Video => {
                    decoder.place(&mut pass, &fusion.tokens, shape.visual_tokens(), rows);
                    rows += shape.visual_tokens();
                }
                Piece::Audio => {
                    decoder.place(&mut pass, &audio.tokens, shape.audio_tokens(), rows);
                    rows += shape.audio_tokens();
                }
            }
        }
        ensure!(rows > 0, "prompt `{}` is empty", prompt.name);
        decoder.tap_rows(&mut pass, "input_embeds", rows)?;
        prefix.truncate(known);
        let last = decoder.run_for_last(&mut pass, scratch, Span { rows, start: known })?;
        decoder.keep_row(&mut pass, last, prompt_row);
        pass.end("prefill", prompt_row)?;
        prefix.extend_from_slice(&opening[known..]);
        self.asked = Some(known + rows);
        Ok(())
    }

    fn score(&mut self, label_set: &str) -> Result<&Scores> {
        let prompt_len = self.asked.context("there is nothing to score: no window was seen yet")?;
        let set = self.facts.label_set_at(label_set)?;
        self.label_means(prompt_len, set)?;
        let Tally { means, scores, .. } = &mut self.tally;
        softmax(means, self.facts.label_sets[set].temperature, &mut scores.probabilities);
        Ok(scores)
    }

    fn reason(&mut self, say: &mut dyn FnMut(&str)) -> Result<Reason> {
        let mut position = self.asked.context("there is nothing to reason about: no window was seen yet")?;
        let mut form = self.form()?;
        let generation = &self.facts.generation;
        let eos = generation.eos.clone();
        let penalty = self.decoding.repetition_penalty.unwrap_or(generation.repetition_penalty);
        let guarded = self.decoding.repetition_guard && form.is_none();
        let mut chooser = self.decoding.sampling.map(|sampling| Chooser::new(sampling, penalty));
        let open = |id| form.as_ref().is_none_or(|f| f.thinkable(id));
        self.decoder.begin_answer(&mut Pass::new(&mut self.backend, None), penalty, open);
        let (mut guard, mut characters) = (Guard::default(), Characters::default());
        let (mut text, mut pending, mut made) = (String::new(), Vec::new(), Vec::new());
        let most = self.max_new_tokens();
        let mut first = true;
        let stop = 'answer: loop {
            let left = most - made.len();
            if left == 0 {
                break Stop::MaxNewTokens;
            }
            let ids = match form.as_mut().map_or(Next::Choose { label: false }, |f| f.next(left)) {
                Next::Done => break Stop::EndOfText,
                Next::Forced(ids) => {
                    self.decoder.mark(&mut Pass::new(&mut self.backend, None), &ids, penalty);
                    ids
                }
                Next::Choose { label } => {
                    let likeliest = self.step(&mut pending, &mut position, first)?;
                    first = false;
                    let allowed = |id| form.as_ref().is_none_or(|f| f.allows(id));
                    let id = match &mut chooser {
                        _ if label => most_probable(self.logits()?, allowed),
                        Some(chooser) => chooser.choose(self.logits()?, allowed),
                        None => likeliest,
                    };
                    if form.is_none() && self.decoding.stop_at_end && eos.contains(&id) {
                        break Stop::EndOfText;
                    }
                    let mut ids = vec![id];
                    if let Some(form) = &mut form {
                        ids.extend(form.made(id));
                        let mut pass = Pass::new(&mut self.backend, None);
                        self.decoder.mark(&mut pass, &ids[1..], penalty);
                    }
                    ids
                }
            };
            for id in ids {
                if let Some(chooser) = &mut chooser {
                    chooser.made(id);
                }
                made.push(id);
                pending.push(id);
                let mut tell = |some: &str| {
                    text.push_str(some);
                    say(some);
                };
                characters.push(self.facts.vocabulary.piece(id), &mut tell);
                if guarded && guard.push(id) {
                    break 'answer Stop::Repetition;
                }
            }
        };
        characters.finish(&mut |some| {
            text.push_str(some);
            say(some);
        });
        let mut pass = Pass::new(&mut self.backend, self.observer.as_deref_mut());
        if pass.wants("tokens") {
            let ids: Vec<f32> = made.iter().map(|id| *id as f32).collect();
            pass.tap_host("tokens", 1, ids.len(), &ids);
        }
        let part = |tag: &str| between(&text, tag).map(str::to_owned);
        let (think, answer) = (part("think"), part("answer"));
        Ok(Reason { text: text.trim().to_owned(), think, answer, tokens: made.len(), stop })
    }

    fn set_decoding(&mut self, decoding: Decoding) -> Result<()> {
        if let Some(s) = &decoding.sampling {
            ensure!(
                s.temperature > 0.0 && s.temperature.is_finite(),
                "a temperature of {}; it must be above 0",
                s.temperature
            );
            ensure!(s.top_p > 0.0 && s.top_p <= 1.0, "a top-p of {}; it must be above 0, at most 1", s.top_p);
        }
        if let Some(penalty) = decoding.repetition_penalty {
            ensure!(
                penalty > 0.0 && penalty.is_finite(),
                "a repetition penalty of {penalty}; it must be above 0"
            );
        }
        let before = std::mem::replace(&mut self.decoding, decoding);
        if let Err(error) = self.form() {
            self.decoding = before;
            return Err(error);
        }
        Ok(())
    }

    fn set_audio_context(&mut self, context: AudioContext) -> Result<()> {
        let Self { backend, audio, scratch, .. } = self;
        (self.seen, self.asked) = (None, None);
        audio.set_context(&mut Pass::new(backend, None), scratch, context)
    }

    fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.observer = observer;
    }
}

impl Prompt {
    fn pieces(&self, seen: Seen) -> Result<&[Piece]> {
        let pieces = match (seen.video, seen.audio) {
            (true, true) => &self.video_audio,
            (true, false) => &self.video,
            (false, true) => &self.audio,
            (false, false) => bail!("a window without video and without audio"),
        };
        Ok(pieces)
    }
}

impl Facts {
    fn prompt(&self, name: &str) -> Result<&Prompt> {
        let names = || self.prompts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.prompts.iter().find(|p| p.name == name);
        found.with_context(|| format!("the bundle has no prompt `{name}`, only: {}", names()))
    }

    fn label_set(&self, name: &str) -> Result<&LabelSet> {
        Ok(&self.label_sets[self.label_set_at(name)?])
    }

    fn label_set_at(&self, name: &str) -> Result<usize> {
        let names = || self.label_sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.label_sets.iter().position(|s| s.name == name);
        found.with_context(|| format!("the bundle has no label set `{name}`, only: {}", names()))
    }

    /// Room for the longest prompt, and after it for the longest answer.
    fn limits(&self) -> Result<Limits> {
        let length = |pieces: &[Piece]| -> usize {
            let one = |piece: &Piece| match piece {
                Piece::Text(ids) => ids.len(),
                Piece::Video => self.shape.visual_tokens(),
                Piece::Audio => self.shape.audio_tokens(),
            };
            pieces.iter().map(one).sum()
        };
        let variants = self.prompts.iter().flat_map(|p| [&p.video_audio, &p.video, &p.audio]);
        let rows_max = variants.map(|v| length(v)).max().context("the bundle has no prompt")?;
        let scored = |s: &LabelSet| s.prefix.len() + s.tokens.iter().map(Vec::len).max().unwrap_or(0);
        let answer = self.label_sets.iter().map(scored).max().unwrap_or(0);
        let positions_max = rows_max + answer.max(self.generation.max_new_tokens);
        ensure!(
            positions_max <= self.shape.context,
            "a prompt of {rows_max} tokens and an answer of {} are more than the {} positions of the decoder",
            positions_max - rows_max,
            self.shape.context
        );
        let label_rows =
            self.label_sets.iter().flat_map(|s| s.tokens.iter().map(Vec::len)).max().unwrap_or(0);
        let picks_max = PICKS_MIN.max(label_rows);
        ensure!(picks_max <= rows_max, "a label of {label_rows} tokens is longer than every prompt");
        Ok(Limits { rows_max, positions_max, picks_max })
    }
}
