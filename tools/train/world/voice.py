"""A small formant synthesiser with rule prosody: a sentence, a speaker and a tone to sound.

The source (pulses or noise) is filtered frame by frame in the frequency domain by a cascade of formant resonators with
Klatt's transfer function; frication has its own band. Prosody follows rules: mean and range of pitch, rate, pauses, spectral
tilt, breath, jitter and tremor.

Shapes: sound is `(samples,)` f64, 16 kHz, about [-1, 1]. Units: seconds and Hz.
"""

from dataclasses import dataclass

import numpy as np

RATE = 16000
HOP = 160
WINDOW = 2 * HOP
FFT = 640

# Formants of a male tract; a second triple is where a diphthong goes.
VOWELS = {
    "IY": (280, 2250, 2900), "IH": (400, 1950, 2550), "EH": (550, 1780, 2480), "AE": (680, 1680, 2430),
    "AH": (620, 1220, 2500), "AO": (590, 880, 2500), "UH": (450, 1050, 2300), "UW": (310, 900, 2200), "ER": (470, 1300, 1650),
    "EY": (500, 1850, 2500, 320, 2200, 2700), "AY": (700, 1200, 2450, 400, 1950, 2550), "OW": (520, 950, 2400, 360, 820, 2300),
    "AW": (700, 1250, 2450, 400, 900, 2350),
}
# Formants, voicing, length in seconds.
SONORANTS = {
    "M": (270, 1000, 2200, 0.45, 0.070), "N": (270, 1500, 2500, 0.45, 0.065), "L": (360, 1050, 2700, 0.6, 0.065),
    "R": (370, 1150, 1600, 0.6, 0.065), "W": (300, 700, 2200, 0.55, 0.065), "Y": (280, 2200, 2950, 0.55, 0.060),
}
# Centre and width of the noise, its strength, voicing, length.
FRICATIVES = {
    "S": (5900, 1500, 0.50, 0.0, 0.100), "Z": (5800, 1500, 0.30, 0.35, 0.080), "F": (6000, 4000, 0.14, 0.0, 0.090),
    "V": (5000, 4000, 0.08, 0.45, 0.060), "DH": (5000, 4000, 0.05, 0.5, 0.045), "HH": (1500, 2500, 0.14, 0.0, 0.060),
}
# Centre and width of the burst, its strength, voicing of the closure.
STOPS = {
    "P": (900, 1200, 0.35, 0.0), "T": (4500, 2000, 0.40, 0.0), "K": (2000, 1200, 0.40, 0.0), "B": (800, 1200, 0.22, 0.25),
    "D": (4000, 2000, 0.25, 0.25), "G": (1900, 1200, 0.25, 0.25),
}
OPENING = {"AE": 1.0, "AH": 0.8, "AO": 0.9, "AY": 0.9, "AW": 0.9, "EH": 0.7, "EY": 0.6, "OW": 0.6, "ER": 0.5, "IH": 0.4,
           "UH": 0.4, "IY": 0.3, "UW": 0.25}


@dataclass(frozen=True)
class Speaker:
    pitch_hz: float
    tract: float        # formant scale, 1 for a long male tract
    glottis_hz: float   # corner of the source spectrum in a plain voice
    rate: float
    breath: float
    accent: tuple = (1.0, 1.0, 1.0)     # factors on the first three formants


@dataclass(frozen=True)
class Tone:
    """Factors against the speaker's plain voice."""

    pitch: float = 1.0
    swing: float = 0.20       # pitch range as a share of the mean
    rate: float = 1.0
    corner: float = 1.0       # of the source spectrum: above one pressed, below one soft
    breath: float = 1.0
    jitter: float = 0.006
    tremor: float = 0.0
    pause_s: float = 0.0
    level: float = 1.0


TONES = {
    "plain": Tone(),
    "lively": Tone(pitch=1.36, swing=0.50, rate=1.18, corner=2.1, level=1.7),
    "tense": Tone(pitch=1.50, swing=0.07, rate=1.28, corner=2.0, jitter=0.028, tremor=0.045, level=1.2),
    "subdued": Tone(pitch=0.82, swing=0.08, rate=0.76, corner=0.45, breath=3.0, pause_s=0.16, level=0.5),
}

# What each tone lets a listener hear: cue, value. One of them may keep its plain value in a clip, never the first.
HEARD = {
    "plain": (("pitch", "level"), ("range", "medium"), ("rate", "medium"), ("timbre", "clear")),
    "lively": (("range", "wide"), ("pitch", "high"), ("rate", "fast"), ("timbre", "pressed")),
    "tense": (("timbre", "trembling"), ("pitch", "high"), ("rate", "fast"), ("range", "narrow")),
    "subdued": (("timbre", "soft"), ("pitch", "low"), ("rate", "slow"), ("range", "narrow")),
}


def varied(rng, tone, left_out=None, strength=1.0):
    """A tone as one clip has it: a little random, scaled by `strength`, one cue replaced by its plain value."""
    base, mine = TONES["plain"], TONES[tone]
    def mix(name):
        a, b = getattr(base, name), getattr(mine, name)
        return a + (b - a) * strength * rng.uniform(0.9, 1.1)
    values = {name: mix(name) for name in ("pitch", "swing", "rate", "corner", "breath", "jitter", "tremor", "pause_s", "level")}
    values["pitch"] *= rng.uniform(0.97, 1.03)
    values["rate"] *= rng.uniform(0.97, 1.03)
    plain = {"pitch": ("pitch",), "range": ("swing",), "rate": ("rate", "pause_s"), "timbre": ("corner", "breath", "tremor")}
    for name in plain.get(left_out, ()):
        values[name] = getattr(base, name)
    return Tone(**values)


def _segments(words, tone, speaker):
    """Phonemes to a list of (formants start, formants end, voicing, noise, centre, width, length, opening, stress)."""
    out, here = [], (500.0, 1500.0, 2500.0)
    speed = 1.0 / (tone.rate * speaker.rate)
    for n, word in enumerate(words):
        last = n == len(words) - 1
        for phoneme in word:
            stress = phoneme.endswith("1")
            p = phoneme.rstrip("1")
            if p in VOWELS:
                f = VOWELS[p]
                length = (0.125 if stress else 0.080) + (0.045 if len(f) == 6 else 0.0) + (0.03 if last and stress else 0.0)
                out.append((f[:3], f[3:] or f[:3], 1.0, 0.0, 0.0, 1.0, length * speed, OPENING[p], stress))
                here = f[3:] or f[:3]
            elif p in SONORANTS:
                *f, voicing, length = SONORANTS[p]
                out.append((tuple(f), tuple(f), voicing, 0.0, 0.0, 1.0, length * speed, 0.0 if p == "M" else 0.25, False))
                here = tuple(f)
            elif p in FRICATIVES:
                centre, width, noise, voicing, length = FRICATIVES[p]
                out.append((here, here, voicing, noise, centre, width, length * speed, 0.15, False))
            else:
                centre, width, noise, voicing = STOPS[p]
                out.append((here, here, voicing, 0.0, centre, width, 0.045 * speed, 0.0, False))
                out.append((here, here, 0.0, noise, centre, width, 0.022, 0.15, False))
        if not last and tone.pause_s > 0.02 and n % 2 == 1:
            out.append((here, here, 0.0, 0.0, 0.0, 1.0, tone.pause_s, 0.0, False))
    return out


def _resonator(frequency_hz, width_hz, z):
    """Klatt's two-pole resonator with unit gain at 0 Hz, on the unit circle points `z` = exp(-iw)."""
    c = -np.exp(-2 * np.pi * width_hz / RATE)
    b = 2 * np.exp(-np.pi * width_hz / RATE) * np.cos(2 * np.pi * frequency_hz / RATE)
    return (1 - b - c) / (1 - b * z - c * z * z)


_F = np.arange(FFT // 2 + 1) * RATE / FFT
_Z = np.exp(-2j * np.pi * _F / RATE).astype(np.complex64)


def _smooth(track, width):
    kernel = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(track, width // 2, mode="edge"), kernel / kernel.sum(), mode="valid")[: len(track)]


def speak(rng, words, speaker, tone):
    """Sound of a sentence (lists of phonemes), and the mouth's opening, one value in 0..1 per 10 ms."""
    segments = _segments(words, tone, speaker)
    counts = [max(2, round(s[6] * RATE / HOP)) for s in segments]
    frames = sum(counts)
    tracks = np.zeros((9, frames))
    stress = np.zeros(frames)
    at = 0
    for s, count in zip(segments, counts):
        ramp = np.linspace(0, 1, count)
        here = slice(at, at + count)
        for i in range(3):
            tracks[i, here] = s[0][i] + (s[1][i] - s[0][i]) * ramp
        tracks[3, here], tracks[4, here] = s[2], s[3]
        tracks[5, here], tracks[6, here], tracks[7, here] = s[4], s[5], s[7]
        if s[8]:
            stress[here] = np.sin(np.pi * ramp)
        at += count
    for i in range(3):
        tracks[i] = _smooth(tracks[i], 5) * speaker.tract * speaker.accent[i]
    voicing, opening = _smooth(tracks[3], 3), _smooth(tracks[7], 5)

    # Pitch: falls over the sentence, rises on stress, trembles.
    t = np.arange(frames) * HOP / RATE
    fall = np.linspace(0.6, -0.6, frames)
    contour = 0.55 * fall + 0.9 * (_smooth(stress, 9) - 0.3)
    f0 = speaker.pitch_hz * tone.pitch * (1 + tone.swing * contour)
    f0 = f0 * (1 + tone.tremor * np.sin(2 * np.pi * 6.5 * t + rng.uniform(0, 6)))
    f0 = np.clip(f0, 60, 500)
    samples = frames * HOP
    f0 = np.repeat(f0, HOP) * (1 + tone.jitter * np.repeat(rng.standard_normal(samples // 80 + 1), 80)[:samples])
    phase = np.cumsum(f0 / RATE)
    turns = np.floor(phase)
    hit = np.flatnonzero(np.diff(turns, prepend=turns[0]) > 0)
    pulses = np.zeros(samples + WINDOW)
    share = np.clip((phase[hit] - turns[hit]) / (f0[hit] / RATE), 0, 1)
    height = (RATE / f0[hit]) ** 0.5 * (1 + 2 * tone.jitter * rng.standard_normal(len(hit)))
    pulses[hit] += height * (1 - share)
    pulses[hit - 1] += height * share
    noise = rng.standard_normal(samples + WINDOW)

    window = np.hanning(WINDOW + 1)[:-1]
    view = np.lib.stride_tricks.sliding_window_view
    voiced = np.fft.rfft(view(pulses, WINDOW)[::HOP][:frames] * window, FFT).astype(np.complex64)
    hiss = np.fft.rfft(view(noise, WINDOW)[::HOP][:frames] * window, FFT).astype(np.complex64)
    corner = speaker.glottis_hz * tone.corner
    glottis = (_F / 200.0) / (1 + (_F / corner) ** 2)
    tract = _resonator(3500 * speaker.tract, 250, _Z) * _resonator(4500 * speaker.tract, 350, _Z)
    tract = tract[None, :].astype(np.complex64)
    for i, width in enumerate((80, 110, 160)):
        tract = tract * _resonator(tracks[i][:, None].astype(np.float32), width, _Z[None, :])
    # A soft source makes soft noise.
    breath = 0.03 * speaker.breath * tone.breath * min(1.0, tone.corner)
    band = np.exp(-0.5 * ((_F[None, :] - tracks[5][:, None]) / tracks[6][:, None]) ** 2) * tracks[4][:, None]
    spectrum = tract * (voiced * glottis * voicing[:, None] + breath * voicing[:, None] * hiss)
    spectrum += 3.0 * min(1.0, tone.corner) * band.astype(np.float32) * hiss
    grains = np.fft.irfft(spectrum, FFT)
    out = np.zeros((frames + 4) * HOP)
    for k in range(0, FFT, HOP):
        piece = grains[:, k:k + HOP]
        rows = out[k:k + frames * HOP].reshape(frames, HOP)
        rows[:, : piece.shape[1]] += piece
    loud = np.sqrt(np.mean(out[: samples] ** 2)) + 1e-9
    return out[: samples + 2 * HOP] * (0.06 * tone.level / loud), np.clip(opening, 0, 1)
