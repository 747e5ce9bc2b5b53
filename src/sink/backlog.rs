//! What goes first when a bounded queue of messages is full: never the end of what a receiver has begun.
//!
//! Order: scores and heartbeats, then reasons, people, faces, seconds, changes and unknowns, then a begin together with its end. The oldest of a class
//! goes first.

use super::Message;
use crate::wire::Kind;
use std::collections::VecDeque;

/// How much a message is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Superseded by the next of its kind.
    Passing,
    /// Missed, but nobody is misled without it.
    Minor,
    /// The begin or the end of this episode.
    Begin(u32),
    End(u32),
}

impl Class {
    pub fn of(message: &Message) -> Class {
        match message {
            Message::Scores(_) | Message::Heartbeat(_) => Class::Passing,
            Message::Reason(_) | Message::People(_) | Message::Faces(_) | Message::Second(_) => Class::Minor,
            Message::Event(event) => Class::of_event(event.kind, event.episode),
        }
    }

    pub fn of_event(kind: Kind, episode: u32) -> Class {
        match kind {
            Kind::Begin => Class::Begin(episode),
            Kind::End => Class::End(episode),
            Kind::Change | Kind::Unknown | Kind::Other => Class::Minor,
        }
    }
}

/// Removes what is missed least among the items from `from` on, and hands it to `gone`.
pub fn make_room<T>(
    items: &mut VecDeque<T>,
    from: usize,
    class: impl Fn(&T) -> Class,
    mut gone: impl FnMut(T),
) {
    let first = |wanted: Class| (from..items.len()).find(|&i| class(&items[i]) == wanted);
    let single = first(Class::Passing).or_else(|| first(Class::Minor));
    let pair = || {
        (from..items.len()).find_map(|i| {
            let Class::Begin(episode) = class(&items[i]) else { return None };
            let end = (i + 1..items.len()).find(|&k| class(&items[k]) == Class::End(episode))?;
            Some((i, end))
        })
    };
    let (begin, end) = match single {
        Some(i) => (i, None),
        None => pair().map_or((from, None), |(begin, end)| (begin, Some(end))),
    };
    for i in [end, Some(begin)].into_iter().flatten() {
        gone(items.remove(i).expect("the place was found among the items"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{Begin, End, Minor, Passing};

    fn after(items: &[Class], from: usize) -> Vec<Class> {
        let mut items = VecDeque::from(items.to_vec());
        make_room(&mut items, from, |class| *class, drop);
        items.into()
    }

    #[test]
    fn what_is_superseded_goes_first_then_what_misleads_nobody() {
        assert_eq!(after(&[Begin(1), Minor, Passing, End(1)], 0), [Begin(1), Minor, End(1)]);
        assert_eq!(after(&[Begin(1), Minor, End(1), Minor], 0), [Begin(1), End(1), Minor]);
    }

    #[test]
    fn a_begin_goes_with_its_end_and_an_end_alone_stays() {
        assert_eq!(after(&[End(0), Begin(1), End(1), Begin(2)], 0), [End(0), Begin(2)]);
        assert_eq!(after(&[Begin(1), End(1), Begin(2), End(2)], 1), [Begin(1), End(1)]);
    }

    #[test]
    fn where_there_is_no_pair_the_oldest_goes() {
        assert_eq!(after(&[End(0), Begin(1)], 0), [Begin(1)]);
    }
}
