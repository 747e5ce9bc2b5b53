//! Which face is which from look to look: the box that overlaps most keeps its number.
//!
//! A number says that it is the same face as before, nothing else; a face that was away gets a new one.

use super::facts::Person;
use crate::cues::net::{FACES_MAX, Face};

/// A face that was away for longer is another.
const AWAY_NS: u64 = 2_000_000_000;
/// Boxes that overlap by less are of two faces.
const SAME: f32 = 0.2;

#[derive(Debug)]
pub struct Tracks {
    next: u16,
    known: heapless::Vec<(u16, Face, u64), { 2 * FACES_MAX }>,
}

impl Tracks {
    pub fn new(first: u16) -> Tracks {
        Tracks { next: first.max(1), known: heapless::Vec::new() }
    }

    /// Numbers the faces of a look, the best overlap first.
    pub fn follow(&mut self, people: &mut [Person], at_ns: u64) {
        self.known.retain(|(_, _, seen_ns)| at_ns.saturating_sub(*seen_ns) < AWAY_NS);
        people.iter_mut().for_each(|person| person.track = 0);
        loop {
            let mut best: Option<(f32, usize, usize)> = None;
            for (p, person) in people.iter().enumerate().filter(|(_, person)| person.track == 0) {
                for (k, (_, face, seen_ns)) in self.known.iter().enumerate() {
                    let overlap = person.face.overlap(face);
                    if *seen_ns != at_ns && overlap >= SAME && best.is_none_or(|(most, ..)| overlap > most) {
                        best = Some((overlap, p, k));
                    }
                }
            }
            let Some((_, p, k)) = best else { break };
            people[p].track = self.known[k].0;
            self.known[k] = (self.known[k].0, people[p].face, at_ns);
        }
        for person in people.iter_mut().filter(|person| person.track == 0) {
            person.track = self.next;
            self.next = self.next.checked_add(1).unwrap_or(1);
            if self.known.is_full() {
                let oldest = (0..self.known.len()).min_by_key(|&k| self.known[k].2).unwrap_or(0);
                self.known.swap_remove(oldest);
            }
            self.known.push((person.track, person.face, at_ns)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, side: f32) -> Person {
        let face = Face { left: x, right: x + side, top: 0.0, bottom: side, ..Face::default() };
        Person { face, ..Person::default() }
    }

    fn numbers(tracks: &mut Tracks, xs: &[f32], step: u64) -> Vec<u16> {
        let mut people: Vec<Person> = xs.iter().map(|&x| at(x, 100.0)).collect();
        tracks.follow(&mut people, step * 200_000_000);
        people.iter().map(|person| person.track).collect()
    }

    #[test]
    fn a_face_keeps_its_number_and_a_new_one_gets_its_own() {
        let mut tracks = Tracks::new(7);
        assert_eq!(numbers(&mut tracks, &[0.0], 1), [7]);
        assert_eq!(numbers(&mut tracks, &[300.0, 20.0], 2), [8, 7]);
        assert_eq!(numbers(&mut tracks, &[], 3), [0u16; 0]);
        assert_eq!(numbers(&mut tracks, &[30.0, 310.0], 4), [7, 8]);
        assert_eq!(numbers(&mut tracks, &[30.0], 40), [9], "after two seconds it is another");
    }

    #[test]
    fn faces_that_pass_each_other_keep_their_numbers_while_they_can_be_told_apart() {
        let mut tracks = Tracks::new(1);
        assert_eq!(numbers(&mut tracks, &[0.0, 400.0], 1), [1, 2]);
        for step in 2..9 {
            let way = (step - 1) as f32 * 40.0;
            assert_eq!(numbers(&mut tracks, &[way, 400.0 - way / 4.0], step), [1, 2], "step {step}");
        }
    }

    #[test]
    fn numbers_begin_anew_after_the_last() {
        let mut tracks = Tracks::new(u16::MAX);
        assert_eq!(numbers(&mut tracks, &[0.0, 300.0], 1), [u16::MAX, 1]);
    }
}
