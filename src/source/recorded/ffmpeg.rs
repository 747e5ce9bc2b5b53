//! Any other recorded file through the `ffmpeg` program: pictures as PPM, sound as f32 at 16 kHz mono, over pipes.
//!
//! Tracks: covers, tracks of one picture beside a longer one, and codecs that ffmpeg does not know are passed over; of the rest the
//! one marked as default is taken, then the largest, or the one with most channels.
//! Pictures keep the size of the track, also where the size changes inside it, are turned upright as the file asks, and come at the file's
//! average rate, or for chosen indices exactly as stored. Sound is laid on its clock: what starts late or has holes is filled with
//! silence. It is mixed by ffmpeg's own rule for float output, `(L + R) / sqrt 2` for stereo, as the training data was; integer
//! output would give the mean. Names are passed as `file:NAME`, so that none is taken for a protocol or an option.
//! Limits: one picture at a time is held.

use super::track::{Pictures, Rate, Sound, Step};
use crate::source::{Frame, PIXELS_MAX, Pool, SAMPLE_RATE};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// The programs' names, as found in `PATH`.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    pub ffmpeg: &'static str,
    pub ffprobe: &'static str,
}

/// The oldest version that clips are read with: Debian 10 and Ubuntu 18.04 are older or as old.
pub const VERSION_MIN: (u32, u32) = (4, 1);

pub const PROGRAMS: Programs = Programs { ffmpeg: "ffmpeg", ffprobe: "ffprobe" };

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    pub video: Option<Video>,
    /// Number of the sound track among all tracks.
    pub audio: Option<u32>,
    /// Length of the whole file, where it says one.
    pub seconds: Option<f64>,
}

/// A picture track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Video {
    /// Number among all tracks.
    pub index: u32,
    pub rate: Rate,
    /// As shown: upright.
    pub width: u32,
    pub height: u32,
}

const PROBE: [&str; 4] = [
    "-show_entries",
    "stream=index,codec_type,codec_name,width,height,avg_frame_rate,nb_frames,channels:stream_disposition=default,\
     attached_pic,timed_thumbnails:stream_tags=rotate:stream_side_data=rotation:format=duration",
    "-of",
    "json",
];

impl Programs {
    pub fn probe(self, path: &Path) -> Result<Probe> {
        let name = path.display();
        let said = self.ask(path, &PROBE)?;
        let said: Value = serde_json::from_slice(&said)
            .with_context(|| format!("ffprobe answered something unreadable about {name}"))?;
        let streams: Vec<&Value> = said["streams"].as_array().into_iter().flatten().collect();
        let of = |kind: &str| -> Vec<&Value> {
            streams
                .iter()
                .copied()
                .filter(|stream| stream["codec_type"] == kind && is_track(stream))
                .collect()
        };
        let (mut pictures, sounds) = (of("video"), of("audio"));
        if pictures.len() > 1 {
            let lengths: Vec<u64> = pictures
                .iter()
                .map(|stream| self.packets(path, number(stream, "index")))
                .collect::<Result<_>>()?;
            let mut lengths = lengths.into_iter();
            pictures.retain(|_| lengths.next().is_some_and(|length| length > 1));
        }
        for (what, all) in [("picture", &pictures), ("sound", &sounds)] {
            if all.len() > 1 {
                log::info!(
                    "clip={name} has {} {what} tracks: the default one is taken, else the largest",
                    all.len()
                );
            }
        }
        for stream in &streams {
            if stream["codec_type"] == "audio" && !is_track(stream) {
                log::warn!("clip={name}: ffmpeg does not know the codec of sound track {}", stream["index"]);
            }
        }
        let size = |stream: &Value| number(stream, "width") * number(stream, "height");
        Ok(Probe {
            video: best(&pictures, size).map(video),
            audio: best(&sounds, |stream| number(stream, "channels"))
                .map(|stream| number(stream, "index") as u32),
            seconds: said["format"]["duration"].as_str().and_then(|text| text.parse().ok()),
        })
    }

    fn packets(self, path: &Path, index: u64) -> Result<u64> {
        self.counted(path, index, "-count_packets", "nb_read_packets")
    }

    /// The number of pictures that decoding gives: an edit list may hide some that are stored.
    pub fn count(self, path: &Path, index: u32) -> Result<u64> {
        self.counted(path, index.into(), "-count_frames", "nb_read_frames")
    }

    fn counted(self, path: &Path, index: u64, how: &str, what: &str) -> Result<u64> {
        let (index, entry) = (index.to_string(), format!("stream={what}"));
        let said =
            self.ask(path, &["-select_streams", &index, how, "-show_entries", &entry, "-of", "csv=p=0"])?;
        let said = String::from_utf8_lossy(&said);
        said.split([',', '\n'])
            .find_map(|field| field.trim().parse().ok())
            .with_context(|| format!("ffprobe could not count the pictures of {}", path.display()))
    }

    /// All pictures at the file's average rate, from time 0.
    pub fn pictures(self, path: &Path, video: &Video) -> Result<FfmpegPictures> {
        let rate = video.rate;
        let filter = format!("fps={}/{}:start_time=0", rate.num, rate.den);
        let pipe = self.start(path, &KEEP_SIZE, &self.picture_args(video, &filter))?;
        Ok(FfmpegPictures { pipe, rate, index: 0, part: None })
    }

    /// The pictures of the given rising indices, each once, as stored.
    pub fn pick(self, path: &Path, video: &Video, indices: &[u64]) -> Result<FfmpegPictures> {
        let wanted: Vec<String> = indices.iter().map(|index| format!("eq(n\\,{index})")).collect();
        let filter = format!("select={}", wanted.join("+"));
        let mut args = self.picture_args(video, &filter);
        args.extend(["-frames:v".into(), indices.len().to_string()]);
        let pipe = self.start(path, &KEEP_SIZE, &args)?;
        Ok(FfmpegPictures { pipe, rate: Rate::new(1, 1), index: 0, part: None })
    }

    /// The sound from time 0, at most `seconds` of it where given.
    pub fn sound(self, path: &Path, index: u32, seconds: Option<f64>) -> Result<FfmpegSound> {
        let (rate, track) = (SAMPLE_RATE.to_string(), format!("0:{index}"));
        let on_its_clock = "aresample=async=1:first_pts=0";
        let args = ["-map", &track, "-af", on_its_clock, "-ac", "1", "-ar", &rate, "-f", "f32le"];
        let mut args: Vec<String> = args.map(String::from).into();
        args.extend(seconds.into_iter().flat_map(|seconds| ["-t".into(), seconds.to_string()]));
        Ok(FfmpegSound { pipe: self.start(path, &[], &args)?, ended: false })
    }

    fn picture_args(self, video: &Video, filter: &str) -> Vec<String> {
        let Video { index, width, height, .. } = video;
        let (track, filter) = (format!("0:{index}"), format!("scale={width}:{height},{filter}"));
        let as_they_come =
            if self.version().is_some_and(is_before_fps_mode) { "-vsync" } else { "-fps_mode" };
        let args = ["-map", &track, "-vf", &filter, as_they_come, "passthrough"];
        let format = ["-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm"];
        args.into_iter().chain(format).map(String::from).collect()
    }

    /// Major and minor version of ffmpeg; `None` for builds that have none, and where it cannot be asked.
    pub fn version(self) -> Option<(u32, u32)> {
        static ASKED: OnceLock<Option<(u32, u32)>> = OnceLock::new();
        let ask = || {
            let said = Command::new(self.ffmpeg).arg("-version").stdin(Stdio::null()).output().ok()?;
            parse_version(&String::from_utf8_lossy(&said.stdout))
        };
        if self.ffmpeg == PROGRAMS.ffmpeg { *ASKED.get_or_init(ask) } else { ask() }
    }

    fn ask(self, path: &Path, args: &[&str]) -> Result<Vec<u8>> {
        let said = Command::new(self.ffprobe)
            .args(["-v", "error"])
            .args(args)
            .arg("-i")
            .arg(local(path))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| missing(error, self.ffprobe, path))?;
        ensure!(
            said.status.success(),
            "{} is not a clip that ffmpeg can read: {}",
            path.display(),
            first_line(&String::from_utf8_lossy(&said.stderr))
        );
        Ok(said.stdout)
    }

    /// `before` are options of the input.
    fn start(self, path: &Path, before: &[&str], args: &[String]) -> Result<Pipe> {
        let said = tempfile::tempfile().context("cannot make a temporary file for what ffmpeg says")?;
        let heard = said.try_clone().context("cannot share the temporary file with ffmpeg")?;
        let mut child = Command::new(self.ffmpeg)
            .args(["-nostdin", "-v", "error"])
            .args(before)
            .arg("-i")
            .arg(local(path))
            .args(args)
            .arg("pipe:1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(heard)
            .spawn()
            .map_err(|error| missing(error, self.ffmpeg, path))?;
        let stdout = child.stdout.take().expect("its standard output was asked for");
        Ok(Pipe { child, stdout, said, path: path.to_owned(), buffer: vec![0; 1 << 16], start: 0, end: 0 })
    }
}

/// The filters are not made anew where the size changes inside: time and numbers would begin again.
const KEEP_SIZE: [&str; 2] = ["-reinit_filter", "0"];

/// `-fps_mode` came with 5.1, and `-vsync` went with 9.
fn is_before_fps_mode(version: (u32, u32)) -> bool {
    version < (5, 1)
}

/// Of `ffmpeg version 5.1.9-0+deb12u1 Copyright ..` or `ffmpeg version n7.0 ..`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let word = text.strip_prefix("ffmpeg version ")?.split_whitespace().next()?;
    let mut numbers = word.trim_start_matches('n').split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

/// A track that can be decoded and is no cover.
fn is_track(stream: &Value) -> bool {
    let marked = |mark: &str| stream["disposition"][mark] == 1;
    let known = !matches!(stream["codec_name"].as_str(), None | Some("unknown" | "none"));
    known && !marked("attached_pic") && !marked("timed_thumbnails")
}

/// The default track, then the one with most of something, then the first.
fn best<'a>(streams: &[&'a Value], most: impl Fn(&Value) -> u64) -> Option<&'a Value> {
    let rank = |stream: &Value| (stream["disposition"]["default"] == 1, most(stream));
    streams.iter().rev().copied().max_by_key(|stream| rank(stream))
}

fn video(stream: &Value) -> Video {
    let rate = stream["avg_frame_rate"].as_str().and_then(parse_rate);
    let tag = stream["tags"]["rotate"].as_str().and_then(|text| text.parse::<f64>().ok());
    let side = stream["side_data_list"].as_array().into_iter().flatten();
    let turned = side.filter_map(|data| data["rotation"].as_f64()).next().or(tag).unwrap_or(0.0);
    let (width, height) = (number(stream, "width") as u32, number(stream, "height") as u32);
    let lies = ((turned / 90.0).round() as i64).rem_euclid(2) == 1;
    let (width, height) = if lies { (height, width) } else { (width, height) };
    Video { index: number(stream, "index") as u32, rate: rate.unwrap_or(Rate::new(25, 1)), width, height }
}

/// A number, as JSON or as text.
fn number(stream: &Value, key: &str) -> u64 {
    let value = &stream[key];
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn local(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

fn missing(error: std::io::Error, program: &str, path: &Path) -> anyhow::Error {
    let name = path.display();
    if error.kind() == ErrorKind::NotFound {
        return anyhow::anyhow!(
            "{name} needs the program `{program}`, which is not installed: `apt-get install ffmpeg`, or give a folder of \
             images with a WAV file, or an AVI file with MJPEG pictures and PCM sound"
        );
    }
    anyhow::Error::from(error).context(format!("cannot start `{program}` for {name}"))
}

fn parse_rate(text: &str) -> Option<Rate> {
    let (num, den) = text.split_once('/')?;
    let (num, den): (u32, u32) = (num.parse().ok()?, den.parse().ok()?);
    let rate = Rate { num, den };
    (1.0..=240.0).contains(&rate.per_second()).then_some(rate)
}

/// Where ffmpeg says what is wrong; what follows says what came of it.
fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim().chars().take(300).collect()
}

/// Whether ffmpeg refused what it was asked, not the file.
fn is_about_options(said: &str) -> bool {
    ["Unrecognized option", "Option not found", "Error splitting the argument list", "No such filter"]
        .iter()
        .any(|words| said.contains(words))
}

/// A running ffmpeg and its output.
struct Pipe {
    child: Child,
    stdout: ChildStdout,
    said: File,
    path: PathBuf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

enum More {
    Bytes,
    Wait,
    End,
}

impl Pipe {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Waits for more output, at most `wait`, and adds it to `bytes`.
    fn more(&mut self, wait: Duration) -> Result<More> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        assert!(self.end < self.buffer.len(), "{} bytes of output wait to be taken", self.end);
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&wait)) {
            Ok(0) | Err(Errno::INTR) => return Ok(More::Wait),
            Ok(_) => {}
            Err(error) => return Err(error).context("waiting for ffmpeg"),
        }
        let read = self.stdout.read(&mut self.buffer[self.end..]).context("reading from ffmpeg")?;
        self.end += read;
        Ok(if read == 0 { More::End } else { More::Bytes })
    }

    /// After the end: an error if ffmpeg failed and gave nothing, a warning if it failed on the way.
    fn finish(&mut self, gave: bool) -> Result<()> {
        let status = self.child.wait().context("waiting for ffmpeg to end")?;
        if status.success() {
            return Ok(());
        }
        let said = self.said();
        let why = if said.is_empty() { status.to_string() } else { first_line(&said) };
        let name = self.path.display();
        ensure!(
            !is_about_options(&said),
            "this ffmpeg does not do what it is asked for {name}: {why}; `mien doctor` shows its version, 4 to 9 are known"
        );
        if !gave {
            bail!("{name} is not a clip that ffmpeg can read: {why}");
        }
        log::warn!("clip={name} ends early: {why}");
        Ok(())
    }

    /// What ffmpeg has said, its beginning.
    fn said(&mut self) -> String {
        let mut said = Vec::new();
        let read =
            self.said.seek(SeekFrom::Start(0)).and_then(|_| (&self.said).take(2_048).read_to_end(&mut said));
        if read.is_err() {
            said.clear();
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Both fail only where the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct FfmpegPictures {
    pipe: Pipe,
    rate: Rate,
    index: u64,
    /// The picture that is on its way, and how many of its bytes are here.
    part: Option<(Frame, usize)>,
}

impl Pictures for FfmpegPictures {
    fn next(&mut self, pool: &Pool, wait: Duration) -> Result<Step<Frame>> {
        loop {
            if self.part.is_none()
                && let Some((header, width, height)) = ppm_header(self.pipe.bytes())?
            {
                self.pipe.start += header;
                let rgb = pool.rgb(width as usize * height as usize * 3);
                let captured_ns = self.rate.at_ns(self.index);
                self.part = Some((Frame { captured_ns, height, width, rgb }, 0));
            }
            if let Some((mut frame, mut here)) = self.part.take() {
                let bytes = self.pipe.bytes();
                let take = bytes.len().min(frame.rgb.len() - here);
                frame.rgb[here..here + take].copy_from_slice(&bytes[..take]);
                self.pipe.start += take;
                here += take;
                if here == frame.rgb.len() {
                    self.index += 1;
                    return Ok(Step::Next(frame));
                }
                self.part = Some((frame, here));
            }
            match self.pipe.more(wait)? {
                More::Bytes => {}
                More::Wait => return Ok(Step::Wait),
                More::End => {
                    self.pipe.finish(self.index > 0)?;
                    return Ok(Step::End);
                }
            }
        }
    }

    fn skip(&mut self) -> Result<bool> {
        let pool = Pool::default();
        loop {
            match self.next(&pool, Duration::from_secs(1))? {
                Step::Next(_) => return Ok(true),
                Step::Wait => {}
                Step::End => return Ok(false),
            }
        }
    }

    fn position(&self) -> u64 {
        self.index
    }
}

/// Bytes of a whole PPM header and the picture's width and height; `None` while it is not whole.
fn ppm_header(bytes: &[u8]) -> Result<Option<(usize, u32, u32)>> {
    let mut fields = [0_u32; 3];
    let mut lines = bytes.iter().enumerate().filter(|(_, byte)| byte.is_ascii_whitespace()).map(|(at, _)| at);
    let mut start = 0;
    for (field, slot) in (0..4).zip([0, 0, 1, 2]) {
        let Some(end) = lines.next() else {
            ensure!(bytes.len() < 64, "ffmpeg sent something that is no PPM picture");
            return Ok(None);
        };
        if field == 0 {
            ensure!(&bytes[..end] == b"P6", "ffmpeg sent something that is no PPM picture");
        } else {
            let text = std::str::from_utf8(&bytes[start..end]).ok().and_then(|text| text.parse().ok());
            fields[slot] = text.context("ffmpeg sent a PPM picture without a size")?;
        }
        start = end + 1;
    }
    let [width, height, depth] = fields;
    ensure!(depth == 255, "ffmpeg sent a PPM picture of depth {depth}");
    let pixels = u64::from(width) * u64::from(height);
    ensure!(
        (1..=PIXELS_MAX).contains(&pixels),
        "pictures are {width} x {height}; 1 to {PIXELS_MAX} pixels can be used"
    );
    Ok(Some((start, width, height)))
}

pub struct FfmpegSound {
    pipe: Pipe,
    ended: bool,
}

impl Sound for FfmpegSound {
    fn next(&mut self, into: &mut Vec<f32>, wait: Duration) -> Result<Step<()>> {
        if self.ended {
            return Ok(Step::End);
        }
        match self.pipe.more(wait)? {
            More::Wait => return Ok(Step::Wait),
            More::End => {
                self.ended = true;
                self.pipe.finish(true)?;
                return Ok(Step::End);
            }
            More::Bytes => {}
        }
        let whole = self.pipe.bytes().len() / 4 * 4;
        let samples = self.pipe.bytes()[..whole].chunks_exact(4);
        into.extend(samples.map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
        self.pipe.start += whole;
        Ok(Step::Next(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_program_the_error_names_the_package() {
        let programs = Programs { ffmpeg: "no-such-ffmpeg", ffprobe: "no-such-ffprobe" };
        let error = programs.probe(Path::new("a.mp4")).unwrap_err().to_string();
        assert!(error.contains("apt-get install ffmpeg") && error.contains("a.mp4"), "{error}");
        let error = programs.sound(Path::new("a.mp4"), 0, None).err().unwrap().to_string();
        assert!(error.contains("apt-get install ffmpeg"), "{error}");
    }

    #[test]
    fn a_ppm_header_is_read_when_it_is_whole() {
        for part in 0..11 {
            assert_eq!(ppm_header(&b"P6\n12 7\n255\nabc"[..part]).unwrap(), None);
        }
        assert_eq!(ppm_header(b"P6\n12 7\n255\nabc").unwrap(), Some((12, 12, 7)));
        assert!(ppm_header(b"P5\n12 7\n255\nabc").is_err());
        assert!(ppm_header(b"P6\n99999 99999\n255\n").is_err());
        assert!(ppm_header(&[b'x'; 64]).is_err());
    }

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (text, version) in [
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026", Some((5, 1))),
            ("ffmpeg version n7.0 Copyright", Some((7, 0))),
            ("ffmpeg version 9.0.1", Some((9, 0))),
            ("ffmpeg version 4.4.2-0ubuntu0.22.04.1", Some((4, 4))),
            ("ffmpeg version N-109542-g1bf1466", None),
            ("ffmpeg version git-2026-01-01", None),
            ("something else", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
        assert!(is_before_fps_mode((4, 4)) && is_before_fps_mode((5, 0)) && !is_before_fps_mode((5, 1)));
    }

    #[test]
    fn odd_rates_fall_back() {
        assert_eq!(parse_rate("30000/1001"), Some(Rate::new(30_000, 1_001)));
        assert_eq!(parse_rate("0/0"), None);
        assert_eq!(parse_rate("90000/1"), None);
    }
}
