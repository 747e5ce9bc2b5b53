"""What vLLM draws, against our own loop. Not among the tests: `tools/test sampler` brings vLLM and runs it."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import checkpoint
import data
import grpo
import sampler
import topology
from test_recipe import HERE


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    model, words = checkpoint.create(root, topology.SMALL, 3).eval(), checkpoint.Words(root)
    stir(model, 1)
    s, rng = model.sizes, np.random.default_rng(1)
    features = data.Features(rng.normal(size=(4, s.frames, s.grid**2, s.vision_hidden)).astype(np.float16),
                             rng.normal(size=(4, s.audio_rows, s.audio_hidden)).astype(np.float16))
    return model, words, [data.Example(i, "reason", True, True, "happy", (), "") for i in range(4)], features


@pytest.fixture(scope="module")
def vllm():
    return sampler.Vllm(longest=1024)


@torch.no_grad()
def stir(model, seed):
    """Other weights, whose answers are not all one token."""
    dice = torch.Generator().manual_seed(seed)
    for p in (*model.model.layers.parameters(), model.model.embed_tokens.weight):
        if p.ndim == 2:
            p.mul_(0.7).add_(0.14 * torch.randn(p.shape, generator=dice))


def behind(asked, drawn):
    """By how much our own logits say that a token is not the likeliest, at most, against how far they spread."""
    model, words, examples, features = asked
    with torch.no_grad():
        cache, first = grpo.prefix(model, words, examples, features)
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(d) for d in drawn], batch_first=True, padding_value=-1)
        logits = torch.cat([first[:, None], model(input_ids=tokens[:, :-1].clamp(min=0), past_key_values=grpo.spread(cache, 1), use_cache=True).logits.float()], dim=1)
    short = logits.max(dim=2).values - logits.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    return float(short[tokens >= 0].max() / logits.std())


def test_greedy_answers_are_ours_before_and_after_a_step(asked, vllm):
    model = asked[0]
    answers = []
    for seed in (2, 3):
        answers.append(vllm(*asked, 1, 24, 0.0, 1))
        assert len({t for a in answers[-1] for t in a}) > 8, answers[-1]
        assert behind(asked, answers[-1]) < 0.05, "but for rounding"
        stir(model, seed)
    assert answers[0] != answers[1] and behind(asked, answers[0]) > 0.5, "the weights are read again"


def test_answers_are_drawn_from_our_distribution(asked, vllm):
    model, words, examples, features = asked
    with torch.no_grad():
        wanted = torch.softmax(grpo.prefix(model, words, examples, features)[1], dim=1)
    first = torch.tensor([a[0] for a in vllm(*asked, 2000, 1, 1.0, 7)]).reshape(4, 2000)
    for want, got in zip(wanted, first):
        share = torch.bincount(got, minlength=len(want)) / len(got)
        by_chance = torch.multinomial(want, 2000, True, generator=torch.Generator().manual_seed(1))
        usual = (torch.bincount(by_chance, minlength=len(want)) / 2000 - want).abs().sum()
        assert (share - want).abs().sum() < 1.3 * usual


def test_the_dice_are_the_seeds_and_the_place_s(asked, vllm):
    draw = lambda seed, places=None: vllm(*asked, 3, 12, 1.0, seed, places)
    one = draw(5)
    assert one == draw(5) != draw(6)
    model, words, examples, features = asked
    assert vllm(model, words, examples[2:], features, 3, 12, 1.0, 5, [2, 3]) == one[6:], "whoever shares the step"


def test_it_ends_where_an_answer_ends(asked, vllm):
    model, words, examples, features = asked
    ended = [a for a in vllm(*asked, 500, 40, 1.5, 9) if len(a) < 40]
    assert ended and all(a[-1] in (words.end, words.pad) and not {words.end, words.pad} & set(a[:-1]) for a in ended)


def test_what_it_costs(asked, vllm, capsys):
    def seconds(draw):
        times = []
        for n in range(7):
            began = time.time()
            draw(*asked, 8, 40, 1.0, n)
            times.append(time.time() - began)
        return sorted(times)[3]
    ours, theirs = seconds(grpo.sample), seconds(vllm)
    with capsys.disabled():
        print(f"\n4 clips, 8 answers of 40 tokens: our own loop {ours:.2f} s, vLLM {theirs:.2f} s, {theirs / ours:.2f} of it")


def test_a_run_of_grpo(tmp_path):
    run = lambda *args: subprocess.run([sys.executable, "recipe.py", *args, "--size", "smoke", "--work", str(tmp_path)], cwd=HERE, text=True,
                                       capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for stage in ("world", "sight", "hearing", "base", "cold"):
        assert run(stage).returncode == 0
    told = run("grpo", "--sampler", "vllm")
    assert told.returncode == 0, told.stderr[-2000:]
    log = [json.loads(x) for x in (tmp_path / "seed-1" / "grpo" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 8 and all(x["tokens"] > 1 for x in log)
