"""Writes tests/data/claims.json: what claims.py and rewards.py say of texts, for the Rust side to say the same.

    python vectors.py            writes the file
"""

import json
from dataclasses import asdict
from pathlib import Path

import claims
import rewards
from world import clip

FILE = Path(__file__).resolve().parents[2] / "tests" / "data" / "claims.json"

TEXTS = [
    "I see raised brow, wide eyes. I hear high pitch.", "I see not raised brow. raised brow. I see RAISED brow. I see raised brows.",
    "I see raised brow", "I see raised brow, raised brow. I see raised brow.", "", "I see .", "I see  raised brow ,wide eyes.",
    "MI see raised brow.", "é_I see wide eyes.", "I I see wide eyes. -I hear bad words.", "I see I hear high pitch. I hear low pitch.",
    "I see no face. I hear no voice, no words.", "I see still face. I hear no words, plain words.", "I see raised  brow. I see raised\tbrow.",
    "I see\nraised brow. I see raised brow,\nwide eyes.", "I hear fast rate, slow rate, pressed timbre, pressed mouth.",
    "I see still face, raised brow. Together happy", "I see dropped jaw, wrinkled nose, smiling mouth. I hear soft timbre, narrow range.",
    "I see raised brow. I hear high pitch, bad words. Together fear",
    "You see raised brow. I seeraised brow. I hear, high pitch. I see wide eyes. I hear level pitch",
]
COMPLETIONS = [
    "<think>I see raised brow, wide eyes. I hear high pitch, fast rate, bad words.</think>\n<answer>fear</answer>",
    "<think>a</think><answer>b</answer>", "<think>a</think>\n\n<answer>b</answer>", " <think>a</think><answer>b</answer>",
    "<think>a</think> so <answer>b</answer>", "<think>a</think>", "<answer>b</answer>", "<think></think><answer>b</answer>",
    "<think> \n</think><answer>b</answer>", "<think>a</think><answer></answer>", "<think>a</think><answer> </answer>",
    "<think>a</think><answer>b</answer><answer>c</answer>", "<think>a<think></think><answer>b</answer>",
    "<think>a</think><answer>b</answer> junk", "<answer> Fear.\n</answer>", "<answer>fearful</answer>", "<answer>Happiness</answer>", "fear",
    "<answer>fear, sad</answer>", "<answer><answer>fear</answer>", "</answer>sad<answer>", "<think>a</answer><answer>b</think>",
    "<answer>b</answer><think>a</think>", "<think>one</think><think>two</think><answer>b</answer>", "<answer>..sad..</answer>", "",
]
WORDS = ["happy", " Happy. ", "HAPPINESS", "joyful", "sadness", "anger", "surprised", "disgusted", "Fearful.", "afraid", "unknown", "calm",
         "", "...", "very sad", ". sad ."]


def logs():
    """Cue logs: what clips of the world show, nothing, and one modality."""
    for i in (0, 3, 8, 21, 34):
        yield [{k: c[k] for k in ("modality", "cue", "value", "observable")} for c in clip.cues_of(clip.plan(9, "train", i), 0.2, 1.0)]
    one = {"modality": "face", "cue": "brow", "value": "raised", "observable": True}
    still = {**one, "cue": "face", "value": "still"}
    pitch = {"modality": "voice", "cue": "pitch", "value": "high", "observable": True}
    yield []
    yield [one]
    yield [{**one, "observable": False}, pitch]
    yield [still, pitch, {"modality": "words", "cue": "words", "value": "bad", "observable": True}]


def vectors():
    cues = list(logs())
    texts = TEXTS + [claims.write(c) for c in cues]
    return {
        "read": [{"text": t, "claims": claims.read(t)} for t in texts],
        "check": [{"text": t, "cues": n, "standing": asdict(claims.check(t, c))} for n, c in enumerate(cues) for t in texts],
        "cues": cues,
        "completions": [{"text": t, "format": rewards.format_reward(t), "answer": rewards.answer_of(t), "think": rewards.think_of(t)}
                        for t in COMPLETIONS],
        "canonical": [[w, rewards.canonical(w)] for w in WORDS],
    }


def text():
    parts = vectors()
    rows = {k: "[\n  " + ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in v) + "\n ]" for k, v in parts.items()}
    return "{\n" + ",\n".join(f' "{k}": {v}' for k, v in rows.items()) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
