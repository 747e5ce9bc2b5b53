//! A CUDA device as the driver shows it: opened, its memory taken in chunks, its first failure remembered.
//!
//! Limits: one stream; memory is given back when the last user of the device is gone, not before.

use super::images::{self, IMAGES};
use crate::{
    backend::{GpuWait, Lost},
    machine::l4t::Release,
};
use anyhow::{Context, Result, anyhow, ensure};
use cudarc::driver::{CudaContext, CudaGraph, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The oldest driver whose calls these are: CUDA 12.0. Each image of the kernels has its own (`Image::driver_min`).
const DRIVER_MIN: i32 = 12_000;
/// Beginnings of everything that is taken, and lengths of chunks.
const ALIGN: usize = 256;

/// An address in device memory.
pub type Address = u64;

/// What can be chosen when a device is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub ordinal: usize,
    /// Memory is asked of the driver in pieces of this size; 0 asks for each tensor alone, which lets tools see where it ends.
    pub chunk_bytes: usize,
    /// Attention, keys and values in f32: what an F32 bundle is for. Otherwise they are f16, with f32 sums.
    pub exact: bool,
    pub wait: GpuWait,
}

impl Default for Options {
    fn default() -> Self {
        Options { ordinal: 0, chunk_bytes: 64 << 20, exact: false, wait: GpuWait::Auto }
    }
}

pub struct Device {
    context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub multiprocessors: usize,
    name: String,
    memory: Mutex<Memory>,
    lost: Mutex<Option<String>>,
}

#[derive(Default)]
struct Memory {
    chunk_bytes: usize,
    chunks: Vec<Address>,
    /// Of the last chunk.
    next: Address,
    end: Address,
    taken_bytes: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `12060` as `12.6`.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

impl Device {
    /// Opens the device with the kernels for it, and the name of their image. Says what is missing where it cannot.
    pub fn open(options: Options) -> Result<(Device, Arc<CudaModule>, String)> {
        let driver = driver()?;
        if let Some(flag) = flag_of(options.wait) {
            tell_how_to_wait(options.ordinal, flag).map_err(failed("saying how to wait for the device"))?;
        }
        let context = CudaContext::new(options.ordinal).map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => anyhow!("the CUDA driver finds no device"),
            sys::CUresult::CUDA_ERROR_INVALID_DEVICE => {
                anyhow!("there is no CUDA device {}", options.ordinal)
            }
            _ => anyhow!("opening CUDA device {}: {}", options.ordinal, describe(error)),
        })?;
        // SAFETY: buffers are not tracked by events, so order is ours to keep: everything runs on one stream.
        unsafe { context.disable_event_tracking() };
        let (major, minor) =
            context.compute_capability().map_err(failed("asking for the compute capability"))?;
        let arch = major * 10 + minor;
        let image = images::choose(IMAGES, arch)?;
        let (needed, name) = (image.driver_min(), image.name());
        ensure!(driver >= needed, "{}", too_old(driver, needed, &format!(" for the kernels {name}")));
        let module = context.load_module(image_of(image)).map_err(|error| {
            anyhow!(
                "the CUDA driver (CUDA {}) refuses the kernels {}: {}",
                version(driver),
                image.name(),
                describe(error)
            )
        })?;
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors =
            context.attribute(count).map_err(failed("asking for the multiprocessors"))? as usize;
        let name = format!(
            "cuda, {}, sm_{arch}, {multiprocessors} multiprocessors, kernels {}, driver for CUDA {}",
            context.name().map_err(failed("asking for the device's name"))?,
            image.name(),
            version(driver)
        );
        let memory = Memory { chunk_bytes: options.chunk_bytes, ..Memory::default() };
        let stream = context.new_stream().map_err(failed("making a stream"))?;
        let device = Device {
            stream,
            multiprocessors,
            name,
            memory: Mutex::new(memory),
            lost: Mutex::new(None),
            context,
        };
        Ok((device, module, image.name()))
    }

    pub fn describe(&self) -> String {
        format!("{}, {} MiB taken", self.name, locked(&self.memory).taken_bytes >> 20)
    }

    /// Memory for `what`, aligned, its content undefined.
    pub fn take(&self, bytes: usize, what: &str) -> Result<Address> {
        self.here();
        let mut memory = locked(&self.memory);
        let bytes = bytes.max(1).next_multiple_of(if memory.chunk_bytes == 0 { 16 } else { ALIGN });
        if memory.end - memory.next < bytes as u64 {
            let wanted = bytes.max(memory.chunk_bytes);
            // SAFETY: the context is current; the chunk is freed once, when the device is dropped.
            let chunk = unsafe { result::malloc_sync(wanted) }.map(|at| (at, wanted)).or_else(|_| {
                // A whole chunk may be too much where the piece itself still fits.
                // SAFETY: as above.
                unsafe { result::malloc_sync(bytes) }.map(|at| (at, bytes))
            });
            let (at, length) = chunk.map_err(|error| self.no_room(bytes, what, error))?;
            memory.chunks.push(at);
            memory.taken_bytes += length;
            (memory.next, memory.end) = (at, at + length as u64);
        }
        let at = memory.next;
        memory.next += bytes as u64;
        Ok(at)
    }

    fn no_room(&self, bytes: usize, what: &str, error: DriverError) -> anyhow::Error {
        let room = match result::mem_get_info() {
            Ok((free, total)) => format!("{free} of {total} bytes are free"),
            Err(error) => format!("the free memory cannot be asked: {}", describe(error)),
        };
        if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let release = Release::here().and_then(|release| Some((release, release.fault()?)));
            let known = release.map_or(String::new(), |(release, fault)| {
                format!("; L4T {release} {}: {}", fault.what, fault.next)
            });
            anyhow!(
                "no room on the device for {what}: {bytes} bytes, {room}; take a smaller bundle (--quant q4_0) or a smaller context{known}"
            )
        } else {
            anyhow!("taking {bytes} bytes of device memory for {what}: {}; {room}", describe(error))
        }
    }

    /// Memory that may be given back for more of it, outside the chunks.
    pub fn take_alone(&self, bytes: usize, what: &str) -> Result<Address> {
        self.here();
        // SAFETY: the context is current; the caller gives the memory back.
        let at = unsafe { result::malloc_sync(bytes) }.map_err(|error| self.no_room(bytes, what, error))?;
        locked(&self.memory).taken_bytes += bytes;
        Ok(at)
    }

    pub fn give_alone(&self, at: Address, bytes: usize) {
        self.here();
        self.note("waiting to give memory back", self.stream.synchronize());
        // SAFETY: `at` is from `take_alone`, and nothing on the stream uses it any more.
        self.note("giving memory back", unsafe { result::free_sync(at) });
        locked(&self.memory).taken_bytes -= bytes;
    }

    /// Makes the context current on this thread.
    fn here(&self) {
        self.note("binding the device to a thread", self.context.bind_to_thread());
    }

    /// Remembers the first failure; what follows it is noise.
    pub fn note(&self, what: &str, done: Result<(), DriverError>) {
        if let Err(error) = done {
            locked(&self.lost)
                .get_or_insert_with(|| format!("the CUDA device was lost in {what}: {}", describe(error)));
        }
    }

    /// Fails once anything has failed.
    pub fn check(&self) -> Result<()> {
        match &*locked(&self.lost) {
            Some(why) => Err(Lost(why.clone()).into()),
            None => Ok(()),
        }
    }

    pub fn is_lost(&self) -> bool {
        locked(&self.lost).is_some()
    }

    /// Copies `src` to the device; it may be reused when this returns.
    pub fn upload<T>(&self, src: &[T], to: Address) {
        if src.is_empty() || self.is_lost() {
            return;
        }
        self.here();
        // SAFETY: the destination was taken for at least this many bytes (the callers check). From pageable memory the call returns
        // after the source has been read.
        let done = unsafe { result::memcpy_htod_async(to, src, self.stream.cu_stream()) };
        self.note("a copy to it", done);
    }

    /// Waits for the device and copies out.
    pub fn download<T>(&self, from: Address, dst: &mut [T]) -> Result<()> {
        self.check()?;
        self.here();
        // SAFETY: the source was taken for at least this many bytes (the callers check); the wait below ends the use of `dst`.
        let done = unsafe { result::memcpy_dtoh_async(dst, from, self.stream.cu_stream()) };
        self.note("a copy from it", done);
        self.note("waiting for it", self.stream.synchronize());
        self.check()
    }

    pub fn copy(&self, from: Address, to: Address, bytes: usize) {
        if bytes == 0 || self.is_lost() {
            return;
        }
        self.here();
        // SAFETY: both ranges lie in memory that was taken (the callers check).
        let done = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        self.note("a copy on it", done);
    }

    /// From here on the stream remembers instead of running, until `end_recording`; false where that cannot be.
    pub fn begin_recording(&self) -> bool {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.note("beginning a record of it", self.stream.begin_capture(mode));
        !self.is_lost()
    }

    pub fn end_recording(&self) -> Option<CudaGraph> {
        match self.stream.end_capture(sys::CUgraphInstantiate_flags_enum(0)) {
            Ok(graph) => graph,
            Err(error) => {
                self.note("ending a record of it", Err(error));
                None
            }
        }
    }

    pub fn zero(&self, at: Address, bytes: usize) {
        self.here();
        // SAFETY: the range lies in memory that was taken (the callers check).
        let done = unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) };
        self.note("clearing its memory", done);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.here();
        self.note("waiting for it at the end", self.stream.synchronize());
        for &chunk in &locked(&self.memory).chunks {
            // SAFETY: the chunk came from the driver, and nobody holds an address in it any more. A device that is gone has
            // freed it already: there is nobody to tell.
            let _ = unsafe { result::free_sync(chunk) };
        }
    }
}

fn flag_of(wait: GpuWait) -> Option<sys::CUctx_flags> {
    match wait {
        GpuWait::Auto => None,
        GpuWait::Spin => Some(sys::CUctx_flags::CU_CTX_SCHED_SPIN),
        GpuWait::Sleep => Some(sys::CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC),
    }
}

/// Before the context is made, as the driver wants it. A device that is not there is told by who opens it.
fn tell_how_to_wait(ordinal: usize, flag: sys::CUctx_flags) -> Result<(), DriverError> {
    let known = result::init().and_then(|()| result::device::get(ordinal as i32));
    let Ok(device) = known else { return Ok(()) };
    // SAFETY: the driver is initialised and the device is one of its own.
    unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, flag as u32) }.result()
}

/// The version of the driver, which must be new enough.
fn driver() -> Result<i32> {
    // SAFETY: looks for the driver's library and calls nothing in it.
    ensure!(
        unsafe { sys::is_culib_present() },
        "there is no CUDA driver on this machine (libcuda.so.1 was not found); on a Jetson it comes with JetPack"
    );
    let mut driver = 0;
    // SAFETY: writes one integer, and may be called before anything else.
    unsafe { sys::cuDriverGetVersion(&mut driver) }
        .result()
        .context("asking the CUDA driver for its version")?;
    ensure!(driver >= DRIVER_MIN, "{}", too_old(driver, DRIVER_MIN, ""));
    Ok(driver)
}

fn too_old(driver: i32, needed: i32, what: &str) -> String {
    format!(
        "the CUDA driver is too old: it supports CUDA {}, and CUDA {} is needed{what} (JetPack 6 has 12.2 or newer, JetPack 7 has 13)",
        version(driver),
        version(needed)
    )
}

fn image_of(image: &images::Image) -> Ptx {
    if image.binary {
        Ptx::from_binary(image.bytes.to_vec())
    } else {
        // The compiler ends its text with a zero, and the loader adds one of its own.
        Ptx::from_src(String::from_utf8_lossy(image.bytes).trim_end_matches('\0'))
    }
}

fn describe(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) if name != text => {
            format!("{} ({})", text.to_string_lossy(), name.to_string_lossy())
        }
        (Ok(name), _) => name.to_string_lossy().into_owned(),
        _ => format!("{:?}", error.0),
    }
}

fn failed(what: &'static str) -> impl Fn(DriverError) -> anyhow::Error {
    move |error| anyhow!("{what}: {}", describe(error))
}
