//! The system release of a Jetson (L4T), and what is known to be wrong with it.
//!
//! Read from `/etc/nv_tegra_release`, whose first line is like `# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, ..`.

use std::fmt;

const FILE: &str = "/etc/nv_tegra_release";

/// As `36.4.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release(u32, u32, u32);

/// Something that users of the GPU meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub what: &'static str,
    pub next: &'static str,
}

/// Faulty releases. This one came with the remedy of CVE-2025-33177.
const FAULTS: &[(Release, Fault)] = &[(
    Release(36, 4, 7),
    Fault {
        what: "refuses large pieces of GPU memory while enough is free (NvMapMemAllocInternalTagged, error 12)",
        next: "update to JetPack 6.2.2 or newer, or reboot and start mien before everything else",
    },
)];

impl Release {
    /// Of this machine; none where it is no Jetson.
    pub fn here() -> Option<Release> {
        Release::parse(&std::fs::read_to_string(FILE).ok()?)
    }

    fn parse(text: &str) -> Option<Release> {
        let line = text.lines().next()?;
        let major = line.strip_prefix("# R")?.split(' ').next()?;
        let mut revision = line.split("REVISION: ").nth(1)?.split(',').next()?.split('.');
        let mut next = || revision.next().unwrap_or("0").trim().parse().ok();
        Some(Release(major.parse().ok()?, next()?, next()?))
    }

    /// What is known to be wrong with it.
    pub fn fault(self) -> Option<Fault> {
        FAULTS.iter().find(|(release, _)| *release == self).map(|(_, fault)| *fault)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_a_faulty_one_is_known() {
        let of = |major: u32, revision: &str| {
            Release::parse(&format!(
                "# R{major} (release), REVISION: {revision}, GCID: 42132812, BOARD: generic, EABI: aarch64\n# KERNEL_VARIANT: oot\n"
            ))
            .unwrap()
        };
        assert_eq!(of(36, "4.7").to_string(), "36.4.7");
        assert!(of(36, "4.7").fault().unwrap().next.contains("6.2.2"));
        assert_eq!(of(36, "4.4").fault(), None);
        assert_eq!(of(36, "5.0").fault(), None);
        assert_eq!(of(39, "2").to_string(), "39.2.0");
        for text in [
            "",
            "R36",
            "# R36 (release)",
            "# Rx (release), REVISION: 4.7, GCID",
            "# R36 (release), REVISION: four,",
        ] {
            assert_eq!(Release::parse(text), None, "{text}");
        }
    }
}
