#!/usr/bin/env python3
"""A checkpoint in the published layout whose audio tower was trained: Whisper tiny.en as a package ships it (CTranslate2, f16, MIT), in the
small random model of tests/fixtures. What quantising does to a tower shows on trained weights alone; random ones understate it.

    trained.py MODEL.bin OUT       writes the four folders into OUT
"""
import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "fixtures"))
import make  # noqa: E402

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
PROJECTOR = "model.audio_projector.0.weight"


def read(path):
    """The tensors of a CTranslate2 file of version 6: name, shape, type, bytes; integers little-endian."""
    data, at = Path(path).read_bytes(), 0

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize("<" + form)
        return value

    def word():
        nonlocal at
        count = take("H")
        at += count
        return data[at - count:at - 1].decode()

    take("I"), word(), take("I")
    out = {}
    for _ in range(take("I")):
        name = word()
        shape = [take("I") for _ in range(take("B"))]
        kind, count = TYPES[take("B")], take("I")
        out[name] = np.frombuffer(data, kind, int(np.prod(shape)), at).reshape(shape)
        at += count
    return out


def attention(name, end, q, k, v):
    """Weights or biases of queries, keys and values; Whisper's keys have no bias."""
    if end == "bias" and np.abs(k).max() > 0:
        raise ValueError(f"the keys of {name} have a bias, which Whisper's have not")
    return {f"{name}.{part}_proj.{end}": value for part, value in zip("qkv", (q, k, v)) if (part, end) != ("k", "bias")}


def stack(stored, side, more_norms=()):
    """The layers of the encoder or decoder under the names that transformers has: what is stored of it, its layers so named, their number."""
    part = {n.removeprefix(f"{side}/"): v.astype(np.float32) for n, v in stored.items() if n.startswith(f"{side}/")}
    out, norms = {}, {"layer_norm": "layer_norm"}
    layers = 1 + max(int(n.split("/")[0][6:]) for n in part if n.startswith("layer_") and n[6].isdigit())
    for i in range(layers):
        here, there = f"layer_{i}", f"layers.{i}"
        named = (("self_attention", "self_attn_layer_norm"), ("ffn", "final_layer_norm"), *more_norms)
        norms |= {f"{here}/{theirs}/layer_norm": f"{there}.{name}" for theirs, name in named}
        for end in ("weight", "bias"):
            out |= attention(f"{there}.self_attn", end, *np.split(part[f"{here}/self_attention/linear_0/{end}"], 3))
            out[f"{there}.self_attn.out_proj.{end}"] = part[f"{here}/self_attention/linear_1/{end}"]
            out |= {f"{there}.fc{n + 1}.{end}": part[f"{here}/ffn/linear_{n}/{end}"] for n in (0, 1)}
    for here, there in norms.items():
        out |= {f"{there}.weight": part[f"{here}/gamma"], f"{there}.bias": part[f"{here}/beta"]}
    return part, out, layers


def tower(stored):
    """The encoder under the names that transformers has for it."""
    part, out, layers = stack(stored, "encoder")
    out["embed_positions.weight"] = part["position_encodings/encodings"]
    for conv in ("conv1", "conv2"):
        out |= {f"{conv}.{end}": part[f"{conv}/{end}"] for end in ("weight", "bias")}
    return {n: np.ascontiguousarray(v) for n, v in out.items()}, layers


def main(model, target):
    values, layers = tower(read(model))
    width, mels, _ = values["conv1.weight"].shape
    target = Path(target)
    shutil.copytree(make.HERE / "checkpoint", target, dirs_exist_ok=True)

    def change(path, **keys):
        text = json.loads((target / path).read_text())
        (target / path).write_text(json.dumps({**text, **keys}, indent=1))
    change(f"{make.OMNI}/config.json", audio_hidden_size=width)
    change(f"{make.WHISPER}/config.json", d_model=width, encoder_layers=layers, encoder_attention_heads=width // 64,
           encoder_ffn_dim=len(values["layers.0.fc1.bias"]), num_mel_bins=mels)
    change(f"{make.WHISPER}/preprocessor_config.json", feature_size=mels)
    for folder in (make.OMNI, make.SIGLIP):
        out = {}
        for t in json.loads((make.HERE / "checkpoint.json").read_text())[folder]:
            if t["name"].startswith("model.audio_tower."):
                continue
            shape = [t["shape"][0], width] if t["name"] == PROJECTOR else t["shape"]
            out[t["name"]] = make.numbers(t["numbers"], shape, t["offset"], t["power"])
        save_file(out, target / folder / "model.safetensors", metadata={"format": "pt"})
    save_file({"model.encoder." + n: v for n, v in values.items()}, target / make.WHISPER / "model.safetensors", metadata={"format": "pt"})
    print(f"{target}: an audio tower of {layers} layers of {width}, {mels} bands, trained; the rest is random")


if __name__ == "__main__":
    main(*sys.argv[1:])
