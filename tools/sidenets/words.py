#!/usr/bin/env python3
"""Words beside the model: a trained recogniser (Whisper tiny.en, from a package) packed and run by mien, against faster-whisper on the same
windows of people's voices, and both against the text that is read. Prints the table and fails where mien is the worse one.

    words.py MIEN MODEL_FOLDER VOICE.wav...
"""
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
WINDOW_S = 5
# The opening of A Tale of Two Cities (Dickens, 1859), which two_cities.wav reads.
READ = {"two_cities": """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness,
it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of Darkness, it was the spring of
hope, it was the winter of despair, we had everything before us, we had nothing before us, we were all going direct to Heaven, we were all
going direct the other way - in short, the period was so far like the present period, that some of its noisiest authorities insisted on its
being received, for good or for evil, in the superlative degree of comparison only."""}


def words(text):
    return re.findall(r"[a-z']+", text.lower())


def errors(ours, truth):
    """Words to put in, take out or change."""
    row = list(range(len(ours) + 1))
    for i, a in enumerate(truth, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(ours, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def main(mien, folder, *voices):
    from faster_whisper import WhisperModel
    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=0)
    table, fail = [], []
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([sys.executable, str(HERE.parent / "quant" / "whisper.py"), folder, f"{work}/folder"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([mien, "pack", "--whisper", f"{work}/folder", "-o", f"{work}/words.gguf"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for voice in map(Path, voices):
            clip = f"{work}/{voice.stem}.wav"
            subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", str(voice), "-t", "45", "-ar", "16000", "-ac", "1", clip], check=True)
            raw = subprocess.run(["ffmpeg", "-v", "error", "-i", clip, "-f", "f32le", "-"], check=True, capture_output=True).stdout
            samples, step = np.frombuffer(raw, "<f4"), WINDOW_S * 16_000
            said, took = {}, {}
            begun = time.monotonic()
            heard = []
            for start in range(0, len(samples), step):
                found, _ = model.transcribe(samples[start:start + step], language="en", beam_size=1, temperature=0, without_timestamps=True,
                                            condition_on_previous_text=False)
                heard += [part.text for part in found]
            said["faster-whisper"], took["faster-whisper"] = words(" ".join(heard)), time.monotonic() - begun
            for context in ("whole", "speech"):
                begun = time.monotonic()
                lines = subprocess.run([mien, "cues", clip, "--words", f"{work}/words.gguf", "--audio-context", context, "--window-ms",
                                        str(WINDOW_S * 1000), "--hop-ms", str(WINDOW_S * 1000)], check=True, capture_output=True, text=True).stdout
                took[context] = time.monotonic() - begun
                said[context] = words(" ".join(json.loads(line)["words"] for line in lines.splitlines()))
            truth = words(READ[voice.stem]) if voice.stem in READ else said["faster-whisper"]
            against = "the text" if voice.stem in READ else "faster-whisper"
            wrong = {who: 100 * errors(text, truth) / len(truth) for who, text in said.items()}
            table.append((voice.stem, against, len(truth), wrong, took))
            allowed = wrong["faster-whisper"] + (2 if voice.stem in READ else 15)
            fail += [f"{voice.stem}, {who}: {wrong[who]:.1f} % of words are wrong" for who in ("whole", "speech") if wrong[who] > allowed]
            if took["speech"] > 1.5 * took["faster-whisper"]:
                fail.append(f"{voice.stem}: {took['speech']:.1f} s, and faster-whisper {took['faster-whisper']:.1f} s")
    print("\n| Voice | words | word errors against | mien, whole | mien, speech | faster-whisper | time, mien whole | speech | faster-whisper |")
    print("|---|---|---|---|---|---|---|---|---|")
    for voice, against, count, wrong, took in table:
        shown = [f"{wrong[who]:.1f} %" for who in ("whole", "speech", "faster-whisper")] + [f"{took[who]:.1f} s" for who in ("whole", "speech", "faster-whisper")]
        print(f"| {voice} | {count} | {against} | " + " | ".join(shown) + " |")
    if fail:
        sys.exit("error: " + "; ".join(fail))


if __name__ == "__main__":
    main(*sys.argv[1:])
