"""The towers' own training: what the published ones got from their makers, at our size.

The vision tower learns to tell facial cues, the audio tower voice cues and phonemes (CTC). Heads are thrown away afterwards and the
towers frozen. Most steps hear short sound only; the last fifth hears the whole padded stretch, as at run time.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import claims
import data
import media
from world import lexicon

SHORT = 384             # mel columns of the longest clip, rounded up
FACE = [(c, v) for c, (m, values) in claims.CUES.items() if m == "face" for v in values]
HEARD = [(c, v) for c, (m, values) in claims.CUES.items() if m != "face" for v in values]
PHONEMES = sorted({p.rstrip("1") for spelled in (*lexicon.SMALL.values(), *(w for g in lexicon.WORDS.values() for w in g.values()))
                   for p in spelled.split()})


class Heads(nn.Module):
    def __init__(self, model, width=96):
        super().__init__()
        s = model.sizes
        self.model = model
        self.patch = nn.Sequential(nn.Linear(s.vision_hidden, width), nn.GELU())
        self.face = nn.Linear(2 * width, len(FACE))
        self.row = nn.Sequential(nn.Linear(s.audio_hidden, width), nn.GELU())
        self.look = nn.Linear(width, 4)
        self.sound = nn.Linear(4 * width, len(HEARD))
        self.phoneme = nn.Linear(s.audio_hidden, len(PHONEMES) + 1)

    def judge(self, px, mel):
        """Logits of facial cues, of voice and word cues, and of phonemes per row."""
        frames = self.patch(self.model.see(px)).amax(dim=2)
        face = self.face(torch.cat([frames.mean(dim=1), frames.amax(dim=1)], dim=1))
        rows = self.model.hear(mel, averaged=False)
        r = self.row(rows)
        weights = torch.softmax(self.look(r), dim=1)
        sound = self.sound(torch.einsum("ntk,ntd->nkd", weights, r).flatten(1))
        return face, sound, self.phoneme(rows)

    def forward(self, px, mel, face, sound, spelled):
        a, b, phonemes = self.judge(px, mel)
        loss = F.binary_cross_entropy_with_logits(a, face) + F.binary_cross_entropy_with_logits(b, sound)
        said = [i for i, p in enumerate(spelled) if p]
        ctc = a.new_zeros(())
        if said:
            targets = torch.tensor([p for i in said for p in spelled[i]])
            lengths = torch.tensor([len(spelled[i]) for i in said])
            log = F.log_softmax(phonemes[said], dim=2).transpose(0, 1)
            ctc = F.ctc_loss(log, targets, torch.full((len(said),), log.shape[0]), lengths, zero_infinity=True)
        return loss + 0.3 * ctc, (a, b, ctc)


class Inputs:
    """Pixels (u8) and short mels (f16) of every clip, made once."""

    def __init__(self, lines, root, sizes, cache):
        cache = Path(cache)
        cache.mkdir(parents=True, exist_ok=True)
        name = f"inputs-{sizes.image}-{len(lines)}-{lines[0]['id']}-{lines[-1]['id']}"
        paths = [cache / f"{name}.{part}.npy" for part in ("pixels", "mel")]
        if not (cache / f"{name}.done").exists():
            px = np.lib.format.open_memmap(paths[0], "w+", np.uint8, (len(lines), sizes.frames, 3, sizes.image, sizes.image))
            mels = np.lib.format.open_memmap(paths[1], "w+", np.float16, (len(lines), sizes.mels, SHORT))
            mel = media.Mel(sizes)
            for i, line in enumerate(tqdm(lines, desc="inputs", unit="clip", leave=False)):
                pictures, samples = media.read(Path(root) / line["clip"])
                if pictures:
                    px[i] = np.round((media.pixels(pictures, sizes) + 1) * 127.5)
                mels[i] = mel(samples if len(samples) else np.zeros(16000, np.float32))[:, :SHORT]
            px.flush()
            mels.flush()
            (cache / f"{name}.done").write_text(name)
        self.pixels, self.mel = (np.load(p, mmap_mode="r") for p in paths)
        self.positions = sizes.positions

    def batch(self, rows, whole):
        px = torch.from_numpy(self.pixels[rows].astype(np.float32) / 127.5 - 1)
        mel = torch.from_numpy(self.mel[rows].astype(np.float32))
        if whole:
            # The padding's value is the floor, which is the least value of every clip.
            pad = mel.amin(dim=(1, 2), keepdim=True).expand(-1, mel.shape[1], 2 * self.positions - SHORT)
            mel = torch.cat([mel, pad], dim=2)
        return px, mel


def targets(lines, rows):
    true = [claims.observable(lines[r]["cues"]) for r in rows]
    def hot(names):
        return torch.tensor([[float(n in t) for n in names] for t in true])
    spelled = [[PHONEMES.index(p.rstrip("1")) + 1 for w in lexicon.phonemes(lines[r]["words"]) for p in w] if lines[r]["words"] else []
               for r in rows]
    return hot(FACE), hot(HEARD), spelled


def train(loop, model, lines, inputs, seed, size):
    heads = loop.prepare(Heads(model))
    steps = loop.settings.steps

    def step(n):
        rows = [data.epoch_row(len(lines), n * size + i, seed) for i in range(size)]
        px, mel = inputs.batch(rows, whole=n >= 0.8 * steps)
        face, sound, spelled = targets(lines, rows)
        loss, (a, b, ctc) = heads(px.to(loop.accelerator.device), mel.to(loop.accelerator.device),
                                  face.to(loop.accelerator.device), sound.to(loop.accelerator.device), spelled)
        right = [float(((x.detach() > 0) == (y.to(x.device) > 0.5)).all(dim=1).float().mean()) for x, y in ((a, face), (b, sound))]
        return loss, {"loss": float(loss.detach()), "ctc": float(ctc), "faces": right[0], "voices": right[1]}
    loop.run(step)
    return loop.accelerator.unwrap_model(heads)


@torch.no_grad()
def check(heads, lines, inputs, batch=16):
    """Share of clips of which every facial, and every voice and word cue is told right."""
    heads.eval()
    good = [0, 0]
    for at in range(0, len(lines), batch):
        rows = list(range(at, min(at + batch, len(lines))))
        face, sound, _ = targets(lines, rows)
        a, b, _ = heads.judge(*(x.to(next(heads.parameters()).device) for x in inputs.batch(rows, whole=True)))
        for k, (x, y) in enumerate(((a, face), (b, sound))):
            good[k] += int(((x.cpu() > 0) == (y > 0.5)).all(dim=1).sum())
    return {"faces": good[0] / len(lines), "voices": good[1] / len(lines)}
