//! The pre-norm transformer that both towers are: `x += o(attend(ln1(x))); x += fc2(act(fc1(ln2(x))))`.

use crate::{
    backend::{Act, Backend, Heads},
    bundle::Stack,
    model::{
        pass::{Linear, Norm, Pass, Scratch, Sizes},
        weights::Loader,
    },
};
use anyhow::Result;

struct Layer<B: Backend> {
    /// `(hidden,)`
    ln1: Norm<B>,
    /// `(3 * hidden, hidden)`: queries, keys, values.
    qkv: Linear<B>,
    /// `(hidden, hidden)`
    o: Linear<B>,
    /// `(hidden,)`
    ln2: Norm<B>,
    /// `(ffn, hidden)`
    fc1: Linear<B>,
    /// `(hidden, ffn)`
    fc2: Linear<B>,
}

pub struct Tower<B: Backend> {
    layers: Vec<Layer<B>>,
    heads: Heads,
    act: Act,
}

/// What the rows of a tower attend to.
pub enum Reach<'a, B: Backend> {
    /// Their own run.
    Own,
    /// Their own run, whose keys and values are laid aside.
    Keep(&'a mut B::Kept),
    /// Their own run, and what was laid aside from their number on; so many keys in all.
    Beside(&'a B::Kept, usize),
}

impl<B: Backend> Tower<B> {
    /// Room for the keys and values of `rows` rows of every layer.
    pub fn kept(&self, backend: &B, rows: usize) -> Result<B::Kept> {
        backend.kept(self.layers.len(), self.heads, rows)
    }

    pub fn load(loader: &Loader<'_, B>, name: &str, stack: &Stack, act: Act) -> Result<Self> {
        let layer = |i: usize| -> Result<Layer<B>> {
            let at = |tail: &str| format!("{name}.{i}.{tail}");
            Ok(Layer {
                ln1: loader.norm(&at("ln1"), stack.eps)?,
                qkv: loader.fused(&[&at("attn_q"), &at("attn_k"), &at("attn_v")])?,
                o: loader.linear(&at("attn_o"))?,
                ln2: loader.norm(&at("ln2"), stack.eps)?,
                fc1: loader.linear(&at("fc1"))?,
                fc2: loader.linear(&at("fc2"))?,
            })
        };
        let heads = Heads { n_heads: stack.n_heads, n_kv_heads: stack.n_kv_heads, head_dim: stack.head_dim };
        Ok(Self { layers: (0..stack.layers).map(layer).collect::<Result<_>>()?, heads, act })
    }

    pub fn sizes(stack: &Stack, rows: usize) -> Sizes {
        let hidden = rows * stack.hidden;
        Sizes { normed: hidden, qkv: 3 * hidden, mixed: hidden, wide: rows * stack.ffn }
    }

    /// `x` is `(batch * rows, hidden)`, in place; attention stays inside each of the `batch` runs.
    pub fn run(
        &self,
        pass: &mut Pass<'_, B>,
        scratch: &mut Scratch<B>,
        x: &mut B::Buf,
        batch: usize,
        rows: usize,
        mut reach: Reach<'_, B>,
    ) {
        let all = batch * rows;
        for (i, layer) in self.layers.iter().enumerate() {
            layer.ln1.plain(pass, x, all, &mut scratch.normed);
            pass.linear(&scratch.normed, all, &layer.qkv, Act::None, &mut scratch.qkv);
            let (qkv, mixed) = (&scratch.qkv, &mut scratch.mixed);
            let keys = match &mut reach {
                Reach::Own => {
                    pass.backend.attend(qkv, batch, rows, self.heads, mixed);
                    rows
                }
                Reach::Keep(kept) => {
                    pass.backend.keep(qkv, kept, i);
                    pass.backend.attend(qkv, batch, rows, self.heads, mixed);
                    rows
                }
                Reach::Beside(kept, all) => {
                    pass.backend.attend_beside(qkv, rows, kept, i, mixed);
                    *all
                }
            };
            pass.count(4 * all * keys * self.heads.n_heads * self.heads.head_dim);
            pass.linear_add(&scratch.mixed, all, &layer.o, x);
            layer.ln2.plain(pass, x, all, &mut scratch.normed);
            pass.linear(&scratch.normed, all, &layer.fc1, self.act, &mut scratch.wide);
            pass.linear_add(&scratch.wide, all, &layer.fc2, x);
        }
    }
}
