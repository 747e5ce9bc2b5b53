//! What Home Assistant wants to know of a device: one retained message that makes its entities (MQTT device discovery, since 2024.11).
//!
//! Names of keys and topics: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload

use super::Settings;
use crate::{machine, sink::Speaker, wire::Health};
use serde_json::{Value, json};

/// The topic below Home Assistant's own prefix, and what is said there.
pub fn config(settings: &Settings, prefix: &str, speaker: &Speaker) -> (String, Value) {
    let id = format!("mien_{}", machine::digits(&[&speaker.machine, &speaker.device, &settings.client_salt]));
    let topic = |name: &str| format!("{prefix}/{name}");
    let entity = |name: &str, platform: &str, from: &str, template: &str, more: Value| {
        let mut entity = json!({
            "platform": platform, "unique_id": format!("{id}_{name}"), "name": name, "state_topic": topic(from),
            "value_template": template,
        });
        merge(&mut entity, more);
        (name.to_owned(), entity)
    };
    // Counts come with the health; without it for so long an entity is unavailable.
    let diagnostic = |more: Value| {
        let mut of_health =
            json!({"entity_category": "diagnostic", "expire_after": 3 * settings.health_s + 5});
        merge(&mut of_health, more);
        of_health
    };
    let labels: Vec<&str> = speaker.labels.iter().map(String::as_str).chain(["unknown"]).collect();
    let health: Vec<&str> = Health::ALL.iter().map(|health| health.name()).collect();
    let mut entities = vec![
        entity(
            "label",
            "sensor",
            "state",
            "{{ value_json.label }}",
            json!({"device_class": "enum", "options": labels, "icon": "mdi:emoticon-outline",
                   "json_attributes_topic": topic("state")}),
        ),
        entity(
            "confidence",
            "sensor",
            "state",
            "{{ (value_json.confidence * 100) | round(1) }}",
            json!({"unit_of_measurement": "%", "state_class": "measurement"}),
        ),
        entity(
            "event",
            "event",
            "event",
            "{\"event_type\": \"{{ value_json.event }}\", \"label\": \"{{ value_json.label }}\", \
             \"confidence\": {{ value_json.confidence }}, \"episode\": {{ value_json.episode }}}",
            json!({"event_types": ["begin", "change", "end", "unknown"]}),
        ),
        entity(
            "muted",
            "binary_sensor",
            "health",
            "{{ 'ON' if value_json.muted else 'OFF' }}",
            diagnostic(json!({"icon": "mdi:eye-off-outline"})),
        ),
        entity(
            "inference",
            "sensor",
            "health",
            "{{ value_json.infer_ms }}",
            diagnostic(
                json!({"device_class": "duration", "unit_of_measurement": "ms", "state_class": "measurement"}),
            ),
        ),
        entity(
            "dropped",
            "sensor",
            "health",
            "{{ value_json.dropped }}",
            diagnostic(json!({"state_class": "total_increasing"})),
        ),
    ];
    for modality in ["video", "audio"] {
        let template = format!("{{{{ value_json.{modality} }}}}");
        let more = diagnostic(json!({"device_class": "enum", "options": health}));
        entities.push(entity(modality, "sensor", "health", &template, more));
    }
    if settings.reasons {
        // A state of Home Assistant has at most 255 characters.
        entities.push(entity(
            "reason",
            "sensor",
            "reason",
            "{{ value_json.text[:250] }}",
            json!({"icon": "mdi:text"}),
        ));
    }
    let said = json!({
        "device": {
            "identifiers": [id], "name": speaker.device, "manufacturer": "mien", "model": speaker.bundle,
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": {"name": "mien", "sw_version": env!("CARGO_PKG_VERSION")},
        "availability_topic": topic("availability"),
        "qos": 1,
        "components": entities.into_iter().collect::<serde_json::Map<String, Value>>(),
    });
    (format!("device/{id}/config"), said)
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
