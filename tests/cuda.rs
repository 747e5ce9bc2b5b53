//! The program on an emulated CUDA device (tests/cuda/emulator, put in front by tools/lane/cuda): a tiny model end to end, and
//! everything a driver may refuse.
#![cfg(feature = "cuda")]

mod recordings;
mod stages;

use cudarc::driver::{CudaContext, result};
use mien::{
    bundle::{
        Bundle, Kind,
        import::Towers,
        synthetic::{self, Preset},
    },
    model::{self, Cost, Decoding, Device, Input, Observer},
    source::Frame,
};
use serde_json::Value;
use stages::{
    Values,
    fixture::{self, Layout},
};
use std::{
    ffi::CStr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, OnceLock},
};

const CPU_ONLY: [(&str, &str); 1] = [("LD_LIBRARY_PATH", "")];

fn mien(settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mien"));
    command.args(arguments).envs(settings.iter().copied()).env_remove("RUST_LOG").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a clip and a tiny bundle of every kind.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("mien-cuda-{}", std::process::id()));
        let clip = root.join("clip");
        std::fs::create_dir_all(&clip).unwrap();
        for i in 0..8u32 {
            let picture = image::RgbImage::from_fn(64, 48, |x, y| {
                image::Rgb([(x * 4 + i * 9) as u8, (y * 5) as u8, ((x * y + i * 31) % 256) as u8])
            });
            picture.save(clip.join(format!("{i:04}.png"))).unwrap();
        }
        let sample = |i: i32| {
            let t = f64::from(i) / 16_000.0;
            (8000.0 * (2.0 * std::f64::consts::PI * (200.0 + 300.0 * t) * t).sin()) as i16
        };
        recordings::wav(clip.join("sound.wav"), (0..24_000).map(sample));
        for kind in ["f32", "q8_0"] {
            let path = root.join(format!("{kind}.gguf"));
            let packed = mien(
                &CPU_ONLY,
                &["pack", "--synthetic", "tiny", "--quant", kind, "-o", path.to_str().unwrap()],
            );
            assert!(packed.status.success(), "{}", said(&packed));
        }
        root
    })
}

fn infer(settings: &[(&str, &str)], kind: &str, backend: &str, more: &[&str]) -> Output {
    let (clip, bundle) = (folder().join("clip"), folder().join(format!("{kind}.gguf")));
    let arguments =
        ["infer", clip.to_str().unwrap(), "--bundle", bundle.to_str().unwrap(), "--backend", backend];
    mien(settings, &[&arguments[..], more].concat())
}

fn answer(kind: &str, backend: &str) -> Value {
    let output = infer(&[], kind, backend, &["--json", "--max-new-tokens", "32"]);
    assert!(output.status.success(), "{kind} on {backend}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Through the program, over the untrained bundle: label scores within `off` of those of the scalar reference. Its attention is made
/// sharp on purpose and its label scores are divided by a temperature of 0.4, so roundings come out large here: what bounds them stage by
/// stage is `near_the_reference`.
fn program_agrees(kind: &str, off: f64) {
    let (judge, cuda) = (answer(kind, "scalar"), answer(kind, "cuda"));
    let scores = |v: &Value| v["scores"]["probabilities"].as_object().unwrap().clone();
    for (label, p) in scores(&judge) {
        let (p, q) = (p.as_f64().unwrap(), scores(&cuda)[&label].as_f64().unwrap());
        assert!((p - q).abs() < off, "{kind}: {label} is {p} on the reference and {q} on CUDA");
    }
    assert!(cuda["reason"]["tokens"].as_u64().unwrap() > 0, "{cuda}");
    if kind == "f32" {
        assert_eq!(judge["reason"]["text"], cuda["reason"]["text"]);
    }
}

/// How far a value of a stage may be off, relative to the largest; `logits` are for what int8 rows have touched.
struct Limits {
    kind: Kind,
    stage: f64,
    logits: f64,
}

fn values_of(bundle: &Bundle, device: Device) -> Values {
    let mut model = model::load(bundle, device, 2).unwrap_or_else(|e| panic!("{e:#}"));
    stages::run(&mut *model, bundle.shape().frames, &fixture::clip(), 32)
}

/// Every stage of the fixture's checkpoint beside the scalar reference, and the same 32 greedy tokens. A product of f16 rounds both
/// sides once (2^-11); a quantised row of one token is int8 (half a step of max / 127 per value), so its logits have a bound of their own,
/// and answers may part where the reference's two highest logits are nearer to each other than that.
fn near_the_reference(Limits { kind, stage, logits }: Limits) {
    let bundle = fixture::bundle(Layout::Published, Towers::Auto, kind);
    let judge = stages::reference(&values_of(&bundle, Device::Scalar));
    let cuda = values_of(&bundle, Device::Cuda);
    let rows = stages::compare(&judge, &cuda);
    let table = stages::table(&rows);
    println!("{}\n{table}", kind.name());
    assert!(rows.len() > 20, "{table}");
    for row in rows {
        let limit = if row.stage.ends_with("logits") { logits } else { stage };
        assert!(
            row.largest.max(row.rms) < limit,
            "{}: {} is above {limit:.0e}\n{table}",
            kind.name(),
            row.stage
        );
    }
    let (same, of) = stages::same_tokens(&judge, &cuda);
    assert_eq!(of, 32);
    if same < of {
        let (steps, ours) = (&judge["step_logits"].values, &cuda["tokens"].values);
        let row = &steps[same * cuda["step_logits"].cols..][..cuda["step_logits"].cols];
        let largest = row.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
        let apart = f64::from(row[judge["tokens"].values[same] as usize] - row[ours[same] as usize]);
        println!(
            "{}: token {same} is another one: {apart:.2e} apart, the largest logit being {largest:.2}",
            kind.name()
        );
        let allowed = if matches!(kind, Kind::F32 | Kind::F16) { 0.0 } else { 2.0 * logits * largest };
        assert!(apart < allowed, "{}: token {same}, {apart} apart\n{table}", kind.name());
    }
}

#[test]
fn tiny_model_f32() {
    near_the_reference(Limits { kind: Kind::F32, stage: 1e-5, logits: 1e-5 });
    program_agrees("f32", 2e-4);
}

#[test]
fn tiny_model_f16() {
    near_the_reference(Limits { kind: Kind::F16, stage: 2e-3, logits: 2e-3 });
}

#[test]
fn tiny_model_q8_0() {
    near_the_reference(Limits { kind: Kind::Q8_0, stage: 2e-3, logits: 3e-2 });
    program_agrees("q8_0", 2e-2);
}

#[test]
fn tiny_model_q4_0() {
    near_the_reference(Limits { kind: Kind::Q4_0, stage: 2e-3, logits: 3e-2 });
}

/// Sharp attention and all: over every stage of the untrained bundle CUDA stays nearer to the reference than the CPU backend, whose
/// activations are int8 everywhere. Where tokens part, the reference's own logits must have been close.
#[test]
fn nearer_to_the_reference_than_the_cpu() {
    let bundle = synthetic::bundle(Preset::Tiny, 1, Kind::Q8_0).unwrap();
    let judge_values = values_of(&bundle, Device::Scalar);
    let judge = stages::reference(&judge_values);
    let (cpu, cuda) = (values_of(&bundle, Device::Cpu), values_of(&bundle, Device::Cuda));
    for (cpu, cuda) in stages::compare(&judge, &cpu).iter().zip(stages::compare(&judge, &cuda)) {
        if cuda.stage != "step_logits" {
            assert!(
                cuda.rms <= cpu.rms.max(1e-9),
                "{}: cuda {:.1e}, cpu {:.1e}",
                cuda.stage,
                cuda.rms,
                cpu.rms
            );
        }
    }
    let (same, of) = stages::same_tokens(&judge, &cuda);
    if same < of {
        let vocab = bundle.shape().vocab;
        let logits = |v: &Values| v["step_logits"].values[same * vocab..][..vocab].to_vec();
        let (ours, theirs) = (logits(&cuda), logits(&judge_values));
        let token = |v: &Values| v["tokens"].values[same] as usize;
        let margin = theirs[token(&judge_values)] - theirs[token(&cuda)];
        let largest = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = ours.iter().zip(&theirs).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        println!("token {same} of {of} differs: margin {margin:.3}, logits up to {largest:.2}, {off:.3} off");
        assert!(off < 0.06 * largest, "the logits of token {same} are {off} off, of {largest}");
    }
}

/// A function that only the emulated driver has.
fn of_the_emulated_driver(name: &CStr) -> *mut libc::c_void {
    // SAFETY: looks for a function of a library that is loaded already.
    let function =
        unsafe { libc::dlsym(libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW), name.as_ptr()) };
    assert!(!function.is_null(), "this is not the emulated driver");
    function
}

/// Launches, copies and waits that this thread has asked the emulated driver for.
fn counted() -> [i64; 3] {
    let function = of_the_emulated_driver(c"emulated_counts");
    // SAFETY: the function has this signature, and its three numbers are this thread's.
    unsafe { *std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> *const [i64; 3]>(function)() }
}

/// A stream that does not wait for another's event reads what is not there yet, where the driver is late: the emulated one shows that, so
/// that `MIEN_EMULATED_LATE` over the ops means something.
#[test]
fn a_late_driver_shows_a_missing_event() {
    let late = of_the_emulated_driver(c"emulated_late");
    // SAFETY: the function has this signature and sets a number of this thread.
    let late = unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn(i32)>(late) };
    let context = CudaContext::new(0).unwrap();
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let copied = |waits: bool| {
        let mut out = [0u8; 64];
        // SAFETY: the piece is as long as what is written and read, both streams are waited for before it is given back.
        unsafe {
            let piece = result::malloc_sync(out.len()).unwrap();
            result::memset_d8_async(piece, 7, out.len(), first.cu_stream()).unwrap();
            if waits {
                second.wait(&first.record_event(None).unwrap()).unwrap();
            }
            result::memcpy_dtoh_async(&mut out, piece, second.cu_stream()).unwrap();
            second.synchronize().unwrap();
            first.synchronize().unwrap();
            result::free_sync(piece).unwrap();
        }
        out
    };
    assert_eq!(copied(false), [7; 64], "what is put on a stream is done at once");
    late(1);
    assert_eq!(copied(false), [255; 64], "the copy came first");
    assert_eq!(copied(true), [7; 64]);
    late(0);
}

/// A stage, what it asked of the driver, and what it had to do at least.
type Spent = (&'static str, [i64; 3], Cost);

/// What every stage spent.
#[derive(Clone, Default)]
struct Budget(Arc<Mutex<Vec<Spent>>>);

impl Observer for Budget {
    fn begin(&mut self, stage: &'static str) {
        self.0.lock().unwrap().push((stage, counted(), Cost::default()));
    }
    fn end(&mut self, _: &'static str, cost: Cost) {
        let (now, mut stages) = (counted(), self.0.lock().unwrap());
        let (_, counts, own) = stages.last_mut().unwrap();
        *counts = [0, 1, 2].map(|i| now[i] - counts[i]);
        *own = cost;
    }
}

/// So many tokens, whatever they are.
fn exactly(tokens: usize) -> Decoding {
    Decoding {
        max_new_tokens: Some(tokens),
        repetition_guard: false,
        stop_at_end: false,
        ..Decoding::default()
    }
}

/// What one token costs whatever the device: bytes that must be read, launches, copies and waits. Launches are nodes of one graph.
#[test]
fn budget_of_a_token() {
    let bundle = synthetic::bundle(Preset::Tiny, 1, Kind::Q8_0).unwrap();
    let mut model = model::load(&bundle, Device::Cuda, 0).unwrap();
    let clip = fixture::clip();
    let frames: Vec<_> = clip.frames[..8].iter().enumerate().map(|(i, f)| (i as u64, f)).collect();
    let input = Input { frames: Some(&frames), samples: Some(&clip.samples), words: None };
    let budget = Budget::default();
    model.observe(Some(Box::new(budget.clone())));
    model.see("label", &input).unwrap();
    model.score("dfew").unwrap();
    println!(
        "a window of the tiny bundle\n{:10} {:>9} {:>7} {:>6} {:>9} {:>8}",
        "stage", "launches", "copies", "waits", "bytes", "MOP"
    );
    for (stage, [launches, copies, waits], cost) in budget.0.lock().unwrap().iter() {
        let mop = cost.operations as f64 / 1e6;
        println!("{stage:10} {launches:>9} {copies:>7} {waits:>6} {:>9} {mop:>8.1}", cost.bytes);
    }
    model.observe(None);
    let mut made = |tokens| {
        model.set_decoding(exactly(tokens)).unwrap();
        model.ask("reason").unwrap();
        let before = counted();
        assert_eq!(model.reason(&mut |_| {}).unwrap().tokens, tokens);
        [0, 1, 2].map(|i| (counted()[i] - before[i]) as f64)
    };
    // The first records the step.
    made(3);
    let (few, many) = (made(9), made(25));
    let per_token = [0, 1, 2].map(|i| (many[i] - few[i]) / 16.0);
    // Two layers of qkv with its norm, attention, quantise (heads of 16 cannot be quantised on the way), o, gate and up with their norm,
    // down; then embedding, head with its norm and the choice, in two. Token and position go in, the next token comes out; one wait.
    assert_eq!(per_token, [2.0 * 6.0 + 4.0, 2.0, 1.0], "launches, copies, waits per token");

    let shape = Preset::R1Omni05B.shape();
    let d = &shape.decoder;
    let kv = d.n_kv_heads * d.head_dim;
    let weights = d.layers * d.hidden * (2 * d.hidden + 2 * kv + 3 * d.ffn) + shape.vocab * d.hidden;
    for (kind, bits) in [("q8_0", 34 * 8), ("q4", 17 * 8)] {
        let weight_bytes = weights / 32 * bits / 8;
        let cache_bytes = 1100 * d.layers * 2 * kv * 2;
        let total = (weight_bytes + cache_bytes) as f64;
        println!(
            "R1-Omni 0.5B, {kind}, position 1100: {weight_bytes} bytes of weights and {cache_bytes} of cache per token, {} kernels in \
             one graph launch, 2 copies of 8 and 4 bytes, 1 wait; at 102 GB/s {:.2} ms, 70 % of it {:.2} ms",
            d.layers * 5 + 5,
            total / 102e6,
            total / 102e6 / 0.7
        );
    }
}

type Mark = extern "C" fn(*const libc::c_char);

/// Tells the emulated driver which stage begins.
struct Marks(Mark);

impl Observer for Marks {
    fn begin(&mut self, stage: &'static str) {
        (self.0)(std::ffi::CString::new(stage).unwrap().as_ptr());
    }
    fn end(&mut self, _: &'static str, _: Cost) {}
}

/// How a GPU is waited for is said to the driver before it makes the context, and nothing is said where the config leaves it to the driver.
#[test]
fn how_to_wait_is_said_to_the_driver() {
    let config = |wait: &str| {
        let text = format!(
            "[model]\nbundle = \"{}\"\nbackend = \"cuda\"\n{wait}\n[clip]\npath = \"{}\"\n[sink.stdout]\n[privacy]\npurpose = \"demonstration\"\n",
            folder().join("q8_0.gguf").display(),
            folder().join("clip").display()
        );
        let path = folder().join("wait.toml");
        std::fs::write(&path, text).unwrap();
        // Too little memory for the bundle: that is where it ends.
        let settings = [("MIEN_EMULATED_TELL", "1"), ("MIEN_EMULATED_MEMORY", "400000")];
        let output = mien(&settings, &["run", path.to_str().unwrap()]);
        assert!(said(&output).contains("no room on the device"), "{}", said(&output));
        said(&output).lines().find(|l| l.contains("context flags")).map(str::to_owned)
    };
    let told = |flags: u32| Some(format!("emulated driver: context flags {flags}"));
    assert_eq!(config("gpu_wait = \"spin\""), told(1));
    assert_eq!(config("gpu_wait = \"sleep\""), told(4));
    assert_eq!(config(""), None);
}

/// For `tools/kernels launches`: a window of the bundle MIEN_LAUNCHES_BUNDLE and three tokens, on a driver that writes launches down.
#[test]
#[ignore = "needs a bundle of R1-Omni's size: run by tools/kernels launches, which tools/test cuda calls"]
fn launches_of_a_window() {
    // SAFETY: the function has this signature.
    let mark: Mark = unsafe { std::mem::transmute(of_the_emulated_driver(c"emulated_mark")) };
    let path = std::env::var("MIEN_LAUNCHES_BUNDLE").unwrap();
    let bundle = Bundle::open(Path::new(&path)).unwrap();
    let mut model = model::load(&bundle, Device::Cuda, 0).unwrap();
    let context = match std::env::var("MIEN_LAUNCHES_CONTEXT").as_deref() {
        Ok("brief") => model::AudioContext::Brief,
        Ok("speech") => model::AudioContext::Speech,
        _ => model::AudioContext::Whole,
    };
    model.set_audio_context(context).unwrap();
    model.observe(Some(Box::new(Marks(mark))));
    let clip = fixture::clip();
    let frames: Vec<_> = clip.frames[..8].iter().enumerate().map(|(i, f)| (i as u64, f)).collect();
    // Four seconds of sound, of which as many are encoded as the context says.
    let samples: Vec<f32> = clip.samples.iter().copied().cycle().take(4 * 16_000).collect();
    let input = Input { frames: Some(&frames), samples: Some(&samples), words: None };
    model.see("label", &input).unwrap();
    model.score("dfew").unwrap();
    model.set_decoding(exactly(4)).unwrap();
    model.ask("reason").unwrap();
    model.reason(&mut |_| {}).unwrap();
}

/// The step is recorded for one cache: keys and values that lay aside come back to it.
#[test]
fn a_reason_goes_on_between_windows() {
    let bundle = synthetic::bundle(Preset::Tiny, 1, Kind::Q8_0).unwrap();
    let mut model = model::load(&bundle, Device::Cuda, 0).unwrap();
    let clip = fixture::clip();
    let frames: Vec<_> = clip.frames[..8].iter().enumerate().map(|(i, f)| (i as u64, f)).collect();
    let input = Input { frames: Some(&frames), samples: Some(&clip.samples), words: None };
    let other = Input { frames: None, samples: Some(&clip.samples), words: None };
    model.set_decoding(exactly(9)).unwrap();
    model.reason_between().unwrap();
    model.see("reason", &input).unwrap();
    let whole = model.reason(&mut |_| {}).unwrap();
    model.see("reason", &input).unwrap();
    let reason = stages::reason_between(model.as_mut(), |model| {
        model.see("label", &other).unwrap();
        model.score("dfew").unwrap();
    });
    assert_eq!(reason, whole);
}

/// Ends with 1 and says all of `words`.
#[track_caller]
fn refused(settings: &[(&str, &str)], words: &[&str]) {
    let output = infer(settings, "q8_0", "cuda", &["--mode", "label"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn no_driver() {
    refused(&CPU_ONLY, &["there is no CUDA driver on this machine"]);
}

#[test]
fn no_device() {
    refused(&[("MIEN_EMULATED_ARCH", "0")], &["the CUDA driver finds no device"]);
}

#[test]
fn driver_too_old() {
    let old = |driver, arch, words: &[&str]| {
        let words = [&["the CUDA driver is too old"], words].concat();
        refused(&[("MIEN_EMULATED_DRIVER", driver), ("MIEN_EMULATED_ARCH", arch)], &words);
    };
    old("11040", "87", &["CUDA 11.4", "CUDA 12.0 is needed"]);
    old("12020", "86", &["CUDA 12.2", "CUDA 12.5 is needed for the kernels compute_80"]);
    old("12060", "110", &["CUDA 12.6", "CUDA 13.0 is needed for the kernels sm_110"]);
}

#[test]
fn machine_code_loads_on_every_driver_of_its_major_version() {
    let output = infer(&[("MIEN_EMULATED_DRIVER", "12020")], "q8_0", "cuda", &["--mode", "label"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn wrong_architecture() {
    refused(&[("MIEN_EMULATED_ARCH", "61")], &["the device is sm_61", "sm_87", "compute_80"]);
}

#[test]
fn no_room_names_the_part_and_the_bytes() {
    refused(
        &[("MIEN_EMULATED_MEMORY", "4000000")],
        &["no room on the device for", "bytes", "of 4000000 bytes are free"],
    );
}

#[test]
fn a_lost_device_is_said_and_ends_the_program() {
    refused(&[("MIEN_EMULATED_LOST", "40")], &["the CUDA device was lost in", "CUDA_ERROR_LAUNCH_FAILED"]);
}

/// A second and a half of pictures without sound.
fn silent() -> Vec<Frame> {
    let picture =
        |i: u8| image::RgbImage::from_fn(32, 24, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8 + i, 90]));
    (0..15).map(|i| Frame { captured_ns: 0, height: 24, width: 32, rgb: picture(i * 5).into_raw() }).collect()
}

/// `mien run` over them, two windows faster than life; what it said, line by line.
fn daemon(settings: &[(&str, &str)]) -> (Output, Vec<String>) {
    let (root, clip) = (folder(), folder().join("silent"));
    if !clip.exists() {
        std::fs::create_dir_all(&clip).unwrap();
        for (i, f) in silent().into_iter().enumerate() {
            let picture = image::RgbImage::from_raw(f.width, f.height, f.rgb).unwrap();
            picture.save(clip.join(format!("{i:03}.png"))).unwrap();
        }
    }
    let config = root.join("daemon.toml");
    let _ = std::fs::remove_file(root.join("numbers.json"));
    let text = "device = \"bench\"\nstate_dir = \".\"\n[model]\nbundle = \"q8_0.gguf\"\nreason = \"off\"\n\
                [clip]\npath = \"silent\"\nframes_per_second = 10\n[window]\nwindow_ms = 1000\nhop_ms = 500\n\
                [privacy]\npurpose = \"research\"\n[policy]\nenter = 0.05\nexit = 0.01\ndwell_ms = 0\n\
                [daemon]\nheartbeat_ms = 500\n[sink.stdout]\nscores = true\n";
    std::fs::write(&config, text).unwrap();
    let output = mien(settings, &["run", "--fast", config.to_str().unwrap()]);
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    (output, lines)
}

/// What it said before the loss is what every run says; what held is ended; it exits with 1 and the reason; and the next run knows of
/// nothing.
#[test]
fn a_daemon_that_loses_its_device_ends_and_starts_again() {
    let bundle = Bundle::open(&folder().join("q8_0.gguf")).unwrap();
    let mut model = model::load(&bundle, Device::Cuda, 0).unwrap();
    let frames = silent();
    let window: Vec<_> = frames[..8].iter().enumerate().map(|(i, f)| (i as u64, f)).collect();
    let before = counted()[0];
    model.see("label", &Input { frames: Some(&window), samples: None, words: None }).unwrap();
    model.score("dfew").unwrap();
    let in_the_second = (counted()[0] - before + 20).to_string();

    let (whole, lines) = daemon(&[]);
    assert!(whole.status.success(), "{}", said(&whole));
    let events = |lines: &[String], kind: &str| {
        lines.iter().filter(|l| l.contains(&format!("\"event\":\"{kind}\""))).count()
    };
    assert!(events(&lines, "begin") > 0 && events(&lines, "begin") == events(&lines, "end"), "{lines:#?}");

    let (lost, some) = daemon(&[("MIEN_EMULATED_LOST", &in_the_second)]);
    assert_eq!(lost.status.code(), Some(1), "{}", said(&lost));
    assert!(said(&lost).contains("the CUDA device was lost in"), "{}", said(&lost));
    assert!(some.iter().any(|l| l.contains("\"type\":\"scores\"")), "the first window was scored: {some:#?}");
    assert!(events(&some, "begin") > 0 && events(&some, "begin") == events(&some, "end"), "{some:#?}");
    for line in &some {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        assert!(lines.contains(line) || line.contains("\"cause\":\"shutdown\""), "{line}");
    }

    let (again, third) = daemon(&[]);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(third, lines);
}

#[test]
fn every_kernel_is_in_the_image_of_every_architecture() {
    // Losing the device at once shows that it was opened and that all kernels were found in its image; 89 and 120 take the PTX.
    for arch in ["87", "89", "90", "110", "120"] {
        let driver = if arch == "110" { "13000" } else { "12060" };
        let lost =
            [("MIEN_EMULATED_ARCH", arch), ("MIEN_EMULATED_LOST", "0"), ("MIEN_EMULATED_DRIVER", driver)];
        refused(&lost, &["the CUDA device was lost in"]);
    }
}

#[test]
fn auto_falls_back_to_the_cpu_and_says_so() {
    let output = infer(&[("MIEN_EMULATED_ARCH", "0")], "q8_0", "auto", &["--mode", "label"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("backend=cpu") && text.contains("finds no device"), "{text}");
}
