"""What lies between a mouth and a recording: the room, its noise, the microphone's gain.

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
    low_hz: float       # the microphone's lower edge


def room(rng, held_out=False):
    """A room from the usual or the held-out family."""
    if held_out:
        return Room(rng.uniform(0.45, 0.8), rng.uniform(0.25, 0.45), rng.uniform(-52, -44), rng.uniform(0.9, 1.4),
                    rng.uniform(0.002, 0.006), rng.uniform(-5, 5), rng.uniform(120, 180))
    return Room(rng.uniform(0.08, 0.4), rng.uniform(0.0, 0.25), rng.uniform(-66, -50), rng.uniform(0.0, 0.9), 0.0,
                rng.uniform(-4, 4), rng.uniform(40, 110))


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
    speech = np.fft.rfft(dry, size)
    if muffled:
        # A wall takes the edges off, not the loudness.
        level = np.sum(np.abs(speech) ** 2)
        speech = speech / (1 + (f / 380.0) ** 8)
        speech *= np.sqrt(level / (np.sum(np.abs(speech) ** 2) + 1e-12))
    wet = np.fft.irfft(speech * response + hiss, size)[:n]
    t = np.arange(n) / RATE
    out = (wet + place.hum * np.sin(2 * np.pi * 50 * t)) * 10 ** (place.gain_db / 20)
    return np.clip(np.round(out * 32767), -32768, 32767).astype(np.int16)
