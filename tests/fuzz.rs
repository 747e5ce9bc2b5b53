//! Mutated input through everything that reads what others write: no panic, no hang, no memory beyond a bound. Seeds are real inputs.
//!
//! Each target runs for `MIEN_FUZZ_S` seconds (half a second where it is not set) and for `MIEN_FUZZ_RUNS` inputs at least (a hundredth of
//! them where an input is a whole bundle), from `MIEN_FUZZ_SEED`. An input that breaks one is kept under `target/fuzz/` and named; give it
//! a test of its own then. `tools/test fuzz` runs them long and prints the table.

mod dice;
mod films;
mod stages;

use dice::Dice;
use films::write_avi;
use mien::{
    bundle::{
        Bundle, Kind, checkpoint, gguf,
        synthetic::{self, Preset},
        tokenizer, write,
    },
    config::Config,
    source::{
        Pool, Source, clip,
        jpeg::Jpeg,
        recorded::{avi, wav},
        y4m,
    },
    wire::{self, Decoder},
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Of this thread: a machine that is busy with other things makes no input slow.
fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// One input takes no longer.
const RUN_MAX: Duration = Duration::from_secs(5);
/// Most bytes of an input.
const BYTES_MAX: usize = 1 << 20;

/// Bits, bytes, numbers at their limits, pieces cut, doubled, moved and taken from other seeds.
fn mutate(dice: &mut Dice, seeds: &[Vec<u8>], bytes: &mut Vec<u8>) {
    const LIMITS: [u64; 10] =
        [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(bytes.len());
        let len = (1 + dice.below(64)).min(bytes.len() - at);
        match dice.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            1 if !bytes.is_empty() => bytes[at] = dice.next() as u8,
            2 => {
                let number =
                    LIMITS[dice.below(LIMITS.len())].wrapping_add(dice.below(3) as u64).to_le_bytes();
                let width = [1, 2, 4, 8][dice.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            3 => drop(bytes.drain(at..at + len)),
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at..at + len].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            6 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len());
                let piece = other[from..(from + len).min(other.len())].to_vec();
                bytes.splice(at..(at + piece.len()).min(bytes.len()), piece);
            }
            // Digits, as text formats have them.
            _ => {
                if let Some(digit) = bytes.iter().skip(at).position(u8::is_ascii_digit) {
                    let more = ["9999999999", "-1", "1e999", "0", ""][dice.below(5)];
                    bytes.splice(at + digit..at + digit + 1, more.bytes());
                }
            }
        }
    }
    bytes.truncate(BYTES_MAX);
}

/// Runs a target, which says whether it took the input.
fn fuzz(name: &str, seeds: Vec<Vec<u8>>, target: impl FnMut(&[u8]) -> bool) {
    fuzz_share(name, 1, seeds, target);
}

/// The same for a target of which one run is worth `share` of others.
fn fuzz_share(name: &str, share: u64, seeds: Vec<Vec<u8>>, mut target: impl FnMut(&[u8]) -> bool) {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<f64>().ok());
    let time = Duration::from_secs_f64(variable("MIEN_FUZZ_S").unwrap_or(0.5));
    let seed = variable("MIEN_FUZZ_SEED").unwrap_or(1.0) as u64;
    let least = variable("MIEN_FUZZ_RUNS").unwrap_or(0.0) as u64 / share;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    for seed in &seeds {
        assert!(target(seed), "{name} refuses a seed");
    }
    let (mut runs, mut taken, mut slowest) = (0u64, 0u64, Duration::ZERO);
    let start = Instant::now();
    while runs < least || start.elapsed() < time {
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        mutate(&mut dice, &seeds, &mut bytes);
        let begin = processor_time();
        let said = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        let took = processor_time() - begin;
        slowest = slowest.max(took);
        if said.is_err() || took > RUN_MAX {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("{name}-{seed}-{runs}"));
            fs::write(&path, &bytes).unwrap();
            panic!(
                "{name}: {} took {took:?}{}",
                path.display(),
                if said.is_err() { " and panicked" } else { "" }
            );
        }
        taken += u64::from(said.unwrap_or(false));
        runs += 1;
    }
    println!(
        "seen: {name}: {runs} runs, {taken} taken, slowest {:.0} ms, 0 panics",
        slowest.as_secs_f64() * 1000.0
    );
}

/// A folder in memory, where there is one.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn tiny() -> &'static Vec<u8> {
    static TINY: OnceLock<Vec<u8>> = OnceLock::new();
    TINY.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("tiny.gguf");
        synthetic::write_file(&path, Preset::Tiny, 1, Kind::Q8_0, &mut |_| ()).unwrap();
        fs::read(path).unwrap()
    })
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn wire() {
    let mut packet = [0; wire::LINE_BYTES_MAX];
    let mut line = Vec::new();
    for seq in 0..20u16 {
        let event = wire::Event {
            seq: u32::from(seq),
            episode: 0,
            kind: wire::Kind::Begin,
            label: 2,
            confidence_permille: 700,
            track: 0,
            expected: 3,
            present: 3,
            cause: wire::Cause::None,
            at_ms: 1 << 40,
            begin_ms: 5,
            window_ms: 4_000,
            wall_ms: 1 << 41,
            wall_synced: 1,
            age_ms: 9,
        };
        for message in [wire::Message::Event(event), wire::Message::Heartbeat(wire::Heartbeat::default())] {
            let len = wire::encode(&message, seq, &mut packet).unwrap();
            line.extend_from_slice(&packet[..len]);
        }
    }
    fuzz("wire", vec![line], |bytes| {
        let mut decoder = Decoder::new();
        bytes.iter().filter(|byte| matches!(decoder.feed(**byte), Some(Ok(_)))).count() > 0
    });
}

#[test]
fn configs() {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for path in [
        "board/site-example.toml",
        "board/desk/profile.toml",
        "board/orin-nano/profile.toml",
        "models/demo/demo.toml",
    ] {
        seeds.push(fs::read(root(path)).unwrap());
    }
    fuzz("config", seeds, |bytes| {
        let Ok(config) = toml::from_str::<Config>(&String::from_utf8_lossy(bytes)) else { return false };
        config.readings_max(8);
        config.sources().iter().for_each(|source| drop(source.check()));
        config.sink.all().iter().for_each(|sink| drop(sink.check()));
        true
    });
}

#[test]
fn bundle_headers() {
    // All keys of a bundle, and few enough tensors that most of the bytes are header.
    let whole = gguf::parse(tiny()).unwrap();
    let mut keys: Vec<_> = whole.keys.into_iter().filter(|(_, value)| *value != gguf::Value::Other).collect();
    for (_, value) in &mut keys {
        if let gguf::Value::Texts(texts) = value {
            texts.truncate(8);
        }
    }
    let mut tensors: Vec<_> =
        whole.tensors.into_iter().filter(|tensor| tensor.bytes() < 512).take(8).collect();
    let (mut seed, bytes) = gguf::header(&keys, &mut tensors);
    seed.resize(bytes as usize, 0);
    fuzz("bundle header", vec![seed], |bytes| gguf::parse(bytes).is_ok());
}

#[test]
fn whole_bundles() {
    fuzz_share("whole bundle", 100, vec![tiny().clone()], |bytes| Bundle::from_bytes(bytes.to_vec()).is_ok());
    // A header that its digest fits, as somebody with intent would make it.
    let bundle = Bundle::from_bytes(tiny().clone()).unwrap();
    let head = serde_json::to_vec(&bundle.header().description).unwrap();
    fuzz_share("bundle text", 100, vec![head], |bytes| {
        let mut header = bundle.header().clone();
        header.description = String::from_utf8_lossy(bytes).into_owned();
        header.name = header.description.chars().rev().collect();
        write::write_bytes(&header, false, &mut write::Stored(&bundle))
            .is_ok_and(|bytes| Bundle::from_bytes(bytes).is_ok())
    });
}

#[test]
fn weights_of_checkpoints() {
    let place = folder();
    let tensors = (0..4).map(|i| {
        let bytes: Vec<u8> = (0..64u8).collect();
        (format!("layer.{i}"), bytes)
    });
    let all: Vec<(String, Vec<u8>)> = tensors.collect();
    let views = all.iter().map(|(name, bytes)| {
        (
            name.as_str(),
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![4, 4], bytes).unwrap(),
        )
    });
    let seed = safetensors::serialize(views, None).unwrap();
    let path = place.path().join("model.safetensors");
    fuzz("safetensors", vec![seed], |bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(weights) = checkpoint::Weights::open(place.path()) else { return false };
        weights
            .dims("layer.1")
            .map(<[usize]>::to_vec)
            .is_some_and(|dims| weights.whole("layer.1", &dims).is_ok())
    });
}

#[test]
fn tokenizers() {
    let place = folder();
    let from = root("tests/fixtures/checkpoint/R1-Omni-0.5B");
    for entry in fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, place.path().join(path.file_name().unwrap())).unwrap();
    }
    let seed = fs::read(from.join("tokenizer.json")).unwrap();
    let rows = 1 << 12;
    fuzz("tokenizer", vec![seed], |bytes| {
        fs::write(place.path().join("tokenizer.json"), bytes).unwrap();
        tokenizer::read(place.path(), rows).is_ok()
    });
}

/// Plays a clip to its end, or for so many readings. What is not in a format of ours goes to ffmpeg, and is not for here.
fn plays(path: &Path) -> bool {
    let settings = clip::Settings { path: path.to_owned(), frames_per_second: 25, paced: false };
    let Ok(mut clip) = clip::Clip::open(&settings, &Pool::default()) else { return false };
    for _ in 0..400 {
        match clip.read(Duration::ZERO) {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => return false,
        }
    }
    true
}

#[test]
fn clips_with_pictures() {
    let place = folder();
    let path = place.path().join("clip.avi");
    write_avi(&path, 2, 40);
    fuzz("avi", vec![fs::read(&path).unwrap()], |bytes| {
        fs::write(&path, bytes).unwrap();
        let ours = |header: avi::Header| {
            header.video.is_none_or(|video| video.jpeg) && header.audio.is_none_or(|audio| audio.pcm())
        };
        bytes.starts_with(b"RIFF")
            && bytes.get(8..12) == Some(b"AVI ")
            && avi::header(&path).is_ok_and(ours)
            && plays(&path)
    });
}

#[test]
fn sounds() {
    let place = folder();
    let seeds = [(1, 16_000, 16), (2, 16_000, 24), (6, 16_000, 32)].map(
        |(channels, sample_rate, bits_per_sample)| {
            let mut wav = Vec::new();
            let sample_format = hound::SampleFormat::Int;
            let spec = hound::WavSpec { channels, sample_rate, bits_per_sample, sample_format };
            let mut writer = hound::WavWriter::new(std::io::Cursor::new(&mut wav), spec).unwrap();
            (0..240).for_each(|i| writer.write_sample(i * 7).unwrap());
            writer.finalize().unwrap();
            wav
        },
    );
    let path = place.path().join("clip.wav");
    fuzz("wav", seeds.to_vec(), |bytes| {
        fs::write(&path, bytes).unwrap();
        bytes.starts_with(b"RIFF")
            && bytes.get(8..12) == Some(b"WAVE")
            && wav::Header::read(&path).is_ok_and(|header| header.is_pcm())
            && plays(&path)
    });
}

#[test]
fn pictures() {
    let mut seed = Vec::new();
    let picture = image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, 90]));
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut seed, 80);
    picture.write_with_encoder(encoder).unwrap();
    let (mut jpeg, pool) = (Jpeg::default(), Pool::default());
    fuzz("mjpeg", vec![seed], |bytes| jpeg.decode(bytes, &pool).is_ok());
}

#[test]
fn raw_video() {
    let seeds = [
        "YUV4MPEG2 W64 H48 F30:1 Ip A1:1 C420jpeg",
        "YUV4MPEG2 W2 H2 F25000:1001 C444",
        "YUV4MPEG2 H8 W8 Cmono XCOLORRANGE=FULL",
    ];
    fuzz("y4m", seeds.map(|seed| seed.as_bytes().to_vec()).to_vec(), |bytes| {
        let Ok(header) = y4m::Header::parse(bytes) else { return false };
        header.frame_bytes() < 1 << 28
    });
}

/// What a broker may send: through the client's own reading and book-keeping, and a payload through ours.
#[cfg(feature = "mqtt")]
#[test]
fn packets_of_brokers() {
    use bytes::BytesMut;
    use mien::sink::json::Line;
    use rumqttc::{ConnAck, ConnectReturnCode, MqttState, Packet, PubAck, Publish, QoS, SubAck};
    const BYTES: usize = 1 << 16;
    let hello = r#"{"type":"hello","protocol":"1.1","schema":"2c452c08","boot":"01","machine":"7","device":"a","software":"mien 0.1.0",
        "purpose":"research","bundle":"b","bundle_hash":"00","label_set":"s","labels":["happy"],"window_ms":4000,"hop_ms":1000,
        "heartbeat_ms":1000}"#;
    let seed = |packets: Vec<Packet>| {
        let mut stream = BytesMut::new();
        for packet in packets {
            packet.write(&mut stream, BYTES).unwrap();
        }
        stream.to_vec()
    };
    let publish = |topic: &str, payload: &str| {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.to_owned());
        publish.pkid = 7;
        Packet::Publish(publish)
    };
    let connected = Packet::ConnAck(ConnAck { session_present: false, code: ConnectReturnCode::Success });
    let granted =
        SubAck { pkid: 1, return_codes: vec![rumqttc::SubscribeReasonCode::Success(QoS::AtLeastOnce)] };
    let seeds = vec![
        seed(vec![connected.clone(), Packet::SubAck(granted), publish("mien/a/hello", hello)]),
        seed(vec![connected, publish("homeassistant/status", "online"), Packet::PubAck(PubAck { pkid: 1 })]),
        seed(vec![Packet::PingResp, publish("mien/a/availability", "offline")]),
    ];
    fuzz("mqtt packets", seeds, |bytes| {
        let mut stream = BytesMut::from(bytes);
        let mut state = MqttState::builder(8).build();
        let mut taken = false;
        while let Ok(packet) = Packet::read(&mut stream, BYTES) {
            if let Packet::Publish(publish) = &packet {
                taken |= serde_json::from_slice::<Line>(&publish.payload).is_ok();
            }
            taken |= state.handle_incoming_packet(packet).is_ok();
        }
        taken
    });
}
