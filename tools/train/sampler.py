"""vLLM in the place of `grpo.sample`.

The trainer splices its prompts as ever and sends them as embeddings; the other side has the decoder alone, written for it before every drawing.
vLLM brings a torch of its own, so it is a process with a Python of its own (`sampler_vllm.py`); the two share a folder in memory.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import grpo

HERE = Path(__file__).resolve().parent
PYTHON = "MIEN_VLLM_PYTHON"
DECODER = ("model.embed_tokens.", "model.layers.", "model.norm.")     # what a plain Qwen2 has of ours


def die_with_us():
    """For `preexec_fn`: the process ends where the one that started it does."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


class Vllm:
    """Draws what `grpo.sample` would, other dice aside. `longest`: tokens of a prompt and its answer."""

    def __init__(self, longest=4096):
        self.python, self.longest, self.worker = os.environ.get(PYTHON), longest, None
        if not self.python or not shutil.which(self.python):
            raise SystemExit(f"error: {PYTHON} names no Python ({self.python or 'not set'}): give one that has vLLM, or leave `--sampler own`")

    def __call__(self, model, words, examples, features, times, max_new, temperature, seed, places=None):
        with torch.no_grad():
            prompts = grpo.prompts(model, words, examples, features)
        if prompts.shape[1] + max_new > self.longest:
            raise SystemExit(f"error: prompts of {prompts.shape[1]} rows and answers of {max_new} tokens are more than {self.longest}")
        new, kind = self.worker is None, torch.bfloat16 if prompts.is_cuda else torch.float32
        if new:
            self._lay_folder(model.sizes, kind)
        self._write_decoder(model, kind)
        save_file({str(i): p.detach().to("cpu", kind).contiguous() for i, p in enumerate(prompts)}, self.folder / "prompts.safetensors")
        if new:
            self._start(model.device)
        ask = {"times": times, "max_new": max_new, "temperature": temperature, "ends": [words.end, words.pad],
               "seeds": [(seed * 65_537 + place) % 2**62 for place in places or range(len(examples))]}
        try:
            print(json.dumps(ask), file=self.worker.stdin, flush=True)
        except BrokenPipeError:
            self._fail()
        return json.loads(self.worker.stdout.readline() or self._fail())

    def _lay_folder(self, s, kind):
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.place = tempfile.TemporaryDirectory(prefix="mien-vllm-", dir=memory)
        self.folder = Path(self.place.name)
        (self.folder / "decoder").mkdir()
        (self.folder / "decoder" / "config.json").write_text(json.dumps({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": s.hidden, "intermediate_size": s.ffn,
            "num_hidden_layers": s.layers, "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads, "vocab_size": s.vocab,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": False,
            "torch_dtype": str(kind).removeprefix("torch.")}))

    def _start(self, device):
        env = dict(os.environ)
        if device.type == "cuda":
            seen = env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
            env["CUDA_VISIBLE_DEVICES"] = seen.split(",")[device.index or 0]
        self.log = (self.folder / "log").open("w")
        self.worker = subprocess.Popen([self.python, "-P", HERE / "sampler_vllm.py", self.folder, str(self.longest)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=self.log, text=True, env=env, preexec_fn=die_with_us)

    def _write_decoder(self, model, kind):
        state = {k: v.detach().to("cpu", kind).contiguous() for k, v in model.state_dict().items() if k.startswith(DECODER)}
        # Twice, though they are one: vLLM's reading anew leaves tied ones apart.
        state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
        save_file(state, self.folder / "decoder" / "model.safetensors", metadata={"format": "pt"})

    def _fail(self):
        last = (self.folder / "log").read_text().strip().splitlines()[-5:]
        raise SystemExit("error: vLLM stopped:\n  " + "\n  ".join(last))
