//! Clips as recorders in the field leave them: late sound, hidden pictures, sizes that change, posters, turned photographs.
//!
//! Inputs are made here, with ffmpeg where a container is wanted. Each has known pictures and sound.

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use mien::source::{
    PIXELS_MAX, Pool, Reading, Source,
    clip::{self, Clip},
    recorded::whole::Recording,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use tempfile::TempDir;

struct Room(TempDir);

impl Room {
    fn new() -> Room {
        Room(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs ffmpeg in the folder.
    fn ffmpeg(&self, args: &str) -> &Room {
        let words = args.split_whitespace();
        let said = Command::new("ffmpeg")
            .args(["-v", "error", "-y"])
            .args(words)
            .current_dir(self.0.path())
            .output();
        let said = said.expect("ffmpeg is installed");
        assert!(said.status.success(), "{args}: {}", String::from_utf8_lossy(&said.stderr));
        self
    }

    fn infer(&self, clip: &str, path: Option<&Path>) -> Output {
        let mut mien = Command::new(env!("CARGO_BIN_EXE_mien"));
        let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/models/default.gguf");
        mien.args(["infer", "--json", "--mode", "label", "--bundle", bundle]).arg(self.path(clip));
        if let Some(path) = path {
            mien.env("PATH", path);
        }
        mien.output().unwrap()
    }
}

/// Loudness of each tenth of a second.
fn levels(samples: &[f32]) -> Vec<f32> {
    let rms = |some: &[f32]| (some.iter().map(|s| s * s).sum::<f32>() / some.len() as f32).sqrt();
    samples.chunks(1_600).map(rms).collect()
}

/// All that a clip plays: times and sizes of pictures, and sound.
fn played(path: &Path) -> (Vec<(u64, u32, u32)>, Vec<f32>) {
    let settings = clip::Settings { path: path.to_owned(), paced: false, frames_per_second: 10 };
    let mut clip = Clip::open(&settings, &Pool::default()).unwrap();
    let (mut left, mut pictures, mut sound) =
        (u8::from(clip.gives().video) + u8::from(clip.gives().audio), vec![], vec![]);
    while left > 0 {
        match clip.read(Duration::from_secs(5)).unwrap() {
            Some(Reading::Frame(frame)) => {
                pictures.push((frame.captured_ns / 1_000_000, frame.width, frame.height))
            }
            Some(Reading::Chunk(chunk)) => {
                sound.extend(chunk.samples.iter().map(|s| f32::from(*s) / 32_768.0))
            }
            Some(Reading::End { .. }) => left -= 1,
            Some(Reading::Lost { .. }) | None => {}
        }
    }
    (pictures, sound)
}

const FILM: &str = "-f lavfi -i testsrc=size=64x48:rate=10:duration=4";

#[test]
fn sound_that_starts_late_is_heard_late() {
    let room = Room::new();
    room.ffmpeg("-f lavfi -i sine=frequency=440:duration=2 tone.wav");
    room.ffmpeg(&format!("{FILM} -itsoffset 2 -i tone.wav -c:v mpeg4 -c:a aac late.mp4"));
    let recording = Recording::open(&room.path("late.mp4"), 8).unwrap();
    let whole = levels(recording.samples.as_deref().unwrap());
    assert!((38..=42).contains(&whole.len()), "{} tenths of a second", whole.len());
    assert!(whole[..18].iter().all(|level| *level < 0.01), "silence before: {whole:?}");
    assert!(whole[22..38].iter().all(|level| *level > 0.05), "the tone: {whole:?}");
    assert_eq!(
        levels(&played(&room.path("late.mp4")).1).iter().position(|level| *level > 0.05).unwrap() / 2,
        10
    );
}

#[test]
fn holes_in_sound_stay_open() {
    let room = Room::new();
    let hole = "-f lavfi -i sine=frequency=440:duration=4 -af aselect='not(between(t,1,2.5))'";
    room.ffmpeg(&format!("{FILM} {hole} -c:v mpeg4 -c:a pcm_s16le hole.mkv"));
    let whole = levels(Recording::open(&room.path("hole.mkv"), 8).unwrap().samples.as_deref().unwrap());
    assert!((39..=41).contains(&whole.len()), "{} tenths of a second", whole.len());
    let loud: Vec<bool> = whole.iter().map(|level| *level > 0.03).collect();
    assert!(
        loud[..9].iter().all(|l| *l) && loud[12..24].iter().all(|l| !l) && loud[27..39].iter().all(|l| *l),
        "{loud:?}"
    );
}

#[test]
fn pictures_that_an_edit_list_hides_are_not_counted() {
    let room = Room::new();
    room.ffmpeg(&format!("{FILM} -c:v mpeg4 -g 40 whole.mp4"))
        .ffmpeg("-ss 0.65 -i whole.mp4 -c copy cut.mp4");
    let cut = Recording::open(&room.path("cut.mp4"), 8).unwrap();
    assert!((33..=34).contains(&cut.frames_total), "{} of 40", cut.frames_total);
    assert_eq!(cut.frames().unwrap().len(), 8);
}

#[test]
fn a_size_that_changes_inside_changes_nothing() {
    let room = Room::new();
    room.ffmpeg("-f lavfi -i testsrc=size=64x48:rate=25:duration=2 -c:v mpeg2video a.ts");
    room.ffmpeg(
        "-f lavfi -i testsrc=size=128x96:rate=25:duration=2 -c:v mpeg2video -output_ts_offset 2 b.ts",
    );
    let both = [fs::read(room.path("a.ts")).unwrap(), fs::read(room.path("b.ts")).unwrap()].concat();
    fs::write(room.path("both.ts"), both).unwrap();
    let (pictures, _) = played(&room.path("both.ts"));
    assert!((95..=104).contains(&pictures.len()), "{} pictures of 4 s at 25 a second", pictures.len());
    assert!(pictures.iter().all(|(_, width, height)| (*width, *height) == (64, 48)), "one size");
    assert!(pictures.last().unwrap().0 < 4_200, "{:?}", pictures.last());
    assert!(pictures.windows(2).all(|pair| pair[1].0 > pair[0].0), "time goes on");
    let recording = Recording::open(&room.path("both.ts"), 8).unwrap();
    assert!((95..=104).contains(&recording.frames_total) && recording.frames().unwrap().len() == 8);
}

#[test]
fn a_poster_before_the_film_is_passed_over() {
    let room = Room::new();
    room.ffmpeg("-f lavfi -i color=red:size=320x240:rate=1:duration=1 -frames:v 1 poster.png");
    room.ffmpeg(&format!(
        "-i poster.png {FILM} -map 0 -map 1 -c:v mpeg4 -disposition:v:0 default poster.mkv"
    ));
    let recording = Recording::open(&room.path("poster.mkv"), 8).unwrap();
    assert_eq!(recording.frames_total, 40);
    assert_eq!((recording.frames().unwrap()[0].1.width, played(&room.path("poster.mkv")).0.len()), (64, 40));
}

#[test]
fn sound_of_an_unknown_codec_is_missing_and_not_silent() {
    let room = Room::new();
    room.ffmpeg(&format!("{FILM} -f lavfi -i sine=duration=4 -c:v mpeg4 -c:a pcm_s16le known.mkv"));
    let mut bytes = fs::read(room.path("known.mkv")).unwrap();
    let at = bytes.windows(13).position(|some| some == b"A_PCM/INT/LIT").expect("the codec of the sound");
    bytes[at..at + 5].copy_from_slice(b"A_ZZZ");
    fs::write(room.path("unknown.mkv"), bytes).unwrap();
    let recording = Recording::open(&room.path("unknown.mkv"), 8).unwrap();
    assert!(recording.samples.is_none() && recording.frames_total == 40);
    let said = room.infer("unknown.mkv", None);
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(told.contains("codec of sound track 1"), "{told}");
    assert!(String::from_utf8_lossy(&said.stdout).contains(r#""missing":["audio"]"#));
}

/// A recorder that never closed its file leaves a header without sizes, or nothing behind it.
#[test]
fn a_wave_file_that_was_never_closed_is_heard_and_an_empty_one_is_missing() {
    let room = Room::new();
    room.ffmpeg("-f lavfi -i sine=duration=1 -ar 16000 -bitexact tone.wav")
        .ffmpeg(&format!("{FILM} -f image2 p%d.png"));
    let closed = fs::read(room.path("tone.wav")).unwrap();
    for size in [0u32, u32::MAX] {
        let mut open = closed.clone();
        open[4..8].copy_from_slice(&size.to_le_bytes());
        open[40..44].copy_from_slice(&size.to_le_bytes());
        fs::write(room.path("open.wav"), open).unwrap();
        let samples = Recording::open(&room.path("open.wav"), 8).unwrap().samples.unwrap();
        assert_eq!(samples.len(), 16_000, "sizes {size:#x}");
    }
    fs::create_dir(room.path("clip")).unwrap();
    fs::copy(room.path("p1.png"), room.path("clip/p1.png")).unwrap();
    fs::write(room.path("clip/sound.wav"), &closed[..44]).unwrap();
    let said = room.infer("clip", None);
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(out.contains(r#""missing":["audio"]"#), "{out}");
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("sound"),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
}

/// A JPEG whose left half is red, and which says in Exif that it is to be turned.
fn turned_jpeg(orientation: u8) -> Vec<u8> {
    let (width, height) = (64u32, 32u32);
    let rgb: Vec<u8> =
        (0..height * width).flat_map(|i| if i % width < 32 { [255, 0, 0] } else { [0, 0, 255] }).collect();
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 95)
        .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
        .unwrap();
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let len = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1, len[0], len[1]], &exif, &jpeg[2..]].concat()
}

#[test]
fn photographs_are_turned_upright_hidden_files_skipped_and_names_counted() {
    let room = Room::new();
    fs::create_dir(room.path("clip")).unwrap();
    for (name, orientation) in [("frame_1.jpg", 1), ("frame_2.jpg", 6), ("frame_10.jpg", 3)] {
        fs::write(room.path("clip").join(name), turned_jpeg(orientation)).unwrap();
    }
    fs::write(room.path("clip/._frame_1.jpg"), b"\0\x05\x16\x07 not a picture").unwrap();
    let recording = Recording::open(&room.path("clip"), 3).unwrap();
    assert_eq!(recording.frames_total, 3);
    let frames = recording.frames().unwrap();
    let sizes: Vec<(u32, u32)> = frames.iter().map(|(_, frame)| (frame.width, frame.height)).collect();
    assert_eq!(sizes, [(64, 32), (32, 64), (64, 32)], "in the order 1, 2, 10");
    let red_at = |i: usize, x: usize, y: usize| {
        let frame = frames[i].1;
        let at = (y * frame.width as usize + x) * 3;
        frame.rgb[at] > 200 && frame.rgb[at + 2] < 60
    };
    assert!(red_at(0, 8, 16) && !red_at(0, 56, 16), "as stored");
    assert!(red_at(1, 16, 8) && !red_at(1, 16, 56), "a quarter turn clockwise");
    assert!(!red_at(2, 8, 16) && red_at(2, 56, 16), "upside down");
}

/// Old versions know `-vsync` alone, new ones `-fps_mode` alone.
#[test]
fn old_and_new_ffmpeg_are_given_the_option_they_know() {
    let room = Room::new();
    room.ffmpeg(&format!("{FILM} -c:v mpeg4 film.mp4"));
    for (version, refused) in [("4.4.2-0ubuntu0.22.04.1", "-fps_mode"), ("9.0", "-vsync")] {
        let folder = room.path(version);
        fs::create_dir(&folder).unwrap();
        let script = format!(
            "#!/bin/bash\nPATH=$PATH_OF_TESTS\nif [ \"$1\" = -version ]; then echo 'ffmpeg version {version} Copyright'; exit; fi\n\
             args=()\nfor a in \"$@\"; do\n[ \"$a\" = {refused} ] && {{ echo \"Unrecognized option '${{a#-}}'.\" >&2; exit 1; }}\n\
             [ \"$a\" = -fps_mode ] && a=-vsync\nargs+=(\"$a\")\ndone\nexec ffmpeg \"${{args[@]}}\"\n"
        );
        fs::write(folder.join("ffmpeg"), script.replace("$PATH_OF_TESTS", &std::env::var("PATH").unwrap()))
            .unwrap();
        fs::set_permissions(folder.join("ffmpeg"), PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let said = room.infer("film.mp4", Some(Path::new(&path)));
        let (out, told) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(
            said.status.success() && out.contains(r#""frames_total":40"#),
            "ffmpeg {version}: {out} {told}"
        );
    }
}

/// A header is cheap to write, and what it asks for is not: nothing is allocated for a picture beyond the limit. A pipe says so and
/// waits for a better writer; whatever else is asked ends.
#[test]
fn a_giant_picture_is_refused_by_every_source() {
    let room = Room::new();
    room.ffmpeg("-f lavfi -i color=size=5000x5000:rate=1 -frames:v 1 -c:v ffv1 film.mkv")
        .ffmpeg("-f lavfi -i color=size=5000x5000:rate=1 -frames:v 1 photo.png")
        .ffmpeg("-f lavfi -i color=size=5000x5000:rate=1 -frames:v 1 -c:v mjpeg -pix_fmt yuvj420p film.avi");
    fs::create_dir(room.path("album")).unwrap();
    fs::rename(room.path("photo.png"), room.path("album/photo.png")).unwrap();
    fs::write(room.path("pipe.y4m"), "YUV4MPEG2 W4000000000 H4000000000 F10:1 C420\nFRAME\n").unwrap();
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/models/default.gguf");
    for (command, table) in [
        ("run", "[clip]\npath = \"film.mkv\""),
        ("run", "[clip]\npath = \"film.avi\""),
        ("run", "[clip]\npath = \"album\""),
        ("run", "[pipe]\nvideo = \"pipe.y4m\""),
        ("check-config", "[camera]\nwidth = 5000\nheight = 5000"),
    ] {
        let text = format!(
            "[model]\nbundle = \"{bundle}\"\n[privacy]\npurpose = \"museum-guide\"\n{table}\n[sink.stdout]\n"
        );
        fs::write(room.path("site.toml"), text).unwrap();
        let command =
            format!("ulimit -v 1000000; timeout 3 {} {command} site.toml", env!("CARGO_BIN_EXE_mien"));
        let said = Command::new("sh").args(["-c", &command]).current_dir(room.0.path()).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains(&PIXELS_MAX.to_string()), "{table}: {text}");
        assert!(!said.status.success(), "{table}: {text}");
    }
}
