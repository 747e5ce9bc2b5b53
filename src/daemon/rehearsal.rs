//! Can this machine keep up? One window is scored before the first device is opened, and its time is held against the hop.

use super::plan::Plan;
use crate::{
    config::OnLate,
    model::{Infer, Input},
    source::{Frame, SAMPLE_RATE},
    window,
};
use anyhow::{Context, Result, bail};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Share of a hop that a window may take: the rest is for what else the machine does.
const SHARE: f64 = 0.9;

/// Pixels of a rehearsal's pictures, across and down.
const PICTURE: u32 = 224;

/// Scores a grey and silent window and returns how long it takes. The first one of a model also pays for what is `touched` for the
/// first time, so a second counts.
pub fn rehearse(plan: &Plan, infer: &mut dyn Infer, touched: bool) -> Result<Duration> {
    let pixels = (PICTURE * PICTURE * 3) as usize;
    let frame = Frame { captured_ns: 0, height: PICTURE, width: PICTURE, rgb: vec![128; pixels] };
    let samples = vec![0.0; plan.window.window_ms as usize * SAMPLE_RATE as usize / 1_000];
    let gives = plan.gives();
    let mut took = Duration::ZERO;
    for round in 1..=if touched { 1 } else { 2 } {
        // Ids that no real frame will have.
        let frames: Vec<(u64, &Frame)> =
            (0..plan.frames as u64).map(|i| (u64::MAX - i * 2 - round, &frame)).collect();
        let input = Input {
            frames: gives.video.then_some(&frames[..]),
            samples: gives.audio.then_some(&samples[..]),
            words: None,
        };
        let started = Instant::now();
        infer
            .see(&plan.model.prompt, &input)
            .and_then(|()| infer.score(&plan.model.labels).map(drop))
            .context("scoring a first window")?;
        took = started.elapsed();
    }
    Ok(took)
}

/// What follows from the time of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fits,
    /// The shortest hop that can be kept.
    Slow {
        hop_ms: u32,
    },
    /// No hop up to the longest can be kept.
    TooSlow,
}

/// States how long a window takes and how that compares with the hop, and does what the config says where it is too long:
/// refuses, or stretches the plan's hop, or leaves windows out.
pub fn keep_up(plan: &mut Plan, took: Duration) -> Result<()> {
    let window = plan.window;
    let took_ms = took.as_secs_f64() * 1_000.0;
    let factor = took_ms / f64::from(window.hop_ms);
    let said = format!("window_ms={took_ms:.0} hop_ms={} real_time_factor={factor:.2}", window.hop_ms);
    match (verdict(&window, plan.frames, took_ms), plan.daemon.on_late) {
        (Verdict::Fits, _) => log::info!("keeps up: {said}"),
        (Verdict::Slow { hop_ms }, OnLate::Refuse) => bail!(
            "this machine is too slow for its config: {said}; set window.hop_ms = {hop_ms} or more, a smaller bundle, or \
             daemon.on_late = \"stretch\""
        ),
        (Verdict::TooSlow, OnLate::Refuse | OnLate::Stretch) => {
            bail!("this machine is too slow for this bundle at any hop: {said}; take a smaller bundle")
        }
        (Verdict::Slow { hop_ms }, OnLate::Stretch) => {
            log::warn!("too slow, the hop becomes {hop_ms} ms: {said}");
            plan.window.hop_ms = hop_ms;
            Arc::make_mut(&mut plan.speaker).hop_ms = hop_ms;
        }
        (Verdict::Slow { .. } | Verdict::TooSlow, OnLate::Skip) => {
            log::warn!("too slow, windows will be left out and counted as late: {said}");
        }
    }
    Ok(())
}

fn verdict(window: &window::Settings, frames: usize, took_ms: f64) -> Verdict {
    if took_ms <= f64::from(window.hop_ms) * SHARE {
        return Verdict::Fits;
    }
    let longer =
        (window.hop_ms + 1..=window::HOP_MS_MAX).map(|hop_ms| window::Settings { hop_ms, ..*window });
    let kept = longer
        .filter(|longer| took_ms <= f64::from(longer.hop_ms) * SHARE)
        .find(|longer| longer.check(frames).is_ok());
    kept.map_or(Verdict::TooSlow, |longer| Verdict::Slow { hop_ms: longer.hop_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hop_that_windows_can_have_is_found() {
        let window = window::Settings { window_ms: 4_000, hop_ms: 1_000, lateness_ms: 500 };
        assert_eq!(verdict(&window, 8, 900.0), Verdict::Fits);
        assert_eq!(verdict(&window, 8, 901.0), Verdict::Slow { hop_ms: 1_500 });
        assert_eq!(verdict(&window, 8, 5_200.0), Verdict::Slow { hop_ms: 6_000 });
        assert_eq!(verdict(&window, 8, 60_000.0), Verdict::TooSlow);
    }
}
