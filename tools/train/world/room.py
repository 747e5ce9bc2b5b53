"""What lies between a mouth and a recording: the room, its noise, the device.

Shapes: sound is `(samples,)` f64 in, i16 out.
"""

from dataclasses import dataclass

import numpy as np

RATE = 16000


@dataclass(frozen=True)
class Room:
    decay_s: float      # time to fall by 60 dB
    wet: float
    noise_db: float     # below full scale
    colour: float       # spectral slope of the noise: 0 white, 1 pink
    hum: float
    gain_db: float
    low_hz: float       # the microphone's edges
    high_hz: float = 8000.0
    curve: tuple = ()   # what the device adds in dB at eight frequencies, evenly spaced in octaves from 100 to 8000 Hz
    babble: float = 0.0     # how much of the noise comes and goes as speech does
    knocks: int = 0
    drive: float = 0.0      # how hard the device is driven: 0 linear
    law: bool = False       # eight bits on a logarithmic scale (G.711)


def room(rng, held_out=False):
    """A room from the usual or the held-out family."""
    if held_out:
        return Room(rng.uniform(0.45, 0.8), rng.uniform(0.25, 0.45), rng.uniform(-52, -44), rng.uniform(0.9, 1.4),
                    rng.uniform(0.002, 0.006), rng.uniform(-5, 5), rng.uniform(120, 180))
    return Room(rng.uniform(0.08, 0.4), rng.uniform(0.0, 0.25), rng.uniform(-68, -48), rng.uniform(0.0, 0.9), 0.0,
                rng.uniform(-6, 4), rng.uniform(40, 110))


def device(rng, place, held_out=False):
    """The room as a device of the usual family hears it (webcams, phones, far microphones), or a telephone line, which is held out."""
    if held_out:
        return Room(**{**place.__dict__, "low_hz": 300.0, "high_hz": 3400.0, "law": True})
    if rng.random() < 0.3:
        return place
    return Room(**{**place.__dict__, "high_hz": rng.uniform(5000, 8000), "curve": tuple(rng.normal(0, 3, 8)),
                   "babble": rng.uniform(0, 0.8), "knocks": int(rng.integers(0, 3)), "drive": rng.uniform(0, 0.6)})


def record(rng, dry, place, muffled=False):
    """Dry sound as recorded. `muffled` hides the words (nothing above the first harmonics passes) and leaves the tone."""
    n = len(dry)
    tail = int(min(place.decay_s, 0.5) * RATE)
    size = -(-(n + tail) // 4096) * 4096
    echo = rng.standard_normal(tail) * np.exp(-6.9 * np.arange(tail) / (place.decay_s * RATE))
    echo *= place.wet / (np.sqrt(np.sum(echo ** 2)) + 1e-9)
    echo[0] += 1.0
    f = np.arange(size // 2 + 1) * (RATE / size)
    response = np.fft.rfft(echo, size) * (f ** 2 / (f ** 2 + place.low_hz ** 2))
    hiss = rng.standard_normal(size + 2).view(complex) * np.maximum(f, 20) ** (-place.colour / 2)
    hiss *= 10 ** (place.noise_db / 20) / np.sqrt(np.sum(np.abs(hiss) ** 2) * 2) * size
    if place.babble:
        t = np.arange(size) / RATE
        comes = sum(np.sin(2 * np.pi * hz * t + p) for hz, p in zip(rng.uniform(1, 5, 3), rng.uniform(0, 6.28, 3)))
        hiss = np.fft.rfft(np.fft.irfft(hiss, size) * (1 + place.babble * comes / 2))
    speech = np.fft.rfft(dry, size)
    if muffled:
        # A wall takes the edges off, not the loudness.
        level = np.sum(np.abs(speech) ** 2)
        speech = speech / (1 + (f / 380.0) ** 8)
        speech *= np.sqrt(level / (np.sum(np.abs(speech) ** 2) + 1e-12))
    wet = np.fft.irfft((speech * response + hiss) * _heard(f, place), size)[:n]
    t = np.arange(n) / RATE
    for _ in range(place.knocks):
        since = t - rng.uniform(0, n / RATE)
        wet += 0.05 * (since > 0) * np.exp(-60 * np.maximum(since, 0)) * np.sin(2 * np.pi * rng.uniform(80, 900) * since)
    out = (wet + place.hum * np.sin(2 * np.pi * 50 * t)) * 10 ** (place.gain_db / 20)
    if place.drive:
        out = np.tanh(out * 8 * place.drive) / (8 * place.drive)
    if place.law:
        logarithm = np.sign(out) * np.log1p(255 * np.minimum(np.abs(out), 1)) / np.log(256)
        logarithm = np.round(logarithm * 127) / 127
        out = np.sign(logarithm) * (256 ** np.abs(logarithm) - 1) / 255
    return np.clip(np.round(out * 32767), -32768, 32767).astype(np.int16)


def _heard(f, place):
    """What a device makes of each frequency."""
    heard = 1 / np.sqrt(1 + (f / place.high_hz) ** 12) if place.high_hz < 8000 else np.ones_like(f)
    if place.curve:
        at = np.log2(np.maximum(f, 100) / 100) / np.log2(80) * (len(place.curve) - 1)
        heard *= 10 ** (np.interp(at, np.arange(len(place.curve)), place.curve) / 20)
    return heard
