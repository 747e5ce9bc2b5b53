//! Readings in, windows out, exactly: the grid, gaps, drops, lateness, the end; and what no input may break.

use mien::{
    feature::image::Resizer,
    source::{Chunk, Frame, Gives, Modality, Pool, Reading},
    window::{Part, Settings, Window, Windows},
};
use proptest::prelude::*;

const BOTH: Gives = Gives { video: true, audio: true };
const MS: u64 = 1_000_000;

fn frame(at_ms: u64) -> Reading {
    Reading::Frame(Frame { captured_ns: at_ms * MS, height: 1, width: 1, rgb: vec![(at_ms / 10) as u8; 3] })
}

/// 100 ms of sound whose samples count up from the start of time.
fn chunk(at_ms: u64) -> Reading {
    let first = at_ms * 16;
    let samples = (first..first + 1_600).map(|k| (k % 32_768) as i16).collect();
    Reading::Chunk(Chunk { captured_ns: at_ms * MS, samples })
}

fn sample(position: u64) -> f32 {
    (position % 32_768) as f32 / 32_768.0
}

const END_VIDEO: Reading = Reading::End { modality: Modality::Video };
const END_AUDIO: Reading = Reading::End { modality: Modality::Audio };

/// A window as a value: ms, ids, first bytes, and the facts.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    index: u64,
    start_ms: u64,
    end_ms: u64,
    ids: Vec<u64>,
    at_ms: Vec<u64>,
    frames_seen: u32,
    distinct: u32,
    video_gaps: u32,
    samples: Option<Vec<f32>>,
    missing: u32,
    audio_gaps: u32,
}

fn seen(window: &Window<'_>) -> Seen {
    let frames = window.frames().unwrap_or(&[]);
    Seen {
        index: window.index,
        start_ms: window.start_ns / MS,
        end_ms: window.end_ns / MS,
        ids: frames.iter().map(|(id, _)| *id).collect(),
        at_ms: frames.iter().map(|(_, frame)| frame.captured_ns / MS).collect(),
        frames_seen: window.video.seen,
        distinct: window.video.distinct,
        video_gaps: window.video.gaps,
        samples: window.samples().map(<[f32]>::to_vec),
        missing: window.audio.missing,
        audio_gaps: window.audio.gaps,
    }
}

fn push_all(windows: &mut Windows, readings: impl IntoIterator<Item = Reading>) -> Vec<Seen> {
    let mut all = Vec::new();
    for reading in readings {
        let push = windows.push(reading, |window| {
            all.push(seen(window));
            Ok(())
        });
        push.unwrap();
    }
    all
}

fn windows(gives: Gives) -> Windows {
    Windows::new(Settings::default(), 8, gives, Pool::default()).unwrap()
}

/// Ten frames a second, ten chunks a second, in the order of their ends.
fn stream(ms: std::ops::Range<u64>) -> Vec<Reading> {
    ms.step_by(100).flat_map(|at| [frame(at), chunk(at)]).collect()
}

#[test]
fn a_steady_stream_gives_a_window_every_hop() {
    let mut windows = windows(BOTH);
    let all = push_all(&mut windows, stream(0..6_100));
    assert_eq!(
        all.iter().map(|w| (w.index, w.start_ms, w.end_ms)).collect::<Vec<_>>(),
        [(0, 0, 4_000), (1, 1_000, 5_000), (2, 2_000, 6_000)]
    );
    // Cells of 500 ms; of 0, 100, .. 400 the frame at 200 is nearest to the middle (250), before the one at 300.
    assert_eq!(all[0].at_ms, [200, 700, 1_200, 1_700, 2_200, 2_700, 3_200, 3_700]);
    assert_eq!(all[0].ids, [2, 7, 12, 17, 22, 27, 32, 37], "a frame's id is its number in the stream");
    assert_eq!(all[1].ids[..6], all[0].ids[2..], "windows that overlap share pictures");
    for window in &all {
        assert_eq!((window.frames_seen, window.distinct, window.video_gaps), (40, 8, 0));
        assert_eq!((window.missing, window.audio_gaps), (0, 0));
        let samples = window.samples.as_ref().unwrap();
        assert_eq!(samples.len(), 64_000);
        assert!(samples.iter().zip(window.start_ms * 16..).all(|(&ours, position)| ours == sample(position)));
    }
}

#[test]
fn the_same_readings_give_the_same_windows_however_they_interleave() {
    let apart: Vec<Reading> = stream(0..5_000);
    let mut bunched = apart.clone();
    for second in bunched.chunks_mut(8) {
        second.sort_by_key(|reading| matches!(reading, Reading::Chunk(_)));
    }
    let ends = [END_VIDEO, END_AUDIO];
    let apart = push_all(&mut windows(BOTH), apart.into_iter().chain(ends.clone()));
    let bunched = push_all(&mut windows(BOTH), bunched.into_iter().chain(ends));
    assert_eq!(apart, bunched);
    assert_eq!(apart.len(), 2);
}

#[test]
fn the_end_sends_what_no_window_has_shown() {
    let all = push_all(&mut windows(BOTH), stream(0..4_500).into_iter().chain([END_VIDEO, END_AUDIO]));
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].start_ms, all[1].missing, all[1].audio_gaps), (1_000, 8_000, 1));
    assert_eq!(all[1].at_ms[6..], [4_200, 4_200], "an empty cell shows its neighbour's picture");
    assert_eq!((all[1].frames_seen, all[1].distinct), (35, 7));

    let all = push_all(&mut windows(BOTH), stream(0..4_000).into_iter().chain([END_VIDEO, END_AUDIO]));
    assert_eq!(all.len(), 1, "nothing is left to show");

    let short = push_all(&mut windows(BOTH), [frame(0), chunk(0), END_AUDIO, END_VIDEO]);
    assert_eq!(short.len(), 1);
    assert_eq!(short[0].ids, [0; 8], "a short clip is one window; one frame is seen eight times");
    assert_eq!(short[0].missing, 64_000 - 1_600);

    assert_eq!(push_all(&mut windows(BOTH), [END_VIDEO, END_AUDIO]), []);
}

#[test]
fn a_modality_that_is_not_there_is_not_waited_for() {
    let video = stream(0..4_100).into_iter().filter(|reading| matches!(reading, Reading::Frame(_)));
    let all = push_all(&mut windows(Gives { video: true, audio: false }), video);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].samples.as_ref(), all[0].missing), (None, 64_000));

    let audio = stream(0..4_000).into_iter().filter(|reading| matches!(reading, Reading::Chunk(_)));
    let all = push_all(&mut windows(Gives { video: false, audio: true }), audio);
    assert_eq!(all.len(), 1, "due with the very last sample");
    assert_eq!((all[0].ids.len(), all[0].frames_seen), (0, 0));
    assert!(all[0].samples.is_some());
}

#[test]
fn a_silent_modality_is_waited_for_no_longer_than_said() {
    let mut windows = windows(BOTH);
    let frames = |ms: std::ops::Range<u64>| ms.step_by(100).map(frame);
    let mut all = push_all(&mut windows, [chunk(0)]);
    all.extend(push_all(&mut windows, frames(0..4_500)));
    assert_eq!(all, [], "sound may still come");
    all.extend(push_all(&mut windows, frames(4_500..4_600)));
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].missing, all[0].audio_gaps), (64_000 - 1_600, 1));
    // Sound that comes now is late for that window and in time for the next one.
    all.extend(push_all(&mut windows, (100..5_000).step_by(100).map(chunk)));
    all.extend(push_all(&mut windows, frames(4_600..5_100)));
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].start_ms, all[1].missing), (1_000, 0));
}

#[test]
fn lost_stretches_are_facts_of_the_window() {
    let mut windows = windows(BOTH);
    push_all(&mut windows, stream(0..1_000));
    let lost = |modality, at_ms: u64| Reading::Lost { modality, at_ns: at_ms * MS };
    let gone =
        (1_500..4_500).step_by(500).flat_map(|at| [lost(Modality::Video, at), lost(Modality::Audio, at)]);
    let all = push_all(&mut windows, gone);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].frames_seen, all[0].distinct, all[0].video_gaps), (10, 2, 5));
    assert_eq!((all[0].missing, all[0].audio_gaps), (48_000, 1));
    let all = push_all(&mut windows, stream(4_500..5_600));
    assert_eq!(all.len(), 1, "both came back in the middle");
    let samples = all[0].samples.as_ref().unwrap();
    assert_eq!(all[0].missing, 16 * 3_500);
    assert!(samples[..56_000].iter().all(|&sample| sample == 0.0));
    assert!(samples[56_000..].iter().zip(16 * 4_500..).all(|(&ours, position)| ours == sample(position)));
}

#[test]
fn windows_go_on_with_nothing_at_all() {
    let mut windows = windows(BOTH);
    let lost = (0..6_500).step_by(500).flat_map(|at| {
        [Modality::Video, Modality::Audio].map(|modality| Reading::Lost { modality, at_ns: at * MS })
    });
    let all = push_all(&mut windows, lost);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|window| window.ids.is_empty() && window.samples.is_none()));
}

#[test]
fn dropped_chunks_are_zeros_in_their_place() {
    let mut readings = stream(0..4_100);
    readings.retain(|reading| match reading {
        Reading::Chunk(chunk) => ![1_000, 1_100, 3_000].contains(&(chunk.captured_ns / MS)),
        _ => true,
    });
    let all = push_all(&mut windows(BOTH), readings);
    assert_eq!((all[0].missing, all[0].audio_gaps), (4_800, 2));
    for (position, &ours) in (0..).zip(all[0].samples.as_ref().unwrap()) {
        let gone = (16_000..19_200).contains(&position) || (48_000..49_600).contains(&position);
        assert_eq!(ours, if gone { 0.0 } else { sample(position) }, "sample {position}");
    }
}

#[test]
fn jitter_follows_on_and_repeats_are_dropped() {
    let mut windows = windows(Gives { video: false, audio: true });
    let mut readings: Vec<Reading> = (0..4_000).step_by(100).map(chunk).collect();
    for (number, reading) in readings.iter_mut().enumerate() {
        if let Reading::Chunk(chunk) = reading {
            chunk.captured_ns += [0, 19, 3, 11][number % 4] * MS;
        }
    }
    readings.insert(7, readings[6].clone());
    let all = push_all(&mut windows, readings);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].missing, windows.counts().samples_late), (0, 1_600));
    assert!(
        all[0].samples.as_ref().unwrap().iter().zip(0..).all(|(&ours, position)| ours == sample(position))
    );
}

#[test]
fn frames_out_of_order_twice_or_late_find_their_place() {
    let mut windows = windows(Gives { video: true, audio: false });
    let all = push_all(&mut windows, [0, 300, 200, 200, 250, 260, 4_000].map(frame));
    assert_eq!(all[0].at_ms, [250; 8]);
    assert_eq!((all[0].frames_seen, all[0].distinct), (6, 1));
    let all = push_all(&mut windows, [frame(999), frame(1_250), frame(5_000)]);
    assert_eq!(all[0].at_ms, [1_250, 1_250, 1_250, 1_250, 4_000, 4_000, 4_000, 4_000]);
    assert_eq!(windows.counts().frames_late, 1);
}

#[test]
fn a_far_stamp_starts_anew_and_a_mad_one_is_dropped() {
    let mut windows = windows(Gives { video: true, audio: false });
    let mad = Reading::Frame(Frame { captured_ns: u64::MAX, ..Frame::default() });
    let all = push_all(&mut windows, [frame(500), frame(900), mad, frame(3_600_000), frame(3_604_000)]);
    assert_eq!(all.iter().map(|w| (w.index, w.start_ms)).collect::<Vec<_>>(), [(0, 500), (1, 3_600_000)]);
    assert_eq!((windows.counts().jumps, windows.counts().stamps_bad), (1, 1));
}

#[test]
fn one_giant_chunk_is_many_windows() {
    let samples = (0..16_000 * 10).map(|k: u32| (k % 32_768) as i16).collect();
    let mut windows = windows(Gives { video: false, audio: true });
    let all = push_all(&mut windows, [Reading::Chunk(Chunk { captured_ns: 5 * MS, samples })]);
    assert_eq!(all.len(), 7);
    for window in all {
        let start = (window.start_ms - 5) * 16;
        assert!(
            window.samples.unwrap().iter().zip(start..).all(|(&ours, position)| ours == sample(position))
        );
    }
}

/// A picture of 32 x 24 with a pattern of its own.
fn picture(at_ms: u64, pool: &Pool) -> Reading {
    let mut rgb = pool.rgb(32 * 24 * 3);
    rgb.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i as u64 * (at_ms + 7) % 251) as u8);
    Reading::Frame(Frame { captured_ns: at_ms * MS, height: 24, width: 32, rgb })
}

#[test]
fn small_pictures_are_those_that_the_model_would_make_and_large_ones_go_back() {
    const SIDE: usize = 8;
    let gives = Gives { video: true, audio: false };
    // One buffer is held, one is filled, one is what the held one is replaced with.
    let pool = Pool::new(3, 0);
    let mut whole = Windows::new(Settings::default(), 8, gives, Pool::default()).unwrap();
    let mut small = Windows::new(Settings::default(), 8, gives, pool.clone()).unwrap().fit_to(SIDE);
    let mut resizer = Resizer::new(SIDE);
    let (mut made, mut shown) = (Vec::new(), Vec::new());
    // In order, out of order, and better ones for cells that were passed.
    let times = (0..120).map(|i: u64| i * 100 + if i.is_multiple_of(5) { 350 } else { 0 });
    for at_ms in times.clone() {
        whole
            .push(picture(at_ms, &Pool::default()), |window| {
                made.extend(window.frames().unwrap().iter().map(|(id, frame)| {
                    let mut rgb = vec![0; SIDE * SIDE * 3];
                    resizer.resize(&frame.rgb, 24, 32, &mut rgb);
                    (*id, frame.captured_ns, rgb)
                }));
                Ok(())
            })
            .unwrap();
    }
    let mut buffers = std::collections::HashSet::new();
    for at_ms in times {
        let reading = picture(at_ms, &pool);
        if let Reading::Frame(frame) = &reading {
            buffers.insert(frame.rgb.as_ptr());
        }
        small
            .push(reading, |window| {
                for (id, frame) in window.frames().unwrap() {
                    assert_eq!((frame.height, frame.width), (SIDE as u32, SIDE as u32));
                    shown.push((*id, frame.captured_ns, frame.rgb.clone()));
                }
                Ok(())
            })
            .unwrap();
    }
    assert!(made.len() >= 8 * 6 && made == shown);
    assert!(buffers.len() <= 3, "{} large buffers went round", buffers.len());
    // A picture that is no larger than the model's stays as it is.
    let mut windows = Windows::new(Settings::default(), 8, gives, Pool::default()).unwrap().fit_to(SIDE);
    let seen = push_all(&mut windows, [frame(100), frame(4_100)]);
    assert_eq!(seen[0].at_ms, [100; 8]);
}

#[test]
fn parts_of_pictures_are_those_that_the_model_would_make_of_the_squares() {
    const SIDE: usize = 8;
    let gives = Gives { video: true, audio: false };
    let mut windows =
        Windows::new(Settings::default(), 8, gives, Pool::default()).unwrap().fit_to(SIDE).with_parts();
    let mut resizer = Resizer::new(SIDE);
    let (mut pictures, mut checked) = (std::collections::HashMap::new(), 0);
    for at_ms in (0..60).map(|i: u64| i * 100) {
        let reading = picture(at_ms, &Pool::default());
        let Reading::Frame(frame) = &reading else { unreachable!() };
        pictures.insert(at_ms * MS, frame.rgb.clone());
        let square = |who, left, top, side| Part { who, left, top, side };
        // Face 5 walks to the right, face 9 is seen in the first two seconds, and the last square reaches beyond the picture.
        let mut parts = vec![square(5, (at_ms / 1_000) as u32, 2, 16), square(7, 20, 10, 16)];
        parts.extend((at_ms < 2_000).then_some(square(9, 3, 3, 5)));
        windows
            .push_with(reading, &parts, |window| {
                assert!(window.frames_of(7).is_empty() && window.frames_of(6).is_empty());
                let whole = window.frames().unwrap();
                let (walks, early) = (window.frames_of(5), window.frames_of(9));
                assert_eq!((walks.len(), early.len()), (8, 8));
                for (part, (id, _)) in walks.iter().zip(whole) {
                    assert_eq!(part.0, *id | 5 << 48);
                }
                let latest = early.iter().map(|(_, frame)| frame.captured_ns).max().unwrap();
                assert!(latest < 2_000 * MS, "the nearest picture that has it");
                for (left, top, side, shown) in walks
                    .iter()
                    .map(|shown| (shown.1.captured_ns / MS / 1_000, 2, 16, shown))
                    .chain(early.iter().map(|shown| (3, 3, 5, shown)))
                {
                    let from = &pictures[&shown.1.captured_ns];
                    let rows = (top..top + side)
                        .flat_map(|y| from[(y * 32 + left as usize) * 3..][..side * 3].to_vec());
                    let mut rgb = vec![0; SIDE * SIDE * 3];
                    resizer.resize(&rows.collect::<Vec<u8>>(), side, side, &mut rgb);
                    assert!(rgb == shown.1.rgb, "at {} ms", shown.1.captured_ns / MS);
                    checked += 1;
                }
                Ok(())
            })
            .unwrap();
    }
    assert!(checked >= 2 * 16, "{checked}");
}

#[test]
fn a_hop_beyond_the_window_leaves_time_out() {
    let settings = Settings { window_ms: 1_000, hop_ms: 3_000, lateness_ms: 0 };
    let mut windows = Windows::new(settings, 8, BOTH, Pool::default()).unwrap();
    let all = push_all(&mut windows, stream(0..7_200));
    assert_eq!(
        all.iter().map(|w| (w.start_ms, w.missing, w.frames_seen)).collect::<Vec<_>>(),
        [(0, 0, 10), (3_000, 0, 10), (6_000, 0, 10)]
    );
}

#[test]
fn an_error_of_the_viewer_comes_back_and_the_window_is_spent() {
    let mut windows = windows(Gives { video: true, audio: false });
    windows.push(frame(0), |_| Ok(())).unwrap();
    let error = windows.push(frame(4_000), |_| anyhow::bail!("no")).unwrap_err();
    assert_eq!(error.to_string(), "no");
    assert_eq!(push_all(&mut windows, [frame(5_000)])[0].start_ms, 1_000);
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let refuse = |settings: Settings, frames, name: &str| {
        let error = settings.check(frames).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    };
    let good = Settings::default();
    refuse(Settings { window_ms: 0, ..good }, 8, "window_ms");
    refuse(Settings { window_ms: 30_001, ..good }, 8, "window_ms");
    refuse(Settings { hop_ms: 0, ..good }, 8, "hop_ms");
    refuse(Settings { hop_ms: 999, ..good }, 8, "hop_ms");
    refuse(Settings { lateness_ms: 10_001, ..good }, 8, "lateness_ms");
    refuse(good, 0, "pictures");
    refuse(good, 33, "pictures");
}

/// Any reading with stamps that stand still, jitter, jump and go back.
fn any_reading() -> impl Strategy<Value = Reading> {
    let stamp = prop_oneof![8 => 0..20_000 * MS, 2 => 0..200_000 * MS, 1 => any::<u64>()];
    let modality = prop_oneof![Just(Modality::Video), Just(Modality::Audio)];
    prop_oneof![
        4 => stamp.clone().prop_map(|captured_ns| {
            Reading::Frame(Frame { captured_ns, height: 1, width: 1, rgb: vec![0; 3] })
        }),
        4 => (stamp.clone(), 0..9_000_usize).prop_map(|(captured_ns, samples)| {
            Reading::Chunk(Chunk { captured_ns, samples: vec![1; samples] })
        }),
        1 => (modality.clone(), stamp).prop_map(|(modality, at_ns)| Reading::Lost { modality, at_ns }),
        1 => modality.prop_map(|modality| Reading::End { modality }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn whatever_comes_windows_are_whole_and_in_order(
        mut readings in prop::collection::vec(any_reading(), 0..200),
        sorted in any::<bool>(),
        (window_ms, hop_cells, lateness_ms) in (1..50_u32, 1..20_u32, 0..2_000_u32),
        (video, audio) in any::<(bool, bool)>(),
    ) {
        let settings = Settings { window_ms: window_ms * 80, hop_ms: hop_cells * window_ms * 10, lateness_ms };
        prop_assume!(settings.check(8).is_ok());
        if sorted {
            readings.sort_by_key(|reading| match reading {
                Reading::Frame(frame) => frame.captured_ns,
                Reading::Chunk(chunk) => chunk.captured_ns,
                Reading::Lost { at_ns, .. } => *at_ns,
                Reading::End { .. } => u64::MAX,
            });
        }
        let mut windows = Windows::new(settings, 8, Gives { video, audio }, Pool::new(4, 4)).unwrap();
        let mut before: Option<(u64, u64, Vec<u64>)> = None;
        let jumps = std::cell::Cell::new(0);
        for reading in readings {
            jumps.set(windows.counts().jumps);
            windows.push(reading, |window| {
                assert_eq!(window.end_ns - window.start_ns, u64::from(settings.window_ms) * MS);
                let ids: Vec<u64> = window.frames().unwrap_or(&[]).iter().map(|(id, frame)| {
                    assert!((window.start_ns..window.end_ns).contains(&frame.captured_ns));
                    *id
                }).collect();
                assert!(ids.is_empty() || ids.len() == 8);
                assert_eq!(ids.is_empty(), window.video.distinct == 0);
                assert!(window.video.distinct <= 8 && window.video.distinct <= window.video.seen);
                if let Some(samples) = window.samples() {
                    assert_eq!(samples.len(), settings.window_ms as usize * 16);
                    let zeros = samples.iter().filter(|&&sample| sample == 0.0).count();
                    assert_eq!(zeros, window.audio.missing as usize);
                }
                if let Some((index, start_ns, _)) = &before {
                    assert_eq!(window.index, index + 1);
                    assert!(window.start_ns > *start_ns, "{} after {start_ns}", window.start_ns);
                }
                before = Some((window.index, window.start_ns, ids));
                Ok(())
            }).unwrap();
        }
    }
}
