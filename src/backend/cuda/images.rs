//! The compiled kernels that travel in the program, and which of them a device can run.

use anyhow::{Result, bail};

/// All kernels for one architecture.
pub struct Image {
    /// Machine code for exactly `arch`; otherwise PTX, which the driver compiles for `arch` and everything newer.
    pub binary: bool,
    /// Compute capability times ten.
    pub arch: i32,
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

impl Image {
    pub fn name(&self) -> String {
        format!("{}_{}", if self.binary { "sm" } else { "compute" }, self.arch)
    }
}

/// Machine code for the device, else the newest PTX that it understands.
pub fn choose(images: &'static [Image], arch: i32) -> Result<&'static Image> {
    let exact = images.iter().find(|i| i.binary && i.arch == arch);
    let portable = || images.iter().filter(|i| !i.binary && i.arch <= arch).max_by_key(|i| i.arch);
    match exact.or_else(portable) {
        Some(image) => Ok(image),
        None => {
            let names: Vec<String> = images.iter().map(Image::name).collect();
            bail!("the device is sm_{arch}, and this program has kernels for {} only", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SOME: [Image; 4] = [
        Image { binary: true, arch: 86, bytes: b"" },
        Image { binary: true, arch: 87, bytes: b"" },
        Image { binary: false, arch: 80, bytes: b"" },
        Image { binary: false, arch: 90, bytes: b"" },
    ];

    #[test]
    fn machine_code_first_then_the_newest_ptx_that_fits() {
        for (arch, name) in
            [(86, "sm_86"), (87, "sm_87"), (80, "compute_80"), (89, "compute_80"), (120, "compute_90")]
        {
            assert_eq!(choose(&SOME, arch).unwrap().name(), name);
        }
        let error = choose(&SOME, 75).err().unwrap().to_string();
        assert!(error.contains("sm_75") && error.contains("sm_86, sm_87"), "{error}");
    }
}
