//! R1-Omni loaded: towers, branches and a decoder over one backend, and what was last seen.
//!
//! Invariant: nothing is encoded twice. Frame features live as long as their frame is in the window, media tokens until the next
//! `see`.

use crate::{
    backend::{Backend, Halt},
    bundle::{Bundle, Encoder, LabelSet, Piece, Prompt, Shape, WORDS_MAX},
    model::{
        infer::{Infer, Input, Reason, Scores},
        observe::Observer,
        omni::{audio::Audio, ear::AudioContext, fusion::Fusion, vision::Vision},
        pass::{Pass, Scratch},
        text::{
            decoder::{Limits, Sizing},
            generate::Decoding,
            session::{Language, Part, Session},
        },
        weights::Loader,
    },
    source::Frame,
};
use anyhow::{Context, Result, bail, ensure};
use zeroize::Zeroize;

/// Rows of logits at once.
const PICKS_MIN: usize = 16;

pub struct Model<B: Backend> {
    backend: B,
    vision: Vision<B>,
    audio: Audio<B>,
    fusion: Fusion<B>,
    session: Session<B>,
    scratch: Scratch<B>,
    shape: Shape,
    prompts: Vec<Prompt>,
    limits: Limits,
    observer: Option<Box<dyn Observer>>,
    seen: Option<Seen>,
    /// Where a prompt has a place for what is said.
    encoder: Option<Encoder>,
    /// What was said, as tokens.
    said: Vec<u32>,
    /// Silence in the decoder, where it is not run ([`AudioContext::Brief`]).
    silence: Option<Silence>,
    halt: Halt,
}

/// What is kept of silence in the decoder.
#[derive(Clone, Debug, Default)]
struct Silence {
    /// Of this prompt; empty: of none yet.
    prompt: String,
    /// Where its sound begins.
    start: usize,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    video: bool,
    audio: bool,
}

impl<B: Backend> Model<B> {
    pub fn load(backend: B, bundle: &Bundle) -> Result<Self> {
        let shape = bundle.shape().clone();
        let limits = limits(bundle)?;
        let decoder = sizing(&shape, limits);
        let sizes = Vision::<B>::sizes(&shape)
            .max(Audio::<B>::sizes(&shape))
            .max(Fusion::<B>::sizes(&shape))
            .max(decoder.scratch());
        let loader = Loader { backend: &backend, bundle };
        let language = Language {
            label_sets: bundle.label_sets().to_vec(),
            generation: bundle.generation().clone(),
            marks: bundle.marks().clone(),
            vocabulary: bundle.vocabulary().clone(),
        };
        Ok(Self {
            vision: Vision::load(&loader, &shape)?,
            audio: Audio::load(&loader, &shape)?,
            fusion: Fusion::load(&loader, &shape)?,
            session: Session::load(&loader, decoder, language)?,
            scratch: Scratch::new(&backend, sizes)?,
            backend,
            limits,
            prompts: bundle.prompts().to_vec(),
            shape,
            observer: None,
            seen: None,
            encoder: asks_for_words(bundle).then(|| Encoder::new(bundle.vocabulary())),
            said: Vec::with_capacity(WORDS_MAX),
            silence: None,
            halt: Halt::default(),
        })
    }

    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Forgets the text before the first modality, so that the next prompt is prefilled from its first position.
    pub fn forget_prefix(&mut self) {
        self.session.forget_prefix();
    }

    /// Encodes what the input holds in place of what was seen of it before; the next `ask` is about it.
    pub fn encode(&mut self, input: &Input<'_>) -> Result<()> {
        self.check(input)?;
        self.encode_checked(input)
    }

    fn encode_checked(&mut self, input: &Input<'_>) -> Result<()> {
        let encoded = self.encode_parts(input);
        if encoded.is_err() || self.halt.raised() {
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

    /// Prefills a prompt over what was seen. `brief`: tokens of silence are not run where they stand already.
    fn prefill(&mut self, prompt: &str, brief: bool) -> Result<()> {
        self.session.forget();
        let seen = self.seen.context("there is nothing to ask about: no window was seen yet")?;
        let Self {
            backend, session, scratch, observer, fusion, audio, prompts, shape, said, silence, ..
        } = self;
        let prompt = named(prompts, prompt)?;
        let pieces = pieces(prompt, seen)?;
        let stands = |silence: &Silence| {
            silence.prompt == prompt.name && silence.start == start_of_sound(pieces, said.len(), shape)
        };
        let fresh = match brief && silence.as_ref().is_some_and(stands) {
            true => audio.fresh,
            false => shape.audio_tokens(),
        };
        let mut pass = Pass::new(backend, observer.as_deref_mut());
        pass.begin("prefill");
        if seen.video {
            pass.tap_host("gate_weights", 1, 3, &prompt.gate);
            fusion.mix(&mut pass, prompt.gate)?;
        }
        let silent = shape.audio_tokens() - fresh;
        let there = pieces.iter().filter(|piece| **piece != Piece::Words || !said.is_empty());
        let parts = there.flat_map(|piece| match piece {
            Piece::Text(ids) => [Some(Part::Text(ids)), None],
            Piece::Video => [Some(Part::Rows(&fusion.tokens, shape.visual_tokens())), None],
            Piece::Audio => {
                [Some(Part::Rows(&audio.tokens, fresh)), (silent > 0).then_some(Part::Silence(silent))]
            }
            Piece::Words => [Some(Part::Text(said)), None],
        });
        session
            .prefill(&mut pass, scratch, parts.flatten())
            .with_context(|| format!("prompt `{}`", prompt.name))
    }

    /// Runs a prompt over a grey and silent window, and keeps what that leaves where the sound stands.
    fn run_silence(&mut self, prompt: &str) -> Result<()> {
        let side = self.shape.image as u32;
        let grey =
            Frame { captured_ns: 0, height: side, width: side, rgb: vec![128; (side * side * 3) as usize] };
        // Ids that no real frame will have.
        let frames: Vec<(u64, &Frame)> =
            (0..self.shape.frames as u64).map(|i| (u64::MAX - (1 << 32) - i, &grey)).collect();
        let samples = vec![0.0; self.shape.samples_max()];
        let observer = self.observer.take();
        let ran = self
            .encode_checked(&Input { frames: Some(&frames), samples: Some(&samples), words: None })
            .and_then(|()| {
                self.said.clear();
                self.seen = Some(Seen { video: true, audio: true });
                self.prefill(prompt, false)
            });
        self.observer = observer;
        ran?;
        let pieces = &named(&self.prompts, prompt)?.video_audio;
        let start = start_of_sound(pieces, 0, &self.shape);
        let positions = start..start + self.shape.audio_tokens();
        self.session.keep_silence(&mut Pass::new(&mut self.backend, None), positions);
        if !self.halt.raised() {
            self.silence = Some(Silence { prompt: prompt.into(), start });
        }
        Ok(())
    }

    fn check(&self, input: &Input<'_>) -> Result<()> {
        ensure!(
            input.frames.is_some() || input.samples.is_some(),
            "a window without video and without audio"
        );
        let Some(frames) = input.frames else { return Ok(()) };
        let wanted = self.shape.frames;
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
}

impl<B: Backend> Infer for Model<B> {
    fn describe(&self) -> String {
        let Limits { rows_max, positions_max, .. } = self.limits;
        format!("{}; {rows_max} rows at once, {positions_max} positions", self.backend.describe())
    }

    fn see(&mut self, prompt: &str, input: &Input<'_>) -> Result<()> {
        named(&self.prompts, prompt)?;
        self.check(input)?;
        self.seen = None;
        self.session.forget();
        let both = input.frames.is_some() && input.samples.is_some();
        if both && self.silence.as_ref().is_some_and(|silence| silence.prompt != prompt) {
            self.run_silence(prompt)?;
            self.seen = None;
        }
        self.encode_checked(input)?;
        self.said.zeroize();
        if let (Some(encoder), Some(words)) = (&self.encoder, input.words) {
            self.said.extend(encoder.encode(words).into_iter().take(WORDS_MAX));
        }
        self.seen = Some(Seen { video: input.frames.is_some(), audio: input.samples.is_some() });
        self.prefill(prompt, both)
    }

    fn ask(&mut self, prompt: &str) -> Result<()> {
        self.prefill(prompt, false)
    }

    fn score(&mut self, label_set: &str) -> Result<&Scores> {
        let Self { backend, session, scratch, observer, .. } = self;
        session.score(&mut Pass::new(backend, observer.as_deref_mut()), scratch, label_set)
    }

    fn halt_when(&mut self, halt: Halt) {
        self.backend.halt_when(halt.clone());
        self.session.halt_when(halt.clone());
        self.halt = halt;
    }

    fn reason_on(&mut self, say: &mut dyn FnMut(&str)) -> Result<Option<Reason>> {
        let Self { backend, session, scratch, observer, .. } = self;
        session.write_on(&mut Pass::new(backend, observer.as_deref_mut()), scratch, say)
    }

    fn reason_between(&mut self) -> Result<()> {
        self.session.make_room(&mut Pass::new(&mut self.backend, None))
    }

    fn cut_reason(&mut self) -> Option<Reason> {
        self.session.cut_short()
    }

    fn set_decoding(&mut self, decoding: Decoding) -> Result<()> {
        self.session.set_decoding(decoding)
    }

    fn set_audio_context(&mut self, context: AudioContext) -> Result<()> {
        let Self { backend, audio, scratch, session, .. } = self;
        self.seen = None;
        session.forget();
        let mut pass = Pass::new(backend, None);
        let brief = context == AudioContext::Brief;
        session.make_room_for_silence(&mut pass, brief)?;
        self.silence = brief.then(Silence::default);
        audio.set_context(&mut pass, scratch, context)
    }

    fn observe(&mut self, observer: Option<Box<dyn Observer>>) {
        self.observer = observer;
    }
}

/// Where the first token of sound stands, after so many tokens of what was said.
fn start_of_sound(pieces: &[Piece], said: usize, shape: &Shape) -> usize {
    let before = pieces.iter().take_while(|piece| **piece != Piece::Audio);
    before.map(|piece| if *piece == Piece::Words { said } else { piece.positions(shape) }).sum()
}

fn named<'a>(prompts: &'a [Prompt], name: &str) -> Result<&'a Prompt> {
    let names = || prompts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = prompts.iter().find(|p| p.name == name);
    found.with_context(|| format!("the bundle has no prompt `{name}`, only: {}", names()))
}

fn asks_for_words(bundle: &Bundle) -> bool {
    bundle.prompts().iter().any(|prompt| prompt.has(&Piece::Words))
}

fn pieces(prompt: &Prompt, seen: Seen) -> Result<&[Piece]> {
    Ok(match (seen.video, seen.audio) {
        (true, true) => &prompt.video_audio,
        (true, false) => &prompt.video,
        (false, true) => &prompt.audio,
        (false, false) => bail!("a window without video and without audio"),
    })
}

/// The decoder of a bundle.
fn sizing(shape: &Shape, limits: Limits) -> Sizing<'_> {
    Sizing { stack: &shape.decoder, vocab: shape.vocab, rope_theta: shape.rope_theta, limits }
}

/// Room for the longest prompt, and after it for the longest answer.
fn limits(bundle: &Bundle) -> Result<Limits> {
    let shape = bundle.shape();
    let length = |pieces: &[Piece]| -> usize { pieces.iter().map(|piece| piece.positions(shape)).sum() };
    let variants = bundle.prompts().iter().flat_map(Prompt::variants);
    let rows_max = variants.map(length).max().context("the bundle has no prompt")?;
    let longest = |set: &LabelSet| set.tokens.iter().map(Vec::len).max().unwrap_or(0);
    let scored = bundle.label_sets().iter().map(|set| set.prefix.len() + longest(set)).max().unwrap_or(0);
    let answer = scored.max(bundle.generation().max_new_tokens);
    let positions_max = rows_max + answer;
    ensure!(
        positions_max <= shape.context,
        "a prompt of {rows_max} tokens and an answer of {answer} are more than the {} positions of the decoder",
        shape.context
    );
    let label_rows = bundle.label_sets().iter().map(longest).max().unwrap_or(0);
    let picks_max = PICKS_MIN.max(label_rows);
    ensure!(picks_max <= rows_max, "a label of {label_rows} tokens is longer than every prompt");
    Ok(Limits { rows_max, positions_max, picks_max })
}
