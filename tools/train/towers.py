"""The towers' own training: what the published ones got from their makers, at our size.

Sight, picture by picture: where the points of a face are, how strong its action units are at those points, and then the units again
from every row of the tower, so that any row a reader looks at knows the face. Hearing: phonemes (CTC), and voice and word cues
from every row. Heads are thrown away afterwards and the towers frozen.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import alter
import claims
import data
import media
from world import clip, face, lexicon

HEARD = [(c, v) for c, (m, values) in claims.CUES.items() if m != "face" for v in values]
PHONEMES = sorted({p.rstrip("1") for spelled in (*lexicon.SMALL.values(), *(w for g in lexicon.WORDS.values() for w in g.values()))
                   for p in spelled.split()})
KINDS = (*clip.COVERED, "away", "turned")       # of pictures: a face and what covers it, or none
READ = 16       # numbers read from the rows at each point of a face


class Sight(nn.Module):
    """The vision tower with its heads."""

    def __init__(self, model):
        super().__init__()
        s, points, units = model.sizes, len(face.POINTS), len(face.UNITS)
        self.model, self.points, self.grid = model, points, s.grid
        d = s.vision_hidden
        self.middle, self.last = nn.LayerNorm(d), nn.LayerNorm(d)
        self.look, self.shift = nn.Linear(d, points), nn.Linear(d, 2 * points)
        self.read = nn.Linear(d, READ)
        self.strength = nn.Sequential(nn.Linear(points * READ, 128), nn.GELU(), nn.Linear(128, units))
        self.every_row, self.kind = nn.Linear(d, units), nn.Linear(d, len(KINDS))
        at = (torch.arange(s.grid) + 0.5) / s.grid
        self.register_buffer("centres", torch.cartesian_prod(at, at).flip(1), persistent=False)

    def judge(self, px, points=None):
        """Of pictures `(n, 3, image, image)`: points, units read at `points` (or where they were found), units of every row, kind."""
        tower = self.model.vision.vision_model
        x = tower.embeddings(px)
        layers = tower.encoder.layers[:-1]
        for layer in layers[: len(layers) // 2]:
            x = layer(x, None)[0]
        middle = self.middle(x)
        for layer in layers[len(layers) // 2:]:
            x = layer(x, None)[0]
        weights = torch.softmax(self.look(middle), dim=1)
        places = self.centres[:, None] + self.shift(middle).reshape(*middle.shape[:2], self.points, 2) / self.grid
        found = torch.einsum("bpl,bplc->blc", weights, places)
        rows = self.read(middle).transpose(1, 2).reshape(len(px), READ, self.grid, self.grid)
        at = 2 * (found.detach() if points is None else points) - 1
        there = F.grid_sample(rows, at[:, None], padding_mode="border", align_corners=False)[:, :, 0].transpose(1, 2)
        last = self.last(x)
        return found, self.strength(there.flatten(1)), self.every_row(last), self.kind(last).mean(dim=1)

    def forward(self, px, points, units, kind):
        found, near, rows, kinds = self.judge(px, points)
        seen = kind < len(clip.COVERED)
        if seen.any():
            loss = 3 * (found - points)[seen].abs().mean() + 10 * F.mse_loss(near[seen], units[seen])
            loss = loss + 10 * F.mse_loss(rows[seen], units[seen][:, None].expand(-1, rows.shape[1], -1))
        else:
            loss = 0 * (found.sum() + near.sum() + rows.sum())
        return loss + 0.2 * F.cross_entropy(kinds, kind), rows.detach().mean(dim=1)


class Hearing(nn.Module):
    """The audio tower with its heads."""

    def __init__(self, model):
        super().__init__()
        d = model.sizes.audio_hidden
        self.model = model
        self.phoneme, self.cue = nn.Linear(d, len(PHONEMES) + 1), nn.Linear(d, len(HEARD))

    def judge(self, mel):
        """Of mels: logits of phonemes per row, and of voice and word cues, averaged over the rows."""
        rows = self.model.hear(mel, averaged=False)
        return self.phoneme(rows), self.cue(rows).mean(dim=1)

    def forward(self, mel, cues, spelled):
        phonemes, told = self.judge(mel)
        loss = F.binary_cross_entropy_with_logits(told, cues) * len(HEARD) / 4
        said = [i for i, p in enumerate(spelled) if p]
        if said:
            targets = torch.tensor([p for i in said for p in spelled[i]])
            log = F.log_softmax(phonemes[said], dim=2).transpose(0, 1)
            loss = loss + 0.3 * F.ctc_loss(log, targets, torch.full((len(said),), len(log)), torch.tensor([len(spelled[i]) for i in said]),
                                           zero_infinity=True)
        return loss, told.detach()


class Inputs:
    """Pixels (u8) with what they show, and mels (f16), of every clip of the world: made once, kept in `cache`."""

    PARTS = ("pixels", "points", "units", "kind", "mel")

    def __init__(self, lines, root, sizes, cache):
        cache = Path(cache)
        cache.mkdir(parents=True, exist_ok=True)
        name = f"inputs-{sizes.image}-{sizes.positions}-{len(lines)}-{lines[0]['id']}"
        paths = {part: cache / f"{name}.{part}.npy" for part in self.PARTS}
        if not (cache / f"{name}.done").exists():
            self._make(lines, Path(root), sizes, paths)
            (cache / f"{name}.done").write_text(name)
        self.__dict__.update({part: np.load(path, mmap_mode="r") for part, path in paths.items()})

    @staticmethod
    def _make(lines, root, sizes, paths):
        n, frames = len(lines), sizes.frames
        shapes = {"pixels": (n, frames, 3, sizes.image, sizes.image), "points": (n, frames, len(face.POINTS), 2),
                  "units": (n, frames, len(face.UNITS)), "kind": (n,), "mel": (n, sizes.mels, 2 * sizes.positions)}
        kinds = {"pixels": np.uint8, "kind": np.int64}
        for part in shapes:
            np.lib.format.open_memmap(paths[part], "w+", kinds.get(part, np.float16), shapes[part]).flush()
        # As many processes as pay for their start.
        workers = min(os.cpu_count(), 1 + n // 500)
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            one = partial(_keep_inputs, root, sizes, paths)
            made = pool.map(one, range(n), lines, chunksize=16) if workers > 1 else map(one, range(n), lines)
            for _ in tqdm(made, desc="inputs", unit="clip", total=n, leave=False):
                pass

    def pictures(self, rows, frames):
        """Pixels, points, units and kinds of one picture of each clip."""
        return (torch.from_numpy(self.pixels[rows, frames].astype(np.float32) / 127.5 - 1),
                *(torch.from_numpy(x[rows, frames].astype(np.float32)) for x in (self.points, self.units)), torch.from_numpy(self.kind[rows]))

    def sounds(self, rows, late=None):
        """Mels, each begun up to `late` of its spare columns later."""
        mel = self.mel[rows].astype(np.float32)
        for i, share in enumerate(() if late is None else late):
            floor = mel[i].min()
            spare = int(np.argmax((mel[i] > floor + 1e-3).any(axis=0)[::-1]))
            by = int(share * spare)
            mel[i] = np.concatenate([np.full_like(mel[i][:, :by], floor), mel[i][:, : mel.shape[2] - by]], axis=1)
        return torch.from_numpy(mel)


def _keep_inputs(root, sizes, paths, i, line):
    """Writes them into their place, so that pictures need not go from process to process."""
    for part, value in _inputs_of(root, sizes, line).items():
        np.load(paths[part], mmap_mode="r+")[i] = value


def _inputs_of(root, sizes, line):
    """The inputs of one clip."""
    plan = clip.named(line["id"])
    pictures, samples = media.read(root / line["clip"])
    out = {"pixels": np.round((media.pixels(pictures, sizes) + 1) * 127.5).astype(np.uint8), "mel": media.Mel(sizes)(samples).astype(np.float16),
           "kind": KINDS.index(plan.place.cover if plan.showing == "face" else plan.showing)}
    shown = clip.landmarks(plan)
    if shown is not None:
        chosen = media.chosen(len(pictures), sizes.frames)
        hidden = np.isin(face.UNITS, clip.COVERED_UNITS[plan.place.cover])
        out |= {"points": shown[0][chosen], "units": shown[1][chosen] * ~hidden}
    return out


def words_and_cues(lines, rows):
    """Which voice and word cues are true `(n, cues)`, and the phonemes said."""
    true = [claims.observable(lines[r]["cues"]) for r in rows]
    spelled = [[PHONEMES.index(p.rstrip("1")) + 1 for w in lexicon.phonemes(lines[r]["words"]) for p in w] if lines[r]["words"] else []
               for r in rows]
    return torch.tensor([[float(cue in t) for cue in HEARD] for t in true]), spelled


def whiten(model, inputs, count=2000):
    """The patch embedding as the principal components of the world's patches, which is a better start than chance."""
    s = model.sizes
    rng = np.random.default_rng(0)
    count = min(count, 8 * len(inputs.pixels))
    px = inputs.pixels[np.sort(rng.integers(0, len(inputs.pixels), count)), rng.integers(0, s.frames, count)]
    patches = px.reshape(count, 3, s.grid, s.patch, s.grid, s.patch).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * s.patch**2)
    patches = patches[rng.integers(0, len(patches), 20 * count)].astype(np.float32) / 127.5 - 1
    mean = patches.mean(axis=0)
    _, spread, parts = np.linalg.svd(patches - mean, full_matrices=False)
    spread /= len(patches) ** 0.5
    weight = np.zeros((s.vision_hidden, patches.shape[1]), np.float32)
    kept = min(len(weight), len(parts))
    weight[:kept] = parts[:kept] / (spread[:kept, None] + 0.05 * spread[0])
    embedding = model.vision.vision_model.embeddings.patch_embedding
    with torch.no_grad():
        embedding.weight.copy_(torch.from_numpy(weight).reshape(embedding.weight.shape))
        embedding.bias.copy_(torch.from_numpy(-weight @ mean))


def train_sight(loop, model, inputs, seed, size):
    if loop.step == 0:
        whiten(model, inputs)
    heads = loop.prepare(Sight(model), whole=model.vision.vision_model.encoder)
    device, count = loop.accelerator.device, len(inputs.pixels)

    def step(n):
        rows = np.array([data.epoch_row(count, n * size + i, seed) for i in range(size)])
        frames = np.random.default_rng([seed, n, 45]).integers(0, inputs.pixels.shape[1], size)
        px, points, units, kind = inputs.pictures(rows, frames)
        px, points = alter.pictures(np.random.default_rng([seed, n, 49]), px, points)
        px, points, units, kind = (x.to(device) for x in (px, points, units, kind))
        loss, told = heads(px, points, units, kind)
        seen = kind < len(clip.COVERED)
        off = float((told - units)[seen].square().mean() / units[seen].var(dim=0).mean()) if seen.sum() > 1 else 1.0
        return loss, {"loss": float(loss.detach()), "unexplained": off}
    loop.run(step)
    return loop.accelerator.unwrap_model(heads)


def train_hearing(loop, model, lines, inputs, seed, size):
    heads = loop.prepare(Hearing(model), whole=model.audio.layers)
    device = loop.accelerator.device

    def step(n):
        rows = [data.epoch_row(len(lines), n * size + i, seed) for i in range(size)]
        rng = np.random.default_rng([seed, n, 47])
        mel, turned = alter.turned(rng, inputs.sounds(rows, rng.random(size)))
        mel = alter.sounds(rng, mel).to(device)
        cues, spelled = words_and_cues(lines, rows)
        # Phonemes out of order are nothing to spell.
        spelled = [[] if t else p for t, p in zip(turned, spelled)]
        loss, told = heads(mel, cues.to(device), spelled)
        right = ((told > 0) == (cues.to(device) > 0.5)).all(dim=1).float().mean()
        return loss, {"loss": float(loss.detach()), "right": float(right)}
    loop.run(step)
    return loop.accelerator.unwrap_model(heads)


@torch.no_grad()
def check_sight(heads, inputs, batch=64):
    """Share of the units' variance that every row explains, and of pictures whose kind is told, on held-out clips."""
    heads.eval()
    device = heads.every_row.weight.device
    off = total = right = 0.0
    mean = inputs.units[inputs.kind < len(clip.COVERED)].astype(np.float32).mean(axis=(0, 1))
    for at in range(0, len(inputs.pixels), batch):
        rows = np.arange(at, min(at + batch, len(inputs.pixels)))
        px, _, units, kind = inputs.pictures(rows, rows % inputs.pixels.shape[1])
        told = heads.judge(px.to(device))
        seen = kind < len(clip.COVERED)
        off += float((told[2].mean(dim=1).cpu() - units)[seen].square().sum())
        total += float((units - torch.from_numpy(mean))[seen].square().sum())
        right += float((told[3].argmax(dim=1).cpu() == kind).sum())
    return {"units": 1 - off / total, "kinds": right / len(inputs.pixels)}


@torch.no_grad()
def check_hearing(heads, lines, inputs, batch=64):
    """Share of held-out clips of which every voice cue, and every word cue, is told right."""
    heads.eval()
    device = heads.cue.weight.device
    voice = np.array([claims.CUES[c][0] == "voice" for c, _ in HEARD])
    right = np.zeros(2)
    for at in range(0, len(lines), batch):
        rows = list(range(at, min(at + batch, len(lines))))
        told = heads.judge(inputs.sounds(rows).to(device))[1].cpu() > 0
        same = (told == (words_and_cues(lines, rows)[0] > 0.5)).numpy()
        right += same[:, voice].all(axis=1).sum(), same[:, ~voice].all(axis=1).sum()
    return {"voices": right[0] / len(lines), "words": right[1] / len(lines)}
