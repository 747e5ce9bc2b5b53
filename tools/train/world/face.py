"""Action units to pictures: a parametric face, drawn as polygons at twice the size and averaged down.

Geometry is in face units (half the head's width is one, y points down), turned in three dimensions by the head pose and then
projected. Each action unit moves control points; wrinkles are lines whose strength follows the unit.

Shapes: `units` maps an action unit to `(frames,)` intensities in 0..1; pictures are a list of PIL RGB images.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 15, 17, 20, 23, 24, 25, 26, 45)


@dataclass(frozen=True)
class Identity:
    skin: tuple
    hair: tuple
    iris: tuple
    shirt: tuple
    hair_style: str       # short, long, fringe, bald
    length: float         # head height against width
    jaw: float            # 0 round, 1 narrow
    eye_gap: float
    eye_size: float
    brow_thick: float
    lip_thick: float
    mouth_wide: float
    nose_long: float
    glasses: bool
    brow_high: float = 0.0
    mouth_low: float = 0.0
    age: float = 0.0          # how deep the resting creases are
    frame: float = 0.035      # of the glasses
    beard: float = 0.0        # 0 none, 1 full
    cap: bool = False


@dataclass(frozen=True)
class Scene:
    backdrop: tuple
    backdrop_end: tuple
    light_angle: float
    light_depth: float    # 0 flat, 1 half the face in the dark
    exposure: float
    warm: float
    blur: float
    noise: float
    quality: int
    scale: float
    shift: tuple
    cover: str            # "", mask, shades, hand
    gamma: float = 1.0
    colour: float = 1.0   # 0 grey
    vignette: float = 0.0
    soft: float = 1.0     # lines that the device resolves, of those of the picture
    clutter: int = 0      # things behind the face
    drift: tuple = (0.0, 0.0, 0.0)                  # of the camera over the clip: right, down, nearer
    cut: tuple = (1.0, 0.0, 0.0, 1.0)               # when, and where the face is afterwards: right, down, size
    other: tuple = ()     # somebody else, smaller: their number, the side


SKIN = ((255, 224, 196), (241, 194, 160), (224, 172, 132), (198, 134, 96), (160, 104, 70), (124, 82, 58), (98, 64, 46))
HAIR = ((30, 24, 20), (60, 40, 26), (106, 70, 40), (168, 120, 60), (214, 186, 120), (120, 120, 124), (140, 60, 30))
IRIS = ((70, 46, 26), (90, 66, 36), (70, 100, 60), (70, 110, 150), (96, 104, 110))


def _jitter(rng, colour, by=10):
    return tuple(int(np.clip(c + rng.uniform(-by, by), 0, 255)) for c in colour)


def _between(rng, colours):
    """A colour on the way from one to another."""
    a, b = rng.integers(0, len(colours), 2)
    return _jitter(rng, _blend(colours[a], colours[b], rng.random()))


def identity(rng, held_out=()):
    """A person from the usual or a held-out family: other proportions and hair (`face`), beards and caps (`style`)."""
    other = "face" in held_out
    styles = ("bald", "fringe") if other else ("short", "long", "short", "curls")
    lo, hi = ((1.42, 1.55) if rng.random() < 0.5 else (1.14, 1.2)) if other else (1.22, 1.4)
    return Identity(
        _between(rng, SKIN), _between(rng, HAIR), _between(rng, IRIS), tuple(int(c) for c in rng.integers(20, 220, 3)),
        styles[rng.integers(len(styles))], rng.uniform(lo, hi), rng.uniform(0.0, 1.0), rng.uniform(0.36, 0.44),
        rng.uniform(0.88, 1.15), rng.uniform(0.6, 1.45), rng.uniform(0.7, 1.4), rng.uniform(0.87, 1.13), rng.uniform(0.86, 1.16),
        rng.random() < (0.4 if other else 0.25), rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), rng.uniform(0.0, 0.5),
        rng.uniform(0.02, 0.05), rng.uniform(0.5, 1.0) if "style" in held_out else 0.0, "style" in held_out and rng.random() < 0.5)


def scene(rng, held_out=False):
    base = rng.integers(30, 220, 3)
    sometimes = lambda share, value, plain: value if rng.random() < share else plain
    return Scene(
        tuple(int(c) for c in base), tuple(int(np.clip(c + rng.uniform(-60, 60), 0, 255)) for c in base),
        rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.6 if held_out else 0.45), rng.uniform(0.65, 1.1), rng.uniform(-0.1, 0.1),
        sometimes(0.25, rng.uniform(0.3, 0.8), 0.0), rng.uniform(0, 5 if held_out else 4), int(rng.integers(45, 92)), rng.uniform(0.27, 0.35),
        (rng.uniform(-0.07, 0.07), rng.uniform(-0.04, 0.05)), "", rng.uniform(0.8, 1.25), rng.uniform(0.5, 1.2),
        sometimes(0.4, rng.uniform(0.1, 0.5), 0.0), sometimes(0.3, rng.uniform(0.6, 0.95), 1.0), int(sometimes(0.6, rng.integers(1, 7), 0)),
        sometimes(0.4, (*rng.uniform(-0.05, 0.05, 2), rng.uniform(-0.12, 0.12)), (0.0, 0.0, 0.0)),
        sometimes(0.12, (rng.uniform(0.25, 0.75), *rng.uniform(-0.05, 0.05, 2), rng.uniform(0.85, 1.1)), (1.0, 0.0, 0.0, 1.0)))


def _blend(a, b, share):
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b))


def _spline(points, steps=5):
    """Catmull-Rom through `(frames, points, 3)`, ends included: `(frames, (points - 1) * steps + 1, 3)`."""
    p = np.concatenate([2 * points[:, :1] - points[:, 1:2], points, 2 * points[:, -1:] - points[:, -2:-1]], axis=1)
    n = points.shape[1]
    u = np.arange(steps) / steps
    w = 0.5 * np.stack([-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, -u**2 + u**3], axis=1)
    four = np.stack([p[:, k:k + n - 1] for k in range(4)], axis=2)
    curve = np.einsum("sk,fnkd->fnsd", w, four).reshape(len(points), -1, points.shape[2])
    return np.concatenate([curve, points[:, -1:]], axis=1)


def _depth(x, y):
    return 0.75 * np.sqrt(np.maximum(0.03, 1 - (x / 1.1) ** 2 - (y / 1.6) ** 2))


class _Body:
    """Named control curves of all frames, in face units, before the pose."""

    def __init__(self, who, units, opening, gaze, cover):
        self.frames, self.cover = len(opening), cover
        self.curves = {}
        a = {u: np.asarray(units.get(u, np.zeros(self.frames)), dtype=float) for u in UNITS}
        drop = 0.20 * a[26] + 0.05 * opening
        self._head(who, drop)
        for side, name in ((-1, "left"), (1, "right")):
            self._eye(who, a, side, name, gaze)
        self._nose(who, a)
        self._mouth(who, a, opening, drop)

    def _put(self, name, xs, ys, lift=0.0, flat=False, smooth=True):
        points = np.zeros((self.frames, len(xs), 3))
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            points[:, i, 0], points[:, i, 1] = x, y
        if not flat:
            points[:, :, 2] = _depth(points[:, :, 0], points[:, :, 1]) + lift
        self.curves[name] = _spline(points) if smooth else points

    def _head(self, who, drop):
        angle = np.linspace(0, 2 * np.pi, 25)
        x, y = np.sin(angle), -np.cos(angle)
        low = np.clip(y, 0, 1)
        x = x * (1 - (0.10 + 0.16 * who.jaw) * low**2)
        xs, ys = list(0.98 * x), [who.length * v + drop * max(0.0, v) for v in y]
        self._put("head", xs, ys, flat=True)
        arc = np.linspace(-1.62, 1.62, 17)
        line = np.linspace(1, -1, 11)
        top = who.length
        outer = [1.06 * np.sin(t) for t in arc], [-1.07 * top * np.cos(t) - 0.02 for t in arc]
        rise = 0.52 if who.hair_style == "fringe" else 0.70
        inner = [0.93 * v for v in line], [-top * rise * (1 - 0.75 * abs(v) ** 3.0) for v in line]
        self._put("hair", list(outer[0]) + list(inner[0]), list(outer[1]) + list(inner[1]), flat=True, smooth=False)

    def _eye(self, who, a, side, name, gaze):
        cx, cy, half = side * who.eye_gap, -0.12, 0.205 * who.eye_size
        shut = np.clip(1 - a[45], 0.0, 1)
        up = (0.115 * who.eye_size * (1 + 0.75 * a[5] - 0.35 * a[7] - 0.15 * a[6])) * shut - 0.02 * (1 - shut)
        low = 0.065 * who.eye_size * (1 - 0.45 * a[6] - 0.55 * a[7]) * (0.4 + 0.6 * shut)
        t = np.linspace(-1, 1, 7)
        arch = 1 - np.abs(t) ** 2.2
        xs = [cx + side * half * v for v in t]
        self._put(f"{name} upper lid", xs, [cy - up * v for v in arch])
        self._put(f"{name} lower lid", xs, [cy + low * v for v in arch])
        self._put(f"{name} crease", xs[1:-1], [cy - (up + 0.05 - 0.02 * a[5]) * v - 0.01 for v in arch[1:-1]])
        gx, gy = gaze
        self._put(f"{name} iris", [cx + 0.07 * gx], [cy - 0.02 + 0.05 * gy], smooth=False)
        self._put(f"{name} bag", xs[1:-1], [cy + 0.12 + 0.05 * v - 0.02 * a[6] for v in arch[1:-1]])
        for i, (dx, dy) in enumerate(((0.06, -0.05), (0.08, 0.02), (0.06, 0.09))):
            self._put(f"{name} crow {i}", [cx + side * (half + 0.03), cx + side * (half + 0.03 + dx)], [cy + dy * 0.4, cy + dy],
                      smooth=False)
        inner = -0.15 * a[1] + 0.115 * a[4] * (1 - 0.85 * a[1]) + 0.04 * a[9]
        middle = -0.09 * a[1] - 0.10 * a[2] + 0.085 * a[4] * (1 - 0.5 * a[1]) + 0.03 * a[9]
        outer = -0.13 * a[2] + 0.045 * a[4] * (1 + 0.4 * a[1])
        pull = 0.05 * a[4]
        base = -0.40 - who.brow_high
        bx = [side * (0.15 - pull), side * (0.27 - 0.6 * pull), side * 0.42, side * 0.53, side * 0.62]
        by = [base + inner, base - 0.03 + 0.5 * (inner + middle), base - 0.05 + middle, base - 0.03 + 0.5 * (middle + outer),
              base + 0.05 + outer]
        thick = np.array((0.035, 0.04, 0.034, 0.024, 0.008)) * who.brow_thick
        self._put(f"{name} brow top", bx, [y - w for y, w in zip(by, thick)])
        self._put(f"{name} brow bottom", bx, [y + w for y, w in zip(by, thick)])
        self._put(f"{name} frown", [side * 0.05, side * 0.055, side * 0.075], [base - 0.10, base, base + 0.12], smooth=False)
        if who.glasses or self.cover == "shades":
            self._put(f"{name} glass", [cx + 0.27 * np.cos(v) for v in np.linspace(0, 2 * np.pi, 17)],
                      [cy + 0.02 + 0.21 * np.sin(v) for v in np.linspace(0, 2 * np.pi, 17)], 0.05, smooth=False)
        self._put(f"{name} ear", [side * (0.97 + 0.10 * np.sin(v)) for v in np.linspace(0, np.pi, 7)],
                  [0.05 - 0.20 * np.cos(v) for v in np.linspace(0, np.pi, 7)], flat=True, smooth=False)

    def _nose(self, who, a):
        tip = 0.30 * who.nose_long - 0.045 * a[9]
        wide = 0.15 + 0.03 * a[9] + 0.02 * a[10]
        for side, name in ((-1, "left"), (1, "right")):
            self._put(f"{name} nose side", [side * 0.075, side * 0.085, side * wide], [-0.14, 0.08, tip - 0.02], 0.1)
            self._put(f"{name} wing", [side * wide, side * (wide + 0.02), side * (wide - 0.03), side * 0.05],
                      [tip - 0.07, tip, tip + 0.05, tip + 0.03], 0.12)
            self._put(f"{name} nostril", [side * 0.075], [tip + 0.025], 0.15, smooth=False)
            for i in range(3):
                y = -0.10 + 0.07 * i
                self._put(f"{name} wrinkle {i}", [side * 0.03, side * 0.085, side * 0.13], [y, y - 0.02, y - 0.055], 0.1)
            corner = 0.33 * who.mouth_wide + 0.10 * a[12]
            self._put(f"{name} fold", [side * (wide + 0.04), side * (0.30 + 0.06 * a[12]), side * (corner + 0.09)],
                      [tip - 0.03 - 0.03 * a[9], tip + 0.13, 0.58 - 0.10 * a[12] + 0.08 * a[15]])
        self._put("tip", [-0.05, 0.0, 0.05], [tip + 0.05, tip + 0.065, tip + 0.05], 0.2)
        for i in range(2):
            y = -0.66 - 0.11 * i
            self._put(f"forehead {i}", [-0.4, -0.2, 0.0, 0.2, 0.4], [y + 0.03, y, y - 0.01, y, y + 0.03])

    def _mouth(self, who, a, opening, drop):
        y = 0.60 * (who.length / 1.3) + 0.01 + who.mouth_low
        press = np.maximum(a[23], a[24])
        wide = 0.30 * who.mouth_wide * (1 + 0.30 * a[12] + 0.24 * a[20] - 0.16 * press - 0.05 * a[17]) - 0.02 * opening
        corner = y - 0.135 * a[12] + 0.12 * a[15] + 0.02 * a[20] + 0.25 * drop
        gap = (0.045 * a[25] + 0.9 * drop + 0.035 * opening) * (1 - 0.6 * a[24])
        thick = 0.062 * who.lip_thick * (1 - 0.62 * press) * (1 - 0.25 * a[12])
        top = y - 0.055 * a[10] - 0.03 * a[9] - 0.03 * a[17] + 0.02 * a[12]
        bottom = y + gap - 0.05 * a[17] + 0.02 * a[12]
        t = np.array((-1, -0.6, -0.2, 0, 0.2, 0.6, 1))
        bow = 1 - np.abs(t) ** 2
        xs = [wide * v for v in t]
        dip = np.array((0, 0.75, 1.1, 0.85, 1.1, 0.75, 0))
        self._put("lip top", xs, [corner + (top - corner) * b - thick * d for b, d in zip(bow, dip)], 0.05)
        self._put("mouth top", xs, [corner + (top - corner) * b for b in bow], 0.05)
        self._put("mouth bottom", xs, [corner + (bottom - corner) * b for b in bow], 0.05)
        self._put("lip bottom", xs, [corner + (bottom - corner) * b + 1.15 * thick * b for b in bow], 0.05)
        self._put("teeth", [0.75 * wide * v for v in t], [corner + (top - corner) * b + 0.045 * b for b in bow], 0.05)
        low = bottom + 1.2 * thick + 0.07
        self._put("chin", [-0.14, -0.06, 0.0, 0.06, 0.14], [low + 0.035, low + 0.005, low, low + 0.005, low + 0.035])
        if self.cover == "mask":
            self._put("mask", [-0.80, -0.45, 0.0, 0.45, 0.80, 0.72, 0.4, 0.0, -0.4, -0.72],
                      [0.12, 0.10, 0.06, 0.10, 0.12, 0.75, 1.02, 1.12, 1.02, 0.75], 0.12, smooth=False)


def _camera(place, frames):
    """Scale of the face and its middle, `(frames,)` each, as shares of the picture: the camera drifts and may cut."""
    t = np.arange(frames) / max(1, frames)
    (right, down, nearer), (when, x, y, size) = place.drift, place.cut
    after = t >= when
    return (place.scale * (1 + nearer * (t - 0.5)) * np.where(after, size, 1.0),
            0.5 + place.shift[0] + right * (t - 0.5) + x * after, 0.5 + place.shift[1] + down * (t - 0.5) + y * after)


def _project(curves, pose, size, camera):
    """Turns and projects every curve: lists of `(x, y)` per frame, in pixels of the doubled picture."""
    yaw, pitch, roll = pose
    unit, cx, cy = (2 * size * v[:, None] for v in camera)
    out = {}
    for name, p in curves.items():
        x, y, z = p[..., 0], p[..., 1], p[..., 2]
        ca, sa = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        x, z = x * ca + z * sa, z * ca - x * sa
        cb, sb = np.cos(pitch)[:, None], np.sin(pitch)[:, None]
        y, z = y * cb + z * sb, z * cb - y * sb
        cr, sr = np.cos(roll)[:, None], np.sin(roll)[:, None]
        x, y = x * cr - (y - 1) * sr, 1 + x * sr + (y - 1) * cr
        out[name] = np.stack([cx + unit * x, cy + unit * y], axis=2)
    return out


# Points that say where the parts of a face are: curve, place on the curve from 0 to 1.
POINTS = tuple((f"{side} {name}", at) for side in ("left", "right") for name, at in (
    ("brow top", 0.0), ("brow top", 0.5), ("brow top", 1.0), ("upper lid", 0.0), ("upper lid", 0.5), ("upper lid", 1.0),
    ("lower lid", 0.5), ("wing", 0.4))) + (("tip", 0.5), ("mouth top", 0.0), ("mouth top", 1.0), ("lip top", 0.5),
                                            ("mouth top", 0.5), ("mouth bottom", 0.5), ("lip bottom", 0.5), ("chin", 0.5))


def landmarks(who, place, units, opening, pose, gaze):
    """`(frames, points, 2)`: x and y of `POINTS` as shares of the picture."""
    points = _project(_Body(who, units, opening, gaze, place.cover).curves, pose, 1, _camera(place, len(opening)))
    return np.stack([points[name][:, round(at * (points[name].shape[1] - 1))] for name, at in POINTS], axis=1) / 2


def _light(place, size):
    y, x = np.mgrid[-1:1:size * 1j, -1:1:size * 1j]
    ramp = 1 - place.light_depth * 0.5 * (1 - np.tanh(1.5 * (x * np.cos(place.light_angle) + y * np.sin(place.light_angle))))
    ramp = ramp * (1 - place.vignette * (x * x + y * y) / 2)
    shade = place.exposure * ramp[..., None] * np.array((1 + place.warm, 1.0, 1 - place.warm))
    return Image.fromarray((255 * np.clip(shade, 0, 1)).astype(np.uint8))


def _backdrop(place, size):
    t = np.linspace(0, 1, size)[:, None, None]
    a, b = np.array(place.backdrop), np.array(place.backdrop_end)
    return Image.fromarray(np.broadcast_to(a + (b - a) * t, (size, size, 3)).astype(np.uint8))


def render(rng, who, place, units, opening, pose, gaze, size, showing="face"):
    """Pictures of a clip. `showing` is face, away (nobody there) or turned (the back of a head)."""
    frames = len(opening)
    light, empty, camera = _light(place, size), _behind(rng, place, size), _camera(place, frames)
    curve = [round(255 * (v / 255) ** place.gamma) for v in range(256)] * 3
    body = _Body(who, units, opening, gaze, place.cover)
    points = _project(body.curves, pose, size, camera)
    extents = {
        "head": np.concatenate([points["head"].min(axis=1), points["head"].max(axis=1)], axis=1).tolist(),
        "mouth": (points["mouth bottom"][:, :, 1] - points["mouth top"][:, :, 1]).max(axis=1).tolist(),
    } | {
        side: (points[f"{side} lower lid"][:, :, 1] - points[f"{side} upper lid"][:, :, 1]).max(axis=1).tolist()
        for side in ("left", "right")
    }
    grain = None
    if place.noise > 0.5:
        grain = (rng.standard_normal((size + 16, size + 16, 1)) * place.noise).astype(np.int16)
    out = []
    for k in range(frames):
        image = empty.copy()
        if showing != "away":
            _paint(image, who, place, {n: p[k] for n, p in points.items()}, {u: float(v[k]) for u, v in units.items()},
                   {n: v[k] for n, v in extents.items()}, camera[0][k] * 2 * size, showing == "turned")
        image = image.reduce(2)
        if place.blur:
            image = image.filter(ImageFilter.BoxBlur(place.blur * size / 128))
        if place.soft < 1:
            image = image.resize((round(place.soft * size),) * 2, Image.BILINEAR).resize((size, size), Image.BILINEAR)
        image = ImageChops.multiply(image, light)
        if place.gamma != 1:
            image = image.point(curve)
        if place.colour != 1:
            image = ImageEnhance.Color(image).enhance(place.colour)
        if grain is not None:
            i, j = rng.integers(0, 16, 2)
            image = Image.fromarray(np.clip(np.asarray(image).astype(np.int16) + grain[i:i + size, j:j + size], 0, 255).astype(np.uint8))
        out.append(image)
    return out


def _behind(rng, place, size):
    """The picture without the person: things that stand about, and somebody else, who is still."""
    image = _backdrop(place, 2 * size)
    draw = ImageDraw.Draw(image)
    for _ in range(place.clutter):
        x, y, wide, high = rng.uniform(0, 1, 4) * 2 * size * np.array((1, 1, 0.4, 0.4))
        shape = (draw.rectangle, draw.ellipse)[rng.integers(2)]
        shape((x, y, x + wide, y + high), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    if place.other:
        number, side = place.other
        stranger, zero = np.random.default_rng([number]), np.zeros(1)
        who = identity(stranger)
        there = np.full(1, 0.1), np.full(1, 0.5 + 0.38 * side), np.full(1, stranger.uniform(0.35, 0.6))
        points = _project(_Body(who, {}, zero, (zero, zero), "").curves, (zero, zero, zero), size, there)
        extent = {"head": [*points["head"][0].min(axis=0), *points["head"][0].max(axis=0)], "mouth": 0.0, "left": size, "right": size}
        _paint(image, who, Scene(**{**place.__dict__, "cover": ""}), {n: v[0] for n, v in points.items()}, {}, extent, 0.2 * size, False)
    return image


def _paint(image, who, place, p, au, extent, unit, turned):
    draw = ImageDraw.Draw(image)
    au = {u: au.get(u, 0.0) for u in UNITS}
    skin, dark = who.skin, _blend(who.skin, (20, 6, 4), 0.7)

    def flat(name):
        return p[name].ravel().tolist()

    def area(names, colour):
        first, second = p[names[0]], p[names[1]]
        draw.polygon(np.concatenate([first, second[::-1]]).ravel().tolist(), fill=colour)

    def crease(name, strength, width=0.02):
        if strength > 0.08:
            draw.line(flat(name), fill=_blend(skin, dark, min(1.0, strength)), width=max(1, round(width * unit)))

    def dot(name, radius, colour, dx=0.0, dy=0.0):
        x, y = p[name][0]
        x, y, r = x + dx * unit, y + dy * unit, radius * unit
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    x0, y0, x1, y1 = extent["head"]
    mid = 0.5 * (x0 + x1)
    if who.hair_style == "long":
        draw.rounded_rectangle((x0 - 0.14 * unit, y0 + 0.2 * unit, x1 + 0.14 * unit, y1 + 0.25 * unit), 0.4 * unit, fill=who.hair)
    draw.rectangle((mid - 0.42 * unit, y1 - 0.5 * unit, mid + 0.42 * unit, y1 + 0.4 * unit), fill=_blend(skin, dark, 0.22))
    draw.ellipse((mid - 1.5 * unit, y1 + 0.12 * unit, mid + 1.5 * unit, y1 + 3 * unit), fill=who.shirt)
    for side in ("left", "right"):
        draw.polygon(flat(f"{side} ear"), fill=_blend(skin, dark, 0.12))
    draw.polygon(flat("head"), fill=who.hair if turned else skin)
    if turned:
        return
    for i in range(2):
        crease(f"forehead {i}", max(0.4 * who.age, 0.7 * max(au[1], au[2]) * (1 - 0.4 * i)))
    for side in ("left", "right"):
        area((f"{side} upper lid", f"{side} lower lid"), (246, 244, 240))
        if extent[side] > 0.05 * unit:
            dot(f"{side} iris", 0.098 * who.eye_size, who.iris)
            dot(f"{side} iris", 0.048 * who.eye_size, (12, 10, 10))
            dot(f"{side} iris", 0.020, (255, 255, 255), 0.03, -0.035)
        for lid, reach in (("upper", -0.16), ("lower", 0.14)):
            edge = p[f"{side} {lid} lid"]
            far = edge.copy()
            far[:, 1] += reach * unit
            draw.polygon(np.concatenate([edge, far[::-1]]).ravel().tolist(), fill=skin)
        draw.line(flat(f"{side} upper lid"), fill=_blend(dark, (0, 0, 0), 0.6), width=max(1, round(0.03 * unit)))
        crease(f"{side} lower lid", 0.5)
        crease(f"{side} crease", 0.45)
        crease(f"{side} bag", 0.12 + 0.3 * who.age + 0.5 * au[6] + 0.3 * au[7])
        for i in range(3):
            crease(f"{side} crow {i}", 0.75 * au[6], 0.016)
        area((f"{side} brow top", f"{side} brow bottom"), _blend(who.hair, (20, 14, 10), 0.4))
        crease(f"{side} frown", 0.95 * au[4] * (1 - 0.5 * au[1]), 0.024)
        crease(f"{side} nose side", 0.16 + 0.2 * au[9])
        crease(f"{side} wing", 0.55, 0.022)
        dot(f"{side} nostril", 0.026, dark)
        for i in range(3):
            crease(f"{side} wrinkle {i}", 0.95 * au[9], 0.022)
        crease(f"{side} fold", 0.10 + 0.3 * who.age + 0.5 * max(au[12], au[9], 0.8 * au[10]) + 0.15 * au[15])
    crease("tip", 0.4)
    if who.beard:
        low = p["head"][p["head"][:, 1] > p["tip"][1][1]]
        low = low[np.argsort(low[:, 0])]
        draw.polygon([*low.ravel().tolist(), *p["lip bottom"][::-1].ravel().tolist()], fill=_blend(skin, who.hair, who.beard))
    lip = _blend(skin, (150, 40, 50), 0.5)
    area(("mouth top", "mouth bottom"), (60, 16, 20))
    if extent["mouth"] > 0.06 * unit:
        area(("mouth top", "teeth"), (240, 236, 228))
    area(("lip top", "mouth top"), lip)
    area(("mouth bottom", "lip bottom"), _blend(lip, (255, 180, 180), 0.15))
    draw.line(flat("mouth top"), fill=_blend(lip, (40, 0, 0), 0.6), width=max(1, round(0.018 * unit)))
    crease("chin", 0.15 + 0.6 * au[17])
    if who.hair_style != "bald":
        draw.polygon(flat("hair"), fill=who.hair)
    if who.hair_style == "curls":
        for x, y in p["hair"][:17].tolist():
            draw.ellipse((x - 0.2 * unit, y - 0.2 * unit, x + 0.2 * unit, y + 0.2 * unit), fill=who.hair)
    if who.cap:
        draw.polygon([*p["hair"][:17].ravel().tolist(), *p["hair"][17:].ravel().tolist()], fill=who.shirt)
        x0, y0, x1 = *p["hair"][17].tolist(), p["hair"][27][0]
        draw.rectangle((min(x0, x1), y0 - 0.62 * unit, max(x0, x1), y0 - 0.5 * unit), fill=_blend(who.shirt, (0, 0, 0), 0.3))
    if place.cover == "shades":
        for side in ("left", "right"):
            draw.polygon(flat(f"{side} glass"), fill=(16, 16, 20))
    if who.glasses or place.cover == "shades":
        for side in ("left", "right"):
            draw.line(flat(f"{side} glass"), fill=(24, 22, 26), width=max(1, round(who.frame * unit)))
        a, b = p["left glass"][0], p["right glass"][8]
        draw.line((a[0], a[1], b[0], b[1]), fill=(24, 22, 26), width=max(1, round(who.frame * unit)))
    if place.cover == "mask":
        draw.polygon(flat("mask"), fill=(190, 210, 224))
