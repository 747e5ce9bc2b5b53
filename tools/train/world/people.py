"""Minutes of one person each, whose states change: for what has to know a person's own usual first.

The first states are plain; what is added to a state is logged as in `clip`. Held-out people are of the other generator family.
"""

import json
import sys
from pathlib import Path

import numpy as np

from . import VERSION, clip, demo, rule, voice

STATES = 12
FIRST = (("still", "plain", "plain"), ("still", "plain", "good"))


def states(rng):
    """Half of a person's time is plain, as in life; the rest is drawn evenly."""
    faces, voices, words = list(rule.FACE), list(voice.TONES), list(rule.WORDS)
    out = list(FIRST)
    while len(out) < STATES:
        face = "still" if rng.random() < 0.4 else faces[rng.integers(len(faces))]
        tone = "plain" if rng.random() < 0.4 else voices[rng.integers(len(voices))]
        out.append((face, tone, words[rng.integers(len(words))]))
    return tuple(out)


def make(out, count, held_out):
    """`NAME.avi` and `NAME.jsonl` (one line per state) of `count` people."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    family = "ood" if held_out else "test"
    for i in range(count):
        rng = np.random.default_rng([VERSION, 98, held_out, i])
        data, lines = demo.make(i, (97, int(held_out), i), states(rng), clip.HELD_OUT["ood"] if held_out else ())
        (out / f"{family}-{i}.avi").write_bytes(data)
        (out / f"{family}-{i}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(f"\r{family} person {i + 1}/{count}", end="\n" if i + 1 == count else "", file=sys.stderr, flush=True)
