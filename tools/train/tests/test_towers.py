"""The towers' training: its optimiser, its inputs, its heads."""

import copy
import json

import numpy as np
import pytest
import torch

import alter
import checkpoint
import claims
import data
import topology
import towers
import trainer
from world import clip, face


def test_a_matrix_steps_as_a_whole_and_goes_on_from_its_state():
    torch.manual_seed(1)
    weight, bias = torch.nn.Parameter(torch.zeros(24, 40)), torch.nn.Parameter(torch.zeros(40))

    def optimizer():
        groups = [{"params": [bias], "weight_decay": 0.0}, {"params": [weight], "weight_decay": 0.0, "orthogonal": True}]
        return trainer.Optimizer(groups, lr=0.1, betas=(0.9, 0.98))
    first = optimizer()
    grads = [(torch.randn(24, 40), torch.randn(40)) for _ in range(3)]

    def step(which, n):
        weight.grad, bias.grad = (g.clone() for g in grads[n])
        which.step()
    step(first, 0)
    spread = torch.linalg.svdvals(weight.detach() / (0.1 * 0.2 * 40**0.5))
    assert 0.5 < spread.min() and spread.max() < 1.4
    assert torch.allclose(bias.detach().abs(), torch.full((40,), 0.1), atol=1e-4)      # Adam's first step
    kept, state = (weight.detach().clone(), bias.detach().clone()), copy.deepcopy(first.state_dict())
    step(first, 1)
    went = weight.detach().clone(), bias.detach().clone()
    with torch.no_grad():
        weight.copy_(kept[0])
        bias.copy_(kept[1])
    again = optimizer()
    again.load_state_dict(state)
    step(again, 1)
    assert torch.equal(weight.detach(), went[0]) and torch.equal(bias.detach(), went[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def some(root):
    lines = []
    for i in range(24):
        plan = clip.plan(1, "train", i)
        data, begin, end = clip.render(plan)
        (root / f"{i}.avi").write_bytes(data)
        lines.append(clip.truth(plan, begin, end, f"{i}.avi"))
    return lines, towers.Inputs(lines, root, topology.SMOKE, root / "inputs")


def test_inputs_say_what_can_be_seen(some):
    lines, inputs = some
    px, points, units, kind = inputs.pictures(np.arange(24), np.full(24, 4))
    assert px.shape[1:] == (3, topology.SMOKE.image, topology.SMOKE.image) and px.abs().max() <= 1
    kinds = {towers.KINDS[k] for k in kind}
    assert "" in kinds and kinds & {"away", "turned"}
    for line, p, u, k in zip(lines, points, units, kind):
        plan = clip.named(line["id"])
        if k >= len(clip.COVERED):
            assert plan.showing != "face" and not u.any()
            continue
        assert 0 < p.min() and p.max() < 1
        hidden = np.isin(face.UNITS, clip.COVERED_UNITS[plan.place.cover])
        assert not u[hidden].any()
        shown = dict(zip(face.UNITS, u.tolist()))
        assert all(abs(shown[x] - v) < 0.35 for x, v in plan.units.items() if not hidden[face.UNITS.index(x)] and v > 0.5 and x != 45), shown


def test_points_move_with_an_altered_picture():
    names = [name for name, _ in face.POINTS]
    points = torch.rand(64, len(names), 2) * 0.4 + 0.3
    px = torch.full((64, 3, 128, 128), -1.0)
    marked = names.index("left brow top")
    for i, (x, y) in enumerate((128 * points[:, marked]).int().tolist()):
        px[i, :, y - 2:y + 3, x - 2:x + 3] = 1.0
    out, moved = alter.pictures(np.random.default_rng(1), px, points)
    changed = (out - px).flatten(1).abs().amax(dim=1) > 0
    assert 0.5 < changed.float().mean() < 0.95
    assert torch.equal(moved[~changed], points[~changed])
    mirrored = 0
    for i in range(64):
        bright = out[i].mean(dim=0) - out[i].mean(dim=0).median()
        if bright.max() < 0.2:
            continue    # too dark to find
        y, x = divmod(int(bright.argmax()), 128)
        # A mirrored left brow is a right one.
        near = {side: (moved[i, names.index(f"{side} brow top")] * 128 - torch.tensor([x, y])).abs().max() for side in ("left", "right")}
        assert min(near.values()) < 7, (i, near)
        mirrored += near["right"] < near["left"]
    assert 10 < mirrored < 40


def test_a_clip_is_altered_as_one_and_the_same_way_each_time():
    px = torch.rand(8, 3, 64, 64) * 2 - 1
    one, two = (alter.pictures(np.random.default_rng(5), px[:1].expand(8, -1, -1, -1), together=True)[0] for _ in range(2))
    assert torch.equal(one, two)
    apart = (one - one[:1]).abs().mean()
    assert apart < 0.15, apart      # noise alone


def test_what_follows_the_towers_sees_every_other_clip_altered(some, root, tmp_path):
    lines, _ = some
    model = checkpoint.create(tmp_path / "new", topology.SMOKE, 1)
    plain, other = (data.features(model, lines, root, tmp_path / "features", altered=altered) for altered in (False, True))
    for one, two in ((plain.seen, other.seen), (plain.heard, other.heard)):
        same = [np.array_equal(a, b) for a, b in zip(one, two)]
        assert all(same[1::2]) and 0 < sum(same[::2]) < 12      # a quarter of the others is left as it is
    again = data.features(model, lines, root, tmp_path / "anew", altered=True)
    assert np.array_equal(again.seen, other.seen) and np.array_equal(again.heard, other.heard)


def test_altered_sounds_stay_sounds(some):
    _, inputs = some
    mel = inputs.sounds(np.arange(24))
    out = alter.sounds(np.random.default_rng(1), mel)
    assert out.shape == mel.shape and torch.isfinite(out).all()
    same = (out == mel).flatten(1).all(dim=1)
    assert 0 < same.sum() < 16
    assert (out.flatten(1).amax(dim=1) - out.flatten(1).amin(dim=1) <= 2.0 + 1e-4).all()       # eight decades, as Whisper's
    # Loud stays loud: what was heard when is still there.
    for a, b in zip(mel[~same], out[~same]):
        assert np.corrcoef(a.amax(dim=0), b.amax(dim=0))[0, 1] > 0.5


def test_some_sounds_begin_with_their_end(some):
    _, inputs = some
    mel = inputs.sounds(np.arange(24))
    out, which = alter.turned(np.random.default_rng(1), mel)
    assert 2 < which.sum() < 14 and torch.equal(out[~which], mel[~which])
    for a, b in zip(mel[which], out[which]):
        # The same columns, none lost; what came first comes later, what was last is where it began.
        assert torch.equal(a.sort(dim=1).values, b.sort(dim=1).values)
        at = next(c for c in range(a.shape[1]) if torch.equal(a[:, c:c + 20], b[:, :20]))
        used = next(c for c in range(a.shape[1], 0, -1) if (b[:, c - 1] > b.min() + 1e-3).any())
        assert 0 < at < used and torch.equal(b[:, used - at:used], a[:, :at])
    silent = torch.zeros(8, *mel.shape[1:])
    assert torch.equal(alter.turned(np.random.default_rng(1), silent)[0], silent)


def test_things_before_a_face_cover_no_point():
    points = torch.rand(64, len(face.POINTS), 2) * 0.4 + 0.3
    px = torch.full((64, 3, 128, 128), 0.3)
    out = alter._covered(np.random.default_rng(2), px, points)
    covered = (out != 0.3).any(dim=1).float().mean(dim=(1, 2))
    assert 0.5 < (covered > 0).float().mean() and covered.max() > 0.1
    for picture, (x, y) in zip(out, (128 * points).long().transpose(1, 2)):
        assert (picture[:, y, x] == 0.3).all()


def test_a_sound_that_begins_later_is_the_same_sound(some):
    _, inputs = some
    now, late = inputs.sounds([0, 1]), inputs.sounds([0, 1], [0.0, 1.0])
    assert torch.equal(now[0], late[0]) and not torch.equal(now[1], late[1])
    assert torch.isclose(now[1].sum(), late[1].sum(), rtol=1e-3)


def test_targets_name_observable_cues_and_every_phoneme(some):
    lines, _ = some
    cues, spelled = towers.words_and_cues(lines, range(24))
    for line, row, said in zip(lines, cues, spelled):
        named = {cue for cue, there in zip(towers.HEARD, row) if there}
        assert named == {c for c in claims.observable(line["cues"]) if claims.CUES[c[0]][0] != "face"}
        assert bool(said) == bool(line["words"]) and all(0 < p <= len(towers.PHONEMES) for p in said)


def test_both_towers_learn(some, tmp_path):
    lines, inputs = some
    model = checkpoint.create(tmp_path / "new", topology.SMOKE, 1)
    for name, train in (("sight", lambda loop: towers.train_sight(loop, model, inputs, 1, 16)),
                        ("hearing", lambda loop: towers.train_hearing(loop, model, lines, inputs, 1, 8))):
        heads = train(trainer.Loop(tmp_path / name, trainer.Settings(24, 3e-3, 24), name))
        log = [json.loads(x)["loss"] for x in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert np.mean(log[-3:]) < 0.8 * np.mean(log[:2]), (name, log)
        told = towers.check_sight(heads, inputs) if name == "sight" else towers.check_hearing(heads, lines, inputs)
        assert all(np.isfinite(v) for v in told.values())
