//! Constrained decoding: whatever the model would rather say, what comes is `<think>..</think>\n<answer>LABEL</answer>`.
//!
//! Invariant: the answer is always complete: thinking is closed while there are tokens left for it.

use crate::bundle::{LabelSet, Marks, Vocabulary};
use anyhow::{Result, ensure};

/// What may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These tokens and no others.
    Forced(Vec<u32>),
    /// One token that `allows` permits; the model's own wish, or plainly by its logits when it decides between labels.
    Choose {
        label: bool,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Thinking,
    Closed,
    /// So many tokens of the label are there.
    Label(usize),
    Answered,
    End,
}

/// Walks an answer through its form.
pub struct Form {
    place: Place,
    open: Vec<u32>,
    close: Vec<u32>,
    prefix: Vec<u32>,
    labels: Vec<Vec<u32>>,
    label: Vec<u32>,
    end: Vec<u32>,
    /// By token: text without a bracket.
    free: Vec<bool>,
    /// By token: text that ends as `</think>` begins, with no other bracket.
    closers: Vec<bool>,
}

impl Form {
    pub fn new(marks: &Marks, set: &LabelSet, vocabulary: &Vocabulary) -> Result<Self> {
        let first = |ids: &[u32]| ids.first().copied();
        ensure!(
            set.tokens.iter().all(|t| t.last().copied() == first(&marks.answer_close)),
            "the labels of `{}` do not end as `</answer>` begins, so answers cannot be constrained to them",
            set.name
        );
        let Some(&closing) = marks.think_close.first() else {
            anyhow::bail!("the bundle has no tokens for `</think>`; pack the checkpoint again");
        };
        let closing = vocabulary.piece(closing).to_vec();
        let pieces = || (0..vocabulary.len() as u32).map(|id| vocabulary.piece(id));
        let open_brackets = |piece: &[u8]| piece.iter().filter(|b| **b == b'<').count();
        let closes = |piece: &[u8]| open_brackets(piece) == 1 && piece.ends_with(&closing);
        Ok(Self {
            place: Place::Start,
            open: marks.think_open.clone(),
            close: marks.think_close.clone(),
            prefix: set.prefix.clone(),
            labels: set.tokens.clone(),
            label: Vec::new(),
            end: marks.answer_close[1..].to_vec(),
            free: pieces().map(|p| !p.is_empty() && open_brackets(p) == 0).collect(),
            closers: pieces().map(closes).collect(),
        })
    }

    /// Tokens that the shortest way to the end takes at most, thinking closed now.
    pub fn least(&self) -> usize {
        let longest = self.labels.iter().map(Vec::len).max().unwrap_or(0);
        self.open.len() + self.close.len() + self.prefix.len() + longest + self.end.len()
    }

    /// What comes next when `left` more tokens may be made.
    pub fn next(&mut self, left: usize) -> Next {
        match self.place {
            Place::Start => {
                self.place = Place::Thinking;
                Next::Forced(self.open.clone())
            }
            Place::Thinking if left <= self.least() - self.open.len() => {
                self.place = Place::Closed;
                Next::Forced(self.close.clone())
            }
            Place::Thinking => Next::Choose { label: false },
            Place::Closed => {
                self.place = Place::Label(0);
                Next::Forced(self.prefix.clone())
            }
            Place::Label(_) => Next::Choose { label: true },
            Place::Answered => {
                self.place = Place::End;
                Next::Forced(self.end.clone())
            }
            Place::End => Next::Done,
        }
    }

    /// Whether a token may stand in the thinking, or end it.
    pub fn thinkable(&self, id: u32) -> bool {
        self.free[id as usize] || self.closers[id as usize]
    }

    pub fn allows(&self, id: u32) -> bool {
        match self.place {
            Place::Thinking => self.thinkable(id),
            Place::Label(at) => self.open_labels().any(|l| l.get(at) == Some(&id)),
            _ => false,
        }
    }

    /// A token that `Next::Choose` asked for was made; returns what must follow it at once.
    pub fn made(&mut self, id: u32) -> Vec<u32> {
        match self.place {
            Place::Thinking if self.closers[id as usize] => {
                self.place = Place::Closed;
                self.close[1..].to_vec()
            }
            Place::Label(at) => {
                self.label.push(id);
                let complete = self.labels.contains(&self.label);
                self.place = if complete { Place::Answered } else { Place::Label(at + 1) };
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn open_labels(&self) -> impl Iterator<Item = &Vec<u32>> {
        self.labels.iter().filter(|l| l.starts_with(&self.label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::vocabulary::Token;

    const TEXTS: [&str; 14] = [
        "<think", ">", "</", "think", ">\n", "<answer", ">happy", ">sad", "dest", "answer", " a", ".</", "<",
        "x<y",
    ];

    fn form() -> Form {
        let tokens = TEXTS.iter().map(|t| Token::Bytes(t.as_bytes().to_vec())).collect();
        let marks = Marks { think_open: vec![0, 1], think_close: vec![2, 3, 4], answer_close: vec![2, 9, 1] };
        let set = LabelSet {
            name: "two".into(),
            labels: vec!["happy".into(), "sad".into(), "saddest".into()],
            prefix: vec![5],
            tokens: vec![vec![6, 2], vec![7, 2], vec![7, 8, 2]],
            temperature: 1.0,
            shift: None,
        };
        Form::new(&marks, &set, &Vocabulary::new(tokens)).unwrap()
    }

    /// Walks the form, taking the first of `wishes` that is allowed, else the first token that is.
    fn walk(mut left: usize, wishes: &[u32]) -> String {
        let (mut form, mut out) = (form(), Vec::new());
        let mut wishes = wishes.iter().copied();
        loop {
            let some = match form.next(left) {
                Next::Forced(ids) => ids,
                Next::Choose { .. } => {
                    let wish = wishes.next().filter(|w| form.allows(*w));
                    let id = wish.or_else(|| (0..14).find(|id| form.allows(*id))).unwrap();
                    let mut ids = vec![id];
                    ids.extend(form.made(id));
                    ids
                }
                Next::Done => return out.iter().map(|id: &u32| TEXTS[*id as usize]).collect(),
            };
            left -= some.len();
            out.extend(some);
        }
    }

    #[test]
    fn a_well_behaved_model_says_what_it_wants() {
        assert_eq!(walk(50, &[10, 10, 2, 6, 2]), "<think> a a</think>\n<answer>happy</answer>");
        assert_eq!(walk(50, &[10, 11, 7, 8, 2]), "<think> a.</think>\n<answer>saddest</answer>");
        assert_eq!(walk(50, &[2, 7, 2]), "<think></think>\n<answer>sad</answer>");
    }

    #[test]
    fn a_model_that_never_ends_is_closed_in_time() {
        let text = walk(20, &[10; 100]);
        assert!(
            text.starts_with("<think> a a") && text.ends_with("</think>\n<answer>happy</answer>"),
            "{text}"
        );
        assert_eq!(walk(form().least(), &[10; 100]), "<think></think>\n<answer>happy</answer>");
    }

    #[test]
    fn brackets_cannot_be_thought() {
        let text = walk(40, &[12, 13, 0, 5, 12, 13, 2, 7, 2]);
        assert_eq!(text.matches('<').count(), 4, "{text}");
    }
}
