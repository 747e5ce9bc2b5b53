//! What a file holds besides its bytes: keys, tensors, and in which kinds they are stored. A kind of file is one implementation.

use super::gguf::Value;
use super::recipe::Recipe;
use super::shape::Spec;
use anyhow::Result;
use std::collections::BTreeMap;

/// What the keys of a file say.
pub trait Contents: Sized {
    /// Refuses keys of another architecture, and those that no model could be made of.
    fn read(keys: &BTreeMap<String, Value>) -> Result<Self>;
    /// What `read` turns into the same again.
    fn keys(&self) -> Vec<(String, Value)>;
    /// Every tensor, in file order.
    fn tensors(&self, own_head: bool) -> Vec<Spec>;
    fn quant(&self) -> Recipe;
}
