"""Clips made other and worse than they are, for training: so that a cue is known in faces, voices, places and devices that no clip had.

Pictures are stretched, turned, mirrored, coloured, blurred and made noisy, and things cover what nobody asks about. Sounds are warped along the mel
scale, given a device's curve and band, an echo and a noise, all on the mel's power, and some begin with their end. What an action unit, a phoneme or a tone is
stays what it is; points move with the picture.

Shapes: pictures `(n, 3, image, image)` in [-1, 1], points `(n, points, 2)` as shares of the picture, mels `(n, mels, columns)` as Whisper's.
"""

import numpy as np
import torch
import torch.nn.functional as F

from world import face

PLAIN = 0.25        # share that is left as it is
TURNED = 0.3        # share of sounds that begin with their end
# The point that a mirror puts in each point's place.
MIRRORED = [face.POINTS.index((name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right"),
                               1.0 - at if name == "mouth top" else at)) for name, at in face.POINTS]


def pictures(rng, px, points=None, together=False):
    """Pictures, and where their points are then. `together`: all are pictures of one clip and are changed alike, noise apart."""
    count = 1 if together else len(px)
    draw = lambda low, high: torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))
    plain = draw(0, 1) < PLAIN
    keep = lambda changed, as_it_was: torch.where(plain, as_it_was, changed)

    # Where a place of the new picture is in the old one: `old = turn @ new + shift`, coordinates from -1 to 1.
    wide, high = draw(-0.16, 0.16), draw(-0.16, 0.16)
    angle = draw(-0.15, 0.15)
    mirror = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    one = zero + 1
    turn = torch.stack([keep(cos * torch.exp(wide) * mirror, one), keep(-sin * torch.exp(high), zero), keep(draw(-0.12, 0.12), zero),
                        keep(sin * torch.exp(wide) * mirror, zero), keep(cos * torch.exp(high), one), keep(draw(-0.12, 0.12), zero)])
    theta = turn.reshape(2, 3, count).permute(2, 0, 1).expand(len(px), 2, 3)
    out = F.grid_sample(px, F.affine_grid(theta, px.shape, align_corners=False), padding_mode="reflection", align_corners=False)
    if points is not None:
        back = torch.linalg.inv(theta[:, :, :2])
        moved = torch.einsum("nij,npj->npi", back, 2 * points - 1 - theta[:, None, :, 2]) / 2 + 0.5
        flipped = (torch.linalg.det(theta[:, :, :2]) < 0)[:, None, None]
        points = torch.where(flipped, moved[:, MIRRORED], moved)
        out = _covered(rng, out, points)

    # Light from 0 to 1: less colour, a tint and an exposure, which are one matrix of the three colours.
    colour, tint, exposure = draw(0.0, 1.4), torch.cat([torch.exp(draw(-0.2, 0.2)) for _ in range(3)], dim=1), torch.exp(draw(-0.35, 0.25))
    matrix = colour[:, 0] * torch.eye(3) + (1 - colour[:, 0]) / 3
    matrix = (matrix * tint[:, :, 0] * exposure[:, 0] / 2).expand(len(px), 3, 3)
    light = torch.baddbmm(matrix.sum(dim=2, keepdim=True), matrix, out.flatten(2)).reshape(px.shape)
    light = light.clamp_(1e-3, 1).pow_(torch.exp(draw(-0.4, 0.4)))
    contrast = torch.exp(draw(-0.4, 0.3))
    middle = light.mean(dim=(2, 3), keepdim=True)
    light = light.mul_(contrast).add_(middle * (1 - contrast))
    soft = (draw(0, 1) < 0.35).expand(len(px), 1, 1, 1).flatten()
    if soft.any():
        edged = F.pad(light[soft], (1, 1, 1, 1), mode="replicate")
        lines = edged[:, :, :-2] + edged[:, :, 1:-1] + edged[:, :, 2:]
        light[soft] = (lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:]) / 9
    # Even grain: a bell-shaped one takes longer to draw.
    grain = torch.from_numpy(rng.random(light.shape, dtype=np.float32)).sub_(0.5)
    light = grain.mul_(draw(0, 0.24)).add_(light).clamp_(0, 1).mul_(2).sub_(1)
    return torch.where(plain, px, light), points


def _covered(rng, px, points, things=3):
    """Pictures with rectangles of one colour before them, none of which covers a point."""
    draw = lambda low, high, *shape: torch.from_numpy(rng.uniform(low, high, (len(px), *shape)).astype(np.float32))
    at = (torch.arange(px.shape[-1]) + 0.5) / px.shape[-1]
    for _ in range(things):
        middle, half, colour, there = draw(0, 1, 2), draw(0.04, 0.2, 2), draw(-1, 1, 3, 1, 1), draw(0, 1) < 0.5
        there &= ~((points - middle[:, None]).abs() < half[:, None] + 0.03).all(dim=2).any(dim=1)
        across, down = (((at - middle[:, i, None]).abs() < half[:, i, None]) for i in (0, 1))
        px = torch.where((across[:, None] & down[:, :, None] & there[:, None, None])[:, None], colour, px)
    return px


def turned(rng, mel):
    """Mels of which some begin with what came last, cut where it is quiet, as a window of a run may hold the end of a sentence before a beginning; and which."""
    out, which = mel.clone(), rng.random(len(mel)) < TURNED
    for i in np.flatnonzero(which):
        loud = mel[i].mean(dim=0)
        if loud.max() == loud.min():
            continue
        used = 1 + int(torch.nonzero(loud > loud.min() + 1e-3).max())
        places = rng.integers(used // 8, used - used // 8, 12)
        cut = int(min(places, key=lambda column: loud[column]))
        out[i, :, :used] = torch.cat([mel[i, :, cut:used], mel[i, :, :cut]], dim=1)
    return out, which


def sounds(rng, mel):
    """Mels as other devices in other rooms would have had them."""
    count, mels, columns = mel.shape
    draw = lambda low, high: torch.from_numpy(rng.uniform(low, high, (count, 1, 1)).astype(np.float32))
    some = lambda share: draw(0, 1) < share
    at = torch.arange(mels, dtype=torch.float32)[None, :, None]

    # Longer and shorter tracts.
    place = torch.where(some(0.6), at * draw(0.93, 1.07), at).clamp(0, mels - 1)
    low = place.floor().long()
    take = lambda index: mel.gather(1, index.expand(count, mels, columns))
    warped = take(low) + (take((low + 1).clamp(max=mels - 1)) - take(low)) * (place - low)
    power = 10 ** (4 * warped - 4)

    # An echo: its power falls by 60 dB within its time; columns are 10 ms.
    t = torch.arange(60, dtype=torch.float32)[None, None, :] / 100
    tail = torch.exp(-13.8 * t / draw(0.1, 1.0))
    tail = tail / tail.sum(dim=2, keepdim=True) * draw(0.0, 0.5) ** 2 * some(0.6)
    tail[..., :1] += 1
    size = columns + 60
    power = torch.fft.irfft(torch.fft.rfft(power, size) * torch.fft.rfft(tail, size), size)[..., :columns].clamp(min=0)

    # The device: a curve of eight knots, and now and then a narrow band.
    knots = torch.from_numpy(rng.normal(0, 3, (count, 1, 8)).astype(np.float32))
    curve = F.interpolate(knots, size=mels, mode="linear", align_corners=True)[:, 0, :, None] * some(0.7)
    edges = torch.sigmoid((at / mels - draw(0.0, 0.12)) * 60) * torch.sigmoid((draw(0.75, 1.0) - at / mels) * 60)
    power = power * 10 ** (curve / 10) * torch.where(some(0.25), edges.clamp(min=1e-4), torch.ones_like(edges))

    # Noise, its level against the loudest.
    peak = power.flatten(1).max(dim=1).values[:, None, None]
    slope = draw(-2.0, 0.5) * at / mels + 0.3 * torch.from_numpy(rng.standard_normal((count, mels, 1), dtype=np.float32))
    grains = torch.from_numpy(rng.exponential(1, (count, mels, columns)).astype(np.float32))
    power = power + torch.where(some(0.7), peak * 10 ** draw(-6.5, -2.8) * 10 ** slope * grains, torch.zeros_like(power))

    log = torch.log10(power.clamp(min=1e-10)) + draw(-0.5, 0.5)
    log = torch.maximum(log, log.flatten(1).max(dim=1).values[:, None, None] - 8)
    return torch.where(some(PLAIN), mel, (log + 4) / 4)
