//! A loaded model before a scene that changes: other frames and other sound in every window.

use super::{args::Args, meter::Meter};
#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
use crate::{
    backend::{
        Backend, Ceilings,
        cpu::{Cpu, Precision},
    },
    bundle::{Bundle, Kind, Recipe},
    model::{AudioContext, Decoding, Infer, Input, Model, Taps},
    source::Frame,
};
use anyhow::{Context, Result};
use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicU64},
};

/// Pictures and sound that no window had before.
struct Scene {
    pub next: u64,
    pub frames: Vec<(u64, Frame)>,
    pub samples: Vec<f32>,
}

const SIDE: u32 = 224;
const SAMPLES: usize = 4 * 16_000;

impl Scene {
    fn frame(&mut self) -> (u64, Frame) {
        self.next += 1;
        let mut state = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let rgb = (0..SIDE * SIDE * 3).map(|_| noise(&mut state) as u8).collect();
        (self.next, Frame { captured_ns: 0, height: SIDE, width: SIDE, rgb })
    }

    fn turn(&mut self, frames: usize) {
        self.frames.drain(..frames.min(self.frames.len()));
        for _ in 0..frames {
            let frame = self.frame();
            self.frames.push(frame);
        }
        let mut state = self.next.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
        self.samples = (0..SAMPLES).map(|_| (noise(&mut state) % 2001) as f32 / 10_000.0 - 0.1).collect();
    }
}

/// A device with ceilings of its own.
pub trait Measured: Backend + Sized {
    fn open(args: &Args, quant: Kind) -> Result<Self>;
    fn launches(&self) -> Arc<AtomicU64>;
    /// On a device that was opened for this.
    fn ceilings(&mut self) -> Result<Ceilings>;
    /// Operations a second that products with weights of this kind can reach at most.
    fn product_ceiling(ceilings: &Ceilings, quant: Kind) -> f64;
}

impl Measured for Cpu {
    fn open(args: &Args, quant: Kind) -> Result<Cpu> {
        Cpu::new(args.threads, Precision::of(quant))
    }

    fn launches(&self) -> Arc<AtomicU64> {
        self.launches()
    }

    fn ceilings(&mut self) -> Result<Ceilings> {
        Cpu::ceilings(self)
    }

    fn product_ceiling(ceilings: &Ceilings, quant: Kind) -> f64 {
        match quant {
            Kind::Q8_0 | Kind::Q4_0 => ceilings.int8_per_s,
            Kind::F32 | Kind::F16 => ceilings.f32_per_s,
        }
    }
}

#[cfg(feature = "cuda")]
impl Measured for Cuda {
    fn open(_: &Args, quant: Kind) -> Result<Cuda> {
        Cuda::open(quant, Default::default())
    }

    fn launches(&self) -> Arc<AtomicU64> {
        self.launches()
    }

    fn ceilings(&mut self) -> Result<Ceilings> {
        Cuda::ceilings(self)
    }

    fn product_ceiling(ceilings: &Ceilings, quant: Kind) -> f64 {
        match quant {
            Kind::F32 => ceilings.f32_per_s,
            Kind::F16 | Kind::Q8_0 | Kind::Q4_0 => ceilings.f16_per_s,
        }
    }
}

/// A loaded model before a changing scene, with a meter on its stages.
pub struct Bench<'a, B: Measured> {
    pub model: Model<B>,
    pub args: &'a Args,
    pub meter: Meter,
    scene: Scene,
    pub prompt: String,
    pub labels: String,
    pub frames: usize,
    pub quant: Recipe,
    pub samples_max: usize,
}

impl<'a, B: Measured> Bench<'a, B> {
    pub fn load(args: &'a Args, bundle: &Bundle) -> Result<Self> {
        let quant = bundle.header().quant;
        let prompt = bundle.prompts().iter().find(|p| p.name == "reason").or(bundle.prompts().first());
        let prompt = prompt.context("the bundle has no prompt")?.name.clone();
        let labels = bundle.label_sets().first().context("the bundle has no label set")?.name.clone();
        let device = B::open(args, quant.products())?;
        let meter = Meter::new(device.launches());
        let mut model = Model::load(device, bundle)?;
        model.observe(Some(Box::new(meter.clone())));
        model.set_decoding(Decoding {
            max_new_tokens: Some(args.tokens),
            repetition_guard: false,
            stop_at_end: false,
            ..Decoding::default()
        })?;
        model.set_audio_context(args.audio_context)?;
        let scene = Scene { next: 0, frames: Vec::new(), samples: Vec::new() };
        let frames = bundle.shape().frames;
        let samples_max = bundle.shape().samples_max();
        Ok(Bench { model, args, meter, scene, prompt, labels, frames, quant, samples_max })
    }

    /// The scores of a window with `fresh` new frames and new sound.
    pub fn label(&mut self, fresh: usize) -> Result<()> {
        self.scene.turn(fresh);
        let frames: Vec<(u64, &Frame)> = self.scene.frames.iter().map(|(id, frame)| (*id, frame)).collect();
        self.model.see(
            &self.prompt,
            &Input { frames: Some(&frames), samples: Some(&self.scene.samples), words: None },
        )?;
        self.model.score(&self.labels).map(drop)
    }

    pub fn encode_frames(&mut self) -> Result<()> {
        self.scene.turn(self.frames);
        let frames: Vec<(u64, &Frame)> = self.scene.frames.iter().map(|(id, frame)| (*id, frame)).collect();
        self.model.encode(&Input { frames: Some(&frames), samples: None, words: None })
    }

    pub fn encode_sound(&mut self) -> Result<()> {
        self.scene.turn(0);
        self.model.encode(&Input { frames: None, samples: Some(&self.scene.samples), words: None })
    }

    /// A reason for what was seen last; how many tokens it has.
    pub fn reason(&mut self) -> Result<usize> {
        Ok(self.model.reason(&mut |_| ())?.tokens)
    }

    /// How far a short context is from the whole one, on a window that nobody saw before.
    pub fn error_of(&mut self, short: AudioContext) -> Result<Vec<(&'static str, f64)>> {
        let taps = Taps::of(["audio_tokens"]);
        self.model.observe(Some(Box::new(taps.clone())));
        let mut seen = Vec::new();
        for (context, fresh) in [(AudioContext::Whole, self.frames), (short, 0)] {
            self.model.set_audio_context(context)?;
            self.label(fresh)?;
            let tokens = taps.take().pop().context("the model has no audio tokens")?;
            seen.push((tokens, self.model.score(&self.labels)?.probabilities.clone()));
        }
        self.model.observe(Some(Box::new(self.meter.clone())));
        let [(whole, exact), (speech, near)] = &seen[..] else { unreachable!("two contexts") };
        let heard = (whole.rows * SAMPLES / self.samples_max).min(whole.rows) * whole.cols;
        let off = |range: Range<usize>| {
            let squares = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>();
            let (a, b) = (&whole.values[range.clone()], &speech.values[range]);
            let apart = squares(&mut a.iter().zip(b).map(|(a, b)| a - b));
            (apart / squares(&mut a.iter().copied()).max(f64::MIN_POSITIVE)).sqrt()
        };
        let score = exact.iter().zip(near).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        Ok(vec![
            ("tokens_of_sound", off(0..heard)),
            ("tokens_of_silence", off(heard..whole.values.len())),
            ("score", score),
        ])
    }

    pub fn ceilings(&self) -> Result<Ceilings> {
        B::open(self.args, self.quant.products())?.ceilings()
    }
}

fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}
