"""Verifiable rewards: each a pure function of a completion and the truth, and the arithmetic that turns them into advantages.

`paper=True` gives the published behaviour, loopholes included; the default closes them.
"""

import re

import numpy as np

import claims

CANONICAL = {
    "happiness": "happy", "joyful": "happy", "sadness": "sad", "anger": "angry", "surprised": "surprise", "disgusted": "disgust",
    "fearful": "fear", "afraid": "fear",
}
_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def canonical(text):
    """A label as the closed vocabulary spells it: case, blanks, a final full stop and documented synonyms do not count."""
    word = text.strip().strip(".").strip().lower()
    return CANONICAL.get(word, word)


def answer_of(completion, paper=False):
    """The answer a completion gives, or None. Several answers are no answer; the paper takes the first, or everything."""
    found = _ANSWER.findall(completion)
    if paper:
        return (found[0] if found else completion).strip()
    if len(found) != 1 or completion.count("<answer>") != 1 or completion.count("</answer>") != 1:
        return None
    return canonical(found[0])


def think_of(completion):
    found = _THINK.search(completion)
    return found.group(1) if found else ""


def format_reward(completion, paper=False):
    """1 where the completion is thought, then answer; each tag once and the thought not empty, unless `paper`."""
    if not _FORMAT.fullmatch(completion):
        return 0.0
    if paper:
        return 1.0
    once = all(completion.count(tag) == 1 for tag in _TAGS)
    return float(once and bool(think_of(completion).strip()) and bool(_ANSWER.search(completion).group(1).strip()))


def accuracy_reward(completion, label, paper=False):
    """1 where the answer is the label."""
    answer = answer_of(completion, paper)
    return float(answer is not None and answer == (label.strip() if paper else canonical(label)))


def cue_reward(completion, cues, wrong=1.0):
    """F1 of the claims against the observable cues, logged or measured, less the share of claims that are empty or about what is absent, and `wrong`
    times the share of those that are contradicted.

    In [-max(1, wrong), 1]; nothing claimed is 0. Claims count once, however often they are said, and only inside the thought.
    """
    think = think_of(completion)
    standing, empty = claims.check(think, cues), claims.empty(think)
    made = standing.claims + empty
    if not made:
        return 0.0
    return 2 * standing.supported / (made + standing.cues) - (wrong * standing.contradicted + standing.absent + empty) / made


def brier_reward(probability, correct):
    """-(q - 1{correct})^2 for the probability the model gave its answer."""
    if not 0 <= probability <= 1:
        raise ValueError(f"not a probability: {probability}")
    return -((probability - float(correct)) ** 2)


def length_reward(tokens, soft, hard):
    """0 up to `soft` tokens, then down a line to -1 at `hard` and beyond."""
    if not 0 < soft < hard:
        raise ValueError(f"want 0 < soft < hard, not {soft}, {hard}")
    return -min(1.0, max(0.0, (tokens - soft) / (hard - soft)))


def advantages(rewards, weights, how="gdpo", scale=True, eps=1e-4):
    """Rewards `(groups, group size, kinds)` to advantages `(groups, group size)`, and which groups teach anything.

    `sum`: weighted sum, then centred (and scaled) within the group, as GRPO. `gdpo`: each kind normalised within the group
    first, then summed and normalised over the batch, so that a coarse reward cannot drown a fine one. Groups in which
    every kind of reward is constant have advantage zero and `False`: they can be dropped.
    """
    rewards, weights = np.asarray(rewards, float), np.asarray(weights, float)
    if rewards.ndim != 3 or rewards.shape[2] != len(weights):
        raise ValueError(f"rewards {rewards.shape} against {len(weights)} weights")

    def centred(x):
        x = x - x.mean(axis=1, keepdims=True)
        return x / (x.std(axis=1, keepdims=True, ddof=1) + eps) if scale and x.shape[1] > 1 else x

    counted = rewards * (weights != 0)
    useful = (np.ptp(counted, axis=1) > 1e-9).any(axis=1)
    if how == "sum":
        total = counted @ weights
        return centred(total), np.ptp(total, axis=1) > 1e-9
    if how == "gdpo":
        total = centred(rewards) @ weights
        if useful.any():
            live = total[useful]
            total = np.where(useful[:, None], (total - live.mean()) / (live.std() + eps), 0.0)
        return total, useful
    raise ValueError(f"no aggregation {how!r}: sum or gdpo")
