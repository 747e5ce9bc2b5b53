"""Rewards: test vectors, and the ways a model might try to cheat them."""

import numpy as np
import pytest

import claims
import data
import grpo
import rewards
import text
from world import clip


def cue(modality, name, value, observable=True):
    return {"modality": modality, "cue": name, "value": value, "onset_ms": 0, "offset_ms": 1000, "observable": observable}


CUES = [cue("face", "brow", "raised"), cue("face", "eyes", "wide"), cue("face", "mouth", "pressed", False),
        cue("voice", "pitch", "high"), cue("voice", "rate", "fast"), cue("words", "words", "bad")]
MUTED = [cue("face", "brow", "raised")]
GOOD = "<think>I see raised brow, wide eyes. I hear high pitch, fast rate, bad words.</think>\n<answer>fear</answer>"


def said(text):
    return f"<think>{text}</think>\n<answer>fear</answer>"


# --- format, accuracy -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, strict, paper", [
    (GOOD, 1, 1),
    ("<think>a</think><answer>b</answer>", 1, 1),
    ("<think>a</think>\n\n<answer>b</answer>", 1, 1),
    (" <think>a</think><answer>b</answer>", 0, 0),
    ("<think>a</think> so <answer>b</answer>", 0, 0),
    ("<think>a</think>", 0, 0),
    ("<answer>b</answer>", 0, 0),
    ("<think></think><answer>b</answer>", 0, 1),
    ("<think>a</think><answer></answer>", 0, 1),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 1),
    ("<think>a<think></think><answer>b</answer>", 0, 1),
    ("<think>a</think><answer>b</answer> junk", 0, 0),
])
def test_format(text, strict, paper):
    assert rewards.format_reward(text) == strict
    assert rewards.format_reward(text, paper=True) == paper


@pytest.mark.parametrize("text, label, strict, paper", [
    (GOOD, "fear", 1, 1),
    (GOOD, "sad", 0, 0),
    ("<answer> fear\n</answer>", "fear", 1, 1),
    ("<answer>Fear.</answer>", "fear", 1, 0),
    ("<answer>fearful</answer>", "fear", 1, 0),
    ("<answer>happiness</answer>", "happy", 1, 0),
    ("fear", "fear", 0, 1),                                             # whole completion
    ("<answer>fear</answer><answer>sad</answer>", "fear", 0, 1),        # two answers
    ("<answer>fear, sad, happy</answer>", "fear", 0, 0),
    ("<answer><answer>fear</answer>", "fear", 0, 0),
    ("<answer></answer>", "fear", 0, 0),
])
def test_accuracy(text, label, strict, paper):
    assert rewards.accuracy_reward(text, label) == strict
    assert rewards.accuracy_reward(text, label, paper=True) == paper


# --- claims ---------------------------------------------------------------------------------------------------------
def test_claims_are_read_only_where_the_grammar_says():
    assert claims.read("I see raised brow, wide eyes. I hear high pitch.") == [("brow", "raised"), ("eyes", "wide"), ("pitch", "high")]
    assert claims.read("I see not raised brow. raised brow. I see RAISED brow. I see raised brows.") == []
    assert claims.read("I see raised brow") == []
    assert claims.read("I see raised brow, raised brow. I see raised brow.") == [("brow", "raised")]


def test_what_is_written_from_the_log_is_read_back_and_true():
    for i in range(150):
        p = clip.plan(9, "train", i)
        cues = clip.cues_of(p, 0.2, 1.0)
        text = claims.write(cues)
        standing = claims.check(text, cues)
        assert set(claims.read(text)) == claims.observable(cues)
        assert standing.f1 == 1 and standing.supported == standing.claims
        assert rewards.cue_reward(said(text), cues) == 1


@pytest.mark.parametrize("text, cues, expect", [
    ("I see raised brow, wide eyes. I hear high pitch, fast rate, bad words.", CUES, (5, 0, 0, 0)),
    ("I see lowered brow.", CUES, (0, 1, 0, 0)),
    ("I see pressed mouth.", CUES, (0, 0, 0, 1)),                       # below what can be seen
    ("I see wrinkled nose.", CUES, (0, 0, 0, 1)),
    ("I see no face.", CUES, (0, 1, 0, 0)),
    ("I see still face.", CUES, (0, 1, 0, 0)),
    ("I hear high pitch.", MUTED, (0, 0, 1, 0)),
    ("I hear no voice, no words.", MUTED, (2, 0, 0, 0)),
    ("I see smiling mouth.", [cue("face", "face", "still")], (0, 1, 0, 0)),
])
def test_standing(text, cues, expect):
    s = claims.check(text, cues)
    assert (s.supported, s.contradicted, s.absent, s.unsupported) == expect


@pytest.mark.parametrize("text, cues, expect", [
    ("I see raised brow, wide eyes. I hear high pitch, fast rate, bad words.", CUES, 1.0),
    ("I see raised brow.", CUES, 2 / 6),
    ("I see raised brow, lowered brow.", CUES, 2 / 7 - 1 / 2),
    ("I see raised brow, wide wide wide dropped jaw.", CUES, 2 / 7 - 1 / 2),    # stammering past a doubtful claim, as an early run learned
    ("I hear high pitch.", MUTED, -1.0),
    ("I feel it.", CUES, 0.0),
])
def test_cue_reward(text, cues, expect):
    assert rewards.cue_reward(said(text), cues) == pytest.approx(expect)


def test_a_contradicted_claim_may_cost_more():
    doubtful, absent, policy = said("I see raised brow, lowered brow."), said("I hear high pitch."), grpo.Policy()
    assert rewards.cue_reward(doubtful, CUES, wrong=4.0) == pytest.approx(2 / 7 - 4 / 2)
    assert rewards.cue_reward(absent, MUTED, wrong=4.0) == -1.0
    # A ninth claim beside eight true ones is worth its risk where it is true nine times in ten.
    whole = [cue("face", "brow", "raised"), cue("face", "eyes", "wide"), cue("face", "nose", "wrinkled"), cue("face", "mouth", "pressed"), cue("voice", "rate", "fast"),
             cue("voice", "range", "wide"), cue("voice", "timbre", "clear"), cue("voice", "pitch", "high"), cue("words", "words", "bad")]
    eight = "I see raised brow, wide eyes, wrinkled nose, pressed mouth. I hear fast rate, wide range, clear timbre, bad words"
    silent, right, false = (rewards.cue_reward(said(eight + more), whole, policy.wrong) for more in (".", ", high pitch.", ", low pitch."))
    assert 0.88 * right + 0.12 * false < silent < 0.91 * right + 0.09 * false


def test_a_taught_reason_leaves_claims_out():
    line = {"cues": CUES, "label": "fear"}
    every, count = claims.observable(CUES), 400
    told = [claims.read(data.example(0, line, "reason", dice=np.random.default_rng(i)).target) for i in range(count)]
    assert all(set(t) <= every for t in told) and any(set(t) == every for t in told)
    assert 1 - sum(map(len, told)) / (count * len(every)) == pytest.approx(data.UNSAID, abs=0.03)
    assert set(claims.read(data.example(0, line, "reason").target)) == every        # who is asked, not taught, has everything to name
    assert set(claims.read(data.example(0, line, "describe", dice=np.random.default_rng(1)).target)) == every
    assert text.faithful(CUES, "fear", np.random.default_rng(1), 1.0) == "<think> Together fear</think>\n<answer>fear</answer>"


def found(modality, name, value, *known, observable=True):
    return {"modality": modality, "cue": name, "value": value, "known": list(known), "observable": observable}


# As `mien eval measure` writes them: a smile, level pitch; brows that are neither of what is told apart; a timbre that is not known yet.
MEASURED = [found("face", "face", "", "no"), found("face", "brow", "", "lowered"), found("face", "mouth", "smiling", "smiling", "downturned"),
            found("voice", "voice", "", "no"), found("voice", "pitch", "level", "high", "low", "level"), found("voice", "timbre", "", "soft", observable=False)]


@pytest.mark.parametrize("text, expect", [
    ("I see smiling mouth. I hear level pitch.", (2, 0, 0, 0)),
    ("I see lowered brow.", (0, 1, 0, 0)),                  # told apart, and not so
    ("I see raised brow, wide eyes.", (0, 0, 0, 2)),        # nothing tells them apart
    ("I see pressed mouth.", (0, 1, 0, 0)),                 # something else was measured
    ("I see no face. I hear no voice.", (0, 2, 0, 0)),
    ("I see still face. I hear soft timbre, bad words.", (0, 1, 0, 2)),
])
def test_standing_by_measured_cues(text, expect):
    s = claims.check(text, MEASURED)
    assert (s.supported, s.contradicted, s.absent, s.unsupported, s.cues) == (*expect, 2)


def test_measured_cues_of_a_modality_that_is_left_out():
    silent = claims.without(MEASURED, ("voice", "words"))
    assert claims.write(silent) == "I see smiling mouth. I hear no voice, no words."
    assert rewards.cue_reward(said("I hear level pitch."), silent) == -1.0
    assert claims.write(claims.without(CUES, ("voice", "words"))).endswith("I hear no voice, no words.")
    assert claims.without((), ("face",)) == ()
    assert claims.write([MEASURED[0]]) == ""


def test_reward_by_measured_cues():
    empty = [found("face", "face", "no", "no"), found("face", "mouth", "", "smiling", observable=False)]
    assert rewards.cue_reward(said("I see no face."), empty) == 1.0
    assert rewards.cue_reward(said("I see smiling mouth."), empty) == -1.0     # of a face that is not there
    assert rewards.cue_reward(said("I see smiling mouth. I hear level pitch."), MEASURED) == 1.0
    # What nobody checks is no gain.
    assert rewards.cue_reward(said("I see smiling mouth, wide eyes. I hear level pitch."), MEASURED) == pytest.approx(4 / 5)
    everything = ", ".join(f"{v} {c}" for c, (_, values) in claims.CUES.items() for v in values)
    assert rewards.cue_reward(said(f"I see {everything}."), MEASURED) < 0
    assert claims.write(MEASURED) == "I see smiling mouth. I hear level pitch."


def test_cheating_the_cue_reward_does_not_pay():
    honest = rewards.cue_reward(GOOD, CUES)
    everything = ", ".join(f"{v} {c}" for c, (_, values) in claims.CUES.items() for v in values)
    cheats = [
        said(f"I see {everything}."),                                   # name every cue there is
        said("I see raised brow. " * 40),                               # say one true thing often
        said("fear " * 60),                                             # repeat the answer
        said(""), "<answer>fear</answer>",
        "I see raised brow, wide eyes. I hear high pitch, fast rate, bad words.<think>x</think><answer>fear</answer>",   # outside the thought
        said("I see raised brow, still face, wide eyes. I hear high pitch, low pitch, fast rate, bad words."),            # hedge
    ]
    assert all(rewards.cue_reward(c, CUES) < honest - 0.2 for c in cheats)
    assert rewards.cue_reward(cheats[0], CUES) < 0


# --- numbers --------------------------------------------------------------------------------------------------------
def test_brier_and_length():
    assert [rewards.brier_reward(q, ok) for q, ok in ((1, True), (0, True), (0.5, False), (0.9, True))] == pytest.approx([0, -1, -0.25, -0.01])
    with pytest.raises(ValueError):
        rewards.brier_reward(1.2, True)
    assert [rewards.length_reward(n, 40, 80) for n in (0, 40, 60, 80, 500)] == [0, 0, -0.5, -1, -1]
    with pytest.raises(ValueError):
        rewards.length_reward(3, 80, 40)


def test_brier_is_best_when_honest():
    expected = [0.7 * rewards.brier_reward(q, True) + 0.3 * rewards.brier_reward(q, False) for q in np.linspace(0, 1, 101)]
    assert np.argmax(expected) == 70


def test_sum_advantages_are_the_papers():
    a, useful = rewards.advantages([[[1, 1], [0, 1], [0, 1], [1, 1]], [[1, 1]] * 4], [1, 1], how="sum")
    std = np.std([2, 1, 1, 2], ddof=1)
    assert a[0] == pytest.approx(np.array([0.5, -0.5, -0.5, 0.5]) / (std + 1e-4))
    assert list(useful) == [True, False] and not a[1].any()
    a, _ = rewards.advantages([[[1, 1], [0, 1], [0, 1], [1, 1]]], [1, 1], how="sum", scale=False)
    assert a[0] == pytest.approx([0.5, -0.5, -0.5, 0.5])


def test_gdpo_keeps_rewards_of_different_size_apart():
    group = [[[1, 0.01], [1, 0.00], [0, 0.01], [0, 0.00]]]
    summed, _ = rewards.advantages(group, [1, 1], how="sum")
    gdpo, _ = rewards.advantages(group, [1, 1], how="gdpo")
    assert abs(summed[0][0] - summed[0][1]) < 0.02                      # the small reward drowns
    assert gdpo[0] == pytest.approx([np.sqrt(2), 0, 0, -np.sqrt(2)], abs=0.02)
    assert gdpo.mean() == pytest.approx(0, abs=1e-9) and gdpo.std() == pytest.approx(1, abs=1e-3)


def test_constant_groups_are_dropped_and_do_not_move_the_others():
    live = [[1, 0.5], [0, 0.2], [1, 0.1], [0, 0.9]]
    alone, _ = rewards.advantages([live], [1, 0.5])
    both, useful = rewards.advantages([live, [[1, 0.3]] * 4], [1, 0.5])
    assert list(useful) == [True, False] and both[0] == pytest.approx(alone[0]) and not both[1].any()
    # A reward of weight zero cannot keep a group alive.
    assert not rewards.advantages([[[1, 0.1], [1, 0.9]]], [1, 0])[1].any()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="weights"):
        rewards.advantages(np.zeros((2, 4, 3)), [1, 1])
    with pytest.raises(ValueError, match="mean"):
        rewards.advantages(np.zeros((2, 4, 2)), [1, 1], how="mean")


def test_the_vectors_that_the_engine_is_tested_with_are_these():
    """`mien eval` judges claims, forms and labels as this folder does: tests/data/claims.json holds both to it."""
    import vectors
    assert vectors.FILE.read_text(encoding="utf-8") == vectors.text(), "run tools/train/vectors.py, then cargo test --test judge"
