//! The language model: rows of embeddings in, hidden rows and logits out, keys and values kept by position.
//!
//! Shapes: `x` is `(rows, hidden)`; a row of logits is `(vocab,)`.
//! Limits: `rows_max` rows at once, `positions_max` positions, `picks_max` rows of logits at once.

use crate::{
    backend::{Act, Backend, Heads},
    bundle::Shape,
    model::{
        observe::{Cost, Pass},
        weights::{Linear, Loader, Scratch, Sizes},
    },
};
use anyhow::{Result, ensure};

/// Rows of a prompt that come out of the last layer. More than one: a single row may meet quantised weights less exactly than the rest
/// of its prompt (`backend::cuda`).
const LAST_ROWS: usize = 2;

struct Layer<B: Backend> {
    attn_norm: B::Buf,
    qkv: Linear<B>,
    o: Linear<B>,
    ffn_norm: B::Buf,
    gate_up: Linear<B>,
    down: Linear<B>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub rows_max: usize,
    pub positions_max: usize,
    pub picks_max: usize,
}

/// Rows that follow one another: the next `rows` of `x` stand at `start ..`. Spans may share positions; each sees only itself and
/// what stood before its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub rows: usize,
    pub start: usize,
}

pub struct Decoder<B: Backend> {
    embed: Linear<B>,
    head: Option<Linear<B>>,
    layers: Vec<Layer<B>>,
    norm: B::Buf,
    cache: B::Cache,
    x: B::Buf,
    span_qkv: B::Buf,
    span_mixed: B::Buf,
    picked: B::Buf,
    picked_normed: B::Buf,
    logits: B::Buf,
    /// What meets each token's logit before it is chosen (`Backend::highest`), and the token that was.
    marks: B::Buf,
    chosen: B::Buf,
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
    pub fn load(loader: &Loader<'_, B>, shape: &Shape, limits: Limits) -> Result<Self> {
        let (stack, backend) = (&shape.decoder, loader.backend);
        let heads = Heads { n_heads: stack.n_heads, n_kv_heads: stack.n_kv_heads, head_dim: stack.head_dim };
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
            x: backend.alloc(rows_max * stack.hidden)?,
            span_qkv: backend.alloc(picks_max * heads.qkv())?,
            span_mixed: backend.alloc(picks_max * stack.hidden)?,
            picked: backend.alloc(picks_max * stack.hidden)?,
            picked_normed: backend.alloc(picks_max * stack.hidden)?,
            logits: backend.alloc(picks_max * shape.vocab)?,
            marks: backend.alloc(shape.vocab + 1)?,
            chosen: backend.alloc(1)?,
            row: vec![0.0; shape.vocab],
            step_cost: Cost::default(),
            heads,
            hidden: stack.hidden,
            eps: stack.eps,
            theta: shape.rope_theta,
            limits,
        })
    }

    pub fn sizes(shape: &Shape, limits: Limits) -> Sizes {
        let (rows, stack) = (limits.rows_max, &shape.decoder);
        let kv = stack.n_kv_heads * stack.head_dim;
        let hidden = rows * stack.hidden;
        Sizes { normed: hidden, qkv: hidden + 2 * rows * kv, mixed: hidden, wide: rows * stack.ffn }
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
        let (hidden, heads) = (self.hidden, self.heads);
        for s in spans {
            let end = s.start + s.rows;
            assert!(end <= self.limits.positions_max, "position {end} of {}", self.limits.positions_max);
        }
        let mut last_rows = pass.wants("llm_hidden_last").then(Vec::new);
        for (i, layer) in self.layers.iter().enumerate() {
            if let Some(seen) = &mut last_rows {
                seen.resize((i + 1) * hidden, 0.0);
                pass.backend.read(&self.x, (rows - 1) * hidden, &mut seen[i * hidden..])?;
            }
            pass.backend.rms_norm(&self.x, rows, &layer.attn_norm, self.eps, &mut scratch.normed);
            pass.linear(&scratch.normed, rows, &layer.qkv, Act::None, &mut scratch.qkv);
            match spans {
                [span] if kept < rows && i + 1 == self.layers.len() => {
                    let (cache, first, width) = (&mut self.cache, rows - kept, heads.qkv());
                    pass.backend.rope_store(&mut scratch.qkv, rows, span.start, self.theta, heads, cache, i);
                    pass.backend.copy(&scratch.qkv, first * width, &mut self.span_qkv, 0, kept * width);
                    pass.backend.copy(&self.x, first * hidden, &mut self.picked, 0, kept * hidden);
                    pass.backend.copy(&self.picked, 0, &mut self.x, 0, kept * hidden);
                    let start = span.start + first;
                    pass.count(attention_operations(kept, start, heads));
                    let (qkv, mixed) = (&self.span_qkv, &mut scratch.mixed);
                    pass.backend.attend_cached(qkv, kept, start, heads, cache, i, mixed);
                    rows = kept;
                }
                [span] => attend(
                    pass,
                    &mut scratch.qkv,
                    *span,
                    self.theta,
                    heads,
                    &mut self.cache,
                    i,
                    &mut scratch.mixed,
                ),
                _ => {
                    let mut at = 0;
                    for span in spans {
                        let (width, len) = (heads.qkv(), span.rows * hidden);
                        assert!(
                            span.rows <= self.limits.picks_max,
                            "{} rows in one of many spans",
                            span.rows
                        );
                        let qkv = &mut self.span_qkv;
                        pass.backend.copy(&scratch.qkv, at * width, qkv, 0, span.rows * width);
                        let (cache, mixed) = (&mut self.cache, &mut self.span_mixed);
                        attend(pass, qkv, *span, self.theta, heads, cache, i, mixed);
                        pass.backend.copy(mixed, 0, &mut scratch.mixed, at * hidden, len);
                        at += span.rows;
                    }
                }
            }
            pass.linear_add(&scratch.mixed, rows, &layer.o, &mut self.x);
            pass.backend.rms_norm(&self.x, rows, &layer.ffn_norm, self.eps, &mut scratch.normed);
            pass.linear_gated(&scratch.normed, rows, &layer.gate_up, &mut scratch.wide);
            pass.linear_add(&scratch.wide, rows, &layer.down, &mut self.x);
        }
        if let Some(mut seen) = last_rows {
            let at = seen.len();
            seen.resize(at + hidden, 0.0);
            pass.backend.copy(&self.x, (rows - 1) * hidden, &mut self.picked, 0, hidden);
            pass.backend.rms_norm(&self.picked, 1, &self.norm, self.eps, &mut self.picked_normed);
            pass.backend.read(&self.picked_normed, 0, &mut seen[at..])?;
            pass.tap_host("llm_hidden_last", self.layers.len() + 1, hidden, &seen);
        }
        Ok(())
    }

    /// Copies a row out, to ask for its logits later.
    pub fn keep_row(&self, pass: &mut Pass<'_, B>, row: usize, kept: &mut B::Buf) {
        pass.backend.copy(&self.x, row * self.hidden, kept, 0, self.hidden);
    }

    /// Logits of a row that was kept.
    pub fn logits_of(&mut self, pass: &mut Pass<'_, B>, kept: &B::Buf) -> Result<&[f32]> {
        pass.backend.copy(kept, 0, &mut self.picked, 0, self.hidden);
        self.project(pass, 1);
        self.latest_logits(pass)
    }

    /// Logits of the one row that was asked for last.
    pub fn latest_logits(&mut self, pass: &mut Pass<'_, B>) -> Result<&[f32]> {
        pass.backend.read(&self.logits, 0, &mut self.row)?;
        Ok(&self.row)
    }

    /// From here on only `open` tokens are chosen; those that were made are met by the penalty.
    pub fn begin_answer(&mut self, pass: &mut Pass<'_, B>, penalty: f32, open: impl Fn(u32) -> bool) {
        let marks: Vec<f32> = (0..self.row.len() as u32).map(|id| f32::from(u8::from(open(id)))).collect();
        pass.backend.write(&marks, &mut self.marks, 0);
        pass.backend.write(&[penalty], &mut self.marks, marks.len());
    }

    /// Tokens that were made without being chosen.
    pub fn mark(&mut self, pass: &mut Pass<'_, B>, ids: &[u32], penalty: f32) {
        for id in ids {
            pass.backend.write(&[penalty], &mut self.marks, *id as usize);
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
        pass.backend.highest(&self.logits, self.row.len(), &mut self.marks, &mut self.chosen);
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

    /// Logits of the rows `first .. first + rows`, one after the other.
    pub fn logits(
        &mut self,
        pass: &mut Pass<'_, B>,
        first: usize,
        rows: usize,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let mut done = 0;
        while done < rows {
            let some = (rows - done).min(self.limits.picks_max);
            let from = (first + done) * self.hidden;
            pass.backend.copy(&self.x, from, &mut self.picked, 0, some * self.hidden);
            self.project(pass, some);
            for i in 0..some {
                pass.backend.read(&self.logits, i * self.row.len(), &mut self.row)?;
                each(done + i, &self.row);
            }
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

    /// What the last of `run` and `logits` wrote into, to wait for.
    pub fn result(&self) -> &B::Buf {
        &self.x
    }
}

/// Of `rows` rows from position `start`, each over what stands up to it, in one layer.
fn attention_operations(rows: usize, start: usize, heads: Heads) -> usize {
    let seen = rows * start + rows * (rows + 1) / 2;
    4 * seen * heads.n_heads * heads.head_dim
}

#[allow(clippy::too_many_arguments)]
fn attend<B: Backend>(
    pass: &mut Pass<'_, B>,
    qkv: &mut B::Buf,
    span: Span,
    theta: f32,
    heads: Heads,
    cache: &mut B::Cache,
    layer: usize,
    out: &mut B::Buf,
) {
    let Span { rows, start } = span;
    pass.count(attention_operations(rows, start, heads));
    pass.backend.attend_next(qkv, rows, start, theta, heads, cache, layer, out);
}
