//! Known frames into a v4l2loopback node, known samples into the playing side of the sound loopback.
//!
//! Frame `n` and sample `n` are functions of `n`, so that a checker knows what must arrive without being told.

use alsa::pcm::{Access, Format as SampleFormat, HwParams, PCM};
use alsa::{Direction, ValueOr};
use anyhow::{Context, Result, ensure};
use std::{
    io::Write,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};
use v4l::video::Output;
use v4l::{Device, Format, FourCC};

pub const WIDTH: u32 = 320;
pub const HEIGHT: u32 = 240;
pub const FRAMES_PER_S: u32 = 15;
pub const SAMPLES_PER_S: u32 = 16_000;
pub const LAG_MAX: u32 = 2;
const PERIOD: i64 = 320;

/// A 64-bit mixer: neighbouring `n` give unrelated values.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Frame `n`, noise in every byte: no two frames, no two rows are alike.
pub fn frame(n: u32, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|i| mix(u64::from(n) << 32 | (i + 1)));
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// Sample `n`, never zero: a loopback card without a player delivers zeros.
pub fn sample(n: u32) -> i16 {
    let value = mix(u64::from(n) + 1) as i16;
    if value == 0 { 1 } else { value }
}

/// Frame `n` of a scene that darkens and brightens by the second, so that a model has something to say.
pub fn scene(n: u32, len: usize) -> Vec<u8> {
    let shift = n / FRAMES_PER_S % 4;
    frame(n, len).iter().map(|byte| byte >> shift).collect()
}

/// Sample `n` of a sound that falls and rises by the second.
pub fn murmur(n: u32) -> i16 {
    sample(n) >> (n / SAMPLES_PER_S % 8)
}

/// Bytes of one frame in the formats fed here.
pub fn frame_bytes(fourcc: &[u8; 4]) -> usize {
    let pixels = (WIDTH * HEIGHT) as usize;
    match fourcc {
        b"RGB3" => pixels * 3,
        b"YUYV" => pixels * 2,
        b"NV12" => pixels * 3 / 2,
        other => panic!("no frame size known for {other:?}"),
    }
}

/// Writes pictures 0, 1, 2, ... until told to stop, but only those below `limit`, and returns how many. A reader that falls
/// more than [`LAG_MAX`] frames behind is made to skip by the driver, so one that wants all of them raises the limit as it reads.
pub fn camera(
    node: &str,
    fourcc: &[u8; 4],
    picture: impl Fn(u32, usize) -> Vec<u8>,
    limit: &AtomicU32,
    stop: &AtomicBool,
) -> Result<u32> {
    let mut device = Device::with_path(node).with_context(|| format!("open {node} to feed it"))?;
    let len = frame_bytes(fourcc);
    let mut wanted = Format::new(WIDTH, HEIGHT, FourCC::new(fourcc));
    wanted.size = len as u32;
    let set = Output::set_format(&device, &wanted).context("set the format to feed")?;
    ensure!(
        set.fourcc == wanted.fourcc && (set.width, set.height, set.size) == (WIDTH, HEIGHT, len as u32),
        "{node} took another format: {set}"
    );
    let rate = v4l::video::output::Parameters::with_fps(FRAMES_PER_S);
    Output::set_params(&device, &rate).context("set the rate to feed")?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let bytes = picture(n, len);
        ensure!(device.write(&bytes).context("feed a frame")? == len, "a frame was cut");
        n += 1;
        thread::sleep(Duration::from_secs(1) / FRAMES_PER_S);
        while n >= limit.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(n)
}

/// Plays sounds 0, 1, 2, ... as 16 kHz mono until told to stop, and returns how many.
pub fn speaker(card: &str, sound: impl Fn(u32) -> i16, stop: &AtomicBool) -> Result<u32> {
    let pcm = PCM::new(card, Direction::Playback, false).with_context(|| format!("open {card} to play"))?;
    let params = HwParams::any(&pcm)?;
    params.set_access(Access::RWInterleaved)?;
    params.set_format(SampleFormat::s16())?;
    params.set_channels(1)?;
    params.set_rate(SAMPLES_PER_S, ValueOr::Nearest)?;
    params.set_period_size(PERIOD, ValueOr::Nearest)?;
    params.set_buffer_size(PERIOD * 50)?;
    pcm.hw_params(&params).context("set the format to play")?;
    let io = pcm.io_i16()?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let period: Vec<i16> = (n..n + PERIOD as u32).map(&sound).collect();
        let written = io.writei(&period).context("play a period")?;
        ensure!(written == period.len(), "a period was cut: {written} of {}", period.len());
        n += PERIOD as u32;
    }
    Ok(n)
}
