//! The `[sink.mqtt]` table.

use crate::{machine, sink::Speaker};
use anyhow::{Result, bail, ensure};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    Json,
    Compact,
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub enabled: bool,
    /// A host name or an address, without scheme and port.
    pub host: String,
    /// 0: 8883 with TLS, 1883 without.
    pub port: u16,
    /// Without slash at either end; empty: `mien/` and the device's name.
    pub prefix: String,
    /// Makes another client id of the same machine and device name; only for two daemons on one machine.
    pub client_salt: String,
    pub user: String,
    /// A file with the password on its first line.
    pub password_file: PathBuf,
    pub tls: bool,
    /// PEM; empty: the machine's own roots.
    pub ca: PathBuf,
    /// PEM, both or neither.
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    pub payload: Payload,
    pub keep_alive_s: u16,
    /// Between two retained heartbeats, each with `online` beside it.
    pub health_s: u32,
    /// Events that wait for a broker, on disk where there is a `state_dir`.
    pub queue: usize,
    pub reasons: bool,
    /// What holds as `hri_msgs/Expression` too, for a bridge to ROS 2.
    pub ros: bool,
    /// The prefix under which Home Assistant looks for devices, as a rule `homeassistant`; empty: it is not told.
    pub discovery: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            host: String::new(),
            port: 0,
            prefix: String::new(),
            client_salt: String::new(),
            user: String::new(),
            password_file: PathBuf::new(),
            tls: false,
            ca: PathBuf::new(),
            client_cert: PathBuf::new(),
            client_key: PathBuf::new(),
            payload: Payload::Json,
            keep_alive_s: 15,
            health_s: 10,
            queue: 1_024,
            reasons: true,
            ros: false,
            discovery: String::new(),
        }
    }
}

impl Settings {
    /// Keys of the table that are paths.
    pub const PATHS: &[&str] = &["password_file", "ca", "client_cert", "client_key"];

    /// Refuses impossible values by name; asks nobody.
    pub fn check(&self) -> Result<()> {
        check_host(&self.host)?;
        check_topic("prefix", &self.prefix)?;
        check_topic("discovery", &self.discovery)?;
        ensure!((8..=65_536).contains(&self.queue), "sink.mqtt.queue = {}: from 8 to 65536", self.queue);
        ensure!(
            (5..=3600).contains(&self.keep_alive_s),
            "sink.mqtt.keep_alive_s = {}: from 5 to 3600",
            self.keep_alive_s
        );
        ensure!(
            (1..=3600).contains(&self.health_s),
            "sink.mqtt.health_s = {}: from 1 to 3600",
            self.health_s
        );
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        ensure!(
            set(&self.client_cert) == set(&self.client_key),
            "sink.mqtt.client_cert and sink.mqtt.client_key belong together: set both or neither"
        );
        ensure!(
            self.tls || !(set(&self.ca) || set(&self.client_cert)),
            "sink.mqtt.tls is off, and yet ca or client_cert is set: set sink.mqtt.tls = true"
        );
        ensure!(
            !set(&self.client_cert) || set(&self.ca),
            "sink.mqtt.client_cert needs sink.mqtt.ca: name the authority that signed the broker's certificate"
        );
        ensure!(
            !set(&self.password_file) || !self.user.is_empty(),
            "sink.mqtt.password_file is set and sink.mqtt.user is not"
        );
        Ok(())
    }

    pub fn port(&self) -> u16 {
        match (self.port, self.tls) {
            (0, true) => 8883,
            (0, false) => 1883,
            (port, _) => port,
        }
    }

    /// The host without the brackets that an IPv6 address may have.
    pub fn host(&self) -> &str {
        let inner = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(&self.host)
    }

    /// `host:port`, for people.
    pub fn address(&self) -> String {
        match self.host().contains(':') {
            true => format!("[{}]:{}", self.host(), self.port()),
            false => format!("{}:{}", self.host(), self.port()),
        }
    }

    /// Tells this speaker from every other at a broker.
    pub fn id(&self, speaker: &Speaker) -> String {
        machine::digits(&[&speaker.machine, &speaker.device, &self.client_salt])
    }

    /// The topic under which a device speaks.
    pub fn prefix(&self, device: &str) -> String {
        match self.prefix.is_empty() {
            true => format!("mien/{}", device.replace(['#', '+', '/', ' '], "-")),
            false => self.prefix.clone(),
        }
    }
}

fn check_topic(key: &str, topic: &str) -> Result<()> {
    ensure!(
        !topic.contains(['#', '+', '\0']) && !topic.starts_with('/') && !topic.ends_with('/'),
        "sink.mqtt.{key} = {topic:?}: a topic without wildcards and without a slash at either end"
    );
    Ok(())
}

/// Refuses a host with a scheme, a path, a user or a port in it, each with the key that takes it.
fn check_host(host: &str) -> Result<()> {
    ensure!(!host.is_empty(), "sink.mqtt.host is not set: name the broker");
    if let Some((scheme, rest)) = host.split_once("://") {
        let tls = matches!(scheme, "mqtts" | "ssl" | "tls");
        bail!(
            "sink.mqtt.host = {host:?} has a scheme: set host = {:?}{}",
            rest.split(['/', ':']).next().unwrap_or_default(),
            if tls { " and tls = true" } else { "" }
        );
    }
    if let Some((user, _)) = host.split_once('@') {
        let user = user.split(':').next().unwrap_or_default();
        bail!("sink.mqtt.host has a user in it: set sink.mqtt.user = {user:?} and sink.mqtt.password_file");
    }
    ensure!(
        !host.contains('/'),
        "sink.mqtt.host = {host:?} has a path: the topic belongs into sink.mqtt.prefix"
    );
    let bare = host.strip_prefix('[').and_then(|host| host.split_once(']'));
    let (name, port) = match bare {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None if host.matches(':').count() == 1 => {
            host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)))
        }
        None => (host, None),
    };
    if let Some(port) = port {
        bail!("sink.mqtt.host = {host:?} has a port: set host = {name:?} and port = {port}");
    }
    ensure!(!host.contains(char::is_whitespace), "sink.mqtt.host = {host:?} has a blank in it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(host: &str) -> String {
        let settings = Settings { host: host.into(), ..Settings::default() };
        settings.check().map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn a_host_is_a_host_and_each_addition_has_its_key() {
        for host in ["localhost", "broker.local", "192.0.2.7", "::1", "[::1]", "2001:db8::7"] {
            assert_eq!(refusal(host), "fine", "{host}");
        }
        for (host, next) in [
            ("mqtt://broker", "set host = \"broker\""),
            ("mqtts://broker:8883/x", "set host = \"broker\" and tls = true"),
            ("broker:1884", "set host = \"broker\" and port = 1884"),
            ("[::1]:1884", "set host = \"::1\" and port = 1884"),
            ("broker/topic", "sink.mqtt.prefix"),
            ("me:secret@broker", "sink.mqtt.user = \"me\""),
            ("", "name the broker"),
            ("bro ker", "blank"),
        ] {
            let said = refusal(host);
            assert!(said.contains(next) && !said.contains("secret"), "{host}: {said}");
        }
    }

    #[test]
    fn addresses_are_shown_with_their_port() {
        let at = |host: &str| Settings { host: host.into(), ..Settings::default() }.address();
        assert_eq!(
            (at("broker"), at("[::1]"), at("::1")),
            ("broker:1883".into(), "[::1]:1883".into(), "[::1]:1883".into())
        );
    }
}
