//! Clips in, readings and recordings out: every kind of file, and every kind of bad one.

mod films;

use films::{AviFile, jpeg, ramp, write_avi};
use mien::source::{
    Frame, Modality, Pool, Reading, Source,
    clip::{self, Clip},
    recorded::whole::{self, Recording},
};
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
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
    let recorded = Recording::open(path, 8).expect_err("a recording of what does not play");
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
    assert_eq!(whole::sample(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(whole::sample(9, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(whole::sample(30, 8), [2, 5, 9, 13, 16, 20, 24, 27]);
    assert_eq!(whole::sample(75, 8), [5, 14, 23, 32, 42, 51, 60, 69]);
    assert_eq!(whole::sample(1, 8), [0; 8]);

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

#[test]
fn an_avi_plays_without_help() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("clip.avi");
    write_avi(&path, 12, 1_600);
    let readings = read_all(&path);
    let shown = frames(&readings);
    assert_eq!(shown.len(), 12);
    for (number, frame) in shown.iter().enumerate() {
        assert_eq!((frame.captured_ns, frame.width, frame.height), (number as u64 * 100_000_000, 16, 8));
        assert!(frame.rgb.iter().all(|&byte| byte.abs_diff(number as u8 * 8) <= 1), "picture {number}");
    }
    assert_eq!(samples(&readings), ramp(12 * 1_600));
    let recording = Recording::open(&path, 8).unwrap();
    assert_eq!((recording.frames_total, recording.indices.clone()), (12, vec![1, 2, 3, 5, 6, 8, 9, 10]));
    assert_eq!(recording.frames().unwrap()[3].1.rgb, shown[5].rgb);
    assert_eq!(recording.samples.unwrap().len(), 12 * 1_600);
}

#[test]
fn an_avi_cut_or_hurt_anywhere_never_panics() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("clip.avi");
    write_avi(&path, 4, 1_600);
    let whole = fs::read(&path).unwrap();
    let movi = whole.windows(4).position(|name| name == b"movi").unwrap();
    for length in (0..movi + 200).step_by(3) {
        fs::write(&path, &whole[..length]).unwrap();
        match Recording::open(&path, 8) {
            Ok(recording) => assert!(length > movi && recording.frames_total > 0, "{length} bytes"),
            Err(error) => assert!(format!("{error:#}").contains("clip.avi"), "{error:#}"),
        }
    }
    fs::write(&path, &whole[..movi - 20]).unwrap();
    assert!(error_of(&path).contains("is cut off"), "{}", error_of(&path));
    // Cut in the second half: what is there plays.
    fs::write(&path, &whole[..whole.len() * 3 / 4]).unwrap();
    let readings = read_all(&path);
    assert!((2..4).contains(&frames(&readings).len()), "{}", frames(&readings).len());
    for at in 0..movi + 40 {
        let mut hurt = whole.clone();
        hurt[at] ^= 1 << (at % 8);
        fs::write(&path, &hurt).unwrap();
        let _ = Recording::open(&path, 8);
    }
}

#[test]
fn a_picture_that_cannot_be_read_is_left_out_and_counted() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("clip.avi");
    let mut avi = AviFile::create(&path);
    avi.begin(b"LIST", b"hdrl");
    avi.video(b"mjpg", 10, 1);
    avi.end();
    avi.begin(b"LIST", b"movi");
    let (first, last) = (jpeg(1), jpeg(2));
    for content in [&first[..], &first[..40], b"", b"no jpeg", &last] {
        avi.chunk(b"00dc", content);
    }
    avi.end();
    avi.end();
    let mut clip = Clip::open(&settings(&path), &Pool::default()).unwrap();
    assert!(!clip.gives().audio);
    let mut stamps = Vec::new();
    loop {
        match clip.read(Duration::ZERO).unwrap() {
            Some(Reading::Frame(frame)) => stamps.push(frame.captured_ns / 100_000_000),
            Some(Reading::End { modality: Modality::Video }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((stamps, clip.counts().broken), (vec![0, 4], 2));
}

fn write_wave(path: &Path, spec: hound::WavSpec, seconds: u32) {
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    let top = (1_i64 << (spec.bits_per_sample - 1)) as f64;
    for k in 0..spec.sample_rate * seconds {
        let sine = 0.25 * (std::f64::consts::TAU * 440.0 * f64::from(k) / f64::from(spec.sample_rate)).sin();
        for _ in 0..spec.channels {
            match spec.sample_format {
                hound::SampleFormat::Float => writer.write_sample(sine as f32).unwrap(),
                hound::SampleFormat::Int => writer.write_sample((sine * top).round() as i32).unwrap(),
            }
        }
    }
    writer.finalize().unwrap();
}

#[test]
fn wave_files_of_every_kind_are_heard_at_the_right_level() {
    use hound::SampleFormat::{Float, Int};
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sound.wav");
    let root = std::f64::consts::FRAC_1_SQRT_2;
    for (channels, sample_rate, bits_per_sample, sample_format, gain) in [
        (1, 16_000, 8, Int, 1.0),
        (1, 16_000, 16, Int, 1.0),
        (1, 16_000, 24, Int, 1.0),
        (1, 16_000, 32, Int, 1.0),
        (1, 16_000, 32, Float, 1.0),
        (2, 48_000, 16, Int, 2.0 * root),
        (1, 96_000, 24, Int, 1.0),
        (1, 44_100, 16, Int, 1.0),
        (1, 8_000, 16, Int, 1.0),
        (6, 48_000, 24, Int, 2.0 * root + 2.0),
        (3, 16_000, 16, Int, 3.0_f64.sqrt()),
    ] {
        let spec = hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format };
        write_wave(&path, spec, 1);
        let recording = Recording::open(&path, 8).unwrap();
        assert!(recording.frames().is_none(), "sound alone");
        let heard = recording.samples.unwrap();
        assert_eq!(heard.len(), 16_000, "{spec:?}");
        let slack = if bits_per_sample == 8 { 0.01 } else { 0.002 };
        for (k, &sample) in heard.iter().enumerate().take(15_000).skip(1_000) {
            let want = gain * 0.25 * (std::f64::consts::TAU * 440.0 * k as f64 / 16_000.0).sin();
            assert!((f64::from(sample) - want).abs() < slack, "{spec:?}: sample {k} is {sample}, not {want}");
        }
    }
}

#[test]
fn a_wave_file_cut_or_hurt_anywhere_never_panics() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sound.wav");
    write_wav(&path, 16_000, &ramp(5_000));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..44 + 2 * 3_000]).unwrap();
    assert_eq!(samples(&read_all(&path)), ramp(3_000), "what is there is heard");
    fs::write(&path, &whole[..30]).unwrap();
    assert!(error_of(&path).contains("sound.wav"));
    for at in 0..44 {
        fs::write(&path, &whole[..at]).unwrap();
        let _ = Recording::open(&path, 8);
        let mut hurt = whole.clone();
        for bit in 0..8 {
            hurt[at] = whole[at] ^ (1 << bit);
            fs::write(&path, &hurt).unwrap();
            let _ = Recording::open(&path, 8);
        }
    }
}

#[test]
fn what_is_no_clip_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(error_of(&path("missing.mp4")).contains("cannot open the clip"));
    fs::write(path("empty.mp4"), b"").unwrap();
    assert!(error_of(&path("empty.mp4")).contains("is empty (0 bytes)"));
    fs::write(path("text.mp4"), b"this is no film").unwrap();
    assert!(error_of(&path("text.mp4")).contains("ffmpeg"), "{}", error_of(&path("text.mp4")));
    fs::create_dir(path("bare")).unwrap();
    assert!(error_of(&path("bare")).contains("holds no PNG, JPEG or WAV"));
    fs::create_dir(path("two")).unwrap();
    write_wav(&path("two").join("a.wav"), 16_000, &[0]);
    write_wav(&path("two").join("b.wav"), 16_000, &[0]);
    assert!(error_of(&path("two")).contains("2 WAV files"));
    let mut avi = AviFile::create(&path("nothing.avi"));
    avi.begin(b"LIST", b"movi");
    avi.end();
    avi.end();
    assert!(error_of(&path("nothing.avi")).contains("neither pictures nor sound"));
    let mut avi = AviFile::create(&path("hollow.avi"));
    avi.video(b"MJPG", 10, 1);
    avi.begin(b"LIST", b"movi");
    avi.end();
    avi.end();
    let hollow = Recording::open(&path("hollow.avi"), 8).unwrap_err().to_string();
    assert!(hollow.contains("without a single picture"), "{hollow}");
    let torn = path("torn.png");
    fs::write(&torn, [&b"\x89PNG\r\n\x1a\n"[..], &[0; 30]].concat()).unwrap();
    let error = format!("{:#}", Recording::open(&torn, 8).unwrap_err());
    assert!(error.contains("torn.png"), "{error}");
}

/// The header of a PNG of any size, with nothing behind it.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend_from_slice(&width.to_be_bytes());
    chunk.extend_from_slice(&height.to_be_bytes());
    chunk.extend_from_slice(&[8, 2, 0, 0, 0]);
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&chunk);
    [&b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..], &chunk, &sum.to_be_bytes()].concat()
}

#[test]
fn wide_pictures_keep_their_size_and_mad_ones_are_refused() {
    let folder = TempDir::new().unwrap();
    let wide = folder.path().join("wide.png");
    write_image(&wide, 9, 10_000, 12);
    let recording = Recording::open(&wide, 8).unwrap();
    let (_, frame) = recording.frames().unwrap()[0];
    assert_eq!((frame.width, frame.height, frame.rgb.len()), (10_000, 12, 360_000));
    let mad = folder.path().join("mad.png");
    fs::write(&mad, png_header(1_000_000, 1_000_000)).unwrap();
    let error = format!("{:#}", Recording::open(&mad, 8).unwrap_err());
    assert!(error.contains("mad.png"), "{error}");
}

#[test]
fn four_hours_are_read_in_bounded_memory() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("long.avi");
    let mut avi = AviFile::create(&path);
    avi.begin(b"LIST", b"hdrl");
    avi.video(b"MJPG", 1, 4);
    avi.audio(1, 4_000, 1, 8);
    avi.end();
    avi.begin(b"LIST", b"movi");
    let (picture, second) = (jpeg(3), [128; 16_000]);
    for _ in 0..3_600 {
        avi.chunk(b"00dc", &picture);
        avi.chunk(b"01wb", &second);
    }
    avi.end();
    avi.end();
    let start = Instant::now();
    let recording = Recording::open(&path, 8).unwrap();
    assert_eq!((recording.frames_total, recording.indices[7]), (3_600, 3_374));
    assert_eq!((recording.samples.as_ref().map(Vec::len), recording.sound_cut), (Some(480_000), true));
    assert!(start.elapsed() < Duration::from_secs(20));

    let path = folder.path().join("long.wav");
    write_wav(&path, 16_000, &ramp(16_000));
    let bytes = 4 * 3_600 * 16_000 * 2_u32;
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(44 + u64::from(bytes)).unwrap();
    file.seek(SeekFrom::Start(40)).unwrap();
    file.write_all(&bytes.to_le_bytes()).unwrap();
    drop(file);
    let recording = Recording::open(&path, 8).unwrap();
    assert_eq!((recording.samples.as_ref().map(Vec::len), recording.sound_cut), (Some(480_000), true));
}

fn ffmpeg(folder: &Path, args: &str) {
    let words: Vec<&str> = args.split(' ').collect();
    let done = Command::new("ffmpeg").current_dir(folder).args(["-v", "error", "-y"]).args(words).status();
    let done = done.expect("ffmpeg is there: the setup command installs it");
    assert!(done.success(), "ffmpeg {args}");
}

#[test]
fn ffmpeg_gives_the_stored_pictures_and_sound() {
    let folder = folder_clip(30, 48_000);
    ffmpeg(
        folder.path(),
        "-framerate 10 -i %03d.png -i sound.wav -c:v ffv1 -pix_fmt gbrp -c:a pcm_s16le whole.mkv",
    );
    ffmpeg(folder.path(), "-i whole.mkv -c copy -an silent.mkv");
    ffmpeg(folder.path(), "-i whole.mkv -c copy -vn dark.mka");
    let path = folder.path().join("whole.mkv");
    let readings = read_all(&path);
    let shown = frames(&readings);
    assert_eq!(shown.len(), 30);
    for (number, frame) in shown.iter().enumerate() {
        assert_eq!((frame.captured_ns, frame.width, frame.height), (number as u64 * 100_000_000, 6, 4));
        assert_eq!(frame.rgb[..3], [number as u8, 255 - number as u8, 7], "picture {number}");
    }
    assert_eq!(samples(&readings), ramp(48_000));

    let recording = Recording::open(&path, 8).unwrap();
    let own = Recording::open(folder.path(), 8);
    assert!(own.is_ok(), "other files in a folder are not minded");
    assert_eq!(recording.frames_total, 30);
    for ((id, frame), want) in recording.frames().unwrap().iter().zip([2, 5, 9, 13, 16, 20, 24, 27]) {
        assert_eq!((*id, frame.rgb[0]), (want, want as u8));
    }
    assert_eq!(recording.samples, own.unwrap().samples);

    let silent = Recording::open(&folder.path().join("silent.mkv"), 8).unwrap();
    assert_eq!((silent.frames(), silent.samples.as_ref()), (recording.frames(), None));
    let dark = Recording::open(&folder.path().join("dark.mka"), 8).unwrap();
    assert_eq!((dark.frames(), dark.samples.as_ref()), (None, recording.samples.as_ref()));

    let bytes = fs::read(&path).unwrap();
    let torn = folder.path().join("torn.mkv");
    fs::write(&torn, &bytes[..bytes.len() / 2]).unwrap();
    let torn = Recording::open(&torn, 8).unwrap();
    assert!(torn.frames_total < 30, "a clip cut in half has {} pictures", torn.frames_total);
}

#[test]
fn ffmpeg_mixes_stereo_as_the_training_data_was() {
    let folder = TempDir::new().unwrap();
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    write_wave(&folder.path().join("stereo.wav"), spec, 1);
    ffmpeg(folder.path(), "-i stereo.wav -c:a pcm_f32le stereo.mka");
    let heard = Recording::open(&folder.path().join("stereo.mka"), 8).unwrap().samples.unwrap();
    let ours = Recording::open(&folder.path().join("stereo.wav"), 8).unwrap().samples.unwrap();
    assert_eq!(heard.len(), ours.len());
    let worst = heard.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "differs by {worst}");
    assert!(ours.iter().copied().fold(0.0, f32::max) > 0.35, "(L + R) / sqrt 2, not the mean");
}

#[test]
fn four_hours_and_wide_pictures_pass_through_ffmpeg() {
    let folder = TempDir::new().unwrap();
    ffmpeg(folder.path(), "-f lavfi -i color=gray:size=32x32:rate=1/4 -t 14400 -c:v mpeg4 long.mkv");
    let long = Recording::open(&folder.path().join("long.mkv"), 8).unwrap();
    assert_eq!(long.frames_total, 3_600);
    assert_eq!(long.indices, whole::sample(3_600, 8));
    ffmpeg(folder.path(), "-f lavfi -i testsrc=size=10000x16:rate=10 -frames:v 1 -c:v ffv1 wide.mkv");
    let wide = Recording::open(&folder.path().join("wide.mkv"), 8).unwrap();
    let seen = wide.frames().unwrap();
    assert_eq!((seen.len(), seen[7].0, seen[7].1.width), (8, 0, 10_000));
}
