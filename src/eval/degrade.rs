//! Clips made worse: other light, lenses and sizes, other voices, rooms and microphones, or one modality alone. What a calibration
//! sees of places that it has no clips of.
//!
//! Every clip is changed by draws of its own, the same in every run.

use crate::source::Frame;

/// What is done to a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degrade {
    pub name: &'static str,
    /// What is changed.
    parts: u8,
    /// Which modalities are left.
    pub pictures: bool,
    pub sound: bool,
}

const LIGHT: u8 = 1;
const SIZE: u8 = 2;
const VOICE: u8 = 4;
const ROOM: u8 = 8;

const fn worse(name: &'static str, parts: u8) -> Degrade {
    Degrade { name, parts, pictures: true, sound: true }
}

/// What clips are made into, from mild to bad.
pub const ALL: [Degrade; 9] = [
    worse("light", LIGHT),
    worse("size", SIZE),
    worse("voice", VOICE),
    worse("room", ROOM),
    worse("light and voice", LIGHT | VOICE),
    worse("size and room", SIZE | ROOM),
    worse("all of it", LIGHT | SIZE | VOICE | ROOM),
    Degrade { sound: false, ..worse("pictures alone", 0) },
    Degrade { pictures: false, ..worse("sound alone", 0) },
];

/// Draws from 0 to 1, by xorshift.
struct Dice(u64);

impl Dice {
    /// Of a clip's name (FNV-1a), and of what is drawn for.
    fn new(clip: &str, what: u64) -> Dice {
        let hash = clip.bytes().fold(0xcbf2_9ce4_8422_2325 ^ what, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Dice(hash.max(1))
    }

    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.next()
    }
}

impl Degrade {
    fn changes(&self, part: u8) -> bool {
        self.parts & part != 0
    }

    /// Changes the pictures of a clip, all in the same way.
    pub fn change_pictures<'a>(&self, clip: &str, frames: impl Iterator<Item = &'a mut Frame>) {
        let mut dice = Dice::new(clip, 1);
        let zoom = dice.between(0.8, 1.25);
        let gain = dice.between(0.5, 1.5);
        let tint = [(); 3].map(|()| dice.between(0.8, 1.2));
        let grain = dice.between(0.0, 25.0);
        for frame in frames {
            if self.changes(SIZE) {
                zoomed(frame, zoom);
            }
            if self.changes(LIGHT) {
                for (i, byte) in frame.rgb.iter_mut().enumerate() {
                    let grey = grain * (dice.next() + dice.next() - 1.0);
                    *byte = (f32::from(*byte) * gain * tint[i % 3] + grey).clamp(0.0, 255.0) as u8;
                }
            }
        }
    }

    /// Changes the sound of a clip; it may become longer or shorter.
    pub fn change_sound(&self, clip: &str, samples: &mut Vec<f32>) {
        let mut dice = Dice::new(clip, 2);
        let rate = if dice.next() < 0.5 { dice.between(0.86, 0.94) } else { dice.between(1.06, 1.15) };
        let (level, noise) = (dice.between(0.3, 1.3), dice.between(0.0, 0.02));
        let dull = dice.between(0.3, 1.0);
        if self.changes(VOICE) {
            let between = |at: f32| {
                let (i, share) = (at as usize, at.fract());
                let sample = |i: usize| samples.get(i).copied().unwrap_or(0.0);
                sample(i) * (1.0 - share) + sample(i + 1) * share
            };
            *samples =
                (0..(samples.len() as f32 / rate) as usize).map(|i| between(i as f32 * rate)).collect();
        }
        if self.changes(ROOM) {
            let mut low = 0.0;
            for sample in samples {
                low += dull * (*sample - low);
                *sample = (level * low + noise * (dice.next() + dice.next() - 1.0)).clamp(-1.0, 1.0);
            }
        }
    }
}

/// A picture of the same size, `zoom` times as large about its middle; its edge goes on outside.
fn zoomed(frame: &mut Frame, zoom: f32) {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let from = |at: usize, whole: usize| {
        let middle = whole as f32 / 2.0;
        ((at as f32 - middle) / zoom + middle).clamp(0.0, whole as f32 - 1.0) as usize
    };
    let old = frame.rgb.clone();
    for (y, row) in frame.rgb.chunks_exact_mut(width * 3).enumerate() {
        let source = &old[from(y, height) * width * 3..][..width * 3];
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&source[from(x, width) * 3..][..3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let rgb = (0..24 * 16).flat_map(|i| [(i % 24 * 10) as u8, (i / 24 * 15) as u8, 90]).collect();
        Frame { captured_ns: 0, width: 24, height: 16, rgb }
    }

    #[test]
    fn each_changes_what_it_names_and_nothing_else() {
        let sound: Vec<f32> = (0..4_000).map(|i| (i as f32 / 20.0).sin() * 0.5).collect();
        for (i, degrade) in ALL.iter().enumerate() {
            let (mut seen, mut heard) = (frame(), sound.clone());
            degrade.change_pictures("three", [&mut seen].into_iter());
            degrade.change_sound("three", &mut heard);
            assert_eq!(seen != frame(), degrade.changes(LIGHT | SIZE), "{}", degrade.name);
            assert_eq!(heard != sound, degrade.changes(VOICE | ROOM), "{}", degrade.name);
            assert_eq!(heard.len() != sound.len(), degrade.changes(VOICE), "{}", degrade.name);
            assert!(heard.iter().all(|s| s.abs() <= 1.0) && seen.rgb.len() == frame().rgb.len());
            let (mut again, mut other) = (frame(), frame());
            degrade.change_pictures("three", [&mut again].into_iter());
            degrade.change_pictures("four", [&mut other].into_iter());
            assert!(again == seen && (i > 1 || other != seen), "{}", degrade.name);
        }
        (ALL.iter().map(|degrade| degrade.name)).for_each(|name| assert!(name.len() < 20));
    }
}
