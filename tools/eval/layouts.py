"""Small folders in the official layouts of DFEW, MAFW and RAVDESS, with tiny clips of noise, for the tests of `mien eval import`.

    python layouts.py FOLDER [--clips 12]

File names, columns, numbering and traps are the data sets'; pictures, sound and labels are random. Clips are MJPEG/PCM AVI files
under the official names, which the reader knows by their content.
"""

import argparse
import io
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from world import avi  # noqa: E402

MAFW = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness", "disappointment")


def clip(path, rng, frames=4, seconds=0.5, sound=True):
    """A few frames of coloured noise and a noisy tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jpegs = []
    for _ in range(frames):
        small = rng.integers(0, 256, (6, 8, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(small).resize((64, 48), Image.BICUBIC).save(out, "JPEG", quality=80)
        jpegs.append(out.getvalue())
    t = np.arange(int(16000 * seconds)) / 16000
    tone = 6000 * np.sin(2 * np.pi * rng.uniform(100, 900) * t) + rng.normal(0, 800, len(t))
    path.write_bytes(avi.encode(64, 48, 8, jpegs, tone.astype(np.int16) if sound else None))


def dfew(root, rng, clips):
    """Unpadded names of clips, five folds, labels from 1; one clip is silent."""
    number = 0
    for fold in range(1, 6):
        rows = []
        for _ in range(clips if fold == 1 else 2):
            number += 1
            rows.append(f"{number},{random.Random(number).randint(1, 7)}")
            clip(root / "Clip" / "original" / f"{number}.mp4", rng, sound=number != 3)
        for split in ("test", "train"):
            path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("video_name,label\n" + "\n".join(rows) + "\n")


def mafw(root, rng, clips):
    """Padded names, labels by name; lists with captions, which are no UTF-8, and compound ones beside."""
    for fold in range(1, 6):
        rows = []
        for i in range(clips if fold == 1 else 2):
            number = fold * 100 + i
            rows.append((f"{number:05}.mp4", MAFW[(number * 7) % 11]))
            clip(root / "data" / "clips" / rows[-1][0], rng)
        for kind, text in (("no_caption", "".join(f"{n} {e}\n" for n, e in rows).encode()),
                           ("with_caption", b"".join(f"{n}\t{e}\t".encode() + b"\xc4\xe3\tyou\n" for n, e in rows if e != "neutral"))):
            for split in ("test", "train"):
                path = root / "Train & Test Set" / "single" / kind / f"set_{fold}" / f"{split}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text)
        compound = root / "Train & Test Set" / "compound" / "no_caption" / f"set_{fold}" / "test.txt"
        compound.parent.mkdir(parents=True, exist_ok=True)
        blends = ("anger_disgust", "sadness_disappointment", "fear")
        compound.write_text("".join(f"{n} {blends[i % 3]}\n" for i, (n, _) in enumerate(rows)))


def ravdess(root, rng, clips):
    """Two actors; the same performances also as film alone, as sound alone, and as song."""
    for actor in (1, 6):
        for i in range(clips):
            emotion = i % 8 + 1
            intensity = 1 if emotion == 1 else i // 8 % 2 + 1
            tail = f"{emotion:02}-{intensity:02}-{i % 2 + 1:02}-{i // 2 % 2 + 1:02}-{actor:02}"
            folder = root / f"Actor_{actor:02}" if actor == 1 else root / f"Video_Speech_Actor_{actor:02}" / f"Actor_{actor:02}"
            clip(folder / f"01-01-{tail}.mp4", rng)
            for other in (f"02-01-{tail}.mp4", f"03-01-{tail}.wav", f"01-02-{tail}.mp4"):
                (folder / other).write_bytes(b"the same performance again")


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--clips", type=int, default=12, help="of the first fold, and of each actor")
    args = asked.parse_args()
    rng = np.random.default_rng(7)
    for make in (dfew, mafw, ravdess):
        make(args.folder / make.__name__, rng, args.clips)


if __name__ == "__main__":
    main()
