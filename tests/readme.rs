//! The README: every command in it runs and prints what it shows, and its figures are those of the pages it names.
//!
//! A line that is `...` stands for any output. Commands run in a folder with the repository's `models`, `board` and a small random
//! checkpoint in the published layout, on the instruction set that every processor has.

mod stages;

use mien::wire::{self, Cause, Event, Kind};
use stages::fixture::{self, Layout};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// Contents of the fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let rest = text.split(&fence).skip(1);
    rest.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    for folder in ["models", "board"] {
        symlink(root().join(folder), site.path().join(folder)).unwrap();
    }
    fixture::write_checkpoint(&site.path().join("checkpoints"), Layout::Published);
    let [config] = &blocks(&readme(), "toml")[..] else { panic!("one config is shown") };
    fs::write(site.path().join("site.toml"), config).unwrap();
    site
}

/// Standard output of a command line; it must end well.
fn output(site: &Path, command: &str) -> String {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_mien"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let done = Command::new("bash")
        .args(["-c", &format!("set -e; {command}")])
        .current_dir(site)
        .env("PATH", path)
        .env("MIEN_CPU", "plain")
        .output()
        .unwrap();
    assert!(done.status.success(), "{command}\n{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn every_command_runs_and_prints_what_is_shown() {
    let site = site();
    let mut ran = 0;
    for block in blocks(&readme(), "console") {
        for part in block.split("$ ").skip(1) {
            let (command, shown) = part.split_once('\n').unwrap();
            let printed = output(site.path(), command);
            if shown != "...\n" {
                assert_eq!(printed, shown, "what the README shows for `{command}`");
            }
            ran += 1;
        }
    }
    assert!(ran >= 8, "{ran} commands ran");
}

/// The scripts of the first block are run by the checks themselves.
#[test]
fn the_first_two_commands_are_there() {
    let block = &blocks(&readme(), "sh")[0];
    let commands: Vec<&str> = block.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(commands, ["tools/demo", "tools/test"]);
    for command in commands {
        let said = Command::new(root().join(command)).arg("--help").output().unwrap();
        assert!(said.status.success() && !said.stdout.is_empty(), "{command} --help");
    }
}

#[test]
fn every_lane_has_its_line() {
    let told = fs::read_to_string(root().join("tests/README.md")).unwrap();
    for lane in fs::read_dir(root().join("tools/lane")).unwrap() {
        let lane = lane.unwrap().file_name().into_string().unwrap();
        assert!(told.contains(&format!("`{lane}`")), "tests/README.md does not tell of `tools/test {lane}`");
    }
}

#[test]
fn the_bytes_are_those_of_the_event() {
    let readme = readme();
    let line = readme.lines().find(|line| line.starts_with("{\"type\":\"event\"")).unwrap();
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    let number = |name: &str| json[name].as_u64().unwrap();
    assert_eq!((json["event"].as_str(), json["label"].as_str()), (Some("begin"), Some("neutral")));
    assert_eq!(json["present"], serde_json::json!(["video", "audio"]));
    let event = Event {
        seq: number("seq") as u32,
        episode: number("episode") as u32,
        kind: Kind::Begin,
        label: 2,
        confidence_permille: (json["confidence"].as_f64().unwrap() * 1000.0).round() as u16,
        track: number("track") as u16,
        expected: wire::VIDEO | wire::AUDIO,
        present: wire::VIDEO | wire::AUDIO,
        cause: Cause::None,
        at_ms: number("at_ms"),
        begin_ms: number("begin_ms"),
        window_ms: number("window_ms") as u32,
        wall_ms: 0,
        wall_synced: 0,
        age_ms: number("age_ms") as u32,
    };
    let mut bytes = [0; wire::LINE_BYTES_MAX];
    // The hello came before it.
    let len = wire::encode(&wire::Message::Event(event), 1, &mut bytes).unwrap();
    let hex: Vec<String> = bytes[..len].iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = blocks(&readme, "text")[0].split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(hex, shown, "{}", hex.join(" "));
    assert!(readme.contains(&format!("The same as {len} bytes")), "{len} bytes");
}

#[test]
fn figures_are_those_of_the_page_of_speed() {
    let speed = fs::read_to_string(root().join("tools/bench/README.md")).unwrap();
    let readme = readme();
    let facts: Vec<&str> = readme.lines().filter(|line| line.starts_with("| ")).take(5).collect();
    let mut compared = 0;
    for figure in facts[1..].iter().flat_map(|row| row.split(['|', ',', ';', ':'])).flat_map(figures) {
        assert!(speed.contains(&figure), "{figure} is not in tools/bench/README.md");
        compared += 1;
    }
    assert!(compared >= 5, "{compared} figures in\n{}", facts.join("\n"));
}

/// Reports of a GPU are kept as they were written, and say nothing of where things lay on that machine.
#[test]
fn reports_of_a_gpu_name_no_folder_of_their_machine() {
    for file in fs::read_dir(root().join("tests/gpu")).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for top in ["/tmp/", "/usr/", "/root/", "/home/", "/opt/", "/mnt/", "/var/"] {
            assert!(!text.contains(top), "{} names {top}", path.display());
        }
    }
}

/// What the page of bundles says of the self-test is what the program does.
#[test]
fn the_tolerance_of_the_self_test_is_the_programs() {
    let page = fs::read_to_string(root().join("models/README.md")).unwrap();
    assert!(page.contains(&format!("differs by more than {}", mien::model::self_test::TOLERANCE)));
}

#[test]
fn figures_of_the_gpu_are_those_of_its_report() {
    let page = fs::read_to_string(root().join("kernels/README.md")).unwrap();
    let report = fs::read_to_string(root().join("tests/gpu/nvidia-h200.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    for (name, kind) in [("Q8_0", "q8_0"), ("Q4_0", "q4_0")] {
        let bench = &report["steps"][format!("bench r1-omni-0.5b {kind}")]["bench"];
        let ms = |stage: &str| {
            let all = bench["window"].as_array().unwrap();
            all.iter().find(|row| row["stage"] == stage).unwrap()["median_ms"].as_f64().unwrap()
        };
        let token = ms("decode") / 150.0;
        let [see, hear, prompt, score] = ["vision", "audio", "prefill", "score"].map(ms);
        let all = bench["window_ms"].as_f64().unwrap();
        let row = format!(
            "| {name} | {see:.1} | {hear:.1} | {prompt:.1} | {score:.1} | {token:.2} | {all:.0} | {:.0} |",
            1e3 / token
        );
        assert!(page.contains(&row), "kernels/README.md lacks\n{row}");
    }
    let stages = report["steps"]["stages full f16"]["stages"].as_object().unwrap();
    let worst = stages.values().map(|errors| errors[1].as_f64().unwrap()).fold(0.0, f64::max);
    assert!(page.contains(&format!("{worst:.1e} rms")), "{worst:.1e}");
}

/// Numbers with `MB` or `s` behind them.
fn figures(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_figure = |pair: &&[&str]| pair[0].parse::<f64>().is_ok() && ["MB", "s"].contains(&pair[1]);
    let found = words.windows(2).filter(is_figure).map(|pair| pair.join(" "));
    // The length of a window is no measurement.
    found.filter(|figure| figure != "4 s").collect()
}

#[test]
fn the_readme_is_short_and_every_file_it_names_is_there() {
    let pages = ["README.md", "board/README.md", "models/README.md", "tests/README.md", "kernels/README.md"];
    let more = [
        "board/observe/README.md",
        "board/fleet/README.md",
        "tools/bench/README.md",
        "tools/eval/README.md",
        "tools/train/README.md",
    ];
    assert!(readme().lines().count() <= 200, "{} lines", readme().lines().count());
    for page in pages.into_iter().chain(more) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let folder = root().join(page).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            assert!(folder.join(link).exists(), "{page} links to {link}");
        }
        let named = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
        let rooms = ["src/", "tests/", "tools/", "board/", "models/", "kernels/"];
        for name in named.filter(|name| rooms.iter().any(|room| name.starts_with(room))) {
            let made = ["tests/gpu/DEVICE.json"].contains(&name) || name.contains(['*', '<']);
            assert!(made || root().join(name).exists(), "{page} names {name}");
        }
    }
}
