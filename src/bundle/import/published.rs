//! Where each tensor of a bundle stands in the published folders, and how its values are laid out there.

use crate::bundle::shape::{Role, Spec};
use anyhow::{Context, Result};

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
    let found = match path.split_first() {
        Some((&"decoder", path)) => decoder(spec, path, tail),
        Some((&"vision", path)) => vision(spec, path, tail, patch),
        Some((&"audio", path)) => audio(spec, path, tail),
        Some((&"fusion", path)) => fusion(spec, path, tail),
        _ => None,
    };
    found.with_context(|| format!("no published name for tensor `{}`", spec.name))
}

fn decoder(spec: &Spec, path: &[&str], tail: &str) -> Option<Published> {
    let name = match *path {
        ["embed"] => format!("model.embed_tokens.{tail}"),
        ["head"] => format!("lm_head.{tail}"),
        ["norm"] => format!("model.norm.{tail}"),
        [i, "attn_norm"] => format!("model.layers.{i}.input_layernorm.{tail}"),
        [i, "ffn_norm"] => format!("model.layers.{i}.post_attention_layernorm.{tail}"),
        [i, name] => match name.split_once('_')? {
            ("attn", which) => format!("model.layers.{i}.self_attn.{which}_proj.{tail}"),
            ("ffn", which) => format!("model.layers.{i}.mlp.{which}_proj.{tail}"),
            _ => return None,
        },
        _ => return None,
    };
    Some(same(spec, Part::Omni, name))
}

fn vision(spec: &Spec, path: &[&str], tail: &str, patch: usize) -> Option<Published> {
    let name = match *path {
        ["patch"] if tail == "bias" => "embeddings.patch_embedding.bias".to_owned(),
        ["patch"] => {
            let name = "embeddings.patch_embedding.weight".to_owned();
            return Some(Published {
                dims: vec![spec.rows, 3, patch, patch],
                ..same(spec, Part::Vision, name)
            });
        }
        ["position"] => format!("embeddings.position_embedding.{tail}"),
        [i, name] => {
            let name = match name {
                "ln1" => "layer_norm1",
                "ln2" => "layer_norm2",
                "fc1" => "mlp.fc1",
                "fc2" => "mlp.fc2",
                _ => attention(name)?,
            };
            format!("encoder.layers.{i}.{name}.{tail}")
        }
        _ => return None,
    };
    Some(same(spec, Part::Vision, name))
}

fn audio(spec: &Spec, path: &[&str], tail: &str) -> Option<Published> {
    let name = match *path {
        [conv @ ("conv1" | "conv2")] if tail == "bias" => format!("{conv}.bias"),
        [conv @ ("conv1" | "conv2")] => {
            let dims = vec![spec.rows, spec.cols / 3, 3];
            let own = same(spec, Part::Audio, format!("{conv}.weight"));
            return Some(Published { dims, layout: Layout::TapsFirst { taps: 3 }, ..own });
        }
        ["position"] => format!("embed_positions.{tail}"),
        ["norm"] => format!("layer_norm.{tail}"),
        [i, name] => {
            let name = match name {
                "ln1" => "self_attn_layer_norm",
                "ln2" => "final_layer_norm",
                "fc1" | "fc2" => name,
                _ => attention(name)?,
            };
            format!("layers.{i}.{name}.{tail}")
        }
        _ => return None,
    };
    Some(same(spec, Part::Audio, name))
}

/// The tensor of a recogniser's folder that one of its decoder is made of.
pub fn words(spec: &Spec) -> Result<Published> {
    let parts: Vec<&str> = spec.name.split('.').collect();
    let name = match parts[..] {
        ["words", "embed", tail] => Some(format!("embed_tokens.{tail}")),
        ["words", "position", tail] => Some(format!("embed_positions.{tail}")),
        ["words", "norm", tail] => Some(format!("layer_norm.{tail}")),
        ["words", i, name, tail] => match name {
            "ln1" => Some("self_attn_layer_norm".to_owned()),
            "ln2" => Some("encoder_attn_layer_norm".to_owned()),
            "ln3" => Some("final_layer_norm".to_owned()),
            "fc1" | "fc2" => Some(name.to_owned()),
            _ => match name.strip_prefix("cross_") {
                Some(part) => {
                    attention(&format!("attn_{part}")).map(|own| own.replace("self_attn", "encoder_attn"))
                }
                None => attention(name).map(str::to_owned),
            },
        }
        .map(|name| format!("layers.{i}.{name}.{tail}")),
        _ => None,
    };
    let name = name.with_context(|| format!("no published name for tensor `{}`", spec.name))?;
    Ok(same(spec, Part::Audio, format!("model.decoder.{name}")))
}

fn fusion(spec: &Spec, path: &[&str], tail: &str) -> Option<Published> {
    let name = match *path {
        ["face", fc] => format!("model.mm_projector.mlp_2xgelu_face.{}.{tail}", sequence(fc)),
        ["audio", fc] => format!("model.audio_projector.{}.{tail}", sequence(fc)),
        [branch, "sampler"] => {
            let own = same(spec, Part::Omni, format!("model.mm_projector.sampler_{branch}.0.{tail}"));
            if tail == "bias" {
                return Some(own);
            }
            let dims = vec![spec.rows, spec.cols / 8, 2, 2, 2];
            return Some(Published { dims, layout: Layout::TapsFirst { taps: 8 }, ..own });
        }
        [branch, readout] => format!("model.mm_projector.readout_{branch}.{}.{tail}", sequence(readout)),
        [branch, stage, block, name] => {
            let stem = format!("model.mm_projector.{stage}_{branch}.{block}");
            return convolution(spec, &stem, name, tail);
        }
        _ => return None,
    };
    Some(same(spec, Part::Omni, name))
}

/// A layer of a convolution block. All but the middle one are one by one.
fn convolution(spec: &Spec, stem: &str, layer: &str, tail: &str) -> Option<Published> {
    let name = match layer {
        "conv1" | "conv2" | "conv3" => format!("{layer}.conv"),
        "short" => "downsample.conv".to_owned(),
        "se1" => "se.fc1".to_owned(),
        "se2" => "se.fc2".to_owned(),
        "norm1" | "norm2" | "norm3" => format!("conv{}.bn", &layer[4..]),
        "short_norm" => "downsample.bn".to_owned(),
        _ => return None,
    };
    let own = same(spec, Part::Omni, format!("{stem}.{name}.{tail}"));
    Some(match layer {
        "conv2" => Published { dims: vec![spec.cols, 1, 3, 3], layout: Layout::Transposed, ..own },
        _ if spec.role == Role::Matrix => Published { dims: vec![spec.rows, spec.cols, 1, 1], ..own },
        _ => own,
    })
}

fn attention(name: &str) -> Option<&'static str> {
    Some(match name {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_o" => "self_attn.out_proj",
        _ => return None,
    })
}

/// Published under `name` with the dimensions it has in a bundle.
fn same(spec: &Spec, part: Part, name: String) -> Published {
    let dims = if spec.role == Role::Vector { vec![spec.cols] } else { vec![spec.rows, spec.cols] };
    Published { part, name, dims, layout: Layout::Same }
}

/// `fc1` and `readout1` are the first, `fc2` and `readout2` the third of a sequence.
fn sequence(name: &str) -> usize {
    if name.ends_with('1') { 0 } else { 2 }
}
