//! Small nets beside the model, as ONNX files.
//!
//! A net is loaded for a task. Its inputs and outputs are checked by name and size, it is run once on nothing, and what it then says
//! must be numbers: a net that cannot do its task is refused at the start. One that fails later says so and is done with.
//! Limits: a file of 64 MiB; sizes are fixed at load. What a run allocates is tract's own; `engine` alone names it.

#[cfg(not(feature = "nets"))]
#[path = "absent.rs"]
mod engine;
#[cfg(feature = "nets")]
mod engine;
mod expression;
mod face_box;
mod face_mesh;
mod picture;
mod voice_activity;

pub use expression::{Expression, Shows};
pub use face_box::{FACES_MAX, Face, FaceBox};
pub use face_mesh::FaceMesh;
pub use voice_activity::VoiceActivity;

use super::settings::{Net as Settings, Task};
pub use engine::Net;

/// What a task wants of a net: inputs and outputs with their sizes. A size is the product of the dimensions.
pub struct Wants<'a> {
    pub inputs: &'a [(&'a str, &'a [usize])],
    pub outputs: &'a [(&'a str, usize)],
}
