//! In a program that was built without nets.

use super::{Settings, Task, Wants};
use anyhow::{Result, bail};

pub struct Net(std::convert::Infallible);

impl Net {
    pub fn load(task: Task, _: &Settings, _: &Wants<'_>) -> Result<Net> {
        bail!(
            "{}: this program was built without nets; `cargo build --release --features nets` adds them",
            task.name()
        )
    }

    pub fn memory(_: &Settings) -> usize {
        0
    }

    pub fn run<R>(&self, _: &[&[f32]], _: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
        match self.0 {}
    }
}
