"""The label of a clip as a published function of what its face, its voice and its words show.

Each modality gives integer evidence for labels; an absent or unobservable modality gives none. The label is the one with
the largest sum; a tie is `unknown`. Shares of the cells were chosen (a linear programme over the table below) so that labels
are balanced and no single modality tells much: `ceilings` computes exactly how much.
"""

from collections import Counter, defaultdict
from itertools import product

LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
UNKNOWN = "unknown"
MODALITIES = ("face", "voice", "words")

FACE = {
    "smile": {"happy": 5, "disgust": 2, "sad": 2, "fear": 1},
    "raised": {"surprise": 4, "fear": 4},
    "oblique": {"sad": 4, "fear": 4},
    "lowered": {"angry": 4, "sad": 4, "disgust": 2},
    "wrinkled": {"disgust": 4, "angry": 2},
    "still": {"neutral": 4, "sad": 1, "angry": 1, "disgust": 1, "fear": 1, "surprise": 1},
}
VOICE = {
    "plain": {"neutral": 3, "disgust": 2},
    "lively": {"happy": 4, "angry": 4, "surprise": 3},
    "tense": {"fear": 3, "angry": 2, "surprise": 2},
    "subdued": {"sad": 4, "disgust": 3, "neutral": 2},
}
WORDS = {
    "good": {"happy": 3, "surprise": 2},
    "bad": {"angry": 2, "disgust": 3, "fear": 2, "sad": 1},
    "plain": {"neutral": 1, "surprise": 1, "angry": 1},
}
EVIDENCE = {"face": FACE, "voice": VOICE, "words": WORDS}

# Parts of a thousand: face, then voice, then words (good, bad, plain). Zero where the rule is undecided.
SHARES = {
    "smile": {"plain": (6, 6, 6), "lively": (6, 6, 6), "tense": (6, 11, 6), "subdued": (6, 36, 36)},
    "raised": {"plain": (11, 36, 6), "lively": (6, 6, 36), "tense": (30, 36, 0), "subdued": (6, 0, 6)},
    "oblique": {"plain": (0, 6, 0), "lively": (23, 0, 6), "tense": (6, 6, 6), "subdued": (6, 12, 6)},
    "lowered": {"plain": (0, 24, 6), "lively": (24, 6, 28), "tense": (6, 6, 7), "subdued": (36, 36, 11)},
    "wrinkled": {"plain": (6, 6, 6), "lively": (36, 30, 6), "tense": (0, 6, 6), "subdued": (6, 6, 6)},
    "still": {"plain": (6, 36, 6), "lively": (36, 6, 6), "tense": (36, 36, 23), "subdued": (36, 35, 36)},
}


def decide(face=None, voice=None, words=None):
    """The label of a combination; `None` is a modality that is absent or cannot be observed."""
    (first, best), (_, second) = evidence(face, voice, words).most_common(2)
    return first if best > second else UNKNOWN


def beside(face=None, voice=None, words=None):
    """The labels that are one point short of a combination's label: what is shown beside it."""
    total = evidence(face, voice, words)
    best = max(total.values())
    return tuple(label for label in LABELS if total[label] == best - 1) if decide(face, voice, words) != UNKNOWN else ()


def evidence(face=None, voice=None, words=None):
    """The sum for every label."""
    total = Counter({label: 0 for label in LABELS})
    for modality, shown in (("face", face), ("voice", voice), ("words", words)):
        if shown is not None:
            total.update(EVIDENCE[modality][shown])
    return total


def subset(face=None, voice=None, words=None):
    """Which modalities the label hangs on: the ones without which the rule would say something else."""
    label = decide(face, voice, words)
    if label == UNKNOWN:
        return UNKNOWN
    if None in (face, voice, words):
        return "missing"
    needed = [
        name
        for name, without in (
            ("face", decide(None, voice, words)),
            ("voice", decide(face, None, words)),
            ("words", decide(face, voice, None)),
        )
        if without != label
    ]
    if not needed:
        return "consistent"
    return f"{needed[0]}_decides" if len(needed) == 1 else "fusion"


def cells():
    """Every decidable combination with its share, shares summing to one and to 1/7 per label."""
    raw = {}
    for face, voice, (i, words) in product(FACE, VOICE, enumerate(WORDS)):
        share = SHARES[face][voice][i]
        if share:
            raw[face, voice, words] = share
    per_label = Counter()
    for cell, share in raw.items():
        per_label[decide(*cell)] += share
    return {cell: share / per_label[decide(*cell)] / len(LABELS) for cell, share in raw.items()}


def undecided():
    """Every combination of all three modalities that the rule leaves open."""
    return [cell for cell in product(FACE, VOICE, WORDS) if decide(*cell) == UNKNOWN]


def partial():
    """Combinations with something missing, by label. Without a voice there are no words."""
    out = defaultdict(list)
    for voice, words in product(VOICE, WORDS):
        out[decide(None, voice, words)].append((None, voice, words))
    for face, voice in product(FACE, VOICE):
        out[decide(face, voice, None)].append((face, voice, None))
    for face in FACE:
        out[decide(face, None, None)].append((face, None, None))
    return dict(out)


def ceilings(only=None):
    """The best recall, averaged over labels, that a classifier with perfect sight of the named modalities can reach.

    Keys are tuples of modality names. `only` keeps cells of one subset. Labels are weighted equally, as UAR does.
    """
    table = {c: p for c, p in cells().items() if only is None or subset(*c) == only}
    per_label = Counter()
    for cell, share in table.items():
        per_label[decide(*cell)] += share
    out = {}
    for seen in (("face",), ("voice",), ("words",), ("face", "voice"), ("face", "words"), ("voice", "words"), MODALITIES):
        at = [MODALITIES.index(m) for m in seen]
        groups = defaultdict(Counter)
        for cell, share in table.items():
            label = decide(*cell)
            groups[tuple(cell[i] for i in at)][label] += share / per_label[label]
        out[seen] = sum(max(group.values()) for group in groups.values()) / len(per_label)
    return out
