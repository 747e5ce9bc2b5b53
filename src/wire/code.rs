//! Small codes of the wire: one byte each, 0 is `Other`, and so is every value a receiver does not know.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $code:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "u8", into = "u8")]
        pub enum $name {
            /// Unknown to this receiver.
            #[default]
            Other,
            $($(#[$each])* $variant),+
        }
        impl $name {
            /// Every one that has a meaning.
            pub const ALL: &[$name] = &[$($name::$variant),+];
            /// The name used in text and JSON.
            pub fn name(self) -> &'static str {
                match self { $name::Other => "other", $($name::$variant => $text),+ }
            }
            pub fn from_name(name: &str) -> Option<$name> {
                match name { "other" => Some($name::Other), $($text => Some($name::$variant),)+ _ => None }
            }
        }
        impl From<u8> for $name {
            fn from(code: u8) -> $name {
                match code { $($code => $name::$variant,)+ _ => $name::Other }
            }
        }
        impl From<$name> for u8 {
            fn from(code: $name) -> u8 {
                match code { $name::Other => 0, $($name::$variant => $code),+ }
            }
        }
    };
}

codes! {
    /// What an event says.
    Kind {
        /// A label holds from now on.
        Begin = 1 "begin",
        /// It still holds, and its confidence moved.
        Change = 2 "change",
        /// It holds no longer; `cause` says why.
        End = 3 "end",
        /// Nothing is known from now on; `cause` says why.
        Unknown = 4 "unknown",
    }
}

codes! {
    /// Why something ended, or why nothing is known.
    Cause {
        /// No cause to give: `Begin` and `Change`.
        None = 1 "none",
        /// Its score fell below the exit threshold.
        Faded = 2 "faded",
        /// Another label took its place.
        Replaced = 3 "replaced",
        /// No label is likely enough.
        LowConfidence = 4 "low_confidence",
        NoVideo = 5 "no_video",
        NoAudio = 6 "no_audio",
        /// Neither picture nor sound.
        NoInput = 7 "no_input",
        /// Devices were closed on request.
        Muted = 8 "muted",
        /// The daemon stops.
        Shutdown = 9 "shutdown",
        /// The daemon that began it is gone; told by its successor.
        Restart = 10 "restart",
        /// The recording ended.
        InputEnd = 11 "input_end",
        /// The model failed on the window.
        ModelError = 12 "model_error",
        /// The gate saw and heard nobody.
        Nobody = 13 "nobody",
    }
}

codes! {
    /// How a source is.
    Health {
        /// Not part of this site.
        Off = 1 "off",
        Ok = 2 "ok",
        /// Open, and nothing comes.
        Stalled = 3 "stalled",
        /// Not there; opened again when it comes.
        Absent = 4 "absent",
        /// Closed on request.
        Muted = 5 "muted",
        /// A recording that was read to its end.
        Ended = 6 "ended",
    }
}
