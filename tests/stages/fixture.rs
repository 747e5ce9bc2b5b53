//! The checkpoint of tests/fixtures: its values follow from the names of its tensors, as in make.py.

use super::{Clip, Expected, Reference};
use half::{bf16, f16};
use mien::{
    bundle::{
        Bundle, Kind,
        import::{self, Options, Towers},
    },
    source::Frame,
};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;
use std::{fs, path::Path, path::PathBuf};

/// What stands beside, or inside, the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Tower folders beside it, copies inside, as published.
    Published,
    /// Tower folders beside it, other values in the copies inside.
    Poisoned,
    /// Tower folders without weights; the copies inside are all there is.
    Alone,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn json(name: &str) -> Value {
    let path = folder().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `count` integers from -127 to 127.
pub fn integers(name: &str, count: usize) -> impl Iterator<Item = i64> {
    let fold = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    (1..=count as u64).map(move |place| {
        let mut z = place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 33) as i64 % 255 - 127
    })
}

fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or_else(|| panic!("{of} has no number {key}"))
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_else(|| panic!("{of} has no text {key}"))
}

/// One tensor of the plan: type, shape, little-endian values.
fn tensor(t: &Value, poison: &str) -> (Dtype, Vec<usize>, Vec<u8>) {
    let shape: Vec<usize> = t["shape"]
        .as_array()
        .expect("a shape")
        .iter()
        .map(|n| n.as_u64().expect("a size") as usize)
        .collect();
    let (offset, scale) = (number(t, "offset") as f32, 2f32.powi(number(t, "power") as i32));
    let name = format!("{poison}{}", text(t, "numbers"));
    let values = integers(&name, shape.iter().product())
        .map(|n| f32::from_bits((offset + n as f32 * scale).to_bits() & 0xffff_0000));
    let (dtype, data) = match text(t, "dtype") {
        "BF16" => (Dtype::BF16, values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect()),
        "F16" => (Dtype::F16, values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect()),
        _ => (Dtype::F32, values.flat_map(f32::to_le_bytes).collect()),
    };
    (dtype, shape, data)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

/// Writes the checkpoint's folders under `root`.
pub fn write_checkpoint(root: &Path, layout: Layout) {
    let plan = json("checkpoint.json");
    for (name, tensors) in plan.as_object().expect("folders") {
        copy_folder(&folder().join("checkpoint").join(name), &root.join(name));
        if name != "R1-Omni-0.5B" && layout == Layout::Alone {
            continue;
        }
        let made: Vec<_> = tensors
            .as_array()
            .expect("tensors")
            .iter()
            .map(|t| {
                let copy = text(t, "name").contains("_tower.");
                let poison = if copy && layout == Layout::Poisoned { "poison " } else { "" };
                (text(t, "name"), tensor(t, poison))
            })
            .collect();
        let views = made.iter().map(|(name, (dtype, shape, data))| {
            (*name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor that fits its shape"))
        });
        let file = root.join(name).join("model.safetensors");
        safetensors::serialize_to_file(views, None, &file).expect("a written file");
    }
    let reader = "bert-base-uncased";
    copy_folder(&folder().join("checkpoint").join(reader), &root.join(reader));
}

/// Packs the checkpoint and opens the bundle.
pub fn bundle(layout: Layout, towers: Towers, kind: Kind) -> Bundle {
    let root = tempfile::tempdir().expect("a temporary folder");
    write_checkpoint(root.path(), layout);
    let path = root.path().join("bundle.gguf");
    let options = Options { towers, ..Options::new(root.path(), kind) };
    import::pack(&options, &path, &mut |_| {}).unwrap_or_else(|e| panic!("{layout:?}: {e:#}"));
    Bundle::open(&path).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Blocks of colour with some noise, from integers alone.
pub fn picture(name: &str, height: usize, width: usize) -> Frame {
    let tone: Vec<i64> = integers(name, 12 * 16 * 3).map(|n| n + 128).collect();
    let mut rgb = Vec::with_capacity(height * width * 3);
    for (i, noise) in integers(&format!("{name}/noise"), height * width * 3).enumerate() {
        let (c, x, y) = (i % 3, i / 3 % width, i / 3 / width);
        let block = (y * 12 / height) * 16 + x * 16 / width;
        rgb.push((tone[block * 3 + c] + noise.div_euclid(8)).clamp(0, 255) as u8);
    }
    Frame { captured_ns: 0, height: height as u32, width: width as u32, rgb }
}

/// A rough triangle wave that swells, with noise, in [-1, 1).
pub fn sound(name: &str, count: usize) -> Vec<f32> {
    integers(name, count)
        .enumerate()
        .map(|(n, noise)| {
            let n = n as i64;
            let wave = (n * 220 % 16000 - 8000).abs() - 4000;
            let swell = (n % 8000 - 4000).abs();
            let pcm = (wave * swell).div_euclid(1000) + noise * 8;
            pcm.clamp(-32768, 32767) as f32 / 32768.0
        })
        .collect()
}

pub fn clip() -> Clip {
    Clip {
        frames: (0..20).map(|i| picture(&format!("frame {i}"), 60, 80)).collect(),
        samples: sound("sound", 24000),
    }
}

/// What `expected.json` says of a run: `video_audio` or `video`.
pub fn reference(run: &str) -> Reference {
    let floats = |v: &Value| -> Vec<f32> {
        v.as_array().expect("numbers").iter().map(|n| n.as_f64().expect("a number") as f32).collect()
    };
    let expected = |v: &Value| match v {
        Value::Array(_) => {
            let values = floats(v);
            Expected { len: values.len(), values, step: 1, rms: None }
        }
        sampled => Expected {
            values: floats(&sampled["values"]),
            step: number(sampled, "step") as usize,
            len: number(sampled, "len") as usize,
            rms: Some(number(sampled, "rms")),
        },
    };
    let all = json("expected.json");
    all[run].as_object().expect("stages").iter().map(|(name, v)| (name.clone(), expected(v))).collect()
}
