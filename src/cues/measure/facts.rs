//! What was measured of one reading, on its way to the core.

use super::{face::Look, voice::Phrase};
use crate::{
    cues::net::{FACES_MAX, Face, Shows},
    window::Part,
};

/// Whether somebody spoke, until `at_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Speech {
    pub at_ns: u64,
    pub active: bool,
}

/// One face of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Person {
    /// The same as long as the face is followed; no identity.
    pub track: u16,
    pub face: Face,
    /// Of the largest face alone.
    pub look: Option<Look>,
    /// Likewise; where there is a net for it.
    pub shows: Option<Shows>,
    /// Mean brightness of the face, 0 to 255.
    pub light: f32,
}

/// One look at a picture.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Faces {
    pub at_ns: u64,
    /// Somebody is there.
    pub present: bool,
    /// The largest first.
    pub people: heapless::Vec<Person, FACES_MAX>,
}

/// What was measured of one reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub phrases: heapless::Vec<Phrase, 4>,
    pub speech: heapless::Vec<Speech, 16>,
    pub faces: Option<Faces>,
    /// Of a picture, where each face is scored.
    pub parts: heapless::Vec<Part, FACES_MAX>,
}
