//! Live sources without their hardware: FIFOs with producers that come and go, a microphone played by ALSA from a file.

use mien::source::{
    Frame, Modality, Pool, Reading, Source,
    pipe::{Pipe, Settings},
    pixels,
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn make_fifo(folder: &TempDir, name: &str) -> PathBuf {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let path = folder.path().join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

fn settings(video: Option<&Path>, audio: Option<&Path>) -> Settings {
    let own = |path: Option<&Path>| path.map(Path::to_owned);
    Settings { video: own(video), audio: own(audio), audio_rate: 16_000, audio_channels: 1 }
}

/// A producer in a thread: opens, writes, leaves.
fn produce(path: &Path, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let path = path.to_owned();
    thread::spawn(move || {
        let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
        // The reader may leave a stream that makes no sense.
        let _ = fifo.write_all(&bytes);
    })
}

fn y4m(lumas: std::ops::Range<u8>) -> Vec<u8> {
    let mut stream = b"YUV4MPEG2 W4 H2 F10:1 Ip A1:1 C420jpeg\n".to_vec();
    for luma in lumas {
        stream.extend_from_slice(b"FRAME\n");
        stream.extend_from_slice(&[luma; 8]);
        stream.extend_from_slice(&[90, 91, 160, 161]);
    }
    stream
}

fn read_until(source: &mut dyn Source, enough: impl Fn(&[Reading]) -> bool) -> Vec<Reading> {
    let (start, mut readings) = (Instant::now(), Vec::new());
    while !enough(&readings) {
        assert!(start.elapsed() < Duration::from_secs(20), "after 20 s there is only {readings:?}");
        let asked = Instant::now();
        readings.extend(source.read(Duration::from_millis(50)).unwrap());
        assert!(asked.elapsed() < Duration::from_secs(1), "a wait of 50 ms took {:?}", asked.elapsed());
    }
    readings
}

fn frames(readings: &[Reading]) -> Vec<&Frame> {
    readings
        .iter()
        .filter_map(|reading| if let Reading::Frame(frame) = reading { Some(frame) } else { None })
        .collect()
}

fn samples(readings: &[Reading]) -> Vec<i16> {
    let chunk =
        |reading: &Reading| if let Reading::Chunk(chunk) = reading { chunk.samples.clone() } else { vec![] };
    readings.iter().flat_map(chunk).collect()
}

fn lost(readings: &[Reading], wanted: Modality) -> usize {
    readings
        .iter()
        .filter(|reading| matches!(reading, Reading::Lost { modality, .. } if *modality == wanted))
        .count()
}

fn expect_frames(shown: &[&Frame], lumas: std::ops::Range<u8>) {
    assert_eq!(shown.len(), lumas.len());
    for (frame, luma) in shown.iter().zip(lumas) {
        assert_eq!((frame.width, frame.height), (4, 2));
        let (left, right) =
            (pixels::LIMITED.pixel(luma.into(), 90, 160), pixels::LIMITED.pixel(luma.into(), 91, 161));
        let row = [left, left, right, right].concat();
        assert_eq!(frame.rgb, [&row[..], &row[..]].concat());
    }
    for pair in shown.windows(2) {
        assert_eq!(pair[1].captured_ns - pair[0].captured_ns, 100_000_000, "stamped by number and rate");
    }
}

#[test]
fn a_producer_may_go_and_come_back() {
    let folder = TempDir::new().unwrap();
    let fifo = make_fifo(&folder, "video");
    let mut pipe = Pipe::open(&settings(Some(&fifo), None), &Pool::default()).unwrap();
    let early = read_until(&mut pipe, |readings| lost(readings, Modality::Video) >= 2);
    assert!(frames(&early).is_empty(), "windows go on while there is no producer");

    let producer = produce(&fifo, y4m(20..25));
    let readings = read_until(&mut pipe, |readings| frames(readings).len() == 5);
    producer.join().unwrap();
    expect_frames(&frames(&readings), 20..25);

    let gone = read_until(&mut pipe, |readings| lost(readings, Modality::Video) >= 1);
    assert!(frames(&gone).is_empty());
    let producer = produce(&fifo, y4m(60..63));
    let readings = read_until(&mut pipe, |readings| frames(readings).len() == 3);
    producer.join().unwrap();
    expect_frames(&frames(&readings), 60..63);
    assert!(pipe.counts().losses >= 1);
    assert_eq!(pipe.counts().readings, 8);
}

#[test]
fn frames_that_no_window_would_show_are_counted_and_passed_over() {
    let folder = TempDir::new().unwrap();
    let fifo = make_fifo(&folder, "video");
    let mut pipe = Pipe::open(&settings(Some(&fifo), None), &Pool::default()).unwrap();
    pipe.keep_apart(250_000_000);
    let producer = produce(&fifo, y4m(20..30));
    let readings = read_until(&mut pipe, |readings| frames(readings).len() == 4);
    producer.join().unwrap();
    let shown = frames(&readings);
    for (place, frame) in shown.iter().enumerate() {
        expect_frames(&[frame], 20 + 3 * place as u8..21 + 3 * place as u8);
        assert_eq!(frame.captured_ns - shown[0].captured_ns, 300_000_000 * place as u64);
    }
    assert_eq!((pipe.counts().readings, pipe.counts().gaps), (10, 0));
}

#[test]
fn a_stream_that_loses_its_step_is_left_and_taken_up_again() {
    let folder = TempDir::new().unwrap();
    let fifo = make_fifo(&folder, "video");
    let mut pipe = Pipe::open(&settings(Some(&fifo), None), &Pool::default()).unwrap();
    let mut torn = y4m(20..22);
    torn.extend_from_slice(b"NOISE and more noise\n");
    let producer = produce(&fifo, torn);
    let readings = read_until(&mut pipe, |readings| lost(readings, Modality::Video) >= 1);
    assert!(frames(&readings).len() <= 2);
    producer.join().unwrap();
    // A producer that arrives while the pipe is shut waits for it.
    let producer = produce(&fifo, y4m(40..44));
    let readings = read_until(&mut pipe, |readings| frames(readings).len() == 4);
    producer.join().unwrap();
    expect_frames(&frames(&readings), 40..44);
}

#[test]
fn sound_and_pictures_come_side_by_side() {
    let folder = TempDir::new().unwrap();
    let (video, audio) = (make_fifo(&folder, "video"), make_fifo(&folder, "audio"));
    let mut pipe = Pipe::open(&settings(Some(&video), Some(&audio)), &Pool::default()).unwrap();
    let ramp: Vec<i16> = (0..8_000).map(|k: i32| (k * 37 % 65_536 - 32_768) as i16).collect();
    let bytes = ramp.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let producers = [produce(&video, y4m(30..38)), produce(&audio, bytes)];
    let readings =
        read_until(&mut pipe, |readings| frames(readings).len() == 8 && samples(readings).len() == 8_000);
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    expect_frames(&frames(&readings), 30..38);
    assert_eq!(samples(&readings), ramp, "16 kHz mono passes untouched");
    let mut next_ns = None;
    for reading in &readings {
        let Reading::Chunk(chunk) = reading else { continue };
        assert!(next_ns.is_none_or(|next_ns| chunk.captured_ns == next_ns), "chunks follow on");
        next_ns = Some(chunk.captured_ns + chunk.samples.len() as u64 * 62_500);
    }
}

#[test]
fn a_file_ends_and_a_torn_one_is_an_error() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("video.y4m");
    fs::write(&path, y4m(50..53)).unwrap();
    let mut pipe = Pipe::open(&settings(Some(&path), None), &Pool::default()).unwrap();
    let end = Reading::End { modality: Modality::Video };
    let readings = read_until(&mut pipe, |readings| readings.last() == Some(&end));
    expect_frames(&frames(&readings), 50..53);
    assert_eq!(pipe.read(Duration::from_millis(10)).unwrap(), None);

    fs::write(&path, b"RIFF is not Y4M\n").unwrap();
    let mut pipe = Pipe::open(&settings(Some(&path), None), &Pool::default()).unwrap();
    let error = format!("{:#}", pipe.read(Duration::from_millis(10)).unwrap_err());
    assert!(error.contains("video.y4m") && error.contains("not a Y4M stream"), "{error}");
}

#[test]
fn pipes_that_cannot_be_are_refused_by_name() {
    let open = |settings: &Settings| format!("{:#}", Pipe::open(settings, &Pool::default()).err().unwrap());
    assert!(open(&settings(None, None)).contains("set video, audio or both"));
    let bad = Settings { audio_rate: 5, ..settings(None, Some(Path::new("x"))) };
    assert!(open(&bad).contains("audio_rate"));
    let missing = settings(Some(Path::new("/no/such/pipe")), None);
    let error = format!("{:#}", missing.probe().unwrap_err());
    assert!(error.contains("/no/such/pipe") && error.contains("mkfifo"), "{error}");
}

#[cfg(feature = "mic")]
mod mic {
    use super::{read_until, samples};
    use mien::source::{
        Pool, Reading, Source,
        mic::{Mic, Settings},
        resample::Resampler,
        sample_f32, sample_i16,
    };
    use std::{env, fs, path::Path, process::Command};
    use tempfile::TempDir;

    /// libasound reads its configuration once per process, so each case runs in a process of its own: this very test again.
    fn with_alsa(test: &str, raw: &[u8], case: fn(&Path)) {
        if let Some(folder) = env::var_os("MIEN_TEST_ALSA") {
            return case(Path::new(&folder));
        }
        let folder = TempDir::new().unwrap();
        let (infile, config) = (folder.path().join("in.raw"), folder.path().join("asound.conf"));
        fs::write(&infile, raw).unwrap();
        let text = format!(
            "pcm.recorded {{\n type file\n slave.pcm nothing\n file \"/dev/null\"\n infile \"{}\"\n format \"raw\"\n}}\n\
             pcm.nothing {{ type null }}\n",
            infile.display()
        );
        fs::write(&config, text).unwrap();
        let done = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("ALSA_CONFIG_PATH", &config)
            .env("MIEN_TEST_ALSA", folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        assert!(said.contains("1 passed"), "{said}");
    }

    fn noise(length: usize) -> Vec<i16> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 17) as i16
        };
        (0..length).map(|_| next()).collect()
    }

    fn bytes(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }

    fn hear(settings: &Settings, enough: usize) -> Vec<i16> {
        let mut mic = Mic::open(settings, &Pool::new(4, 4)).unwrap();
        assert!(mic.gives().audio && !mic.gives().video);
        let readings = read_until(&mut mic, |readings| samples(readings).len() >= enough);
        assert!(readings.iter().all(|reading| matches!(reading, Reading::Chunk(_))), "nothing is lost");
        let stamps: Vec<u64> = readings
            .iter()
            .map(|reading| if let Reading::Chunk(chunk) = reading { chunk.captured_ns } else { 0 })
            .collect();
        assert!(stamps[0] > 0 && stamps.is_sorted(), "{stamps:?}");
        samples(&readings)
    }

    #[test]
    fn sixteen_kilohertz_mono_arrives_bit_exact() {
        with_alsa("mic::sixteen_kilohertz_mono_arrives_bit_exact", &bytes(&noise(32_000)), |_| {
            let settings = Settings { device: "recorded".into(), ..Settings::default() };
            assert_eq!(hear(&settings, 30_000)[..30_000], noise(32_000)[..30_000]);
        });
    }

    #[test]
    fn forty_eight_kilohertz_stereo_is_mixed_and_resampled() {
        with_alsa("mic::forty_eight_kilohertz_stereo_is_mixed_and_resampled", &bytes(&noise(96_000)), |_| {
            let settings = Settings {
                device: "recorded".into(),
                rate: Some(48_000),
                channels: Some(2),
                ..Settings::default()
            };
            let input: Vec<f32> = noise(96_000).into_iter().map(sample_f32).collect();
            let mut want = Vec::new();
            Resampler::new(48_000, 2).unwrap().push(&input, &mut want);
            let want: Vec<i16> = want.into_iter().map(sample_i16).collect();
            assert_eq!(hear(&settings, 12_000)[..12_000], want[..12_000]);
        });
    }

    #[test]
    fn a_microphone_that_is_absent_is_told() {
        with_alsa("mic::a_microphone_that_is_absent_is_told", &[], |_| {
            let settings = Settings { device: "hw:CARD=nobody".into(), ..Settings::default() };
            let error = format!("{:#}", settings.probe().unwrap_err());
            assert!(error.contains("hw:CARD=nobody"), "{error}");
            let mut mic = Mic::open(&settings, &Pool::default()).unwrap();
            let readings = read_until(&mut mic, |readings| !readings.is_empty());
            assert!(matches!(readings[0], Reading::Lost { .. }), "{readings:?}");
        });
    }
}
