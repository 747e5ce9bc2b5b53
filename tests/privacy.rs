//! The one gate in front of every device: consent, mute switch, capture indicator, and what is left of media afterwards.

use mien::{
    privacy::{
        self, Consent, Gate, Settings, Switches, check,
        pins::{Level, Pins},
    },
    source::{self, Chunk, Frame, Gives, Pool, Reading, clip},
    window::{self, Windows},
};
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// A board of two pins.
#[derive(Clone, Default)]
struct Board {
    switch: Arc<AtomicBool>,
    lamp: Arc<Mutex<Vec<bool>>>,
    broken: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Broken;

impl embedded_hal::digital::Error for Broken {
    fn kind(&self) -> embedded_hal::digital::ErrorKind {
        embedded_hal::digital::ErrorKind::Other
    }
}

impl embedded_hal::digital::ErrorType for Board {
    type Error = Broken;
}

impl Board {
    fn works(&self) -> Result<(), Broken> {
        if self.broken.load(Ordering::Relaxed) { Err(Broken) } else { Ok(()) }
    }

    fn lit(&self) -> bool {
        *self.lamp.lock().unwrap().last().unwrap()
    }

    fn switches(&self, level: Level) -> Box<dyn Switches> {
        Box::new(Pins { mute: Some((self.clone(), level)), indicator: Some((self.clone(), level)) })
    }
}

impl embedded_hal::digital::InputPin for Board {
    fn is_high(&mut self) -> Result<bool, Broken> {
        self.works().map(|()| self.switch.load(Ordering::Relaxed))
    }
    fn is_low(&mut self) -> Result<bool, Broken> {
        self.is_high().map(|high| !high)
    }
}

impl embedded_hal::digital::OutputPin for Board {
    fn set_low(&mut self) -> Result<(), Broken> {
        self.works().map(|()| self.lamp.lock().unwrap().push(false))
    }
    fn set_high(&mut self) -> Result<(), Broken> {
        self.works().map(|()| self.lamp.lock().unwrap().push(true))
    }
}

fn settings(purpose: &str) -> Settings {
    Settings { purpose: purpose.into(), ..Settings::default() }
}

fn device() -> source::Settings {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/demo.avi");
    source::Settings::Clip(clip::Settings { path, paced: false, frames_per_second: 25 })
}

fn gate(settings: &Settings, board: &Board, level: Level) -> Arc<Gate> {
    Arc::new(Gate::with(settings, true, Path::new(""), Some(board.switches(level))).unwrap())
}

#[test]
fn the_indicator_shines_from_before_the_first_device_opens_until_the_last_is_closed() {
    let (board, pool) = (Board::default(), Pool::default());
    let gate = gate(&settings("museum-guide"), &board, Level::High);
    assert_eq!(*board.lamp.lock().unwrap(), [false], "off at the start");
    let first = gate.open(&device(), &pool).unwrap();
    let second = gate.open(&device(), &pool).unwrap();
    assert!(board.lit());
    drop(first);
    assert!(board.lit(), "the second device is open");
    drop(second);
    assert!(!board.lit());
}

#[test]
fn without_an_indicator_there_is_no_capture() {
    let (board, pool) = (Board::default(), Pool::default());
    let gate = gate(&settings("museum-guide"), &board, Level::High);
    board.broken.store(true, Ordering::Relaxed);
    assert!(gate.muted(), "a switch that cannot be read mutes");
    let said = format!("{:#}", gate.open(&device(), &pool).err().unwrap());
    assert!(said.contains("stays closed"), "{said}");
    board.broken.store(false, Ordering::Relaxed);
    assert!(!gate.muted() && gate.open(&device(), &pool).is_ok());

    let dark = Pins { mute: None::<(Board, Level)>, indicator: Some((board.clone(), Level::High)) };
    let gate =
        Arc::new(Gate::with(&settings("museum-guide"), true, Path::new(""), Some(Box::new(dark))).unwrap());
    board.broken.store(true, Ordering::Relaxed);
    let said = format!("{:#}", gate.open(&device(), &pool).err().unwrap());
    assert!(said.contains("indicator cannot be switched"), "{said}");
    assert!(
        Gate::with(&settings("museum-guide"), true, Path::new(""), Some(board.switches(Level::High)))
            .is_err()
    );
}

#[test]
fn the_switch_closes_devices_at_the_level_that_the_board_says() {
    for (level, on) in [(Level::High, true), (Level::Low, false)] {
        let board = Board::default();
        let gate = gate(&settings("museum-guide"), &board, level);
        for muted in [true, false, true] {
            board.switch.store(muted == on, Ordering::Relaxed);
            assert_eq!(gate.muted(), muted, "{level:?}");
        }
        gate.toggle();
        gate.toggle();
        assert!(gate.muted(), "a signal does not stand above the switch");
    }
}

#[test]
fn a_purpose_that_asks_for_consent_waits_for_it_and_follows_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("consent");
    let new = |settings: &Settings, live| Gate::new(settings, live, Path::new("")).unwrap();
    let asks = settings("research");
    assert!(new(&asks, true).muted());
    assert!(!new(&asks, false).muted(), "a recording has nobody to ask");
    assert!(!new(&settings("museum-guide"), true).muted());
    assert!(!new(&Settings { consent: Consent::Standing, ..asks.clone() }, true).muted());
    let gate = new(&asks, true);
    gate.toggle();
    assert!(!gate.muted());

    let gate = new(&Settings { consent_file: file.clone(), ..asks }, true);
    assert!(gate.muted());
    std::fs::write(&file, "").unwrap();
    assert!(!gate.muted());
    std::fs::remove_file(&file).unwrap();
    assert!(gate.muted(), "taken back");
}

#[test]
fn changes_of_mode_are_on_record() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let gate = Gate::new(&settings("research"), true, folder.path()).unwrap();
        gate.toggle();
        gate.toggle();
    }
    let entries = check(&folder.path().join("modes.jsonl")).unwrap();
    let changes: Vec<_> = entries.iter().map(|entry| (entry.by.as_str(), entry.to.as_str())).collect();
    let once = [("start", "muted"), ("signal", "unmuted"), ("signal", "muted")];
    assert_eq!(changes, [once, once].concat());
}

#[test]
fn pins_that_cannot_be_are_refused_by_name() {
    let pins =
        |pins| Settings { pins: Some(pins), ..settings("museum-guide") }.check().unwrap_err().to_string();
    let chip = privacy::pins::Settings { chip: "/dev/gpiochip-nowhere".into(), ..Default::default() };
    assert!(pins(Default::default()).contains("privacy.pins.chip"));
    assert!(pins(chip.clone()).contains("names no line"));
    assert!(
        pins(privacy::pins::Settings { mute: Some(3), indicator: Some(3), ..chip.clone() })
            .contains("same line")
    );
    let pins = Some(privacy::pins::Settings { indicator: Some(3), ..chip });
    let nowhere = Settings { pins, ..settings("museum-guide") };
    let said = format!("{:#}", Gate::new(&nowhere, true, Path::new("")).unwrap_err());
    assert!(said.contains("privacy.pins") && said.contains("gpiochip-nowhere"), "{said}");
}

#[test]
fn nothing_of_pictures_and_sound_is_left_in_buffers_that_go_round() {
    let pool = Pool::new(8, 8);
    let settings = window::Settings { window_ms: 1_000, hop_ms: 500, lateness_ms: 0 };
    let gives = Gives { video: true, audio: true };
    let mut windows = Windows::new(settings, 2, gives, pool.clone()).unwrap();
    let mut seen = 0;
    for i in 0..12u64 {
        let mut rgb = pool.rgb(48);
        rgb.fill(0xa5);
        let frame = Frame { captured_ns: i * 125_000_000, height: 4, width: 4, rgb };
        let mut samples = pool.samples(2_000);
        samples.resize(2_000, 0x5a5a);
        for reading in
            [Reading::Frame(frame), Reading::Chunk(Chunk { captured_ns: i * 125_000_000, samples })]
        {
            windows
                .push(reading, |_| {
                    seen += 1;
                    Ok(())
                })
                .unwrap();
        }
    }
    assert!(seen > 0);
    drop(windows);
    let held: Vec<Vec<u8>> = (0..8).map(|_| pool.rgb(48)).collect();
    assert!(held.iter().flatten().any(|&byte| byte == 0xa5), "the buffers do go round");
    held.into_iter().for_each(|rgb| pool.give_rgb(rgb));
    // A smaller reading leaves the rest of a larger one behind it.
    let mut large = pool.samples(2_000);
    large.resize(2_000, 0x5a5a);
    large.truncate(10);
    pool.give_samples(large);
    pool.wipe();
    for _ in 0..8 {
        assert!(pool.rgb(48).iter().all(|&byte| byte == 0));
    }
    let (mut heard, mut all) = (0, 0);
    for _ in 0..8 {
        let mut samples = pool.samples(0);
        for sample in samples.spare_capacity_mut() {
            // SAFETY: `wipe` wrote the whole of each buffer.
            heard += usize::from(unsafe { sample.assume_init_read() } == 0x5a5a);
            all += 1;
        }
    }
    assert!(all >= 2_000, "{all} samples in the buffers");
    assert_eq!(heard, 0, "of {all}");
}
