//! One decoder layer over one token, op by op.

use super::{tensor, weights};
use mien::{
    backend::{Act, Backend, Heads},
    bundle::Kind,
};

pub struct Layer<B: Backend> {
    embed: B::Matrix,
    qkv: B::Matrix,
    o: B::Matrix,
    gate_up: B::Matrix,
    down: B::Matrix,
    gain: B::Buf,
    cache: B::Cache,
    pub x: B::Buf,
    normed: B::Buf,
    mixed: B::Buf,
    wide: B::Buf,
}

const LAYER: Heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 32 };

impl<B: Backend> Layer<B> {
    pub fn new(b: &B) -> Self {
        let matrix = |rows, cols, seed| {
            let (bytes, _) = weights(Kind::Q8_0, rows, cols, seed);
            b.matrix(&[tensor(Kind::Q8_0, rows, cols, &bytes)]).unwrap()
        };
        Self {
            embed: matrix(20, 128, 121),
            qkv: matrix(LAYER.qkv(), 128, 122),
            o: matrix(128, 128, 123),
            gate_up: matrix(2 * 96, 128, 124),
            down: matrix(128, 96, 125),
            gain: b.vector(&vec![0.05; 128]).unwrap(),
            cache: b.cache(1, LAYER, 600).unwrap(),
            x: b.alloc(128).unwrap(),
            normed: b.alloc(128).unwrap(),
            mixed: b.alloc(128).unwrap(),
            wide: b.alloc(LAYER.qkv()).unwrap(),
        }
    }

    pub fn run(&mut self, b: &mut B, token: u32, position: usize, at_once: bool) {
        b.embed(&[token], &self.embed, &mut self.x, 0);
        b.rms_norm(&self.x, 1, &self.gain, 1e-6, &mut self.normed);
        b.linear(&self.normed, 1, &self.qkv, None, Act::None, &mut self.wide);
        let (qkv, cache, mixed) = (&mut self.wide, &mut self.cache, &mut self.mixed);
        if at_once {
            b.attend_next(qkv, 1, position, 1e4, LAYER, cache, 0, mixed);
        } else {
            b.rope_store(qkv, 1, position, 1e4, LAYER, cache, 0);
            b.attend_cached(qkv, 1, position, LAYER, cache, 0, mixed);
        }
        b.linear_add(&self.mixed, 1, &self.o, None, &mut self.x);
        b.rms_norm(&self.x, 1, &self.gain, 1e-6, &mut self.normed);
        b.linear_gated(&self.normed, 1, &self.gate_up, &mut self.wide);
        b.linear_add(&self.wide, 1, &self.down, None, &mut self.x);
    }
}
