//! Starting and joining threads with a name.

use anyhow::{Context, Result};
use std::thread;

pub fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .with_context(|| format!("starting the thread {name}"))
}

/// A thread that panicked is a bug: it is reported and not hidden.
pub fn join<T>(handle: thread::JoinHandle<T>) -> Option<T> {
    let name = handle.thread().name().unwrap_or_default().to_string();
    let done = handle.join();
    if done.is_err() {
        log::error!("the thread {name} panicked");
    }
    done.ok()
}
