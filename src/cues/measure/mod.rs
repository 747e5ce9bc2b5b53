//! Readings to facts: what is measured of each reading, beside the model.
//!
//! Nothing here asks a clock, so the same readings give the same facts.
//! Limits: faces of a picture and values of a reading have fixed places; nothing is allocated here after `new`, beyond what a net
//! takes for a run.

mod face;
mod facts;
mod filter;
mod own;
mod pitch;
mod tracks;
mod voice;

pub use face::{Look, POINTS};
pub use facts::{Faces, Facts, Person, Speech};
pub use own::Own;
pub use voice::{Heard, Phrase, Step, Voice};

use super::{
    gate::{Seen, Speaking},
    net::{Expression, FACES_MAX, Face, FaceBox, FaceMesh, VoiceActivity},
    settings::{Crop, Cues, Gate, Nets, Scoring, Task},
};
use crate::{
    source::{Chunk, Frame, Reading, SAMPLE_RATE},
    window::Part,
};
use anyhow::Result;
use tracks::Tracks;

/// How long a face's place is good for a cut of the next pictures.
const PLACE_NS: u64 = 2_000_000_000;
/// How long faces that were found are followed by a mesh alone.
const AGAIN_NS: u64 = 1_000_000_000;
/// A mesh that is less sure of its face has guessed it: upside down, covered. Then it is not measured until it is found anew.
const SURE: f32 = 0.99;
/// A face is measured where this share of its points lies in the picture; the mesh guesses the rest.
const INSIDE: f32 = 0.95;
/// Of a face's longer side: what the model sees of a picture that is cut.
const MARGIN: f32 = 2.0;
/// Another face takes the first place when it is so many times as large.
const LARGER: f32 = 1.5;

/// Measures readings.
pub struct Measurer {
    voice: Voice,
    speaking: Speaking,
    seen: Seen,
    tracks: Tracks,
    cues: Cues,
    listener: Option<VoiceActivity>,
    finder: Option<FaceBox>,
    mesh: Option<FaceMesh>,
    expression: Option<Expression>,
    /// The mesh has been sure of its face since it was found.
    sure: bool,
    /// Where faces were last, the largest first.
    places: heapless::Vec<Place, FACES_MAX>,
    /// Who was found when the whole picture was looked at last.
    found: Option<(u64, heapless::Vec<Person, FACES_MAX>)>,
}

/// Where a face was.
#[derive(Clone, Copy, Debug)]
struct Place {
    at_ns: u64,
    track: u16,
    face: Face,
}

impl Measurer {
    /// Loads the nets. `first_track` is the number of the first face.
    pub fn new(nets: &Nets, gate: Gate, cues: Cues, first_track: u16) -> Result<Measurer> {
        Ok(Measurer {
            voice: Voice::default(),
            speaking: Speaking::new(gate),
            seen: Seen::new(gate),
            tracks: Tracks::new(first_track),
            cues,
            listener: nets.of(Task::VoiceActivity).map(VoiceActivity::load).transpose()?,
            finder: nets.of(Task::FaceBox).map(FaceBox::load).transpose()?,
            mesh: nets.of(Task::FaceMesh).map(FaceMesh::load).transpose()?,
            expression: nets.of(Task::Expression).map(Expression::load).transpose()?,
            sure: false,
            places: heapless::Vec::new(),
            found: None,
        })
    }

    /// Measures a reading; a picture may be cut to the face in it, or gets the parts of it that show a face each.
    pub fn take(&mut self, reading: &mut Reading) -> Facts {
        let mut facts = Facts::default();
        match reading {
            Reading::Chunk(chunk) => self.hear(chunk, &mut facts),
            Reading::Frame(frame) => {
                facts.faces = self.see(frame);
                match self.cues.people {
                    Scoring::Largest => self.cut(frame),
                    Scoring::Each => facts.parts = self.parts(frame),
                }
            }
            Reading::Lost { .. } | Reading::End { .. } => {}
        }
        facts
    }

    /// Overwrites what was seen and heard.
    pub fn forget(&mut self) {
        self.voice.forget();
        if let Some(listener) = &mut self.listener {
            listener.forget();
        }
        if let Some(finder) = &mut self.finder {
            finder.forget();
        }
        if let Some(mesh) = &mut self.mesh {
            mesh.forget();
        }
        if let Some(expression) = &mut self.expression {
            expression.forget();
        }
        self.places.clear();
        (self.found, self.sure) = (None, false);
    }

    fn hear(&mut self, chunk: &Chunk, facts: &mut Facts) {
        self.voice.push(chunk, |heard| match heard {
            Heard::Phrase(phrase) => {
                facts.phrases.push(phrase).ok();
            }
            Heard::Step(..) => {}
        });
        let Self { listener, speaking, .. } = self;
        let Some(net) = listener else { return };
        let heard = net.push(&chunk.samples, |probability, samples| {
            let at_ns = chunk.captured_ns + samples as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE);
            facts.speech.push(Speech { at_ns, active: speaking.push(probability) }).ok();
        });
        if let Err(error) = heard {
            log::error!("the net for voices is done with, and every sound counts as a voice: {error:#}");
            *listener = None;
        }
    }

    fn see(&mut self, frame: &Frame) -> Option<Faces> {
        if self.finder.is_none() || !self.seen.due(frame.captured_ns) {
            return None;
        }
        match self.look(frame) {
            Ok(faces) => Some(faces),
            Err(error) => {
                log::error!(
                    "the nets for faces are done with, and every picture counts as one with a face: {error:#}"
                );
                (self.finder, self.mesh, self.expression) = (None, None, None);
                None
            }
        }
    }

    fn look(&mut self, frame: &Frame) -> Result<Faces> {
        let at_ns = frame.captured_ns;
        let followed = self.followed(at_ns);
        let fresh = followed.is_none();
        let mut people = match followed {
            Some(people) => people,
            None => self.find(frame)?,
        };
        self.tracks.follow(&mut people, at_ns);
        if fresh {
            self.keep_first(&mut people);
            self.found = (!people.is_empty()).then(|| (at_ns, people.clone()));
        }
        self.measure_first(frame, fresh, &mut people)?;
        // A face that the mesh guesses shows nothing.
        if let (Some(net), Some(first)) = (&mut self.expression, people.first_mut())
            && (self.mesh.is_none() || first.look.is_some())
        {
            first.shows = Some(net.find(frame, &first.face)?);
        }
        for person in &mut people {
            person.light = light(frame, &person.face);
        }
        self.remember(&people, at_ns);
        Ok(Faces { at_ns, present: self.seen.push(!people.is_empty(), at_ns), people })
    }

    /// While a mesh follows the largest face, the whole picture is looked at once a second; where each face is scored, only while
    /// there is one.
    fn followed(&self, at_ns: u64) -> Option<heapless::Vec<Person, FACES_MAX>> {
        let (found_ns, people) = self.found.as_ref()?;
        let largest = self.places.first()?;
        self.mesh.as_ref()?;
        if self.cues.people == Scoring::Each && people.len() > 1 {
            return None;
        }
        let mut people = people.clone();
        people.first_mut()?.face = largest.face;
        (at_ns.saturating_sub(*found_ns) < AGAIN_NS).then_some(people)
    }

    fn find(&mut self, frame: &Frame) -> Result<heapless::Vec<Person, FACES_MAX>> {
        let Some(finder) = &mut self.finder else { return Ok(heapless::Vec::new()) };
        let faces = finder.find(frame, self.seen.settings().face_score)?;
        Ok(faces.into_iter().map(|face| Person { face, ..Person::default() }).collect())
    }

    /// Two faces of about the same size would take turns as the largest.
    fn keep_first(&self, people: &mut [Person]) {
        let Some(before) = self.places.first() else { return };
        if let Some(at) = people.iter().position(|person| person.track == before.track)
            && people[0].face.area() < LARGER * people[at].face.area()
        {
            people[..=at].rotate_right(1);
        }
    }

    /// Measures the first face in which the mesh sees one; those before it are none.
    fn measure_first(
        &mut self,
        frame: &Frame,
        fresh: bool,
        people: &mut heapless::Vec<Person, FACES_MAX>,
    ) -> Result<()> {
        while let (Some(mesh), Some(first)) = (&mut self.mesh, people.first_mut()) {
            let (points, flag) = mesh.find(frame, &first.face)?;
            if flag >= self.seen.settings().mesh_score {
                self.sure = flag >= SURE && (fresh || self.sure);
                let measurable = self.sure && inside(points, frame) >= INSIDE;
                first.look = face::look(points).filter(|_| measurable);
                first.face = around(points, flag);
                return Ok(());
            }
            people.remove(0);
            self.found = None;
        }
        Ok(())
    }

    fn remember(&mut self, people: &[Person], at_ns: u64) {
        let old = self.places.clone();
        let now = people.iter().map(|person| Place { at_ns, track: person.track, face: person.face });
        self.places = now.collect();
        for place in old {
            let away = people.iter().all(|person| person.track != place.track);
            if away && at_ns.abs_diff(place.at_ns) <= PLACE_NS {
                self.places.push(place).ok();
            }
        }
    }

    /// Cuts a picture to the largest face, where that is wanted and known.
    fn cut(&self, frame: &mut Frame) {
        let Some(place) = self.places.first().filter(|_| self.cues.crop == Crop::Face) else { return };
        if frame.captured_ns.abs_diff(place.at_ns) > PLACE_NS {
            return;
        }
        let Part { left, top, side, .. } = part(place, frame);
        let (left, top, side) = (left as usize, top as usize, side as usize);
        for row in 0..side {
            let from = ((top + row) * frame.width as usize + left) * 3;
            frame.rgb.copy_within(from..from + side * 3, row * side * 3);
        }
        frame.rgb.truncate(side * side * 3);
        (frame.width, frame.height) = (side as u32, side as u32);
    }

    /// The parts of a picture that show a face each.
    fn parts(&self, frame: &Frame) -> heapless::Vec<Part, FACES_MAX> {
        let lately = |place: &&Place| frame.captured_ns.abs_diff(place.at_ns) <= PLACE_NS;
        self.places.iter().filter(lately).map(|place| part(place, frame)).collect()
    }
}

/// A square about a face, with a margin, that lies in the picture.
fn part(place: &Place, frame: &Frame) -> Part {
    let face = &place.face;
    let side = (MARGIN * face.width().max(face.bottom - face.top)) as i64;
    let (width, height) = (i64::from(frame.width), i64::from(frame.height));
    let side = side.clamp(1, width.min(height));
    let start = |middle: f32, whole: i64| (middle as i64 - side / 2).clamp(0, whole - side) as u32;
    let left = start((face.left + face.right) / 2.0, width);
    let top = start((face.top + face.bottom) / 2.0, height);
    Part { who: place.track, left, top, side: side as u32 }
}

/// The box of a mesh, and its outer corners of the eyes.
fn around(points: &[[f32; 3]; POINTS], score: f32) -> Face {
    let mut face =
        Face { score, left: f32::MAX, top: f32::MAX, right: f32::MIN, bottom: f32::MIN, ..Face::default() };
    for [x, y, _] in points {
        (face.left, face.right) = (face.left.min(*x), face.right.max(*x));
        (face.top, face.bottom) = (face.top.min(*y), face.bottom.max(*y));
    }
    face.eyes = [points[33], points[263]].map(|[x, y, _]| (x, y));
    face
}

/// Share of a mesh's points that lie in the picture.
fn inside(points: &[[f32; 3]; POINTS], frame: &Frame) -> f32 {
    let within = |v: f32, whole: u32| (0.0..whole as f32).contains(&v);
    let count = points.iter().filter(|[x, y, _]| within(*x, frame.width) && within(*y, frame.height)).count();
    count as f32 / POINTS as f32
}

/// Mean of the green channel over a face.
fn light(frame: &Frame, face: &Face) -> f32 {
    let inside = |v: f32, whole: u32| (v.max(0.0) as usize).min(whole as usize);
    let (left, right) = (inside(face.left, frame.width), inside(face.right, frame.width));
    let (top, bottom) = (inside(face.top, frame.height), inside(face.bottom, frame.height));
    let (mut sum, mut count) = (0u64, 0u64);
    for y in (top..bottom).step_by(4) {
        for x in (left..right).step_by(4) {
            sum += u64::from(frame.rgb[(y * frame.width as usize + x) * 3 + 1]);
            count += 1;
        }
    }
    sum as f32 / count.max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(track: u16, side: f32) -> Person {
        Person { track, face: Face { right: side, bottom: side, ..Face::default() }, ..Person::default() }
    }

    #[test]
    fn the_first_face_keeps_its_place_until_another_is_half_as_large_again() {
        let mut measurer = Measurer::new(&Nets::default(), Gate::default(), Cues::default(), 1).unwrap();
        let mut order = |people: &[(u16, f32)], at_ns| -> Vec<u16> {
            let mut people: Vec<Person> = people.iter().map(|&(track, side)| person(track, side)).collect();
            measurer.keep_first(&mut people);
            measurer.remember(&people, at_ns);
            people.iter().map(|person| person.track).collect()
        };
        assert_eq!(order(&[(1, 100.0), (2, 90.0)], 0), [1, 2]);
        assert_eq!(
            order(&[(3, 120.0), (2, 110.0), (1, 100.0)], 1),
            [1, 3, 2],
            "the order of the others stays"
        );
        assert_eq!(order(&[(2, 123.0), (1, 100.0)], 2), [2, 1]);
        assert_eq!(order(&[(1, 100.0)], 3), [1], "the first one left");
        assert_eq!(order(&[(2, 110.0), (1, 100.0)], 4), [1, 2]);
    }

    #[test]
    fn a_part_is_a_square_about_its_face_inside_the_picture() {
        let frame = Frame { captured_ns: 0, width: 320, height: 240, rgb: Vec::new() };
        let place = |left: f32, top: f32, side: f32| {
            let face = Face { left, top, right: left + side, bottom: top + side, ..Face::default() };
            part(&Place { at_ns: 0, track: 7, face }, &frame)
        };
        assert_eq!(place(100.0, 80.0, 50.0), Part { who: 7, left: 75, top: 55, side: 100 });
        assert_eq!(place(-20.0, 220.0, 50.0), Part { who: 7, left: 0, top: 140, side: 100 }, "at the edge");
        assert_eq!(
            place(0.0, 0.0, 300.0),
            Part { who: 7, left: 30, top: 0, side: 240 },
            "as large as it can be"
        );
    }
}
