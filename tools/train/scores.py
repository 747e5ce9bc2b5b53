"""Probabilities of the labels from a pass without thinking, as the engine scores a window, and how good they are.

Shapes: `(examples, labels)`.
"""

import torch

import data
import grpo
from world import rule


def of_labels(model, words, examples, features, labels=rule.LABELS):
    """Probabilities over `labels`: the mean log likelihood of each label's own tokens, softmaxed. Gradients pass."""
    first = examples[0]
    asked = [data.Example(e.row, "label", first.video, first.audio, e.label, (), "") for e in examples]
    whole = [words.ids(f"<answer>{label}</answer>") for label in labels]
    close = len(words.ids("</answer>")) - 1
    cut = [w[: len(w) - close] for w in whole]
    shared = 0
    while all(len(w) > shared + 1 for w in cut) and len({w[shared] for w in cut}) == 1:
        shared += 1
    cache, logits = grpo.prefix(model, words, asked, features)
    logps, real = grpo.answer_logps(model, cache, logits, cut * len(examples), len(labels), 1.0)
    own = real.clone()
    own[:, :shared] = 0
    mean = (logps * own).sum(dim=1) / own.sum(dim=1)
    return torch.softmax(mean.reshape(len(examples), len(labels)), dim=1)


def brier(scores, examples, labels=rule.LABELS):
    """The multiclass Brier score, the mean over the examples: 0 is best, 2 worst. Where the label is none of `labels`, all are equally likely.

    A proper scoring rule (Brier 1950): nothing but the true probabilities has the least.
    """
    truth = torch.full_like(scores, 1 / len(labels))
    for i, e in enumerate(examples):
        if e.label in labels:
            truth[i] = 0
            truth[i, labels.index(e.label)] = 1
    return (scores - truth).square().sum(dim=1).mean()
