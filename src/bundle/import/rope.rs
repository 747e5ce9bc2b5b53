//! The base of the decoder's rotary positions, from every place where transformers writes it.
//!
//! | written by | place |
//! |---|---|
//! | transformers 4 | `rope_theta`; `rope_scaling`, null or `{rope_type: "default"}` (`type` in old files) |
//! | transformers 5 | `rope_parameters` with `rope_theta` and `rope_type` |
//!
//! Invariant: a base that no place states, or that two state differently, is refused, and so is every other kind of rotation.

use super::numbers::real;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Every key of the tables that changes nothing where the kind is `default`.
const KINDS: [&str; 2] = ["rope_type", "type"];

pub(super) fn theta(config: &Value) -> Result<f32> {
    let partial = &config["partial_rotary_factor"];
    ensure!(
        partial.is_null() || partial.as_f64() == Some(1.0),
        "`partial_rotary_factor` is {partial}, which is not supported"
    );
    let mut stated = Vec::new();
    if !config["rope_theta"].is_null() {
        stated.push(("rope_theta", real(config, "rope_theta", None)?));
    }
    for place in ["rope_parameters", "rope_scaling"] {
        let table = &config[place];
        if table.is_null() {
            continue;
        }
        plain(table).with_context(|| format!("in `{place}`"))?;
        if !table["rope_theta"].is_null() {
            stated.push((place, real(table, "rope_theta", None).with_context(|| format!("in `{place}`"))?));
        }
    }
    let &(first, theta) = stated.first().context(
        "`rope_theta` is missing, at the top and in `rope_parameters`: state it (a number); it is not guessed",
    )?;
    for (place, other) in &stated {
        ensure!(*other == theta, "`{first}` states the rotary base {theta}, but `{place}` states {other}");
    }
    Ok(theta)
}

/// Refuses a table that asks for more than the plain rotation.
fn plain(table: &Value) -> Result<()> {
    let keys = table.as_object().with_context(|| format!("{table} is no table of keys and values"))?;
    for (key, value) in keys.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "rope_theta" => {}
            key if KINDS.contains(&key) => ensure!(
                *value == "default",
                "`{key}` is {value}; of the rotary positions only \"default\" is supported"
            ),
            "partial_rotary_factor" if value.as_f64() == Some(1.0) => {}
            _ => anyhow::bail!("`{key}` is {value}, which is not supported"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_known_place_is_read() {
        for config in [
            json!({"rope_theta": 10000.0, "rope_scaling": null}),
            json!({"rope_theta": 10000}),
            json!({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
            json!({"rope_parameters": {"rope_theta": 10000.0}, "rope_theta": null}),
            json!({"rope_theta": 10000.0, "rope_scaling": {"rope_type": "default"}}),
            json!({"rope_theta": 10000.0, "rope_scaling": {"type": "default", "factor": null}}),
            json!({"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}}),
        ] {
            assert_eq!(theta(&config).unwrap(), 10_000.0, "{config}");
        }
    }

    #[test]
    fn what_is_not_stated_or_not_supported_is_refused() {
        for (config, said) in [
            (json!({}), "`rope_theta` is missing"),
            (json!({"rope_parameters": {"rope_type": "default"}}), "`rope_theta` is missing"),
            (json!({"rope_theta": "1e6"}), "must be a number"),
            (
                json!({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e4}}),
                "`rope_parameters` states 10000",
            ),
            (json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}}), "yarn"),
            (json!({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}}), "linear"),
            (
                json!({"rope_theta": 1e6, "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}}),
                "mrope_section",
            ),
            (json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}), "full_attention"),
            (json!({"rope_theta": 1e6, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"rope_theta": 1e6, "rope_scaling": "yarn"}), "`rope_scaling`"),
        ] {
            let error = format!("{:#}", theta(&config).unwrap_err());
            assert!(error.contains(said), "{config}: {error}");
        }
    }
}
