//! The model file: one GGUF that holds weights, prompts, labels and settings, mapped into memory and checked at load.
//!
//! Whatever can be decided offline was decided when packing (`import`): weight layout, prompt token ids, the branch
//! gate's weights, label token ids, generation settings. Container and block formats are standard GGUF version 3
//! (F32, F16, Q8_0, Q4_0), read by the `gguf` Python package; the architecture `r1-omni`, its keys and its tensor names
//! are ours and stand in `shape.rs` and `header.rs`.
//!
//! Invariant: a `Bundle` that opened is complete: its header is the one that was packed, every tensor of its shape is there with the
//! right dimensions, every byte belongs to the header or a tensor, every token id lies in the vocabulary. Tensors are compared with
//! their digests by whoever reads them first, and values that are not finite are refused there: a backend that lays out a matrix,
//! `vector`, `verify`.

pub mod block;
#[cfg(feature = "pack")]
pub mod checkpoint;
mod contents;
pub mod digest;
mod download;
mod encode;
#[cfg(feature = "pack")]
pub mod gate;
pub mod gguf;
pub mod header;
#[cfg(feature = "pack")]
pub mod import;
mod keys;
mod open;
pub mod prompt;
mod recipe;
pub mod shape;
pub mod synthetic;
#[cfg(feature = "pack")]
pub mod template;
mod tensor;
#[cfg(feature = "pack")]
pub mod tokenizer;
pub mod vocabulary;
pub mod words;
pub mod write;

pub use block::{Kind, short_scale};
pub use contents::Contents;
pub use digest::hex;
pub use encode::Encoder;
pub use header::{Generation, Header, LabelSet, Marks, Piece, Prompt, SelfTest, Shift, WORDS_MAX};
pub use keys::OtherKind;
pub use open::{Bundle, Damaged, Packed, Tensors};
pub use recipe::Recipe;
pub use shape::{Shape, Stack};
pub use tensor::Tensor;
pub use vocabulary::Vocabulary;
pub use words::{Words, WordsShape};
