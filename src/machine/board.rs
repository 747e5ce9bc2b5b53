//! What board this is and how it is doing: model, serial number, clocks, heat, power mode.
//!
//! Read from files of the kernel under a root, so that tests lay their own. What a machine does not say is `None` or empty.
//! Units: degrees Celsius, kHz.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A zone this hot slows the machine down soon: the first passive trip of Jetsons and of the Raspberry Pi lies at 80 to 99.
pub const HOT_C: f32 = 80.0;

/// Facts of a board.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Board {
    /// As the device tree names it.
    pub model: Option<String>,
    pub serial: Option<String>,
    /// Of the first core: governor, now, at most.
    pub clock: Option<Clock>,
    /// The hottest zone and its name.
    pub heat: Option<(String, f32)>,
    /// Cooling devices that hold the machine back now, with their state of how many.
    pub cooling: Vec<(String, u32, u32)>,
    /// Number of NVIDIA's power mode (`nvpmodel`).
    pub power_mode: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    pub governor: String,
    pub now_khz: u32,
    pub most_khz: u32,
    /// What the hardware can do: `most_khz` may be held below it.
    pub hardware_khz: u32,
}

impl Board {
    /// Of this machine.
    pub fn here() -> Board {
        Board::read(Path::new("/"))
    }

    pub fn read(root: &Path) -> Board {
        let tree = |name: &str| text(&root.join("proc/device-tree").join(name));
        Board {
            model: tree("model"),
            serial: tree("serial-number"),
            clock: clock(&root.join("sys/devices/system/cpu/cpu0/cpufreq")),
            heat: heat(&root.join("sys/class/thermal")),
            cooling: cooling(&root.join("sys/class/thermal")),
            power_mode: power_mode(&root.join("var/lib/nvpmodel/status")),
        }
    }
}

/// A file's text without ends of lines and zeros; `None` where there is none.
fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
        .filter(|text| !text.is_empty())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

fn clock(folder: &Path) -> Option<Clock> {
    Some(Clock {
        governor: text(&folder.join("scaling_governor"))?,
        now_khz: number(&folder.join("scaling_cur_freq"))?,
        most_khz: number(&folder.join("scaling_max_freq"))?,
        hardware_khz: number(&folder.join("cpuinfo_max_freq"))?,
    })
}

/// Folders of `folder` whose names begin so, in order.
fn those(folder: &Path, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    let mut found: Vec<PathBuf> = entries.filter(fits).collect();
    found.sort();
    found
}

/// Zones that are switched off say nothing that can be, such as -256 degrees.
fn heat(folder: &Path) -> Option<(String, f32)> {
    let zones = those(folder, "thermal_zone").into_iter().filter_map(|zone| {
        let celsius = number::<f32>(&zone.join("temp"))? / 1_000.0;
        let name = text(&zone.join("type")).unwrap_or_else(|| "a zone".into());
        (-40.0..200.0).contains(&celsius).then_some((name, celsius))
    });
    zones.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Fans cool and do not hold back.
fn cooling(folder: &Path) -> Vec<(String, u32, u32)> {
    let active = |device: PathBuf| {
        let kind = text(&device.join("type"))?;
        let (now, most) = (number(&device.join("cur_state"))?, number(&device.join("max_state"))?);
        (now > 0 && !kind.contains("fan")).then_some((kind, now, most))
    };
    those(folder, "cooling_device").into_iter().filter_map(active).collect()
}

/// The last mode that was set, as in `pmode:0002`.
fn power_mode(path: &Path) -> Option<u32> {
    text(path)?.lines().rev().find_map(|line| line.trim().strip_prefix("pmode:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_warm_jetson_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let zone = |i: u32, file: &str| format!("sys/class/thermal/thermal_zone{i}/{file}");
        let device = |i: u32, file: &str| format!("sys/class/thermal/cooling_device{i}/{file}");
        let cpu = |file: &str| format!("sys/devices/system/cpu/cpu0/cpufreq/{file}");
        let files = [
            ("proc/device-tree/model".to_owned(), "NVIDIA Jetson Orin Nano Developer Kit\0"),
            ("proc/device-tree/serial-number".to_owned(), "1421123456789\0"),
            (zone(0, "temp"), "61500\n"),
            (zone(0, "type"), "cpu-thermal\n"),
            (zone(1, "temp"), "-256000\n"),
            (zone(1, "type"), "cv0-thermal\n"),
            (zone(2, "temp"), "83250\n"),
            (zone(2, "type"), "gpu-thermal\n"),
            (device(0, "type"), "pwm-fan\n"),
            (device(0, "cur_state"), "3\n"),
            (device(0, "max_state"), "4\n"),
            (device(1, "type"), "cpufreq-cpu0\n"),
            (device(1, "cur_state"), "2\n"),
            (device(1, "max_state"), "24\n"),
            (cpu("scaling_governor"), "schedutil\n"),
            (cpu("scaling_cur_freq"), "729600\n"),
            (cpu("scaling_max_freq"), "1510400\n"),
            (cpu("cpuinfo_max_freq"), "1728000\n"),
            ("var/lib/nvpmodel/status".to_owned(), "pmode:0001\nfmode:quiet\n"),
        ];
        lay(root.path(), &files.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>());
        let board = Board::read(root.path());
        assert_eq!(board.model.as_deref(), Some("NVIDIA Jetson Orin Nano Developer Kit"));
        assert_eq!(board.serial.as_deref(), Some("1421123456789"));
        assert_eq!(board.heat, Some(("gpu-thermal".into(), 83.25)), "a zone that is off counts for nothing");
        assert_eq!(board.cooling, [("cpufreq-cpu0".into(), 2, 24)], "a fan holds nobody back");
        assert_eq!(board.power_mode, Some(1));
        let clock = board.clock.unwrap();
        assert_eq!((clock.now_khz, clock.most_khz, clock.hardware_khz), (729_600, 1_510_400, 1_728_000));
    }

    #[test]
    fn a_machine_that_says_nothing_is_no_board_and_nonsense_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Board::read(root.path()), Board::default());
        lay(
            root.path(),
            &[
                ("sys/class/thermal/thermal_zone0/temp", "warm\n"),
                ("sys/class/thermal/cooling_device0/type", "Processor\n"),
                ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
                ("var/lib/nvpmodel/status", "fmode:quiet\n"),
                ("proc/device-tree/model", "\0"),
            ],
        );
        assert_eq!(Board::read(root.path()), Board::default());
    }
}
