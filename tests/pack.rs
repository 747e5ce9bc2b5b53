//! Published checkpoint folders to bundles: every tensor in its place, prompts as upstream tokenises them, the gate against f64.

mod published;

use mien::bundle::gate::WordPieces;
use mien::bundle::import::{self, Options, Towers};
use mien::bundle::{Bundle, Kind, Piece, block};
use published::{Checkpoint, Tensors};
use std::path::Path;

/// Packs and opens.
fn packed(root: &Path, change: impl FnOnce(&mut Options)) -> anyhow::Result<Bundle> {
    let mut options = Options::new(root, Kind::F32);
    change(&mut options);
    let out = tempfile::tempdir()?;
    let path = out.path().join("bundle.gguf");
    import::pack(&options, &path, &mut |_| ())?;
    Bundle::open(&path)
}

fn written(checkpoint: &Checkpoint) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    checkpoint.write(root.path());
    root
}

fn flat(pieces: &[Piece]) -> Vec<i64> {
    let ids = |piece: &Piece| match piece {
        Piece::Text(ids) => ids.iter().map(|&id| i64::from(id)).collect(),
        Piece::Video => vec![-201],
        Piece::Audio => vec![-202],
        Piece::Words => vec![-203],
    };
    pieces.iter().flat_map(ids).collect()
}

/// Values of a tensor of a folder, in the order of the bundle.
fn expected(checkpoint: &Checkpoint, ours: &str) -> Vec<f32> {
    let (tensors, name): (&Tensors, &str) = match ours {
        "decoder.embed.weight" => (&checkpoint.omni, "model.embed_tokens.weight"),
        "decoder.1.attn_k.bias" => (&checkpoint.omni, "model.layers.1.self_attn.k_proj.bias"),
        "decoder.0.attn_o.weight" => (&checkpoint.omni, "model.layers.0.self_attn.o_proj.weight"),
        "decoder.1.ffn_norm.weight" => (&checkpoint.omni, "model.layers.1.post_attention_layernorm.weight"),
        "decoder.0.ffn_down.weight" => (&checkpoint.omni, "model.layers.0.mlp.down_proj.weight"),
        "decoder.norm.weight" => (&checkpoint.omni, "model.norm.weight"),
        "vision.patch.weight" => (&checkpoint.vision, "vision_model.embeddings.patch_embedding.weight"),
        "vision.position.weight" => (&checkpoint.vision, "vision_model.embeddings.position_embedding.weight"),
        "vision.0.ln2.bias" => (&checkpoint.vision, "vision_model.encoder.layers.0.layer_norm2.bias"),
        "vision.0.attn_o.weight" => {
            (&checkpoint.vision, "vision_model.encoder.layers.0.self_attn.out_proj.weight")
        }
        "vision.0.fc1.weight" => (&checkpoint.vision, "vision_model.encoder.layers.0.mlp.fc1.weight"),
        "audio.position.weight" => (&checkpoint.audio, "model.encoder.embed_positions.weight"),
        "audio.0.ln1.weight" => (&checkpoint.audio, "model.encoder.layers.0.self_attn_layer_norm.weight"),
        "audio.0.ln2.weight" => (&checkpoint.audio, "model.encoder.layers.0.final_layer_norm.weight"),
        "audio.0.attn_v.bias" => (&checkpoint.audio, "model.encoder.layers.0.self_attn.v_proj.bias"),
        "audio.0.fc2.weight" => (&checkpoint.audio, "model.encoder.layers.0.fc2.weight"),
        "audio.norm.bias" => (&checkpoint.audio, "model.encoder.layer_norm.bias"),
        "fusion.video.s1.b1.short.weight" => {
            (&checkpoint.omni, "model.mm_projector.s1_video.b1.downsample.conv.weight")
        }
        "fusion.body.s2.b2.conv3.weight" => {
            (&checkpoint.omni, "model.mm_projector.s2_body.b2.conv3.conv.weight")
        }
        "fusion.body.s1.b2.norm2.weight" => {
            (&checkpoint.omni, "model.mm_projector.s1_body.b2.conv2.bn.weight")
        }
        "fusion.video.s2.b1.se1.weight" => (&checkpoint.omni, "model.mm_projector.s2_video.b1.se.fc1.weight"),
        "fusion.video.s1.b1.se2.bias" => (&checkpoint.omni, "model.mm_projector.s1_video.b1.se.fc2.bias"),
        "fusion.body.readout2.weight" => (&checkpoint.omni, "model.mm_projector.readout_body.2.weight"),
        "fusion.face.fc1.weight" => (&checkpoint.omni, "model.mm_projector.mlp_2xgelu_face.0.weight"),
        "fusion.audio.fc2.bias" => (&checkpoint.omni, "model.audio_projector.2.bias"),
        other => panic!("no expectation for {other}"),
    };
    tensors.0[name].values.clone()
}

const PLAIN: [&str; 25] = [
    "decoder.embed.weight",
    "decoder.1.attn_k.bias",
    "decoder.0.attn_o.weight",
    "decoder.1.ffn_norm.weight",
    "decoder.0.ffn_down.weight",
    "decoder.norm.weight",
    "vision.patch.weight",
    "vision.position.weight",
    "vision.0.ln2.bias",
    "vision.0.attn_o.weight",
    "vision.0.fc1.weight",
    "audio.position.weight",
    "audio.0.ln1.weight",
    "audio.0.ln2.weight",
    "audio.0.attn_v.bias",
    "audio.0.fc2.weight",
    "audio.norm.bias",
    "fusion.video.s1.b1.short.weight",
    "fusion.body.s2.b2.conv3.weight",
    "fusion.body.s1.b2.norm2.weight",
    "fusion.video.s2.b1.se1.weight",
    "fusion.video.s1.b1.se2.bias",
    "fusion.body.readout2.weight",
    "fusion.face.fc1.weight",
    "fusion.audio.fc2.bias",
];

#[test]
fn tensors_stand_in_their_places() {
    let checkpoint = Checkpoint::small();
    let root = written(&checkpoint);
    let bundle = packed(root.path(), |_| ()).unwrap();
    for name in PLAIN {
        assert_eq!(bundle.vector(name).unwrap(), expected(&checkpoint, name), "{name}");
    }
    assert!(!bundle.has("vision.1.ln1.weight"), "the last vision layer is dropped");
    assert!(!bundle.has("audio.0.attn_k.bias") && !bundle.has("decoder.head.weight"));
    assert_eq!(bundle.shape().vision.layers, 1);
    assert_eq!((bundle.shape().image, bundle.shape().patch), (16, 4));
    assert_eq!((bundle.shape().mels, bundle.shape().audio_positions), (8, 12));
    assert_eq!(bundle.shape().vision.n_heads, 3);

    // (out, in, tap) becomes (out, tap, in).
    let conv = &checkpoint.audio.0["model.encoder.conv1.weight"].values;
    let ours = bundle.tensor("audio.conv1.weight").unwrap();
    assert_eq!((ours.rows, ours.cols), (32, 24));
    let ours = ours.values();
    for (out, input, tap) in [(0, 0, 0), (0, 1, 0), (5, 7, 2), (31, 3, 1)] {
        assert_eq!(ours[out * 24 + tap * 8 + input], conv[out * 24 + input * 3 + tap]);
    }
    // (out, in, time, y, x) becomes (out, time, y, x, in).
    let conv = &checkpoint.omni.0["model.mm_projector.sampler_body.0.weight"].values;
    let ours = bundle.vector("fusion.body.sampler.weight").unwrap();
    for (out, input, time, y, x) in [(0, 0, 0, 0, 1), (3, 9, 1, 0, 0), (31, 31, 0, 1, 0), (8, 2, 1, 1, 1)] {
        let tap = time * 4 + y * 2 + x;
        assert_eq!(ours[out * 256 + tap * 32 + input], conv[out * 256 + input * 8 + tap]);
    }
    // (channel, 1, y, x) becomes (y, x, channel).
    let conv = &checkpoint.omni.0["model.mm_projector.s1_video.b2.conv2.conv.weight"].values;
    let ours = bundle.tensor("fusion.video.s1.b2.conv2.weight").unwrap();
    assert_eq!((ours.rows, ours.cols, ours.kind), (9, 32, Kind::F32));
    let ours = ours.values();
    for (channel, tap) in [(0, 0), (1, 0), (31, 8), (4, 5)] {
        assert_eq!(ours[tap * 32 + channel], conv[channel * 9 + tap]);
    }
}

#[test]
fn kinds_are_those_of_the_block_formats() {
    let checkpoint = Checkpoint::small();
    let root = written(&checkpoint);
    for quant in [Kind::F16, Kind::Q8_0, Kind::Q4_0] {
        let bundle = packed(root.path(), |o| o.quant = quant.into()).unwrap();
        let mut wanted = Vec::new();
        block::encode(quant, &expected(&checkpoint, "decoder.0.ffn_down.weight"), &mut wanted).unwrap();
        let tensor = bundle.tensor("decoder.0.ffn_down.weight").unwrap();
        assert_eq!((tensor.kind, tensor.data), (quant, wanted.as_slice()));
        // 24 columns are no whole blocks.
        assert_eq!(bundle.tensor("audio.conv1.weight").unwrap().kind, Kind::F16);
        assert_eq!(bundle.tensor("vision.position.weight").unwrap().kind, Kind::F32);
    }
}

#[test]
fn prompts_are_tokenised_as_upstream_does() {
    // Recorded from the published tokenizer class of transformers 4.49 with this vocabulary, cut at the tags as upstream does.
    const BEFORE: &[i64] = &[
        271, 82, 88, 82, 83, 68, 76, 198, 56, 78, 84, 220, 64, 81, 68, 220, 64, 220, 71, 68, 75, 79, 69, 84,
        75, 220, 64, 82, 82, 72, 82, 83, 256, 83, 13, 272, 198, 271, 84, 82, 268, 198,
    ];
    const VIDEO: &[i64] =
        &[27, 85, 72, 62, 82, 83, 64, 81, 83, 29, -201, 27, 85, 72, 62, 68, 77, 67, 29, 198];
    const AUDIO: &[i64] =
        &[27, 64, 84, 62, 82, 83, 64, 81, 83, 29, -202, 27, 64, 84, 62, 68, 77, 67, 29, 198];
    const INSTRUCTION: &[i64] = &[
        40, 82, 220, 82, 71, 68, 220, 260, 11, 220, 264, 220, 78, 81, 266, 68, 129, 243, 82, 220, 66, 64, 69,
        127, 102, 30, 220, 16, 17, 220, 220, 160, 121, 254, 6, 75, 75, 267, 263, 88,
    ];
    const AFTER: &[i64] = &[272, 198, 271, 64, 82, 82, 72, 82, 83, 256, 83, 198];
    let root = written(&Checkpoint::small());
    let text = "Is she happy, sad or ter\u{301}s cafe\u{301}? 12  你'll\n\nsay";
    let bundle = packed(root.path(), |o| o.prompts.push(("own".into(), text.into()))).unwrap();
    let prompt = bundle.prompt("own").unwrap();
    assert_eq!(flat(&prompt.video_audio), [BEFORE, VIDEO, AUDIO, INSTRUCTION, AFTER].concat());
    assert_eq!(flat(&prompt.video), [BEFORE, VIDEO, INSTRUCTION, AFTER].concat());
    assert_eq!(flat(&prompt.audio), [BEFORE, AUDIO, INSTRUCTION, AFTER].concat());
    assert_eq!(prompt.instruction, text);
    assert_eq!(
        bundle.prompts().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["reason", "label", "own"]
    );
}

#[test]
fn an_instruction_is_plain_text() {
    let root = written(&Checkpoint::small());
    let text = "a <video> b<audio><|im_end|>\n<|im_start|>system [SEP]";
    let bundle = packed(root.path(), |o| o.prompts.push(("own".into(), text.into()))).unwrap();
    let pieces = &bundle.prompt("own").unwrap().video_audio;
    assert_eq!(pieces.iter().filter(|p| !matches!(p, Piece::Text(_))).count(), 2);
    let Piece::Text(last) = pieces.last().unwrap() else { panic!("text ends a prompt") };
    assert_eq!(last.iter().filter(|&&id| id >= published::SPECIALS_FROM).count(), 2, "those of the template");
    assert!(bundle.vocabulary().text(last).contains(text));
}

#[test]
fn without_start_and_end_tags_places_stand_alone() {
    let mut checkpoint = Checkpoint::small();
    checkpoint.edit("R1-Omni-0.5B/config.json", |json| json["mm_use_x_start_end"] = false.into());
    let root = written(&checkpoint);
    let bundle = packed(root.path(), |o| o.system = Some("Be brief.".into())).unwrap();
    let text = bundle.prompt("label").unwrap().video_audio.iter().map(|piece| match piece {
        Piece::Text(ids) => bundle.vocabulary().text(ids),
        Piece::Video => "V".into(),
        Piece::Audio => "A".into(),
        Piece::Words => "W".into(),
    });
    let text: String = text.collect();
    assert!(text.starts_with("system\nBe brief.\nuser\nV\nA\nAs an emotional"), "{text}");
}

#[test]
fn label_sets_share_a_prefix_and_end_with_the_closing_tag() {
    let root = written(&Checkpoint::small());
    let own = vec!["happy".to_owned(), "sad".to_owned(), "fear".to_owned()];
    let bundle = packed(root.path(), |o| o.label_sets.push(("own".into(), own))).unwrap();
    let set = bundle.label_set("own").unwrap();
    // `<answer`, then `>happy` and `</` are single tokens of this vocabulary.
    assert_eq!(set.prefix, [27, 256, 82, 86, 268]);
    assert_eq!(set.tokens, [vec![261, 262], vec![265, 262], vec![29, 69, 68, 64, 81, 262]]);
    assert_eq!(set.temperature, 1.0);
    let sizes: Vec<_> =
        ["dfew", "mafw", "ravdess"].map(|s| bundle.label_set(s).unwrap().labels.len()).to_vec();
    assert_eq!(sizes, [7, 11, 8]);
    assert_eq!(bundle.marks().answer_close, [262, 256, 82, 86, 268, 29]);
}

#[test]
fn word_pieces_are_those_of_bert() {
    let words = WordPieces::new(published::bert_vocab().as_bytes()).unwrap();
    // Recorded from BertTokenizer of transformers 4.49 with this vocabulary.
    for (text, ids) in [
        ("The EMOTION; expert[s]?", vec![2, 71, 73, 60, 76, 64, 23, 65, 62, 3]),
        ("Café naïve 你好, \u{200b}\tx\0y ", vec![2, 77, 18, 31, 39, 52, 35, 78, 1, 58, 28, 55, 3]),
        (" ", vec![2, 3]),
        (&("a".repeat(101) + " the"), vec![2, 1, 71, 3]),
        ("Œuvre <video> 12 don't", vec![2, 1, 66, 72, 67, 1, 8, 45, 44, 63, 24, 3]),
    ] {
        assert_eq!(words.ids(text, 64).unwrap(), ids, "{text}");
    }
    let long = words.ids(&"say ".repeat(200), 64).unwrap();
    assert_eq!((long.len(), &long[60..]), (64, &[55, 23, 31, 3][..]));
    assert!(WordPieces::new(b"a\nb\n").is_err());
}

#[test]
fn the_gate_agrees_with_f64() {
    let checkpoint = Checkpoint::small();
    let root = written(&checkpoint);
    let text = "the emotion video";
    let bundle = packed(root.path(), |o| o.prompts.push(("own".into(), text.into()))).unwrap();
    let ids = WordPieces::new(published::bert_vocab().as_bytes()).unwrap().ids(text, 64).unwrap();
    let wanted = gate_f64(&checkpoint.omni, &ids);
    let found = bundle.prompt("own").unwrap().gate;
    for (a, b) in found.iter().zip(wanted) {
        assert!((f64::from(*a) - b).abs() < 1e-6, "{found:?} {wanted:?}");
    }
    let reason = bundle.prompt("reason").unwrap().gate;
    assert!(
        found.iter().zip(reason).any(|(a, b)| (a - b).abs() > 1e-4),
        "the gate depends on the instruction"
    );
}

#[test]
fn a_given_gate_needs_no_bert() {
    let mut checkpoint = Checkpoint::small().without("bert-base-uncased");
    checkpoint.omni.0.retain(|name, _| !name.contains("bert"));
    let root = written(&checkpoint);
    let error = format!("{:#}", packed(root.path(), |_| ()).err().unwrap());
    assert!(
        error.contains("--gate") && error.contains("--bert-vocab") && error.contains("vocab.txt"),
        "{error}"
    );
    let bundle = packed(root.path(), |o| o.gate = Some([0.5, 0.25, 0.25])).unwrap();
    assert_eq!(bundle.prompt("label").unwrap().gate, [0.5, 0.25, 0.25]);
}

#[test]
fn a_vocabulary_alone_is_enough_for_the_gate() {
    let mut checkpoint = Checkpoint::small();
    let root = written(&checkpoint);
    checkpoint = checkpoint.without("bert-base-uncased");
    let alone = written(&checkpoint);
    let vocab = root.path().join("bert-base-uncased/vocab.txt");
    // 16 wide BERT is no heads of 64: the config is needed.
    let error = format!("{:#}", packed(alone.path(), |o| o.bert_vocab = Some(vocab.clone())).err().unwrap());
    assert!(error.contains("bert-base-uncased"), "{error}");
}

#[test]
fn towers_come_from_beside_or_from_inside() {
    let mut checkpoint = Checkpoint::small();
    for (name, stored) in checkpoint.omni.0.iter_mut().filter(|(name, _)| name.contains("_tower")) {
        assert!(!name.is_empty());
        stored.values.iter_mut().for_each(|v| *v *= 2.0);
    }
    let root = written(&checkpoint);
    let inside =
        &checkpoint.omni.0["model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc2.weight"]
            .values;
    let beside = &checkpoint.vision.0["vision_model.encoder.layers.0.mlp.fc2.weight"].values;
    let value =
        |towers| packed(root.path(), |o| o.towers = towers).unwrap().vector("vision.0.fc2.weight").unwrap();
    assert_eq!(&value(Towers::Auto), beside);
    assert_eq!(&value(Towers::Beside), beside);
    assert_eq!(&value(Towers::Embedded), inside);
    let sound =
        packed(root.path(), |o| o.towers = Towers::Embedded).unwrap().vector("audio.0.fc2.weight").unwrap();
    assert_eq!(sound, checkpoint.omni.0["model.audio_tower.audio_tower.encoder.layers.0.fc2.weight"].values);

    let alone = written(&checkpoint.clone().without("whisper-large-v3"));
    let error = format!("{:#}", packed(alone.path(), |o| o.towers = Towers::Beside).err().unwrap());
    assert!(error.contains("audio tower") && error.contains("--towers embedded"), "{error}");
    // Without the folder's config, 32 wide layers are no heads of 64.
    let error = format!("{:#}", packed(alone.path(), |_| ()).err().unwrap());
    assert!(error.contains("heads of 64"), "{error}");
}

#[test]
fn the_folder_may_be_the_checkpoint_or_its_parent() {
    let root = written(&Checkpoint::small());
    let (out, other) = (root.path().join("a.gguf"), root.path().join("b.gguf"));
    import::pack(&Options::new(root.path(), Kind::Q8_0), &out, &mut |_| ()).unwrap();
    import::pack(&Options::new(&root.path().join("R1-Omni-0.5B"), Kind::Q8_0), &other, &mut |_| ()).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&other).unwrap(), "same input, same bytes");
    // Elsewhere too.
    let elsewhere = written(&Checkpoint::small());
    import::pack(&Options::new(elsewhere.path(), Kind::Q8_0), &other, &mut |_| ()).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&other).unwrap());
    let bundle = Bundle::open(&out).unwrap();
    bundle.verify().unwrap();
    assert_eq!(
        (bundle.header().name.as_str(), bundle.header().license.as_str()),
        ("R1-Omni-0.5B", "apache-2.0")
    );
    assert_eq!(bundle.generation().eos, [272, 270]);
    assert_eq!(bundle.generation().repetition_penalty, 1.1);
    let sources = bundle.header().sources.join("\n");
    for file in [
        "R1-Omni-0.5B/model.safetensors",
        "R1-Omni-0.5B/generation_config.json",
        "R1-Omni-0.5B/tokenizer_config.json",
        "whisper-large-v3/model.safetensors",
        "bert-base-uncased/vocab.txt",
    ] {
        assert!(sources.contains(file), "{sources}");
    }
}

#[test]
fn until_a_bundle_is_whole_its_name_keeps_what_it_had() {
    let root = written(&Checkpoint::small());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("b.gguf");
    std::fs::write(&path, "before").unwrap();
    let mut seen = 0;
    let names = || std::fs::read_dir(out.path()).unwrap().count();
    import::pack(&Options::new(root.path(), Kind::F32), &path, &mut |at| {
        assert_eq!(std::fs::read(&path).unwrap(), b"before", "{} at {}", at.doing, at.done_bytes);
        seen += usize::from(names() == 2);
    })
    .unwrap();
    assert!(seen > 100, "only {seen} steps were told while the other file was there");
    assert_eq!(names(), 1);
    Bundle::open(&path).unwrap().verify().unwrap();
}

#[test]
fn shards_are_read_where_the_index_says() {
    let checkpoint = Checkpoint::small();
    let root = written(&checkpoint);
    let whole = packed(root.path(), |_| ()).unwrap();
    let folder = root.path().join("R1-Omni-0.5B");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for (i, part) in ["a", "b"].into_iter().enumerate() {
        let file = format!("model-{part}.safetensors");
        let half = checkpoint
            .omni
            .0
            .iter()
            .enumerate()
            .filter(|(n, _)| n % 2 == i)
            .map(|(_, (k, v))| (k.clone(), v.clone()));
        let tensors = Tensors(half.collect());
        tensors.0.keys().for_each(|name| drop(map.insert(name.clone(), file.clone().into())));
        tensors.save(&folder.join(file));
    }
    let index = folder.join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::to_vec(&serde_json::json!({ "weight_map": map })).unwrap()).unwrap();
    let sharded = packed(root.path(), |_| ()).unwrap();
    assert_eq!(sharded.digest(), whole.digest());

    for (name, file, said) in [
        ("model.norm.weight", "../../etc/passwd.safetensors", "no file of this folder"),
        ("model.norm.weight", "model-c.safetensors", "model-c.safetensors"),
        ("model.absent", "model-a.safetensors", "lacks tensor `model.absent`"),
    ] {
        let mut map = map.clone();
        map.insert(name.into(), file.into());
        std::fs::write(&index, serde_json::to_vec(&serde_json::json!({ "weight_map": map })).unwrap())
            .unwrap();
        let error = format!("{:#}", packed(root.path(), |_| ()).err().unwrap());
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_head_of_its_own_is_packed() {
    let mut checkpoint = Checkpoint::small();
    let mut head = checkpoint.omni.0["model.embed_tokens.weight"].clone();
    head.values.reverse();
    checkpoint.omni.0.insert("lm_head.weight".into(), head.clone());
    let tied = packed(written(&checkpoint).path(), |_| ()).unwrap();
    assert!(!tied.has("decoder.head.weight"));
    checkpoint.edit("R1-Omni-0.5B/config.json", |json| json["tie_word_embeddings"] = false.into());
    let own = packed(written(&checkpoint).path(), |_| ()).unwrap();
    assert_eq!(own.vector("decoder.head.weight").unwrap(), head.values);
    checkpoint.omni.0.remove("lm_head.weight");
    let error = format!("{:#}", packed(written(&checkpoint).path(), |_| ()).err().unwrap());
    assert!(error.contains("lm_head.weight"), "{error}");
}

/// BERT and the gate in plain f64 loops.
fn gate_f64(omni: &Tensors, ids: &[u32]) -> [f64; 3] {
    let get = |name: &str| -> Vec<f64> { omni.0[name].values.iter().map(|&v| f64::from(v)).collect() };
    let linear = |x: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let inputs = w.len() / b.len();
        let dot =
            |r: &[f64], o: usize| r.iter().zip(&w[o * inputs..]).map(|(x, w)| x * w).sum::<f64>() + b[o];
        x.chunks(inputs).flat_map(|r| (0..b.len()).map(|o| dot(r, o)).collect::<Vec<_>>()).collect()
    };
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let (g, b) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let row = |r: &[f64]| -> Vec<f64> {
            let n = r.len() as f64;
            let mean = r.iter().sum::<f64>() / n;
            let var = r.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            r.iter().enumerate().map(|(i, v)| (v - mean) / (var + 1e-12).sqrt() * g[i] + b[i]).collect()
        };
        x.chunks(g.len()).flat_map(row).collect()
    };
    let gelu = |x: Vec<f64>| -> Vec<f64> {
        x.into_iter().map(|v| 0.5 * v * (1.0 + libm::erf(v / 2f64.sqrt()))).collect()
    };
    let softmax = |x: &[f64]| -> Vec<f64> {
        let e: Vec<f64> = x.iter().map(|v| v.exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|v| v / sum).collect()
    };
    let sum = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
    let p = "model.bert_model";
    let words = get(&format!("{p}.embeddings.word_embeddings.weight"));
    let places = get(&format!("{p}.embeddings.position_embeddings.weight"));
    let types = get(&format!("{p}.embeddings.token_type_embeddings.weight"));
    let embed = |(row, id): (usize, &u32)| -> Vec<f64> {
        (0..16).map(|c| words[*id as usize * 16 + c] + places[row * 16 + c] + types[c]).collect()
    };
    let x: Vec<f64> = ids.iter().enumerate().flat_map(embed).collect();
    let mut x = norm(&x, &format!("{p}.embeddings.LayerNorm"));
    for layer in 0..published::BERT_LAYERS {
        let p = format!("{p}.encoder.layer.{layer}");
        let [q, k, v] = ["query", "key", "value"].map(|n| linear(&x, &format!("{p}.attention.self.{n}")));
        let mut seen = vec![0.0; x.len()];
        for head in 0..2 {
            for row in 0..ids.len() {
                let at = |r: usize, c: usize| r * 16 + head * 8 + c;
                let score = |r: usize| (0..8).map(|c| q[at(row, c)] * k[at(r, c)]).sum::<f64>() / 8f64.sqrt();
                let weights = softmax(&(0..ids.len()).map(score).collect::<Vec<_>>());
                for (r, w) in weights.iter().enumerate() {
                    (0..8).for_each(|c| seen[at(row, c)] += w * v[at(r, c)]);
                }
            }
        }
        let out = linear(&seen, &format!("{p}.attention.output.dense"));
        x = norm(&sum(&x, &out), &format!("{p}.attention.output.LayerNorm"));
        let out = linear(&gelu(linear(&x, &format!("{p}.intermediate.dense"))), &format!("{p}.output.dense"));
        x = norm(&sum(&x, &out), &format!("{p}.output.LayerNorm"));
    }
    let gate = linear(&gelu(linear(&x[..16], "model.bert_gate.0")), "model.bert_gate.2");
    softmax(&gate).try_into().unwrap()
}
