//! Bytes as they come to packets: finds its feet again at the next zero, and counts what it could not read.

use super::{
    message::{LINE_BYTES_MAX, Message, Packet},
    packet::{Error, decode},
};

/// What a receiver has seen. Every kind of trouble has its own count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    pub packets: u64,
    pub framing: u64,
    pub length: u64,
    pub crc: u64,
    pub version: u64,
    pub unknown: u64,
    pub payload: u64,
    /// Places where the sequence jumped.
    pub gaps: u64,
    /// Packets that are missing in those places.
    pub missed: u64,
}

impl PacketCounts {
    /// Stretches of bytes that were no packet.
    pub fn errors(&self) -> u64 {
        self.framing + self.length + self.crc + self.version + self.unknown + self.payload
    }
}

/// Feed it every byte of a line.
pub struct Decoder {
    frame: [u8; LINE_BYTES_MAX],
    len: usize,
    /// More bytes came without a zero than any packet has.
    overlong: bool,
    last_seq: Option<u16>,
    last_boot: Option<u64>,
    counts: PacketCounts,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl Decoder {
    pub const fn new() -> Decoder {
        Decoder {
            frame: [0; LINE_BYTES_MAX],
            len: 0,
            overlong: false,
            last_seq: None,
            last_boot: None,
            counts: PacketCounts {
                packets: 0,
                framing: 0,
                length: 0,
                crc: 0,
                version: 0,
                unknown: 0,
                payload: 0,
                gaps: 0,
                missed: 0,
            },
        }
    }

    pub fn counts(&self) -> PacketCounts {
        self.counts
    }

    /// Takes one byte. `None` until a packet, or what should have been one, is complete.
    pub fn feed(&mut self, byte: u8) -> Option<Result<Packet<'_>, Error>> {
        if byte != 0 {
            if self.len < self.frame.len() {
                self.frame[self.len] = byte;
                self.len += 1;
            } else {
                self.overlong = true;
            }
            return None;
        }
        let len = core::mem::take(&mut self.len);
        if core::mem::take(&mut self.overlong) {
            self.counts.length += 1;
            return Some(Err(Error::Length));
        }
        if len == 0 {
            return None;
        }
        let packet = match decode(&mut self.frame[..len]) {
            Ok(packet) => packet,
            Err(error) => {
                *match error {
                    Error::Framing => &mut self.counts.framing,
                    Error::Length | Error::Full => &mut self.counts.length,
                    Error::Crc => &mut self.counts.crc,
                    Error::Version => &mut self.counts.version,
                    Error::Unknown => &mut self.counts.unknown,
                    Error::Payload => &mut self.counts.payload,
                } += 1;
                return Some(Err(error));
            }
        };
        self.counts.packets += 1;
        let mut restarted = false;
        if let Message::Hello(hello) = &packet.message {
            let boot = self.last_boot.replace(hello.boot);
            restarted = packet.seq == 0 || boot.is_some_and(|boot| boot != hello.boot);
        }
        if let Some(last) = self.last_seq.replace(packet.seq)
            && !restarted
        {
            let skipped = packet.seq.wrapping_sub(last).wrapping_sub(1);
            if skipped != 0 {
                self.counts.gaps += 1;
                self.counts.missed += u64::from(skipped);
            }
        }
        Some(Ok(packet))
    }
}
