"""Clips as ordinary files: AVI with Motion-JPEG pictures and 16-bit PCM sound, written and read back.

Shapes: frames are encoded JPEG bytes; samples are `(samples,)` i16, one channel. Either may be absent.
"""

import struct
from fractions import Fraction


def _chunk(kind, body):
    return kind + struct.pack("<I", len(body)) + body + (b"\0" if len(body) % 2 else b"")


def _list(kind, *chunks):
    return _chunk(b"LIST", kind + b"".join(chunks))


def encode(width, height, fps, frames=None, samples=None, rate=16000):
    """The bytes of a file. `fps` is any number; sound is interleaved frame by frame."""
    frames = frames or []
    assert frames or samples is not None, "a clip needs pictures or sound"
    ratio = Fraction(fps).limit_denominator(1000)
    sound = b"" if samples is None else samples.astype("<i2").tobytes()
    steps = len(frames) or 1
    streams, parts, index, at = [], [], [], 4
    audio_id = b"01wb" if frames else b"00wb"
    if frames:
        largest = max(map(len, frames))
        head = struct.pack("<4s4sIHHIIIIIIIIhhhh", b"vids", b"MJPG", 0, 0, 0, 0, ratio.denominator, ratio.numerator, 0,
                           len(frames), largest, 0xFFFFFFFF, 0, 0, 0, width, height)
        form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
        streams.append(_list(b"strl", _chunk(b"strh", head), _chunk(b"strf", form)))
    if samples is not None:
        head = struct.pack("<4s4sIHHIIIIIIIIhhhh", b"auds", b"\0\0\0\0", 0, 0, 0, 0, 1, rate, 0, len(samples), rate * 2,
                           0xFFFFFFFF, 2, 0, 0, 0, 0)
        form = struct.pack("<HHIIHHH", 1, 1, rate, rate * 2, 2, 16, 0)
        streams.append(_list(b"strl", _chunk(b"strh", head), _chunk(b"strf", form)))

    def put(kind, body, flags):
        nonlocal at
        index.append(struct.pack("<4sIII", kind, flags, at, len(body)))
        parts.append(_chunk(kind, body))
        at += len(parts[-1])

    for i in range(steps):
        if frames:
            put(b"00dc", frames[i], 0x10)
        if samples is not None:
            put(audio_id, sound[2 * (len(samples) * i // steps):2 * (len(samples) * (i + 1) // steps)], 0x10)
    bytes_per_second = rate * 2 + int(sum(map(len, frames)) * ratio / steps)
    main = struct.pack("<IIIIIIIIIIIIII", int(1000000 / ratio), bytes_per_second, 0, 0x110, len(frames), 0, len(streams), 0,
                       width, height, 0, 0, 0, 0)
    body = _list(b"hdrl", _chunk(b"avih", main), *streams) + _list(b"movi", *parts) + _chunk(b"idx1", b"".join(index))
    return _chunk(b"RIFF", b"AVI " + body)


def decode(data):
    """What `encode` wrote: `(frames, samples, fps)`; `samples` is i16 bytes, `b""` where there is no sound."""
    if data[:4] != b"RIFF" or data[8:12] != b"AVI ":
        raise ValueError("not an AVI file")
    if len(data) < 8 + struct.unpack_from("<I", data, 4)[0]:
        raise ValueError(f"the file ends early: {len(data)} bytes")
    frames, sound, fps = [], [], None

    def walk(lo, hi):
        nonlocal fps
        while lo + 8 <= hi:
            kind, size = data[lo:lo + 4], struct.unpack_from("<I", data, lo + 4)[0]
            if lo + 8 + size > hi:
                raise ValueError(f"chunk {kind!r} at {lo} reaches past its parent: {size} bytes")
            if kind in (b"LIST", b"RIFF"):
                walk(lo + 12, lo + 8 + size)
            elif kind == b"strh" and data[lo + 8:lo + 12] == b"vids":
                scale, rate = struct.unpack_from("<II", data, lo + 8 + 20)
                fps = rate / scale
            elif kind[2:] == b"dc":
                frames.append(data[lo + 8:lo + 8 + size])
            elif kind[2:] == b"wb":
                sound.append(data[lo + 8:lo + 8 + size])
            lo += 8 + size + size % 2

    walk(12, 8 + struct.unpack_from("<I", data, 4)[0])
    return frames, b"".join(sound), fps
