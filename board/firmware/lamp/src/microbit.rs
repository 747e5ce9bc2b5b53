//! BBC micro:bit, nRF51822: the registers that the example needs (nRF51 Series Reference Manual 3.0, chapters 14 and 28).

use crate::register::{read, write};
use core::convert::Infallible;
use embedded_hal::digital::{ErrorType, OutputPin};

const UART: usize = 0x4000_2000;
const GPIO: usize = 0x5000_0000;

/// The lamp and the buzzer: column 1 of the LEDs, and the big pin 0.
pub const LAMP: Pin = Pin(4);
pub const BUZZER: Pin = Pin(3);

pub struct Pin(u32);

impl ErrorType for Pin {
    type Error = Infallible;
}

impl OutputPin for Pin {
    fn set_low(&mut self) -> Result<(), Infallible> {
        write(GPIO + 0x518, 1 << self.0);
        write(GPIO + 0x50c, 1 << self.0);
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        write(GPIO + 0x518, 1 << self.0);
        write(GPIO + 0x508, 1 << self.0);
        Ok(())
    }
}

/// The UART of the USB side, 115200 baud.
pub struct Line;

impl Line {
    pub fn open() -> Line {
        write(UART + 0x50c, 24);
        write(UART + 0x514, 25);
        write(UART + 0x524, 0x01d7_e000);
        write(UART + 0x500, 4);
        write(UART, 1);
        write(UART + 0x8, 1);
        Line
    }

    /// A byte that came.
    pub fn read(&mut self) -> Option<u8> {
        if read(UART + 0x108) == 0 {
            return None;
        }
        write(UART + 0x108, 0);
        Some(read(UART + 0x518) as u8)
    }

    pub fn write(&mut self, byte: u8) {
        write(UART + 0x11c, 0);
        write(UART + 0x51c, u32::from(byte));
        while read(UART + 0x11c) == 0 {}
    }
}
