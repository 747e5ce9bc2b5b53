//! One device among those that are there, by the name a config gives it. Pure.

use anyhow::{Error, anyhow};

/// Why a device is not to be had.
#[derive(Debug)]
pub enum Miss {
    /// Not there now; it may come.
    Away(Error),
    /// Trying again does not help.
    Refused(Error),
}

impl Miss {
    pub fn into_error(self) -> Error {
        match self {
            Miss::Away(error) | Miss::Refused(error) => error,
        }
    }
}

/// A device as people name it.
pub trait Named {
    /// `camera`, `microphone`.
    const KIND: &str;
    /// What tells two of them apart for sure.
    const BY: &str;

    fn goes_by(&self, name: &str) -> bool;
    fn describe(&self) -> String;
}

/// The one among `all` that goes by a name; with an empty name the only one.
pub fn choose<'a, D: Named>(all: &'a [D], name: &str) -> Result<&'a D, Miss> {
    let fitting: Vec<&D> = all.iter().filter(|device| name.is_empty() || device.goes_by(name)).collect();
    let list = |devices: &[&D]| devices.iter().map(|d| d.describe()).collect::<Vec<_>>().join("; ");
    match &fitting[..] {
        [only] => Ok(only),
        [] if name.is_empty() => {
            Err(Miss::Away(anyhow!("there is no {}; plug one in, or see `mien doctor`", D::KIND)))
        }
        [] => {
            let there = list(&all.iter().collect::<Vec<_>>());
            let there = if there.is_empty() { "none".to_owned() } else { there };
            Err(Miss::Away(anyhow!("no {} goes by \"{name}\"; there: {there}", D::KIND)))
        }
        several => {
            let what = match name {
                "" => "device is not set".to_owned(),
                name => format!("device = \"{name}\""),
            };
            Err(Miss::Refused(anyhow!(
                "{what}, and {} {}s fit: {}; name one of them by its {}",
                several.len(),
                D::KIND,
                list(several),
                D::BY
            )))
        }
    }
}
