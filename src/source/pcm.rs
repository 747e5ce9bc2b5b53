//! Sample formats, little endian, to f32 in [-1, 1).

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pcm {
    U8,
    I16,
    /// Three bytes.
    I24,
    /// Four bytes of which the low three count.
    I24In32,
    I32,
    F32,
    F64,
}

impl Pcm {
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I24In32 | Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Appends the samples; bytes that do not fill one are left out.
    pub fn read(self, bytes: &[u8], into: &mut Vec<f32>) {
        into.extend(bytes.chunks_exact(self.bytes()).map(|bytes| self.sample(bytes)));
    }

    fn sample(self, bytes: &[u8]) -> f32 {
        let i24 = |a, b, c| (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0;
        match (self, bytes) {
            (Self::U8, &[a]) => (f32::from(a) - 128.0) / 128.0,
            (Self::I16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (Self::I24, &[a, b, c]) | (Self::I24In32, &[a, b, c, _]) => i24(a, b, c),
            (Self::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            _ => unreachable!("{self:?} has {} bytes, not {}", self.bytes(), bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_at_its_ends() {
        let read = |pcm: Pcm, bytes: &[u8]| {
            let mut samples = Vec::new();
            pcm.read(bytes, &mut samples);
            samples
        };
        assert_eq!(read(Pcm::U8, &[0, 128, 255]), [-1.0, 0.0, 127.0 / 128.0]);
        assert_eq!(
            read(Pcm::I16, &[0, 0x80, 0xff, 0x7f, 1, 0, 9]),
            [-1.0, 32_767.0 / 32_768.0, 1.0 / 32_768.0]
        );
        assert_eq!(read(Pcm::I24, &[0, 0, 0x80, 0, 0, 0x40]), [-1.0, 0.5]);
        assert_eq!(read(Pcm::I24In32, &[0, 0, 0x80, 0, 0, 0, 0x40, 0x77]), [-1.0, 0.5]);
        assert_eq!(read(Pcm::I32, &[0, 0, 0, 0x80, 0, 0, 0, 0x40]), [-1.0, 0.5]);
        assert_eq!(read(Pcm::F32, &0.25_f32.to_le_bytes()), [0.25]);
    }
}
