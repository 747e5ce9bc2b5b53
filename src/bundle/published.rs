//! Where each tensor of a bundle stands in the published folders, and how its values are laid out there.

use super::shape::Spec;
use anyhow::{Result, bail};

/// A folder of the published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Omni,
    Vision,
    Audio,
}

/// Prefixes of the towers' tensors, beside the checkpoint and inside it.
pub const VISION_BESIDE: &str = "vision_model.";
pub const VISION_EMBEDDED: &str = "model.vision_tower.vision_tower.vision_model.";
pub const AUDIO_BESIDE: &str = "model.encoder.";
pub const AUDIO_EMBEDDED: &str = "model.audio_tower.audio_tower.encoder.";

/// How the rows of a bundle's tensor follow from the published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Same,
    /// A row is `(inputs, taps)` there and `(taps, inputs)` here.
    TapsFirst {
        taps: usize,
    },
    /// `(channels, taps)` there and `(taps, channels)` here.
    Transposed,
}

/// A published tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub part: Part,
    /// For the towers without the prefix.
    pub name: String,
    pub dims: Vec<usize>,
    pub layout: Layout,
}

/// The published tensor that a bundle's tensor is made of. `patch` is the side of a patch.
pub fn published(spec: &Spec, patch: usize) -> Result<Published> {
    let parts: Vec<&str> = spec.name.split('.').collect();
    let (tail, path) = parts.split_last().expect("split yields at least one part");
    let (rows, cols) = (spec.rows, spec.cols);
    let plain = if *tail == "bias" || spec.role == super::shape::Role::Vector {
        vec![cols]
    } else {
        vec![rows, cols]
    };
    let found =
        |part: Part, name: String| Published { part, name, dims: plain.clone(), layout: Layout::Same };
    Ok(match *path {
        ["decoder", "embed"] => found(Part::Omni, format!("model.embed_tokens.{tail}")),
        ["decoder", "head"] => found(Part::Omni, format!("lm_head.{tail}")),
        ["decoder", "norm"] => found(Part::Omni, format!("model.norm.{tail}")),
        ["decoder", i, name] => {
            let name = match name {
                "attn_norm" => "input_layernorm".to_owned(),
                "ffn_norm" => "post_attention_layernorm".to_owned(),
                _ => match name.split_once('_') {
                    Some(("attn", which)) => format!("self_attn.{which}_proj"),
                    Some(("ffn", which)) => format!("mlp.{which}_proj"),
                    _ => bail!("no published name for tensor `{}`", spec.name),
                },
            };
            found(Part::Omni, format!("model.layers.{i}.{name}.{tail}"))
        }
        ["vision", "patch"] => {
            let dims = if *tail == "bias" { plain } else { vec![rows, 3, patch, patch] };
            let name = format!("embeddings.patch_embedding.{tail}");
            Published { part: Part::Vision, name, dims, layout: Layout::Same }
        }
        ["vision", "position"] => found(Part::Vision, format!("embeddings.position_embedding.{tail}")),
        ["vision", i, name] => {
            let name = match name {
                "ln1" => "layer_norm1",
                "ln2" => "layer_norm2",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_o" => "self_attn.out_proj",
                "fc1" => "mlp.fc1",
                "fc2" => "mlp.fc2",
                _ => bail!("no published name for tensor `{}`", spec.name),
            };
            found(Part::Vision, format!("encoder.layers.{i}.{name}.{tail}"))
        }
        ["audio", conv @ ("conv1" | "conv2")] => {
            let (dims, layout) = match *tail {
                "bias" => (plain, Layout::Same),
                _ => (vec![rows, cols / 3, 3], Layout::TapsFirst { taps: 3 }),
            };
            Published { part: Part::Audio, name: format!("{conv}.{tail}"), dims, layout }
        }
        ["audio", "position"] => found(Part::Audio, format!("embed_positions.{tail}")),
        ["audio", "norm"] => found(Part::Audio, format!("layer_norm.{tail}")),
        ["audio", i, name] => {
            let name = match name {
                "ln1" => "self_attn_layer_norm",
                "ln2" => "final_layer_norm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_o" => "self_attn.out_proj",
                "fc1" => "fc1",
                "fc2" => "fc2",
                _ => bail!("no published name for tensor `{}`", spec.name),
            };
            found(Part::Audio, format!("layers.{i}.{name}.{tail}"))
        }
        ["fusion", "face", fc] => {
            found(Part::Omni, format!("model.mm_projector.mlp_2xgelu_face.{}.{tail}", sequence(fc)))
        }
        ["fusion", "audio", fc] => {
            found(Part::Omni, format!("model.audio_projector.{}.{tail}", sequence(fc)))
        }
        ["fusion", branch, "sampler"] => {
            let (dims, layout) = match *tail {
                "bias" => (plain, Layout::Same),
                _ => (vec![rows, cols / 8, 2, 2, 2], Layout::TapsFirst { taps: 8 }),
            };
            let name = format!("model.mm_projector.sampler_{branch}.0.{tail}");
            Published { part: Part::Omni, name, dims, layout }
        }
        ["fusion", branch, readout] => {
            found(Part::Omni, format!("model.mm_projector.readout_{branch}.{}.{tail}", sequence(readout)))
        }
        ["fusion", branch, stage, block, name] => {
            let one_by_one = vec![rows, cols, 1, 1];
            let (name, dims, layout) = match (name, *tail) {
                ("conv1", _) => ("conv1.conv", one_by_one, Layout::Same),
                ("conv2", _) => ("conv2.conv", vec![cols, 1, 3, 3], Layout::Transposed),
                ("conv3", _) => ("conv3.conv", one_by_one, Layout::Same),
                ("short", _) => ("downsample.conv", one_by_one, Layout::Same),
                ("se1", "weight") => ("se.fc1", one_by_one, Layout::Same),
                ("se2", "weight") => ("se.fc2", one_by_one, Layout::Same),
                ("se1", _) => ("se.fc1", plain, Layout::Same),
                ("se2", _) => ("se.fc2", plain, Layout::Same),
                ("norm1", _) => ("conv1.bn", plain, Layout::Same),
                ("norm2", _) => ("conv2.bn", plain, Layout::Same),
                ("norm3", _) => ("conv3.bn", plain, Layout::Same),
                ("short_norm", _) => ("downsample.bn", plain, Layout::Same),
                _ => bail!("no published name for tensor `{}`", spec.name),
            };
            let name = format!("model.mm_projector.{stage}_{branch}.{block}.{name}.{tail}");
            Published { part: Part::Omni, name, dims, layout }
        }
        _ => bail!("no published name for tensor `{}`", spec.name),
    })
}

/// `fc1` and `readout1` are the first, `fc2` and `readout2` the third of a sequence.
fn sequence(name: &str) -> usize {
    if name.ends_with('1') { 0 } else { 2 }
}
