//! Whether somebody speaks, every 32 ms: a recurrent net that is given 512 new samples beside 64 of before (Silero VAD).
//!
//! Units: samples at 16 kHz in [-1, 1]; a probability from 0 to 1.

use super::{Net, Settings, Task, Wants};
use crate::source::sample_f32;
use anyhow::Result;
use zeroize::Zeroize;

/// New samples of a run.
const NEW: usize = 512;
/// Samples of before.
const BEFORE: usize = 64;
const STATE: [usize; 3] = [2, 1, 128];

/// A net that listens.
pub struct VoiceActivity {
    net: Net,
    sound: Vec<f32>,
    state: Vec<f32>,
}

impl VoiceActivity {
    pub fn load(settings: &Settings) -> Result<VoiceActivity> {
        let [said, state] = settings.outputs(Task::VoiceActivity);
        let wants = Wants {
            inputs: &[("input", &[1, BEFORE + NEW]), ("state", &STATE)],
            outputs: &[(said, 1), (state, STATE.iter().product())],
        };
        let net = Net::load(Task::VoiceActivity, settings, &wants)?;
        let mut sound = Vec::with_capacity(BEFORE + NEW);
        sound.resize(BEFORE, 0.0);
        Ok(VoiceActivity { net, sound, state: vec![0.0; STATE.iter().product()] })
    }

    /// Takes samples; `say` gets a probability for every 512 of them, with how many samples of `samples` it came after.
    pub fn push(&mut self, samples: &[i16], mut say: impl FnMut(f32, usize)) -> Result<()> {
        for (i, &sample) in samples.iter().enumerate() {
            self.sound.push(sample_f32(sample));
            if self.sound.len() < BEFORE + NEW {
                continue;
            }
            let Self { net, sound, state } = self;
            let mut next = [0.0; STATE[0] * STATE[1] * STATE[2]];
            let said = net.run(&[sound, state], |said| {
                next.copy_from_slice(said[1]);
                said[0][0]
            })?;
            state.copy_from_slice(&next);
            sound.copy_within(NEW.., 0);
            sound.truncate(BEFORE);
            say(said, i + 1);
        }
        Ok(())
    }

    /// Begins anew: what was heard is overwritten.
    pub fn forget(&mut self) {
        self.sound.zeroize();
        self.sound.resize(BEFORE, 0.0);
        self.state.fill(0.0);
    }
}
