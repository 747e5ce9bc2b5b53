"""Which recipe is best at equal compute? Each goes on from one base, with the same clips and the same budget of operations.

    tools/train/run base                                   # what all begin with
    python contest.py run --budgets 1 2 4 --seeds 1 2 3    # goes on where it was stopped; --recipes label grpo runs two of them
    python contest.py show --out contest.png               # the table, and UAR against compute

A budget of 1 is what label SFT spends in the plan's `label` steps. Operations are counted, two per multiply-add and a backward pass as two
forward: prompts and answers, drawn ones among them. Towers are frozen and their outputs kept; they cost nobody anything. How often the budget allows
a step follows from the tokens an answer has as a rule; what was spent is written down beside the result.

Results are WORK/contest/BUDGET/SEED/RECIPE.SET.json. `show` has 95 % intervals of a bootstrap over seeds and clips.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch

import checkpoint
import data
import evaluate
import grpo
import recipe
import rewards
import sft
import trainer
from world import rule

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

TOKENS = {"label": 6, "reason": 40}     # of an answer, as a rule
INSTRUCTION = 110                       # tokens of a prompt beside its rows of pictures and sound
EXPLAINED = {"reason": 0.6, "label": 0.4}
LABELS = {"label": 1.0}
# Methods one after the other, each with its share of the budget.
RECIPES = {
    "label": (("label", 1.0),),
    "explained": (("explained", 1.0),),
    "grpo": (("cold", 0.25), ("grpo", 0.75)),
    "grpo-no-cues": (("cold", 0.25), ("grpo-no-cues", 0.75)),
    "grpo-from-label": (("label", 0.5), ("grpo-label", 0.5)),
    "best-of-n": (("cold", 0.25), ("best-of-n", 0.75)),
}
POLICIES = {
    "grpo": grpo.Policy(),
    "grpo-no-cues": grpo.Policy(weights=(("accuracy", 1.0), ("format", 0.5), ("length", 0.25))),
    "grpo-label": grpo.Policy(weights=(("accuracy", 1.0), ("format", 0.5)), label_share=1.0, max_new=12),
}
BEST_OF = 8


class Cost:
    """GFLOP of what a recipe does with clips whose towers have run."""

    def __init__(self, sizes):
        self.sizes = sizes

    def forward(self, tokens, answers=1):
        """A prompt, and answers that share it."""
        one = lambda n: self.sizes.forward_gflop(INSTRUCTION + n)
        prompt = one(0)
        return prompt["fusion"] + prompt["decoder"] + answers * (one(tokens)["decoder"] - prompt["decoder"])

    def taught(self, kinds):
        """One clip of supervised training."""
        return 3 * sum(share * self.forward(TOKENS[kind]) for kind, share in kinds.items())

    def rewarded(self, policy, tokens=None):
        """One clip of GRPO: drawn, then learned from."""
        kind = "label" if policy.label_share == 1 else "reason"
        return 4 * self.forward(tokens or TOKENS[kind], policy.group)


class Some:
    """The features of some of a manifest's clips, under new numbers."""

    def __init__(self, features, rows):
        self.features, self.rows = features, rows

    def batch(self, rows, video=True, audio=True):
        return self.features.batch([self.rows[r] for r in rows], video, audio)


class Contest:
    def __init__(self, run, clips):
        self.run, self.clips, self.plan = run, clips, run.plan
        self.cost = Cost(run.plan.sizes)
        self.unit = run.plan.label * run.plan.batch * self.cost.taught(LABELS)

    def hold(self, name, budget):
        """One recipe at one budget, through to its results."""
        root = self.run.work / "contest" / str(budget) / str(self.run.seed)
        if all((root / f"{name}.{split}.json").exists() for split in ("test", "ood")):
            return
        before, spent, seconds, chain = self.run.model_of("base"), 0.0, 0.0, []
        for method, share in RECIPES[name]:
            chain.append(f"{method}-{round(100 * share)}")
            folder = root / "+".join(chain)
            if not (folder / "spent.json").exists():
                self.learn(method, share * budget * self.unit, before, folder)
            told = json.loads((folder / "spent.json").read_text())
            spent, seconds, before = spent + told["gflop"], seconds + told["seconds"], folder / "model"
        model, words = checkpoint.load(before).to(self.run.device), checkpoint.Words(before)
        kind = "label" if name in ("label", "grpo-from-label") else "reason"
        for split in ("test", "ood"):
            lines, features = self.run.features(model, split)
            records = evaluate.answers(model, words, lines[:self.clips], features, max_new=self.plan.max_new, kind=kind, name=f"{name} {split}")
            evaluate.write(root / f"{name}.{split}.json", records, {"recipe": name, "set": split, "seed": self.run.seed, "budget": budget,
                                                                    "gflop": spent, "asked_gflop": budget * self.unit, "seconds": seconds})
        done = json.loads((root / f"{name}.ood.json").read_text())["report"]["uar"]
        recipe.say(f"{name}, budget {budget}, seed {self.run.seed}: {spent:.0f} GFLOP, {seconds:.0f} s, UAR of held-out generators {100 * done:.1f}")

    def learn(self, method, gflop, before, folder):
        model, words = checkpoint.load(before).to(self.run.device), checkpoint.Words(before)
        lines, features = self.run.features(model, "post")
        sft.trainable(model)
        spent = seconds = 0.0
        if method in POLICIES:
            policy = dataclasses.replace(POLICIES[method], prompts=self.plan.prompts, group=self.plan.group,
                                         max_new=min(POLICIES[method].max_new, self.plan.max_new))
            loop = self.loop(folder, gflop / (policy.prompts * self.cost.rewarded(policy)), 2e-4, method)
            grpo.train(loop, model, words, lines, features, policy, self.run.seed)
            spent = sum(policy.prompts * self.cost.rewarded(policy, x["tokens"]) for x in logged(folder))
        else:
            kinds = LABELS if method == "label" else EXPLAINED
            if method == "cold":
                lines = lines[:self.plan.cold]
            if method == "best-of-n":
                began = time.time()
                lines, features, spent = self.best(model, words, lines, features, gflop / 2, folder)
                seconds = time.time() - began
            step = self.plan.batch * self.cost.taught(kinds)
            loop = self.loop(folder, (gflop - spent) / step, 1.5e-3, method)
            sft.train(loop, model, words, lines, features, kinds, self.run.seed, self.plan.batch)
            spent += loop.step * step
        checkpoint.save(model, folder / "model", before)
        seconds += sum(x["seconds"] for x in logged(folder))    # those of a run that was stopped, too
        (folder / "spent.json").write_text(json.dumps({"gflop": spent, "seconds": seconds, "steps": loop.step}))

    def loop(self, folder, steps, rate, name):
        return trainer.Loop(folder, trainer.Settings(max(1, round(steps)), rate, self.plan.every), name)

    def best(self, model, words, lines, features, gflop, folder):
        """Of some answers to each clip, that of the highest reward, where its label is right: as clips with reasons of their own."""
        policy = dataclasses.replace(grpo.Policy(), group=BEST_OF, max_new=self.plan.max_new)
        names, weights = zip(*policy.weights)
        count = min(len(lines), max(self.plan.batch, int(gflop / self.cost.forward(TOKENS["reason"], BEST_OF))))
        kept, rows, spent = [], [], 0.0
        model.eval()
        for first in range(0, count, self.plan.batch):
            examples = [data.example(r, lines[r], "reason") for r in range(first, min(first + self.plan.batch, count))]
            ids = grpo.sample(model, words, examples, features, BEST_OF, policy.max_new, 1.0, self.run.seed * 1_000_003 + first)
            table, ended, lengths = grpo.rewarded(policy, words, names, examples, ids)
            spent += sum(self.cost.forward(n, BEST_OF) for n in lengths.mean(axis=1))
            right = table[:, :, names.index("accuracy")] > 0
            totals = np.where(right & (ended > 0), table @ np.array(weights), -np.inf)
            for i, e in enumerate(examples):
                best = int(totals[i].argmax())
                thought = rewards.think_of(words.text(ids[i * BEST_OF + best]).strip())
                if math.isfinite(totals[i, best]) and thought.strip():
                    kept.append({**{k: v for k, v in lines[e.row].items() if k not in ("cues", "cell", "measured")}, "reason": thought})
                    rows.append(e.row)
        if len(kept) < self.plan.batch:
            raise SystemExit(f"best-of-n: only {len(kept)} of {count} clips were answered well once; a larger budget, or a better cold start")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kept.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
        return kept, Some(features, rows), spent


def logged(folder):
    return [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]


def interval(reports, rng, times=1000):
    """UAR over the seeds' answers, and its 95 % interval: seeds and clips drawn again."""
    answers = [[(r["label"], r["answer"]) for r in records if r["label"] in rule.LABELS] for records in reports]
    of = lambda some: evaluate.uar(*zip(*some), rule.LABELS)
    drawn = []
    for _ in range(times):
        seeds = rng.integers(0, len(answers), len(answers))
        clips = rng.integers(0, len(answers[0]), len(answers[0]))
        drawn.append(np.mean([of([answers[s][c] for c in clips]) for s in seeds]))
    return float(np.mean([of(a) for a in answers])), *np.percentile(drawn, [2.5, 97.5])


def show(work, out):
    rng, rows = np.random.default_rng(1), []
    for path in sorted(Path(work, "contest").glob("*/*/*.json")):
        about = json.loads(path.read_text())["about"]
        records = [json.loads(x) for x in path.with_suffix(".answers.jsonl").read_text().splitlines()]
        rows.append((about, records))
    if not rows:
        sys.exit(f"error: no results in {Path(work, 'contest')}: run the contest first")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    print(f"{'set':5} {'recipe':16} {'budget':>6} {'TFLOP':>7} {'minutes':>8} {'seeds':>5} {'UAR, %':>7}   95 % interval")
    for axis, split in zip(axes, ("test", "ood")):
        for name in RECIPES:
            points = []
            for budget in sorted({a["budget"] for a, _ in rows}):
                some = [(a, r) for a, r in rows if (a["recipe"], a["set"], a["budget"]) == (name, split, budget)]
                if some:
                    uar, low, high = (100 * v for v in interval([r for _, r in some], rng))
                    flop = np.mean([a["gflop"] for a, _ in some]) / 1e3
                    minutes = np.mean([a["seconds"] for a, _ in some]) / 60
                    print(f"{split:5} {name:16} {budget:6g} {flop:7.4g} {minutes:8.1f} {len(some):5} {uar:7.1f}   {low:.1f} to {high:.1f}")
                    points.append((flop, uar, uar - low, high - uar))
            if points:
                x, y, low, high = map(np.array, zip(*points))
                axis.errorbar(x, y, yerr=[np.maximum(low, 0), np.maximum(high, 0)], marker="o", markersize=4, capsize=2, linewidth=1, label=name)
        axis.set(title={"test": "test set", "ood": "held-out generators"}[split], xlabel="TFLOP of training", xscale="log")
    axes[0].set_ylabel("UAR, %")
    axes[1].legend(fontsize=8)
    figure.savefig(out, dpi=120)
    print(out)


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = top.add_subparsers(dest="act", required=True)
    p = sub.add_parser("run", help="train and evaluate")
    p.add_argument("--work", default="work")
    p.add_argument("--size", choices=recipe.PLANS, default="small")
    p.add_argument("--budgets", type=float, nargs="+", default=[1, 2, 4])
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    p.add_argument("--recipes", choices=RECIPES, nargs="+", default=list(RECIPES))
    p.add_argument("--clips", type=int, default=560, help="clips of each set to answer")
    p = sub.add_parser("show", help="print the table and draw the curves")
    p.add_argument("--work", default="work")
    p.add_argument("--out", default="contest.png")
    args = top.parse_args()
    if args.act == "show":
        return show(args.work, args.out)
    torch.manual_seed(1)
    for seed in args.seeds:
        run = recipe.Run(args.work, args.size, seed)
        if not run.done("base"):
            sys.exit(f"error: no base in {run.model_of('base')}: run `tools/train/run base --work {args.work} --size {args.size}` first, and its stages before it")
        for budget in args.budgets:
            for name in args.recipes:
                Contest(run, args.clips).hold(name, budget)


if __name__ == "__main__":
    main()
