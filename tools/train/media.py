"""Clips to what the towers read: pictures chosen, resized and normalised, and the log-mel of the sound.

Shapes: pixels `(frames, 3, image, image)` f32 in [-1, 1]; mel `(mels, 2 * positions)` f32. Either is None where the clip lacks it.
"""

import io
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import WhisperFeatureExtractor

import shards
from world import avi

RATE = 16000


def read(path):
    """Pictures (PIL, RGB) and samples (f32) of a clip, a file or in a tar: our AVI files directly, anything else through ffmpeg."""
    data = shards.read(path)
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        frames, sound, _ = avi.decode(data)
        if not frames or frames[0][:2] == b"\xff\xd8":
            pictures = [Image.open(io.BytesIO(f)).convert("RGB") for f in frames]
            return pictures, np.frombuffer(sound, "<i2").astype(np.float32) / 32768
    if Path(path).exists():
        return _pictures(path), _sound(path)
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as file:     # ffmpeg seeks
        file.write(data)
        file.flush()
        return _pictures(file.name), _sound(file.name)


def _ffmpeg(path, *options):
    done = subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), *options, "-"], capture_output=True, check=False)
    return done.stdout, done.stderr.decode(errors="replace").strip()


def _pictures(path):
    probe = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "json",
                            str(path)], capture_output=True, check=False)
    streams = json.loads(probe.stdout or b"{}").get("streams", [])
    if not streams:
        return []
    width, height = streams[0]["width"], streams[0]["height"]
    raw, said = _ffmpeg(path, "-map", "0:v:0", "-f", "rawvideo", "-pix_fmt", "rgb24")
    frames = np.frombuffer(raw[: len(raw) // (width * height * 3) * width * height * 3], np.uint8).reshape(-1, height, width, 3)
    if not len(frames):
        raise ValueError(f"{path}: no picture could be decoded: {said or 'no reason given'}")
    return [Image.fromarray(f) for f in frames]


def _sound(path):
    raw, _ = _ffmpeg(path, "-map", "0:a:0", "-f", "s16le", "-ac", "1", "-ar", str(RATE))
    return np.frombuffer(raw[: len(raw) // 2 * 2], "<i2").astype(np.float32) / 32768


def chosen(count, wanted):
    """Indices of `wanted` pictures spread over `count`: midpoints of equal stretches, half to even."""
    middle = (count - 1) / wanted * (np.arange(wanted) + 0.5)
    return np.round(middle + 1e-6).astype(int)


def pixels(pictures, sizes):
    if not pictures:
        return None
    side = (sizes.image, sizes.image)
    out = np.stack([np.asarray(pictures[i].resize(side, Image.BICUBIC)) for i in chosen(len(pictures), sizes.frames)])
    scaled = (out.astype(np.float64) / 255).astype(np.float32)
    return ((scaled - 0.5) / 0.5).transpose(0, 3, 1, 2)


class Mel:
    """The log-mel of Whisper, padded to the tower's length."""

    def __init__(self, sizes):
        self.extract = WhisperFeatureExtractor(feature_size=sizes.mels, sampling_rate=RATE, hop_length=160,
                                               chunk_length=sizes.positions // 50, n_fft=400)

    def __call__(self, samples):
        if len(samples) == 0:
            return None
        return self.extract(samples, sampling_rate=RATE, return_tensors="np")["input_features"][0]
