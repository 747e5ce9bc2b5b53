//! Clips in, readings and recordings out: every kind of file, and every kind of bad one.

use mien::source::{
    Frame, Modality, Pool, Reading, Source,
    clip::{self, Clip},
    recording::{self, Recording},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn settings(path: &Path) -> clip::Settings {
    clip::Settings { path: path.to_owned(), paced: false, frames_per_second: 10 }
}

fn read_all(path: &Path) -> Vec<Reading> {
    let mut clip = Clip::open(&settings(path), &Pool::new(4, 4)).unwrap();
    let gives = clip.gives();
    let mut left = usize::from(gives.video) + usize::from(gives.audio);
    let mut readings = Vec::new();
    while left > 0 {
        if let Some(reading) = clip.read(Duration::from_secs(1)).unwrap() {
            left -= usize::from(matches!(reading, Reading::End { .. }));
            readings.push(reading);
        }
    }
    assert_eq!(clip.read(Duration::ZERO).unwrap(), None, "after the end there is nothing");
    readings
}

fn frames(readings: &[Reading]) -> Vec<&Frame> {
    readings
        .iter()
        .filter_map(|reading| if let Reading::Frame(frame) = reading { Some(frame) } else { None })
        .collect()
}

fn samples(readings: &[Reading]) -> Vec<i16> {
    let mut samples = Vec::new();
    for reading in readings {
        if let Reading::Chunk(chunk) = reading {
            assert_eq!(chunk.captured_ns, samples.len() as u64 * 62_500, "sound is stamped without gaps");
            samples.extend_from_slice(&chunk.samples);
        }
    }
    samples
}

fn error_of(path: &Path) -> String {
    let played = Clip::open(&settings(path), &Pool::default()).err();
    let played = played.unwrap_or_else(|| panic!("{} plays", path.display()));
    let recorded = Recording::open(path, 8).err().expect("a recording of what does not play");
    assert!(format!("{recorded:#}").contains(path.file_name().unwrap().to_str().unwrap()), "{recorded:#}");
    format!("{played:#}")
}

/// A picture that states its number in every pixel.
fn write_image(path: &Path, number: u8, width: u32, height: u32) {
    image::RgbImage::from_pixel(width, height, image::Rgb([number, 255 - number, 7])).save(path).unwrap();
}

fn write_wav(path: &Path, rate: u32, samples: &[i16]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
    writer.finalize().unwrap();
}

fn ramp(length: usize) -> Vec<i16> {
    (0..length).map(|k| (k * 37 % 65_536) as u16 as i16).collect()
}

fn folder_clip(frames: u8, sound: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    for number in 0..frames {
        write_image(&folder.path().join(format!("{number:03}.png")), number, 6, 4);
    }
    if sound > 0 {
        write_wav(&folder.path().join("sound.wav"), 16_000, &ramp(sound));
    }
    folder
}

#[test]
fn a_folder_plays_in_order_and_bit_exact() {
    let folder = folder_clip(12, 20_000);
    let readings = read_all(folder.path());
    let shown = frames(&readings);
    assert_eq!(shown.len(), 12);
    for (number, frame) in shown.iter().enumerate() {
        assert_eq!(frame.captured_ns, number as u64 * 100_000_000);
        assert_eq!((frame.width, frame.height), (6, 4));
        assert!(frame.rgb.chunks(3).all(|pixel| pixel == [number as u8, 255 - number as u8, 7]));
    }
    assert_eq!(samples(&readings), ramp(20_000));
    let mut whole_ns = 0;
    for reading in &readings {
        let next_ns = match reading {
            Reading::Frame(frame) => frame.captured_ns,
            Reading::Chunk(chunk) => chunk.captured_ns + chunk.samples.len() as u64 * 62_500,
            _ => continue,
        };
        assert!(next_ns >= whole_ns, "readings come in the order in which they are whole");
        whole_ns = next_ns;
    }
    assert_eq!(readings, read_all(folder.path()), "the same clip gives the same readings");
}

#[test]
fn a_paced_clip_takes_its_time_and_can_be_left_at_once() {
    let folder = folder_clip(4, 0);
    let settings = clip::Settings { paced: true, ..settings(folder.path()) };
    let mut clip = Clip::open(&settings, &Pool::default()).unwrap();
    let start = Instant::now();
    let mut waits = 0;
    loop {
        let asked = Instant::now();
        let reading = clip.read(Duration::from_millis(20)).unwrap();
        assert!(asked.elapsed() < Duration::from_millis(200));
        match reading {
            Some(Reading::End { .. }) => break,
            Some(Reading::Frame(frame)) => {
                assert!(start.elapsed() >= Duration::from_nanos(frame.captured_ns))
            }
            Some(other) => panic!("{other:?}"),
            None => waits += 1,
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(waits >= 5, "{waits} waits");
}

#[test]
fn a_recording_holds_the_published_sample_of_frames() {
    assert_eq!(recording::sample(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(recording::sample(9, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(recording::sample(30, 8), [2, 5, 9, 13, 16, 20, 24, 27]);
    assert_eq!(recording::sample(75, 8), [5, 14, 23, 32, 42, 51, 60, 69]);
    assert_eq!(recording::sample(1, 8), [0; 8]);

    let folder = folder_clip(30, 600_000);
    let recording = Recording::open(folder.path(), 8).unwrap();
    assert_eq!(recording.frames_total, 30);
    let seen = recording.frames().unwrap();
    for ((id, frame), want) in seen.iter().zip([2, 5, 9, 13, 16, 20, 24, 27]) {
        assert_eq!((*id, frame.rgb[0]), (want, want as u8));
    }
    let heard = recording.samples.as_ref().unwrap();
    assert_eq!(heard.len(), 480_000, "the first 30 s");
    assert!(recording.sound_cut);
    assert!(heard.iter().zip(ramp(480_000)).all(|(&ours, want)| ours == f32::from(want) / 32_768.0));
}

#[test]
fn one_frame_is_seen_eight_times() {
    let folder = folder_clip(1, 0);
    let recording = Recording::open(folder.path(), 8).unwrap();
    assert_eq!(recording.frames().unwrap().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0; 8]);
    assert_eq!(recording.samples, None);
    let image = folder.path().join("000.png");
    assert_eq!(
        Recording::open(&image, 8).unwrap().frames(),
        recording.frames(),
        "an image is a clip of one frame"
    );
}
