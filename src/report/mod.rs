//! What people look at: an evaluation as a page, a run as a picture.

pub mod evaluation;
pub mod story;
pub mod svg;
mod timeline;
