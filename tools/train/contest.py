"""Which recipe is best at equal compute? Each goes on from one base, with the same clips and the same budget of operations.

    python contest.py run                      # from the base that `tools/train/run base` left; goes on where it was stopped
    python contest.py show                     # the tables, and UAR against compute

label, explained        supervised: the label alone; reasons too
explained-brier         the same, and the Brier score of the labels, which for what cannot be decided wants them equally likely
grpo, grpo-no-cues      a cold start with reasons, then GRPO; the same without a reward for true claims
explained-grpo          supervised, then a little GRPO
grpo-hard               GRPO on the clips alone on which the cold start's answers disagree
grpo-from-label         label SFT, then GRPO of the label alone
best-of-n               a cold start, then the best of its own answers taught again

A budget of 1 is what label SFT spends in the plan's `label` steps. Operations are counted, two per multiply-add and a backward pass as two
forward: prompts and answers, drawn ones among them. Towers are frozen and their outputs kept; they cost nobody anything. How often the budget allows
a step follows from the tokens an answer has as a rule; what was spent is written down beside the result.

The recipe that is best on the split `valid` among those that give reasons, by UAR less the share of contradicted claims, and label SFT, then
have the longest budget with one seed and answer every held-out set: the first is for a bundle.

Results are WORK/results/BUDGET/SEED/RECIPE.SET.json, models are beside them in WORK/contest. `show` has 95 % intervals of a bootstrap over seeds and clips.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
from world import clip, rule

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
    "explained-grpo": (("explained", 0.7), ("grpo", 0.3)),
    "grpo": (("cold", 0.25), ("grpo", 0.75)),
    "grpo-no-cues": (("cold", 0.25), ("grpo-no-cues", 0.75)),
    "grpo-from-label": (("label", 0.5), ("grpo-label", 0.5)),
    "best-of-n": (("cold", 0.25), ("best-of-n", 0.75)),
    "grpo-hard": (("cold", 0.25), ("grpo-hard", 0.75)),
    "explained-brier": (("explained-brier", 1.0),),
}
POLICIES = {
    "grpo": grpo.Policy(),
    "grpo-hard": grpo.Policy(),
    "grpo-no-cues": grpo.Policy(weights=(("accuracy", 1.0), ("format", 0.5), ("length", 0.25))),
    "grpo-label": grpo.Policy(weights=(("accuracy", 1.0), ("format", 0.5)), label_share=1.0, max_new=12),
}
BEST_OF = 8
DRAWN = {"best-of-n": 0.5, "grpo-hard": 0.2}        # share of its operations that goes into drawing answers first
BRIER = 1.0
SILENT = ("label", "grpo-from-label")   # what gives no reasons
SETS = ("valid", "test", "ood")


class Cost:
    """GFLOP of what a recipe does with clips whose towers have run."""

    def __init__(self, sizes):
        self.sizes = sizes

    def forward(self, tokens, answers=1):
        """A prompt, and answers that share it."""
        one = lambda n: self.sizes.forward_gflop(INSTRUCTION + n)
        prompt = one(0)
        return prompt["fusion"] + prompt["decoder"] + answers * (one(tokens)["decoder"] - prompt["decoder"])

    def taught(self, kinds, brier=0.0):
        """One clip of supervised training; the Brier score of a label step scores every label."""
        once = sum(share * self.forward(TOKENS[kind]) for kind, share in kinds.items())
        return 3 * (once + (kinds.get("label", 0) * self.forward(TOKENS["label"], len(rule.LABELS)) if brier else 0))

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

    def hold(self, name, budget, sets):
        """One recipe at one budget, through to its results."""
        place = Path(str(float(budget)), str(self.run.seed))
        root, results = self.run.work / "contest" / place, self.run.work / "results" / place
        missing = [s for s in sets if not (results / f"{name}.{s}.json").exists()]
        if not missing:
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
        about = {"recipe": name, "seed": self.run.seed, "budget": budget, "gflop": spent, "asked_gflop": budget * self.unit, "seconds": seconds}
        kind, got = "label" if name in SILENT else "reason", []
        for split in missing:
            lines, features = self.run.features(model, split)
            records = evaluate.answers(model, words, lines[:self.clips], features, max_new=self.plan.max_new, kind=kind, name=f"{name} {split}")
            evaluate.write(results / f"{name}.{split}.json", records, {**about, "set": split})
            got.append(f"{split} {100 * evaluate.report(records)['uar']:.1f}")
        recipe.say(f"{name}, budget {budget:g}, seed {self.run.seed}: {spent:.0f} GFLOP, {seconds:.0f} s, UAR {', '.join(got)}")

    def learn(self, method, gflop, before, folder):
        model, words = checkpoint.load(before).to(self.run.device), checkpoint.Words(before)
        lines, features = self.run.features(model, "post")
        sft.trainable(model)
        spent = seconds = 0.0
        if method in ("best-of-n", "grpo-hard"):
            began = time.time()
            lines, features, spent = self.chosen(method, model, words, lines, features, gflop, folder)
            seconds = time.time() - began
            if len(lines) < self.plan.batch:
                how = "well once" if method == "best-of-n" else "well and badly"
                recipe.say(f"{method}: only {len(lines)} clips were answered {how}: there is nothing to teach")
                return self.learned(model, folder, before, spent, seconds, 0)
        if method in POLICIES:
            policy = dataclasses.replace(POLICIES[method], prompts=self.plan.prompts, group=self.plan.group,
                                         max_new=min(POLICIES[method].max_new, self.plan.max_new))
            loop = self.loop(folder, (gflop - spent) / (policy.prompts * self.cost.rewarded(policy)), 2e-4, method)
            grpo.train(loop, model, words, lines, features, policy, self.run.seed)
            spent += sum(policy.prompts * self.cost.rewarded(policy, x["tokens"]) for x in logged(folder))
        else:
            kinds, brier = LABELS if method == "label" else EXPLAINED, BRIER if method == "explained-brier" else 0.0
            if method == "cold":
                lines = lines[:self.plan.cold]
            step = self.plan.batch * self.cost.taught(kinds, brier)
            loop = self.loop(folder, (gflop - spent) / step, 1.5e-3, method)
            sft.train(loop, model, words, lines, features, kinds, self.run.seed, self.plan.batch, brier=brier)
            spent += loop.step * step
        seconds += sum(x["seconds"] for x in logged(folder))    # those of a run that was stopped, too
        self.learned(model, folder, before, spent, seconds, loop.step)

    def learned(self, model, folder, before, gflop, seconds, steps):
        checkpoint.save(model, folder / "model", before)
        (folder / "spent.json").write_text(json.dumps({"gflop": gflop, "seconds": seconds, "steps": steps}))

    def loop(self, folder, steps, rate, name):
        return trainer.Loop(folder, trainer.Settings(max(1, round(steps)), rate, self.plan.every, mixed=self.plan.mixed), name)

    def chosen(self, method, model, words, lines, features, gflop, folder):
        """Of some answers to each clip: the best one where its label is right, as clips with reasons of their own; or the clips on which they disagree."""
        policy = dataclasses.replace(grpo.Policy(), group=BEST_OF, max_new=self.plan.max_new)
        names, weights = zip(*policy.weights)
        share = gflop * DRAWN[method]
        count = min(len(lines), max(self.plan.batch, int(share / self.cost.forward(TOKENS["reason"], BEST_OF))))
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
                if method == "grpo-hard":
                    line = lines[e.row] if right[i].any() and not right[i].all() else None
                else:
                    best = int(totals[i].argmax())
                    thought = rewards.think_of(words.text(ids[i * BEST_OF + best]).strip())
                    own = {k: v for k, v in lines[e.row].items() if k not in ("cues", "cell", "measured")}
                    line = {**own, "reason": thought} if math.isfinite(totals[i, best]) and thought.strip() else None
                if line:
                    kept.append(line)
                    rows.append(e.row)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kept.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
        return kept, Some(features, rows), spent


def logged(folder):
    return [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]


# --- all of it ------------------------------------------------------------------------------------------------------
def hold_all(args):
    """Groups of recipes that share a beginning, each in a process of its own, the longest first; then the winner and label SFT at the longest budget."""
    run = recipe.Run(args.work, args.size, 1)
    if not run.done("base"):
        sys.exit(f"error: no base in {run.model_of('base')}: run `tools/train/run base --work {args.work} --size {args.size}` first, and its stages before it")
    model = checkpoint.load(run.model_of("base")).to(run.device)
    for split in ("post", *SETS):
        run.features(model, split)
    plan, jobs = run.plan, max(1, args.jobs)

    def child(budget, seed, recipes, clips, sets):
        recipe.ended_well(recipe.start("contest.py", "run", "--work", args.work, "--size", args.size, "--budgets", budget, "--seeds", seed, "--clips", clips,
                                       "--recipes", *recipes, "--sets", *sets, "--alone",
                                       **{"OMP_NUM_THREADS": str(max(1, os.cpu_count() // jobs)), **os.environ}))

    budgets = sorted(args.budgets or plan.budgets, reverse=True)
    # `valid` is for the choice of a winner, at the largest budget.
    groups = [(b, s, args.recipes or plan.recipes, args.clips or plan.clips, SETS if b == budgets[0] else SETS[1:])
              for b in budgets for s in args.seeds or plan.seeds]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda g: child(*g), groups))
    if args.budgets or args.recipes:
        return
    name = winner(Path(args.work, "results"), max(plan.budgets))
    recipe.say(f"the best with reasons on `valid` is {name}: it and label SFT at budget {plan.longest:g}")
    everything = (*SETS, *(s for s in clip.HELD_OUT if s not in SETS))
    for split in everything:
        run.features(model, split)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda n: child(plan.longest, 1, [n], plan.test, everything), (name, "label")))


def loaded(folder):
    """Every result below a folder."""
    found = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*/*/*.json"))]
    if not found:
        sys.exit(f"error: no results in {folder}: run the contest first")
    return found


def winner(folder, budget):
    """Of the recipes that give reasons, the one with the highest mean of UAR less the share of contradicted claims, on `valid` at this budget."""
    scores = {}
    for r in loaded(folder):
        if r["about"]["set"] == "valid" and r["about"]["budget"] == budget and r["about"]["recipe"] not in SILENT:
            # Reasons without a claim are as bad as false ones.
            scores.setdefault(r["about"]["recipe"], []).append(r["report"]["uar"] - np.nan_to_num(r["report"]["contradiction"], nan=1.0))
    return max(scores, key=lambda name: np.mean(scores[name]))


# --- what came of it ------------------------------------------------------------------------------------------------
def interval(results, rng, times=1000):
    """UAR over the seeds' answers, and its 95 % interval: seeds and clips drawn again."""
    labels = range(len(rule.LABELS))
    pairs = [[(int(t), -1 if a == "-" else int(a)) for t, a in zip(r["labels"], r["answers"]) if int(t) in labels] for r in results]
    right = np.array([[t == a for t, a in p] for p in pairs], float)
    truth = np.array([[t for t, _ in p] for p in pairs])

    def uar(seeds, clips):
        mine, said = right[np.ix_(seeds, clips)].ravel(), truth[np.ix_(seeds, clips)].ravel()
        count = np.bincount(said, minlength=len(labels))
        return np.mean((np.bincount(said, mine, minlength=len(labels)) / np.maximum(count, 1))[count > 0])

    whole = np.arange(len(right)), np.arange(right.shape[1])
    drawn = [uar(rng.integers(0, len(right), len(right)), rng.integers(0, right.shape[1], right.shape[1])) for _ in range(times)]
    return float(uar(*whole)), *np.percentile(drawn, [2.5, 97.5])


def of(results, **asked):
    return [r for r in results if all(r["about"][k] == v for k, v in asked.items())]


def mean(results, key, where="report"):
    return float(np.mean([r[where][key] for r in results]))


COLUMNS = (("uar_fusion", "fusion"), ("format", "format"), ("claim_precision", "true"), ("contradiction", "contra."), ("ece", "ECE"),
           ("unknown_recall", "unknown"), ("refused", "refused"), ("beside", "beside"))


def show(folder, out):
    """UAR with its interval, and what else there is, of every recipe, budget and set; then the longest budget on every held-out set; and the picture."""
    results = loaded(folder)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    head = "".join(f"{title:>9}" for _, title in COLUMNS)
    lead = f"{'set':12} {'recipe':16} {'budget':>6} {'TFLOP':>6} {'min':>5} {'seeds':>5} {'UAR':>6}  {'95 % interval':15}"

    def line(some, split, name, budget):
        uar, low, high = (100 * v for v in interval(some, np.random.default_rng(1)))
        flop, minutes = mean(some, "gflop", "about") / 1e3, mean(some, "seconds", "about") / 60
        print(f"{split:12} {name:16} {budget:6g} {flop:6.1f} {minutes:5.1f} {len(some):5} {uar:6.1f}  {f'{low:.1f} to {high:.1f}':15}"
              + "".join(f"{100 * mean(some, key):9.1f}" for key, _ in COLUMNS))
        return flop, uar, uar - low, high - uar

    for axis, split in zip(axes, ("test", "ood")):
        print(lead + head)
        spent = {}
        for name in RECIPES:
            budgets = sorted({r["about"]["budget"] for r in of(results, recipe=name, set=split)})
            points = [line(of(results, recipe=name, set=split, budget=b), split, name, b) for b in budgets]
            if points:
                x, y, low, high = map(np.array, zip(*points))
                spent |= dict(zip(budgets, x))
                axis.errorbar(x, y, yerr=[np.maximum(low, 0), np.maximum(high, 0)], marker="o", markersize=4, capsize=2, linewidth=1, label=name)
        axis.set(title={"test": "test set", "ood": "held-out generators"}[split], xlabel="TFLOP of training", xscale="log")
        axis.set_xticks(list(spent.values()), [f"{v:.3g}" for v in spent.values()])
        axis.set_xticks([], minor=True)
    axes[0].set_ylabel("UAR, %")
    axes[1].legend(fontsize=8)
    others = [s for s in clip.HELD_OUT if s not in SETS and of(results, set=s)]
    if others:
        print(lead + head)
    for split in others:
        for name in RECIPES:
            some = of(results, set=split, recipe=name)
            if some:
                line(some, split, name, some[0]["about"]["budget"])
    ceilings = rule.ceilings("fusion")
    print(f"per cent. Best single modality with perfect sight, fusion-necessary clips: {100 * max(ceilings[(m,)] for m in rule.MODALITIES):.1f}")
    figure.savefig(out, dpi=120)
    print(out)


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = top.add_subparsers(dest="act", required=True)
    p = sub.add_parser("run", help="train and evaluate")
    p.add_argument("--work", default="work")
    p.add_argument("--size", choices=recipe.PLANS, default="small")
    p.add_argument("--budgets", type=float, nargs="+", help="instead of the plan's; no winner is taught longer then")
    p.add_argument("--seeds", type=int, nargs="+")
    p.add_argument("--recipes", choices=RECIPES, nargs="+", help="instead of the plan's; likewise")
    p.add_argument("--clips", type=int, help="clips of each set to answer")
    p.add_argument("--sets", choices=clip.SPLITS, nargs="+", default=list(SETS))
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    p.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)      # one group, in this process
    p = sub.add_parser("show", help="print the tables and draw the curves")
    p.add_argument("--results", default="work/results")
    p.add_argument("--out", default="contest.png")
    args = top.parse_args()
    if args.act == "show":
        return show(args.results, args.out)
    if not args.alone:
        return hold_all(args)
    torch.manual_seed(1)
    run = recipe.Run(args.work, args.size, args.seeds[0])
    for name in args.recipes:
        Contest(run, args.clips).hold(name, args.budgets[0], args.sets)


if __name__ == "__main__":
    main()
