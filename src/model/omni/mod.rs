//! The R1-Omni topology: a vision tower, an audio tower and three branches in front of a decoder.

pub mod audio;
pub mod ear;
pub mod engine;
pub mod fusion;
pub mod tower;
pub mod vision;
