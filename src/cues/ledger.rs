//! Facts over time to cues: what of a face and a voice stood out in a stretch of time, against the same person's usual.
//!
//! Units: `_ns` on the capture clock. A cue says nothing before its person is known (`WARM`), nor outside its validity range.
//! Thresholds were set on synthetic people of the usual family; `tools/test cues` prints what they reach on them and on the held-out
//! family. Speaking rate, clear, pressed and trembling timbre, raised and oblique brows, eyes, pressed lips and jaw did not reach
//! 90 %: they are measured (`Phrase`, `Look`) and make no cue.
//! Limits: phrases, looks and speech of the longest window, 30 s; nothing is allocated after `new`.

use super::{
    CUES, Channel, face_claims,
    measure::{Facts, Look, Own, Phrase, Speech},
    net::{FACES_MAX, Shows},
    tone::tone,
};
use heapless::Deque;

/// Phrases before a voice's usual is known, and looks, one a second, before a face's is.
const WARM: usize = 4;
/// A look is added to the usual once in so long.
const EVERY_NS: u64 = 1_000_000_000;
/// Looks that a stretch needs.
const LOOKS_MIN: usize = 3;
/// Of a phrase that reaches beyond a stretch so much must lie in it.
const INSIDE: f64 = 0.5;

/// Semitones above and below one's usual pitch.
const PITCH_HIGH: f32 = 2.0;
const PITCH_LOW: f32 = -1.7;
/// Of one's usual range.
const RANGE_WIDE: f32 = 1.45;
const RANGE_NARROW: f32 = 0.65;
/// dB of brightness against one's usual.
const TILT_SOFT: f32 = -2.5;

/// In parts of the distance between the eyes, against one's usual.
const SMILE_WIDE: f32 = 0.07;
const SMILE_UP: f32 = 0.04;
const CORNERS_DOWN: f32 = -0.05;
const BROW_DOWN: f32 = -0.02;
const NOSE_TILT: f32 = -0.02;

/// A face is measured between these: pixels between the eyes, turn in radians, brightness.
const EYES_PX_MIN: f32 = 18.0;
const TURN_MAX: f32 = 0.6;
const LIGHT: std::ops::Range<f32> = 25.0..240.0;
/// Of a net's share, its mean over a stretch.
const SHOWN: f32 = 0.5;

/// What was measured of one cue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    pub cue: &'static str,
    pub channel: Channel,
    /// One of `known`, or empty: none of them.
    pub value: &'static str,
    /// Values that this measurement tells apart.
    pub known: Known,
    /// False: before the person is known, or outside the validity range.
    pub observable: bool,
}

/// Values of one cue; empty behind the last.
pub type Known = [&'static str; 4];

/// A list of values, four at most.
pub const fn known(values: &[&'static str]) -> Known {
    let mut known = [""; 4];
    let mut i = 0;
    while i < values.len() {
        known[i] = values[i];
        i += 1;
    }
    known
}

/// Cues of one stretch of time.
pub type Cues = heapless::Vec<Measured, 12>;

/// Who was there in a stretch of time; `None` where nobody looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    pub voice: Option<bool>,
    pub face: Option<bool>,
    /// The faces of the last look, the largest first.
    pub tracks: Tracks,
}

/// Numbers of faces; 0 behind the last.
pub type Tracks = [u16; FACES_MAX];

impl Presence {
    /// Faces in the last look.
    pub fn people(&self) -> u8 {
        self.tracks.iter().filter(|track| **track != 0).count() as u8
    }
}

/// A look with its time and what it is worth.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at_ns: u64,
    present: bool,
    tracks: Tracks,
    /// Only where it can be measured.
    look: Option<Look>,
    shows: Option<Shows>,
}

/// The usual of one voice.
#[derive(Debug, Default)]
struct UsualVoice {
    pitch: Own,
    range: Own,
    tilt: Own,
}

/// The usual of one face.
#[derive(Debug, Default)]
struct UsualFace {
    mouth_wide: Own,
    corners_up: Own,
    brow_up: Own,
    brow_tilt: Own,
}

/// Facts of the last stretch of time, and what is usual.
#[derive(Debug)]
pub struct Ledger {
    phrases: Deque<Phrase, 64>,
    speech: Deque<Speech, 1_024>,
    seen: Deque<Seen, 320>,
    voice: UsualVoice,
    face: Box<UsualFace>,
    /// Whose usual `face` is.
    track: u16,
    added_ns: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            phrases: Deque::new(),
            speech: Deque::new(),
            seen: Deque::new(),
            voice: UsualVoice::default(),
            face: Box::default(),
            track: 0,
            added_ns: 0,
        }
    }
}

fn push<T, const N: usize>(ring: &mut Deque<T, N>, value: T) {
    if ring.is_full() {
        ring.pop_front();
    }
    ring.push_back(value).ok();
}

impl Ledger {
    pub fn push(&mut self, facts: &Facts) {
        for phrase in &facts.phrases {
            self.voice.pitch.push(phrase.pitch);
            self.voice.range.push(phrase.range);
            self.voice.tilt.push(phrase.tilt_db);
            push(&mut self.phrases, *phrase);
        }
        for speech in &facts.speech {
            push(&mut self.speech, *speech);
        }
        let Some(faces) = &facts.faces else { return };
        let first = faces.people.first();
        let first = first.filter(|person| LIGHT.contains(&person.light));
        let clear = |look: &Look| {
            look.eyes_px >= EYES_PX_MIN
                && look.yaw.abs() <= TURN_MAX
                && look.pitch.abs() <= TURN_MAX
                && look.roll.abs() <= TURN_MAX
        };
        let look = first.and_then(|person| person.look).filter(clear);
        let shows = first.and_then(|person| person.shows.filter(|_| person.look.as_ref().is_none_or(clear)));
        let track = faces.people.first().map_or(0, |person| person.track);
        let mut tracks = Tracks::default();
        tracks.iter_mut().zip(&faces.people).for_each(|(track, person)| *track = person.track);
        push(&mut self.seen, Seen { at_ns: faces.at_ns, present: faces.present, tracks, look, shows });
        if let Some(look) = look {
            self.get_used(track, faces.at_ns, &look);
        }
    }

    fn get_used(&mut self, track: u16, at_ns: u64, look: &Look) {
        if track != self.track {
            *self.face = UsualFace::default();
            (self.track, self.added_ns) = (track, 0);
        }
        if self.added_ns > 0 && at_ns.saturating_sub(self.added_ns) < EVERY_NS {
            return;
        }
        self.added_ns = at_ns;
        self.face.mouth_wide.push(look.mouth_wide);
        self.face.corners_up.push(look.corners_up);
        self.face.brow_up.push(look.brow_up);
        self.face.brow_tilt.push(look.brow_tilt);
    }

    /// Who was there from `start_ns` to `end_ns`.
    pub fn presence(&self, start_ns: u64, end_ns: u64) -> Presence {
        let inside = |at_ns: u64| (start_ns..=end_ns).contains(&at_ns);
        let mut presence = Presence::default();
        for speech in self.speech.iter().filter(|speech| inside(speech.at_ns)) {
            *presence.voice.get_or_insert(false) |= speech.active;
        }
        for seen in self.seen.iter().filter(|seen| inside(seen.at_ns)) {
            *presence.face.get_or_insert(false) |= seen.present;
            presence.tracks = seen.tracks;
        }
        presence
    }

    /// What stood out from `start_ns` to `end_ns`.
    pub fn cues(&self, start_ns: u64, end_ns: u64) -> Cues {
        let presence = self.presence(start_ns, end_ns);
        let mut cues = Cues::new();
        self.hear(start_ns, end_ns, presence.voice, &mut cues);
        self.see(start_ns, end_ns, presence, &mut cues);
        cues
    }

    fn hear(&self, start_ns: u64, end_ns: u64, heard: Option<bool>, cues: &mut Cues) {
        let inside = |phrase: &&Phrase| {
            let shared = phrase.end_ns.min(end_ns).saturating_sub(phrase.start_ns.max(start_ns));
            shared as f64 >= INSIDE * (phrase.end_ns - phrase.start_ns) as f64
        };
        let phrases = || self.phrases.iter().filter(inside);
        let voiced: f32 = phrases().map(|phrase| f32::from(phrase.voiced)).sum();
        let mean =
            |of: fn(&Phrase) -> f32| phrases().map(|p| of(p) * f32::from(p.voiced)).sum::<f32>() / voiced;
        let spoke = voiced > 0.0;
        let voice = |cue, value, values: &[&'static str], observable| Measured {
            cue,
            channel: Channel::Voice,
            value,
            known: known(values),
            observable,
        };
        let mut add = |cue,
                       usual: &Own,
                       now: f32,
                       values: &[&'static str],
                       judge: &dyn Fn(f32, f32) -> &'static str| {
            let usual = usual.usual(WARM).filter(|_| spoke && now.is_finite());
            let value = usual.map_or("", |usual| judge(now, usual));
            cues.push(voice(cue, value, values, usual.is_some())).ok();
        };
        add(
            "pitch",
            &self.voice.pitch,
            mean(|p| p.pitch),
            &["high", "low", "level"],
            &|now, usual| match now - usual {
                up if up >= PITCH_HIGH => "high",
                down if down <= PITCH_LOW => "low",
                _ => "level",
            },
        );
        add("range", &self.voice.range, mean(|p| p.range), &["wide", "narrow", "medium"], &|now, usual| {
            within(now / usual, RANGE_NARROW, RANGE_WIDE, ["narrow", "medium", "wide"])
        });
        add("timbre", &self.voice.tilt, mean(|p| p.tilt_db), &["soft"], &|now, usual| {
            if now - usual <= TILT_SOFT { "soft" } else { "" }
        });
        let none = heard == Some(false) && !spoke;
        cues.push(voice("voice", if none { "no" } else { "" }, &["no"], heard.is_some() || spoke)).ok();
    }

    fn see(&self, start_ns: u64, end_ns: u64, presence: Presence, cues: &mut Cues) {
        let looks = || {
            let mine =
                |seen: &&Seen| (start_ns..=end_ns).contains(&seen.at_ns) && seen.tracks[0] == self.track;
            self.seen.iter().filter(mine).filter_map(|seen| seen.look.as_ref())
        };
        let enough = looks().count() >= LOOKS_MIN && presence.face == Some(true);
        // How far the middle look of the stretch is from the usual; NaN where that is not known.
        let off = |of: fn(&Look) -> f32, usual: &Own| {
            let mut values: heapless::Vec<f32, 320> = looks().map(of).collect();
            values.sort_unstable_by(f32::total_cmp);
            let middle = values.get(values.len() / 2).copied().unwrap_or(f32::NAN);
            usual.usual(WARM).map_or(f32::NAN, |usual| middle - usual)
        };
        let face = &*self.face;
        let wide = off(|look| look.mouth_wide, &face.mouth_wide);
        let up = off(|look| look.corners_up, &face.corners_up);
        let brow = off(|look| look.brow_up, &face.brow_up);
        let tilt = off(|look| look.brow_tilt, &face.brow_tilt);
        let mouth = match () {
            () if wide >= SMILE_WIDE && up >= SMILE_UP => "smiling",
            () if up <= CORNERS_DOWN => "downturned",
            () => "",
        };
        let when = |there: bool, value| if there { value } else { "" };
        let mut add = |cue, value, values: &[&'static str], by: f32| {
            let observable = enough && !by.is_nan();
            cues.push(Measured {
                cue,
                channel: Channel::Face,
                value: when(observable, value),
                known: known(values),
                observable,
            })
            .ok();
        };
        add("mouth", mouth, &["smiling", "downturned"], wide + up);
        // A wrinkled nose pulls the brows along.
        let wrinkled = tilt <= NOSE_TILT;
        add("brow", when(brow <= BROW_DOWN && !wrinkled, "lowered"), &["lowered"], brow);
        add("nose", when(wrinkled, "wrinkled"), &["wrinkled"], tilt);
        let gone = presence.face == Some(false);
        let observable = presence.face.is_some();
        cues.push(Measured {
            cue: "face",
            channel: Channel::Face,
            value: when(gone, "no"),
            known: known(&["no"]),
            observable,
        })
        .ok();
        if presence.face == Some(true) {
            self.read(start_ns, end_ns, presence.tracks[0], cues);
        }
    }

    /// What a net for expressions says of the face that is there, in place of what the mesh says of the same.
    fn read(&self, start_ns: u64, end_ns: u64, track: u16, cues: &mut Cues) {
        let inside = |seen: &&Seen| (start_ns..=end_ns).contains(&seen.at_ns) && seen.tracks[0] == track;
        let shows = || self.seen.iter().filter(inside).filter_map(|seen| seen.shows.as_ref());
        let looks = shows().count();
        if looks < LOOKS_MIN {
            return;
        }
        for (name, channel, values) in CUES.iter().filter(|(_, channel, _)| *channel == Channel::Face) {
            let share = |value: &str| {
                let claim = face_claims().position(|claim| claim == (*name, value))?;
                let sum: Option<f32> = shows().map(|shows| shows[claim]).sum();
                sum.map(|sum| sum / looks as f32)
            };
            let named = || values.iter().filter_map(|value| Some((*value, share(value)?)));
            if named().next().is_none() {
                continue;
            }
            let most = named().filter(|(_, share)| *share >= SHOWN).max_by(|(_, a), (_, b)| a.total_cmp(b));
            let mesh = cues.iter().position(|cue| cue.cue == *name);
            let mesh = mesh.map(|at| cues.swap_remove(at)).filter(|mesh| mesh.observable);
            let by_mesh = |value: &str| mesh.is_some_and(|mesh| mesh.known.contains(&value));
            let mut all = Known::default();
            let both = values.iter().filter(|value| share(value).is_some() || by_mesh(value));
            all.iter_mut().zip(both).for_each(|(known, value)| *known = value);
            let left = mesh.map(|mesh| mesh.value).filter(|value| share(value).is_none());
            let value = most.map(|(value, _)| value).or(left).unwrap_or("");
            cues.push(Measured { cue: name, channel: *channel, value, known: all, observable: true }).ok();
        }
    }
}

/// What was said, as a cue: its tone where it has one, or that there were no words.
pub fn words(said: &str) -> Measured {
    let value = if said.is_empty() { "no" } else { tone(said) };
    Measured {
        cue: "words",
        channel: Channel::Words,
        value,
        known: known(&["good", "bad", "no"]),
        observable: true,
    }
}

/// `share` against two limits.
fn within(share: f32, low: f32, high: f32, [below, between, above]: [&'static str; 3]) -> &'static str {
    match share {
        share if share <= low => below,
        share if share >= high => above,
        _ => between,
    }
}
