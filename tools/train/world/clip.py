"""One clip: planned from a seed, rendered, its truth written down.

`plan` draws everything that happens and never looks at a picture or a sample; `render` makes the file; `truth` is the
manifest line. The same seed gives the same plan on every machine.

Units: milliseconds in the truth, seconds inside.
"""

import io
from dataclasses import dataclass, field

import numpy as np

from . import VERSION, avi, face, lexicon, room, rule, voice

SPLITS = {"train": 0, "valid": 1, "test": 2, "ood": 3, "post": 4}
# What is unlike the training's, two ways for each source of a shift; `ood` is the first of each at once.
AXES = ("face", "style", "voice", "accent", "room", "device", "words", "order")
HELD_OUT = {"ood": ("face", "voice", "room", "words")} | {f"ood-{axis}": (axis,) for axis in AXES}
SPLITS |= {f"ood-{axis}": 10 + i for i, axis in enumerate(AXES)}
JND = 0.25              # an action unit below this intensity cannot be seen
FPS = 8
SIZE = 128

# Action units of an expression: those that make it, and those that may come with it (subsets of the EMFACS prototypes).
EXPRESSIONS = {
    "smile": ((12,), (6, 25)),
    "raised": ((1, 2), (5, 25, 26)),
    "oblique": ((1, 4), (15, 17)),
    "lowered": ((4,), (7, 23, 24)),
    "wrinkled": ((9,), (10, 17)),
    "still": ((), ()),
}
# What one sees of an action unit: cue, value, the part of the face it is on.
SEEN = {
    5: ("eyes", "wide", "eyes"), 7: ("eyes", "narrowed", "eyes"), 9: ("nose", "wrinkled", "nose"),
    12: ("mouth", "smiling", "mouth"), 15: ("mouth", "downturned", "mouth"), 24: ("mouth", "pressed", "mouth"),
    26: ("jaw", "dropped", "mouth"),
}
COVERED = {"": (), "mask": ("mouth", "nose"), "shades": ("eyes",)}
COVERED_UNITS = {"": (), "mask": (9, 10, 12, 15, 17, 20, 23, 24, 25, 26), "shades": (5, 6, 7, 45)}


@dataclass
class Plan:
    clip: str
    split: str
    seed: tuple
    length_s: float
    face: str | None            # the cell of the rule; None is absent or cannot be observed
    voice: str | None
    words: str | None
    label: str
    subset: str
    showing: str                # face, away, turned
    spoken: bool
    muffled: bool
    text: str
    who: face.Identity
    place: face.Scene
    speaker: voice.Speaker
    room: room.Room
    tone: str
    left_out: str | None
    units: dict = field(default_factory=dict)      # unit -> peak intensity
    onset_s: float = 0.0
    rise_s: float = 0.3
    offset_s: float = 9.0
    speech_s: float = 0.3


def speaker(rng, held_out=()):
    """A voice from the usual or a held-out family: other tracts and a brighter source (`voice`), other vowels (`accent`)."""
    tract = rng.uniform(0.98, 1.22)
    pitch = 105 * (tract / 0.98) ** 3.2 * rng.uniform(0.86, 1.16)
    accent = tuple(rng.uniform(0.95, 1.05, 3))
    if "accent" in held_out:
        accent = rng.uniform(1.08, 1.14), rng.uniform(0.86, 0.92), 1.0
    if "voice" in held_out:
        tract = rng.uniform(1.24, 1.32) if rng.random() < 0.5 else rng.uniform(0.90, 0.96)
        pitch = 105 * (tract / 0.98) ** 2.6 * rng.uniform(0.92, 1.1)
        return voice.Speaker(pitch, tract, rng.uniform(900, 1050), rng.uniform(0.9, 1.1), rng.uniform(0.5, 2.0), accent)
    return voice.Speaker(pitch, tract, rng.uniform(560, 860), rng.uniform(0.9, 1.1), rng.uniform(0.5, 1.8), accent)


def person(held_out, *number):
    """A face and a voice; nobody else has this number."""
    rng = np.random.default_rng([VERSION, 77, *number])
    return face.identity(rng, held_out), speaker(rng, held_out)


def _cell(rng, kind):
    """What face, voice and words show, drawn so that labels are balanced within each kind of clip."""
    if kind == "whole":
        table = rule.cells()
        at = rng.choice(len(table), p=np.array(list(table.values())) / sum(table.values()))
        return list(table)[at]
    if kind == "open":
        pool = rule.undecided() + rule.partial()[rule.UNKNOWN]
    else:
        by_label = {k: v for k, v in rule.partial().items() if k != rule.UNKNOWN}
        pool = by_label[sorted(by_label)[rng.integers(len(by_label))]]
    return pool[rng.integers(len(pool))]


# Kinds of clips and their shares. Whoever is taught sees `unknown` as often as any label: twice as often as it is asked for.
KINDS, SHARES, TAUGHT = ("whole", "partial", "open"), (0.80, 0.13, 0.07), (0.75, 0.12, 0.13)


def plan(seed, split, index):
    """The plan of clip `index` of a split."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([VERSION, seed, SPLITS[split], index])
    held_out = HELD_OUT.get(split, ())
    kind = KINDS[rng.choice(3, p=TAUGHT if split in ("train", "post") else SHARES)]
    seen, heard, said = _cell(rng, kind)
    length_s = float(rng.choice((2.5, 3.0, 3.5)))

    # Everybody is in one clip only.
    who, mouthpiece = person(held_out, SPLITS[split], seed, index)
    place = face.scene(rng, "face" in held_out)
    where = room.device(rng, room.room(rng, "room" in held_out), "device" in held_out)

    spoken = heard is not None
    muffled = spoken and said is None
    polarity = said or sorted(lexicon.WORDS)[rng.integers(3)]
    carriers = lexicon.OTHER if "words" in held_out else lexicon.TURNED if "order" in held_out else lexicon.CARRIERS
    text = lexicon.sentence(rng, polarity, carriers, longest=4 if length_s < 3 else 5)
    tone = heard or sorted(voice.TONES)[rng.integers(4)]
    left_out = None
    if tone != "plain" and rng.random() < 0.4:
        # One cue of the tone keeps its plain value; never the first, which makes the tone.
        left_out = voice.HEARD[tone][rng.integers(1, 3)][0]

    showing = "face" if seen is not None else ("away", "turned")[rng.integers(2)]
    if showing == "face" and rng.random() < 0.1:
        place = face.Scene(**{**place.__dict__, "other": (int(rng.integers(1 << 31)), float(rng.choice((-1, 1))))})
    if showing == "face" and rng.random() < 0.15:
        fits = [c for c in ("mask", "shades") if not (c == "mask" and seen in ("smile", "wrinkled", "still"))]
        cover = fits[rng.integers(len(fits))]
        place = face.Scene(**{**place.__dict__, "cover": cover})

    units = {}
    if seen is not None:
        core, may = EXPRESSIONS[seen]
        strength = rng.uniform(0.6, 1.0)
        units = {u: float(np.clip(strength * rng.uniform(0.85, 1.15), 0.5, 1)) for u in core}
        units |= {u: float(strength * rng.uniform(0.5, 1.0)) for u in may if rng.random() < 0.6}
        # A flicker below what can be seen: logged, and a claim about it is an error.
        stray = (5, 7, 9, 12, 15, 24)[rng.integers(6)]
        if rng.random() < 0.3 and stray not in units:
            units[stray] = float(rng.uniform(0.05, 0.15))
    onset = rng.uniform(0.0, 0.25) * length_s
    offset = length_s - rng.uniform(0.0, 0.15) * length_s
    return Plan(f"w{VERSION}-{seed}-{split}-{index:06d}", split, (VERSION, seed, SPLITS[split], index), length_s, seen, heard, said,
                rule.decide(seen, heard, said), rule.subset(seen, heard, said), showing, spoken, muffled, text, who, place,
                mouthpiece, where, tone, left_out, units, float(onset), float(rng.uniform(0.2, 0.5)), float(offset),
                float(rng.uniform(0.1, 0.3)))


def envelope(t, onset_s, rise_s, offset_s):
    """Onset, apex, offset of an expression: smooth steps between 0 and 1."""
    def step(x):
        x = np.clip(x, 0, 1)
        return x * x * (3 - 2 * x)
    return step((t - onset_s) / rise_s) * (1 - step((t - offset_s) / rise_s))


def blinks(rng, t):
    out = np.zeros_like(t)
    at = rng.uniform(0.3, 2.5)
    while at < t[-1]:
        out = np.maximum(out, np.exp(-0.5 * ((t - at) / 0.07) ** 2))
        at += rng.uniform(1.5, 4.5)
    return out


def wander(rng, t, reach, speed=0.5):
    """Slow random motion: a sum of three sines within about `reach`."""
    phases, rates = rng.uniform(0, 6.28, 3), speed * rng.uniform(0.5, 2.0, 3)
    return reach / 2 * sum(np.sin(2 * np.pi * r * t + p) for r, p in zip(rates, phases)) + reach * rng.uniform(-0.5, 0.5)


def sound_of(p, rng):
    """The recorded sound, the mouth's opening per 10 ms, and when speech began and ended."""
    samples = int(p.length_s * voice.RATE)
    dry, opening = np.zeros(samples), np.zeros(samples // voice.HOP + 2)
    begin = end = None
    if p.spoken:
        said, moved = voice.speak(rng, lexicon.phonemes(p.text), p.speaker, voice.varied(rng, p.tone, p.left_out))
        at = int(min(p.speech_s * voice.RATE, max(0, samples - len(said))))
        said = said[: samples - at]
        dry[at:at + len(said)] = said
        first = at // voice.HOP
        moved = moved[: len(opening) - first]
        opening[first:first + len(moved)] = moved
        begin, end = at / voice.RATE, (at + len(said)) / voice.RATE
    return room.record(rng, dry, p.room, p.muffled), opening, begin, end


@dataclass
class Motion:
    """What happens in a clip, picture by picture, and its sound."""

    samples: np.ndarray
    begin_s: float | None       # of speech
    end_s: float | None
    units: dict                 # action unit -> (frames,)
    opening: np.ndarray
    pose: tuple
    gaze: tuple
    rng: np.random.Generator    # where the pictures' noise goes on


def motion(p, fps=FPS):
    """Replays a plan. Always the same for the same plan."""
    rng = np.random.default_rng([*p.seed, 1])
    samples, opening, begin_s, end_s = sound_of(p, rng)
    t = np.arange(int(p.length_s * fps)) / fps
    apex = envelope(t, p.onset_s, p.rise_s, p.offset_s)
    units = {u: v * apex for u, v in p.units.items()} | {45: blinks(rng, t)}
    moving = 0.9 * opening[np.minimum((t * 100).astype(int) + 1, len(opening) - 1)]
    pose = wander(rng, t, 0.28), wander(rng, t, 0.14), wander(rng, t, 0.10)
    gaze = wander(rng, t, 0.6), wander(rng, t, 0.4)
    return Motion(samples, begin_s, end_s, units, moving, pose, gaze, rng)


def render(p, size=SIZE, fps=FPS):
    """The bytes of the clip's file, and when speech began and ended."""
    m = motion(p, fps)
    pictures = face.render(m.rng, p.who, p.place, m.units, m.opening, m.pose, m.gaze, size, p.showing)
    return avi.encode(size, size, fps, [jpeg(i, p.place.quality) for i in pictures], m.samples), m.begin_s, m.end_s


def landmarks(p, fps=FPS):
    """Where the face's points are, `(frames, points, 2)` as shares of the picture, and how strong its units are, `(frames, units)`.

    None where no face is seen.
    """
    if p.showing != "face":
        return None
    m = motion(p, fps)
    points = face.landmarks(p.who, p.place, m.units, m.opening, m.pose, m.gaze)
    nothing = np.zeros(len(m.opening))
    return points, np.stack([m.units.get(u, nothing) for u in face.UNITS], axis=1)


def named(name):
    """The plan of a clip's id."""
    version, seed, *split, index = name.split("-")
    if version != f"w{VERSION}":
        raise ValueError(f"clip {name} is of another world than {VERSION}")
    return plan(int(seed), "-".join(split), int(index))


def jpeg(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def face_cues(units, cover=""):
    """(cue, value, part, intensity) of what the units show, brows as a whole."""
    hidden = COVERED[cover]
    raised, inner, low = units.get(2, 0), units.get(1, 0), units.get(4, 0)
    out = []
    if inner >= JND and low >= JND:
        out.append(("brow", "oblique", "brow", min(inner, low)))
    elif raised >= JND:
        out.append(("brow", "raised", "brow", raised))
    elif low >= JND:
        out.append(("brow", "lowered", "brow", low))
    out += [(*SEEN[u], v) for u, v in sorted(units.items()) if u in SEEN]
    if not out or all(v < JND for *_, v in out):
        out.append(("face", "still", "mouth", 1.0))
    return [(cue, value, part not in hidden and strength >= JND, strength) for cue, value, part, strength in out]


def cues_of(p, begin, end):
    """Every cue of the clip with onset, offset and whether it can be observed."""
    out = []

    def log(modality, cue, value, lo, hi, observable, **more):
        out.append({"modality": modality, "cue": cue, "value": value, "onset_ms": round(1000 * lo), "offset_ms": round(1000 * hi),
                    "observable": bool(observable), **more})

    if p.showing == "face":
        lo, hi = p.onset_s, min(p.length_s, p.offset_s + p.rise_s)
        for cue, value, visible, strength in face_cues(p.units, p.place.cover):
            log("face", cue, value, lo, hi, visible, intensity=round(strength, 3))
    if p.spoken:
        plain = dict(voice.HEARD["plain"])
        for cue, value in voice.HEARD[p.tone]:
            log("voice", cue, plain[cue] if cue == p.left_out else value, begin, end, not (p.muffled and cue == "timbre"))
        log("words", "words", lexicon.polarity(p.text), begin, end, not p.muffled)
    return out


def truth(p, begin, end, path):
    """The manifest line."""
    return {
        "id": p.clip, "clip": path, "label": p.label, "subset": p.subset,
        "cell": {"face": p.face, "voice": p.voice, "words": p.words},
        "cues": cues_of(p, begin, end), "words": p.text if p.spoken and not p.muffled else None, "split": p.split,
        "generator": f"world-{VERSION}{'-held-out' if p.split in HELD_OUT else ''}", "duration_ms": round(1000 * p.length_s),
    }
