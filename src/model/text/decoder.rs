//! The language model: rows of embeddings in, hidden rows and logits out, keys and values kept by position.
//!
//! Shapes: `x` is `(rows, hidden)`; a row of logits is `(vocab,)`.
//! Limits: `rows_max` rows at once, `positions_max` positions, `picks_max` rows of logits at once.

use crate::{
    backend::{Act, Backend, Heads},
    bundle::Stack,
    model::{
        observe::Cost,
        pass::{Linear, Pass, Scratch, Sizes},
        weights::{Loader, zeros},
    },
};
use anyhow::{Result, ensure};
use std::ops::Range;

/// Rows of a prompt that come out of the last layer. More than one: a single row may meet quantised weights less exactly than the rest
/// of its prompt (`backend::cuda`).
const LAST_ROWS: usize = 2;

struct Layer<B: Backend> {
    /// Gain `(hidden,)`.
    attn_norm: B::Buf,
    /// `(Heads::qkv, hidden)`
    qkv: Linear<B>,
    /// `(hidden, heads * head)`
    o: Linear<B>,
    /// Gain `(hidden,)`.
    ffn_norm: B::Buf,
    /// `(2 * ffn, hidden)`: gates, then values.
    gate_up: Linear<B>,
    /// `(hidden, ffn)`
    down: Linear<B>,
}

/// What a decoder is made of.
#[derive(Clone, Copy, Debug)]
pub struct Sizing<'a> {
    pub stack: &'a Stack,
    pub vocab: usize,
    pub rope_theta: f32,
    pub limits: Limits,
}

impl Sizing<'_> {
    pub fn heads(&self) -> Heads {
        let Stack { n_heads, n_kv_heads, head_dim, .. } = *self.stack;
        Heads { n_heads, n_kv_heads, head_dim }
    }

    pub fn scratch(&self) -> Sizes {
        let (rows, stack) = (self.limits.rows_max, self.stack);
        let hidden = rows * stack.hidden;
        Sizes { normed: hidden, qkv: rows * self.heads().qkv(), mixed: hidden, wide: rows * stack.ffn }
    }
}

/// What a decoder has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows at once.
    pub rows_max: usize,
    /// Positions of keys and values.
    pub positions_max: usize,
    /// Rows of logits at once.
    pub picks_max: usize,
}

/// Rows that follow one another: the next `rows` of `x` stand at `start ..`. Spans may share positions; each sees only itself and
/// what stood before its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub rows: usize,
    pub start: usize,
}

/// The row that a token is to follow.
pub enum After<'a, B: Backend> {
    Row(usize),
    Kept(&'a B::Buf),
}

pub struct Decoder<B: Backend> {
    /// `(vocab, hidden)`
    embed: Linear<B>,
    /// `(vocab, hidden)`, where it is not the embedding.
    head: Option<Linear<B>>,
    layers: Vec<Layer<B>>,
    /// Gain `(hidden,)`.
    norm: B::Buf,
    /// Keys and values of `positions_max` positions in every layer.
    cache: B::Cache,
    /// Room for those of an answer that waits.
    aside: Option<B::Cache>,
    /// What silence leaves at the positions of a prompt.
    silence: Option<B::Cache>,
    /// `(rows_max, hidden)`
    x: B::Buf,
    /// `(picks_max, Heads::qkv)` of one of many spans, or of the rows that leave the last layer.
    span_qkv: B::Buf,
    /// `(picks_max, hidden)`
    span_mixed: B::Buf,
    /// `(picks_max, hidden)`: rows whose logits are wanted.
    picked: B::Buf,
    /// `(picks_max, hidden)`
    picked_normed: B::Buf,
    /// `(picks_max, vocab)`
    logits: B::Buf,
    /// Rows of `logits` and the tokens after them whose likelihoods are wanted.
    picks: Vec<(u32, u32)>,
    /// `(picks_max,)`: log likelihoods of as many picks.
    likelihoods: B::Buf,
    /// `(vocab + 1,)`: the penalty of each token, and of the one that is chosen next (`Backend::highest`).
    penalties: B::Buf,
    /// `(1,)`: the token that was chosen.
    chosen: B::Buf,
    /// `(vocab,)`: one row of logits on the host.
    row: Vec<f32>,
    /// Of one step, without attention.
    step_cost: Cost,
    heads: Heads,
    hidden: usize,
    eps: f32,
    theta: f32,
    limits: Limits,
}

impl<B: Backend> Decoder<B> {
    pub fn load(loader: &Loader<'_, B>, sizing: Sizing<'_>) -> Result<Self> {
        let Sizing { stack, vocab, rope_theta: theta, limits } = sizing;
        let (backend, heads) = (loader.backend, sizing.heads());
        let layer = |i: usize| -> Result<Layer<B>> {
            let at = |tail: &str| format!("decoder.{i}.{tail}");
            Ok(Layer {
                attn_norm: loader.vector(&at("attn_norm.weight"))?,
                qkv: loader.fused(&[&at("attn_q"), &at("attn_k"), &at("attn_v")])?,
                o: loader.linear(&at("attn_o"))?,
                ffn_norm: loader.vector(&at("ffn_norm.weight"))?,
                gate_up: loader.fused(&[&at("ffn_gate"), &at("ffn_up")])?,
                down: loader.linear(&at("ffn_down"))?,
            })
        };
        let Limits { rows_max, positions_max, picks_max } = limits;
        let own_head = loader.bundle.has("decoder.head.weight");
        Ok(Self {
            embed: loader.linear("decoder.embed")?,
            head: if own_head { Some(loader.linear("decoder.head")?) } else { None },
            layers: (0..stack.layers).map(layer).collect::<Result<_>>()?,
            norm: loader.vector("decoder.norm.weight")?,
            cache: backend.cache(stack.layers, heads, positions_max)?,
            aside: None,
            silence: None,
            x: backend.alloc(rows_max * stack.hidden)?,
            span_qkv: backend.alloc(picks_max * heads.qkv())?,
            span_mixed: backend.alloc(picks_max * stack.hidden)?,
            picked: backend.alloc(picks_max * stack.hidden)?,
            picked_normed: backend.alloc(picks_max * stack.hidden)?,
            logits: backend.alloc(picks_max * vocab)?,
            picks: Vec::with_capacity(picks_max),
            likelihoods: backend.alloc(picks_max)?,
            penalties: backend.alloc(vocab + 1)?,
            chosen: backend.alloc(1)?,
            row: zeros(vocab)?,
            step_cost: Cost::default(),
            heads,
            hidden: stack.hidden,
            eps: stack.eps,
            theta,
            limits,
        })
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes the memory that [`Decoder::set_aside`] needs.
    pub fn make_room(&mut self, pass: &mut Pass<'_, B>) -> Result<()> {
        if self.aside.is_none() {
            let layers = self.layers.len();
            self.aside = Some(pass.backend.cache(layers, self.heads, self.limits.positions_max)?);
        }
        Ok(())
    }

    /// Lays keys and values aside, so that another prompt can be run. False where there is no room for them.
    pub fn set_aside(&mut self, pass: &mut Pass<'_, B>) -> bool {
        let Some(aside) = &mut self.aside else { return false };
        pass.backend.move_cache(&mut self.cache, aside);
        true
    }

    /// Takes back what was laid aside.
    pub fn take_back(&mut self, pass: &mut Pass<'_, B>) {
        let aside = self.aside.as_mut().expect("only what was laid aside is taken back");
        pass.backend.move_cache(aside, &mut self.cache);
    }

    /// Takes the memory that [`Decoder::keep_silence`] needs, or gives it back.
    pub fn make_room_for_silence(&mut self, pass: &mut Pass<'_, B>, wanted: bool) -> Result<()> {
        let (layers, rows_max) = (self.layers.len(), self.limits.rows_max);
        self.silence = match wanted {
            true => Some(pass.backend.cache(layers, self.heads, rows_max)?),
            false => None,
        };
        Ok(())
    }

    /// Keeps the keys and values of these positions.
    pub fn keep_silence(&mut self, pass: &mut Pass<'_, B>, positions: Range<usize>) {
        let silence = self.silence.as_mut().expect("room was made for silence");
        pass.backend.copy_positions(&self.cache, silence, positions);
    }

    /// Puts what was kept where it was.
    pub fn put_silence(&mut self, pass: &mut Pass<'_, B>, positions: Range<usize>) {
        let silence = self.silence.as_ref().expect("only what was kept is put back");
        pass.backend.copy_positions(silence, &mut self.cache, positions);
    }

    /// Embeddings of `ids` as the rows from `at`.
    pub fn embed(&mut self, pass: &mut Pass<'_, B>, ids: &[u32], at: usize) {
        assert!(at + ids.len() <= self.limits.rows_max, "row {} of {}", at + ids.len(), self.limits.rows_max);
        pass.backend.embed(ids, &self.embed.matrix, &mut self.x, at);
    }

    /// `rows` media tokens as the rows from `at`.
    pub fn place(&mut self, pass: &mut Pass<'_, B>, tokens: &B::Buf, rows: usize, at: usize) {
        assert!(at + rows <= self.limits.rows_max, "row {} of {}", at + rows, self.limits.rows_max);
        pass.backend.copy(tokens, 0, &mut self.x, at * self.hidden, rows * self.hidden);
    }

    pub fn tap_rows(&self, pass: &mut Pass<'_, B>, name: &str, rows: usize) -> Result<()> {
        pass.tap(name, &self.x, rows, self.hidden)
    }

    /// All layers over the rows that were put in; `x` holds the last layer's output afterwards.
    pub fn run(&mut self, pass: &mut Pass<'_, B>, scratch: &mut Scratch<B>, spans: &[Span]) -> Result<()> {
        let rows = spans.iter().map(|s| s.rows).sum();
        self.run_layers(pass, scratch, spans, rows)
    }

    /// As `run` where nobody asks for any row but the last: of the last layer the others leave their keys and values only. Returns where
    /// the last row is in `x` afterwards.
    pub fn run_for_last(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        span: Span,
    ) -> Result<usize> {
        let kept = span.rows.min(LAST_ROWS);
        self.run_layers(pass, scratch, &[span], kept)?;
        Ok(kept - 1)
    }

    /// `kept` is how many of the rows come out of the last layer: all, or the last few.
    fn run_layers(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        spans: &[Span],
        kept: usize,
    ) -> Result<()> {
        let mut rows: usize = spans.iter().map(|s| s.rows).sum();
        for s in spans {
            let end = s.start + s.rows;
            assert!(end <= self.limits.positions_max, "position {end} of {}", self.limits.positions_max);
        }
        let mut last_rows = pass.wants("llm_hidden_last").then(Vec::new);
        for i in 0..self.layers.len() {
            if let Some(seen) = &mut last_rows {
                self.read_row(pass, rows - 1, seen)?;
            }
            let layer = &self.layers[i];
            pass.backend.rms_norm(&self.x, rows, &layer.attn_norm, self.eps, &mut scratch.normed);
            pass.linear(&scratch.normed, rows, &layer.qkv, Act::None, &mut scratch.qkv);
            match spans {
                [span] if kept < rows && i + 1 == self.layers.len() => {
                    self.attend_last(pass, scratch, *span, kept, i);
                    rows = kept;
                }
                [span] => {
                    attend(pass, &mut scratch.qkv, *span, self.rope(i), &mut self.cache, &mut scratch.mixed)
                }
                _ => self.attend_spans(pass, scratch, spans, i),
            }
            let layer = &self.layers[i];
            pass.linear_add(&scratch.mixed, rows, &layer.o, &mut self.x);
            pass.backend.rms_norm(&self.x, rows, &layer.ffn_norm, self.eps, &mut scratch.normed);
            pass.linear_gated(&scratch.normed, rows, &layer.gate_up, &mut scratch.wide);
            pass.linear_add(&scratch.wide, rows, &layer.down, &mut self.x);
        }
        if let Some(mut seen) = last_rows {
            pass.backend.copy(&self.x, (rows - 1) * self.hidden, &mut self.picked, 0, self.hidden);
            pass.backend.rms_norm(&self.picked, 1, &self.norm, self.eps, &mut self.picked_normed);
            let at = seen.len();
            seen.resize(at + self.hidden, 0.0);
            pass.backend.read(&self.picked_normed, 0, &mut seen[at..])?;
            pass.tap_host("llm_hidden_last", self.layers.len() + 1, self.hidden, &seen);
        }
        Ok(())
    }

    /// Adds a row of `x` to those on the host.
    fn read_row(&self, pass: &mut Pass<'_, B>, row: usize, rows: &mut Vec<f32>) -> Result<()> {
        let at = rows.len();
        rows.resize(at + self.hidden, 0.0);
        pass.backend.read(&self.x, row * self.hidden, &mut rows[at..])
    }

    /// The last layer, of which only the last `kept` rows come out; the others leave their keys and values. Moves the kept rows of `x` to
    /// its start.
    fn attend_last(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        span: Span,
        kept: usize,
        layer: usize,
    ) {
        let (hidden, heads, cache) = (self.hidden, self.heads, &mut self.cache);
        let (first, width) = (span.rows - kept, self.heads.qkv());
        let start = span.start + first;
        pass.backend.rope_store(&mut scratch.qkv, span.rows, span.start, self.theta, heads, cache, layer);
        pass.backend.copy(&scratch.qkv, first * width, &mut self.span_qkv, 0, kept * width);
        pass.backend.copy(&self.x, first * hidden, &mut self.picked, 0, kept * hidden);
        pass.backend.copy(&self.picked, 0, &mut self.x, 0, kept * hidden);
        pass.count(attention_operations(kept, start, heads));
        pass.backend.attend_cached(&self.span_qkv, kept, start, heads, cache, layer, &mut scratch.mixed);
    }

    /// Each span over itself and what stood before its start.
    fn attend_spans(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        spans: &[Span],
        layer: usize,
    ) {
        let (hidden, width) = (self.hidden, self.heads.qkv());
        let mut at = 0;
        for span in spans {
            assert!(span.rows <= self.limits.picks_max, "{} rows in one of many spans", span.rows);
            let rope = self.rope(layer);
            pass.backend.copy(&scratch.qkv, at * width, &mut self.span_qkv, 0, span.rows * width);
            attend(pass, &mut self.span_qkv, *span, rope, &mut self.cache, &mut self.span_mixed);
            pass.backend.copy(&self.span_mixed, 0, &mut scratch.mixed, at * hidden, span.rows * hidden);
            at += span.rows;
        }
    }

    fn rope(&self, layer: usize) -> Rope {
        Rope { theta: self.theta, heads: self.heads, layer }
    }

    /// The log likelihood of a token in the one row that was asked for last.
    pub fn latest_likelihood(&mut self, pass: &mut Pass<'_, B>, id: u32) -> Result<f32> {
        self.picks.clear();
        self.picks.push((0, id));
        let mut found = 0.0;
        self.read_likelihoods(pass, |_, log| found = log)?;
        Ok(found)
    }

    /// Copies a row out, to ask for its logits later.
    pub fn keep_row(&self, pass: &mut Pass<'_, B>, row: usize, kept: &mut B::Buf) {
        pass.backend.copy(&self.x, row * self.hidden, kept, 0, self.hidden);
    }

    /// One kept row over another.
    pub fn copy_row(&self, pass: &mut Pass<'_, B>, from: &B::Buf, to: &mut B::Buf) {
        pass.backend.copy(from, 0, to, 0, self.hidden);
    }

    /// Log likelihoods of `ids` as the next token after one row: of those that were put in, or the one that was kept.
    pub fn likelihoods_after(
        &mut self,
        pass: &mut Pass<'_, B>,
        row: After<'_, B>,
        ids: impl Iterator<Item = u32>,
        each: impl FnMut(usize, f32),
    ) -> Result<()> {
        let (from, at) = match row {
            After::Row(row) => (&self.x, row * self.hidden),
            After::Kept(kept) => (kept, 0),
        };
        pass.backend.copy(from, at, &mut self.picked, 0, self.hidden);
        self.project(pass, 1);
        self.picks.clear();
        self.picks.extend(ids.map(|id| (0, id)));
        self.read_likelihoods(pass, each)
    }

    fn read_likelihoods(&mut self, pass: &mut Pass<'_, B>, mut each: impl FnMut(usize, f32)) -> Result<()> {
        let (vocab, most) = (self.row.len(), self.limits.picks_max);
        for (at, picks) in self.picks.chunks(most).enumerate() {
            pass.backend.log_likelihoods(&self.logits, vocab, picks, &mut self.likelihoods);
            let logs = &mut self.row[..picks.len()];
            pass.backend.read(&self.likelihoods, 0, logs)?;
            logs.iter().zip(at * most..).for_each(|(log, i)| each(i, *log));
        }
        Ok(())
    }

    /// Logits of the one row that was asked for last.
    pub fn latest_logits(&mut self, pass: &mut Pass<'_, B>) -> Result<&[f32]> {
        pass.backend.read(&self.logits, 0, &mut self.row)?;
        Ok(&self.row)
    }

    /// From here on only `open` tokens are chosen, and those that were made before take the penalty.
    pub fn begin_answer(&mut self, pass: &mut Pass<'_, B>, penalty: f32, open: impl Fn(u32) -> bool) {
        let none: Vec<f32> = (0..self.row.len() as u32).map(|id| f32::from(u8::from(open(id)))).collect();
        pass.backend.write(&none, &mut self.penalties, 0);
        pass.backend.write(&[penalty], &mut self.penalties, none.len());
    }

    /// Penalises tokens that were made without being chosen.
    pub fn penalise(&mut self, pass: &mut Pass<'_, B>, ids: &[u32], penalty: f32) {
        for id in ids {
            pass.backend.write(&[penalty], &mut self.penalties, *id as usize);
        }
    }

    /// The likeliest open token after a row that was kept.
    pub fn choose(&mut self, pass: &mut Pass<'_, B>, kept: &B::Buf) -> Result<u32> {
        pass.backend.copy(kept, 0, &mut self.picked, 0, self.hidden);
        self.project(pass, 1);
        self.find_highest(pass);
        self.chosen(pass)
    }

    fn find_highest(&mut self, pass: &mut Pass<'_, B>) {
        pass.backend.highest(&self.logits, self.row.len(), &mut self.penalties, &mut self.chosen);
    }

    fn chosen(&self, pass: &mut Pass<'_, B>) -> Result<u32> {
        let mut place = [0.0];
        pass.backend.read(&self.chosen, 0, &mut place)?;
        ensure!((place[0] as usize) < self.row.len(), "no token can be chosen: no logit is a number");
        Ok(place[0] as u32)
    }

    /// One more token: all layers over it, and the likeliest open token after it. A step that the backend may record.
    pub fn step(
        &mut self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        id: u32,
        position: usize,
    ) -> Result<u32> {
        let mut ran = None;
        pass.backend.repeat(id, position, &mut |backend| {
            let mut pass = Pass::new(backend, None);
            self.embed(&mut pass, &[id], 0);
            let done = self.run(&mut pass, scratch, &[Span { rows: 1, start: position }]);
            pass.backend.rms_norm(&self.x, 1, &self.norm, self.eps, &mut self.picked_normed);
            self.head(&mut pass, 1);
            self.find_highest(&mut pass);
            ran = Some((done, pass.cost()));
        });
        // What attention costs grows with the position; the rest is the same in every step.
        let attention = self.layers.len() * attention_operations(1, position, self.heads);
        if let Some((done, cost)) = ran {
            done?;
            self.step_cost = Cost { operations: cost.operations - attention as u64, ..cost };
        }
        pass.add(self.step_cost);
        pass.count(attention);
        self.chosen(pass)
    }

    /// Log likelihoods of one token after each of the rows `first ..`.
    pub fn likelihoods(
        &mut self,
        pass: &mut Pass<'_, B>,
        first: usize,
        ids: impl ExactSizeIterator<Item = u32>,
        mut each: impl FnMut(usize, f32),
    ) -> Result<()> {
        let (rows, mut ids, mut done) = (ids.len(), ids, 0);
        while done < rows {
            let some = (rows - done).min(self.limits.picks_max);
            let from = (first + done) * self.hidden;
            pass.backend.copy(&self.x, from, &mut self.picked, 0, some * self.hidden);
            self.project(pass, some);
            self.picks.clear();
            self.picks.extend((0..some as u32).zip(ids.by_ref()));
            self.read_likelihoods(pass, |i, log| each(done + i, log))?;
            done += some;
        }
        Ok(())
    }

    /// Logits of the first rows of `picked`.
    fn project(&mut self, pass: &mut Pass<'_, B>, rows: usize) {
        pass.backend.rms_norm(&self.picked, rows, &self.norm, self.eps, &mut self.picked_normed);
        self.head(pass, rows);
    }

    /// Logits of the first rows of `picked_normed`.
    fn head(&mut self, pass: &mut Pass<'_, B>, rows: usize) {
        let head = self.head.as_ref().unwrap_or(&self.embed);
        pass.linear(&self.picked_normed, rows, head, Act::None, &mut self.logits);
    }

    /// What the last `run` wrote into, to wait for.
    pub fn result(&self) -> &B::Buf {
        &self.x
    }
}

/// Of `rows` rows from position `start`, each over what stands up to it, in one layer.
fn attention_operations(rows: usize, start: usize, heads: Heads) -> usize {
    let seen = rows * start + rows * (rows + 1) / 2;
    4 * seen * heads.n_heads * heads.head_dim
}

/// Where and how positions are rotated and stored.
#[derive(Clone, Copy)]
struct Rope {
    theta: f32,
    heads: Heads,
    layer: usize,
}

fn attend<B: Backend>(
    pass: &mut Pass<'_, B>,
    qkv: &mut B::Buf,
    Span { rows, start }: Span,
    Rope { theta, heads, layer }: Rope,
    cache: &mut B::Cache,
    out: &mut B::Buf,
) {
    pass.count(attention_operations(rows, start, heads));
    pass.backend.attend_next(qkv, rows, start, theta, heads, cache, layer, out);
}
