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

    /// The oldest driver that can load it, as drivers number their versions. Machine code wants one of its compiler's major version:
    /// 13 for Thor, 12 for what was before (CUDA Compatibility guide, minor version compatibility). PTX wants one that knows its
    /// version, which it states: 8.N came with CUDA 12.N, 9.N with 13.N (PTX ISA, release notes).
    pub fn driver_min(&self) -> i32 {
        if self.binary {
            return if self.arch >= 110 { 13_000 } else { 12_000 };
        }
        let text = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(4_096)]);
        let stated = text.lines().find_map(|line| line.strip_prefix(".version "));
        let numbers = stated.and_then(|version| version.trim().split_once('.'));
        let (major, minor) =
            numbers.map_or((8, 5), |(major, minor)| (major.parse().unwrap_or(8), minor.parse().unwrap_or(5)));
        (major + 4) * 1_000 + minor * 10
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
    fn an_image_names_the_oldest_driver_that_can_load_it() {
        let min = |binary, arch, bytes| Image { binary, arch, bytes }.driver_min();
        assert_eq!(min(true, 87, b""), 12_000);
        assert_eq!(min(true, 110, b""), 13_000);
        assert_eq!(min(false, 80, b"//\n// Generated\n\n.version 8.5\n.target sm_80\n"), 12_050);
        assert_eq!(min(false, 100, b".version 9.0\n"), 13_000);
    }

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
