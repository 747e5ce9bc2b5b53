//! Sound as it comes in the field: clipped, with an offset, from a telephone, silent. And what measuring takes from the heap.

#[cfg(feature = "nets")]
mod onnx;

use mien::{
    cues::{Cues, Gate, Measurer, Nets, measure::Phrase},
    source::{Chunk, Reading},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    f32::consts::TAU,
};

thread_local! {
    /// Calls and bytes held of this thread.
    static TAKEN: Cell<(usize, isize)> = const { Cell::new((0, 0)) };
}

struct Counted;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (calls, held) = TAKEN.get();
        TAKEN.set((calls + 1, held + layout.size() as isize));
        // SAFETY: the caller's contract is that of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let (calls, held) = TAKEN.get();
        TAKEN.set((calls, held - layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static HEAP: Counted = Counted;

const RATE: f32 = 16_000.0;
/// Samples of a chunk: 100 ms.
const CHUNK: usize = 1_600;

/// Two seconds of a voice at 140 Hz that moves by a semitone, with formants of an "a", then a pause.
fn speaks(i: usize) -> f32 {
    let t = i as f32 / RATE;
    let phase = TAU * (140.0 * t + 140.0 * 0.06 / TAU * (TAU * t).sin() * 0.5);
    let formant = |hz: f32, about: f32, wide: f32| (-((hz - about) / wide).powi(2)).exp();
    let part = |k: f32| {
        let hz = 140.0 * k;
        let loud = 0.08
            + formant(hz, 700.0, 200.0)
            + 0.6 * formant(hz, 1_200.0, 250.0)
            + 0.3 * formant(hz, 2_600.0, 300.0);
        loud / k.sqrt() * (phase * k).sin()
    };
    let voiced = t % 2.6 < 2.0;
    if voiced { 0.06 * (1..40).map(|k| part(k as f32)).sum::<f32>() } else { 0.0 }
}

fn measurer() -> Measurer {
    Measurer::new(&Nets::default(), Gate::default(), Cues::default(), 1).unwrap()
}

fn chunk(number: usize, sample: &dyn Fn(usize) -> f32) -> Reading {
    let samples = number * CHUNK..(number + 1) * CHUNK;
    let samples = samples.map(|i| (sample(i) * 32_768.0).clamp(-32_768.0, 32_767.0) as i16).collect();
    Reading::Chunk(Chunk { captured_ns: number as u64 * 100_000_000, samples })
}

/// Phrases of six seconds.
fn phrases(sample: &dyn Fn(usize) -> f32) -> Vec<Phrase> {
    let mut measurer = measurer();
    (0..60).flat_map(|number| measurer.take(&mut chunk(number, sample)).phrases).collect()
}

/// A band of sound by a windowed sinc, as a telephone passes it.
fn passed(low_hz: f32, high_hz: f32) -> impl Fn(usize) -> f32 {
    const HALF: isize = 200;
    let sinc = |hz: f32, k: f32| {
        if k == 0.0 { 2.0 * hz / RATE } else { (TAU * hz * k / RATE).sin() / (TAU / 2.0 * k) }
    };
    let taps: Vec<f32> = (-HALF..=HALF)
        .map(|k| {
            let window = 0.54 + 0.46 * (TAU / 2.0 * k as f32 / HALF as f32).cos();
            (sinc(high_hz, k as f32) - sinc(low_hz, k as f32)) * window
        })
        .collect();
    let sound: Vec<f32> = (0..60 * CHUNK + 2 * HALF as usize).map(speaks).collect();
    move |i| taps.iter().zip(&sound[i..]).map(|(tap, x)| tap * x).sum()
}

#[test]
fn a_voice_keeps_its_pitch_through_bad_sound() {
    let clean = phrases(&speaks);
    assert!(clean.len() >= 2, "{clean:?}");
    let (wide, telephone) = (passed(0.0, 3_900.0), passed(300.0, 3_400.0));
    let mut state = 1u32;
    let noise: Vec<f32> = (0..60 * CHUNK)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let kinds: [(&str, &dyn Fn(usize) -> f32); 7] = [
        ("clean", &speaks),
        ("eight times too loud, clipped", &|i| 8.0 * speaks(i)),
        ("a tenth as loud", &|i| 0.1 * speaks(i)),
        ("on an offset of a third", &|i| speaks(i) + 0.33),
        ("sampled at 8 kHz before", &wide),
        ("from a telephone, without its fundamental", &telephone),
        ("in noise 20 dB below", &|i| speaks(i) + 0.006 * noise[i]),
    ];
    for (what, sound) in kinds {
        let found = phrases(sound);
        assert!(found.len() >= 2, "{what}: {} phrases", found.len());
        for phrase in &found {
            let off = phrase.pitch - clean[0].pitch;
            assert!(off.abs() < 0.25, "{what}: {off} semitones off: {phrase:?}");
            assert!((phrase.range - clean[0].range).abs() < 0.5, "{what}: {phrase:?}");
            let numbers = [phrase.tilt_db, phrase.loudness_db, phrase.rate, phrase.tremble];
            assert!(numbers.iter().all(|v| v.is_finite()), "{what}: {phrase:?}");
        }
    }
}

#[test]
fn what_is_no_voice_makes_no_phrase() {
    let kinds: [(&str, &dyn Fn(usize) -> f32); 5] = [
        ("silence", &|_| 0.0),
        ("an offset", &|_| 0.9),
        ("full scale", &|_| 1.0),
        ("a crackle", &|i| if i % 1_601 == 0 { 1.0 } else { 0.0 }),
        ("a voice 70 dB down", &|i| 0.0003 * speaks(i)),
    ];
    for (what, sound) in kinds {
        assert_eq!(phrases(sound), [], "{what}");
    }
}

#[test]
fn a_gap_or_a_clock_that_jumps_back_begins_anew() {
    let mut measurer = measurer();
    let mut found = Vec::new();
    for number in (0..30).chain(70..100).chain(5..40) {
        found.extend(measurer.take(&mut chunk(number, &speaks)).phrases);
    }
    assert!(found.len() >= 3, "{found:?}");
    assert!(found.iter().all(|phrase| phrase.end_ns > phrase.start_ns && phrase.end_ns - phrase.start_ns <= 2_100_000_000));
}

/// Calls of the allocator while readings are measured, and bytes that are held at their end.
fn taken(measurer: &mut Measurer, readings: &mut [Reading]) -> (usize, isize) {
    let (calls, held) = TAKEN.get();
    for reading in readings {
        let facts = measurer.take(reading);
        std::hint::black_box(&facts);
    }
    let (calls_now, held_now) = TAKEN.get();
    (calls_now - calls, held_now - held)
}

#[test]
fn a_voice_is_measured_without_the_heap() {
    let mut measurer = measurer();
    let mut sound = |from: usize| {
        let mut readings: Vec<Reading> = (from..from + 100).map(|number| chunk(number, &speaks)).collect();
        taken(&mut measurer, &mut readings)
    };
    sound(0);
    assert_eq!(sound(100), (0, 0));
}

/// tract takes from the heap for every run, and gives all of it back.
#[cfg(feature = "nets")]
#[test]
fn nets_hold_nothing_more_after_a_run() {
    use mien::{cues::Net, source::Frame};
    let folder = tempfile::tempdir().unwrap();
    let net = |name: &str, bytes: Vec<u8>| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        Some(Net { file, ..Net::default() })
    };
    let nets = Nets {
        voice_activity: net("ears.onnx", onnx::listener()),
        face_box: net("eyes.onnx", onnx::Detector { score: 5.0, ..onnx::Detector::default() }.onnx()),
        ..Nets::default()
    };
    let mut measurer = Measurer::new(&nets, Gate::default(), Cues::default(), 1).unwrap();
    let mut work = |from: usize| {
        let readings = (from..from + 50).flat_map(|number| {
            let rgb = vec![120; 90 * 160 * 3];
            let frame = Frame { captured_ns: number as u64 * 100_000_000, height: 90, width: 160, rgb };
            [chunk(number, &speaks), Reading::Frame(frame)]
        });
        let mut readings: Vec<Reading> = readings.collect();
        taken(&mut measurer, &mut readings)
    };
    work(0);
    let (calls, held) = work(50);
    println!("tract: {calls} allocations in 5 s of sound and pictures");
    assert_eq!(held, 0);
    assert_eq!(work(100).1, 0);
    assert!(calls > 0, "the count counts");
}
