//! Recordings: files and folders that are played as a source, or read whole as one window.
//!
//! `track` is what a format gives; [`avi`], [`wav`], [`folder`] and [`ffmpeg`] are the formats; `kind` chooses one for a path;
//! [`clip`] plays it, [`whole`] reads it as one window.

pub mod avi;
pub mod clip;
pub mod ffmpeg;
pub mod folder;
mod kind;
mod track;
pub mod wav;
pub mod whole;

pub use track::Rate;
