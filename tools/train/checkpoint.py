"""Checkpoints in the published layout: four folders side by side, read and written.

`R1-Omni-0.5B` holds the decoder, the projectors, BERT and copies of both towers; `siglip-base-patch16-224`, `whisper-large-v3` and
`bert-base-uncased` hold what a user of the real model downloads. A new model also gets a tokenizer trained on the world's texts.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, SiglipVisionConfig

import text
from topology import Omni, Sizes

OMNI, SIGLIP, WHISPER, BERT = "R1-Omni-0.5B", "siglip-base-patch16-224", "whisper-large-v3", "bert-base-uncased"
VISION_COPY, AUDIO_COPY = "model.vision_tower.vision_tower.", "model.audio_tower.audio_tower."
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
            "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
            "<|image_pad|>", "<|video_pad|>")
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
            + text.SYSTEM + "<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def _dump(folder, name, value):
    (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


# --- writing --------------------------------------------------------------------------------------------------------
def _write_tokenizer(folder, sizes):
    """A byte-level BPE over the world's texts. Unreachable entries fill the ids up to the special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(text.corpus(), trainers.BpeTrainer(
        vocab_size=sizes.base_vocab, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    state = json.loads(tok.to_str())
    vocab = state["model"]["vocab"]
    for i in range(len(vocab), sizes.base_vocab):
        vocab[f"~unused{i:06d}"] = i
    added = {name: sizes.base_vocab + i for i, name in enumerate(SPECIALS)}
    if max(added.values()) >= sizes.vocab:
        raise ValueError(f"{sizes.vocab} embedding rows do not hold {sizes.base_vocab} tokens and {len(SPECIALS)} special ones")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    state["added_tokens"] = [{"id": i, "content": name, **flags} for name, i in added.items()]
    _dump(folder, "tokenizer.json", state)
    _dump(folder, "vocab.json", vocab)
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{m}\n" for m in merges), encoding="utf-8")
    _dump(folder, "added_tokens.json", added)
    _dump(folder, "tokenizer_config.json", {
        "add_prefix_space": False, "added_tokens_decoder": {str(i): {"content": n, **flags} for n, i in added.items()},
        "additional_special_tokens": list(SPECIALS[1:]), "bos_token": None, "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "model_max_length": 32768,
        "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer", "unk_token": None})


def _write_words(folder):
    """BERT's word list: the special ids of bert-base-uncased, characters, and the words of the instructions."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters,
             *(f"##{c}" for c in letters if c.isalnum()), *text.instruction_words()]
    words = list(dict.fromkeys(words))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    _dump(folder, "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"})
    return len(words)


def create(root, sizes, seed=0, dtype=torch.float32):
    """A new model with random weights, and its folders, its files in `dtype`. Returns the model."""
    root = Path(root)
    _write_tokenizer(root / OMNI, sizes)
    count = _write_words(root / BERT)
    torch.manual_seed(seed)
    model = Omni(Sizes(**{**sizes.__dict__, "bert_vocab": max(count, sizes.bert_vocab)}))
    save(model, root, dtype=dtype)
    return model


def save(model, root, like=None, dtype=torch.float32):
    """Writes the four folders. `like` is a root whose tokenizer files are taken over. Nothing half-written gets a final name."""
    root, s = Path(root), model.sizes
    if like is not None and Path(like) != root:
        for part in (OMNI, BERT):
            (root / part).mkdir(parents=True, exist_ok=True)
            for name in ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "vocab.txt",
                         "chat_template.json", "special_tokens_map.json"):
                if (Path(like) / part / name).exists():
                    shutil.copy2(Path(like) / part / name, root / part / name)
    for part in (SIGLIP, WHISPER):
        (root / part).mkdir(parents=True, exist_ok=True)
    end, start = s.base_vocab + SPECIALS.index("<|im_end|>"), s.base_vocab
    _dump(root / OMNI, "config.json", {
        "architectures": ["HumanOmniQwen2ForCausalLM"], "model_type": "HumanOmni_qwen2", "hidden_act": "silu",
        "hidden_size": s.hidden, "intermediate_size": s.ffn, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "vocab_size": s.vocab, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_scaling": None, "max_position_embeddings": 32768, "tie_word_embeddings": True, "use_sliding_window": False,
        "sliding_window": None, "max_window_layers": s.layers, "bos_token_id": start, "eos_token_id": end,
        "audio_hidden_size": s.audio_hidden, "mm_hidden_size": s.vision_hidden, "mm_audio_projector_type": "mlp2x_gelu",
        "mm_audio_tower": WHISPER, "mm_projector_type": "all_in_one_small", "mm_use_x_start_end": True,
        "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": SIGLIP, "num_frames": s.frames,
        "torch_dtype": str(dtype).removeprefix("torch."), "transformers_version": "4.49.0", "use_cache": True})
    _dump(root / OMNI, "generation_config.json", {
        "bos_token_id": start, "do_sample": False, "eos_token_id": [end, start], "pad_token_id": start, "repetition_penalty": 1.0,
        "max_new_tokens": 96})
    _dump(root / SIGLIP, "config.json", {
        "architectures": ["SiglipModel"], "model_type": "siglip", "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": s.vision_hidden, "intermediate_size": s.vision_ffn,
            "num_hidden_layers": s.vision_layers, "num_attention_heads": s.vision_heads, "image_size": s.image,
            "patch_size": s.patch, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}})
    _dump(root / SIGLIP, "preprocessor_config.json", {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "image_processor_type": "SiglipImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": s.image, "width": s.image}})
    _dump(root / WHISPER, "config.json", {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "d_model": s.audio_hidden,
        "encoder_layers": s.audio_layers, "encoder_attention_heads": s.audio_heads, "encoder_ffn_dim": s.audio_ffn,
        "num_mel_bins": s.mels, "max_source_positions": s.positions, "activation_function": "gelu", "scale_embedding": False})
    seconds = s.positions // 50
    _dump(root / WHISPER, "preprocessor_config.json", {
        "chunk_length": seconds, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": s.mels, "hop_length": 160,
        "n_fft": 400, "n_samples": seconds * 16000, "nb_max_frames": s.positions * 2, "padding_side": "right", "padding_value": 0.0,
        "sampling_rate": 16000})
    _dump(root / BERT, "config.json", {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": s.bert_hidden,
        "intermediate_size": s.bert_ffn, "num_hidden_layers": s.bert_layers, "num_attention_heads": s.bert_heads,
        "vocab_size": s.bert_vocab, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "pad_token_id": 0})
    state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    _save_tensors(root / OMNI, state)
    _save_tensors(root / SIGLIP, {k.removeprefix(VISION_COPY): v for k, v in state.items() if k.startswith(VISION_COPY)})
    _save_tensors(root / WHISPER, {"model." + k.removeprefix(AUDIO_COPY): v for k, v in state.items()
                                   if k.startswith(AUDIO_COPY + "encoder.")})
    prefix = "model.bert_model."
    _save_tensors(root / BERT, {"bert." + k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _save_tensors(folder, tensors):
    part = folder / "model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt"})
    os.replace(part, folder / "model.safetensors")


# --- reading --------------------------------------------------------------------------------------------------------
class _Tensors:
    """Tensors of a folder by name, one file or sharded."""

    def __init__(self, folder):
        index = folder / "model.safetensors.index.json"
        files = sorted(set(_read(folder, index.name)["weight_map"].values())) if index.exists() else ["model.safetensors"]
        self.where = {}
        for name in files:
            handle = safe_open(folder / name, "pt")
            self.where.update({key: handle for key in handle.keys()})

    def shape(self, name):
        return self.where[name].get_slice(name).get_shape()

    def get(self, name):
        return self.where[name].get_tensor(name)


def _sizes(root, omni, vision, audio):
    """Sizes from the configs, and from the tensors where a published config leaves them to defaults."""
    c = _read(root / OMNI, "config.json")
    v = _read(root / SIGLIP, "config.json").get("vision_config", {}) if (root / SIGLIP / "config.json").exists() else {}
    a = _read(root / WHISPER, "config.json") if (root / WHISPER / "config.json").exists() else {}
    b = _read(root / BERT, "config.json")
    default = SiglipVisionConfig()
    patch_dims = vision[0].shape(vision[1] + "embeddings.patch_embedding.weight")
    positions = vision[0].shape(vision[1] + "embeddings.position_embedding.weight")[0]
    count = lambda where, stem, tail: next(i for i in range(999) if f"{stem}{i}{tail}" not in where.where)
    conv = audio[0].shape(audio[1] + "conv1.weight")
    added = root / OMNI / "added_tokens.json"
    first = _read(root / OMNI, added.name)["<|endoftext|>"] if added.exists() else c["bos_token_id"]
    return Sizes(
        hidden=c["hidden_size"], ffn=c["intermediate_size"], layers=c["num_hidden_layers"], heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"], vocab=c["vocab_size"], base_vocab=first, vision_hidden=patch_dims[0],
        vision_ffn=vision[0].shape(vision[1] + "encoder.layers.0.mlp.fc1.weight")[0],
        vision_layers=count(vision[0], vision[1] + "encoder.layers.", ".layer_norm1.weight"),
        vision_heads=v.get("num_attention_heads", default.num_attention_heads), image=int(positions**0.5) * patch_dims[-1],
        patch=patch_dims[-1], frames=c.get("num_frames", 8), audio_hidden=conv[0],
        audio_ffn=audio[0].shape(audio[1] + "layers.0.fc1.weight")[0], audio_layers=count(audio[0], audio[1] + "layers.", ".fc1.weight"),
        audio_heads=a.get("encoder_attention_heads", conv[0] // 64), mels=conv[1],
        positions=audio[0].shape(audio[1] + "embed_positions.weight")[0], bert_hidden=b.get("hidden_size", 768),
        bert_ffn=b.get("intermediate_size", 3072), bert_layers=b.get("num_hidden_layers", 12),
        bert_heads=b.get("num_attention_heads", 12),
        bert_vocab=omni.shape("model.bert_model.embeddings.word_embeddings.weight")[0])


def load(root, dtype=torch.float32):
    """The model of a folder of folders. Towers come from beside the checkpoint where they are, as upstream does, else from its copies."""
    root = Path(root)
    if not (root / OMNI / "config.json").exists():
        raise FileNotFoundError(f"{root} has no {OMNI}/config.json: give the folder that holds {OMNI}, {SIGLIP}, {WHISPER} and {BERT}")
    omni = _Tensors(root / OMNI)

    def tower(folder, beside, embedded):
        if (root / folder / "model.safetensors").exists():
            return _Tensors(root / folder), beside
        return omni, embedded
    vision = tower(SIGLIP, "vision_model.", VISION_COPY + "vision_model.")
    audio = tower(WHISPER, "model.encoder.", AUDIO_COPY + "encoder.")
    sizes = _sizes(root, omni, vision, audio)
    with torch.device("meta"):
        names = {k: tuple(v.shape) for k, v in Omni(sizes).state_dict().items()}
    state = {}
    for name, shape in names.items():
        source, there = omni, name
        for prefix, (tensors, own) in ((VISION_COPY + "vision_model.", vision), (AUDIO_COPY + "encoder.", audio)):
            if name.startswith(prefix):
                source, there = tensors, own + name.removeprefix(prefix)
        if there == "lm_head.weight" and there not in source.where:
            there = "model.embed_tokens.weight"
        if there not in source.where:
            raise KeyError(f"{root} has no tensor {there}")
        value = source.get(there)
        if tuple(value.shape) != shape:
            raise ValueError(f"tensor {there} of {root} is {tuple(value.shape)}, wanted {shape}")
        state[name] = value.to(dtype)
    model = Omni(sizes).to(dtype)
    model.load_state_dict(state)
    return model


class Words:
    """The two tokenizers of a checkpoint and the ids that matter."""

    def __init__(self, root):
        root = Path(root)
        self.tokenizer = Tokenizer.from_file(str(root / OMNI / "tokenizer.json"))
        self.bert = BertTokenizer(str(root / BERT / "vocab.txt"), do_lower_case=True)
        self.end = self.tokenizer.token_to_id("<|im_end|>")
        self.pad = self.tokenizer.token_to_id("<|endoftext|>")

    def ids(self, words):
        return self.tokenizer.encode(words, add_special_tokens=False).ids

    def text(self, ids):
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def bert_ids(self, instruction):
        return torch.tensor([self.bert(instruction, truncation=True, max_length=512)["input_ids"]])

    def pieces(self, instruction, video=True, audio=True):
        """A prompt as lists of ids and the places of the modalities."""
        return [p if p in ("video", "audio") else self.ids(p) for p in text.prompt(instruction, video, audio)]
