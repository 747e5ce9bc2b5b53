//! The CPU as a device.

pub mod scalar;
