"""The world holds what it says: deterministic, balanced, fusion needed, nothing leaks, cues are what was drawn and spoken."""

import io
import json
from itertools import product

import numpy as np
import pytest
from PIL import Image

import probes
from world import avi, clip, demo, face, lexicon, room, rule, sheet, voice


@pytest.fixture(scope="module")
def clips():
    """Rendered test clips: (plan, bytes, truth)."""
    out = []
    for i in range(280):
        p = clip.plan(5, "train", i)
        data, begin, end = clip.render(p, size=64, fps=4)
        out.append((p, data, clip.truth(p, begin, end, "x.avi")))
    return out


# --- rule ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cell, label, subset", [
    (("smile", "lively", "good"), "happy", "consistent"),
    (("raised", "tense", "bad"), "fear", "consistent"),
    (("raised", "tense", "good"), "surprise", "words_decides"),
    (("lowered", "subdued", "good"), "sad", "voice_decides"),
    (("lowered", "lively", "plain"), "angry", "consistent"),
    (("still", "lively", "good"), "happy", "fusion"),
    (("oblique", "plain", "good"), "unknown", "unknown"),
    ((None, "tense", "bad"), "fear", "missing"),
    ((None, None, None), "unknown", "unknown"),
])
def test_the_rule_on_known_cells(cell, label, subset):
    assert (rule.decide(*cell), rule.subset(*cell)) == (label, subset)


def test_what_is_one_point_short_is_shown_beside_the_label():
    assert rule.evidence("raised", "tense", "bad") == {"happy": 0, "sad": 1, "neutral": 0, "angry": 4, "surprise": 6, "disgust": 3, "fear": 9}
    assert rule.beside("raised", "tense", "bad") == ()
    assert rule.beside("raised", "tense", "good") == ("fear",)
    assert rule.beside("oblique", "plain", "good") == (), "nothing is beside nothing"


def test_labels_are_balanced_and_every_decided_cell_can_occur():
    cells = rule.cells()
    for label in rule.LABELS:
        assert sum(p for c, p in cells.items() if rule.decide(*c) == label) == pytest.approx(1 / 7)
    decided = {c for c in product(rule.FACE, rule.VOICE, rule.WORDS) if rule.decide(*c) != rule.UNKNOWN}
    assert decided == set(cells)


def test_no_modality_is_enough():
    for only in (None, "fusion"):
        ceilings = rule.ceilings(only)
        assert ceilings[rule.MODALITIES] == pytest.approx(1)
        assert max(ceilings[(m,)] for m in rule.MODALITIES) < 0.50
        assert max(v for seen, v in ceilings.items() if len(seen) == 2) < 0.85


def test_measured_probes_agree_with_the_ceilings():
    train, test = ([p for p in (clip.plan(1, split, i) for i in range(1200)) if p.subset not in ("missing", "unknown")]
                   for split in ("train", "test"))
    ceilings = rule.ceilings()
    for name in rule.MODALITIES:
        got = probes.table(train, test, lambda p: getattr(p, name), lambda p: p.label)
        assert got < ceilings[(name,)] + 0.05, name
    assert probes.table(train, test, lambda p: (p.face, p.voice, p.words), lambda p: p.label) > 0.97


# --- leaks --------------------------------------------------------------------------------------------------------
def measured(data):
    frames, sound, fps = avi.decode(data)
    light = np.mean([np.asarray(Image.open(io.BytesIO(f)).convert("L")).mean() for f in frames[::3]])
    return len(data) / len(sound), len(sound), len(frames), light


def test_size_duration_and_light_tell_nothing(clips):
    whole = [(measured(data), t["label"]) for p, data, t in clips if t["subset"] not in ("missing", "unknown")]
    features, labels = zip(*whole)
    # Chance is 1/7; four standard errors of a mean recall over this many clips.
    margin = 4 * np.sqrt((1 / 7) * (6 / 7) / len(labels))
    assert probes.neighbours(features, labels) < 1 / 7 + margin
    # The probe itself can see: the duration predicts the duration.
    assert probes.neighbours(features, [f[2] for f in features]) > 0.9


def test_shuffled_labels_stay_at_chance():
    plans = [p for p in (clip.plan(2, "train", i) for i in range(900)) if p.subset not in ("missing", "unknown")]
    rng = np.random.default_rng(0)
    shuffled = rng.permutation([p.label for p in plans])
    wrong = {id(p): label for p, label in zip(plans, shuffled)}
    half = len(plans) // 2
    got = probes.table(plans[:half], plans[half:], lambda p: (p.face, p.voice, p.words), lambda p: wrong[id(p)])
    assert got < 1 / 7 + 4 * np.sqrt((1 / 7) * (6 / 7) / half)


def test_splits_share_no_person_and_no_seed():
    plans = [clip.plan(seed, split, i) for split in clip.SPLITS for seed in (1, 2) for i in range(20)]
    for everyone in ({p.who for p in plans}, {p.speaker for p in plans}, {p.seed for p in plans}, {p.clip for p in plans}):
        assert len(everyone) == len(plans)


def test_the_held_out_world_has_other_people_voices_rooms_and_carriers():
    usual, other = ([clip.plan(1, s, i) for i in range(150)] for s in ("test", "ood"))
    assert not {p.who.hair_style for p in usual} & {p.who.hair_style for p in other}
    assert max(p.speaker.glottis_hz for p in usual) < min(p.speaker.glottis_hz for p in other)
    assert all(not 0.97 < p.speaker.tract < 1.23 for p in other) and all(0.97 < p.speaker.tract < 1.23 for p in usual)
    assert max(p.room.decay_s for p in usual) < min(p.room.decay_s for p in other)
    assert not {carrier(p) for p in usual} & {carrier(p) for p in other}


def carrier(p):
    return " ".join("{}" if word in lexicon.POLARITY else word for word in p.text.split())


# What tells a clip of one held-out axis from every usual one; everything else about it is usual.
TOLD_BY = {
    "face": lambda p: p.who.hair_style in ("bald", "fringe") and not 1.21 < p.who.length < 1.41,
    "style": lambda p: p.who.beard > 0.4,
    "voice": lambda p: p.speaker.glottis_hz > 880 and not 0.97 < p.speaker.tract < 1.23,
    "accent": lambda p: p.speaker.accent[0] > 1.06 and p.speaker.accent[1] < 0.94,
    "room": lambda p: p.room.decay_s > 0.42,
    "device": lambda p: p.room.law and p.room.high_hz < 4000,
    "words": lambda p: carrier(p) in lexicon.OTHER,
    "order": lambda p: carrier(p) in lexicon.TURNED,
}


@pytest.mark.parametrize("axis", clip.AXES)
def test_each_held_out_axis_is_unlike_in_one_way_only(axis):
    usual, other = ([clip.plan(1, s, i) for i in range(100)] for s in ("train", f"ood-{axis}"))
    assert not any(TOLD_BY[axis](p) for p in usual) and all(TOLD_BY[axis](p) for p in other)
    assert not any(told(p) for name, told in TOLD_BY.items() if name != axis for p in other)
    assert clip.named(other[7].clip) == other[7]


def test_a_camera_that_drifts_and_cuts_takes_the_points_along():
    p = next(q for q in (clip.plan(6, "train", i) for i in range(200)) if q.showing == "face" and q.place.cut[0] < 1)
    still = face.Scene(**{**p.place.__dict__, "drift": (0.0, 0.0, 0.0), "cut": (1.0, 0.0, 0.0, 1.0)})
    m = clip.motion(p)
    moved, plain = (face.landmarks(p.who, place, m.units, m.opening, m.pose, m.gaze)[:, :, 0].mean(axis=1) for place in (p.place, still))
    apart = moved - plain
    at = int(np.ceil(p.place.cut[0] * len(apart)))
    assert apart[at] - apart[at - 1] == pytest.approx(p.place.cut[1], abs=0.02)


def test_somebody_else_is_smaller_and_stands_aside():
    p = next(q for q in (clip.plan(6, "train", i) for i in range(200)) if q.place.other)
    alone = face.Scene(**{**p.place.__dict__, "other": ()})
    rng = lambda: np.random.default_rng(1)
    apart = np.abs(np.asarray(face._behind(rng(), p.place, 96)).astype(int) - np.asarray(face._behind(rng(), alone, 96))).sum(axis=2)
    rows, columns = np.nonzero(apart)
    assert 0.1 < (columns.max() - columns.min()) / 192 < 0.45 and (columns.mean() > 96) == (p.place.other[1] > 0)


def test_a_device_colours_and_cuts_the_sound():
    rng = np.random.default_rng(3)
    x, _ = voice.speak(rng, lexicon.phonemes("this is perfect"), voice.Speaker(140, 1.05, 700, 1, 1), voice.TONES["plain"])
    place = room.room(np.random.default_rng(1))
    line = room.device(np.random.default_rng(1), place, held_out=True)
    near, far = (room.record(np.random.default_rng(2), x, r).astype(float) for r in (place, line))
    hz = np.fft.rfftfreq(len(x), 1 / 16000)
    share = lambda y, low, high: np.sum(np.abs(np.fft.rfft(y))[(hz > low) & (hz < high)] ** 2) / np.sum(y ** 2)
    assert share(far, 4500, 8000) < 0.05 * share(near, 4500, 8000) and share(far, 0, 150) < share(near, 0, 150)
    driven = room.record(np.random.default_rng(2), x, room.Room(**{**place.__dict__, "drive": 0.6})).astype(float)
    assert np.abs(driven).max() < np.abs(near).max()


# --- files --------------------------------------------------------------------------------------------------------
def test_same_seed_same_bytes_other_seed_other_bytes():
    one, two = (clip.render(clip.plan(7, "valid", 3), size=64, fps=4) for _ in range(2))
    assert one == two
    assert clip.render(clip.plan(8, "valid", 3), size=64, fps=4)[0] != one[0]


def test_avi_bytes_and_round_trip():
    samples = np.arange(-5, 5, dtype=np.int16)
    data = avi.encode(4, 2, 2.5, [b"\xff\xd8a", b"\xff\xd8bc"], samples)
    assert data[:12] == b"RIFF" + (len(data) - 8).to_bytes(4, "little") + b"AVI "
    assert b"vidsMJPG" in data and data.count(b"00dc") == 4 and data.count(b"01wb") == 4 and b"idx1" in data
    frames, sound, fps = avi.decode(data)
    assert frames == [b"\xff\xd8a", b"\xff\xd8bc"] and sound == samples.tobytes() and fps == 2.5
    frames, sound, fps = avi.decode(avi.encode(0, 0, 1, None, samples))
    assert frames == [] and sound == samples.tobytes() and fps is None
    assert avi.decode(avi.encode(4, 2, 8, [b"x"]))[1] == b""


def test_index_points_at_chunks():
    data = avi.encode(4, 2, 5, [b"abc", b"defgh"], np.zeros(7, np.int16))
    movi, index = data.index(b"movi"), data.index(b"idx1")
    for at in range(index + 8, len(data), 16):
        kind, offset, size = data[at:at + 4], *(int.from_bytes(data[at + k:at + k + 4], "little") for k in (8, 12))
        assert data[movi + offset:movi + offset + 4] == kind
        assert int.from_bytes(data[movi + offset + 4:movi + offset + 8], "little") == size


@pytest.mark.parametrize("damage", [lambda d: d[:60], lambda d: b"RIFX" + d[4:], lambda d: d[:16] + b"\xff\xff\xff\x7f" + d[20:]])
def test_damaged_files_are_refused(damage):
    with pytest.raises(ValueError):
        avi.decode(damage(avi.encode(4, 2, 5, [b"abc"], np.zeros(7, np.int16))))


def test_manifest_lines_are_json_and_complete(clips):
    for p, data, t in clips[:40]:
        assert json.loads(json.dumps(t)) == t
        assert set(t) >= {"id", "clip", "label", "subset", "cues", "words", "split", "generator", "cell"}
        frames, sound, _ = avi.decode(data)
        assert len(sound) == 32 * t["duration_ms"] and len(frames) == t["duration_ms"] * 4 // 1000


# --- cues ---------------------------------------------------------------------------------------------------------
def test_cues_say_what_the_cell_says(clips):
    brow = {"raised": "raised", "oblique": "oblique", "lowered": "lowered"}
    for p, _, t in clips:
        cues = {(c["cue"], c["value"]): c for c in t["cues"]}
        seen = {k for k, c in cues.items() if c["observable"]}
        if p.face in brow:
            assert ("brow", brow[p.face]) in seen
        elif p.face is not None:
            assert {"smile": ("mouth", "smiling"), "wrinkled": ("nose", "wrinkled"), "still": ("face", "still")}[p.face] in seen
        else:
            assert not any(c["modality"] == "face" for c in t["cues"])
        assert (("words", p.words) in seen) == (p.words is not None)
        assert any(c["modality"] == "voice" for c in t["cues"]) == (p.voice is not None)
        assert all(0 <= c["onset_ms"] < c["offset_ms"] <= t["duration_ms"] for c in t["cues"])


def test_what_is_hidden_or_too_faint_is_not_observable():
    assert ("mouth", "smiling", False, 0.9) in face_cues({12: 0.9}, "mask")
    assert ("brow", "raised", True, 0.9) in face_cues({1: 0.9, 2: 0.9}, "shades")
    assert ("eyes", "wide", False, 0.9) in face_cues({1: 0.9, 2: 0.9, 5: 0.9}, "shades")
    assert face_cues({12: 0.1}) == [("mouth", "smiling", False, 0.1), ("face", "still", True, 1.0)]


def face_cues(units, cover=""):
    return clip.face_cues(units, cover)


# --- pictures and sound -------------------------------------------------------------------------------------------
def picture(units, size=96):
    rng = np.random.default_rng(4)
    who = face.identity(np.random.default_rng(12))
    place = face.Scene((90, 90, 90), (90, 90, 90), 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 90, 0.32, (0.0, 0.0), "")
    one, zero = np.ones(1), np.zeros(1)
    return np.asarray(face.render(rng, who, place, {u: v * one for u, v in units.items()}, zero, (zero,) * 3, (zero,) * 2,
                                  size)[0]).astype(int)


@pytest.mark.parametrize("unit, rows", [(1, (0, 45)), (2, (0, 45)), (4, (0, 45)), (5, (35, 55)), (12, (45, 80)), (15, (45, 80)),
                                        (24, (55, 80)), (26, (55, 96)), (9, (25, 80)), (45, (35, 60))])
def test_each_action_unit_moves_its_part_of_the_face(unit, rows):
    apart = np.abs(picture({unit: 1.0}) - picture({})).sum(axis=2)
    assert apart.max() > 60
    outside = np.ones(96, bool)
    outside[rows[0]:rows[1]] = False
    assert apart[outside].sum() < 0.05 * apart.sum()


def pitch_of(x):
    """Hz by autocorrelation of the loudest 60 ms."""
    n = 960
    at = max(range(0, len(x) - n, 160), key=lambda i: np.sum(x[i:i + n] ** 2))
    w = x[at:at + n] * np.hanning(n)
    r = np.fft.irfft(np.abs(np.fft.rfft(w, 4096)) ** 2)
    lags = np.arange(32, 200)
    return 16000 / lags[np.argmax(r[lags])]


@pytest.mark.parametrize("hz", [110, 160, 220])
def test_the_voice_has_the_pitch_it_was_given(hz):
    tone = voice.Tone(swing=0.0, jitter=0.0)
    x, _ = voice.speak(np.random.default_rng(0), lexicon.phonemes("my room is round"), voice.Speaker(hz, 1.0, 700, 1, 1), tone)
    assert pitch_of(x) == pytest.approx(hz, rel=0.04)


def test_tones_differ_as_their_rules_say():
    who = voice.Speaker(140, 1.05, 700, 1, 1)
    made = {}
    for name in voice.TONES:
        rng = np.random.default_rng(3)
        x, _ = voice.speak(rng, lexicon.phonemes("the food is wonderful"), who, voice.varied(rng, name))
        f = np.abs(np.fft.rfft(x)) ** 2
        hz = np.fft.rfftfreq(len(x), 1 / 16000)
        made[name] = dict(length=len(x), pitch=pitch_of(x), high=f[(hz > 1200) & (hz < 3500)].sum() / f[hz < 1200].sum(), loud=np.sqrt(np.mean(x ** 2)))
    assert made["subdued"]["length"] > 1.2 * made["plain"]["length"] > made["plain"]["length"] > made["tense"]["length"]
    assert made["subdued"]["pitch"] < made["plain"]["pitch"] < made["tense"]["pitch"]
    assert made["subdued"]["high"] < made["plain"]["high"] < made["lively"]["high"]
    assert made["subdued"]["loud"] < made["plain"]["loud"] < made["lively"]["loud"]


def test_muffling_hides_words_and_keeps_loudness():
    rng = np.random.default_rng(3)
    x, _ = voice.speak(rng, lexicon.phonemes("this is perfect"), voice.Speaker(140, 1.05, 700, 1, 1), voice.TONES["plain"])
    place = room.room(np.random.default_rng(1))
    clear, dull = (room.record(np.random.default_rng(2), x, place, m).astype(float) for m in (False, True))
    hz = np.fft.rfftfreq(len(x), 1 / 16000)
    above = [np.sum(np.abs(np.fft.rfft(y))[(hz > 700) & (hz < 4000)] ** 2) / np.sum(y ** 2) for y in (clear, dull)]
    assert above[1] < 0.02 * above[0]
    assert 0.5 < np.std(dull) / np.std(clear) < 2


def test_every_word_can_be_said():
    for frame in (*lexicon.CARRIERS, *lexicon.OTHER, *lexicon.TURNED):
        for word in lexicon.POLARITY:
            assert lexicon.phonemes(frame.format(word)) and lexicon.polarity(frame.format(word)) == lexicon.POLARITY[word]
    with pytest.raises(KeyError, match="flubber"):
        lexicon.phonemes("it is flubber")


def test_who_is_taught_sees_unknown_as_often_as_any_label():
    share = lambda split: np.mean([clip.plan(3, split, i).label == "unknown" for i in range(3000)])
    assert all(abs(share(split) - 1 / 8) < 0.02 for split in ("train", "post"))
    assert all(abs(share(split) - 1 / 16) < 0.015 for split in ("valid", "test", "ood"))


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="holiday"):
        clip.plan(1, "holiday", 0)


# --- landmarks --------------------------------------------------------------------------------------------------------
def test_points_lie_where_the_picture_has_them():
    p = next(q for q in (clip.plan(6, "train", i) for i in range(50)) if q.showing == "face" and q.face == "smile" and not q.place.cover)
    points, units = clip.landmarks(p, fps=4)
    names = [name for name, _ in face.POINTS]
    x = lambda k: points[..., 0][:, names.index(k)]
    y = lambda k: points[..., 1][:, names.index(k)]
    assert (x("left upper lid") < x("tip")).all() and (x("tip") < x("right upper lid")).all() and (x("left wing") < x("right wing")).all()
    assert (y("left brow top") < y("left upper lid")).all() and (y("tip") < y("lip top")).all() and (y("lip top") < y("chin")).all()
    assert ((points > 0) & (points < 1)).all()
    assert units.shape == (len(points), len(face.UNITS)) and units[:, face.UNITS.index(12)].max() == pytest.approx(p.units[12])


def test_points_follow_the_drawing():
    who, one, zero = face.identity(np.random.default_rng(12)), np.ones(1), np.zeros(1)
    place = face.Scene((90, 90, 90), (90, 90, 90), 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 90, 0.32, (0.0, 0.0), "")
    where = lambda units: face.landmarks(who, place, {u: v * one for u, v in units.items()}, zero, (zero,) * 3, (zero,) * 2)[0]
    names = list(face.POINTS)
    corner = names.index(("mouth top", 0.0))
    still, smile = where({}), where({12: 1.0})
    assert smile[corner, 1] < still[corner, 1] - 0.02 and smile[corner, 0] < still[corner, 0]
    apart = np.abs(picture({12: 1.0}) - picture({})).sum(axis=2)
    row, column = (96 * smile[corner][::-1]).astype(int)
    assert apart[row - 3:row + 4, column - 3:column + 4].max() > 60
    assert where({2: 1.0})[names.index(("left brow top", 1.0)), 1] < still[names.index(("left brow top", 1.0)), 1] - 0.02


def test_a_clip_is_found_again_by_its_id():
    p = clip.plan(6, "ood", 17)
    assert clip.named(p.clip) == p
    with pytest.raises(ValueError, match="another world"):
        clip.named("w1-6-ood-000017")
    away = next(q for q in (clip.plan(6, "train", i) for i in range(200)) if q.showing != "face")
    assert clip.landmarks(away) is None


# --- demo and sheet -----------------------------------------------------------------------------------------------
def test_the_demo_shows_every_label_and_stays_small():
    data, lines = demo.make()
    assert {line["label"] for line in lines} == set(rule.LABELS)
    assert len(data) < 8_000_000 and lines[-1]["end_ms"] == 60_000
    assert all(a["end_ms"] == b["start_ms"] for a, b in zip(lines, lines[1:]))
    assert sheet.draw([(data, line) for line in lines]).size[0] > 1000
