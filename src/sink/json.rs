//! Events as JSON, one object per line: what `stdout` prints, MQTT carries, and `watch` and `draw` read again.
//!
//! Every object has a `type`. `expression` and `confidence` are named and valued as in ROS `hri_msgs/Expression`; `label` is
//! the bundle's own word. Absent values are absent keys.
//! Units: `_ms` as on the wire; `confidence` and scores from 0 to 1.

use super::message::{EpisodeReason, Message, Speaker};
use crate::{
    cues::{
        Channel,
        claims::{self, Claim},
        ground::{self, Verdict},
        lexicon::{self, Said},
    },
    wire::{self, AUDIO, VIDEO},
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line {
    Hello(Hello),
    Event(Event),
    State(State),
    Heartbeat(Heartbeat),
    Scores(Scores),
    Reason(Reason),
    Grounds(Grounded),
    People(People),
    Faces(Faces),
    Second(Second),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: String,
    pub schema: String,
    pub boot: String,
    /// Tells machines with the same device name apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    pub device: String,
    pub software: String,
    pub purpose: String,
    pub bundle: String,
    pub bundle_hash: String,
    pub label_set: String,
    pub labels: Vec<String>,
    pub window_ms: u32,
    pub hop_ms: u32,
    pub heartbeat_ms: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `begin`, `change`, `end` or `unknown`.
    pub event: String,
    /// With the device's name and `seq` it names this event for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    pub seq: u32,
    pub episode: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    pub confidence: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub track: u16,
    pub at_ms: u64,
    /// Absent where the episode began before this machine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin_ms: Option<u64>,
    /// Of an `end`: how long the label held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<u64>,
    pub window_ms: u32,
    pub present: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_synced: Option<bool>,
    pub age_ms: u32,
}

/// What holds now, as a retained MQTT message says it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// A label, or `unknown`.
    pub label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    pub confidence: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    pub seq: u32,
    pub since_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    pub boot: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub uptime_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub events: u32,
    pub windows: u32,
    pub late: u32,
    pub dropped: u32,
    pub video: String,
    pub audio: String,
    pub muted: bool,
    pub infer_ms: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub at_ms: u64,
    pub present: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// A gate found nobody: the model was not asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nobody: bool,
    pub plain: Vec<f32>,
    pub smoothed: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub episode: u32,
    pub at_ms: u64,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What it claims of face, voice and words, in the words of the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// Claims about a modality that the window did not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfounded: Vec<String>,
    /// Its label was gone before it was written to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Its claims held against what was measured of the window; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounds: Option<Grounds>,
    /// Faces in the window's last look, where faces are looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub people: Option<u8>,
}

/// How a reason's claims stand, as a serial line says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grounded {
    pub episode: u32,
    pub claims: u8,
    #[serde(rename = "true")]
    pub held: u8,
    pub contradicted: u8,
    pub unseen: u8,
    /// Numbers of the claims that are contradicted, from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub which: Vec<u8>,
}

/// Faces that are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct People {
    pub at_ms: u64,
    pub count: u8,
    /// The largest face, which is scored; it lasts as long as the face is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<u16>,
}

/// What each face shows, the one that events are about first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Faces {
    pub at_ms: u64,
    pub faces: Vec<Face>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Face {
    pub track: u16,
    /// Without a label while none holds.
    #[serde(flatten)]
    pub shown: Shown,
}

/// A label and how sure it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    pub confidence: f64,
}

impl Shown {
    fn of(label: Option<String>, confidence_permille: u16) -> Shown {
        Shown {
            expression: label.as_deref().map(|label| expression(label).into()),
            label,
            confidence: f64::from(confidence_permille) / 1000.0,
        }
    }
}

/// What is shown beside the label of an episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Second {
    pub at_ms: u64,
    pub episode: u32,
    /// Without a label where there is nothing beside it any more.
    #[serde(flatten)]
    pub shown: Shown,
}

impl Second {
    pub fn of(second: &wire::Second, label: Option<&str>) -> Second {
        let shown = Shown::of(label.map(Into::into), second.confidence_permille);
        Second { at_ms: second.at_ms, episode: second.episode, shown }
    }

    /// What people read.
    pub fn text(&self) -> String {
        match &self.shown.label {
            Some(label) => format!("with {label} {:.2}", self.shown.confidence),
            None => "alone".into(),
        }
    }
}

impl Faces {
    /// `name` gives a label's name.
    pub fn of(faces: &wire::Faces, name: impl Fn(u8) -> Option<String>) -> Faces {
        let face = |face: &wire::Face| Face {
            track: face.track,
            shown: Shown::of(name(face.label), face.confidence_permille),
        };
        Faces { at_ms: faces.at_ms, faces: faces.faces.iter().map(face).collect() }
    }

    /// What people read: a label and its confidence for each face.
    pub fn text(&self) -> String {
        let face = |face: &Face| match &face.shown.label {
            Some(label) => format!("{}: {label} {:.2}", face.track, face.shown.confidence),
            None => format!("{}: -", face.track),
        };
        match self.faces.is_empty() {
            true => "nobody".into(),
            false => self.faces.iter().map(face).collect::<Vec<_>>().join(", "),
        }
    }
}

impl Grounded {
    pub fn of(grounds: &wire::Grounds) -> Grounded {
        let wire::Grounds { episode, claims, held, contradicted, unseen, contradicted_bits: bits } = *grounds;
        let which = (0..32).filter(|i| bits & (1 << i) != 0).collect();
        Grounded { episode, claims, held, contradicted, unseen, which }
    }
}

impl People {
    pub fn of(people: &wire::People) -> People {
        let wire::People { at_ms, count, track } = *people;
        People { at_ms, count, track: (track > 0).then_some(track) }
    }
}

/// A reason's claims and how they stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grounds {
    pub claims: u32,
    /// Claims that were measured.
    #[serde(rename = "true")]
    pub held: u32,
    pub contradicted: u32,
    pub verdicts: Vec<Judged>,
}

/// One claim: bytes `from` to `to` of the text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub claim: String,
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub doubted: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other: bool,
    pub from: usize,
    pub to: usize,
}

impl Grounds {
    fn of(grounds: &ground::Grounds) -> Grounds {
        let judged = |judged: &ground::Judged| {
            let Said { claim: (cue, value), denied, doubted, other, from, to, .. } = judged.said;
            Judged {
                claim: format!("{value} {cue}"),
                verdict: judged.verdict,
                denied,
                doubted,
                other,
                from,
                to,
            }
        };
        Grounds {
            claims: grounds.0.len() as u32,
            held: grounds.count(Verdict::True) as u32,
            contradicted: grounds.count(Verdict::Contradicted) as u32,
            verdicts: grounds.0.iter().map(judged).collect(),
        }
    }

    /// What people read behind a reason.
    pub fn text(&self) -> String {
        let Grounds { claims, held, contradicted, .. } = self;
        match contradicted {
            0 => format!("(grounded {held}/{claims})"),
            _ => format!("(grounded {held}/{claims}, contradicted {contradicted})"),
        }
    }
}

impl Line {
    pub fn hello(speaker: &Speaker) -> Line {
        let machine = Some(speaker.machine.clone()).filter(|machine| !machine.is_empty());
        Line::Hello(Hello { machine, ..Hello::of(&speaker.hello()) })
    }

    pub fn of(message: &Message, speaker: &Speaker) -> Line {
        match message {
            Message::Event(event) => {
                Line::Event(Event::of(event, speaker.label(event.label), Some(speaker.boot)))
            }
            Message::Heartbeat(beat) => Line::Heartbeat(Heartbeat::of(beat, speaker.label(beat.label))),
            Message::Scores(scores) => Line::Scores(Scores {
                at_ms: scores.at_ms,
                present: modalities(scores.present),
                missing: modalities(scores.expected & !scores.present),
                nobody: scores.nobody,
                plain: scores.plain[..scores.labels].iter().map(|&p| thousandths(p)).collect(),
                smoothed: scores.smoothed[..scores.labels].iter().map(|&p| thousandths(p)).collect(),
            }),
            Message::Reason(reason) => Line::Reason(Reason::of(reason)),
            Message::People(people) => Line::People(People::of(people)),
            Message::Faces(faces) => {
                Line::Faces(Faces::of(faces, |label| speaker.label(label).map(Into::into)))
            }
            Message::Second(second) => Line::Second(Second::of(second, speaker.label(second.label))),
        }
    }

    /// One line without its end.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers, text and lists of them are JSON")
    }
}

impl Reason {
    /// A text of which nothing more is known.
    pub fn plain(episode: u32, text: &str) -> Reason {
        Reason {
            episode,
            at_ms: 0,
            text: text.into(),
            answer: None,
            claims: Vec::new(),
            unfounded: Vec::new(),
            cut: false,
            grounds: None,
            people: None,
        }
    }

    fn of(reason: &EpisodeReason) -> Reason {
        let claims: Vec<Claim> = match &reason.grounds {
            Some(grounds) => grounds.0.iter().map(|judged| judged.said.claim).collect(),
            None => lexicon::read(&reason.text).into_iter().map(|said| said.claim).collect(),
        };
        let words = |claims: &[Claim]| claims.iter().map(|(cue, value)| format!("{value} {cue}")).collect();
        let lacks = |cue| match claims::modality(cue) {
            Some(Channel::Face) => reason.present & VIDEO == 0,
            Some(Channel::Voice | Channel::Words) => reason.present & AUDIO == 0,
            None => false,
        };
        // "No face" is no claim about a face.
        let unfounded: Vec<Claim> =
            claims.iter().copied().filter(|&(cue, value)| value != "no" && lacks(cue)).collect();
        Reason {
            episode: reason.episode,
            at_ms: reason.at_ms,
            text: reason.text.clone(),
            answer: reason.answer.clone(),
            claims: words(&claims),
            unfounded: words(&unfounded),
            cut: reason.cut,
            grounds: reason.grounds.as_ref().map(Grounds::of),
            people: (reason.people > 0).then_some(reason.people),
        }
    }
}

impl Hello {
    pub fn of(hello: &wire::Hello<'_>) -> Hello {
        let hash: String = hello.bundle_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Hello {
            protocol: format!("{}.{}", wire::VERSION, hello.minor),
            schema: format!("{:08x}", hello.schema),
            boot: format!("{:016x}", hello.boot),
            machine: None,
            device: hello.device.into(),
            software: hello.software.into(),
            purpose: hello.purpose.into(),
            bundle: hello.bundle.into(),
            bundle_hash: hash,
            label_set: hello.label_set.into(),
            labels: hello.labels.iter().map(|&label| label.into()).collect(),
            window_ms: hello.window_ms,
            hop_ms: hello.hop_ms,
            heartbeat_ms: hello.heartbeat_ms,
        }
    }
}

impl Event {
    /// `boot` is that of the hello before it, where one was heard.
    pub fn of(event: &wire::Event, label: Option<&str>, boot: Option<u64>) -> Event {
        let cause = (event.cause != wire::Cause::None).then(|| event.cause.name().into());
        let wall = event.wall_ms > 0;
        Event {
            event: event.kind.name().into(),
            boot: boot.map(|boot| format!("{boot:016x}")),
            seq: event.seq,
            episode: event.episode,
            label: label.map(Into::into),
            expression: label.map(|label| expression(label).into()),
            confidence: f64::from(event.confidence_permille) / 1000.0,
            cause,
            track: event.track,
            at_ms: event.at_ms,
            begin_ms: (event.begin_ms <= event.at_ms).then_some(event.begin_ms),
            lasted_ms: (event.kind == wire::Kind::End).then(|| event.lasted_ms()),
            window_ms: event.window_ms,
            present: modalities(event.present),
            missing: modalities(event.missing()),
            wall_ms: wall.then_some(event.wall_ms),
            wall_synced: wall.then_some(event.wall_synced == 1),
            age_ms: event.age_ms,
        }
    }
}

impl State {
    /// What holds after an event.
    pub fn after(event: &wire::Event, speaker: &Speaker) -> State {
        let holds = matches!(event.kind, wire::Kind::Begin | wire::Kind::Change);
        let label = speaker.label(event.label).filter(|_| holds);
        State {
            label: label.unwrap_or("unknown").into(),
            expression: label.map(|label| expression(label).into()),
            confidence: if holds { f64::from(event.confidence_permille) / 1000.0 } else { 0.0 },
            cause: (!holds).then(|| event.cause.name().into()),
            seq: event.seq,
            since_ms: if holds { event.begin_ms } else { event.at_ms },
            wall_ms: (event.wall_ms > 0).then_some(event.wall_ms),
            boot: format!("{:016x}", speaker.boot),
        }
    }

    /// Nothing was said yet.
    pub fn first(speaker: &Speaker) -> State {
        State { label: "unknown".into(), boot: format!("{:016x}", speaker.boot), ..State::default() }
    }
}

/// `hri_msgs/Expression` as ROS 2 bridges take it, every field filled in: a bridge makes 0 of what is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ros {
    pub header: RosHeader,
    /// `unknown` while no label holds.
    pub expression: String,
    /// Not measured: 0.
    pub valence: f32,
    pub arousal: f32,
    pub confidence: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RosHeader {
    pub stamp: RosTime,
    /// The device's name.
    pub frame_id: String,
}

/// Since 1970; 0 for a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RosTime {
    pub sec: i32,
    pub nanosec: u32,
}

impl Ros {
    /// What holds after an event.
    pub fn after(event: &wire::Event, speaker: &Speaker) -> Ros {
        let state = State::after(event, speaker);
        let stamp = RosTime {
            sec: i32::try_from(event.wall_ms / 1_000).unwrap_or(i32::MAX),
            nanosec: (event.wall_ms % 1_000) as u32 * 1_000_000,
        };
        Ros {
            header: RosHeader { stamp, frame_id: speaker.device.clone() },
            expression: state.expression.unwrap_or(state.label),
            valence: 0.0,
            arousal: 0.0,
            confidence: state.confidence,
        }
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("numbers and text are JSON")
    }
}

impl Heartbeat {
    pub fn of(beat: &wire::Heartbeat, label: Option<&str>) -> Heartbeat {
        Heartbeat {
            uptime_ms: beat.uptime_ms,
            label: label.map(Into::into),
            events: beat.events,
            windows: beat.windows,
            late: beat.late,
            dropped: beat.dropped,
            video: beat.video.name().into(),
            audio: beat.audio.name().into(),
            muted: beat.muted == 1,
            infer_ms: beat.infer_ms,
        }
    }
}

/// The word of `hri_msgs/Expression` for a label of the usual sets; another label stays as it is.
pub fn expression(label: &str) -> &str {
    match label {
        "anger" => "angry",
        "disgust" => "disgusted",
        "fear" | "fearful" => "scared",
        "happiness" | "joy" => "happy",
        "sadness" => "sad",
        "surprise" => "surprised",
        "contempt" => "contempt",
        "anxiety" => "anxious",
        "disappointment" => "disappointed",
        other => other,
    }
}

fn modalities(bits: u8) -> Vec<String> {
    [(VIDEO, "video"), (AUDIO, "audio")]
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, name)| name.into())
        .collect()
}

fn thousandths(p: f32) -> f32 {
    (p * 1000.0).round() / 1000.0
}
