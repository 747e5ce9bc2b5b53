//! What the firmware does with a packet, over any board's pins: the lamp is on while a label holds that is not `neutral`, the
//! buzzer sounds while the sender is not heard.
//!
//! Limits: nothing is allocated; one decoder of about 550 bytes.

use embedded_hal::digital::OutputPin;
use mien::wire::{Decoder, Hello, Kind, LABELS_MAX, Message, NO_LABEL, Packet};

/// Heartbeats that may be missed before the sender counts as gone.
const MISSED_MAX: u32 = 3;

/// What the lamp shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// No label holds, or one that asks for no light.
    Dark,
    /// A label holds: its index.
    Light(u8),
    /// The sender is not heard: dark, and the buzzer sounds.
    Alarm,
}

/// A lamp and a buzzer on the other end of the line.
pub struct Lamp<L, B> {
    lamp: L,
    buzzer: B,
    decoder: Decoder,
    /// Of the sender that was heard last.
    boot: Option<u64>,
    /// Labels that ask for light, a bit each; all but `neutral`.
    lit: u16,
    heartbeat_ms: u32,
    quiet_ms: u32,
    shown: Shown,
}

impl<L: OutputPin, B: OutputPin<Error = L::Error>> Lamp<L, B> {
    /// Dark, and quiet until the first hello.
    pub fn new(mut lamp: L, mut buzzer: B) -> Result<Self, L::Error> {
        lamp.set_low()?;
        buzzer.set_low()?;
        let shown = Shown::Dark;
        Ok(Lamp {
            lamp,
            buzzer,
            decoder: Decoder::new(),
            boot: None,
            lit: 0,
            heartbeat_ms: 0,
            quiet_ms: 0,
            shown,
        })
    }

    /// Takes one byte of the line, and says what is shown when that changes.
    pub fn feed(&mut self, byte: u8) -> Result<Option<Shown>, L::Error> {
        let wanted = match self.decoder.feed(byte) {
            None | Some(Err(_)) => return Ok(None),
            Some(Ok(packet)) => wanted(&packet, &mut self.boot, &mut self.lit, &mut self.heartbeat_ms),
        };
        self.quiet_ms = 0;
        match wanted {
            Some(shown) => self.show(shown),
            None => Ok(None),
        }
    }

    /// Time passed without a byte. A sender that is gone holds nothing.
    pub fn wait(&mut self, ms: u32) -> Result<Option<Shown>, L::Error> {
        self.quiet_ms = self.quiet_ms.saturating_add(ms);
        if self.boot.is_none() || self.quiet_ms < self.heartbeat_ms.saturating_mul(MISSED_MAX) {
            return Ok(None);
        }
        self.show(Shown::Alarm)
    }

    fn show(&mut self, shown: Shown) -> Result<Option<Shown>, L::Error> {
        if shown == self.shown {
            return Ok(None);
        }
        match shown {
            Shown::Dark | Shown::Alarm => self.lamp.set_low()?,
            Shown::Light(_) => self.lamp.set_high()?,
        }
        match shown {
            Shown::Alarm => self.buzzer.set_high()?,
            Shown::Dark | Shown::Light(_) => self.buzzer.set_low()?,
        }
        self.shown = shown;
        Ok(Some(shown))
    }
}

/// What a packet asks for; a hello of another boot ends whatever was begun.
fn wanted(
    packet: &Packet<'_>,
    boot: &mut Option<u64>,
    lit: &mut u16,
    heartbeat_ms: &mut u32,
) -> Option<Shown> {
    let light = |label: u8, lit: u16| {
        let known = usize::from(label) < LABELS_MAX && lit & (1 << label) != 0;
        if known { Shown::Light(label) } else { Shown::Dark }
    };
    match &packet.message {
        Message::Hello(hello) => {
            *lit = asking(hello);
            *heartbeat_ms = hello.heartbeat_ms;
            (boot.replace(hello.boot) != Some(hello.boot)).then_some(Shown::Dark)
        }
        // A heartbeat says what holds: a begin that was lost on the line is made good.
        Message::Heartbeat(beat) => {
            Some(if beat.label == NO_LABEL { Shown::Dark } else { light(beat.label, *lit) })
        }
        Message::Event(event) => match event.kind {
            Kind::Begin => Some(light(event.label, *lit)),
            Kind::End | Kind::Unknown => Some(Shown::Dark),
            Kind::Change | Kind::Other => None,
        },
        Message::Reason(_)
        | Message::Grounds(_)
        | Message::People(_)
        | Message::Faces(_)
        | Message::Second(_) => None,
    }
}

fn asking(hello: &Hello<'_>) -> u16 {
    let bits = hello.labels.iter().enumerate().filter(|(_, name)| **name != "neutral");
    bits.fold(0, |bits, (i, _)| bits | 1 << i)
}
