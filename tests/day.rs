//! A day of windows through policy and sinks, in seconds: memory and files stay what they were. Alone in its process, which is measured.
#![cfg(all(feature = "mqtt", feature = "page"))]

mod dice;

use dice::Dice;
use mien::{
    policy::{Limits, Need, Observation, Policy},
    sink::{Message, Setup, Sink, Sinks, Speaker, WindowScores, stdout, stdout::Stdout},
    wire::{AUDIO, Kind, LABELS_MAX, VIDEO},
};
use std::{fs, path::Path, sync::Arc, time::Instant};

const BOTH: u8 = VIDEO | AUDIO;

fn speaker() -> Arc<Speaker> {
    Arc::new(Speaker {
        boot: 1,
        machine: "00112233445566aa".into(),
        device: "bench".into(),
        purpose: "research".into(),
        bundle: "tiny".into(),
        bundle_hash: [0; 8],
        label_set: "dfew".into(),
        labels: ["happy", "sad", "neutral", "angry"].map(String::from).into(),
        window_ms: 4_000,
        hop_ms: 1_000,
        heartbeat_ms: 1_000,
    })
}

/// Sinks of a site that has everything but a working broker: standard output, a page, and MQTT to a port that refuses.
fn every_sink(folder: &Path) -> Vec<Box<dyn Sink>> {
    let setup = Setup { speaker: speaker(), state_dir: folder.to_owned() };
    let text = format!(
        "[page]\nlisten = \"unix:{}/page\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = 1\nqueue = 64\n",
        folder.display()
    );
    let sinks: Sinks = toml::from_str(&text).unwrap();
    let mut all: Vec<Box<dyn Sink>> = sinks.all().iter().map(|sink| sink.open(&setup).unwrap()).collect();
    let settings = stdout::Settings { scores: true, ..stdout::Settings::default() };
    all.push(Box::new(Stdout::to(settings, speaker(), Box::new(std::io::sink()))));
    all
}

/// A label for some windows, then another: scores as a model gives them.
fn scores(dice: &mut Dice, window: u64) -> [f32; LABELS_MAX] {
    let mut all = [0.0; LABELS_MAX];
    let top = (window / 20 % 4) as usize;
    (0..4).for_each(|label| {
        all[label] = if label == top { 0.6 + 0.3 * dice.share() } else { 0.1 * dice.share() }
    });
    all
}

/// Pushes windows through a policy into the sinks; begins and ends.
fn windows(
    sinks: &mut [Box<dyn Sink>],
    policy: &mut Policy,
    dice: &mut Dice,
    range: std::ops::Range<u64>,
) -> (u64, u64) {
    let (mut begins, mut ends) = (0, 0);
    for window in range {
        let (at_ms, plain) = (window * 1000, scores(dice, window));
        let present = if window.is_multiple_of(97) { VIDEO } else { BOTH };
        let seen = Observation {
            at_ms,
            window_ms: 4_000,
            expected: BOTH,
            present,
            nobody: false,
            scores: Some(&plain[..4]),
        };
        let mut messages: Vec<Message> = policy.push(&seen).into_iter().map(Message::Event).collect();
        let mut smoothed = [0.0; LABELS_MAX];
        smoothed[..4].copy_from_slice(policy.smoothed());
        messages.push(Message::Scores(WindowScores {
            at_ms,
            expected: BOTH,
            present,
            nobody: false,
            labels: 4,
            plain,
            smoothed,
        }));
        for message in &messages {
            if let Message::Event(event) = message {
                begins += u64::from(event.kind == Kind::Begin);
                ends += u64::from(event.kind == Kind::End);
            }
            sinks.iter_mut().for_each(|sink| sink.send(message));
        }
    }
    (begins, ends)
}

fn limits() -> Limits {
    Limits {
        smooth_ms: 2_000,
        enter: 0.5,
        exit: 0.3,
        dwell_ms: 2_000,
        refractory_ms: 0,
        patience_ms: 3_000,
        change: 0.2,
        second: 0.0,
        need: Need::Any,
    }
}

fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_day_of_windows_takes_no_more_memory_than_its_second_hour() {
    let folder = tempfile::tempdir().unwrap();
    let mut sinks = every_sink(folder.path());
    let (mut policy, mut dice) = (Policy::new(limits(), 4, 0), Dice(7));
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let start = Instant::now();
    let (mut begins, mut ends) = windows(&mut sinks, &mut policy, &mut dice, 0..7_200);
    let (first, files_first) = (resident_bytes(), files());
    let (more, and_more) = windows(&mut sinks, &mut policy, &mut dice, 7_200..86_400);
    let took = start.elapsed();
    (begins, ends) = (begins + more, ends + and_more);
    let (last, files_last) = (resident_bytes(), files());
    assert!(begins > 1_000 && begins - ends <= 1, "{begins} begins, {ends} ends");
    assert!(last.saturating_sub(first) < 1 << 20, "{first} bytes after two hours, {last} after a day");
    assert!(files_last <= files_first + 2, "{files_first} files, then {files_last}");
    let waiting: u64 = sinks.iter().map(|sink| sink.counts().waiting).sum();
    assert!(waiting <= 64, "{waiting} wait");
    let rate = 86_400.0 / took.as_secs_f64();
    assert!(rate > 1_000.0, "{rate:.0} windows/s");
    println!(
        "seen: 24 h in {:.1} s ({rate:.0} windows/s), {begins} begins, {ends} ends, memory {:+} KiB, files {files_first} -> {files_last}, {waiting} wait for the broker",
        took.as_secs_f64(),
        (last as i64 - first as i64) / 1024
    );
}
