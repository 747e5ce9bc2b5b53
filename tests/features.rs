//! Pictures and sound as the towers read them, beside Pillow and transformers (tests/fixtures/features.json).

mod stages;

use mien::feature::{image::Resizer, mel};
use sha2::{Digest, Sha256};
use stages::fixture;

#[test]
fn pictures_are_resized_to_the_byte() {
    let all = fixture::json("features.json");
    let pictures = all["pictures"].as_array().expect("pictures");
    assert!(pictures.len() > 8);
    let mut resizer = Resizer::new(224);
    for picture in pictures {
        let size = |key: &str| picture[key].as_u64().expect("a size") as usize;
        let (height, width) = (size("height"), size("width"));
        let frame = fixture::picture(&format!("{height} x {width}"), height, width);
        let mut square = vec![0; 224 * 224 * 3];
        resizer.resize(&frame.rgb, height, width, &mut square);
        let sha: String = Sha256::digest(&square).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Some(sha.as_str()), picture["sha256"].as_str(), "{height} x {width}");
    }
}

/// The reference takes its FFT in f32, which shows in its quietest bins.
const MEL_LIMIT: f64 = 5e-5;
const MEL_RMS_LIMIT: f64 = 1e-6;

#[test]
fn sound_makes_the_published_mel() {
    let all = fixture::json("features.json");
    let sounds = all["sounds"].as_array().expect("sounds");
    assert!(sounds.len() > 4);
    for sound in sounds {
        let count = sound["samples"].as_u64().expect("a count") as usize;
        let frames = sound["frames"].as_u64().expect("a count") as usize;
        let mut out = vec![0.0; frames * 128];
        mel::Mel::new(128, frames).log_mel(&fixture::sound(&format!("{count} samples"), count), &mut out);
        let step = sound["step"].as_u64().expect("a step") as usize;
        let expected = sound["values"].as_array().expect("values");
        let picked: Vec<f64> = out.iter().step_by(step).map(|v| f64::from(*v)).collect();
        assert_eq!(picked.len(), expected.len());
        let largest = picked
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b.as_f64().expect("a number")).abs())
            .fold(0.0, f64::max);
        assert!(largest < MEL_LIMIT, "{count} samples: {largest}");
        let rms = (out.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / out.len() as f64).sqrt();
        let expected = sound["rms"].as_f64().expect("a number");
        assert!(
            (rms - expected).abs() < MEL_RMS_LIMIT * expected,
            "{count} samples: {rms} beside {expected}"
        );
    }
}
