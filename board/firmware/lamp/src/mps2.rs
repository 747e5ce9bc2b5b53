//! Arm MPS2 with the AN386 image, Cortex-M4F: the registers that the example needs (Application Note AN386, sections 3 and 4).

use crate::register::{read, write};
use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};

const UART: usize = 0x4000_4000;
/// User LEDs, a bit each.
const LEDS: usize = 0x4002_8000;

/// The two user LEDs; a buzzer takes the place of the second.
pub const LAMP: Pin = Pin(0);
pub const BUZZER: Pin = Pin(1);

pub struct Pin(u32);

impl ErrorType for Pin {
    type Error = Infallible;
}

impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), Infallible> {
        write(LEDS, read(LEDS) & !(1 << self.0));
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        write(LEDS, read(LEDS) | 1 << self.0);
        Ok(())
    }
}

/// UART 0, 115200 baud from 25 MHz.
pub struct Line;

impl Line {
    pub fn open() -> Line {
        write(UART + 0x10, 217);
        write(UART + 0x8, 3);
        Line
    }

    /// A byte that came.
    pub fn read(&mut self) -> Option<u8> {
        (read(UART + 0x4) & 2 != 0).then(|| read(UART) as u8)
    }

    pub fn write(&mut self, byte: u8) {
        while read(UART + 0x4) & 1 != 0 {}
        write(UART, u32::from(byte));
    }
}
