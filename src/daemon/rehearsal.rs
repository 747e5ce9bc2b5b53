//! Can this machine keep up? One window is scored before the first device is opened, and its time is held against the hop.

use super::{Pace, Plan};
use crate::{config::OnLate, window};
use anyhow::{Result, bail};
use std::{sync::Arc, time::Duration};

/// Share of a hop that a window may take: the rest is for what else the machine does.
const SHARE: f64 = 0.9;

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
/// refuses, or stretches the plan's hop, or leaves windows out. Recordings that are played fast keep up by definition.
pub fn keep_up(plan: &mut Plan, took: Duration) -> Result<()> {
    if plan.pace == Pace::Fast {
        return Ok(());
    }
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
