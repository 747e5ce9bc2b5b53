//! The sizes of a published checkpoint: from its configs where they state them, from its tensors where they do not.

use super::numbers::{count, flag, real, taken};
use super::rope;
use super::towers::Tower;
use crate::bundle::checkpoint::Weights;
use crate::bundle::shape::{self, Shape, Stack};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub(super) fn model_shape(config: &Value, vision: &Tower<'_>, audio: &Tower<'_>) -> Result<Shape> {
    for (key, wanted) in [
        ("mm_projector_type", "all_in_one_small"),
        ("mm_audio_projector_type", "mlp2x_gelu"),
        ("hidden_act", "silu"),
    ] {
        ensure!(config[key] == wanted, "`{key}` is {}, but must be \"{wanted}\"", config[key]);
    }
    let feature = &config["mm_vision_select_feature"];
    ensure!(
        feature.is_null() || feature == "patch",
        "`mm_vision_select_feature` is {feature}, but must be \"patch\""
    );
    let frames = count(config, "num_frames", Some(8))?;
    let (vision, image, patch) = vision_stack(config, vision).context("in the vision tower")?;
    let (audio, mels, audio_positions) = audio_stack(audio).context("in the audio tower")?;
    let shape = Shape {
        vision,
        image,
        patch,
        frames,
        audio,
        mels,
        audio_positions,
        audio_pool: 3,
        decoder: decoder_stack(config)?,
        vocab: count(config, "vocab_size", None)?,
        rope_theta: rope::theta(config)?,
        context: count(config, "max_position_embeddings", None)?,
    };
    shape::read(&shape::keys(&shape).into_iter().collect())
}

fn decoder_stack(config: &Value) -> Result<Stack> {
    let window = &config["use_sliding_window"];
    ensure!(window.is_null() || *window == false, "`use_sliding_window` is {window}, which is not supported");
    for kind in config["layer_types"].as_array().unwrap_or(&Vec::new()) {
        ensure!(*kind == "full_attention", "`layer_types` names {kind}; only full attention is supported");
    }
    let (hidden, n_heads) =
        (count(config, "hidden_size", None)?, count(config, "num_attention_heads", None)?);
    Ok(Stack {
        layers: count(config, "num_hidden_layers", None)?,
        hidden,
        ffn: count(config, "intermediate_size", None)?,
        n_heads,
        n_kv_heads: count(config, "num_key_value_heads", None)?,
        // Of a config without it, heads share the width.
        head_dim: if config["head_dim"].is_null() {
            hidden / n_heads
        } else {
            count(config, "head_dim", None)?
        },
        eps: real(config, "rms_norm_eps", None)?,
    })
}

fn vision_stack(config: &Value, tower: &Tower<'_>) -> Result<(Stack, usize, usize)> {
    let own = tower.config.get("vision_config").unwrap_or(&tower.config);
    let act = &own["hidden_act"];
    ensure!(
        act.is_null() || act == "gelu_pytorch_tanh",
        "`hidden_act` is {act}, but must be \"gelu_pytorch_tanh\""
    );
    let [hidden, _, patch, _] = tower.dims("embeddings.patch_embedding.weight")?;
    let [positions, _] = tower.dims("embeddings.position_embedding.weight")?;
    let [ffn, _] = tower.dims("encoder.layers.0.mlp.fc1.weight")?;
    let stored = tower.layers("encoder.layers", "layer_norm1.weight");
    let select = match &config["mm_vision_select_layer"] {
        Value::Null => taken("mm_vision_select_layer", -2),
        stated => stated
            .as_i64()
            .with_context(|| format!("`mm_vision_select_layer` is {stated}, but must be a whole number"))?,
    };
    let run = if select < 0 { stored as i64 + 1 + select } else { select };
    ensure!(
        (1..=stored as i64).contains(&run),
        "`mm_vision_select_layer` is {select}, but the tower has {stored} layers"
    );
    let pictures = &tower.preprocessor;
    for (key, wanted) in [
        ("image_mean", json!([0.5, 0.5, 0.5])),
        ("image_std", json!([0.5, 0.5, 0.5])),
        // Bicubic.
        ("resample", json!(3)),
    ] {
        let stated = &pictures[key];
        ensure!(stated.is_null() || *stated == wanted, "`{key}` is {stated}, but only {wanted} is supported");
    }
    let grid = positions.isqrt();
    ensure!(grid * grid == positions, "{positions} positions are no square");
    let stack = tower.stack(
        run as usize,
        hidden,
        ffn,
        own,
        "num_attention_heads",
        real(own, "layer_norm_eps", Some(1e-6))?,
    )?;
    Ok((stack, grid * patch, patch))
}

fn audio_stack(tower: &Tower<'_>) -> Result<(Stack, usize, usize)> {
    let act = &tower.config["activation_function"];
    ensure!(act.is_null() || act == "gelu", "`activation_function` is {act}, but must be \"gelu\"");
    let scaled = &tower.config["scale_embedding"];
    ensure!(scaled.is_null() || *scaled == false, "`scale_embedding` is {scaled}, which is not supported");
    let [hidden, mels, _] = tower.dims("conv1.weight")?;
    let [positions, _] = tower.dims("embed_positions.weight")?;
    let [ffn, _] = tower.dims("layers.0.fc1.weight")?;
    let whole_seconds = positions.is_multiple_of(50).then_some(positions / 50);
    for (key, stated, found) in [
        ("max_source_positions", &tower.config, Some(positions)),
        ("num_mel_bins", &tower.config, Some(mels)),
        ("feature_size", &tower.preprocessor, Some(mels)),
        ("nb_max_frames", &tower.preprocessor, Some(2 * positions)),
        ("n_samples", &tower.preprocessor, Some(320 * positions)),
        ("chunk_length", &tower.preprocessor, whole_seconds),
        ("hop_length", &tower.preprocessor, Some(160)),
        ("n_fft", &tower.preprocessor, Some(400)),
        ("sampling_rate", &tower.preprocessor, Some(16_000)),
    ] {
        let (stated, Some(found)) = (&stated[key], found) else { continue };
        ensure!(
            stated.is_null() || *stated == found,
            "`{key}` is {stated}, but its weights of {positions} positions and {mels} mels need {found}"
        );
    }
    let layers = tower.layers("layers", "fc1.weight");
    let stack = tower.stack(layers, hidden, ffn, &tower.config, "encoder_attention_heads", 1e-5)?;
    Ok((stack, mels, positions))
}

/// Whether the head is not the embedding.
pub(super) fn own_head(config: &Value, omni: &Weights) -> Result<bool> {
    let tied = flag(config, "tie_word_embeddings")?;
    let stored = omni.dims("lm_head.weight").is_some();
    ensure!(
        tied || stored,
        "{} has no tensor `lm_head.weight`, but its embedding is not tied; get the files again",
        omni.folder().display()
    );
    Ok(!tied)
}
