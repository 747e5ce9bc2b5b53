//! A Qwen-like decoder and what is done with it: a prompt prefilled, labels scored, an answer generated.
//!
//! Nothing here knows of pictures or sound: a prompt is made of token ids and of rows of embeddings, whoever made them.

pub mod answer;
pub mod constrain;
pub mod decoder;
pub mod generate;
pub mod score;
pub mod session;
