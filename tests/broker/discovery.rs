//! What Home Assistant is told, against a real broker: topics that exist, templates that give what their entity takes.

use super::{Broker, PREFIX, tick};
use crate::{event, setup};
use mien::{
    sink::{EpisodeReason, Message, Sink, mqtt::Mqtt, mqtt::Settings},
    wire::{Cause, Health, Heartbeat, Kind, NO_LABEL},
};
use serde_json::Value;
use std::{process::Command, sync::Arc};

fn publish(broker: &Broker, topic: &str, text: &str) {
    let port = broker.port.to_string();
    let arguments = ["-p", &port, "-t", topic, "-m", text];
    assert!(Command::new("mosquitto_pub").args(arguments).status().unwrap().success());
}

/// Each entity's template gives what the entity takes, over what was last said on its topic.
fn check_entities(components: &serde_json::Map<String, Value>, last: impl Fn(&str) -> Option<String>) {
    let mut templates = minijinja::Environment::new();
    // What is not there would be a warning in Home Assistant's log at every message.
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    let (mut unique, mut seen) = (Vec::new(), Vec::new());
    for (name, entity) in components {
        // 2024.11 does not hand the device's own on.
        assert_eq!(entity["qos"], 1, "{name}");
        let said = last(entity["state_topic"].as_str().unwrap())
            .unwrap_or_else(|| panic!("{name}: nothing is said there"));
        let value: Value = serde_json::from_str(&said).unwrap();
        let template = entity["value_template"].as_str().unwrap();
        let shown = templates
            .render_str(template, minijinja::context! { value_json => minijinja::value::Serde(value) })
            .unwrap();
        assert!(!shown.is_empty() && shown.len() <= 255, "{name}: {shown}");
        if let Some(options) = entity["options"].as_array() {
            assert!(options.iter().any(|option| option == shown.as_str()), "{name}: {shown} of {options:?}");
        }
        match entity["platform"].as_str().unwrap() {
            "binary_sensor" => assert_eq!(shown, "ON"),
            "event" => {
                let event: Value = serde_json::from_str(&shown).unwrap();
                assert!(entity["event_types"].as_array().unwrap().contains(&event["event_type"]), "{shown}");
            }
            "sensor" if entity.get("unit_of_measurement").is_some() => drop(shown.parse::<f64>().unwrap()),
            "sensor" => {}
            other => panic!("{name} has the platform {other}"),
        }
        unique.push(entity["unique_id"].as_str().unwrap().to_owned());
        seen.push(name.as_str());
    }
    for name in ["label", "confidence", "event", "muted", "video", "audio", "inference", "dropped", "reason"]
    {
        assert!(seen.contains(&name), "{name} of {seen:?}");
    }
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), seen.len());
}

#[test]
fn home_assistant_is_told_what_it_can_use_and_again_after_its_birth() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let settings = Settings { discovery: "homeassistant".into(), health_s: 1, ..broker.settings() };
    let mut sink = Mqtt::open(settings, &setup()).unwrap();
    let configs = || -> Vec<(String, Vec<u8>)> {
        let all = heard.0.lock().unwrap();
        let found = all.iter().filter(|(topic, ..)| topic.starts_with("homeassistant/device/"));
        found.map(|(topic, payload, _)| (topic.clone(), payload.clone())).collect()
    };
    tick(&mut sink, "the config of the device", || configs().len() == 1);
    sink.send(&event(3, Kind::Begin, 1, Cause::None));
    sink.send(&Message::Heartbeat(Heartbeat {
        muted: 1,
        infer_ms: 40,
        video: Health::Ok,
        audio: Health::Off,
        ..Heartbeat::default()
    }));
    let text = "because ".repeat(100);
    let reason = EpisodeReason {
        episode: 3,
        at_ms: 9000,
        text,
        answer: Some("sad".into()),
        present: 3,
        cut: false,
        grounds: None,
        people: 0,
    };
    sink.send(&Message::Reason(Arc::new(reason)));
    let last = |topic: &str| heard.of(topic).last().map(|(text, _)| text.clone());
    for topic in ["state", "health", "event", "reason", "availability"] {
        tick(&mut sink, topic, || last(&format!("{PREFIX}/{topic}")).is_some());
    }

    let (topic, payload) = configs().remove(0);
    let config: Value = serde_json::from_slice(&payload).unwrap();
    let id = config["device"]["identifiers"][0].as_str().unwrap();
    assert_eq!(topic, format!("homeassistant/device/{id}/config"));
    assert!(config["origin"]["name"].is_string());
    assert_eq!(last(config["availability_topic"].as_str().unwrap()).unwrap(), "online");
    let components = config["components"].as_object().unwrap();
    check_entities(components, last);
    // An event without a label.
    sink.send(&event(4, Kind::Unknown, NO_LABEL, Cause::Shutdown));
    tick(&mut sink, "an unknown", || last(&format!("{PREFIX}/event")).unwrap().contains("unknown"));
    check_entities(components, last);

    let online = || heard.of(&format!("{PREFIX}/availability")).len();
    let before = online();
    publish(&broker, "homeassistant/status", "offline");
    publish(&broker, "homeassistant/status", "online");
    tick(&mut sink, "the config again", || configs().len() == 2 && online() > before);

    // Who subscribes later finds it, and a broker that begins anew is told.
    let later = broker.listen(&Settings { client_salt: "later".into(), ..broker.settings() });
    tick(&mut sink, "the retained config", || {
        later.of(&topic).first().is_some_and(|(_, retained)| *retained)
    });
    sink.close();
}

#[test]
fn nobody_is_told_unless_asked_for() {
    let mut broker = Broker::new("allow_anonymous true\n");
    broker.start();
    let heard = broker.listen(&broker.settings());
    let mut sink = Mqtt::open(broker.settings(), &setup()).unwrap();
    tick(&mut sink, "availability", || !heard.of(&format!("{PREFIX}/availability")).is_empty());
    publish(&broker, "homeassistant/status", "online");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
    tick(&mut sink, "three seconds", || std::time::Instant::now() > until);
    assert!(!heard.0.lock().unwrap().iter().any(|(topic, ..)| topic.contains("device/")));
    sink.close();
}
