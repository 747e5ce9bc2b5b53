//! Prompts, label sets and marks to token ids, once, when a bundle is packed.
//!
//! The conversation is the chat template's own text around one user message: the places of the modalities, a line each, then the
//! instruction. Text on either side of a place is tokenised on its own, as upstream does, so that no merge crosses it.
//! Invariant: special tokens come from the template only; whatever stands in an instruction becomes ordinary text.

use super::header::{LabelSet, Marks, Piece, Prompt};
use anyhow::{Result, ensure};

/// The standard instruction of R1-Omni: a reason, then the answer.
pub const REASON: &str = "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the \
    most obvious to you?  Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags.";
/// The same question for an answer alone.
pub const LABEL: &str = "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the \
    most obvious to you?  Output the final emotion in <answer> </answer> tags.";

/// Where an instruction says what was said.
pub const WORDS_PLACE: &str = "{words}";

/// Closed sets of answers every bundle has.
pub const LABEL_SETS: [(&str, &[&str]); 3] = [
    ("dfew", &["happy", "sad", "neutral", "angry", "surprise", "disgust", "fear"]),
    (
        "mafw",
        &[
            "angry",
            "disgust",
            "fear",
            "happy",
            "neutral",
            "sad",
            "surprise",
            "contemptuous",
            "anxious",
            "helpless",
            "disappointed",
        ],
    ),
    ("ravdess", &["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]),
];

/// A tokenizer as far as packing needs one.
pub trait Encode {
    /// Tokens of ordinary text, each with the byte of `text` at which it ends. Nothing in `text` is special.
    fn plain(&self, text: &str) -> Result<Vec<(u32, usize)>>;
    /// Names and ids of the special tokens.
    fn specials(&self) -> &[(String, u32)];
}

/// The conversation around a user's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Up to the message: system sentence and the opening of the user's turn.
    pub before: String,
    /// After the message: its end and the opening of the assistant's turn.
    pub after: String,
    /// Whether the places of the modalities stand between `<vi_start>`, `<vi_end>` and `<au_start>`, `<au_end>`.
    pub wrapped: bool,
}

impl Template {
    /// Tokenises an instruction for each combination of modalities.
    pub fn prompt(
        &self,
        encode: &dyn Encode,
        name: &str,
        instruction: &str,
        gate: [f32; 3],
    ) -> Result<Prompt> {
        ensure!(!instruction.trim().is_empty(), "the instruction of prompt `{name}` is empty");
        ensure!(
            instruction.matches(WORDS_PLACE).count() <= 1,
            "the instruction of prompt `{name}` has `{WORDS_PLACE}` more than once"
        );
        let pieces = |video: bool, audio: bool| self.pieces(encode, instruction, video, audio);
        Ok(Prompt {
            name: name.to_owned(),
            instruction: instruction.to_owned(),
            gate,
            video_audio: pieces(true, true)?,
            video: pieces(true, false)?,
            audio: pieces(false, true)?,
        })
    }

    fn pieces(&self, encode: &dyn Encode, instruction: &str, video: bool, audio: bool) -> Result<Vec<Piece>> {
        let mut out = Vec::new();
        let mut text = vec![Part::Template(self.before.clone())];
        for (there, place, open, close) in
            [(video, Piece::Video, "<vi_start>", "<vi_end>"), (audio, Piece::Audio, "<au_start>", "<au_end>")]
        {
            if there {
                let (open, close) = if self.wrapped { (open, close) } else { ("", "") };
                text.push(Part::Plain(open.to_owned()));
                push_text(&mut out, tokens(encode, &text)?);
                out.push(place);
                text = vec![Part::Plain(format!("{close}\n"))];
            }
        }
        let (before, after) = instruction.split_once(WORDS_PLACE).unwrap_or((instruction, ""));
        text.push(Part::Plain(before.to_owned()));
        if instruction.contains(WORDS_PLACE) {
            push_text(&mut out, tokens(encode, &text)?);
            out.push(Piece::Words);
            text = vec![Part::Plain(after.to_owned())];
        }
        text.push(Part::Template(self.after.clone()));
        push_text(&mut out, tokens(encode, &text)?);
        Ok(out)
    }

    /// Tokenises `<answer>label</answer>` for every label where the assistant's turn begins.
    pub fn label_set(&self, encode: &dyn Encode, name: &str, labels: &[String]) -> Result<LabelSet> {
        ensure!(labels.len() >= 2, "label set `{name}` needs at least two labels");
        let mut whole = Vec::new();
        for label in labels {
            ensure!(
                !label.trim().is_empty() && !label.contains(['<', '>', '\n']),
                "label `{label}` of set `{name}` must be a word or a few"
            );
            ensure!(
                labels.iter().filter(|l| *l == label).count() == 1,
                "label set `{name}` has `{label}` twice"
            );
            whole.push(self.answer(encode, label)?);
        }
        let prefix = common_prefix(&whole);
        let tokens: Vec<Vec<u32>> = whole.iter().map(|t| t[prefix.len()..].to_vec()).collect();
        ensure!(
            tokens.iter().all(|t| !t.is_empty()),
            "in label set `{name}` one label's tokens begin another's; leave one out"
        );
        Ok(LabelSet {
            name: name.to_owned(),
            labels: labels.to_vec(),
            prefix,
            tokens,
            temperature: 1.0,
            shift: None,
        })
    }

    /// Tokens of `<answer>label</answer>` up to and including the first of `</answer>`.
    fn answer(&self, encode: &dyn Encode, label: &str) -> Result<Vec<u32>> {
        let tail = after_last_special(encode, &self.after);
        let answer = format!("<answer>{label}</answer>");
        let close = tail.len() + answer.len() - "</answer>".len();
        let both = encode.plain(&format!("{tail}{answer}"))?;
        let alone = encode.plain(tail)?.len();
        ensure!(
            alone == 0 || both.get(alone - 1).is_some_and(|&(_, end)| end == tail.len()),
            "the chat template's end merges with `<answer>`; this tokenizer is not supported"
        );
        let last = both.iter().position(|&(_, end)| end > close);
        let last = last.expect("the last token ends with the text, after the label");
        Ok(both[alone..=last].iter().map(|&(id, _)| id).collect())
    }
}

/// Tokenises the marks of an answer.
pub fn marks(encode: &dyn Encode) -> Result<Marks> {
    let ids =
        |text: &str| -> Result<Vec<u32>> { Ok(encode.plain(text)?.into_iter().map(|(id, _)| id).collect()) };
    Ok(Marks {
        think_open: ids("<think>")?,
        think_close: ids("</think>\n")?,
        answer_close: ids("</answer>")?,
    })
}

enum Part {
    Plain(String),
    Template(String),
}

/// Tokens of a run of parts: cut at the special tokens of the template parts, all else tokenised as ordinary text.
fn tokens(encode: &dyn Encode, parts: &[Part]) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    let mut text = String::new();
    for part in parts {
        let mut rest = match part {
            Part::Plain(plain) => {
                text.push_str(plain);
                continue;
            }
            Part::Template(template) => template.as_str(),
        };
        while let Some((at, name, id)) = first_special(encode, rest) {
            text.push_str(&rest[..at]);
            out.extend(encode.plain(&text)?.into_iter().map(|(id, _)| id));
            text.clear();
            out.push(id);
            rest = &rest[at + name.len()..];
        }
        text.push_str(rest);
    }
    out.extend(encode.plain(&text)?.into_iter().map(|(id, _)| id));
    Ok(out)
}

/// The leftmost special token of `text`; of two at one place the longer.
fn first_special<'a>(encode: &'a dyn Encode, text: &str) -> Option<(usize, &'a str, u32)> {
    let found = encode
        .specials()
        .iter()
        .filter_map(|(name, id)| Some((text.find(name.as_str())?, name.as_str(), *id)));
    found.min_by_key(|(at, name, _)| (*at, usize::MAX - name.len()))
}

fn after_last_special<'a>(encode: &dyn Encode, mut text: &'a str) -> &'a str {
    while let Some((at, name, _)) = first_special(encode, text) {
        text = &text[at + name.len()..];
    }
    text
}

fn push_text(out: &mut Vec<Piece>, tokens: Vec<u32>) {
    if !tokens.is_empty() {
        out.push(Piece::Text(tokens));
    }
}

fn common_prefix(lists: &[Vec<u32>]) -> Vec<u32> {
    let first = &lists[0];
    let same = |i: usize| lists.iter().all(|l| l.get(i) == first.get(i));
    (0..first.len()).take_while(|&i| same(i)).map(|i| first[i]).collect()
}
