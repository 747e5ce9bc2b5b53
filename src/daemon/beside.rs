//! What is shown beside the label of an episode: told when it comes, changes or goes.

use crate::{
    policy::Policy,
    wire::{NO_LABEL, Second},
};

#[derive(Default)]
pub struct Beside {
    told: Option<Second>,
}

impl Beside {
    /// What has to be told after a window: another label, or a confidence that moved by as much as is worth a change.
    pub fn news(&mut self, at_ms: u64, policy: &Policy) -> Option<Second> {
        let now = policy.holds().zip(policy.second()).map(|((_, episode), (label, mean))| Second {
            at_ms,
            episode,
            label,
            confidence_permille: (mean.clamp(0.0, 1.0) * 1000.0).round() as u16,
        });
        let step = (policy.limits().change * 1000.0) as u16;
        let news = match (self.told, now) {
            (Some(told), Some(now)) if (told.episode, told.label) == (now.episode, now.label) => {
                let by = now.confidence_permille.abs_diff(told.confidence_permille);
                Some(now).filter(|_| step > 0 && by >= step)?
            }
            (_, Some(now)) => now,
            (told, None) => Second { at_ms, label: NO_LABEL, confidence_permille: 0, ..told? },
        };
        self.told = now;
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Limits, Observation},
        wire::{Cause, VIDEO},
    };

    #[test]
    fn a_second_label_is_told_once_and_its_going_too() {
        let limits = Limits { smooth_ms: 0, dwell_ms: 0, second: 0.2, change: 0.1, ..Limits::default() };
        let (mut policy, mut beside, mut at_ms) = (Policy::new(limits, 3, 7), Beside::default(), 0);
        let mut window = |policy: &mut Policy, scores: [f32; 3]| {
            at_ms += 1_000;
            let (expected, present) = (VIDEO, VIDEO);
            policy.push(&Observation {
                at_ms,
                window_ms: 1_000,
                expected,
                present,
                nobody: false,
                scores: Some(&scores),
            });
            at_ms
        };
        let second = |at_ms, label, confidence_permille| {
            Some(Second { at_ms, episode: 7, label, confidence_permille })
        };
        let steps = [
            ([0.8, 0.1, 0.1], None),
            ([0.7, 0.25, 0.05], second(2_000, 1, 250)),
            ([0.7, 0.26, 0.04], None),
            ([0.6, 0.36, 0.04], second(4_000, 1, 360)),
            ([0.7, 0.05, 0.25], second(5_000, 2, 250)),
            ([0.9, 0.05, 0.05], second(6_000, NO_LABEL, 0)),
            ([0.9, 0.05, 0.05], None),
            ([0.7, 0.25, 0.05], second(8_000, 1, 250)),
        ];
        for (scores, told) in steps {
            let at_ms = window(&mut policy, scores);
            assert_eq!(beside.news(at_ms, &policy), told, "{scores:?}");
        }
        policy.close(9_000, Cause::Muted);
        assert_eq!(beside.news(9_000, &policy), second(9_000, NO_LABEL, 0), "an end ends it");
        assert_eq!(beside.news(9_500, &policy), None);
    }
}
