#!/usr/bin/env python3
"""A recogniser's folder, as transformers saves it, from one that CTranslate2 reads: what `mien pack --whisper` takes.

    whisper.py FOLDER OUT
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from trained import attention, read, stack, tower


def decoder(stored):
    """The decoder under the names that transformers has for it."""
    part, out, layers = stack(stored, "decoder", [("attention", "encoder_attn_layer_norm")])
    out |= {"embed_tokens.weight": part["embeddings/weight"], "embed_positions.weight": part["position_encodings/encodings"]}
    for i in range(layers):
        here, there = f"layer_{i}/attention", f"layers.{i}.encoder_attn"
        for end in ("weight", "bias"):
            out |= attention(there, end, part[f"{here}/linear_0/{end}"], *np.split(part[f"{here}/linear_1/{end}"], 2))
            out[f"{there}.out_proj.{end}"] = part[f"{here}/linear_2/{end}"]
    return {n: np.ascontiguousarray(v) for n, v in out.items()}, layers


def main(source, target):
    source, target = Path(source), Path(target)
    stored = read(source / "model.bin")
    (ear, ear_layers), (words, layers) = tower(stored), decoder(stored)
    settings = json.loads((source / "config.json").read_text())
    tokens = {t["content"]: t["id"] for t in json.loads((source / "tokenizer.json").read_text())["added_tokens"]}
    width, mels, _ = ear["conv1.weight"].shape
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tokenizer.json", target)
    write = lambda name, keys: (target / name).write_text(json.dumps(keys, indent=1))
    write("config.json", {
        "model_type": "whisper", "d_model": width, "num_mel_bins": mels, "vocab_size": len(words["embed_tokens.weight"]),
        "encoder_layers": ear_layers, "encoder_attention_heads": width // 64, "encoder_ffn_dim": len(ear["layers.0.fc1.bias"]),
        "decoder_layers": layers, "decoder_attention_heads": width // 64, "decoder_ffn_dim": len(words["layers.0.fc1.bias"]),
        "max_source_positions": len(ear["embed_positions.weight"]), "max_target_positions": len(words["embed_positions.weight"])})
    # An English-only vocabulary has GPT-2's 50,257 tokens, of which the last ends a text; the others have one more.
    english = tokens["<|endoftext|>"] == 50256
    write("generation_config.json", {
        "decoder_start_token_id": tokens["<|startoftranscript|>"], "eos_token_id": tokens["<|endoftext|>"],
        "no_timestamps_token_id": tokens["<|notimestamps|>"], "is_multilingual": not english,
        "suppress_tokens": [t for t in settings["suppress_ids"] if t < tokens["<|endoftext|>"]],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "lang_to_id": {name: id for name, id in tokens.items() if 2 <= len(name.strip("<|>")) <= 3},
        "task_to_id": {"transcribe": tokens["<|transcribe|>"]}})
    weights = {"model.encoder." + n: v for n, v in ear.items()} | {"model.decoder." + n: v for n, v in words.items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    print(f"{target}: {ear_layers} + {layers} layers of {width}, {mels} bands, {len(words['embed_tokens.weight'])} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
