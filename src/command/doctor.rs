//! `mien doctor`: say what this machine has, what is missing, and what to do about it.
//!
//! Each finding is `ok`, a `note` (absent, and not needed as far as is known) or a `problem`, with a next step where there is
//! one. With a config, what it needs and cannot have is a problem.

use super::Refused;
use crate::{
    backend::cpu::Level,
    bundle::{Bundle, Kind},
    config::{self, Config, OnLate},
    daemon,
    machine::{
        self,
        board::{Board, HOT_C},
        l4t::Release,
        power::Meter,
    },
    sink::serial,
    source::recorded::ffmpeg::{PROGRAMS, VERSION_MIN},
};
use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{Access, access};
use serde::Serialize;
use std::{
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Say what this machine has and what is missing.
///
/// Ends with 0 if the machine can be used, with the config where one is given.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Config file (TOML) whose bundle and devices are to be looked at too.
    config: Option<PathBuf>,
    /// Load the config's bundle too, score a window, and hold its time against the hop.
    #[arg(long, requires = "config")]
    bench: bool,
    /// Print one JSON array of findings.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Note,
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    about: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn ok(about: &'static str, found: impl Into<String>) -> Finding {
    Finding { about, state: State::Ok, found: found.into(), next: None }
}

fn note(about: &'static str, found: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { about, state: State::Note, found: found.into(), next: Some(next.into()) }
}

fn problem(about: &'static str, error: &anyhow::Error, next: impl Into<String>) -> Finding {
    Finding { about, state: State::Problem, found: format!("{error:#}"), next: Some(next.into()) }
}

pub fn run(args: Args) -> Result<()> {
    let mut findings = vec![cpu(), memory()];
    findings.extend(board(&Board::here()));
    findings.extend([cuda(), ffmpeg()]);
    findings.extend(Release::here().map(l4t));
    findings.extend(cameras());
    findings.extend(microphones());
    findings.extend(ttys());
    findings.extend(default_bundles());
    let mut refused = false;
    if let Some(path) = &args.config {
        findings.extend(configured(path, args.bench, &mut refused));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings).context("writing JSON")?);
    } else {
        print!("{}", table(&findings));
    }
    let problems = findings.iter().filter(|finding| finding.state == State::Problem).count();
    let what = args.config.as_deref().unwrap_or(Path::new("this machine")).display();
    if refused {
        return Err(anyhow!("see the problems above")).context(Refused(format!("{what} cannot be used")));
    }
    ensure!(
        problems == 0,
        "{what} cannot be used as it is: {problems} of {} findings are problems",
        findings.len()
    );
    Ok(())
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { about, state, found, next } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Note => "note",
            State::Problem => "PROBLEM",
        };
        text += &format!("{state:<9}{about:<9}{found}\n");
        if let Some(next) = next {
            text += &format!("{:<18}-> {next}\n", "");
        }
    }
    text
}

fn cpu() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let features = features();
    let features =
        if features.is_empty() { "no vector units that we use".into() } else { features.join(" ") };
    let found = format!("{}, {cores} cores: {features}", std::env::consts::ARCH);
    match Level::detect() {
        Ok(level) => {
            let (name, bound) = (level.name(), level.score_bound(Kind::Q8_0));
            ok(
                "cpu",
                format!("{found}; kernels {name}, scores of a q8_0 bundle within {bound} of the reference"),
            )
        }
        Err(error) => problem("cpu", &error, "unset MIEN_CPU"),
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let all = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    let all = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("fp16", is_aarch64_feature_detected!("fp16")),
        ("dotprod", is_aarch64_feature_detected!("dotprod")),
        ("i8mm", is_aarch64_feature_detected!("i8mm")),
    ];
    all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

fn memory() -> Finding {
    let Some(memory) = machine::memory() else {
        return note("memory", "not known", "mount /proc");
    };
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    ok("memory", format!("{:.1} GiB, of which {:.1} GiB can be had", gib(memory.total), gib(memory.free)))
}

/// What board it is, and what holds it back now.
fn board(board: &Board) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(model) = &board.model {
        let serial =
            board.serial.as_ref().map_or(String::new(), |serial| format!(", serial number {serial}"));
        findings.push(ok("board", format!("{model}{serial}")));
    }
    if let Some(mode) = board.power_mode {
        findings
            .push(ok("power", format!("mode {mode}; `nvpmodel -q` names it, `nvpmodel -m` sets another")));
    }
    if let Some(clock) = &board.clock {
        let ghz = |khz: u32| f64::from(khz) / 1e6;
        let (now, most) = (ghz(clock.now_khz), ghz(clock.most_khz));
        let found = format!("{now:.2} of {most:.2} GHz, governor {}", clock.governor);
        findings.push(match () {
            () if clock.governor == "powersave" => note(
                "clock",
                found,
                "the slowest clock is kept: echo schedutil, as root, into scaling_governor of each core",
            ),
            () if clock.most_khz < clock.hardware_khz => note(
                "clock",
                format!("{found}, held below the {:.2} GHz of the hardware", ghz(clock.hardware_khz)),
                "a power mode or a limit that somebody set; on a Jetson `nvpmodel -q` says which",
            ),
            () => ok("clock", found),
        });
    }
    if let Some((zone, celsius)) = &board.heat {
        let found = format!("{celsius:.0} degrees in {zone}, the hottest zone");
        findings.push(match *celsius >= HOT_C {
            true => note(
                "heat",
                found,
                "it slows down when it gets hotter: cool it, or take a longer window.hop_ms",
            ),
            false => ok("heat", found),
        });
    }
    let held: Vec<String> =
        board.cooling.iter().map(|(what, now, most)| format!("{what} by {now} of {most}")).collect();
    if !held.is_empty() {
        findings.push(note(
            "heat",
            format!("held back now: {}", held.join(", ")),
            "what is measured now is slower than a cool machine: cool it, and measure again",
        ));
    }
    findings
}

fn cuda() -> Finding {
    const DRIVER: &CStr = c"libcuda.so.1";
    // SAFETY: the name is a C string; the driver's library does nothing but register itself when it is loaded, and is left
    // loaded, so that no code of it is ever taken away.
    let library = unsafe { libc::dlopen(DRIVER.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
    if library.is_null() {
        return note("cuda", "no CUDA driver", "nothing to do: the CPU does the work");
    }
    ok("cuda", "there is a CUDA driver")
}

fn l4t(release: Release) -> Finding {
    match release.fault() {
        Some(fault) => note("l4t", format!("{release}, which {}", fault.what), fault.next),
        None => ok("l4t", release.to_string()),
    }
}

fn ffmpeg() -> Finding {
    const INSTALL: &str = "apt-get install ffmpeg";
    const WITHOUT: &str = "clips can be folders of images, WAV, and AVI with MJPEG and PCM";
    for program in [PROGRAMS.ffmpeg, PROGRAMS.ffprobe] {
        let said = Command::new(program).arg("-version").output();
        if !said.is_ok_and(|said| said.status.success()) {
            return note("ffmpeg", format!("{program} is not installed or does not run: {WITHOUT}"), INSTALL);
        }
    }
    match PROGRAMS.version() {
        Some(version) if version < VERSION_MIN => note(
            "ffmpeg",
            format!(
                "version {}.{} is older than {}.{}, the oldest that is tested",
                version.0, version.1, VERSION_MIN.0, VERSION_MIN.1
            ),
            "install a newer ffmpeg, or convert clips elsewhere",
        ),
        Some((major, minor)) => ok("ffmpeg", format!("version {major}.{minor}")),
        None => ok("ffmpeg", "a build without a version: taken for a new one"),
    }
}

#[cfg(feature = "camera")]
fn cameras() -> Vec<Finding> {
    use crate::source::camera::{choose_mode, describe_offers, list};
    let mut findings: Vec<Finding> = shut("camera", "/dev", "video", "video");
    for camera in list() {
        let names = camera.links.iter().map(|link| link.display().to_string());
        let names: Vec<String> = [camera.path.display().to_string()].into_iter().chain(names).collect();
        let serial = camera.serial.map_or(String::new(), |serial| format!(", serial {serial}"));
        let found = format!(
            "{}: \"{}\"{serial}, bus {}, offers {}",
            names.join(" = "),
            camera.card,
            camera.bus,
            describe_offers(&camera.offers)
        );
        findings.push(match choose_mode(&camera.offers, 640, 480, 30) {
            Some(_) => ok("camera", found),
            None => note("camera", found, "none of this can be used: YUYV, NV12, RGB3 or MJPG is needed"),
        });
    }
    if findings.is_empty() {
        findings.push(note("camera", "none", "plug one in, or feed pictures through a [pipe]"));
    }
    findings
}

#[cfg(not(feature = "camera"))]
fn cameras() -> Vec<Finding> {
    vec![note("camera", "built without cameras", "build with the feature `camera`")]
}

#[cfg(feature = "mic")]
fn microphones() -> Vec<Finding> {
    let mut findings: Vec<Finding> = shut("mic", "/dev/snd", "pcm", "audio");
    findings.extend(
        crate::source::mic::list().into_iter().map(|mic| {
            ok("mic", format!("{}: \"{}\" ({}), {}", mic.pcm, mic.card, mic.longname, mic.device))
        }),
    );
    if findings.is_empty() {
        findings.push(note(
            "mic",
            "no sound card that can record",
            "plug one in, or feed sound through a [pipe]",
        ));
    }
    findings
}

#[cfg(not(feature = "mic"))]
fn microphones() -> Vec<Finding> {
    vec![note("mic", "built without microphones", "build with the feature `mic`")]
}

/// Nodes that are there and may not be opened by this user.
#[cfg(any(feature = "camera", feature = "mic"))]
fn shut(about: &'static str, folder: &str, start: &str, group: &str) -> Vec<Finding> {
    let shut: Vec<String> = nodes(Path::new(folder), &[start])
        .into_iter()
        .filter(|path| access(path, Access::READ_OK | Access::WRITE_OK).is_err())
        .map(|path| path.display().to_string())
        .collect();
    match shut.is_empty() {
        true => Vec::new(),
        false => vec![note(
            about,
            format!("{} may not be opened by this user", shut.join(", ")),
            format!("usermod -aG {group} USER, and log in again"),
        )],
    }
}

fn nodes(folder: &Path, starts: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        starts.iter().any(|start| name.starts_with(start))
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(fits).collect();
    paths.sort();
    paths
}

fn ttys() -> Vec<Finding> {
    let mut paths = nodes(Path::new("/dev"), &["ttyUSB", "ttyACM", "ttyAMA", "ttyTHS"]);
    paths.extend(nodes(Path::new("/dev/serial/by-id"), &[""]));
    if paths.is_empty() {
        return vec![note("serial", "no serial port", "plug one in where events are to go over a wire")];
    }
    let look = |path: PathBuf| match access(&path, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => ok("serial", path.display().to_string()),
        Err(_) => note(
            "serial",
            format!("{} may not be opened by this user", path.display()),
            "usermod -aG dialout USER, and log in again",
        ),
    };
    paths.into_iter().map(look).collect()
}

/// The bundles that come with the project, where it is the current folder.
fn default_bundles() -> Vec<Finding> {
    let mut paths = nodes(Path::new("models"), &[""]);
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    if paths.is_empty() {
        return vec![note(
            "bundle",
            "none under models/ of this folder",
            "`mien pack CHECKPOINT_DIR -o r1-omni.gguf --quant q8_0` makes one",
        )];
    }
    paths.iter().map(|path| bundle(path)).collect()
}

fn bundle(path: &Path) -> Finding {
    let opened: Result<Bundle> =
        Bundle::open(path).with_context(|| format!("the bundle {} cannot be used", path.display()));
    match opened {
        Ok(bundle) => {
            let mib = bundle.file_bytes() as f64 / 1_048_576.0;
            ok("bundle", format!("{}: {}, {mib:.1} MiB", path.display(), bundle.header().name))
        }
        Err(error) => problem("bundle", &error, "`mien inspect` says more; `mien pack` makes a new one"),
    }
}

/// What a config needs.
fn configured(path: &Path, bench: bool, refused: &mut bool) -> Vec<Finding> {
    let config = match config::read(path) {
        Ok(config) => config,
        Err(error) => {
            *refused = true;
            return vec![problem("config", &error, "correct the file; `mien check-config` checks it again")];
        }
    };
    let mut findings = vec![ok("config", format!("{} can be read", path.display()))];
    let model = bundle(&config.model.bundle);
    *refused |= model.state == State::Problem;
    if model.state == State::Ok {
        findings.push(fits(&config));
        findings.extend(bench.then(|| keeps_up(&config)));
    }
    findings.push(model);
    findings.extend(needed(&config));
    findings
}

/// Whether what a run takes can be had.
fn fits(config: &Config) -> Finding {
    let compared = || {
        let bundle = Bundle::open(&config.model.bundle)?;
        let plan = daemon::prepare(config, &bundle, false)?;
        let limits = plan.limits(&daemon::memory(&plan, &bundle)?);
        machine::memory().map_or(Ok(()), |memory| limits.fit(memory.free))?;
        Ok(limits.sum)
    };
    match compared() {
        Ok(sum) => ok("run", format!("takes {}", daemon::size(sum))),
        Err(error) => problem("run", &error, "`mien check-config` prints what takes how much"),
    }
}

/// How long a window takes beside the hop, by one that is grey and silent.
fn keeps_up(config: &Config) -> Finding {
    let timed = || {
        let bundle = Bundle::open(&config.model.bundle)?;
        let mut plan = daemon::prepare(config, &bundle, false)?;
        let infer = plan.model.load(&bundle)?;
        drop(bundle);
        let mut infer = plan.told(infer)?;
        plan.model.apply(infer.as_mut())?;
        let took = daemon::rehearse(&plan, infer.as_mut(), false)?;
        let (took_ms, hop_ms) = (took.as_secs_f64() * 1e3, plan.window.hop_ms);
        plan.daemon.on_late = OnLate::Refuse;
        daemon::keep_up(&mut plan, took)?;
        Ok(format!(
            "a window takes {took_ms:.0} ms of a hop of {hop_ms}: real-time factor {:.2}",
            took_ms / f64::from(hop_ms)
        ))
    };
    match timed() {
        Ok(found) => ok("pace", found),
        Err(error) => problem("pace", &error, "`mien bench` says where the time goes"),
    }
}

fn needed(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !config.board.power.is_empty() {
        findings.push(match Meter::find(&config.board.power).and_then(|meter| meter.watts()) {
            Some(watts) => ok("power", format!("{watts:.1} W now")),
            None => note(
                "power",
                format!("no sensor at {}", config.board.power),
                "another board than the profile's? board.power names its files",
            ),
        });
    }
    for device in config.sources() {
        findings.push(match device.probe() {
            Ok(()) => ok("source", format!("[{}] can be opened", device.name())),
            Err(error) => problem(
                "source",
                &error.context(format!("[{}]", device.name())),
                "plug it in, or name what is there (see above)",
            ),
        });
    }
    if let Some(settings) = &config.sink.serial {
        let opened = serial::open(&settings.tty, settings.baud).map(drop).context("[sink.serial]");
        findings.push(match opened {
            Ok(()) => ok("sink", format!("[sink.serial] {} can be opened", settings.tty.display())),
            Err(error) => problem("sink", &error, "plug it in, or name what is there (see above)"),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::board::Clock;

    #[test]
    fn a_board_is_named_and_what_holds_it_back_is_noted() {
        let clock = |governor: &str, most_khz| Clock {
            governor: governor.into(),
            now_khz: 729_600,
            most_khz,
            hardware_khz: 1_728_000,
        };
        let warm = Board {
            model: Some("NVIDIA Jetson Orin Nano Developer Kit".into()),
            serial: Some("1421".into()),
            clock: Some(clock("schedutil", 1_510_400)),
            heat: Some(("gpu-thermal".into(), 83.25)),
            cooling: vec![("cpufreq-cpu0".into(), 2, 24)],
            power_mode: Some(1),
        };
        let text = table(&board(&warm));
        for part in [
            "ok       board    NVIDIA Jetson Orin Nano Developer Kit, serial number 1421\n",
            "ok       power    mode 1;",
            "note     clock    0.73 of 1.51 GHz, governor schedutil, held below the 1.73 GHz of the hardware\n",
            "note     heat     83 degrees in gpu-thermal, the hottest zone\n",
            "note     heat     held back now: cpufreq-cpu0 by 2 of 24\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let cool = Board {
            clock: Some(clock("performance", 1_728_000)),
            heat: Some(("cpu-thermal".into(), 41.0)),
            ..Board::default()
        };
        assert!(board(&cool).iter().all(|finding| finding.state == State::Ok), "{:?}", board(&cool));
        assert_eq!(board(&Board::default()), []);
        assert!(
            table(&board(&Board { clock: Some(clock("powersave", 1_728_000)), ..cool }))
                .contains("schedutil")
        );
    }

    #[test]
    fn findings_read_as_a_table_and_as_json() {
        let error = anyhow::anyhow!("no camera goes by \"x\"").context("[camera]");
        let findings =
            [ok("cpu", "2 cores"), note("cuda", "none", "nothing"), problem("source", &error, "plug it in")];
        let text = table(&findings);
        let want = "ok       cpu      2 cores\n\
                    note     cuda     none\n                  -> nothing\n\
                    PROBLEM  source   [camera]: no camera goes by \"x\"\n                  -> plug it in\n";
        assert_eq!(text, want);
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(json[0], serde_json::json!({"about": "cpu", "state": "ok", "found": "2 cores"}));
        assert_eq!(json[2]["state"], "problem");
    }
}
