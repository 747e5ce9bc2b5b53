"""The numbers of `mien eval` beside scikit-learn's.

    python judge.py vectors                  writes tests/data/metrics.json: random answers and scikit-learn's numbers of them
    python judge.py compare OUT              OUT.jsonl, OUT.json: every number again from the records; exit 1 where one differs
    python judge.py agree ANSWERS.json OUT   the trainer's answers and report beside `mien eval`'s of the same clips
    python judge.py same OUT OUT             two reports of the same clips, but for the times in them
"""

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np

VECTORS = Path(__file__).resolve().parents[2] / "tests" / "data" / "metrics.json"
NONE = "no answer"


def numbers(labels, truths, guesses, scores):
    """What scikit-learn says; labels are words, a guess may be any word. ECE and Brier by their formulas."""
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, recall_score
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
    guesses = [NONE if g is None else g for g in guesses]
    each = recall_score(truths, guesses, labels=labels, average=None, zero_division=np.nan)
    p = np.asarray(scores, np.float32).astype(float)
    at = np.array([labels.index(t) for t in truths])
    best, confidence = p.argmax(axis=1), p.max(axis=1)
    right = (best == at).astype(float)
    bins = np.minimum((confidence * 10).astype(int), 9)
    by_scores = [labels[b] for b in best]
    return {
        "uar": balanced_accuracy_score(truths, guesses),
        "uar_declared": recall_score(truths, guesses, labels=labels, average="macro", zero_division=0),
        "war": accuracy_score(truths, guesses),
        "f1": f1_score(truths, guesses, labels=sorted(set(truths)), average="macro", zero_division=0),
        "recall": [None if math.isnan(r) else float(r) for r in each],
        "uar_scores": balanced_accuracy_score(truths, by_scores),
        "war_scores": accuracy_score(truths, by_scores),
        "ece": float(sum(abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins))),
        "brier": float(((p - np.eye(len(labels))[at]) ** 2).sum(axis=1).mean()),
        "nll": float(log_loss(at, p / p.sum(axis=1, keepdims=True), labels=range(len(labels)))),
    }


def vectors():
    """Sets of answers of every shape: labels without clips, answers that are none or another word, certain and wrong."""
    rng = np.random.default_rng(3)
    cases = []
    for count, kinds, present in ((1, 2, 2), (40, 7, 7), (200, 7, 7), (60, 11, 6), (25, 8, 1), (500, 7, 5)):
        labels = [f"l{i}" for i in range(kinds)]
        truths = [labels[i] for i in rng.integers(0, present, count)]
        logits = rng.normal(0, rng.uniform(0.5, 6), (count, kinds))
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
        scores = [[float(f"{v:.6g}") for v in row] for row in p]
        words = [*labels, *labels, None, "unknown"]
        guesses = [t if rng.random() < 0.5 else words[rng.integers(len(words))] for t in truths]
        cases.append({"labels": labels, "truths": truths, "guesses": guesses, "scores": scores,
                      "expected": numbers(labels, truths, guesses, scores)})
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    VECTORS.write_text(f"[\n{rows}\n]\n")


def compare(out):
    """The report's numbers, and its confusion matrix, from the records alone."""
    from sklearn.metrics import confusion_matrix
    found = json.loads(Path(f"{out}.json").read_text())
    about, report = found["about"], found["report"]
    lines = [json.loads(line) for line in Path(f"{out}.jsonl").read_text().splitlines()[1:]]
    records = [r for r in lines if r["error"] is None and r["label"] != "unknown"]
    labels = about["labels"]
    truths, guesses = [r["label"] for r in records], [r["answer"] for r in records]
    wanted = numbers(labels, truths, guesses, [r["scores"] for r in records])
    columns = [*labels, "unknown", NONE]
    guesses = [g if g in columns else NONE for g in guesses]
    matrix = confusion_matrix(truths, guesses, labels=columns).tolist()[: len(labels)]
    wrong = 0
    for name, value in wanted.items():
        limit = 1e-6 if name == "nll" else 1e-9
        pairs = list(zip(report[name], value, strict=True)) if isinstance(value, list) else [(report[name], value)]
        same = all((a is None and b is None) or (None not in (a, b) and abs(a - b) <= limit) for a, b in pairs)
        print(f"{name:14}{'' if isinstance(value, list) else f'{value:.12f}':>16}  {'equal' if same else f'DIFFERENT: {report[name]}'}")
        wrong += not same
    same = report["confusion"][: len(labels)] == matrix
    print(f"{'confusion':14}{len(records):>10} clips  {'equal' if same else 'DIFFERENT'}")
    return wrong + (not same)


def agree(theirs, out):
    """Equal completions and judgements clip by clip, scores and numbers to what half-precision features allow."""
    answers = [json.loads(line) for line in Path(theirs).with_suffix(".answers.jsonl").read_text().splitlines()]
    numbers, report = (json.loads(Path(p).read_text())["report"] for p in (theirs, f"{out}.json"))
    numbers.pop("empty", None)      # words of a reason that claim nothing concern the reward alone
    ours = {r["id"]: r for r in map(json.loads, Path(f"{out}.jsonl").read_text().splitlines()[1:])}
    same = ("label", "subset", "said", "answer", "format", "claims", "supported", "contradicted", "absent", "cues", "tokens")
    wrong, furthest = 0, 0.0
    for r in answers:
        different = [k for k in same if r[k] != ours[r["id"]][k]]
        furthest = max(furthest, *(abs(a - b) for a, b in zip(r["scores"], ours[r["id"]]["scores"], strict=True)))
        if different:
            print(f"{r['id']}: DIFFERENT {', '.join(different)}")
            wrong += 1
    for name, value in numbers.items():
        found = math.nan if report[name] is None else report[name]
        value = math.nan if value is None else value
        if not (math.isnan(found) and math.isnan(value)) and not abs(found - value) < 2e-3:
            print(f"{name}: DIFFERENT {found} beside {value}")
            wrong += 1
    wrong += furthest > 2e-3
    print(f"{len(answers)} answers and {len(numbers)} numbers: {f'{wrong} DIFFERENT' if wrong else 'equal'}, scores within {furthest:.1e}")
    return wrong


def same(one, other):
    """Every number of the reports, but milliseconds; sums may differ by the order in which shards were added up."""
    wrong = []

    def walk(a, b, where):
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            for key in a:
                walk(a[key], b[key], f"{where}/{key}")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for i, pair in enumerate(zip(a, b)):
                walk(*pair, f"{where}/{i}")
        elif "ms_" not in where and not (a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-12))):
            wrong.append(f"{where}: {a} beside {b}")
    reports = [json.loads(Path(f"{out}.json").read_text())["report"] for out in (one, other)]
    walk(*reports, "report")
    print("\n".join(wrong) if wrong else f"{other}: {reports[0]['clips']} clips, the report of {one}")
    return len(wrong)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["vectors"]:
            vectors()
        case ["compare", out]:
            sys.exit(min(1, compare(out)))
        case ["agree", theirs, out]:
            sys.exit(min(1, agree(theirs, out)))
        case ["same", one, other]:
            sys.exit(min(1, same(one, other)))
        case _:
            sys.exit(__doc__)
