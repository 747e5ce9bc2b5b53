//! One packet to bytes and back.

use super::message::{Message, Packet, RAW_BYTES_MAX, SCHEMA_IDS, VERSION};
use crc::{CRC_32_ISO_HDLC, Crc};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const HEAD_BYTES: usize = 3;
const CRC_BYTES: usize = 4;

/// What is wrong with bytes. A receiver counts these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    /// Not COBS.
    Framing,
    /// Shorter than the smallest packet or longer than the largest.
    Length,
    /// The checksum disagrees: noise, or another schema.
    Crc,
    /// Another major version.
    Version,
    /// A kind that was appended after this receiver was built.
    Unknown,
    /// The checksum agrees and the fields do not: a sender with a bug.
    Payload,
    /// The caller's buffer is too small for the packet.
    Full,
}

/// Writes one packet with its delimiters and returns its length, at most [`super::LINE_BYTES_MAX`].
pub fn encode(message: &Message<'_>, seq: u16, out: &mut [u8]) -> Result<usize, Error> {
    let mut raw = [0u8; RAW_BYTES_MAX];
    raw[0] = VERSION;
    raw[1..HEAD_BYTES].copy_from_slice(&seq.to_le_bytes());
    let body_max = RAW_BYTES_MAX - CRC_BYTES;
    let body = postcard::to_slice(message, &mut raw[HEAD_BYTES..body_max]).map_err(|_| Error::Length)?.len();
    let schema = SCHEMA_IDS[usize::from(raw[HEAD_BYTES])];
    seal(&mut raw, HEAD_BYTES + body, schema, out)
}

/// Ends the packet whose first `end` bytes stand in `raw` with a checksum that begins with `schema`, and writes it with its
/// delimiters: for packets that `encode` does not make, such as those of another version.
pub fn seal(raw: &mut [u8], end: usize, schema: u32, out: &mut [u8]) -> Result<usize, Error> {
    let crc = checksum(schema, &raw[..end]);
    raw.get_mut(end..end + CRC_BYTES).ok_or(Error::Length)?.copy_from_slice(&crc.to_le_bytes());
    let raw = &raw[..end + CRC_BYTES];
    let room = out.len();
    if room < cobs::max_encoding_length(raw.len()) + 2 {
        return Err(Error::Full);
    }
    out[0] = 0;
    let coded = cobs::try_encode(raw, &mut out[1..room - 1]).map_err(|_| Error::Full)?;
    out[1 + coded] = 0;
    Ok(coded + 2)
}

/// Reads one packet from what stands between two zeros, in place.
pub fn decode(frame: &mut [u8]) -> Result<Packet<'_>, Error> {
    let len = cobs::decode_in_place(frame).map_err(|_| Error::Framing)?;
    let raw = &frame[..len];
    if !(HEAD_BYTES + 1 + CRC_BYTES..=RAW_BYTES_MAX).contains(&len) {
        return Err(Error::Length);
    }
    if raw[0] != VERSION {
        return Err(Error::Version);
    }
    let (data, crc) = raw.split_at(len - CRC_BYTES);
    let schema = *SCHEMA_IDS.get(usize::from(raw[HEAD_BYTES])).ok_or(Error::Unknown)?;
    if crc != checksum(schema, data).to_le_bytes() {
        return Err(Error::Crc);
    }
    let (message, rest) = postcard::take_from_bytes(&data[HEAD_BYTES..]).map_err(|_| Error::Payload)?;
    if !rest.is_empty() {
        return Err(Error::Payload);
    }
    Ok(Packet { seq: u16::from_le_bytes([raw[1], raw[2]]), message })
}

fn checksum(schema: u32, data: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&schema.to_le_bytes());
    digest.update(data);
    digest.finalize()
}
