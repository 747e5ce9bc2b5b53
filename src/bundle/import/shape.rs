//! The sizes of a published checkpoint: from its configs where they state them, from its tensors where they do not.

use super::towers::Tower;
use crate::bundle::checkpoint::Weights;
use crate::bundle::shape::{self, Shape, Stack};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
    for key in ["rope_scaling", "use_sliding_window"] {
        let value = &config[key];
        ensure!(value.is_null() || *value == false, "`{key}` is {value}, which is not supported");
    }
    let frames = count(config, "num_frames", Some(8))?;
    let (vision, image, patch) = vision_stack(config, vision).context("in the vision tower")?;
    let (audio, mels, audio_positions) = audio_stack(audio).context("in the audio tower")?;
    let (hidden, n_heads) =
        (count(config, "hidden_size", None)?, count(config, "num_attention_heads", None)?);
    let decoder = Stack {
        layers: count(config, "num_hidden_layers", None)?,
        hidden,
        ffn: count(config, "intermediate_size", None)?,
        n_heads,
        n_kv_heads: count(config, "num_key_value_heads", Some(n_heads))?,
        head_dim: count(config, "head_dim", Some(hidden / n_heads))?,
        eps: real(config, "rms_norm_eps", 1e-6)?,
    };
    let shape = Shape {
        vision,
        image,
        patch,
        frames,
        audio,
        mels,
        audio_positions,
        audio_pool: 3,
        decoder,
        vocab: count(config, "vocab_size", None)?,
        rope_theta: real(config, "rope_theta", 1e6)?,
        context: count(config, "max_position_embeddings", Some(32_768))?,
    };
    shape::read(&shape::keys(&shape).into_iter().collect())
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
    let select = config["mm_vision_select_layer"].as_i64().unwrap_or(-2);
    let run = if select < 0 { stored as i64 + 1 + select } else { select };
    ensure!(
        (1..=stored as i64).contains(&run),
        "`mm_vision_select_layer` is {select}, but the tower has {stored} layers"
    );
    let grid = positions.isqrt();
    ensure!(grid * grid == positions, "{positions} positions are no square");
    let stack = tower.stack(
        run as usize,
        hidden,
        ffn,
        own,
        "num_attention_heads",
        real(own, "layer_norm_eps", 1e-6)?,
    )?;
    Ok((stack, grid * patch, patch))
}

fn audio_stack(tower: &Tower<'_>) -> Result<(Stack, usize, usize)> {
    let act = &tower.config["activation_function"];
    ensure!(act.is_null() || act == "gelu", "`activation_function` is {act}, but must be \"gelu\"");
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

pub(super) fn count(config: &Value, key: &str, default: Option<usize>) -> Result<usize> {
    let found = match (&config[key], default) {
        (Value::Null, Some(default)) => Some(default),
        (value, _) => value.as_u64().filter(|n| (1..=1 << 24).contains(n)).map(|n| n as usize),
    };
    found.with_context(|| {
        format!("`{key}` is {}, but must be a whole number from 1 to {}", config[key], 1 << 24)
    })
}

pub(super) fn real(config: &Value, key: &str, default: f32) -> Result<f32> {
    match &config[key] {
        Value::Null => Ok(default),
        value => value
            .as_f64()
            .map(|v| v as f32)
            .with_context(|| format!("`{key}` is {value}, but must be a number")),
    }
}

/// Whether the head is not the embedding.
pub(super) fn own_head(config: &Value, omni: &Weights) -> Result<bool> {
    let tied = config["tie_word_embeddings"] != false;
    let stored = omni.dims("lm_head.weight").is_some();
    ensure!(
        tied || stored,
        "{} has no tensor `lm_head.weight`, but its embedding is not tied",
        omni.folder().display()
    );
    Ok(!tied)
}
