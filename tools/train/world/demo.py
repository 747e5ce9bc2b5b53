"""The demo clip: a minute of one held-out person whose state changes, and its truth.

Units: seconds inside, milliseconds in the truth.
"""

import numpy as np

from . import VERSION, avi, clip, face, lexicon, room, rule, voice

SIZE, FPS = 160, 10
STATE_S = 7.5
FIRST_S, EVERY_S = 0.3, 2.4     # sentences within a state
STATES = (
    ("still", "plain", "plain"), ("smile", "lively", "good"), ("still", "subdued", "plain"), ("raised", "lively", "plain"),
    ("oblique", "tense", "bad"), ("lowered", "subdued", "bad"), ("lowered", "lively", "bad"), ("wrinkled", "plain", "bad"),
)


def make(seed=3, person=(98, 20), states=STATES, held_out=()):
    """The file's bytes and one line of truth per state."""
    rng = np.random.default_rng([VERSION, 99, seed])
    who, mouthpiece = clip.person(held_out, *person)
    place = face.Scene((96, 120, 136), (58, 74, 92), 2.4, 0.22, 1.0, 0.03, 0.0, 1.5, 82, 0.32, (0.0, 0.0), "")
    where = room.room(rng, "room" in held_out)
    length_s = STATE_S * len(states)
    dry = np.zeros(int(length_s * voice.RATE))
    opening = np.zeros(len(dry) // voice.HOP + 2)
    t = np.arange(int(length_s * FPS)) / FPS
    units = {u: np.zeros(len(t)) for u in face.UNITS}
    lines = []
    for i, (seen, heard, said) in enumerate(states):
        start = i * STATE_S
        core, may = clip.EXPRESSIONS[seen]
        peaks = {u: 0.9 for u in core} | {u: 0.7 for u in may if u not in (25, 26)}
        lo, hi = start + 0.1, start + STATE_S - 0.4
        shape = clip.envelope(t, lo, 0.4, hi)
        for u, peak in peaks.items():
            units[u] = np.maximum(units[u], peak * shape)
        cues, sentences = [], []
        for cue, value, visible, strength in clip.face_cues(peaks):
            cues.append({"modality": "face", "cue": cue, "value": value, "onset_ms": round(1000 * lo),
                         "offset_ms": round(1000 * (hi + 0.4)), "observable": bool(visible), "intensity": round(strength, 3)})
        for k in range(3):
            text = lexicon.sentence(rng, said, lexicon.OTHER if "words" in held_out else lexicon.CARRIERS, longest=4)
            sound, moved = voice.speak(rng, lexicon.phonemes(text), mouthpiece, voice.varied(rng, heard))
            begin = start + FIRST_S + k * EVERY_S
            at = int(begin * voice.RATE)
            dry[at:at + len(sound)] += sound[: len(dry) - at]
            opening[at // voice.HOP:at // voice.HOP + len(moved)] = moved[: len(opening) - at // voice.HOP]
            end = begin + len(sound) / voice.RATE
            sentences.append(text)
            heard_cues = [("voice", *c) for c in voice.HEARD[heard]] + [("words", "words", said)]
            cues += [{"modality": m, "cue": c, "value": v, "onset_ms": round(1000 * begin), "offset_ms": round(1000 * end),
                      "observable": True} for m, c, v in heard_cues]
        lines.append({
            "id": f"demo-{i}", "clip": "demo.avi", "start_ms": round(1000 * start), "end_ms": round(1000 * (start + STATE_S)),
            "label": rule.decide(seen, heard, said), "subset": rule.subset(seen, heard, said),
            "cell": {"face": seen, "voice": heard, "words": said}, "cues": cues, "words": "; ".join(sentences), "split": "test",
            "generator": f"world-{VERSION}"})
    units[45] = clip.blinks(rng, t)
    pose = clip.wander(rng, t, 0.14, 0.2), clip.wander(rng, t, 0.08, 0.2), clip.wander(rng, t, 0.06, 0.2)
    gaze = clip.wander(rng, t, 0.4, 0.3), clip.wander(rng, t, 0.25, 0.3)
    moving = 0.9 * opening[np.minimum((t * 100).astype(int) + 1, len(opening) - 1)]
    pictures = face.render(rng, who, place, units, moving, pose, gaze, SIZE)
    frames = [clip.jpeg(p, place.quality) for p in pictures]
    return avi.encode(SIZE, SIZE, FPS, frames, room.record(rng, dry, where)), lines
