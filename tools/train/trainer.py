"""The loop that every training stage runs in: optimiser, schedule, log, checkpoints, and resuming after a kill.

A stage folder holds `log.jsonl`, one line per step, and `state`, the last whole checkpoint. A kill loses at most `every` steps.
accelerate carries it from one CPU process to many GPUs. A stage may be resumed on another number of processes.
"""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from tqdm import tqdm

import sft


@dataclass
class Settings:
    steps: int
    rate: float
    every: int = 50
    clip: float = 1.0
    decay: float = 0.01
    stop_after: int | None = None       # ends early, as a kill would: for tests
    mixed: str = "no"                   # bf16: products in bf16 where the processor has it, weights and steps in f32

    @property
    def products(self):
        return self.mixed if has_bf16() else "no"


def has_bf16():
    """Whether products in bf16 are done by the processor: where they are emulated they take fifty times as long as f32."""
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Optimizer(torch.optim.AdamW):
    """AdamW; groups marked `orthogonal` follow Muon (https://kellerjordan.github.io/posts/muon): the momentum of a matrix, its singular
    values brought near one by a Newton-Schulz iteration, at the root-mean-square size of an Adam step."""

    MOMENTUM = 0.95
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    @torch.no_grad()
    def step(self, closure=None):
        everything = self.param_groups
        for group in everything:
            if group.get("orthogonal"):
                for p in group["params"]:
                    if p.grad is not None:
                        self._orthogonal(p, group)
        self.param_groups = [g for g in everything if not g.get("orthogonal")]
        try:
            return super().step(closure)
        finally:
            self.param_groups = everything

    def _orthogonal(self, p, group):
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["step"] = torch.zeros(())     # AdamW's loading looks for it
        state["momentum"].mul_(self.MOMENTUM).add_(p.grad)
        x = p.grad + self.MOMENTUM * state["momentum"]
        x = x / (x.norm() + 1e-7)
        tall = len(x) > x.shape[1]
        if tall:
            x = x.T
        a, b, c = self.COEFFICIENTS
        for _ in range(5):
            square = x @ x.T
            x = a * x + (b * square + c * square @ square) @ x
        if tall:
            x = x.T
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(x, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])


class Loop:
    def __init__(self, folder, settings, name, accelerator=None):
        self.folder, self.settings, self.name = Path(folder), settings, name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = accelerator or Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision=settings.products,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
        self.step = 0

    def prepare(self, module, whole=None):
        """Wraps the module that computes the loss; its trainable parameters are the ones optimised.

        Matrices inside `whole` are stepped as a whole (`orthogonal`): for layers that begin from chance.
        """
        params = [p for p in module.parameters() if p.requires_grad]
        matrices = {id(p) for p in (whole.parameters() if whole is not None else ()) if p.ndim == 2}
        groups = [{"params": [p for p in params if p.ndim > 1 and id(p) not in matrices], "weight_decay": self.settings.decay},
                  {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
                  {"params": [p for p in params if id(p) in matrices], "weight_decay": self.settings.decay, "orthogonal": True}]
        self.optimizer = Optimizer([g for g in groups if g["params"]], lr=self.settings.rate, betas=(0.9, 0.98))
        self.params = params
        self.module, self.optimizer = self.accelerator.prepare(module, self.optimizer)
        state = self.folder / "state"
        if not state.exists() and (self.folder / "state.old").exists():
            os.replace(self.folder / "state.old", state)    # killed between the two renames of `save`
        if (state / "step.json").exists():
            self.accelerator.load_state(str(state))
            self.step = json.loads((state / "step.json").read_text())["step"]
            self._cut_log()
        return self.module

    def _cut_log(self):
        """Drops lines of steps that were done after the checkpoint and are done again."""
        log = self.folder / "log.jsonl"
        if log.exists() and self.accelerator.is_main_process:
            keep = [x for x in log.read_text().splitlines() if json.loads(x)["step"] < self.step]
            log.write_text("".join(f"{x}\n" for x in keep))

    def save(self):
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / "state.part", ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(self.folder / "state.part"), safe_serialization=False)
        if self.accelerator.is_main_process:
            (self.folder / "state.part" / "step.json").write_text(json.dumps({"step": self.step}))
            old = self.folder / "state.old"
            shutil.rmtree(old, ignore_errors=True)
            if (self.folder / "state").exists():
                os.replace(self.folder / "state", old)
            os.replace(self.folder / "state.part", self.folder / "state")
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def mean(self, value):
        """Of all processes."""
        return float(self.accelerator.reduce(value.detach().clone(), "mean"))

    @property
    def finished(self):
        return self.step >= self.settings.steps

    def run(self, advance):
        """Calls `advance(step)` for `(loss or None, numbers to log)` until all steps are done."""
        s = self.settings
        end = min(s.steps, s.stop_after or s.steps)
        self.module.train()
        with (self.folder / "log.jsonl").open("a") as log, tqdm(
                total=s.steps, initial=self.step, desc=self.name, unit="step", disable=not self.accelerator.is_main_process) as bar:
            while self.step < end:
                began = time.time()
                for group in self.optimizer.param_groups:
                    group["lr"] = s.rate * sft.cosine(self.step, s.steps)
                loss, numbers = advance(self.step)
                if loss is not None:
                    self.accelerator.backward(loss)
                    numbers["norm"] = float(self.accelerator.clip_grad_norm_(self.params, s.clip))
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                if self.accelerator.is_main_process:
                    log.write(json.dumps({"step": self.step, **numbers, "seconds": round(time.time() - began, 3)}) + "\n")
                    log.flush()
                self.step += 1
                bar.update(1)
                bar.set_postfix({k: f"{v:.3g}" for k, v in numbers.items() if k in ("loss", "reward", "accuracy")})
                if self.step % s.every == 0 or self.step == s.steps:
                    self.save()
