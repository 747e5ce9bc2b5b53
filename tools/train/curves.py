"""Curves of a stage's log as a picture: loss, reward and its parts, length, KL."""

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PANELS = (("loss",), ("reward", "accuracy", "format", "cues"), ("tokens",), ("kl",), ("useful", "truncated"), ("unexplained", "right"))


def smooth(values, width):
    if len(values) < 3 * width:
        return values
    kernel = np.ones(width) / width
    return np.convolve(np.pad(values, (width // 2, width - 1 - width // 2), mode="edge"), kernel, mode="valid")


def draw(log, out):
    """`log.jsonl` to a PNG."""
    lines = [json.loads(x) for x in Path(log).read_text().splitlines()]
    panels = [[n for n in names if any(n in x for x in lines)] for names in PANELS]
    panels = [p for p in panels if p]
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False, layout="constrained")
    for axis, names in zip(axes[0], panels):
        for name in names:
            some = [(x["step"], x[name]) for x in lines if name in x]
            steps, values = map(np.array, zip(*some))
            axis.plot(steps, values, alpha=0.25, linewidth=0.7)
            axis.plot(steps, smooth(values, 15), label=name, color=axis.lines[-1].get_color())
        axis.legend(fontsize=7)
        axis.set_xlabel("step", fontsize=7)
        axis.tick_params(labelsize=7)
    figure.savefig(out, dpi=110)
    plt.close(figure)
