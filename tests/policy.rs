//! The policy as little stories: scores in, events out, and what must hold for any scores.

use mien::policy::{Limits, Need, Observation, Policy};
use mien::wire::{AUDIO, Cause, Event, Kind, NO_LABEL, VIDEO};
use proptest::prelude::*;

const BOTH: u8 = VIDEO | AUDIO;
const HOP_MS: u64 = 1_000;

fn sharp() -> Limits {
    Limits {
        smooth_ms: 0,
        enter: 0.6,
        exit: 0.4,
        dwell_ms: 2_000,
        refractory_ms: 5_000,
        patience_ms: 3_000,
        change: 0.0,
        second: 0.0,
        need: Need::Any,
    }
}

/// Three labels: `top` at `value`, the rest shared.
fn scores(top: usize, value: f32) -> Vec<f32> {
    let mut out = vec![(1.0 - value) / 2.0; 3];
    out[top] = value;
    out
}

struct Story {
    policy: Policy,
    at_ms: u64,
    events: Vec<Event>,
}

impl Story {
    fn new(limits: Limits) -> Story {
        limits.check().unwrap();
        Story { policy: Policy::new(limits, 3, 0), at_ms: 0, events: Vec::new() }
    }
    fn hop(&mut self, present: u8, scores: Option<&[f32]>) -> &mut Story {
        self.at_ms += HOP_MS;
        let seen = Observation {
            at_ms: self.at_ms,
            window_ms: 4_000,
            expected: BOTH,
            present,
            nobody: false,
            scores,
        };
        self.events.extend(self.policy.push(&seen));
        self
    }
    fn hops(&mut self, count: usize, top: usize, value: f32) -> &mut Story {
        for _ in 0..count {
            self.hop(BOTH, Some(&scores(top, value)));
        }
        self
    }
    fn close(&mut self, cause: Cause) -> &mut Story {
        self.at_ms += HOP_MS;
        let at_ms = self.at_ms;
        self.events.extend(self.policy.close(at_ms, cause));
        self
    }
    /// `(second, kind, label, cause)` of each event.
    fn told(&self) -> Vec<(u64, Kind, u8, Cause)> {
        self.events.iter().map(|e| (e.at_ms / 1000, e.kind, e.label, e.cause)).collect()
    }
}

#[test]
fn a_calm_person_who_smiles_and_stops() {
    let mut story = Story::new(sharp());
    story.hops(3, 0, 0.5).hops(4, 1, 0.8).hops(2, 1, 0.3);
    assert_eq!(
        story.told(),
        [
            (1, Kind::Unknown, NO_LABEL, Cause::LowConfidence),
            (6, Kind::Begin, 1, Cause::None),
            (8, Kind::End, 1, Cause::Faded),
            (8, Kind::Unknown, NO_LABEL, Cause::LowConfidence),
        ]
    );
    let end = story.events[2];
    assert_eq!((end.episode, end.begin_ms, end.confidence_permille), (1, 6_000, 300));
    assert_eq!(story.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_flicker_is_not_an_event() {
    let mut story = Story::new(sharp());
    story.hops(1, 0, 0.5);
    for _ in 0..10 {
        story.hops(2, 1, 0.9).hops(1, 2, 0.9);
    }
    assert_eq!(story.told(), [(1, Kind::Unknown, NO_LABEL, Cause::LowConfidence)]);
}

#[test]
fn between_the_two_thresholds_a_label_holds() {
    let mut story = Story::new(sharp());
    story.hops(3, 1, 0.7).hops(10, 1, 0.45);
    assert_eq!(story.told(), [(3, Kind::Begin, 1, Cause::None)]);
    assert_eq!(story.policy.holds(), Some((1, 0)));
}

#[test]
fn another_label_takes_over_in_one_step() {
    let mut story = Story::new(sharp());
    story.hops(3, 1, 0.7);
    for _ in 0..3 {
        story.hop(BOTH, Some(&[0.0, 0.4, 0.6]));
    }
    assert_eq!(
        story.told(),
        [
            (3, Kind::Begin, 1, Cause::None),
            (6, Kind::End, 1, Cause::Replaced),
            (6, Kind::Begin, 2, Cause::None)
        ]
    );
}

#[test]
fn a_label_that_ended_waits_before_it_begins_again() {
    let mut story = Story::new(sharp());
    story.hops(3, 1, 0.7).hops(1, 0, 0.5).hops(8, 1, 0.7);
    let begins: Vec<_> = story.told().into_iter().filter(|told| told.1 == Kind::Begin).collect();
    assert_eq!(begins, [(3, Kind::Begin, 1, Cause::None), (9, Kind::Begin, 1, Cause::None)]);
}

#[test]
fn a_short_loss_of_the_camera_is_forgiven_and_a_long_one_is_not() {
    let mut story = Story::new(Limits { need: Need::Video, ..sharp() });
    story.hops(3, 1, 0.7);
    story.hop(AUDIO, Some(&scores(0, 0.9))).hop(AUDIO, Some(&scores(0, 0.9))).hops(1, 1, 0.7);
    assert_eq!(story.told(), [(3, Kind::Begin, 1, Cause::None)]);
    for _ in 0..4 {
        story.hop(AUDIO, None);
    }
    assert_eq!(
        story.told()[1..],
        [(9, Kind::End, 1, Cause::NoVideo), (9, Kind::Unknown, NO_LABEL, Cause::NoVideo)]
    );
    assert_eq!((story.events[1].missing(), story.events[1].confidence_permille), (VIDEO, 700));
}

#[test]
fn nothing_at_all_comes_from_the_start() {
    let mut story = Story::new(sharp());
    for _ in 0..10 {
        story.hop(0, None);
    }
    assert_eq!(story.told(), [(4, Kind::Unknown, NO_LABEL, Cause::NoInput)]);
}

#[test]
fn one_modality_is_enough_when_any_will_do() {
    let mut story = Story::new(sharp());
    for _ in 0..3 {
        story.hop(AUDIO, Some(&scores(2, 0.9)));
    }
    assert_eq!(story.told(), [(3, Kind::Begin, 2, Cause::None)]);
    assert_eq!(story.events[0].missing(), VIDEO);
}

#[test]
fn a_failing_model_is_told_as_such() {
    let mut story = Story::new(sharp());
    story.hops(3, 1, 0.7);
    for _ in 0..3 {
        story.hop(BOTH, None);
    }
    assert_eq!(story.told()[1].3, Cause::ModelError);
}

#[test]
fn confidence_that_moves_is_told_in_steps() {
    let mut story = Story::new(Limits { change: 0.2, ..sharp() });
    story.hops(3, 1, 0.7).hops(1, 1, 0.95).hops(1, 1, 0.95).hops(3, 1, 0.85);
    let changes: Vec<_> = story.events.iter().filter(|e| e.kind == Kind::Change).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].at_ms, changes[0].confidence_permille, changes[0].begin_ms), (5_000, 950, 3_000));
}

#[test]
fn the_mean_follows_its_time_constant() {
    let mut story = Story::new(Limits { smooth_ms: 1_000, ..sharp() });
    story.hops(1, 0, 1.0).hops(1, 1, 1.0);
    let expected = (-1.0f64).exp();
    let smoothed = story.policy.smoothed();
    assert!((f64::from(smoothed[0]) - expected).abs() < 1e-6, "{smoothed:?}");
    assert!((f64::from(smoothed[1]) - (1.0 - expected)).abs() < 1e-6, "{smoothed:?}");
}

#[test]
fn mute_and_shutdown_end_what_holds() {
    let mut story = Story::new(sharp());
    story.hops(3, 1, 0.7).close(Cause::Muted).close(Cause::Shutdown);
    assert_eq!(
        story.told(),
        [
            (3, Kind::Begin, 1, Cause::None),
            (4, Kind::End, 1, Cause::Muted),
            (4, Kind::Unknown, NO_LABEL, Cause::Muted),
            (5, Kind::Unknown, NO_LABEL, Cause::Shutdown),
        ]
    );
}

#[test]
fn a_window_from_the_past_is_dropped() {
    let mut story = Story::new(sharp());
    story.hops(3, 1, 0.7);
    story.at_ms -= 2_000;
    story.hops(2, 0, 0.1);
    assert_eq!(story.told().len(), 1);
}

#[test]
fn thresholds_that_cannot_work_are_refused_by_name() {
    for (limits, name) in [
        (Limits { enter: 1.5, ..sharp() }, "policy.enter"),
        (Limits { exit: -0.1, ..sharp() }, "policy.exit"),
        (Limits { exit: 0.6, ..sharp() }, "policy.exit"),
        (Limits { enter: f32::NAN, ..sharp() }, "policy.enter"),
        (Limits { dwell_ms: 1 << 40, ..sharp() }, "policy.dwell_ms"),
        (Limits { second: -0.2, ..sharp() }, "policy.second"),
    ] {
        let error = limits.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn another_label_is_told_beside_the_one_that_holds_while_it_is_likely_enough() {
    let mut story = Story::new(Limits { second: 0.3, ..sharp() });
    let mut shown = |scores: [f32; 3]| {
        story.hop(BOTH, Some(&scores));
        story.policy.second().map(|(label, mean)| (label, (mean * 100.0).round() as u32))
    };
    let alone = [0.7, 0.2, 0.1];
    assert_eq!([shown([0.6, 0.4, 0.0]), shown(alone)], [None, None], "nothing holds yet");
    assert_eq!(shown(alone), None, "too unlikely");
    assert_eq!(shown([0.62, 0.35, 0.03]), Some((1, 35)));
    // It stays above 0.3 * 0.4 / 0.6, and goes below it.
    assert_eq!([shown([0.7, 0.21, 0.09]), shown([0.75, 0.19, 0.06])], [Some((1, 21)), None]);
    assert_eq!(shown([0.6, 0.08, 0.32]), Some((2, 32)));
    assert_eq!(shown([0.5, 0.31, 0.19]), Some((1, 31)), "the likeliest other");
    // What held has faded: nothing is beside nothing.
    assert_eq!(shown([0.39, 0.31, 0.3]), None);

    let mut never = Story::new(sharp());
    never.hops(5, 0, 0.6);
    assert_eq!(never.policy.second(), None);
}

fn step() -> impl Strategy<Value = (u64, u8, Option<[f32; 3]>, u8)> {
    let scores = prop::option::of((0.0f32..1.0, 0.0f32..1.0, 0.0f32..1.0).prop_map(|(a, b, c)| {
        let sum = a + b + c + 1e-6;
        [a / sum, b / sum, c / sum]
    }));
    (0u64..4_000, 0u8..4, scores, 0u8..20)
}

proptest! {
    #[test]
    fn every_begin_has_one_end(
        steps in prop::collection::vec(step(), 0..200),
        smooth_ms in 0u64..3_000,
        dwell_ms in 0u64..3_000,
        refractory_ms in 0u64..3_000,
        patience_ms in 0u64..3_000,
        enter in 0.3f32..0.9,
        change in 0.0f32..0.5,
        second in 0.0f32..0.5,
        need in prop::sample::select(vec![Need::Any, Need::Video, Need::Audio, Need::Both]),
    ) {
        let limits =
            Limits { smooth_ms, enter, exit: enter - 0.1, dwell_ms, refractory_ms, patience_ms, change, second, need };
        let floor = second * (enter - 0.1) / enter;
        let mut policy = Policy::new(limits, 3, 7);
        let mut events = Vec::new();
        let mut at_ms = 0;
        for (dt, present, scores, act) in steps {
            at_ms += dt;
            if act == 0 {
                events.extend(policy.close(at_ms, Cause::Muted));
            } else {
                let scores = scores.as_ref().map(|s| &s[..]);
                events.extend(policy.push(&Observation { at_ms, window_ms: 4_000, expected: BOTH, present, nobody: false, scores }));
            }
            if let Some((label, mean)) = policy.second() {
                prop_assert!(second > 0.0 && mean >= floor - 1e-6);
                prop_assert!(policy.holds().is_some_and(|(holds, _)| holds != label));
            }
        }
        events.extend(policy.close(at_ms, Cause::Shutdown));
        prop_assert_eq!(policy.holds(), None);

        let mut open: Option<Event> = None;
        let mut last_ms = 0;
        for (i, event) in events.iter().enumerate() {
            prop_assert_eq!(event.seq, 7 + i as u32);
            prop_assert!(event.at_ms >= last_ms);
            prop_assert!(event.confidence_permille <= 1000);
            last_ms = event.at_ms;
            match event.kind {
                Kind::Begin => {
                    prop_assert!(open.is_none());
                    prop_assert_eq!(event.episode, event.seq);
                    open = Some(*event);
                }
                Kind::Change | Kind::End => {
                    let begin = open.expect("something holds");
                    prop_assert_eq!((event.episode, event.label, event.begin_ms), (begin.seq, begin.label, begin.at_ms));
                    if event.kind == Kind::End {
                        open = None;
                    }
                }
                Kind::Unknown => prop_assert!(open.is_none()),
                Kind::Other => prop_assert!(false, "the policy says nothing else"),
            }
        }
        prop_assert!(open.is_none());
    }
}
