"""vLLM as the sampler, where there is none. `with_vllm.py` has what it draws (`tools/test sampler`)."""

import sys

import numpy as np
import pytest

import checkpoint
import data
import sampler
import topology


def test_no_python_is_said(monkeypatch):
    monkeypatch.delenv(sampler.PYTHON, raising=False)
    with pytest.raises(SystemExit, match="MIEN_VLLM_PYTHON names no Python .not set.: give one that has vLLM"):
        sampler.Vllm()
    monkeypatch.setenv(sampler.PYTHON, "/nowhere/python")
    with pytest.raises(SystemExit, match="/nowhere/python"):
        sampler.Vllm()


def test_a_python_without_vllm_and_too_long_a_prompt_are_said(monkeypatch, tmp_path):
    model, words = checkpoint.create(tmp_path, topology.SMOKE, 1).eval(), checkpoint.Words(tmp_path)
    s = model.sizes
    features = data.Features(np.zeros((1, s.frames, s.grid**2, s.vision_hidden), np.float16), np.zeros((1, s.audio_rows, s.audio_hidden), np.float16))
    ask = model, words, [data.Example(0, "label", True, True, "happy", (), "")], features, 2, 8, 1.0, 1
    monkeypatch.setenv(sampler.PYTHON, sys.executable)
    with pytest.raises(SystemExit, match="vLLM stopped:(.|\n)*No module named 'vllm'"):
        sampler.Vllm()(*ask)
    with pytest.raises(SystemExit, match="rows and answers of 8 tokens are more than 100"):
        sampler.Vllm(longest=100)(*ask)
