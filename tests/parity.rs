//! The whole model beside transformers and timm (tests/fixtures/expected.json), on every backend, and beside itself.

mod stages;

use mien::{
    backend::Halt,
    bundle::{Bundle, Kind, LabelSet, Piece, Prompt, header::Header, import::Towers, write},
    model::{self, AudioContext, Decoding, Device, Infer, Input, Observer, Sampling, Stages, Stop, Taps},
    source::Frame,
};
use stages::{
    Clip, Expected,
    fixture::{self, Layout},
    reason_between,
};
use std::{path::Path, sync::OnceLock};

/// Largest relative error of an f32 bundle, at every stage.
const LIMIT: f64 = 1e-4;
const STEPS: usize = 32;

fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| fixture::bundle(Layout::Published, Towers::Auto, Kind::F32))
}

fn load(device: Device) -> Box<dyn Infer> {
    model::load(bundle(), device, 2).unwrap()
}

fn frames(clip: &Clip, picked: [usize; 8]) -> [(u64, &Frame); 8] {
    picked.map(|i| (i as u64, &clip.frames[i]))
}

fn check(model: &mut dyn Infer, clip: &Clip, run: &str) {
    let reference = fixture::reference(run);
    let ours = stages::run(model, 8, clip, STEPS);
    let rows = stages::compare(&reference, &ours);
    let table = stages::table(&rows);
    assert!(rows.len() >= 3 && rows.iter().all(|r| r.largest.max(r.rms) < LIMIT), "{run}\n{table}");
    assert_eq!(stages::same_tokens(&reference, &ours), (STEPS, STEPS), "{run}\n{table}");
}

#[test]
fn prompts_are_the_reference_s() {
    let prompt = bundle().prompt("reason").unwrap();
    for (run, pieces) in [("video_audio", &prompt.video_audio), ("video", &prompt.video)] {
        let ids: Vec<f32> = pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Text(ids) => ids.iter().map(|id| *id as f32).collect(),
                Piece::Video => vec![-201.0],
                Piece::Audio => vec![-202.0],
                Piece::Words => vec![-203.0],
            })
            .collect();
        assert_eq!(ids, fixture::reference(run)["input_ids"].values, "{run}");
    }
}

#[test]
fn video_and_audio_on_the_scalar_reference() {
    check(&mut *load(Device::Scalar), &fixture::clip(), "video_audio");
}

#[test]
fn video_and_audio_on_the_fast_cpu() {
    check(&mut *load(Device::Cpu), &fixture::clip(), "video_audio");
}

#[test]
fn video_alone_on_both() {
    let clip = Clip { samples: Vec::new(), ..fixture::clip() };
    check(&mut *load(Device::Scalar), &clip, "video");
    check(&mut *load(Device::Cpu), &clip, "video");
}

/// Upstream shows some frames of a short clip twice; so does the comparer, and the engine need not encode them twice.
#[test]
fn a_clip_of_five_frames_is_compared_at_every_stage() {
    let mut clip = fixture::clip();
    clip.frames.truncate(5);
    let judged = stages::run(&mut *load(Device::Scalar), 8, &clip, STEPS);
    let as_reference = |values: &stages::Values| -> stages::Reference {
        let whole = |v: &model::observe::Tapped| Expected {
            values: v.values.clone(),
            step: 1,
            len: v.values.len(),
            rms: None,
        };
        values.iter().map(|(stage, values)| (stage.clone(), whole(values))).collect()
    };
    let mut model = load(Device::Cpu);
    let rows = stages::compare(&as_reference(&judged), &stages::run(&mut *model, 8, &clip, STEPS));
    assert!(rows.len() > 10 && rows.iter().all(|r| r.largest.max(r.rms) < LIMIT), "{}", stages::table(&rows));

    let picked = mien::feature::sample_frames(5, 8);
    assert_eq!(picked, [0, 1, 1, 2, 2, 3, 3, 4]);
    let set = bundle().label_sets()[0].name.clone();
    let mut scores = |ids: [u64; 8]| {
        let shown: Vec<(u64, &Frame)> =
            ids.into_iter().zip(&picked).map(|(id, i)| (id, &clip.frames[*i])).collect();
        model
            .see("label", &Input { frames: Some(&shown), samples: Some(&clip.samples), words: None })
            .unwrap();
        model.score(&set).unwrap().probabilities.clone()
    };
    assert_eq!(scores([0, 1, 2, 3, 4, 5, 6, 7]), scores([10, 11, 11, 12, 12, 13, 13, 14]));
}

#[test]
fn the_towers_that_upstream_reads_are_packed() {
    let beside = bundle();
    let same = |layout, towers| {
        let other = fixture::bundle(layout, towers, Kind::F32);
        let both = beside.tensors().zip(other.tensors());
        both.filter(|(a, b)| (a.name, a.data) != (b.name, b.data))
            .map(|(a, _)| a.name.to_owned())
            .collect::<Vec<_>>()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(same(Layout::Poisoned, Towers::Auto), none, "the copies inside are not read");
    assert_eq!(same(Layout::Alone, Towers::Embedded), none, "the copies inside are equal");
    assert_eq!(same(Layout::Published, Towers::Embedded), none);
    let poisoned = same(Layout::Poisoned, Towers::Embedded);
    assert!(poisoned.len() > 20, "{poisoned:?}");
    assert!(
        poisoned.iter().all(|name| name.starts_with("vision.") || name.starts_with("audio.")),
        "{poisoned:?}"
    );
}

#[test]
fn smaller_kinds_stay_near() {
    for (kind, limit) in [(Kind::F16, 1e-2), (Kind::Q8_0, 0.2), (Kind::Q4_0, 1.5)] {
        let bundle = fixture::bundle(Layout::Published, Towers::Auto, kind);
        for device in [Device::Cpu, Device::Scalar] {
            let mut model = model::load(&bundle, device, 2).unwrap();
            let ours = stages::run(&mut *model, 8, &fixture::clip(), 1);
            let mut reference = fixture::reference("video_audio");
            reference.retain(|name, _| name != "step_logits" && name != "tokens");
            let rows = stages::compare(&reference, &ours);
            let table = stages::table(&rows);
            assert!(rows.iter().all(|r| r.largest < limit), "{} on {device:?}\n{table}", kind.name());
        }
    }
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn brief_context_is_near_and_depends_on_its_window_alone() {
    let clip = fixture::clip();
    let frames: Vec<(u64, &Frame)> = (0..8).zip(&clip.frames).collect();
    let long: Vec<f32> = clip.samples.iter().copied().cycle().take(480_000).collect();
    for device in [Device::Cpu, Device::Scalar] {
        let mut model = load(device);
        let mut score = |context: Option<AudioContext>, frames: Option<&[_]>, samples: &[f32]| {
            if let Some(context) = context {
                model.set_audio_context(context).unwrap();
            }
            model.see("label", &Input { frames, samples: Some(samples), words: None }).unwrap();
            let scores = model.score("dfew").unwrap().probabilities.clone();
            model.ask("reason").unwrap();
            model.reason_on(&mut |_| ()).unwrap();
            scores
        };
        let both = Some(&frames[..]);
        let whole = score(Some(AudioContext::Whole), both, &clip.samples);
        let speech = score(Some(AudioContext::Speech), both, &clip.samples);
        let brief = score(Some(AudioContext::Brief), both, &clip.samples);
        let off = |scores: &[f32]| whole.iter().zip(scores).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{device:?}: a score is off by {:.1e}, speech by {:.1e}", off(&brief), off(&speech));
        assert!(brief != speech && off(&brief) < 0.2, "{device:?}: a score is off by {}", off(&brief));
        // Other windows, and the reasons that `score` begins, leave no trace.
        for other in [&clip.samples[..4_000], &long[..]] {
            score(None, both, other);
            score(None, None, other);
            assert_eq!(score(None, both, &clip.samples), brief, "{device:?}");
        }
        let filled = score(Some(AudioContext::Whole), both, &long);
        assert_eq!(score(Some(AudioContext::Brief), both, &long), filled, "{device:?}: 30 s of sound");
        // Without pictures the prompt is another one: silence is run.
        let heard = score(Some(AudioContext::Speech), None, &clip.samples);
        assert_eq!(score(Some(AudioContext::Brief), None, &clip.samples), heard, "{device:?}: no pictures");
    }
}

#[test]
fn speech_context_is_near_and_exact_where_sound_fills_the_tower() {
    let sound = fixture::clip().samples;
    let long: Vec<f32> = sound.iter().copied().cycle().take(480_000).collect();
    for device in [Device::Cpu, Device::Scalar] {
        let mut model = load(device);
        let mut score = |context: AudioContext, samples: &[f32]| {
            model.set_audio_context(context).unwrap();
            model.see("label", &Input { frames: None, samples: Some(samples), words: None }).unwrap();
            model.score("dfew").unwrap().probabilities.clone()
        };
        let whole = score(AudioContext::Whole, &sound);
        let speech = score(AudioContext::Speech, &sound);
        let off = whole.iter().zip(&speech).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{device:?}: a score is off by {off:.1e}");
        assert!(off > 0.0 && off < 0.05, "{device:?}: a score is off by {off}");
        assert_eq!(score(AudioContext::Whole, &sound), whole, "{device:?}: whole again");
        let filled = score(AudioContext::Whole, &long);
        assert_eq!(score(AudioContext::Speech, &long), filled, "{device:?}: 30 s of sound");
    }
}

#[test]
fn a_window_that_slides_is_as_good_as_new() {
    let clip = fixture::clip();
    let mut sliding = load(Device::Cpu);
    let windows = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 2, 3, 4, 5, 6, 7, 8],
        [8, 8, 8, 9, 9, 9, 10, 10],
        [3, 2, 1, 0, 10, 9, 8, 7],
        [3, 2, 1, 0, 10, 9, 8, 7],
    ];
    for (i, window) in windows.into_iter().enumerate() {
        let frames = frames(&clip, window);
        let samples = &clip.samples[i * 1000..];
        let input = Input { frames: Some(&frames), samples: Some(samples), words: None };
        sliding.see("label", &input).unwrap();
        let mut new = load(Device::Cpu);
        new.see("label", &input).unwrap();
        let (a, b) = (sliding.score("dfew").unwrap(), new.score("dfew").unwrap());
        assert!(near(&a.probabilities, &b.probabilities), "{window:?}: {a:?} {b:?}");
    }
}

#[test]
fn one_new_frame_costs_one_frame() {
    let clip = fixture::clip();
    let mut model = load(Device::Cpu);
    let taps = Taps::of(["pixel_values"]);
    model.observe(Some(Box::new(taps.clone())));
    let mut rows = |window| {
        let frames = frames(&clip, window);
        model.see("label", &Input { frames: Some(&frames), samples: None, words: None }).unwrap();
        taps.take().iter().map(|t| t.rows).sum::<usize>()
    };
    assert_eq!(rows([0, 1, 2, 3, 4, 5, 6, 7]), 8);
    assert_eq!(rows([1, 2, 3, 4, 5, 6, 7, 8]), 1);
    assert_eq!(rows([1, 2, 3, 4, 5, 6, 7, 8]), 0);
    assert_eq!(rows([1, 2, 3, 4, 5, 6, 7, 0]), 1, "frame 0 was given away");
}

#[test]
fn asking_again_is_as_good_as_seeing_again() {
    let clip = fixture::clip();
    let frames = frames(&clip, [0, 2, 4, 6, 8, 10, 12, 14]);
    let input = Input { frames: Some(&frames), samples: Some(&clip.samples), words: None };
    let mut model = load(Device::Cpu);
    model.set_decoding(Decoding { max_new_tokens: Some(12), ..Decoding::default() }).unwrap();
    model.see("reason", &input).unwrap();
    let reason = model.reason(&mut |_| {}).unwrap();
    model.ask("label").unwrap();
    let scores = model.score("dfew").unwrap().clone();
    assert_eq!(*model.score("dfew").unwrap(), scores, "scoring leaves the prompt as it was");
    model.ask("reason").unwrap();
    model.score("mafw").unwrap();
    assert_eq!(model.reason(&mut |_| {}).unwrap(), reason);
    let mut new = load(Device::Cpu);
    new.see("label", &input).unwrap();
    assert!(near(&new.score("dfew").unwrap().probabilities, &scores.probabilities));
}

/// The bundle with other prompts and label sets.
fn changed(change: impl FnOnce(&mut Header)) -> Bundle {
    let mut head = bundle().header().clone();
    change(&mut head);
    let own_head = bundle().has("decoder.head.weight");
    Bundle::from_bytes(write::write_bytes(&head, own_head, &mut write::Stored(bundle())).unwrap()).unwrap()
}

#[test]
fn scores_are_the_likelihoods_of_the_labels_one_by_one() {
    let set = LabelSet {
        name: "own".into(),
        labels: vec!["a".into(), "b".into(), "c".into()],
        prefix: vec![60, 61],
        tokens: vec![vec![300, 17], vec![301, 302, 303, 17], vec![300, 44, 17]],
        temperature: 0.5,
        shift: None,
    };
    // Every label is also the end of a prompt, token by token, whose next token's likelihood can be asked for.
    let with = changed(|head| {
        let plain = head.prompts[0].clone();
        for (i, label) in set.tokens.iter().enumerate() {
            for j in 0..label.len() {
                let mut pieces = plain.video.clone();
                pieces.push(Piece::Text([&set.prefix, &label[..j]].concat()));
                let name = format!("own-{i}-{j}");
                head.prompts.push(Prompt { name, video: pieces, ..plain.clone() });
            }
        }
        head.label_sets.push(set.clone());
    });
    let clip = fixture::clip();
    let frames = frames(&clip, [0, 2, 4, 6, 8, 10, 12, 14]);
    let input = Input { frames: Some(&frames), samples: None, words: None };
    for device in [Device::Scalar, Device::Cpu] {
        let mut model = model::load(&with, device, 2).unwrap();
        let plain = with.prompts()[0].name.clone();
        model.see(&plain, &input).unwrap();
        let scores = model.score("own").unwrap().probabilities.clone();
        model.set_decoding(Decoding { max_new_tokens: Some(1), ..Decoding::default() }).unwrap();
        let taps = Taps::of(["prefill_logits"]);
        model.observe(Some(Box::new(taps.clone())));
        let mut weights = Vec::new();
        for (i, label) in set.tokens.iter().enumerate() {
            let mut sum = 0.0;
            for (j, id) in label.iter().enumerate() {
                model.ask(&format!("own-{i}-{j}")).unwrap();
                model.reason(&mut |_| {}).unwrap();
                let logits = taps.take().remove(0).values;
                let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
                sum += f64::from(logits[*id as usize]) - total.ln();
            }
            weights.push((sum / label.len() as f64 / f64::from(set.temperature)).exp());
        }
        let total: f64 = weights.iter().sum();
        let expected: Vec<f32> = weights.iter().map(|w| (w / total) as f32).collect();
        assert!(near(&scores, &expected), "{device:?}: {scores:?} beside {expected:?}");
    }
}

#[test]
fn sound_alone_is_seen_and_every_set_sums_to_one() {
    let clip = fixture::clip();
    let mut model = load(Device::Cpu);
    model.see("label", &Input { frames: None, samples: Some(&clip.samples), words: None }).unwrap();
    let mut quiet = load(Device::Cpu);
    quiet.see("label", &Input { frames: None, samples: Some(&[]), words: None }).unwrap();
    for set in ["dfew", "mafw", "ravdess"] {
        let scores = model.score(set).unwrap().probabilities.clone();
        assert_eq!(scores.len(), bundle().label_set(set).unwrap().labels.len());
        assert!(
            (scores.iter().sum::<f32>() - 1.0).abs() < 1e-5 && scores.iter().all(|p| *p > 0.0),
            "{scores:?}"
        );
        assert!(!near(&scores, &quiet.score(set).unwrap().probabilities), "silence and sound look alike");
    }
}

#[test]
fn a_constrained_answer_has_its_form() {
    let clip = fixture::clip();
    let mut model = load(Device::Cpu);
    let frames = frames(&clip, [0, 2, 4, 6, 8, 10, 12, 14]);
    model.see("reason", &Input { frames: Some(&frames), samples: None, words: None }).unwrap();
    for (sampling, most) in
        [(None, 40), (Some(Sampling { temperature: 2.0, top_k: 0, top_p: 1.0, seed: 3 }), 60)]
    {
        let constrain_to = Some("mafw".to_owned());
        model
            .set_decoding(Decoding {
                sampling,
                max_new_tokens: Some(most),
                constrain_to,
                ..Decoding::default()
            })
            .unwrap();
        let mut said = String::new();
        let reason = model.reason(&mut |some| said.push_str(some)).unwrap();
        assert_eq!(said.trim(), reason.text);
        assert!(reason.text.starts_with("<think>") && reason.text.ends_with("</answer>"), "{}", reason.text);
        assert!(reason.text.contains("</think>\n<answer>"), "{}", reason.text);
        assert_eq!(reason.text.matches('<').count(), 4, "{}", reason.text);
        let answer = reason.answer.expect("an answer");
        assert!(bundle().label_set("mafw").unwrap().labels.contains(&answer), "{answer}");
        assert!(reason.tokens <= most && reason.stop == Stop::EndOfText && reason.think.is_some());
    }
    let tight =
        Decoding { max_new_tokens: Some(5), constrain_to: Some("dfew".into()), ..Decoding::default() };
    assert!(model.set_decoding(tight).unwrap_err().to_string().contains("dfew"));
}

/// The likeliest answer without its longest word, and a drawn one: neither has a word that begins so.
#[test]
fn what_is_to_be_avoided_is_not_said() {
    let default = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default.gguf")).unwrap();
    let mut model = model::load(&default, Device::Cpu, 2).unwrap();
    let sound: Vec<f32> = (0..64_000).map(|i| 0.2 * (i as f32 * 0.06).sin()).collect();
    model.see("reason", &Input { frames: None, samples: Some(&sound), words: None }).unwrap();
    let mut reason = |sampling, avoid: &[String]| {
        model.set_decoding(Decoding { sampling, avoid: avoid.to_vec(), ..Decoding::default() }).unwrap();
        model.reason(&mut |_| {}).unwrap().text
    };
    let said =
        |text: &str, word: &str| text.split(|c: char| !c.is_alphanumeric()).any(|own| own.starts_with(word));
    let mut avoid = Vec::new();
    for _ in 0..4 {
        let likeliest = reason(None, &avoid);
        assert!(avoid.iter().all(|word| !said(&likeliest, word)), "{avoid:?} in {likeliest}");
        let drawn = reason(Some(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 7 }), &avoid);
        assert!(avoid.iter().all(|word| !said(&drawn, word)), "{avoid:?} in {drawn}");
        let words = likeliest.split(|c: char| !c.is_alphanumeric());
        let words = words.filter(|word| !["think", "answer"].contains(word));
        avoid.push(words.max_by_key(|word| word.len()).unwrap().to_owned());
    }
    assert_ne!(reason(None, &[]), reason(None, &avoid));
}

#[test]
fn a_seed_repeats_its_answer() {
    let clip = fixture::clip();
    let mut model = load(Device::Cpu);
    model.see("reason", &Input { frames: None, samples: Some(&clip.samples), words: None }).unwrap();
    let mut draw = |seed| {
        let sampling = Some(Sampling { temperature: 1.0, top_k: 50, top_p: 0.95, seed });
        model.set_decoding(Decoding { sampling, max_new_tokens: Some(16), ..Decoding::default() }).unwrap();
        model.reason(&mut |_| {}).unwrap().text
    };
    let first = draw(1);
    assert_eq!(draw(1), first);
    assert_ne!(draw(2), first);
}

#[test]
fn whoever_watches_changes_nothing() {
    let clip = fixture::clip();
    let frames = frames(&clip, [0, 2, 4, 6, 8, 10, 12, 14]);
    let input = Input { frames: Some(&frames), samples: Some(&clip.samples), words: None };
    let mut model = load(Device::Cpu);
    model.set_decoding(Decoding { max_new_tokens: Some(4), ..Decoding::default() }).unwrap();
    let mut once = |observer: Option<Box<dyn Observer>>| {
        model.observe(observer);
        model.see("reason", &input).unwrap();
        (model.score("dfew").unwrap().clone(), model.reason(&mut |_| {}).unwrap())
    };
    let alone = once(None);
    let stages = Stages::default();
    assert_eq!(once(Some(Box::new(stages.clone()))), alone);
    assert_eq!(once(Some(Box::new(Taps::of(stages::STAGES)))), alone);
    let names: Vec<_> = stages.take().into_iter().map(|s| (s.name, s.calls, s.cost.operations > 0)).collect();
    let frames_were_known = [
        ("mel", 1, false),
        ("audio", 1, true),
        ("prefill", 1, true),
        ("score", 1, true),
        ("decode", 4, true),
    ];
    assert_eq!(names, frames_were_known);
}

#[test]
fn what_cannot_be_seen_is_refused_by_name() {
    let clip = fixture::clip();
    let mut model = load(Device::Cpu);
    let refused = |result: anyhow::Result<()>, word: &str| {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(word), "{error} does not name {word}");
    };
    refused(model.ask("label"), "no window");
    refused(model.score("dfew").map(drop), "no window");
    refused(
        model.see("label", &Input { frames: None, samples: None, words: None }),
        "without video and without audio",
    );
    let good = frames(&clip, [0, 1, 2, 3, 4, 5, 6, 7]);
    refused(model.see("lable", &Input { frames: Some(&good), samples: None, words: None }), "`lable`");
    refused(model.see("label", &Input { frames: Some(&good[..7]), samples: None, words: None }), "7 frames");
    let short = Frame { rgb: vec![0; 5], ..clip.frames[0].clone() };
    let mut bad = good;
    bad[3] = (99, &short);
    refused(model.see("label", &Input { frames: Some(&bad), samples: None, words: None }), "frame 99");
    model.see("label", &Input { frames: Some(&good), samples: None, words: None }).unwrap();
    refused(model.score("emotions").map(drop), "`emotions`");
    let hot = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
    refused(model.set_decoding(Decoding { sampling: Some(hot), ..Decoding::default() }), "temperature");
}

/// A reason that waits while windows are scored is the one that would have been written at once.
#[test]
fn a_reason_goes_on_between_windows() {
    let clip = fixture::clip();
    let (first, second) =
        (frames(&clip, [0, 2, 4, 6, 8, 10, 12, 14]), frames(&clip, [1, 3, 5, 7, 9, 11, 13, 15]));
    let input = Input { frames: Some(&first), samples: Some(&clip.samples), words: None };
    let other = Input { frames: Some(&second), samples: None, words: None };
    let mut model = load(Device::Cpu);
    model.see("label", &other).unwrap();
    let scores = model.score("dfew").unwrap().clone();
    model.see("reason", &input).unwrap();
    let whole = model.reason(&mut |_| {}).unwrap();
    assert!(whole.tokens > 10, "{whole:?}");

    model.see("reason", &input).unwrap();
    assert_eq!(model.reason_on(&mut |_| {}).unwrap(), None);
    assert!(model.score("dfew").is_err(), "the prompt is the answer's");
    model.see("label", &other).unwrap();
    assert_eq!(model.cut_reason(), None, "without room it was given up");

    model.reason_between().unwrap();
    model.see("reason", &input).unwrap();
    let reason = reason_between(model.as_mut(), |model| {
        model.see("label", &other).unwrap();
        assert!(near(&model.score("dfew").unwrap().probabilities, &scores.probabilities));
        model.ask("label").unwrap();
    });
    assert_eq!(reason, whole);
    model.see("reason", &input).unwrap();
    assert_eq!(model.reason_on(&mut |_| {}).unwrap(), None);
    assert_eq!(model.cut_reason().map(|cut| (cut.tokens, cut.stop)), Some((1, Stop::Halted)));
    assert_eq!(model.cut_reason(), None);
}

/// Somebody who stops a run does not wait for the window or the answer at hand.
#[test]
fn a_halted_model_comes_back_at_once() {
    let clip = fixture::clip();
    let mut model = load(Device::Cpu);
    let window = frames(&clip, [0, 1, 2, 3, 4, 5, 6, 7]);
    let input = Input { frames: Some(&window), samples: Some(&clip.samples), words: None };
    let start = std::time::Instant::now();
    model.see("reason", &input).unwrap();
    let whole = model.reason(&mut |_| {}).unwrap();
    let took = start.elapsed();
    assert!(whole.tokens > 10 && whole.stop != Stop::Halted);

    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    model.halt_when(Halt::from([std::sync::Arc::clone(&stop)]));
    let mut said = 0;
    model.see("reason", &input).unwrap();
    let cut = model
        .reason(&mut |_| {
            said += 1;
            stop.store(said >= 3, std::sync::atomic::Ordering::Relaxed);
        })
        .unwrap();
    assert!(cut.stop == Stop::Halted && cut.tokens < whole.tokens, "{cut:?}");
    let start = std::time::Instant::now();
    let _ = model.see("reason", &input);
    assert!(start.elapsed() < took / 4, "{:?} of {took:?}", start.elapsed());
}

/// Called off at any moment, and taken up again: nothing of the undone work is left in what is kept from window to window.
#[test]
fn a_window_that_was_called_off_leaves_nothing_behind() {
    let clip = fixture::clip();
    let first = frames(&clip, [0, 1, 2, 3, 4, 5, 6, 7]);
    let next = frames(&clip, [2, 3, 4, 5, 6, 7, 8, 9]);
    let input = Input { frames: Some(&next), samples: Some(&clip.samples), words: None };
    let scores = |model: &mut dyn Infer| {
        model.see("label", &input).unwrap();
        model.score("dfew").unwrap().clone()
    };
    let mut model = load(Device::Cpu);
    let start = std::time::Instant::now();
    let expected = scores(model.as_mut());
    let took = start.elapsed();

    let halt = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut shortest = took;
    for part in 0..24 {
        // Some have kept something of a window before, some are called off at their first.
        if part % 2 == 0 {
            model = load(Device::Cpu);
        }
        model.halt_when(Halt::from([std::sync::Arc::clone(&halt)]));
        if part % 4 != 0 {
            model.see("label", &Input { frames: Some(&first), samples: None, words: None }).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(took * part / 20);
                halt.store(true, std::sync::atomic::Ordering::Release);
            });
            let start = std::time::Instant::now();
            let _ = model.see("label", &input).and_then(|()| model.score("dfew").map(drop));
            shortest = shortest.min(start.elapsed());
        });
        halt.store(false, std::sync::atomic::Ordering::Release);
        assert_eq!(scores(model.as_mut()), expected, "called off after {part}/20");
    }
    assert!(shortest < took / 2, "{shortest:?} of {took:?}");
}
