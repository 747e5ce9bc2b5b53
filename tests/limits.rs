//! The limits that `check-config` prints are what a running daemon takes.

mod program;

use program::{Program, mien};
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Bytes of the row `name` of the table.
fn limit(table: &str, name: &str) -> f64 {
    let row = table.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with("  ")));
    let words: Vec<&str> =
        row.unwrap_or_else(|| panic!("no row `{name}` in\n{table}")).split_whitespace().collect();
    let [.., number, unit] = words[..] else { panic!("{words:?}") };
    let unit = ["B", "KiB", "MiB", "GiB"].iter().position(|name| *name == unit).unwrap();
    number.parse::<f64>().unwrap() * 1024f64.powi(unit as i32)
}

/// The sum that is printed for `bundle` on a PC, and what the daemon takes once it has scored windows; from the words of its log.
fn printed_and_taken(bundle: &Path, more: &str) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("site.toml");
    let text = format!(
        "[model]\nbundle = \"{}\"\nbackend = \"cpu\"\n[privacy]\npurpose = \"research\"\n\
         [clip]\npath = \"{ROOT}/models/demo/demo.avi\"\npaced = true\n[sink.stdout]\nscores = true\n{more}",
        bundle.display()
    );
    fs::write(&config, text).unwrap();
    let check = mien().args(["check-config", "--no-devices"]).arg(&config).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let table = String::from_utf8(check.stdout).unwrap();
    let (out, log) = (folder.path().join("events"), folder.path().join("log"));
    let child = mien()
        .arg("run")
        .arg(&config)
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&log).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = Program(child);
    let deadline = Instant::now() + Duration::from_secs(300);
    while fs::read_to_string(&out).unwrap().lines().filter(|line| line.contains("scores")).count() < 2 {
        assert!(Instant::now() < deadline, "no scores came:\n{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    let taken = daemon.status_bytes("VmRSS:") as f64;
    println!(
        "{}: printed {:.1} MiB, taken {:.1} MiB",
        bundle.display(),
        limit(&table, "sum") / MIB,
        taken / MIB
    );
    assert!(taken < limit(&table, "sum at most") * 1.1);
    (limit(&table, "sum"), taken)
}

const MIB: f64 = 1024.0 * 1024.0;

#[test]
fn the_sum_of_the_table_is_what_the_daemon_takes() {
    let (printed, taken) = printed_and_taken(&Path::new(ROOT).join("models/default.gguf"), "");
    assert!((printed / taken - 1.0).abs() <= 0.1, "printed {printed}, taken {taken}");
}
