//! Numbers of a published config. A value that is missing is either refused or said.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Display;

/// A default that is taken, said.
pub(super) fn taken<T: Display>(key: &str, value: T) -> T {
    log::info!("`{key}` is not stated: {value} is taken");
    value
}

/// A whole number. Without a default it must be stated.
pub(super) fn count(config: &Value, key: &str, default: Option<usize>) -> Result<usize> {
    const MAX: u64 = 1 << 24;
    let found = match (&config[key], default) {
        (Value::Null, Some(default)) => return Ok(taken(key, default)),
        (value, _) => value.as_u64().filter(|n| (1..=MAX).contains(n)).map(|n| n as usize),
    };
    found.with_context(|| refusal(config, key, &format!("a whole number from 1 to {MAX}")))
}

/// A number. Without a default it must be stated.
pub(super) fn real(config: &Value, key: &str, default: Option<f32>) -> Result<f32> {
    match (&config[key], default) {
        (Value::Null, Some(default)) => Ok(taken(key, default)),
        (value, _) => {
            let found = value.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
            found.with_context(|| refusal(config, key, "a number"))
        }
    }
}

/// Yes or no, which must be stated.
pub(super) fn flag(config: &Value, key: &str) -> Result<bool> {
    config[key].as_bool().with_context(|| refusal(config, key, "true or false"))
}

fn refusal(config: &Value, key: &str, wanted: &str) -> String {
    match &config[key] {
        Value::Null => format!("`{key}` is missing: state it ({wanted}); it is not guessed"),
        value => format!("`{key}` is {value}, but must be {wanted}"),
    }
}
