//! Firmware at the other end of the serial line: a lamp that is on while a label holds, a buzzer while nobody speaks.
//!
//! `lamp.rs` is the whole of it, over `embedded-hal`; `microbit.rs` and `mps2.rs` are the registers of two boards. What is shown is
//! also said on the line back, a text a change, so that an emulator can show it.
#![no_std]
#![no_main]

#[cfg(feature = "microbit")]
#[path = "microbit.rs"]
mod board;
#[cfg(not(feature = "microbit"))]
#[path = "mps2.rs"]
mod board;
mod lamp;
mod register;

use board::{BUZZER, LAMP, Line};
use core::panic::PanicInfo;
use cortex_m_rt::entry;
use lamp::{Lamp, Shown};

/// Loops without a byte that count as a millisecond; a product takes a timer.
const LOOPS_PER_MS: u32 = 2_000;

#[entry]
fn main() -> ! {
    let mut line = Line::open();
    let Ok(mut lamp) = Lamp::new(LAMP, BUZZER);
    let mut loops = 0;
    loop {
        let Ok(changed) = match line.read() {
            Some(byte) => {
                loops = 0;
                lamp.feed(byte)
            }
            None => {
                loops += 1;
                lamp.wait(u32::from(loops % LOOPS_PER_MS == 0))
            }
        };
        match changed {
            Some(Shown::Light(label)) => {
                say(&mut line, b"lamp on, label ");
                say(&mut line, &[b'0' + label / 10, b'0' + label % 10, b'\n']);
            }
            Some(Shown::Dark) => say(&mut line, b"lamp off\n"),
            Some(Shown::Alarm) => say(&mut line, b"nobody speaks\n"),
            None => {}
        }
    }
}

fn say(line: &mut Line, text: &[u8]) {
    text.iter().for_each(|&byte| line.write(byte));
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}
