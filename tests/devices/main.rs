//! The program of the device lane: runs inside the virtual machine of `tools/lane/devices`, never in a plain `cargo test`.
//!
//! ```text
//! devices exact                          frames and samples arrive bit-exact through the sources; devices that fail
//! devices feed-camera NODE               known frames into a v4l2loopback node until killed
//! devices feed-mic PCM                   known samples into a playback device until killed
//! devices hear-can INTERFACE ID          events of the frames under an id on a CAN bus, a line each, until killed
//! devices answer-can INTERFACE ID        a receiver for `mien conformance` until killed
//! devices compare SERIAL BROKER CAN COUNT    three files hold the same events
//! ```
//!
//! Verdicts are lines on stdout, `ok NAME figures` or `FAILED NAME why`; the lane knows which names must come.

mod can;
mod compare;
mod exact;
mod fault;
mod feed;

use anyhow::Result;
use mien::source::{Pool, Source, camera, mic};
use std::{
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (no_limit, never) = (AtomicU32::new(u32::MAX), AtomicBool::new(false));
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["exact"] => exact_checks(),
        ["feed-camera", node] => feed::camera(node, b"YUYV", feed::scene, &no_limit, &never).map(drop),
        ["feed-mic", card] => feed::speaker(card, feed::murmur, &never).map(drop),
        ["hear-can", interface, id] => number(id).and_then(|id| can::hear(interface, id)),
        ["answer-can", interface, id] => number(id).and_then(|id| can::answer(interface, id)),
        ["compare", serial, broker, can, count] => number(count).and_then(|count| {
            let (serial, broker, can) = (Path::new(serial), Path::new(broker), Path::new(can));
            verdict("sinks", compare::sinks(serial, broker, count as usize))?;
            verdict("can", compare::bus(can, broker, count as usize))
        }),
        _ => {
            eprintln!("devices: needs the virtual devices: run tools/test devices");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("devices: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u32> {
    let digits = text.strip_prefix("0x");
    Ok(digits.map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16))?)
}

const CAMERA: &str = "/dev/video10";
const VIVID: &str = "/dev/video20";

fn exact_checks() -> Result<()> {
    for (name, fourcc) in [("frames-rgb24", b"RGB3"), ("frames-yuyv", b"YUYV"), ("frames-nv12", b"NV12")] {
        // The node takes pictures once it was fed one; what is under way when a reader joins is lost.
        let limit = AtomicU32::new(1);
        let feeder = |stop: &AtomicBool| feed::camera(CAMERA, fourcc, feed::frame, &limit, stop);
        verdict(name, fed(feeder, || exact::frames(&mut *open_camera(CAMERA)?, fourcc, 45, &limit)))?;
    }
    let feeder = |stop: &AtomicBool| feed::speaker("hw:Loopback,0,0", feed::sample, stop);
    verdict("samples", fed(feeder, || exact::samples(&mut *open_mic()?, 3 * feed::SAMPLES_PER_S as usize)))?;

    verdict("drops", open_camera(VIVID).and_then(|mut camera| fault::dropped(&mut *camera, VIVID)))?;
    verdict("damaged", open_camera(VIVID).and_then(|mut camera| fault::flagged(&mut *camera, VIVID)))?;
    verdict("camera-errors", open_camera(VIVID).and_then(|mut camera| fault::injected(&mut *camera, VIVID)))?;
    verdict("numbers-wrap", fault::wrapped(|| open_camera(VIVID), VIVID))?;
    verdict(
        "camera-replug",
        open_camera(VIVID).and_then(|mut camera| fault::unplugged(&mut *camera, "vivid", "vivid.0")),
    )?;
    // By its bus: a node that is still held when the plug goes in again keeps its number.
    verdict(
        "camera-phases",
        fault::unplugged_in_every_phase(|| open_camera("platform:vivid-000"), "vivid", "vivid.0"),
    )?;
    verdict("overruns", open_mic().and_then(|mut mic| fault::overruns(&mut *mic)))?;
    verdict(
        "mic-replug",
        open_mic().and_then(|mut mic| fault::unplugged(&mut *mic, "snd_aloop", "snd_aloop.0")),
    )
}

fn open_camera(device: &str) -> Result<Box<dyn Source>> {
    let settings = camera::Settings {
        device: device.into(),
        width: feed::WIDTH,
        height: feed::HEIGHT,
        frames_per_second: feed::FRAMES_PER_S,
        ..camera::Settings::default()
    };
    Ok(Box::new(camera::Camera::open(&settings, &Pool::default())?))
}

fn open_mic() -> Result<Box<dyn Source>> {
    let settings = mic::Settings { device: "hw:Loopback,1,0".into(), ..mic::Settings::default() };
    Ok(Box::new(mic::Mic::open(&settings, &Pool::default())?))
}

/// Prints how a check ended, and passes its failure on only as that line: the other checks still run.
fn verdict(name: &str, done: Result<String>) -> Result<()> {
    match done {
        Ok(figures) => println!("ok {name} {figures}"),
        Err(error) => println!("FAILED {name} {error:#}"),
    }
    Ok(())
}

/// Runs a check while a feeder feeds.
fn fed(
    feed: impl FnOnce(&AtomicBool) -> Result<u32> + Send,
    check: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let feeder = scope.spawn(|| feed(&stop));
        thread::sleep(Duration::from_millis(500));
        let checked = check();
        stop.store(true, Ordering::Relaxed);
        feeder.join().expect("the feeder returns its errors")?;
        checked
    })
}
