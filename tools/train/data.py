"""Manifests to training examples: what is asked, what should be answered, and the towers' features, computed once.

A manifest is JSONL `{id, clip, label, cues?, measured?, fold?, subtitle?, split?, cell?}`; without logged `cues`, those that `mien eval measure`
found are what reasons are held against. Features of frozen towers lie in two memory-mapped
files beside a note of what they were made of; a changed tower or manifest makes them anew.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import alter
import claims
import media
import rewards
import shards
import text
from world import rule


@dataclass(frozen=True)
class Example:
    """One question about one clip. `video` and `audio` say what the model is given."""

    row: int
    kind: str           # reason, label, describe
    video: bool
    audio: bool
    label: str
    cues: tuple | None      # None: nobody logged any
    target: str


class ManifestError(ValueError):
    pass


def manifest(path, labels=(*rule.LABELS, rule.UNKNOWN), strict=True):
    """Lines of a manifest, checked. What is wrong is named and counted; `strict` refuses it, otherwise such lines are left out."""
    path = Path(path)
    if not path.exists():
        raise ManifestError(f"no manifest {path}")
    lines, wrong, seen = [], [], set()
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(raw)
            missing = [k for k in ("id", "clip", "label") if k not in line]
        except (json.JSONDecodeError, TypeError) as error:
            wrong.append(f"line {number}: not JSON: {error}")
            continue
        if missing:
            wrong.append(f"line {number}: no {', '.join(missing)}")
        elif line["id"] in seen:
            wrong.append(f"line {number}: id {line['id']} is there twice")
        elif rewards.canonical(line["label"]) not in labels:
            wrong.append(f"line {number}: unknown label {line['label']!r}")
        elif not shards.exists(path.parent / line["clip"]):
            wrong.append(f"line {number}: no file {path.parent / line['clip']}")
        else:
            seen.add(line["id"])
            if "measured" in line:
                line.setdefault("cues", line["measured"])
            lines.append({**line, "label": rewards.canonical(line["label"])})
    if wrong and strict:
        raise ManifestError(f"{path}: {len(wrong)} bad lines\n  " + "\n  ".join(wrong[:20]))
    if not lines:
        raise ManifestError(f"{path}: no usable line\n  " + "\n  ".join(wrong[:20]))
    return lines, wrong


UNSAID = 0.15       # share of claims that a taught reason leaves out


def example(row, line, kind, video=True, audio=True, dice=None):
    """The example of a manifest line; with a modality left out, label and cues are those of what remains.

    Without logged cues a line may bring its own `reason`, the text of the thought. With `dice` a reason leaves out some of its claims: who never
    learned to leave one out cannot be rewarded for it.
    """
    label, cues = line["label"], tuple(line["cues"]) if "cues" in line else None
    if not (video and audio) and cues is not None:
        left_out = ("voice", "words") if video else ("face",)
        cues = claims.without(cues, left_out)
        if "cell" in line:
            label = rule.decide(**{m: line["cell"][m] for m in ("face", "voice", "words") if m not in left_out})
    return Example(row, kind, video, audio, label, cues, text.target(kind, cues, label, line.get("reason"), dice, UNSAID))


def draw(lines, kinds, step, seed, size, drop=0.1):
    """The examples of one step: the same for the same seed and step, all of one kind and of the same modalities.

    `kinds` maps a kind to its share; `drop` is the share of steps that leave out video, and as many that leave out audio.
    """
    rng = np.random.default_rng([seed, step, 41])
    kind = rng.choice(sorted(kinds), p=np.array([kinds[k] for k in sorted(kinds)]) / sum(kinds.values()))
    u = rng.random()
    video, audio = u >= drop, not drop <= u < 2 * drop
    # Epochs are permutations, so that every clip is seen before one is seen twice.
    rows = [epoch_row(len(lines), step * size + i, seed) for i in range(size)]
    return [example(r, lines[r], str(kind), video, audio, np.random.default_rng([seed, step, i, 57])) for i, r in enumerate(rows)]


def share(size, rank, ranks):
    """Which of a step's `size` examples a process takes: together they take all, so that a step is the same however many share it."""
    if size < ranks:
        raise ManifestError(f"a step of {size} clips cannot be shared by {ranks} processes: fewer processes, or more clips a step")
    return list(range(rank, size, ranks))


_ORDERS = {}


def epoch_row(count, position, seed):
    key = (count, position // count, seed)
    if key not in _ORDERS:
        _ORDERS.clear()
        _ORDERS[key] = np.random.default_rng([seed, position // count, 43]).permutation(count)
    return int(_ORDERS[key][position % count])


class Features:
    """What frozen towers see and hear of every clip of a manifest."""

    def __init__(self, seen, heard, device="cpu"):
        self.seen, self.heard, self.device = seen, heard, device

    def batch(self, rows, video=True, audio=True):
        def take(store):
            return torch.from_numpy(store[rows].astype(np.float32)).to(self.device)
        return take(self.seen) if video else None, take(self.heard) if audio else None


def _print_of(model, lines, altered):
    """Names the towers' values and the clips."""
    h = hashlib.sha256(b"altered" if altered else b"")
    for module in (model.vision, model.audio):
        for value in module.state_dict().values():
            h.update(value.detach().cpu().float().numpy().tobytes())
    h.update(json.dumps([line["id"] for line in lines]).encode())
    return h.hexdigest()


@torch.no_grad()
def features(model, lines, root, cache, device="cpu", batch=8, altered=False):
    """Runs the towers over every clip, or takes what an earlier run left in `cache`. `altered`: every other clip made other (`alter`)."""
    s, cache = model.sizes, Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    name = _print_of(model, lines, altered)
    paths = [cache / f"{name[:16]}.{part}.npy" for part in ("seen", "heard")]
    shapes = [(len(lines), s.frames, s.grid**2, s.vision_hidden), (len(lines), s.audio_rows, s.audio_hidden)]
    done = cache / f"{name[:16]}.done"
    if not done.exists():
        stores = [np.lib.format.open_memmap(p, "w+", np.float16, shape) for p, shape in zip(paths, shapes)]
        mel = media.Mel(s)
        model.eval()
        for at in tqdm(range(0, len(lines), batch), desc="towers", unit="batch", leave=False):
            some = [media.read(Path(root) / line["clip"]) for line in lines[at:at + batch]]
            blank = np.full((s.frames, 3, s.image, s.image), -1, np.float32)
            px = [media.pixels(p, s) for p, _ in some]
            px = torch.from_numpy(np.stack([blank if p is None else p for p in px]))
            sound = torch.from_numpy(np.stack([mel(x if len(x) else np.zeros(16000, np.float32)) for _, x in some]))
            for i in range(at % 2, len(some), 2) if altered else ():
                rng = np.random.default_rng([at + i, 53])
                px[i] = alter.pictures(rng, px[i], together=True)[0]
                sound[i:i + 1] = alter.sounds(rng, alter.turned(rng, sound[i:i + 1])[0])
            stores[0][at:at + len(some)] = model.see(px.to(device)).cpu().numpy()
            stores[1][at:at + len(some)] = model.hear(sound.to(device)).cpu().numpy()
        for store in stores:
            store.flush()
        done.write_text(name)
    return Features(*(np.load(p, mmap_mode="r") for p in paths), device)
