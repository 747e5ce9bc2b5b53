//! A very small checkpoint in the published layout, made of formulas. Names and shapes are written out from the published files,
//! not taken from the code under test.

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const VOCAB: usize = 300;
pub const SPECIALS_FROM: u32 = 270;
pub const GATE_HIDDEN: usize = 3584;
pub const BERT_LAYERS: usize = 2;

/// Values of a tensor as the file holds them, and how it holds them.
#[derive(Clone, Debug)]
pub struct Stored {
    pub dims: Vec<usize>,
    pub dtype: Dtype,
    pub values: Vec<f32>,
}

#[derive(Clone, Debug, Default)]
pub struct Tensors(pub BTreeMap<String, Stored>);

impl Tensors {
    pub fn put(&mut self, name: &str, dims: &[usize], dtype: Dtype) {
        let count: usize = dims.iter().product();
        let fan_in: usize = dims[1..].iter().product();
        let scale = if dims.len() == 1 { 0.3 } else { 1.5 / (fan_in as f32).sqrt() };
        let centre =
            if dims.len() == 1 && name.contains("orm") && name.ends_with("weight") { 1.0 } else { 0.0 };
        let seed = name.bytes().fold(17u64, |h, b| h.wrapping_mul(1_099_511_628_211) ^ u64::from(b));
        let value = |i: usize| {
            let mut x = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x ^= x >> 32;
            let exact = centre + scale * ((x >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
            match dtype {
                Dtype::BF16 => bf16::from_f32(exact).to_f32(),
                Dtype::F16 => f16::from_f32(exact).to_f32(),
                _ => exact,
            }
        };
        let stored = Stored { dims: dims.to_vec(), dtype, values: (0..count).map(value).collect() };
        self.0.insert(name.to_owned(), stored);
    }

    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool, dtype: Dtype) {
        self.put(&format!("{name}.weight"), &[outputs, inputs], dtype);
        if bias {
            self.put(&format!("{name}.bias"), &[outputs], dtype);
        }
    }

    pub fn norm(&mut self, name: &str, width: usize, dtype: Dtype) {
        self.put(&format!("{name}.weight"), &[width], dtype);
        self.put(&format!("{name}.bias"), &[width], dtype);
    }

    pub fn save(&self, path: &Path) {
        let bytes: Vec<(&String, &Stored, Vec<u8>)> =
            self.0.iter().map(|(n, s)| (n, s, bytes_of(s))).collect();
        let views =
            bytes.iter().map(|(n, s, b)| (n.as_str(), TensorView::new(s.dtype, s.dims.clone(), b).unwrap()));
        safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, path).unwrap();
    }
}

fn bytes_of(stored: &Stored) -> Vec<u8> {
    let values = stored.values.iter();
    match stored.dtype {
        Dtype::BF16 => values.flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.map(|v| *v as i8 as u8).collect(),
    }
}

/// The four folders before they are written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub omni: Tensors,
    pub vision: Tensors,
    pub audio: Tensors,
    /// Path below the root, and content.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Checkpoint {
    pub fn small() -> Checkpoint {
        let mut omni = Tensors::default();
        let bf = Dtype::BF16;
        omni.put("model.embed_tokens.weight", &[VOCAB, 32], bf);
        omni.put("model.norm.weight", &[32], bf);
        for i in 0..2 {
            let p = format!("model.layers.{i}");
            omni.put(&format!("{p}.input_layernorm.weight"), &[32], bf);
            omni.put(&format!("{p}.post_attention_layernorm.weight"), &[32], bf);
            omni.linear(&format!("{p}.self_attn.q_proj"), 32, 32, true, bf);
            omni.linear(&format!("{p}.self_attn.k_proj"), 16, 32, true, bf);
            omni.linear(&format!("{p}.self_attn.v_proj"), 16, 32, true, bf);
            omni.linear(&format!("{p}.self_attn.o_proj"), 32, 32, false, bf);
            omni.linear(&format!("{p}.mlp.gate_proj"), 64, 32, false, bf);
            omni.linear(&format!("{p}.mlp.up_proj"), 64, 32, false, bf);
            omni.linear(&format!("{p}.mlp.down_proj"), 32, 64, false, bf);
        }
        for branch in ["video", "body"] {
            for (stage, block, inputs) in [(1, 1, 48), (1, 2, 32), (2, 1, 32), (2, 2, 32)] {
                let p = format!("model.mm_projector.s{stage}_{branch}.b{block}");
                let squeezed = inputs / 4;
                omni.put(&format!("{p}.conv1.conv.weight"), &[32, inputs, 1, 1], bf);
                omni.put(&format!("{p}.conv2.conv.weight"), &[32, 1, 3, 3], bf);
                omni.put(&format!("{p}.conv3.conv.weight"), &[32, 32, 1, 1], bf);
                (1..=3).for_each(|n| omni.norm(&format!("{p}.conv{n}.bn"), 32, bf));
                omni.put(&format!("{p}.se.fc1.weight"), &[squeezed, 32, 1, 1], bf);
                omni.put(&format!("{p}.se.fc1.bias"), &[squeezed], bf);
                omni.put(&format!("{p}.se.fc2.weight"), &[32, squeezed, 1, 1], bf);
                omni.put(&format!("{p}.se.fc2.bias"), &[32], bf);
                if (stage, block) == (1, 1) {
                    omni.put(&format!("{p}.downsample.conv.weight"), &[32, inputs, 1, 1], bf);
                    omni.norm(&format!("{p}.downsample.bn"), 32, bf);
                }
            }
            omni.put(&format!("model.mm_projector.sampler_{branch}.0.weight"), &[32, 32, 2, 2, 2], bf);
            omni.put(&format!("model.mm_projector.sampler_{branch}.0.bias"), &[32], bf);
            omni.linear(&format!("model.mm_projector.readout_{branch}.0"), 32, 32, true, bf);
            omni.linear(&format!("model.mm_projector.readout_{branch}.2"), 32, 32, true, bf);
        }
        omni.linear("model.mm_projector.mlp_2xgelu_face.0", 32, 48, true, bf);
        omni.linear("model.mm_projector.mlp_2xgelu_face.2", 32, 32, true, bf);
        omni.linear("model.audio_projector.0", 32, 32, true, bf);
        omni.linear("model.audio_projector.2", 32, 32, true, bf);
        omni.linear("model.bert_gate.0", GATE_HIDDEN, 16, true, bf);
        omni.linear("model.bert_gate.2", 3, GATE_HIDDEN, true, bf);
        bert(&mut omni);
        omni.put("model.feature_compressor.weight", &[4, 4], bf);
        vision(&mut omni, "model.vision_tower.vision_tower.vision_model", bf);
        audio(&mut omni, "model.audio_tower.audio_tower.encoder", bf);

        let (mut vision_beside, mut audio_beside) = (Tensors::default(), Tensors::default());
        vision(&mut vision_beside, "vision_model", Dtype::F32);
        vision_beside.put("logit_scale", &[1], Dtype::F32);
        audio(&mut audio_beside, "model.encoder", Dtype::F16);
        audio_beside.put("model.decoder.layer_norm.weight", &[8], Dtype::F16);
        Checkpoint { omni, vision: vision_beside, audio: audio_beside, files: files() }
    }

    /// Writes the folders and returns the checkpoint's own.
    pub fn write(&self, root: &Path) -> PathBuf {
        for (path, content) in &self.files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let save = |tensors: &Tensors, folder: &str| {
            if root.join(folder).is_dir() && !tensors.0.is_empty() {
                tensors.save(&root.join(folder).join("model.safetensors"));
            }
        };
        save(&self.omni, "R1-Omni-0.5B");
        save(&self.vision, "siglip-base-patch16-224");
        save(&self.audio, "whisper-large-v3");
        root.join("R1-Omni-0.5B")
    }

    /// Changes one JSON file.
    pub fn edit(&mut self, path: &str, edit: impl FnOnce(&mut Value)) {
        let file = self.files.get_mut(path).unwrap();
        let mut json = serde_json::from_slice(file).unwrap();
        edit(&mut json);
        *file = serde_json::to_vec(&json).unwrap();
    }

    /// Leaves a folder out.
    pub fn without(mut self, folder: &str) -> Checkpoint {
        self.files.retain(|path, _| !path.starts_with(folder));
        self
    }
}

fn vision(out: &mut Tensors, prefix: &str, dtype: Dtype) {
    out.put(&format!("{prefix}.embeddings.patch_embedding.weight"), &[48, 3, 4, 4], dtype);
    out.put(&format!("{prefix}.embeddings.patch_embedding.bias"), &[48], dtype);
    out.put(&format!("{prefix}.embeddings.position_embedding.weight"), &[16, 48], dtype);
    for i in 0..2 {
        let p = format!("{prefix}.encoder.layers.{i}");
        out.norm(&format!("{p}.layer_norm1"), 48, dtype);
        out.norm(&format!("{p}.layer_norm2"), 48, dtype);
        for name in ["q", "k", "v", "out"] {
            out.linear(&format!("{p}.self_attn.{name}_proj"), 48, 48, true, dtype);
        }
        out.linear(&format!("{p}.mlp.fc1"), 64, 48, true, dtype);
        out.linear(&format!("{p}.mlp.fc2"), 48, 64, true, dtype);
    }
    out.norm(&format!("{prefix}.post_layernorm"), 48, dtype);
}

fn audio(out: &mut Tensors, prefix: &str, dtype: Dtype) {
    out.put(&format!("{prefix}.conv1.weight"), &[32, 8, 3], dtype);
    out.put(&format!("{prefix}.conv1.bias"), &[32], dtype);
    out.put(&format!("{prefix}.conv2.weight"), &[32, 32, 3], dtype);
    out.put(&format!("{prefix}.conv2.bias"), &[32], dtype);
    out.put(&format!("{prefix}.embed_positions.weight"), &[12, 32], dtype);
    let p = format!("{prefix}.layers.0");
    out.norm(&format!("{p}.self_attn_layer_norm"), 32, dtype);
    out.norm(&format!("{p}.final_layer_norm"), 32, dtype);
    for (name, bias) in [("q", true), ("k", false), ("v", true), ("out", true)] {
        out.linear(&format!("{p}.self_attn.{name}_proj"), 32, 32, bias, dtype);
    }
    out.linear(&format!("{p}.fc1"), 64, 32, true, dtype);
    out.linear(&format!("{p}.fc2"), 32, 64, true, dtype);
    out.norm(&format!("{prefix}.layer_norm"), 32, dtype);
}

fn bert(out: &mut Tensors) {
    let (p, bf) = ("model.bert_model", Dtype::BF16);
    out.put(&format!("{p}.embeddings.word_embeddings.weight"), &[bert_vocab().lines().count(), 16], bf);
    out.put(&format!("{p}.embeddings.position_embeddings.weight"), &[64, 16], bf);
    out.put(&format!("{p}.embeddings.token_type_embeddings.weight"), &[2, 16], bf);
    out.norm(&format!("{p}.embeddings.LayerNorm"), 16, bf);
    for i in 0..BERT_LAYERS {
        let p = format!("{p}.encoder.layer.{i}");
        for name in
            ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        {
            out.linear(&format!("{p}.{name}"), 16, 16, true, bf);
        }
        out.norm(&format!("{p}.attention.output.LayerNorm"), 16, bf);
        out.linear(&format!("{p}.intermediate.dense"), 24, 16, true, bf);
        out.linear(&format!("{p}.output.dense"), 16, 24, true, bf);
        out.norm(&format!("{p}.output.LayerNorm"), 16, bf);
    }
}

/// Word pieces: specials, letters, punctuation, a few words.
pub fn bert_vocab() -> String {
    let mut words: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
    words.extend(('a'..='z').map(String::from));
    words.extend(('a'..='z').map(|c| format!("##{c}")));
    words.extend("!,.;:?'[]<>/_-".chars().map(String::from));
    words.extend(["the", "video", "emotion", "##ing", "##tion", "expert", "cafe", "你"].map(str::to_owned));
    words.join("\n") + "\n"
}

/// Merges of the byte-level tokenizer, in order.
const MERGES: [&str; 14] = [
    "a n", "h a", "p p", "ha pp", "happ y", "> happy", "< /", "a n", "s a", "sa d", "> sad", "Ġ t", "Ċ Ċ",
    "e r",
];

/// Vocabulary (bytes, then what merges make) and merges, as vocab.json and merges.txt would hold them.
pub fn byte_level() -> (BTreeMap<String, u32>, Vec<&'static str>) {
    let mut order: Vec<String> = Vec::new();
    let prints = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    order.extend((0..256).filter(|&b| prints(b)).map(|b| char::from_u32(b).unwrap().to_string()));
    order.extend(
        (0..256)
            .filter(|&b| !prints(b))
            .enumerate()
            .map(|(i, _)| char::from_u32(256 + i as u32).unwrap().to_string()),
    );
    let mut merges = Vec::new();
    for merge in MERGES {
        let token = merge.replace(' ', "");
        if !order.contains(&token) {
            order.push(token);
            merges.push(merge);
        }
    }
    let vocab = order.into_iter().enumerate().map(|(i, token)| (token, i as u32)).collect();
    (vocab, merges)
}

/// As in the Qwen2-VL files.
const CHAT_TEMPLATE: &str = "{% set image_count = namespace(value=0) %}{% for message in messages %}\
    {% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}\
    <|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n\
    {% else %}{% for content in message['content'] %}{% if 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}\
    <|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn files() -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut put = |path: &str, json: Value| {
        out.insert(path.to_owned(), serde_json::to_vec_pretty(&json).unwrap());
    };
    put(
        "R1-Omni-0.5B/config.json",
        json!({
            "architectures": ["HumanOmniQwen2ForCausalLM"], "model_type": "HumanOmni_qwen2", "hidden_act": "silu",
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": VOCAB, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_scaling": null,
            "max_position_embeddings": 2048, "tie_word_embeddings": true, "use_sliding_window": false,
            "mm_projector_type": "all_in_one_small", "mm_audio_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch", "mm_use_x_start_end": true, "num_frames": 8, "eos_token_id": 272,
            "mm_vision_tower": "/somewhere/siglip-base-patch16-224", "mm_audio_tower": "whisper-large-v3/",
        }),
    );
    put(
        "R1-Omni-0.5B/generation_config.json",
        json!({ "do_sample": true, "eos_token_id": [272, 270], "repetition_penalty": 1.1, "temperature": 0.7 }),
    );
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>"];
    let (vocab, merges) = byte_level();
    let added = specials.iter().enumerate().map(|(i, name)| {
        json!({ "id": SPECIALS_FROM + i as u32, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    put(
        "R1-Omni-0.5B/tokenizer.json",
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": { "type": "NFC" },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }] },
            "post_processor": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges },
        }),
    );
    put(
        "R1-Omni-0.5B/tokenizer_config.json",
        json!({ "chat_template": CHAT_TEMPLATE, "tokenizer_class": "Qwen2Tokenizer" }),
    );
    put(
        "siglip-base-patch16-224/config.json",
        json!({ "model_type": "siglip", "vision_config": { "num_attention_heads": 3, "hidden_act": "gelu_pytorch_tanh" } }),
    );
    put(
        "whisper-large-v3/config.json",
        json!({ "model_type": "whisper", "encoder_attention_heads": 2, "activation_function": "gelu" }),
    );
    put("bert-base-uncased/config.json", json!({ "num_attention_heads": 2, "layer_norm_eps": 1e-12 }));
    out.insert("bert-base-uncased/vocab.txt".to_owned(), bert_vocab().into_bytes());
    out.insert("R1-Omni-0.5B/README.md".to_owned(), b"---\nlicense: apache-2.0\n---\n# R1-Omni\n".to_vec());
    out
}
