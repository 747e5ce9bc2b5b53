//! A mute switch and a capture indicator, over `embedded-hal`: on a Linux board lines of its GPIO character device.

use anyhow::{Result, anyhow, ensure};
use embedded_hal::digital::{Error, InputPin, OutputPin};
use std::path::PathBuf;

/// Which level means on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    High,
    Low,
}

/// The table `[privacy.pins]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The GPIO chip, as `/dev/gpiochip0`.
    pub chip: PathBuf,
    /// Line of the mute switch, and the level at which devices are closed.
    pub mute: Option<u32>,
    pub mute_at: Level,
    /// Line of the indicator, and the level at which it shines.
    pub indicator: Option<u32>,
    pub indicator_at: Level,
}

impl Settings {
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.chip.as_os_str().is_empty(),
            "privacy.pins.chip is not set: name one, as /dev/gpiochip0"
        );
        ensure!(
            self.mute.is_some() || self.indicator.is_some(),
            "privacy.pins names no line: set mute, indicator, or both"
        );
        ensure!(self.mute != self.indicator, "privacy.pins: mute and indicator are the same line");
        Ok(())
    }

    /// Takes the lines for as long as the switches live.
    #[cfg(feature = "gpio")]
    pub fn open(&self) -> Result<Box<dyn Switches>> {
        use anyhow::Context;
        use gpiocdev_embedded_hal::{InputPin, OutputPin};
        let (chip, of) = (&self.chip, |line: u32| format!("line {line} of {}", self.chip.display()));
        let mute = match self.mute {
            Some(line) => Some((InputPin::new(chip, line).with_context(|| of(line))?, self.mute_at)),
            None => None,
        };
        let off = match self.indicator_at {
            Level::High => embedded_hal::digital::PinState::Low,
            Level::Low => embedded_hal::digital::PinState::High,
        };
        let indicator = match self.indicator {
            Some(line) => {
                Some((OutputPin::new(chip, line, off).with_context(|| of(line))?, self.indicator_at))
            }
            None => None,
        };
        Ok(Box::new(Pins { mute, indicator }))
    }

    #[cfg(not(feature = "gpio"))]
    pub fn open(&self) -> Result<Box<dyn Switches>> {
        anyhow::bail!("this program was built without GPIO: `--features gpio` adds it")
    }
}

/// What a gate asks of a board.
pub trait Switches: Send {
    /// Whether the switch says that devices are to be closed.
    fn mute(&mut self) -> Result<bool>;
    /// Makes the indicator say whether devices are open.
    fn show(&mut self, capturing: bool) -> Result<()>;
}

/// Pins of any board.
pub struct Pins<M, I> {
    pub mute: Option<(M, Level)>,
    pub indicator: Option<(I, Level)>,
}

impl<M: InputPin + Send, I: OutputPin + Send> Switches for Pins<M, I> {
    fn mute(&mut self) -> Result<bool> {
        let Some((pin, level)) = &mut self.mute else { return Ok(false) };
        let high = pin.is_high().map_err(|error| anyhow!("the mute pin: {:?}", error.kind()))?;
        Ok(high == (*level == Level::High))
    }

    fn show(&mut self, capturing: bool) -> Result<()> {
        let Some((pin, level)) = &mut self.indicator else { return Ok(()) };
        let done = if capturing == (*level == Level::High) { pin.set_high() } else { pin.set_low() };
        done.map_err(|error| anyhow!("the indicator pin: {:?}", error.kind()))
    }
}
