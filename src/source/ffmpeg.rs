//! Any other recorded file through the `ffmpeg` program: pictures as PPM, sound as f32 at 16 kHz mono, over pipes.
//!
//! Pictures keep their size (each PPM states it), are turned upright as the file asks, and come at the file's average rate, or
//! for chosen indices exactly as stored. Sound is mixed by ffmpeg's own rule for float output, `(L + R) / sqrt 2` for stereo,
//! as the training data was; integer output would give the mean. Names are passed as `file:NAME`, so that none is taken for a
//! protocol or an option.
//! Limits: one picture at a time is held.

use super::{
    Frame, PIXELS_MAX, Pool, SAMPLE_RATE,
    clip::{Pictures, Rate, Sound, Step},
};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    ffi::OsString,
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

/// The programs' names, as found in `PATH`.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    pub ffmpeg: &'static str,
    pub ffprobe: &'static str,
}

pub const PROGRAMS: Programs = Programs { ffmpeg: "ffmpeg", ffprobe: "ffprobe" };

/// What a file holds: pictures at a rate, sound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    pub video: Option<Rate>,
    pub audio: bool,
}

impl Programs {
    pub fn probe(self, path: &Path) -> Result<Probe> {
        let entries = "stream=codec_type,avg_frame_rate:stream_disposition=attached_pic";
        let said = self.ask(path, &["-show_entries", entries, "-of", "json"])?;
        let said: serde_json::Value = serde_json::from_slice(&said)
            .with_context(|| format!("ffprobe said something unreadable about {}", path.display()))?;
        let mut probe = Probe { video: None, audio: false };
        for stream in said["streams"].as_array().into_iter().flatten() {
            match stream["codec_type"].as_str() {
                Some("video") if stream["disposition"]["attached_pic"] != 1 => {
                    let rate = stream["avg_frame_rate"].as_str().and_then(parse_rate);
                    probe.video.get_or_insert(rate.unwrap_or(Rate::new(25, 1)));
                }
                Some("audio") => probe.audio = true,
                _ => {}
            }
        }
        Ok(probe)
    }

    /// The number of pictures, by counting packets: the file is read once, nothing is decoded.
    pub fn count(self, path: &Path) -> Result<u64> {
        let wanted = ["-select_streams", "V:0", "-count_packets", "-show_entries", "stream=nb_read_packets"];
        let said = self.ask(path, &[&wanted[..], &["-of", "csv=p=0"]].concat())?;
        let said = String::from_utf8_lossy(&said);
        said.split([',', '\n'])
            .find_map(|field| field.trim().parse().ok())
            .with_context(|| format!("ffprobe could not count the pictures of {}", path.display()))
    }

    /// All pictures at the file's average rate, from time 0.
    pub fn pictures(self, path: &Path, rate: Rate) -> Result<FfmpegPictures> {
        let filter = format!("fps={}/{}:start_time=0", rate.num, rate.den);
        Ok(FfmpegPictures { pipe: self.start(path, &picture_args(&filter))?, rate, index: 0, part: None })
    }

    /// The pictures of the given rising indices, each once, as stored.
    pub fn pick(self, path: &Path, indices: &[u64]) -> Result<FfmpegPictures> {
        let wanted: Vec<String> = indices.iter().map(|index| format!("eq(n\\,{index})")).collect();
        let filter = format!("select={}", wanted.join("+"));
        let mut args = picture_args(&filter);
        args.extend(["-frames:v".into(), indices.len().to_string()]);
        Ok(FfmpegPictures { pipe: self.start(path, &args)?, rate: Rate::new(1, 1), index: 0, part: None })
    }

    /// The sound from time 0, at most `seconds` of it where given.
    pub fn sound(self, path: &Path, seconds: Option<u32>) -> Result<FfmpegSound> {
        let rate = SAMPLE_RATE.to_string();
        let mut args: Vec<String> =
            ["-map", "0:a:0", "-ac", "1", "-ar", &rate, "-f", "f32le"].map(String::from).into();
        args.extend(seconds.into_iter().flat_map(|seconds| ["-t".into(), seconds.to_string()]));
        Ok(FfmpegSound { pipe: self.start(path, &args)?, ended: false })
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
            last_line(&String::from_utf8_lossy(&said.stderr))
        );
        Ok(said.stdout)
    }

    fn start(self, path: &Path, args: &[String]) -> Result<Pipe> {
        let said = tempfile::tempfile().context("cannot make a temporary file for what ffmpeg says")?;
        let heard = said.try_clone().context("cannot share the temporary file with ffmpeg")?;
        let mut child = Command::new(self.ffmpeg)
            .args(["-nostdin", "-v", "error", "-i"])
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

/// `-vsync` is what every ffmpeg from 4 to 7 understands.
fn picture_args(filter: &str) -> Vec<String> {
    let args = ["-map", "0:V:0", "-vf", filter, "-vsync", "passthrough"];
    let format = ["-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm"];
    args.into_iter().chain(format).map(String::from).collect()
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

fn last_line(text: &str) -> String {
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim().chars().take(300).collect()
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
        let why = self.why(status);
        let name = self.path.display();
        if !gave {
            bail!("{name} is not a clip that ffmpeg can read: {why}");
        }
        log::warn!("clip={name} ends early: {why}");
        Ok(())
    }

    fn why(&mut self, status: ExitStatus) -> String {
        let mut said = Vec::new();
        let tail = self.said.seek(SeekFrom::End(0)).map_or(0, |end| end.saturating_sub(2_048));
        let read = self.said.seek(SeekFrom::Start(tail)).and_then(|_| self.said.read_to_end(&mut said));
        match read {
            Ok(_) if !said.is_empty() => last_line(&String::from_utf8_lossy(&said)),
            _ => status.to_string(),
        }
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
        let error = programs.sound(Path::new("a.mp4"), None).err().unwrap().to_string();
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
    fn odd_rates_fall_back() {
        assert_eq!(parse_rate("30000/1001"), Some(Rate::new(30_000, 1_001)));
        assert_eq!(parse_rate("0/0"), None);
        assert_eq!(parse_rate("90000/1"), None);
    }
}
