#!/usr/bin/env python3
"""How many scales int8 products need: a trained Whisper encoder in numpy, whose products take int8 rows times int8 weights with scales for
every 32 columns (as the engine has them), for every 128, or for a whole row and a whole output, with and without factors that move what is
large in the rows into the weights (SmoothQuant, arXiv 2211.10438, alpha 0.5, from another recording). Fails where 128 columns are no longer
within what a tower may move, 0.03.

    int8.py MODEL.bin CLIP.npy OTHER.npy     30 s of sound at 16 kHz each, f32
"""
import sys

import numpy as np

from trained import read, tower

RATE, FRAME, HOP, POSITIONS = 16000, 400, 160, 1500
MOVED_MAX = 0.03


def slaney(bands):
    """Triangles over the mel scale that is even up to 1 kHz and logarithmic above, each of area 1."""
    def hertz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    edges, bins = hertz(np.linspace(0, top, bands + 2)), np.linspace(0, RATE / 2, FRAME // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))) * 2 / (high - low)


def log_mel(samples, bands):
    """(bands, 3000)"""
    padded = np.pad(np.pad(samples, (0, RATE * 30 - len(samples))), FRAME // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][:2 * POSITIONS]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME + 1)[:-1])) ** 2
    mel = np.log10(np.maximum(power @ slaney(bands).T, 1e-10)).T
    return (np.maximum(mel, mel.max() - 8) / 4 + 1).astype(np.float32)


def rounded(x, group):
    """x through int8 with a scale for `group` columns; 0: for all of a row."""
    rows, cols = x.shape
    group = group or cols
    parts = np.pad(x, ((0, 0), (0, -cols % group))).reshape(rows, -1, group)
    scale = np.maximum(np.abs(parts).max(-1, keepdims=True), 1e-30) / 127
    return (np.rint(parts / scale) * scale).reshape(rows, -1)[:, :cols]


class Encoder:
    """`product(name, x, w)` is x W^T as a scheme has it; `seen` keeps the largest of every column that a product was given."""

    def __init__(self, values, layers, scheme=None, seen=None):
        self.values, self.layers, self.scheme = values, layers, scheme
        self.moves, self.seen = seen, {}

    def product(self, name, x, w):
        self.seen[name] = np.maximum(self.seen.get(name, 0), np.abs(x).max(0))
        if not self.scheme:
            return x @ w.T
        rows, columns, smooth = self.scheme
        if smooth:
            factor = np.sqrt(np.maximum(self.moves[name], 1e-5) / np.maximum(np.abs(w).max(0), 1e-5))
            x, w = x / factor, w * factor
        return rounded(x, rows) @ rounded(w, columns).T

    def linear(self, name, x):
        return self.product(name, x, self.values[f"{name}.weight"]) + self.values.get(f"{name}.bias", 0)

    def conv(self, name, x, stride):
        w = self.values[f"{name}.weight"]
        taps = np.pad(x, ((1, 1), (0, 0)))
        rows = np.concatenate([taps[t:len(x) + t:stride] for t in range(3)], 1)
        return gelu(self.product(name, rows, np.concatenate([w[:, :, t] for t in range(3)], 1)) + self.values[f"{name}.bias"])

    def norm(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.values[f"{name}.weight"] + self.values[f"{name}.bias"]

    def attention(self, name, x):
        heads = x.shape[1] // 64
        q, k, v = (self.linear(f"{name}.{part}_proj", x).reshape(len(x), heads, 64).swapaxes(0, 1) for part in "qkv")
        scores = q @ k.swapaxes(1, 2) / 8
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        return self.linear(f"{name}.out_proj", mixed.swapaxes(0, 1).reshape(len(x), -1))

    def run(self, mel):
        x = self.conv("conv2", self.conv("conv1", mel.T, 1), 2) + self.values["embed_positions.weight"]
        for i in range(self.layers):
            at = f"layers.{i}"
            x = x + self.attention(f"{at}.self_attn", self.norm(f"{at}.self_attn_layer_norm", x))
            x = x + self.linear(f"{at}.fc2", gelu(self.linear(f"{at}.fc1", self.norm(f"{at}.final_layer_norm", x))))
        return self.norm("layer_norm", x)


def gelu(x):
    # numpy has no error function: Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most.
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    erf = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * np.exp(-z * z)
    return 0.5 * x * (1 + np.sign(x) * erf)


SCHEMES = {"32 columns": (32, 32, False), "128 columns": (128, 128, False), "a row; 128 columns of weights": (0, 128, False), "a row; an output": (0, 0, False),
           "a row; an output, smoothed": (0, 0, True), "128 columns, smoothed": (128, 128, True)}


def main(model, clip, other):
    values, layers = tower(read(model))
    bands = values["conv1.weight"].shape[1]
    mel, second = (log_mel(np.load(path)[:RATE * 30], bands) for path in (clip, other))
    plain, calibrated = Encoder(values, layers), Encoder(values, layers)
    want = plain.run(mel)
    calibrated.run(second)
    print("| int8 products of a trained Whisper tower, a scale for | output moved by (rms) | without the worst 1 % of positions |\n|---|---|---|")
    for name, scheme in SCHEMES.items():
        off = ((Encoder(values, layers, scheme, calibrated.seen).run(mel) - want) ** 2).sum(1)
        size = (want ** 2).sum(1)
        most = np.argsort(off)[:len(off) * 99 // 100]
        without_worst = np.sqrt(off[most].sum() / size[most].sum())
        print(f"| {name} | {np.sqrt(off.sum() / size.sum()):.3f} | {without_worst:.3f} |")
        if name == "128 columns" and not without_worst <= MOVED_MAX:
            sys.exit(f"error: scales for 128 columns move the tower by {without_worst:.3f}: at most {MOVED_MAX}")


if __name__ == "__main__":
    main(*sys.argv[1:])
