"""Supervised training: answers to questions about clips, towers frozen.

Examples of a step share their prompt, so a batch needs no padding before the answer and no mask: what follows an answer is
never looked at by it. Steps are drawn from the seed and the step's number, so that a run that was killed and resumed ends where it
would have ended.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

import data
import grpo
import scores


class Loss(nn.Module):
    """The negative log likelihood of answers, a token's: of these alone, or of `count` tokens. A module, so that accelerate can wrap it.

    Where the label alone is asked for, `brier` times the Brier score of the labels is added.
    """

    def __init__(self, model, words, brier=0.0):
        super().__init__()
        self.model, self.words, self.brier = model, words, brier

    def forward(self, examples, features, count=None):
        first = examples[0]
        silent = [e.row for e in examples if not e.target]
        if silent:
            raise data.ManifestError(f"nothing to teach for {len(silent)} clips (line {silent[0] + 1} first): a `{first.kind}` needs `cues`"
                                     + (" or `reason`" if first.kind == "reason" else ""))
        device = self.model.device
        prompt = grpo.prompts(self.model, self.words, examples, features)
        ids = [self.words.ids(e.target) + [self.words.end] for e in examples]
        longest = max(map(len, ids))
        target = torch.full((len(ids), longest), -100, device=device)
        for i, row in enumerate(ids):
            target[i, : len(row)] = torch.tensor(row, device=device)
        answer = self.model.model.embed_tokens(target[:, :-1].clamp(min=0))
        out = self.model(inputs_embeds=torch.cat([prompt, answer], dim=1), logits_to_keep=longest).logits
        total = F.cross_entropy(out.flatten(0, 1).float(), target.flatten(), ignore_index=-100, reduction="sum")
        loss = total / (count or sum(map(len, ids)))
        if self.brier and first.kind == "label":
            loss = loss + self.brier * scores.brier(scores.of_labels(self.model, self.words, examples, features), examples)
        return loss


def trainable(model):
    """Everything but the towers, which are frozen as in the published recipe."""
    for module in (model.vision, model.audio):
        module.requires_grad_(False)
    return [p for p in model.parameters() if p.requires_grad]


def cosine(step, steps, warm=0.03, floor=0.05):
    """Learning rate as a share of its peak."""
    begin = max(1, round(warm * steps))
    if step < begin:
        return (step + 1) / begin
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - begin) / max(1, steps - begin)))


def train(loop, model, words, lines, features, kinds, seed, size, drop=0.1, whole=None, brier=0.0):
    """Runs a `trainer.Loop` with this loss. `whole` is as in `Loop.prepare`."""
    loss = loop.prepare(Loss(model, words, brier), whole)
    ranks = loop.accelerator.num_processes
    mine = data.share(size, loop.accelerator.process_index, ranks)

    def step(n):
        drawn = data.draw(lines, kinds, n, seed, size, drop)
        tokens = sum(len(words.ids(e.target)) + 1 for e in drawn)
        # Gradients are averaged over the processes.
        value = loss([drawn[i] for i in mine], features, tokens / ranks)
        return value, {"loss": loop.mean(value)}
    loop.run(step)
