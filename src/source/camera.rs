//! A V4L2 camera: chosen by path, link, serial number or name, in the mode nearest to what is wished, as RGB.
//!
//! Formats: YUYV, NV12, RGB24, MJPEG; where two give the wished size and rate, in this order.
//! Units: `captured_ns` is the driver's stamp on the monotonic clock, or the time of arrival where the driver has none.
//! Loss: no frame for `stall_ms` (`first_frame_ms` after opening), a failed call, an unplugged device. The node is closed at
//! once, so that its number is free again, and looked for anew, by the same choice, after 0.25 s, then twice as long each time, up
//! to 5 s.

use super::{
    Apart, Frame, Gives, Modality, PIXELS_MAX, Pool, Reading, Source, SourceCounts,
    choose::{Miss, Named, choose},
    edge::{DEVICE_STABLE, Edge},
    jpeg::Jpeg,
    monotonic_ns,
    pixels::{self, Broken},
    v4l2::{Format, FourCc, Node, Offer, Queue, Taken},
};
use anyhow::{Result, anyhow, ensure};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A stamp this far from now is not of this clock.
const STAMP_OFF_NS: u64 = 10_000_000_000;

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A path (`/dev/video0`, `/dev/v4l/by-id/...`), a by-id or by-path name, a USB serial number, a bus, or a card name. Empty:
    /// the only camera there is.
    pub device: String,
    pub width: u32,
    pub height: u32,
    pub frames_per_second: u32,
    /// How long the first frame may take.
    pub first_frame_ms: u32,
    /// How long any later frame may take.
    pub stall_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: String::new(),
            width: 640,
            height: 480,
            frames_per_second: 30,
            first_frame_ms: 15_000,
            stall_ms: 2_000,
        }
    }
}

impl Settings {
    pub const PATHS: &[&str] = &[];

    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: u32, least: u32, most: u32| {
            ensure!(
                (least..=most).contains(&value),
                "camera: {name} = {value}: {least} to {most} can be used"
            );
            Ok(())
        };
        within("width", self.width, 16, 8_192)?;
        within("height", self.height, 16, 8_192)?;
        let pixels = u64::from(self.width) * u64::from(self.height);
        ensure!(
            pixels <= PIXELS_MAX,
            "camera: {} x {} is {pixels} pixels; at most {PIXELS_MAX} can be used",
            self.width,
            self.height
        );
        within("frames_per_second", self.frames_per_second, 1, 240)?;
        within("first_frame_ms", self.first_frame_ms, 100, 120_000)?;
        within("stall_ms", self.stall_ms, 100, 120_000)
    }

    pub fn gives(&self) -> Result<Gives> {
        Ok(Gives { video: true, audio: false })
    }

    /// Says whether it is there and usable, and keeps nothing open.
    pub fn probe(&self) -> Result<()> {
        self.check()?;
        open(self).map(drop).map_err(Miss::into_error)
    }

    pub fn open(&self, pool: &Pool) -> Result<Box<dyn Source>> {
        Ok(Box::new(Camera::open(self, pool)?))
    }
}

/// A camera that is there.
#[derive(Clone, Debug)]
pub struct Found {
    pub path: PathBuf,
    pub card: String,
    pub bus: String,
    pub driver: String,
    pub serial: Option<String>,
    /// Names under `/dev/v4l/by-id` and `/dev/v4l/by-path` that lead here.
    pub links: Vec<PathBuf>,
    pub offers: Vec<Offer>,
}

impl Named for Found {
    const KIND: &str = "camera";
    const BY: &str = "path or link";

    fn goes_by(&self, name: &str) -> bool {
        let link = |link: &PathBuf| link.file_name().is_some_and(|file| file == name);
        [&self.card, &self.bus].into_iter().any(|own| own == name)
            || self.serial.as_deref() == Some(name)
            || self.links.iter().any(link)
    }

    fn describe(&self) -> String {
        let own = self.links.first().unwrap_or(&self.path);
        let serial = self.serial.as_deref().unwrap_or("none");
        format!("{} (card \"{}\", serial {serial}, bus {})", own.display(), self.card, self.bus)
    }
}

/// Every node that takes pictures.
pub fn list() -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/dev") else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| number(path).is_some());
    paths.sort_by_key(|path| number(path));
    paths.iter().filter_map(|path| look_at(path)).collect()
}

fn number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("video")?.parse().ok()
}

fn look_at(path: &Path) -> Option<Found> {
    let node = Node::open(path).ok()?;
    let caps = node.caps().ok().filter(|caps| caps.captures)?;
    Some(Found {
        path: path.to_owned(),
        card: caps.card,
        bus: caps.bus,
        driver: caps.driver,
        serial: serial(path),
        links: links(path),
        offers: node.offers(),
    })
}

/// The serial number of the USB device that a node belongs to.
fn serial(path: &Path) -> Option<String> {
    let device = Path::new("/sys/class/video4linux").join(path.file_name()?).join("device");
    let interface = fs::canonicalize(device).ok()?;
    let serial = fs::read_to_string(interface.parent()?.join("serial")).ok()?;
    Some(serial.trim().to_string()).filter(|serial| !serial.is_empty())
}

fn links(path: &Path) -> Vec<PathBuf> {
    let folders = ["/dev/v4l/by-id", "/dev/v4l/by-path"];
    let mut links: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|link| fs::canonicalize(link).is_ok_and(|target| target == path))
        .collect();
    links.sort();
    links
}

fn choose_device(name: &str) -> Result<PathBuf, Miss> {
    if name.starts_with('/') {
        return Ok(PathBuf::from(name));
    }
    choose(&list(), name).map(|found| found.path.clone())
}

/// Formats that can be turned into RGB, the cheapest first.
const FORMATS: [FourCc; 5] = [*b"YUYV", *b"NV12", *b"RGB3", *b"MJPG", *b"JPEG"];

/// A mode to ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mode {
    pub format: FourCc,
    pub width: u32,
    pub height: u32,
    pub frames_per_second: Option<f64>,
}

/// The mode nearest to the wish: the size itself, else the smallest that covers it, else the largest; then the rate; then the
/// cheapest format. `None` where no format can be used.
pub fn choose_mode(offers: &[Offer], width: u32, height: u32, frames_per_second: u32) -> Option<Mode> {
    let fit = |wish: u32, min: u32, max: u32, step: u32| {
        let wish = wish.clamp(min, max.max(min));
        let up = min + (wish - min).div_ceil(step) * step;
        if up <= max { up } else { wish - (wish - min) % step }
    };
    let modes = offers.iter().filter_map(|offer| {
        let rank = FORMATS.iter().position(|format| *format == offer.format)?;
        let mode = Mode {
            format: offer.format,
            width: fit(width, offer.min.0, offer.max.0, offer.step.0),
            height: fit(height, offer.min.1, offer.max.1, offer.step.1),
            frames_per_second: offer.frames_per_second,
        };
        let covers = mode.width >= width && mode.height >= height;
        let area = u64::from(mode.width) * u64::from(mode.height);
        let size = if covers { area } else { u64::MAX - area };
        let slow = mode.frames_per_second.is_some_and(|rate| rate < 0.9 * f64::from(frames_per_second));
        (area > 0).then_some(((!covers, size, slow, rank), mode))
    });
    modes.min_by_key(|(key, _)| *key).map(|(_, mode)| mode)
}

/// Offers that a person is told of.
const SHOWN: usize = 8;

/// What a camera offers, for a person: what can be used first, and not more than can be read.
pub fn describe_offers(offers: &[Offer]) -> String {
    let one = |offer: &Offer| {
        // V4L2 marks a big-endian format by the highest bit.
        let letters: Vec<u8> = offer.format.iter().map(|letter| letter & 0x7f).collect();
        let order = if letters == offer.format { "" } else { "-BE" };
        let format = format!("{}{order}", String::from_utf8_lossy(&letters).trim());
        let size = |(width, height): (u32, u32)| format!("{width}x{height}");
        let sizes = match offer.min == offer.max {
            true => size(offer.max),
            false => format!("{} to {}", size(offer.min), size(offer.max)),
        };
        match offer.frames_per_second {
            Some(rate) => format!("{format} {sizes} at {rate:.0}/s"),
            None => format!("{format} {sizes}"),
        }
    };
    if offers.is_empty() {
        return "nothing".into();
    }
    let usable = |offer: &&Offer| FORMATS.contains(&offer.format);
    let (first, then) = (offers.iter().filter(usable), offers.iter().filter(|offer| !usable(offer)));
    let mut shown: Vec<String> = first.chain(then).take(SHOWN).map(one).collect();
    if offers.len() > SHOWN {
        shown.push(format!("and {} more", offers.len() - SHOWN));
    }
    shown.join(", ")
}

/// A camera that is streaming.
struct Streaming {
    queue: Queue,
    format: Format,
    /// When the last good frame came, or the stream was opened.
    fresh: Instant,
    sequence: Option<u32>,
}

fn open(settings: &Settings) -> Result<(Streaming, PathBuf), Miss> {
    let path = choose_device(&settings.device)?;
    let name = path.display();
    let away = |error: std::io::Error, doing: &str| {
        Miss::Away(anyhow::Error::from(error).context(format!("camera {name}: {doing}")))
    };
    let node = Node::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Miss::Away(anyhow!(
            "camera {name} may not be opened by this user; add the user to the group `video`"
        )),
        _ => away(error, "cannot be opened"),
    })?;
    let caps = node.caps().map_err(|error| away(error, "is no V4L2 device"))?;
    if !caps.captures {
        return Err(Miss::Away(anyhow!("camera {name} ({}) takes no pictures now", caps.card)));
    }
    let offers = node.offers();
    let mode = choose_mode(&offers, settings.width, settings.height, settings.frames_per_second).ok_or_else(|| {
        Miss::Refused(anyhow!(
            "camera {name} ({}) offers no usable format: it offers {}; usable are YUYV, NV12, RGB3 and MJPG",
            caps.card,
            describe_offers(&offers)
        ))
    })?;
    let format = node
        .set_format(mode.format, mode.width, mode.height)
        .map_err(|error| away(error, "does not take the chosen format"))?;
    let pixels = u64::from(format.width) * u64::from(format.height);
    if !FORMATS.contains(&format.format) || !(1..=PIXELS_MAX).contains(&pixels) {
        return Err(Miss::Refused(anyhow!("camera {name} answers with an unusable format: {format:?}")));
    }
    if let Err(error) = node.set_rate(settings.frames_per_second) {
        log::debug!("camera={name} sets no rate: {error}");
    }
    let queue = Queue::start(node).map_err(|error| away(error, "does not start"))?;
    log::info!(
        "camera={name} card=\"{}\" format={} width={} height={}",
        caps.card,
        String::from_utf8_lossy(&format.format),
        format.width,
        format.height
    );
    Ok((Streaming { queue, format, fresh: Instant::now(), sequence: None }, path))
}

pub struct Camera {
    settings: Settings,
    pool: Pool,
    jpeg: Jpeg,
    streaming: Option<Streaming>,
    edge: Edge,
    /// A frame that waits for the gap before it to be told.
    next: Option<Frame>,
    apart: Apart,
    counts: SourceCounts,
}

impl Camera {
    /// A camera that is absent is waited for; one that cannot be used is an error.
    pub fn open(settings: &Settings, pool: &Pool) -> Result<Self> {
        settings.check()?;
        let mut camera = Self {
            settings: settings.clone(),
            pool: pool.clone(),
            jpeg: Jpeg::default(),
            streaming: None,
            edge: Edge::new("camera", Modality::Video, DEVICE_STABLE),
            next: None,
            apart: Apart::default(),
            counts: SourceCounts::default(),
        };
        match open(settings) {
            Ok((streaming, _)) => camera.streaming = Some(streaming),
            Err(Miss::Refused(error)) => return Err(error),
            Err(Miss::Away(error)) => camera.edge.fails(&error),
        }
        Ok(camera)
    }

    fn lose(&mut self, why: &anyhow::Error) -> Option<Reading> {
        self.streaming = None;
        self.edge.fails(why);
        None
    }

    fn turn(&mut self, taken: &Taken, captured_ns: u64) -> Result<Frame, Broken> {
        let Some(Streaming { queue, format, .. }) = &self.streaming else { return Err(Broken::Short) };
        if taken.damaged {
            return Err(Broken::Truncated);
        }
        let (data, width, height) = (queue.bytes(taken), format.width as usize, format.height as usize);
        if matches!(&format.format, b"MJPG" | b"JPEG") {
            let picture = self.jpeg.decode(data, &self.pool)?;
            return Ok(Frame { captured_ns, height: picture.height, width: picture.width, rgb: picture.rgb });
        }
        let mut rgb = self.pool.rgb(width * height * 3);
        let packed = match &format.format {
            b"YUYV" => width.div_ceil(2) * 4,
            b"NV12" => width.div_ceil(2) * 2,
            _ => width * 3,
        };
        let stride = if format.stride == 0 { packed } else { format.stride as usize };
        let turned = match &format.format {
            b"YUYV" => pixels::yuyv(data, stride, width, height, &mut rgb),
            b"NV12" => pixels::nv12(data, stride, width, height, &mut rgb),
            _ => pixels::rgb24(data, stride, width, height, &mut rgb),
        };
        match turned {
            Ok(()) => Ok(Frame { captured_ns, height: format.height, width: format.width, rgb }),
            Err(broken) => {
                self.pool.give_rgb(rgb);
                Err(broken)
            }
        }
    }

    fn see(&mut self, taken: Taken) -> Result<Option<Reading>> {
        let at_ns = stamp(&taken);
        let passed = !taken.damaged && self.apart.is_near(at_ns);
        let turned = if passed { None } else { Some(self.turn(&taken, at_ns)) };
        let Some(streaming) = &mut self.streaming else { return Ok(None) };
        let missed = streaming.sequence.map_or(0, |last| taken.sequence.wrapping_sub(last.wrapping_add(1)));
        // A driver that starts its numbers again has lost nothing that we could count.
        let gap = (1..1 << 16).contains(&missed);
        streaming.sequence = Some(taken.sequence);
        self.counts.gaps += u64::from(gap);
        if let Err(error) = streaming.queue.give_back(taken) {
            return Ok(self.lose(&anyhow::Error::from(error).context("a buffer could not be given back")));
        }
        let frame = match turned.transpose() {
            Ok(frame) => frame,
            Err(broken) => {
                self.counts.broken += 1;
                log::debug!("camera frame={} left out: {broken}", taken.sequence);
                return Ok(None);
            }
        };
        streaming.fresh = Instant::now();
        self.edge.works();
        self.counts.readings += 1;
        if frame.is_some() {
            self.apart.keep(at_ns);
        }
        if gap {
            self.next = frame;
            return Ok(Some(Reading::Lost { modality: Modality::Video, at_ns }));
        }
        Ok(frame.map(Reading::Frame))
    }
}

fn stamp(taken: &Taken) -> u64 {
    let now_ns = monotonic_ns();
    taken.captured_ns.filter(|&ns| ns != 0 && ns.abs_diff(now_ns) < STAMP_OFF_NS).unwrap_or(now_ns)
}

impl Source for Camera {
    fn gives(&self) -> Gives {
        Gives { video: true, audio: false }
    }

    fn read(&mut self, wait: Duration) -> Result<Option<Reading>> {
        if let Some(frame) = self.next.take() {
            return Ok(Some(Reading::Frame(frame)));
        }
        let Some(streaming) = &mut self.streaming else {
            let Some(reading) = self.edge.wait(wait) else {
                match open(&self.settings) {
                    Ok((streaming, _)) => self.streaming = Some(streaming),
                    Err(Miss::Away(error) | Miss::Refused(error)) => self.edge.fails(&error),
                }
                return Ok(None);
            };
            return Ok(reading);
        };
        let limit_ms = match streaming.sequence {
            None => self.settings.first_frame_ms,
            Some(_) => self.settings.stall_ms,
        };
        match streaming.queue.take(wait) {
            Ok(Some(taken)) => return self.see(taken),
            Ok(None) => {}
            Err(error) => return Ok(self.lose(&anyhow::Error::from(error).context("the stream failed"))),
        }
        if streaming.fresh.elapsed() > Duration::from_millis(limit_ms.into()) {
            return Ok(self.lose(&anyhow!("no frame for {limit_ms} ms")));
        }
        Ok(None)
    }

    fn counts(&self) -> SourceCounts {
        SourceCounts { losses: self.edge.losses(), ..self.counts }
    }

    fn keep_apart(&mut self, apart_ns: u64) {
        self.apart = Apart::new(apart_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(format: &FourCc, width: u32, height: u32, rate: f64) -> Offer {
        let size = (width, height);
        Offer { format: *format, min: size, max: size, step: (1, 1), frames_per_second: Some(rate) }
    }

    fn chosen(offers: &[Offer], width: u32, height: u32, rate: u32) -> (FourCc, u32, u32) {
        let mode = choose_mode(offers, width, height, rate).unwrap();
        (mode.format, mode.width, mode.height)
    }

    #[test]
    fn the_mode_nearest_to_the_wish_is_chosen() {
        let webcam = [
            fixed(b"MJPG", 1_280, 720, 30.0),
            fixed(b"MJPG", 640, 480, 30.0),
            fixed(b"YUYV", 1_280, 720, 10.0),
            fixed(b"YUYV", 640, 480, 30.0),
            fixed(b"YUYV", 320, 240, 30.0),
            fixed(b"H264", 640, 480, 60.0),
        ];
        assert_eq!(chosen(&webcam, 640, 480, 30), (*b"YUYV", 640, 480), "raw where raw is fast enough");
        assert_eq!(chosen(&webcam, 1_280, 720, 30), (*b"MJPG", 1_280, 720), "else JPEG");
        assert_eq!(chosen(&webcam, 1_280, 720, 10), (*b"YUYV", 1_280, 720));
        assert_eq!(chosen(&webcam, 500, 300, 30), (*b"YUYV", 640, 480), "the smallest that covers");
        assert_eq!(chosen(&webcam, 1_920, 1_080, 30), (*b"MJPG", 1_280, 720), "else the largest");
        assert_eq!(choose_mode(&[fixed(b"H264", 640, 480, 30.0)], 640, 480, 30), None);
        assert_eq!(choose_mode(&[fixed(b"YUYV", 0, 0, 30.0)], 640, 480, 30), None);
    }

    #[test]
    fn ranges_are_kept_to_their_steps() {
        let range = Offer {
            format: *b"NV12",
            min: (32, 32),
            max: (1_000, 500),
            step: (16, 8),
            frames_per_second: None,
        };
        assert_eq!(chosen(&[range], 640, 480, 30), (*b"NV12", 640, 480));
        assert_eq!(chosen(&[range], 641, 481, 30), (*b"NV12", 656, 488));
        assert_eq!(chosen(&[range], 2_000, 2_000, 30), (*b"NV12", 992, 496));
        assert_eq!(chosen(&[range], 16, 16, 30), (*b"NV12", 32, 32));
    }

    #[test]
    fn a_camera_goes_by_its_names_and_two_of_a_name_are_refused() {
        let camera = |number: u32, serial: &str, bus: &str| Found {
            path: format!("/dev/video{number}").into(),
            card: "USB Camera".into(),
            bus: bus.into(),
            driver: "uvcvideo".into(),
            serial: Some(serial.into()),
            links: vec![format!("/dev/v4l/by-id/usb-{serial}-video-index0").into()],
            offers: Vec::new(),
        };
        let two = [camera(0, "A1", "usb-1"), camera(2, "B2", "usb-2")];
        let path = |all: &[Found], name: &str| match choose(all, name) {
            Ok(found) => found.path.display().to_string(),
            Err(Miss::Away(error)) => format!("away: {error}"),
            Err(Miss::Refused(error)) => format!("refused: {error}"),
        };
        assert_eq!(path(&two, "B2"), "/dev/video2");
        assert_eq!(path(&two, "usb-1"), "/dev/video0");
        assert_eq!(path(&two, "usb-B2-video-index0"), "/dev/video2");
        assert_eq!(path(&two[..1], ""), "/dev/video0");
        assert_eq!(path(&two[..1], "USB Camera"), "/dev/video0");
        let twice = path(&two, "USB Camera");
        assert!(
            twice.starts_with("refused") && twice.contains("serial A1") && twice.contains("serial B2"),
            "{twice}"
        );
        assert!(path(&two, "").starts_with("refused: device is not set, and 2 cameras fit"));
        let nobody = path(&two, "C3");
        assert!(nobody.starts_with("away: no camera goes by \"C3\"") && nobody.contains("usb-2"), "{nobody}");
        assert!(path(&[], "").starts_with("away: there is no camera"));
    }

    #[test]
    fn offers_are_told() {
        let offers = [fixed(b"H264", 640, 480, 30.0), fixed(b"GREY", 320, 240, 60.0)];
        assert_eq!(describe_offers(&offers), "H264 640x480 at 30/s, GREY 320x240 at 60/s");
        assert_eq!(describe_offers(&[]), "nothing");
        let many: Vec<Offer> = (1..21).map(|i| fixed(b"GREY", 16 * i, 16, 5.0)).collect();
        let big = fixed(&[b'Y', b'1', b'6', 0xa0], 8, 8, 5.0);
        let text = describe_offers(&[many, vec![fixed(b"YUYV", 640, 480, 30.0), big]].concat());
        assert!(
            text.starts_with("YUYV 640x480 at 30/s, GREY 16x16") && text.ends_with(", and 14 more"),
            "{text}"
        );
        assert_eq!(describe_offers(&[big]), "Y16-BE 8x8 at 5/s");
    }

    #[test]
    fn a_camera_that_is_absent_is_waited_for_and_told_as_lost() {
        let settings = Settings { device: "/dev/no-such-camera".into(), ..Settings::default() };
        assert!(format!("{:#}", settings.probe().unwrap_err()).contains("/dev/no-such-camera"));
        let mut camera = Camera::open(&settings, &Pool::default()).unwrap();
        let start = Instant::now();
        let mut lost = 0;
        while start.elapsed() < Duration::from_millis(1_200) {
            let asked = Instant::now();
            match camera.read(Duration::from_millis(50)).unwrap() {
                Some(Reading::Lost { modality: Modality::Video, .. }) => lost += 1,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            assert!(asked.elapsed() < Duration::from_millis(200));
        }
        assert!((2..=4).contains(&lost), "{lost}");
    }

    #[test]
    fn a_device_that_is_no_camera_is_told() {
        let settings = Settings { device: "/dev/null".into(), ..Settings::default() };
        assert!(format!("{:#}", settings.probe().unwrap_err()).contains("no V4L2 device"));
    }
}
