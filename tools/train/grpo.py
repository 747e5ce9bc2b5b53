"""Group relative policy optimisation from verifiable rewards.

For each clip G answers are drawn; answers better than their group's mean become likelier. The prompt, hundreds of rows that
are the same for the whole group, runs once: its keys and values are shared by sampling, by the reference and by the update, and its
gradient is the sum over the group. TRL's trainer pads and recomputes the prompt for every answer and takes token ids only,
no spliced rows; hence this loop, on accelerate.

Losses: `grpo` (mean over tokens, then over answers), `dapo` (mean over all tokens of the batch), `dr_grpo` (sum over tokens, divided by a
constant).
"""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import DynamicCache
from transformers.models.qwen2.modeling_qwen2 import rotate_half

import data
import rewards
import text


@dataclass(frozen=True)
class Policy:
    """How answers are drawn, rewarded and learned from."""

    group: int = 8
    prompts: int = 4                # clips per step
    temperature: float = 1.0
    max_new: int = 64
    loss: str = "dapo"
    beta: float = 0.0               # weight of the KL term against the reference
    ratio: str = "token"            # of the policies: of each token, or of the whole answer (`sequence`, GSPO, arXiv 2507.18071)
    clip_low: float = 0.2
    clip_high: float = 0.28
    updates: int = 1                # optimisation steps per drawing
    aggregation: str = "gdpo"
    scale: bool = True
    weights: tuple = (("accuracy", 1.0), ("format", 0.5), ("cues", 0.5), ("brier", 0.0), ("length", 0.25))
    drop_constant: bool = True
    mask_truncated: bool = True
    wrong: float = 4.0              # what a contradicted claim costs the reward of claims: one of nine pays where it is true nine times in ten
    label_share: float = 0.2        # share of steps that ask for the label alone
    drop: float = 0.1               # share of steps without video, and without audio
    paper: bool = False


PAPER = Policy(loss="grpo", beta=0.04, aggregation="sum", weights=(("accuracy", 1.0), ("format", 1.0)), drop_constant=False,
               mask_truncated=False, label_share=0.0, drop=0.0, max_new=512, paper=True)


# --- drawing --------------------------------------------------------------------------------------------------------
def prompts(model, words, examples, features):
    """The examples' prompts, words and what was seen and heard: `(examples, rows, hidden)`."""
    first = examples[0]
    seen, heard = features.batch([e.row for e in examples], first.video, first.audio)
    instruction = text.INSTRUCTIONS[first.kind]
    gate = model.gate(words.bert_ids(instruction).to(model.device))
    return model.splice(words.pieces(instruction, first.video, first.audio), *model.rows(seen, heard, gate))


def prefix(model, words, examples, features):
    """Keys and values of the prompts, and the logits of each answer's first token."""
    rows = prompts(model, words, examples, features)
    out = model(inputs_embeds=rows, use_cache=True, past_key_values=DynamicCache(), logits_to_keep=1)
    return out.past_key_values, out.logits[:, -1].float()


def spread(cache, times):
    """The cache with every row repeated; the original stays as it is."""
    out = DynamicCache()
    for i, (k, v) in enumerate(zip(cache.key_cache, cache.value_cache)):
        out.update(k.repeat_interleave(times, dim=0), v.repeat_interleave(times, dim=0), i)
    return out


class Following:
    """Steps of one token after prompts that `times` answers each share: the prompts' keys and values are neither repeated nor moved.

    Cache: per layer `(prompts, kv heads, rows, head)`. A step takes token ids `(prompts * times,)` and gives logits `(prompts * times, vocab)`.
    """

    def __init__(self, model, cache, times, most):
        self.model, self.times, self.length = model, times, 0
        self.shared = list(zip(cache.key_cache, cache.value_cache))
        prompts, heads, self.rows, head = self.shared[0][0].shape
        self.groups = model.config.num_attention_heads // heads
        self.own = self.shared[0][0].new_empty(len(self.shared), 2, prompts, heads, times, most, head)

    def step(self, token):
        decoder = self.model.model
        x = decoder.embed_tokens(token)
        cos, sin = decoder.rotary_emb(x, torch.tensor([[self.rows + self.length]], device=x.device))
        self.length += 1
        for i, layer in enumerate(decoder.layers):
            x = x + self._attention(i, layer.self_attn, layer.input_layernorm(x), cos, sin)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.lm_head(decoder.norm(x)).float()

    def _attention(self, i, layer, x, cos, sin):
        (keys, values), own = self.shared[i], self.own[i]
        prompts, heads, rows, head = keys.shape
        apart = lambda y, *kinds: y.view(prompts, self.times, heads, *kinds, head).transpose(1, 2)      # heads before answers
        turned = lambda y: y * cos[0] + rotate_half(y) * sin[0]
        q = turned(apart(layer.q_proj(x), self.groups))
        own[0, ..., self.length - 1, :] = turned(apart(layer.k_proj(x)))
        own[1, ..., self.length - 1, :] = apart(layer.v_proj(x))
        mine, said = own[:, ..., : self.length, :]
        with_prompt = q.flatten(2, 3) @ keys.transpose(2, 3)
        weights = torch.cat([with_prompt.unflatten(2, q.shape[2:4]), q @ mine.transpose(3, 4)], dim=-1)
        weights = torch.softmax(weights * head**-0.5, dim=-1, dtype=torch.float32).to(q.dtype)
        out = (weights[..., :rows].flatten(2, 3) @ values).view_as(q) + weights[..., rows:] @ said
        return layer.o_proj(out.transpose(1, 2).reshape(len(x), -1))


@torch.no_grad()
def sample(model, words, examples, features, times, max_new, temperature, seed, places=None):
    """`times` answers per example: token ids with the end token where there is one, in the examples' order. Temperature 0 is greedy.

    What is drawn for an example follows from the seed and its place in the step (of `places`; its place here), whoever shares the step.
    """
    dice = [torch.Generator().manual_seed(seed * 65_537 + place) for place in places or range(len(examples))]
    cache, logits = prefix(model, words, examples, features)
    following, logits = Following(model, cache, times, max_new), logits.repeat_interleave(times, dim=0)
    count = len(logits)
    out, live = [[] for _ in range(count)], np.ones(count, bool)
    ends = {words.end, words.pad}
    for n in range(max_new):
        if temperature > 0:
            chances = torch.softmax(logits.cpu() / temperature, dim=1)
            token = torch.cat([torch.multinomial(c, 1, generator=d) for c, d in zip(chances.split(times), dice)])
        else:
            token = logits.cpu().argmax(dim=1, keepdim=True)
        for i in np.flatnonzero(live):
            out[i].append(int(token[i]))
            live[i] = out[i][-1] not in ends
        if not live.any() or n == max_new - 1:
            break
        logits = following.step(token[:, 0].to(model.device))
    return out


# --- rewards --------------------------------------------------------------------------------------------------------
def judged(policy, words, example, ids):
    """Rewards of one answer by name, and what it said."""
    ended = ids[-1] in (words.end, words.pad)
    said = words.text(ids).strip()
    if policy.paper:
        return {"accuracy": rewards.accuracy_reward(said, example.label, paper=True),
                "format": rewards.format_reward(said, paper=True)}, said, ended
    out = {"accuracy": rewards.accuracy_reward(said, example.label), "length": rewards.length_reward(len(ids), 0.75 * policy.max_new, policy.max_new)}
    if example.kind == "label":
        alone = said.startswith("<answer>") and said.endswith("</answer>") and said.count("<") == 2
        return {**out, "format": float(alone), "cues": 0.0}, said, ended
    cues = 0.0 if example.cues is None else rewards.cue_reward(said, example.cues, policy.wrong)
    return {**out, "format": rewards.format_reward(said), "cues": cues}, said, ended


# --- learning -------------------------------------------------------------------------------------------------------
def answer_logps(model, cache, first, ids, times, temperature):
    """Log probabilities of every token of every answer `(answers, longest)`, and which are real."""
    longest = max(map(len, ids))
    tokens = torch.zeros(len(ids), longest, dtype=torch.long)
    real = torch.zeros(len(ids), longest)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = torch.tensor(row)
        real[i, : len(row)] = 1
    tokens, real = tokens.to(first.device), real.to(first.device)
    logits = first.repeat_interleave(times, dim=0)[:, None]
    if longest > 1:
        rest = model(input_ids=tokens[:, :-1], past_key_values=spread(cache, times), use_cache=True).logits.float()
        logits = torch.cat([logits, rest], dim=1)
    logps = torch.log_softmax(logits / (temperature or 1.0), dim=2)
    return logps.gather(2, tokens[..., None])[..., 0], real


def token_losses(policy, logps, old, reference, advantages, real=None):
    """Per-token losses `(answers, longest)` and the KL estimate. `real` says which tokens are, for ratios of whole answers."""
    ratio = torch.exp(logps - old)
    if policy.ratio == "sequence":
        # The answer's mean ratio; each token keeps its own gradient.
        mean = ((logps - old) * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
        ratio = torch.exp(mean.detach() + logps - logps.detach())
    a = advantages[:, None]
    loss = -torch.minimum(ratio * a, ratio.clamp(1 - policy.clip_low, 1 + policy.clip_high) * a)
    kl = torch.zeros_like(logps)
    if reference is not None:
        d = reference - logps
        kl = torch.exp(d) - d - 1
    return loss + policy.beta * kl, kl


def reduced(policy, losses, real, size=None):
    """One number of the per-token losses. `real` is zero for tokens that do not count, `size` that of all processes' answers by `size_of`."""
    size = size_of(policy, len(losses), float(real.sum())) if size is None else size
    total = losses * real
    if policy.loss == "grpo":
        total = total.sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return total.sum() / size


def size_of(policy, answers, tokens):
    """What the losses of so many answers, with so many tokens that count, are divided by."""
    sizes = {"grpo": answers, "dapo": max(tokens, 1), "dr_grpo": answers * policy.max_new}
    if policy.loss not in sizes:
        raise ValueError(f"no loss {policy.loss!r}: grpo, dapo or dr_grpo")
    return sizes[policy.loss]


class Loss(nn.Module):
    """The policy loss of drawn answers; a module, so that accelerate can wrap it."""

    def __init__(self, model, words, policy, reference=None):
        super().__init__()
        self.model, self.words, self.policy = model, words, policy
        self.reference = [reference]        # in a list: not a part of what is trained or saved

    def forward(self, examples, features, ids, advantages, counted, old=None, size=None):
        p = self.policy
        cache, first = prefix(self.model, self.words, examples, features)
        logps, real = answer_logps(self.model, cache, first, ids, p.group, p.temperature)
        reference = None
        if p.beta and self.reference[0] is not None:
            with torch.no_grad():
                other = self.reference[0]
                reference, _ = answer_logps(other, *prefix(other, self.words, examples, features), ids, p.group, p.temperature)
        losses, kl = token_losses(p, logps, logps.detach() if old is None else old, reference, advantages, real)
        real = real * counted[:, None]
        return reduced(p, losses, real, size), logps.detach(), (kl * real).sum() / real.sum().clamp(min=1)


def train(loop, model, words, lines, features, policy, seed, reference=None, draw=sample):
    """Runs a `trainer.Loop` with this loss. `reference` is needed where `beta` is not zero; `draw` draws the answers, as `sample` does."""
    if policy.beta and reference is None:
        raise ValueError("beta is not zero: a reference model is needed")
    loss = loop.prepare(Loss(model, words, policy, reference))
    device = loop.accelerator.device
    kinds = {"reason": 1 - policy.label_share, "label": policy.label_share}
    names, weights = zip(*policy.weights)
    ranks = loop.accelerator.num_processes
    places = data.share(policy.prompts, loop.accelerator.process_index, ranks)

    def step(n):
        drawn = data.draw(lines, kinds, n, seed, policy.prompts, policy.drop)
        examples = [drawn[place] for place in places]
        model.eval()
        ids = draw(model, words, examples, features, policy.group, policy.max_new, policy.temperature, seed * 1_000_003 + n, places)
        model.train()
        table, ended, lengths = everyones(places, *rewarded(policy, words, names, examples, ids))
        gained, useful = rewards.advantages(table, weights, policy.aggregation, policy.scale)
        numbers = {name: float(v) for name, v in zip(names, table.mean(axis=(0, 1)))}
        numbers |= {"reward": float((table @ np.array(weights)).mean()), "tokens": float(lengths.mean()),
                    "truncated": float(1 - ended.mean()), "useful": float(useful.mean()), "kind": drawn[0].kind}
        keep = useful if policy.drop_constant else np.ones(len(drawn), bool)
        if not keep.any():
            return None, {**numbers, "loss": 0.0}
        counts = (ended if policy.mask_truncated else np.ones(ended.shape)) * keep[:, None]
        # Gradients are averaged over the processes.
        size = size_of(policy, int(keep.sum()) * policy.group, float((counts * lengths).sum())) / ranks
        # A process whose groups teach nothing goes along with one that counts for nothing: the others wait for its gradients.
        own = [i for i, place in enumerate(places) if keep[place]] or [0]
        examples, ids = [examples[i] for i in own], [ids[i * policy.group + k] for i in own for k in range(policy.group)]
        taken = [places[i] for i in own]
        advantages = torch.tensor(gained[taken].reshape(-1), dtype=torch.float32, device=device)
        counted = torch.tensor(counts[taken].reshape(-1), dtype=torch.float32, device=device)
        old = None
        for k in range(policy.updates - 1):
            value, logps, _ = loss(examples, features, ids, advantages, counted, old, size)
            old = logps if old is None else old
            loop.accelerator.backward(value)
            loop.accelerator.clip_grad_norm_(loop.params, loop.settings.clip)
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        value, _, kl = loss(examples, features, ids, advantages, counted, old, size)
        return value, {**numbers, "loss": loop.mean(value), "kl": loop.mean(kl)}
    loop.run(step)


def rewarded(policy, words, names, examples, ids):
    """Rewards of every answer `(examples, group, names)`, whether it ended, and how many tokens it has `(examples, group)`."""
    found = [judged(policy, words, examples[i // policy.group], x) for i, x in enumerate(ids)]
    if "brier" in names and dict(policy.weights)["brier"]:
        for i in range(len(examples)):
            group = found[i * policy.group:(i + 1) * policy.group]
            for own, said, _ in group:
                # How sure the group is of this answer stands for the model's probability.
                q = np.mean([rewards.answer_of(s) == rewards.answer_of(said) for _, s, _ in group])
                own["brier"] = rewards.brier_reward(float(q), own["accuracy"] > 0)
    shape = (len(examples), policy.group)
    table = np.array([[r.get(name, 0.0) for name in names] for r, _, _ in found]).reshape(*shape, -1)
    return table, np.array([float(e) for _, _, e in found]).reshape(shape), np.array([float(len(x)) for x in ids]).reshape(shape)


def everyones(places, *tables):
    """Tables whose rows are this process's examples, with those of all processes, in the order of the step."""
    rows = sorted(gather_object(list(zip(places, *tables))), key=lambda row: row[0])
    return [np.stack(column) for column in list(zip(*rows))[1:]]
