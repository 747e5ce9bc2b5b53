//! A V4L2 capture node: what it offers, its format, and a queue of mapped buffers. The only file that names `v4l`.
//!
//! Nothing here blocks: the node is opened non-blocking and the queue waits in `poll` with a limit.
//! Invariant: a buffer is either with the driver or the one that `Queue::take` handed out; it goes back by its own number.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode as FileMode, OFlags},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use std::{
    ffi::c_void,
    io,
    mem::zeroed,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    ptr, slice,
    thread::sleep,
    time::Duration,
};
use v4l::{
    v4l_sys::{
        V4L2_BUF_FLAG_ERROR, V4L2_BUF_FLAG_TIMESTAMP_MASK, V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC,
        V4L2_CAP_STREAMING, V4L2_CAP_VIDEO_CAPTURE, v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE as CAPTURE,
        v4l2_buffer, v4l2_capability, v4l2_fmtdesc, v4l2_format, v4l2_fract, v4l2_frmivalenum,
        v4l2_frmivaltypes_V4L2_FRMIVAL_TYPE_DISCRETE as INTERVAL_DISCRETE, v4l2_frmsizeenum,
        v4l2_frmsizetypes_V4L2_FRMSIZE_TYPE_DISCRETE as SIZE_DISCRETE, v4l2_memory_V4L2_MEMORY_MMAP as MMAP,
        v4l2_requestbuffers, v4l2_streamparm,
    },
    v4l2::{self, vidioc},
};

const BUFFERS: u32 = 4;

/// Entries of any list that a driver gives are counted to here.
const ENTRIES_MAX: u32 = 256;

pub type FourCc = [u8; 4];

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    pub card: String,
    pub bus: String,
    pub driver: String,
    /// Takes pictures, in memory that can be mapped.
    pub captures: bool,
}

/// A range of sizes in one pixel format, with the highest rate at the largest size where the driver tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    pub format: FourCc,
    pub min: (u32, u32),
    pub max: (u32, u32),
    pub step: (u32, u32),
    pub frames_per_second: Option<f64>,
}

/// The format in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub format: FourCc,
    pub width: u32,
    pub height: u32,
    pub stride: u32,
    pub bytes: u32,
}

/// An open node.
pub struct Node {
    fd: OwnedFd,
}

impl Node {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(path, flags, FileMode::empty())? })
    }

    pub fn caps(&self) -> io::Result<Caps> {
        let mut caps: v4l2_capability = blank();
        self.ask(vidioc::VIDIOC_QUERYCAP, &mut caps)?;
        let wanted = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        Ok(Caps {
            card: text(&caps.card),
            bus: text(&caps.bus_info),
            driver: text(&caps.driver),
            captures: caps.device_caps & wanted == wanted,
        })
    }

    /// Everything on offer; where a driver lists formats without sizes, the size that is set now.
    pub fn offers(&self) -> Vec<Offer> {
        let mut offers = Vec::new();
        for index in 0..ENTRIES_MAX {
            let mut format: v4l2_fmtdesc = blank();
            (format.index, format.type_) = (index, CAPTURE);
            if self.ask(vidioc::VIDIOC_ENUM_FMT, &mut format).is_err() {
                break;
            }
            let before = offers.len();
            self.sizes(format.pixelformat, &mut offers);
            if offers.len() == before
                && let Ok(now) = self.format()
            {
                let (format, size) = (format.pixelformat.to_le_bytes(), (now.width, now.height));
                offers.push(Offer { format, min: size, max: size, step: (1, 1), frames_per_second: None });
            }
        }
        offers
    }

    fn sizes(&self, pixelformat: u32, offers: &mut Vec<Offer>) {
        for index in 0..ENTRIES_MAX {
            let mut size: v4l2_frmsizeenum = blank();
            (size.index, size.pixel_format) = (index, pixelformat);
            if self.ask(vidioc::VIDIOC_ENUM_FRAMESIZES, &mut size).is_err() {
                return;
            }
            let (min, max, step) = if size.type_ == SIZE_DISCRETE {
                // SAFETY: the kernel says that it filled in the discrete size; every bit pattern is a number.
                let size = unsafe { size.__bindgen_anon_1.discrete };
                ((size.width, size.height), (size.width, size.height), (1, 1))
            } else {
                // SAFETY: the kernel says that it filled in the range; every bit pattern is a number.
                let size = unsafe { size.__bindgen_anon_1.stepwise };
                let step = (size.step_width.max(1), size.step_height.max(1));
                ((size.min_width, size.min_height), (size.max_width, size.max_height), step)
            };
            let frames_per_second = self.rate(pixelformat, max);
            offers.push(Offer { format: pixelformat.to_le_bytes(), min, max, step, frames_per_second });
        }
    }

    fn rate(&self, pixelformat: u32, (width, height): (u32, u32)) -> Option<f64> {
        let mut best = None;
        for index in 0..ENTRIES_MAX {
            let mut interval: v4l2_frmivalenum = blank();
            (interval.index, interval.pixel_format) = (index, pixelformat);
            (interval.width, interval.height) = (width, height);
            if self.ask(vidioc::VIDIOC_ENUM_FRAMEINTERVALS, &mut interval).is_err() {
                break;
            }
            let discrete = interval.type_ == INTERVAL_DISCRETE;
            // SAFETY: the kernel says which of the two it filled in; every bit pattern is a number.
            let shortest = unsafe {
                if discrete {
                    interval.__bindgen_anon_1.discrete
                } else {
                    interval.__bindgen_anon_1.stepwise.min
                }
            };
            if shortest.numerator > 0 && shortest.denominator > 0 {
                let rate = f64::from(shortest.denominator) / f64::from(shortest.numerator);
                best = Some(best.map_or(rate, |best: f64| best.max(rate)));
            }
            if !discrete {
                break;
            }
        }
        best
    }

    pub fn format(&self) -> io::Result<Format> {
        let mut format: v4l2_format = blank();
        format.type_ = CAPTURE;
        self.ask(vidioc::VIDIOC_G_FMT, &mut format)?;
        Ok(read_format(&format))
    }

    /// Asks for a format; the driver answers with the nearest it has.
    pub fn set_format(&self, wish: FourCc, width: u32, height: u32) -> io::Result<Format> {
        let mut format: v4l2_format = blank();
        format.type_ = CAPTURE;
        // Whatever the driver does not care about stays as it is set.
        let _ = self.ask(vidioc::VIDIOC_G_FMT, &mut format);
        // SAFETY: `pix` is the member for this buffer type; every bit pattern is a number.
        let pix = unsafe { &mut format.fmt.pix };
        (pix.width, pix.height, pix.pixelformat) = (width, height, u32::from_le_bytes(wish));
        (pix.bytesperline, pix.sizeimage, pix.field) = (0, 0, 0);
        self.ask(vidioc::VIDIOC_S_FMT, &mut format)?;
        Ok(read_format(&format))
    }

    /// Asks for a rate; drivers without one refuse.
    pub fn set_rate(&self, frames_per_second: u32) -> io::Result<()> {
        let mut rate: v4l2_streamparm = blank();
        rate.type_ = CAPTURE;
        rate.parm.capture.timeperframe = v4l2_fract { numerator: 1, denominator: frames_per_second };
        self.ask(vidioc::VIDIOC_S_PARM, &mut rate)
    }

    fn ask<T>(&self, request: vidioc::_IOC_TYPE, about: &mut T) -> io::Result<()> {
        loop {
            // SAFETY: every caller pairs the request with the type whose size the request number itself states, so the kernel
            // reads and writes within `about`; the descriptor is open as long as `self` is.
            let done = unsafe { v4l2::ioctl(self.fd.as_raw_fd(), request, ptr::from_mut(about).cast()) };
            match done {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

fn read_format(format: &v4l2_format) -> Format {
    // SAFETY: `pix` is the member for this buffer type; every bit pattern is a number.
    let pix = unsafe { format.fmt.pix };
    Format {
        format: pix.pixelformat.to_le_bytes(),
        width: pix.width,
        height: pix.height,
        stride: pix.bytesperline,
        bytes: pix.sizeimage,
    }
}

fn blank<T: Plain>() -> T {
    // SAFETY: `Plain` is only said of C structures of numbers, for which zeros are a value.
    unsafe { zeroed() }
}

/// C structures of numbers.
trait Plain {}
impl Plain for v4l2_capability {}
impl Plain for v4l2_fmtdesc {}
impl Plain for v4l2_frmsizeenum {}
impl Plain for v4l2_frmivalenum {}
impl Plain for v4l2_format {}
impl Plain for v4l2_streamparm {}
impl Plain for v4l2_requestbuffers {}
impl Plain for v4l2_buffer {}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_string()
}

/// A picture that is still in the driver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    index: u32,
    pub bytes: u32,
    pub sequence: u32,
    /// The driver says that the content is damaged.
    pub damaged: bool,
    /// On the monotonic clock; `None` where the driver uses another one.
    pub captured_ns: Option<u64>,
}

/// A node that is streaming. Dropping it stops the stream, unmaps the memory and closes the node.
pub struct Queue {
    node: Node,
    maps: Vec<Map>,
}

struct Map {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: a map is memory that belongs to this value alone; nothing about it is bound to a thread.
unsafe impl Send for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `Queue::start` with this very length, and no slice of it outlives the queue.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

impl Queue {
    pub fn start(node: Node) -> io::Result<Self> {
        let mut request: v4l2_requestbuffers = blank();
        (request.count, request.type_, request.memory) = (BUFFERS, CAPTURE, MMAP);
        node.ask(vidioc::VIDIOC_REQBUFS, &mut request)?;
        if request.count == 0 {
            return Err(io::Error::other("the driver gave no buffers"));
        }
        let mut queue = Self { node, maps: Vec::with_capacity(request.count as usize) };
        for index in 0..request.count {
            let mut buffer = description(index);
            queue.node.ask(vidioc::VIDIOC_QUERYBUF, &mut buffer)?;
            // SAFETY: a mapped buffer has an offset; every bit pattern is a number.
            let offset = unsafe { buffer.m.offset };
            let (bytes, protection) = (buffer.length as usize, ProtFlags::READ | ProtFlags::WRITE);
            // SAFETY: a new mapping at a place that the kernel chooses.
            let start = unsafe {
                mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, &queue.node.fd, offset.into())
            }?;
            queue.maps.push(Map { start, bytes });
        }
        for index in 0..request.count {
            queue.node.ask(vidioc::VIDIOC_QBUF, &mut description(index))?;
        }
        queue.node.ask(vidioc::VIDIOC_STREAMON, &mut (CAPTURE as i32))?;
        Ok(queue)
    }

    /// Waits at most `wait` for a picture.
    pub fn take(&mut self, wait: Duration) -> io::Result<Option<Taken>> {
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.node.fd, PollFlags::IN)], Some(&wait)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = description(0);
        match self.node.ask(vidioc::VIDIOC_DQBUF, &mut buffer) {
            // Ready without a picture is how some drivers say that the queue has failed: the caller's limit decides.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(Duration::from_millis(1));
                return Ok(None);
            }
            done => done?,
        }
        let monotonic = buffer.flags & V4L2_BUF_FLAG_TIMESTAMP_MASK == V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        let (seconds, micros) = (buffer.timestamp.tv_sec as u64, buffer.timestamp.tv_usec as u64);
        Ok(Some(Taken {
            index: buffer.index,
            bytes: buffer.bytesused,
            sequence: buffer.sequence,
            damaged: buffer.flags & V4L2_BUF_FLAG_ERROR != 0,
            captured_ns: monotonic.then(|| seconds.wrapping_mul(1_000_000_000).wrapping_add(micros * 1_000)),
        }))
    }

    /// The bytes of a picture that `take` gave and `give_back` has not taken.
    pub fn bytes(&self, taken: &Taken) -> &[u8] {
        let Some(map) = self.maps.get(taken.index as usize) else { return &[] };
        // SAFETY: the mapping is this long and lives as long as the queue; the driver does not write to a buffer that it has
        // handed out, and the slice cannot outlive `&self`, which `give_back` needs exclusively.
        let whole = unsafe { slice::from_raw_parts(map.start.cast::<u8>(), map.bytes) };
        &whole[..whole.len().min(taken.bytes as usize)]
    }

    pub fn give_back(&mut self, taken: Taken) -> io::Result<()> {
        self.node.ask(vidioc::VIDIOC_QBUF, &mut description(taken.index))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A device that is gone cannot be stopped; closing does the rest.
        let _ = self.node.ask(vidioc::VIDIOC_STREAMOFF, &mut (CAPTURE as i32));
    }
}

fn description(index: u32) -> v4l2_buffer {
    let mut buffer: v4l2_buffer = blank();
    (buffer.index, buffer.type_, buffer.memory) = (index, CAPTURE, MMAP);
    buffer
}
