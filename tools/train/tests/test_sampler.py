"""Answers that share a prompt, drawn by our own loop; vLLM where there is none (`tools/test sampler` has what it draws)."""

import sys

import numpy as np
import pytest
import torch

import checkpoint
import data
import grpo
import sampler
import topology


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    model, words = checkpoint.create(root, topology.SMOKE, 1).eval(), checkpoint.Words(root)
    s, rng = model.sizes, np.random.default_rng(1)
    features = data.Features(rng.normal(size=(2, s.frames, s.grid**2, s.vision_hidden)).astype(np.float16),
                             rng.normal(size=(2, s.audio_rows, s.audio_hidden)).astype(np.float16))
    return model, words, [data.Example(i, "label", True, True, "happy", (), "") for i in range(2)], features


@torch.no_grad()
def test_answers_that_share_a_prompt_are_those_of_prompts_of_their_own(asked):
    model = asked[0]
    tokens = torch.randint(model.sizes.vocab, (6, 5), generator=torch.Generator().manual_seed(1))
    following = grpo.Following(model, grpo.prefix(*asked)[0], 3, 5)
    got = torch.stack([following.step(tokens[:, n]) for n in range(5)], dim=1)
    rows = grpo.prompts(*asked).repeat_interleave(3, dim=0)
    want = model(inputs_embeds=torch.cat([rows, model.model.embed_tokens(tokens)], dim=1)).logits[:, -5:]
    assert (got - want).abs().max() < 1e-5 < 1e-3 < (want - want.roll(1, 0)).abs().amax(dim=(1, 2)).min()


def test_no_python_is_said(monkeypatch):
    monkeypatch.delenv(sampler.PYTHON, raising=False)
    with pytest.raises(SystemExit, match="MIEN_VLLM_PYTHON names no Python .not set.: give one that has vLLM"):
        sampler.Vllm()
    monkeypatch.setenv(sampler.PYTHON, "/nowhere/python")
    with pytest.raises(SystemExit, match="/nowhere/python"):
        sampler.Vllm()


def test_a_python_without_vllm_and_too_long_a_prompt_are_said(asked, monkeypatch):
    monkeypatch.setenv(sampler.PYTHON, sys.executable)
    with pytest.raises(SystemExit, match="vLLM stopped:(.|\n)*No module named 'vllm'"):
        sampler.Vllm()(*asked, 2, 8, 1.0, 1)
    with pytest.raises(SystemExit, match="rows and answers of 8 tokens are more than 100"):
        sampler.Vllm(longest=100)(*asked, 2, 8, 1.0, 1)
