"""The whole recipe: world, towers, base, the contest of what may follow, the winner taught longer, evaluation. One command per stage, or all.

    python recipe.py all --work DIR --size smoke|small
    python recipe.py cold|label|grpo|... --seed 1        # one way to go on from the base: for checkpoints and clips of your own

Every stage resumes where it was killed and is left alone where it is done. A stage's folder holds its log, its curves and, when
done, `model`, a checkpoint in the published layout.
"""

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState

import checkpoint
import curves
import data
import grpo
import sampler
import sft
import topology
import towers
import trainer
from world import clip

HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much of everything."""

    sizes: topology.Sizes
    train: int              # clips of towers and base
    post: int               # clips of the label baseline and of GRPO: other people, whom the towers never saw
    cold: int               # clips of the cold start, a small part of the training clips as in the paper
    test: int
    sight: int              # steps
    hearing: int
    base: int
    cold_steps: int
    label: int
    grpo: int
    pictures: int = 64      # per step
    sounds: int = 32
    batch: int = 16
    prompts: int = 4
    group: int = 8
    max_new: int = 64
    every: int = 50
    mixed: str = "no"       # how products are made: "bf16" is 1.3 times as fast where the processor has it
    recipes: tuple = ("label", "explained", "explained-grpo", "grpo", "grpo-no-cues", "grpo-from-label", "best-of-n")      # of the contest
    budgets: tuple = (0.1, 0.2, 0.4)     # one is what `label` steps cost
    seeds: tuple = (1, 2, 3)
    clips: int = 140        # of each set that the contest answers
    longest: float = 6.0    # the budget of the winner, and of label SFT beside it


PLANS = {
    "smoke": Plan(topology.SMOKE, train=48, post=48, cold=24, test=16, sight=6, hearing=6, base=6, cold_steps=30, label=6, grpo=8, batch=8, prompts=2,
                  group=4, max_new=48, every=3, budgets=(2,), seeds=(1,), clips=8, longest=3),
    "small": Plan(topology.SMALL, train=6000, post=3000, cold=600, test=420, sight=4600, hearing=2900, base=600, cold_steps=250, label=200, grpo=200,
                  mixed="bf16"),
    # For the real checkpoint, which comes with its towers and its base.
    "full": Plan(topology.FULL, train=0, post=0, cold=232, test=560, sight=0, hearing=0, base=0, cold_steps=1000, label=3000, grpo=3000, batch=1,
                 prompts=1, max_new=512, mixed="bf16"),
}
# What the base is asked: it describes clips, and answers a little, so that GRPO has something to reward.
BASE = {"describe": 0.5, "reason": 0.3, "label": 0.2}
START = ("sight", "hearing", "base")      # once, whatever the seed: what the published recipe finds ready made
AFTER = ("cold", "label", "grpo", "grpo-no-cues", "grpo-paper")
ALL = ("world", "towers", "base", "contest")
STAGES = (*ALL, "sight", "hearing", *AFTER)


def say(what):
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def first():
    """A context that the first process runs alone, before the others: for files that it makes and they find."""
    return processes().main_process_first()


def processes():
    return PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(hours=12))


def start(program, *args, **env):
    """Another process of ours, which ends where this one does."""
    return subprocess.Popen([sys.executable, HERE / program, *map(str, args)], env={**os.environ, **env}, preexec_fn=sampler.die_with_us)


def ended_well(*running):
    failed = [r for r in running if r.wait()]
    if failed:
        raise SystemExit(f"a process stopped ({Path(failed[0].args[1]).name} {failed[0].args[2]}); run again to go on")


class Run:
    def __init__(self, work, size, seed, manifest=None, start=None, stop_after=None, max_new=None, draw=grpo.sample):
        plan, self.size = PLANS[size], size
        self.work, self.plan, self.seed = Path(work).resolve(), dataclasses.replace(plan, max_new=max_new or plan.max_new), seed
        self.manifest, self.start, self.stop_after, self.draw = manifest, start, stop_after, draw
        self.clips = self.work / "clips"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def rate(self):
        """The learning rate of supervised stages: a model of our own is young, a given one is not."""
        return 5e-5 if self.start else 1.5e-3

    # --- what stages share ------------------------------------------------------------------------------------------
    def folder(self, stage):
        return self.work / ("start" if stage in START else f"seed-{self.seed}") / stage

    def model_of(self, stage):
        return self.folder(stage) / "model"

    def done(self, stage):
        return (self.model_of(stage) / checkpoint.OMNI / "model.safetensors").exists()

    def lines(self, split):
        path = Path(self.manifest) if self.manifest and split in ("train", "post") else self.clips / f"{split}.jsonl"
        return data.manifest(path)[0], path.parent

    def features(self, model, split):
        lines, root = self.lines(split)
        with first():
            return lines, data.features(model, lines, root, self.work / "features", self.device,
                                        altered=not self.start and not self.manifest and split in ("train", "post"))

    def loop(self, stage, steps, rate):
        settings = trainer.Settings(steps, rate, self.plan.every, stop_after=self.stop_after, mixed=self.plan.mixed)
        return trainer.Loop(self.folder(stage), settings, stage)

    def finish(self, stage, loop, model, like):
        if not loop.finished:
            say(f"{stage}: stopped at step {loop.step} of {loop.settings.steps}; run again to go on")
            raise SystemExit(3)
        if loop.accelerator.is_main_process:
            checkpoint.save(model, self.model_of(stage), like)
            curves.draw(self.folder(stage) / "log.jsonl", self.folder(stage) / "curves.png")
        loop.accelerator.wait_for_everyone()

    # --- stages -----------------------------------------------------------------------------------------------------
    def world(self):
        wanted = {"train": self.plan.train, "post": self.plan.post, "test": self.plan.test, "valid": max(16, self.plan.test // 2)}
        wanted |= dict.fromkeys(clip.HELD_OUT, self.plan.test)
        for split, count in wanted.items():
            path = self.clips / f"{split}.jsonl"
            if path.exists() and len(path.read_text().splitlines()) == count:
                continue
            subprocess.run([sys.executable, "-m", "world", "make", "--out", str(self.clips), "--split", split, "--count", str(count),
                            "--jobs", str(os.cpu_count())], cwd=HERE, check=True)

    def _inputs(self, split, sizes):
        lines, clips = self.lines(split)
        with first():
            return lines, towers.Inputs(lines, clips, sizes, self.work / "inputs")

    def _tower(self, stage, steps, rate, train, check):
        """Trains one tower of a new model. The seed is fixed: every seed's recipe starts from the same towers."""
        if self.start:
            say(f"{stage}: taken from the given checkpoint")
            return
        root = self.folder(stage) / "new"
        with first():
            model = checkpoint.create(root, self.plan.sizes, 1)
        lines, inputs = self._inputs("train", model.sizes)
        loop = self.loop(stage, steps, rate)
        heads = train(loop, model.to(self.device), lines, inputs)
        told = check(heads, *self._inputs("valid", model.sizes))
        say(f"{stage}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in told.items()) + " on held-out clips")
        if loop.accelerator.is_main_process:
            (self.folder(stage) / "check.json").write_text(json.dumps(told))
        self.finish(stage, loop, model, root)

    def towers(self):
        """Both towers, each by a process of its own: they do not need each other."""
        if processes().num_processes > 1 or self.start:
            return [self.run(stage) for stage in ("sight", "hearing")]
        for split in ("train", "valid"):
            self._inputs(split, self.plan.sizes)
        threads = str(max(1, os.cpu_count() // 2))
        ended_well(*[start("recipe.py", stage, "--work", self.work, "--size", self.size, OMP_NUM_THREADS=threads)
                     for stage in ("sight", "hearing") if not self.done(stage)])

    def sight(self):
        self._tower("sight", self.plan.sight, 6e-3,
                    lambda loop, model, lines, inputs: towers.train_sight(loop, model, inputs, 1, self.plan.pictures),
                    lambda heads, lines, inputs: towers.check_sight(heads, inputs))

    def hearing(self):
        self._tower("hearing", self.plan.hearing, 4e-3,
                    lambda loop, model, lines, inputs: towers.train_hearing(loop, model, lines, inputs, 1, self.plan.sounds),
                    towers.check_hearing)

    def _sft(self, stage, before, kinds, steps, rate, split="train", count=None, hearing=None):
        model, words = self._load(before)
        if hearing:
            model.audio.load_state_dict(self._load(hearing)[0].audio.state_dict())
        lines, features = self.features(model, split)
        lines = lines[:count] if count else lines
        sft.trainable(model)
        loop = self.loop(stage, steps, rate)
        sft.train(loop, model, words, lines, features, kinds, self.seed, self.plan.batch, whole=None if self.start else model.model.layers)
        self.finish(stage, loop, model, self._root(before))

    def _root(self, stage):
        return Path(self.start) if self.start and stage == "base" else self.model_of(stage)

    def _load(self, stage):
        root = self._root(stage)
        if not (root / checkpoint.OMNI / "config.json").exists():
            raise SystemExit(f"no model of stage {stage} in {root}: run `{stage}` first, or give --checkpoint")
        return checkpoint.load(root).to(self.device), checkpoint.Words(root)

    def base(self):
        if self.start:
            say("base: taken from the given checkpoint")
            return
        self._sft("base", "sight", BASE, self.plan.base, 2e-3, hearing="hearing")

    def cold(self):
        self._sft("cold", "base", {"reason": 0.6, "label": 0.4}, self.plan.cold_steps, self.rate, count=self.plan.cold)

    def label(self):
        self._sft("label", "base", {"label": 1.0}, self.plan.label, self.rate, split="post")

    def _grpo(self, stage, policy):
        model, words = self._load("cold")
        policy = dataclasses.replace(policy, prompts=self.plan.prompts, group=policy.group if policy.paper else self.plan.group,
                                     max_new=self.plan.max_new)
        lines, features = self.features(model, "post")
        sft.trainable(model)
        reference = None
        if policy.beta:
            reference = checkpoint.load(self.model_of("cold")).to(self.device).eval().requires_grad_(False)
        loop = self.loop(stage, self.plan.grpo, 1e-6 if self.start else 2e-4)
        grpo.train(loop, model, words, lines, features, policy, self.seed, reference, self.draw)
        self.finish(stage, loop, model, self.model_of("cold"))

    def grpo(self):
        self._grpo("grpo", grpo.Policy())

    def grpo_no_cues(self):
        self._grpo("grpo-no-cues", grpo.Policy(weights=(("accuracy", 1.0), ("format", 0.5), ("length", 0.25))))

    def grpo_paper(self):
        self._grpo("grpo-paper", grpo.PAPER)

    def contest(self):
        """The contest, then its winner and the label baseline at the longest budget, and what they are on every held-out set."""
        ended_well(start("contest.py", "run", "--work", self.work, "--size", self.size))
        ended_well(start("contest.py", "show", "--results", self.work / "results", "--out", self.work / "contest.png"))

    def run(self, stage):
        if stage not in ("world", "towers", "contest") and self.done(stage):
            say(f"{stage}: done already")
            return
        began = time.time()
        say(stage)
        getattr(self, stage.replace("-", "_"))()
        say(f"{stage}: {time.time() - began:.0f} s")


def floor():
    """What a clip costs, and what every process holds: weights, gradients and two moments of what is trained, weights of the towers, in f32."""
    for name, plan in PLANS.items():
        cost = plan.sizes.forward_gflop()
        with torch.device("meta"):
            model = topology.Omni(dataclasses.replace(plan.sizes, bert_vocab=plan.sizes.bert_vocab or 1))
        trained = 16 * sum(p.numel() for p in sft.trainable(model))
        frozen = 4 * sum(p.numel() for p in model.parameters() if not p.requires_grad)
        print(f"{name}: {sum(cost.values()):.2f} GFLOP per clip forward: " + ", ".join(f"{k} {v:.2f}" for k, v in cost.items())
              + f"; {trained / 1e9:.2f} GB to train, {frozen / 1e9:.2f} GB of towers")


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("stage", choices=("all", "table", "floor", *STAGES))
    top.add_argument("--work", default="work")
    top.add_argument("--size", choices=PLANS, default="small")
    top.add_argument("--seed", type=int, default=1)
    top.add_argument("--manifest", help="train on this manifest instead of the world's clips")
    top.add_argument("--checkpoint", help="start from the towers and weights of this checkpoint folder")
    top.add_argument("--stop-after", type=int, help="stop a stage after this many steps, as a kill would")
    top.add_argument("--max-new", type=int, help="the most tokens an answer may have")
    top.add_argument("--sampler", choices=("own", "vllm"), default="own", help=f"draws the answers of GRPO; vllm: with the Python that {sampler.PYTHON} names")
    args = top.parse_args()
    if args.stage == "floor":
        return floor()
    if args.stage == "table":
        own = Path(args.work) / "results"
        results, out = (own, own.parent / "contest.png") if own.exists() else (HERE / "results", "contest.png")
        return ended_well(start("contest.py", "show", "--results", results, "--out", out))
    run, began = Run(args.work, args.size, args.seed, args.manifest, args.checkpoint, args.stop_after, args.max_new,
                     sampler.Vllm() if args.sampler == "vllm" else grpo.sample), time.time()
    for stage in ALL if args.stage == "all" else [args.stage]:
        if stage not in ("world", "contest") or processes().is_main_process:
            run.run(stage)
        processes().wait_for_everyone()
    if args.stage == "all":
        say(f"all: {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
