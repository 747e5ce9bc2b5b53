//! WAV files as sound tracks: 8 to 32 bit integers and 32 bit floats, any rate, any number of channels.

use super::{
    clip::{Sound, Step},
    resample::Resampler,
};
use anyhow::{Context, Result, bail, ensure};
use hound::{SampleFormat, WavReader};
use std::{fs::File, io::BufReader, path::Path, time::Duration};

/// Frames read at a time.
const BLOCK: usize = 4_096;

pub struct Wav {
    name: String,
    reader: WavReader<BufReader<File>>,
    channels: usize,
    interleaved: Vec<f32>,
    resampler: Resampler,
    ended: bool,
}

impl Wav {
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let reader =
            WavReader::open(path).with_context(|| format!("{name} is not a WAV file that can be read"))?;
        let spec = reader.spec();
        let channels = usize::from(spec.channels);
        let known = match spec.sample_format {
            SampleFormat::Int => (8..=32).contains(&spec.bits_per_sample),
            SampleFormat::Float => spec.bits_per_sample == 32,
        };
        ensure!(known, "{name}: {} bit samples cannot be read", spec.bits_per_sample);
        let resampler = Resampler::new(spec.sample_rate, channels).with_context(|| name.clone())?;
        let interleaved = Vec::with_capacity(BLOCK * channels);
        Ok(Self { name, reader, channels, interleaved, resampler, ended: false })
    }

    fn fill(&mut self) -> Result<bool> {
        self.interleaved.clear();
        let wanted = BLOCK * self.channels;
        let spec = self.reader.spec();
        let scale = (-f32::from(spec.bits_per_sample - 1)).exp2();
        let mut cut = None;
        match spec.sample_format {
            SampleFormat::Float => {
                for sample in self.reader.samples::<f32>().take(wanted) {
                    match sample {
                        Ok(sample) => self.interleaved.push(sample),
                        Err(error) => cut = Some(error),
                    }
                    if cut.is_some() {
                        break;
                    }
                }
            }
            SampleFormat::Int => {
                for sample in self.reader.samples::<i32>().take(wanted) {
                    match sample {
                        Ok(sample) => self.interleaved.push(sample as f32 * scale),
                        Err(error) => cut = Some(error),
                    }
                    if cut.is_some() {
                        break;
                    }
                }
            }
        }
        let more = self.interleaved.len() == wanted && cut.is_none();
        match cut {
            Some(hound::Error::IoError(error)) if error.kind() == std::io::ErrorKind::Other => {
                log::warn!("sound={} ends early: the file is cut off", self.name);
            }
            Some(hound::Error::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                log::warn!("sound={} ends early: the file is cut off", self.name);
            }
            Some(error) => bail!("reading {}: {error}", self.name),
            None => {}
        }
        self.interleaved.truncate(self.interleaved.len() / self.channels * self.channels);
        Ok(more)
    }
}

impl Sound for Wav {
    fn next(&mut self, into: &mut Vec<f32>, _wait: Duration) -> Result<Step<()>> {
        if self.ended {
            return Ok(Step::End);
        }
        let more = self.fill()?;
        self.resampler.push(&self.interleaved, into);
        if !more {
            self.resampler.finish(into);
            self.ended = true;
        }
        Ok(Step::Next(()))
    }
}
