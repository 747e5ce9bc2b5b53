"""A contact sheet: for each clip four pictures over its length, the sound's envelope, and its truth in words."""

import io

import numpy as np
from PIL import Image, ImageDraw

from . import avi

TILE, COLUMNS = 96, 3


def draw(items, columns=COLUMNS):
    """`items` are `(file bytes, truth)` pairs; returns one picture."""
    wide, high = 4 * TILE, TILE + 44
    rows = -(-len(items) // columns)
    sheet = Image.new("RGB", (columns * (wide + 8), rows * (high + 6)), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    for i, (data, truth) in enumerate(items):
        x, y = i % columns * (wide + 8), i // columns * (high + 6)
        frames, sound, _ = avi.decode(data)
        lo, hi = 0.0, 1.0
        if "start_ms" in truth:
            whole = len(sound) / 32
            lo, hi = truth["start_ms"] / whole, truth["end_ms"] / whole
        for k in range(4):
            if frames:
                at = int((lo + (hi - lo) * (k + 0.5) / 4) * len(frames))
                sheet.paste(Image.open(io.BytesIO(frames[at])).resize((TILE, TILE)), (x + k * TILE, y))
        samples = np.frombuffer(sound, "<i2").astype(float)
        samples = samples[int(lo * len(samples)):int(hi * len(samples))]
        if len(samples) >= wide:
            level = np.abs(samples[: len(samples) // wide * wide]).reshape(wide, -1).max(axis=1) / 32768
            for c, v in enumerate(level):
                pen.line((x + c, y + TILE + 10 - 9 * v, x + c, y + TILE + 10 + 9 * v), fill=(60, 90, 160))
        cell = truth["cell"]
        pen.text((x + 2, y + TILE + 20), f"{truth['label']}  ({truth['subset']})", fill=(0, 0, 0))
        pen.text((x + 2, y + TILE + 31), f"{cell['face']} / {cell['voice']} / {cell['words']}: {truth['words'] or '-'}"[:62],
                 fill=(90, 90, 90))
    return sheet
