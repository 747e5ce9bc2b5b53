//! Which sinks a config names: one closed list, so that nobody else has to know the kinds.
//!
//! A new sink is one file with a `Settings` struct (`PATHS`, `enabled`, `check`, `probe`, `open`) and one line in the list below.

#[cfg(feature = "can")]
use super::can;
#[cfg(feature = "mqtt")]
use super::mqtt;
#[cfg(feature = "page")]
use super::page;
use super::{Setup, Sink};
use super::{serial, stdout};
use anyhow::{Context, Result};
use serde::Deserialize;

macro_rules! sinks {
    ($($(#[$only:meta])* $kind:ident $key:ident $settings:ty;)+) => {
        /// The tables `[sink.KEY]` of a config.
        #[derive(Clone, Debug, Default, Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct Sinks {
            $($(#[$only])* pub $key: Option<$settings>,)+
        }

        /// One configured sink.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Settings {
            $($(#[$only])* $kind($settings),)+
        }

        impl Sinks {
            /// Names of all kinds, as a config writes them.
            pub const KINDS: &[&str] = &[$($(#[$only])* stringify!($key),)+];

            /// Keys that are paths, by kind.
            pub fn paths() -> Vec<(&'static str, &'static [&'static str])> {
                vec![$($(#[$only])* (stringify!($key), <$settings>::PATHS),)+]
            }

            /// Every sink that is there and not switched off.
            pub fn all(&self) -> Vec<Settings> {
                let mut all = Vec::new();
                $($(#[$only])* all.extend(self.$key.iter().filter(|sink| sink.enabled).cloned().map(Settings::$kind));)+
                all
            }
        }

        impl Settings {
            pub fn name(&self) -> &'static str {
                match self { $($(#[$only])* Settings::$kind(_) => stringify!($key),)+ }
            }

            /// Refuses impossible values by name; touches nothing.
            pub fn check(&self) -> Result<()> {
                match self { $($(#[$only])* Settings::$kind(settings) => settings.check(),)+ }
            }

            /// Refuses by name what is missing or cannot be used now.
            pub fn probe(&self, setup: &Setup) -> Result<()> {
                let probed = match self { $($(#[$only])* Settings::$kind(settings) => settings.probe(setup),)+ };
                probed.with_context(|| format!("[sink.{}]", self.name()))
            }

            /// Opens it. An edge that is away is no error: it is tried again.
            pub fn open(&self, setup: &Setup) -> Result<Box<dyn Sink>> {
                match self { $($(#[$only])* Settings::$kind(settings) => settings.open(setup),)+ }
            }
        }
    };
}

sinks! {
    Stdout stdout stdout::Settings;
    Serial serial serial::Settings;
    #[cfg(feature = "can")]
    Can can can::Settings;
    #[cfg(feature = "mqtt")]
    Mqtt mqtt mqtt::Settings;
    #[cfg(feature = "page")]
    Page page page::Settings;
}
