//! Which sources a config can name: one closed list, so that nobody else has to know the kinds.
//!
//! A new source is one file with a `Settings` struct (`PATHS`, `check`, `gives`, `probe`, `open`), one line in the list below and its
//! table in `crate::config`.

#[cfg(feature = "camera")]
use super::camera;
#[cfg(feature = "mic")]
use super::mic;
use super::{Gives, Pool, Source, pipe, recorded::clip};
use anyhow::Result;

macro_rules! sources {
    ($($(#[$only:meta])* $kind:ident $key:ident $settings:ty;)+) => {
        /// One configured source.
        #[derive(Clone, Debug)]
        pub enum Settings {
            $($(#[$only])* $kind($settings),)+
        }

        impl Settings {
            /// Keys that are paths, by table.
            pub fn paths() -> Vec<(&'static str, &'static [&'static str])> {
                vec![$($(#[$only])* (stringify!($key), <$settings>::PATHS),)+]
            }

            /// The table of the config.
            pub fn name(&self) -> &'static str {
                match self { $($(#[$only])* Settings::$kind(_) => stringify!($key),)+ }
            }

            /// Refuses impossible values by name; touches no device.
            pub fn check(&self) -> Result<()> {
                match self { $($(#[$only])* Settings::$kind(settings) => settings.check(),)+ }
            }

            /// Modalities it sends; a clip is looked into for that.
            pub fn gives(&self) -> Result<Gives> {
                match self { $($(#[$only])* Settings::$kind(settings) => settings.gives(),)+ }
            }

            /// Refuses by name what is missing or cannot be used now.
            pub fn probe(&self) -> Result<()> {
                match self { $($(#[$only])* Settings::$kind(settings) => settings.probe(),)+ }
            }

            /// Opens it; for `privacy::Gate` alone. A device that is away is waited for.
            pub(crate) fn open(&self, pool: &Pool) -> Result<Box<dyn Source>> {
                match self { $($(#[$only])* Settings::$kind(settings) => settings.open(pool),)+ }
            }
        }
    };
}

sources! {
    #[cfg(feature = "camera")]
    Camera camera camera::Settings;
    #[cfg(feature = "mic")]
    Mic mic mic::Settings;
    Clip clip clip::Settings;
    Pipe pipe pipe::Settings;
}

impl Settings {
    /// Bytes of one picture: what the config says, or the first of a recording; 0 where there is none or only a writer knows.
    pub fn picture_bytes(&self) -> usize {
        match self {
            #[cfg(feature = "camera")]
            Settings::Camera(camera) => camera.width as usize * camera.height as usize * 3,
            Settings::Clip(clip) => clip.picture_bytes(),
            _ => 0,
        }
    }
}
