"""A random checkpoint and every stage of an answer to one clip, for tests/parity_lane.rs: does the engine compute what is trained?

    python dump.py FOLDER [--positions 200] [--seconds 2.5] [--clips 12]

Writes FOLDER/model (the four published folders), FOLDER/frames.npy, FOLDER/pcm.npy, and FOLDER/stages, one `.npy` per stage; of clips
of the world FOLDER/clips/test.jsonl, and FOLDER/answers.json as evaluate.py answers them, for `mien eval` to say the same.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache

import checkpoint
import data
import evaluate
import media
import text
import topology

STEPS = 32
MAX_NEW = 24


def clip(seconds, seed=0):
    """Frames `(n, height, width, 3)` and samples of a moving blot and a gliding tone."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:60, 0:80]
    n = max(1, int(seconds * 12.5))
    frames = np.stack([np.stack([128 + 100 * np.sin(0.07 * (c + 1) * x + 0.11 * y + 0.4 * t) for c in range(3)], axis=2) for t in range(n)])
    t = np.arange(int(seconds * media.RATE)) / media.RATE
    tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * t) * t) + 0.02 * rng.standard_normal(len(t))
    return frames.astype(np.uint8), np.round(tone * 32767).astype(np.int16).astype(np.float32) / 32768


@torch.no_grad()
def stages(model, words, frames, samples):
    """What the model computes on the way to `STEPS` greedy tokens, channels last."""
    s, out = model.sizes, {}
    pictures = [Image.fromarray(f) for f in frames]
    side = (s.image, s.image)
    out["frames_resized"] = np.stack([np.asarray(pictures[i].resize(side, Image.BICUBIC)) for i in media.chosen(len(pictures), s.frames)])
    px = torch.from_numpy(media.pixels(pictures, s))
    mel = torch.from_numpy(media.Mel(s)(samples))
    out["pixel_values"], out["mel"] = px, mel.T
    seen, heard = model.see(px[None]), model.hear(mel[None])
    out["vision_hidden"], out["whisper_hidden"], out["audio_pooled"] = seen[0], model.hear(mel[None], averaged=False)[0], heard[0]
    gate = model.gate(words.bert_ids(text.REASON))
    visual, audio = model.rows(seen, heard, gate)
    out["gate_weights"], out["fused_tokens"], out["audio_tokens"] = gate, visual[0], audio[0]
    pieces = words.pieces(text.REASON)
    places = {"video": [-201], "audio": [-202]}
    out["input_ids"] = np.concatenate([places[p] if isinstance(p, str) else p for p in pieces]).astype(np.int32)
    rows = model.splice(pieces, visual, audio)
    out["input_embeds"] = rows[0]
    step = model(inputs_embeds=rows, use_cache=True, past_key_values=DynamicCache(), logits_to_keep=1)
    logits, made = [], []
    while len(made) < STEPS:
        logits.append(step.logits[0, -1])
        made.append(int(logits[-1].argmax()))
        step = model(input_ids=torch.tensor([made[-1:]]), past_key_values=step.past_key_values, use_cache=True)
    out["prefill_logits"], out["step_logits"], out["tokens"] = logits[0], torch.stack(logits), np.array(made, np.int32)
    return out


def answer(model, words, folder, count):
    """Clips of the world, and what the trainer's own evaluation makes of them."""
    subprocess.run([sys.executable, "-m", "world", "make", "--out", str((folder / "clips").resolve()), "--split", "test", "--count",
                    str(count)], cwd=Path(__file__).parent, check=True, stdout=subprocess.DEVNULL)
    lines, _ = data.manifest(folder / "clips" / "test.jsonl")
    features = data.features(model, lines, folder / "clips", folder / "features")
    evaluate.write(folder / "answers.json", evaluate.answers(model, words, lines, features, max_new=MAX_NEW), {"max_new": MAX_NEW})


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--positions", type=int, default=200)
    asked.add_argument("--seconds", type=float, default=2.5)
    asked.add_argument("--clips", type=int, default=12)
    args = asked.parse_args()
    sizes = topology.Sizes(**{**topology.SMALL.__dict__, "positions": args.positions})
    checkpoint.create(args.folder / "model", sizes, seed=1)
    model, words = checkpoint.load(args.folder / "model").eval(), checkpoint.Words(args.folder / "model")
    frames, samples = clip(args.seconds)
    np.save(args.folder / "frames.npy", frames)
    np.save(args.folder / "pcm.npy", samples.astype("<f4"))
    (args.folder / "stages").mkdir(exist_ok=True)
    for name, value in stages(model, words, frames, samples).items():
        value = np.asarray(value)
        np.save(args.folder / "stages" / f"{name}.npy", np.ascontiguousarray(value.astype({"f": "<f4", "i": "<i4", "u": "u1"}[value.dtype.kind])))
    answer(model, words, args.folder, args.clips)
    print(f"{args.folder}: {sizes.positions} positions, {sizes.audio_rows} audio rows")


if __name__ == "__main__":
    main()
