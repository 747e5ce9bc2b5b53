//! What a board draws, read from the sensors that its profile names.
//!
//! Units: watts. hwmon has `inN_input` in mV, `currN_input` in mA and `powerN_input` in microwatts (Linux,
//! Documentation/hwmon/sysfs-interface.rst).
//! Limits: of several channels one is read: the one whose label says that it is the board's input, else the first.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Labels of the rail that feeds all others: Jetson's carrier boards, and what others write.
const INPUTS: [&str; 3] = ["VDD_IN", "VIN", "SYS_5V0"];

/// One channel of a sensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meter {
    /// A file in microwatts.
    Power(PathBuf),
    /// Files in mA and mV.
    Current(PathBuf, PathBuf),
}

impl Meter {
    /// The meter among the files of a pattern, in which `*` stands for any part of a name; `None` where there is none.
    pub fn find(pattern: &str) -> Option<Meter> {
        let mut meters: Vec<(bool, PathBuf, Meter)> = matching(pattern)
            .into_iter()
            .filter_map(|file| {
                let (meter, label) = Meter::of(&file)?;
                meter.watts()?;
                Some((!label.is_some_and(|label| INPUTS.contains(&label.as_str())), file, meter))
            })
            .collect();
        meters.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        meters.into_iter().next().map(|(_, _, meter)| meter)
    }

    /// The channel that a file belongs to, and its label.
    fn of(file: &Path) -> Option<(Meter, Option<String>)> {
        let name = file.file_name()?.to_str()?.strip_suffix("_input")?;
        let beside = |name: String| file.with_file_name(name);
        let (meter, number) = match (name.strip_prefix("power"), name.strip_prefix("curr")) {
            (Some(number), _) => (Meter::Power(file.to_owned()), number),
            (_, Some(number)) => {
                (Meter::Current(file.to_owned(), beside(format!("in{number}_input"))), number)
            }
            _ => return None,
        };
        let label = |kind: &str| fs::read_to_string(beside(format!("{kind}{number}_label"))).ok();
        let label = label("in").or_else(|| label("curr")).or_else(|| label("power"));
        Some((meter, label.map(|label| label.trim().to_owned())))
    }

    /// What it reads now.
    pub fn watts(&self) -> Option<f32> {
        let number = |file: &Path| fs::read_to_string(file).ok()?.trim().parse::<f32>().ok();
        let watts = match self {
            Meter::Power(file) => number(file)? / 1e6,
            Meter::Current(current, voltage) => number(current)? * number(voltage)? / 1e6,
        };
        (watts.is_finite() && watts >= 0.0).then_some(watts)
    }
}

/// Paths that fit a pattern.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(if pattern.starts_with('/') { "/" } else { "." })];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = match part.contains('*') {
            false => found.into_iter().map(|path| path.join(part)).filter(|path| path.exists()).collect(),
            true => found.iter().flat_map(|path| listed(path, part)).collect(),
        };
    }
    found
}

fn listed(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| fits(&name.to_string_lossy(), pattern)))
        .collect()
}

fn fits(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && fits(&tail[at..], rest))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_of_a_jetson_is_found_among_its_rails() {
        let root = tempfile::tempdir().unwrap();
        let hwmon = root.path().join("ina3221/1-0040/hwmon/hwmon3");
        fs::create_dir_all(&hwmon).unwrap();
        for (name, text) in [
            ("in1_label", "VDD_CPU_GPU_CV\n"),
            ("in1_input", "4992\n"),
            ("curr1_input", "400\n"),
            ("in2_label", "VDD_IN\n"),
            ("in2_input", "5000\n"),
            ("curr2_input", "1480\n"),
            ("curr3_input", "7\n"),
            ("curr4_max", "9\n"),
        ] {
            fs::write(hwmon.join(name), text).unwrap();
        }
        let pattern = format!("{}/ina3221/*/hwmon/hwmon*/curr*_input", root.path().display());
        let meter = Meter::find(&pattern).unwrap();
        assert_eq!(meter, Meter::Current(hwmon.join("curr2_input"), hwmon.join("in2_input")));
        assert!((meter.watts().unwrap() - 7.4).abs() < 1e-4);
        fs::write(hwmon.join("curr2_input"), "broken").unwrap();
        assert_eq!(meter.watts(), None, "a sensor that fails says nothing");
        let others = Meter::find(&pattern).unwrap();
        assert_eq!(others, Meter::Current(hwmon.join("curr1_input"), hwmon.join("in1_input")));
        assert_eq!(Meter::find(&format!("{}/none/*/curr*_input", root.path().display())), None);
        assert_eq!(Meter::find(""), None);
        fs::write(hwmon.join("power1_input"), "2500000\n").unwrap();
        let meter = Meter::find(&format!("{}/power*_input", hwmon.display())).unwrap();
        assert!((meter.watts().unwrap() - 2.5).abs() < 1e-6);
    }

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        for (name, pattern, fit) in [
            ("curr1_input", "curr*_input", true),
            ("curr_input", "curr*_input", true),
            ("curr1_max", "curr*_input", false),
            ("hwmon3", "hwmon*", true),
            ("ab-c-d", "*-*-d", true),
            ("x", "*", true),
            ("hwmon", "hwmon3", false),
        ] {
            assert_eq!(fits(name, pattern), fit, "{name} {pattern}");
        }
    }
}
