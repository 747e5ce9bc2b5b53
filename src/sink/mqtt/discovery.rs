//! What Home Assistant wants to know of a device: one retained message that makes its entities (MQTT device discovery, since 2024.11).
//!
//! Names of keys and topics: <https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload>

use super::Settings;
use crate::{
    sink::Speaker,
    wire::{Health, Kind},
};
use serde_json::{Map, Value, json};

/// The topic below Home Assistant's own prefix, and what is said there.
pub fn config(settings: &Settings, prefix: &str, speaker: &Speaker) -> (String, Value) {
    let id = format!("mien_{}", settings.id(speaker));
    let mut components = Map::new();
    for Entity { name, platform, from, template, more } in entities(settings, prefix, speaker) {
        let mut entity = json!({
            "platform": platform, "unique_id": format!("{id}_{name}"), "name": name,
            "state_topic": format!("{prefix}/{from}"), "value_template": template, "qos": 1,
        });
        merge(&mut entity, more);
        // Counts come with the health; without it for so long they are unavailable.
        if from == "health" {
            let of_health =
                json!({"entity_category": "diagnostic", "expire_after": 3 * settings.health_s + 5});
            merge(&mut entity, of_health);
        }
        components.insert(name.to_owned(), entity);
    }
    let said = json!({
        "device": {
            "identifiers": [id], "name": speaker.device, "manufacturer": "mien", "model": speaker.bundle,
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": {"name": "mien", "sw_version": env!("CARGO_PKG_VERSION")},
        "availability_topic": format!("{prefix}/availability"),
        "components": components,
    });
    (format!("device/{id}/config"), said)
}

struct Entity {
    name: &'static str,
    platform: &'static str,
    /// Topic under the prefix.
    from: &'static str,
    /// Jinja, over the JSON of the topic.
    template: &'static str,
    more: Value,
}

fn entities(settings: &Settings, prefix: &str, speaker: &Speaker) -> Vec<Entity> {
    let entity = |name, platform, from, template, more| Entity { name, platform, from, template, more };
    let labels: Vec<&str> = speaker.labels.iter().map(String::as_str).chain(["unknown"]).collect();
    let label = json!({"device_class": "enum", "options": labels, "icon": "mdi:emoticon-outline",
                       "json_attributes_topic": format!("{prefix}/state")});
    let percent = json!({"unit_of_measurement": "%", "state_class": "measurement"});
    let event = "{\"event_type\": \"{{ value_json.event }}\", \"label\": \"{{ value_json.label | default('unknown') }}\", \
                 \"confidence\": {{ value_json.confidence }}, \"episode\": {{ value_json.episode }}}";
    let events = json!({"event_types": Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>()});
    let health: Vec<&str> = Health::ALL.iter().map(|health| health.name()).collect();
    let health = json!({"device_class": "enum", "options": health});
    let muted = "{{ 'ON' if value_json.muted else 'OFF' }}";
    let ms = json!({"device_class": "duration", "unit_of_measurement": "ms", "state_class": "measurement"});
    let mut all = vec![
        entity("label", "sensor", "state", "{{ value_json.label }}", label),
        entity("confidence", "sensor", "state", "{{ (value_json.confidence * 100) | round(1) }}", percent),
        entity("event", "event", "event", event, events),
        entity("muted", "binary_sensor", "health", muted, json!({"icon": "mdi:eye-off-outline"})),
        entity("video", "sensor", "health", "{{ value_json.video }}", health.clone()),
        entity("audio", "sensor", "health", "{{ value_json.audio }}", health),
        entity("inference", "sensor", "health", "{{ value_json.infer_ms }}", ms),
        entity(
            "dropped",
            "sensor",
            "health",
            "{{ value_json.dropped }}",
            json!({"state_class": "total_increasing"}),
        ),
    ];
    if settings.reasons {
        // A state of Home Assistant has at most 255 characters.
        all.push(entity(
            "reason",
            "sensor",
            "reason",
            "{{ value_json.text[:250] }}",
            json!({"icon": "mdi:text"}),
        ));
    }
    all
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
