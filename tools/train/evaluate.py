"""What a model says of a manifest, and how good that is.

Answers are greedy; scores come from a pass without thinking, over every label of the closed set. Results are one JSON per model and
manifest, with every answer kept beside it, so that any number can be computed again.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import claims
import data
import grpo
import rewards
import scores
from world import rule


@torch.no_grad()
def answers(model, words, lines, features, batch=32, max_new=64, kind="reason", name="eval"):
    """One record per line: what was said, the answer, the scores, and how the claims stand."""
    model.eval()
    out = []
    for at in tqdm(range(0, len(lines), batch), desc=name, unit="batch", leave=False):
        examples = [data.example(i, lines[i], kind) for i in range(at, min(at + batch, len(lines)))]
        ids = grpo.sample(model, words, examples, features, 1, max_new, 0.0, 0)
        likely = scores.of_labels(model, words, examples, features).cpu().numpy()
        for e, x, s in zip(examples, ids, likely):
            said = words.text(x).strip()
            standing = claims.check(rewards.think_of(said), e.cues or ())
            out.append({
                "id": lines[e.row]["id"], "label": e.label, "subset": lines[e.row].get("subset"), "said": said,
                "answer": rewards.answer_of(said), "format": rewards.format_reward(said), "scores": [round(float(v), 5) for v in s],
                "claims": standing.claims, "supported": standing.supported, "contradicted": standing.contradicted,
                "absent": standing.absent, "empty": claims.empty(rewards.think_of(said)), "cues": standing.cues, "tokens": len(x),
                "beside": rule.beside(**lines[e.row]["cell"]) if "cell" in lines[e.row] else ()})
    return out


def uar(truth, guess, labels):
    """Mean recall over the labels that are present in the truth."""
    recalls = [np.mean([g == k for t, g in zip(truth, guess) if t == k]) for k in labels if k in truth]
    return float(np.mean(recalls)) if recalls else math.nan


def ece(confidence, right, bins=10):
    """Expected calibration error over equal bins of confidence."""
    confidence, right = np.asarray(confidence), np.asarray(right, float)
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(sum(abs(confidence[at == b].mean() - right[at == b].mean()) * np.mean(at == b) for b in range(bins) if np.any(at == b)))


def report(records):
    """The numbers of a set of records. `unknown` clips count in their own line, never in UAR and WAR."""
    known = [r for r in records if r["label"] in rule.LABELS]
    made = sum(r["claims"] for r in records)
    best = [int(np.argmax(r["scores"])) for r in known]
    out = {
        "clips": len(records), "uar": uar([r["label"] for r in known], [r["answer"] for r in known], rule.LABELS),
        "war": float(np.mean([r["label"] == r["answer"] for r in known])), "format": float(np.mean([r["format"] for r in records])),
        "uar_scores": uar([r["label"] for r in known], [rule.LABELS[b] for b in best], rule.LABELS),
        "ece": ece([r["scores"][b] for r, b in zip(known, best)], [r["label"] == rule.LABELS[b] for r, b in zip(known, best)]),
        "claim_precision": sum(r["supported"] for r in records) / made if made else math.nan,
        "claim_recall": sum(r["supported"] for r in records) / max(1, sum(r["cues"] for r in records)),
        "contradiction": sum(r["contradicted"] for r in records) / made if made else math.nan,
        "absent": sum(r["absent"] for r in records) / made if made else math.nan,
        "empty": sum(r["empty"] for r in records) / (made + sum(r["empty"] for r in records)) if made else math.nan,
        "tokens": float(np.mean([r["tokens"] for r in records])),
    }
    close = [r for r in known if r["beside"]]
    out["beside"] = float(np.mean([rule.LABELS[np.argsort(r["scores"])[-2]] in r["beside"] for r in close])) if close else math.nan
    unknown = [r for r in records if r["label"] == rule.UNKNOWN]
    out["refused"] = float(np.mean([r["answer"] == rule.UNKNOWN for r in known]))
    out["unknown_recall"] = float(np.mean([r["answer"] == rule.UNKNOWN for r in unknown])) if unknown else math.nan
    for name in ("consistent", "face_decides", "voice_decides", "words_decides", "fusion", "missing"):
        some = [r for r in known if r["subset"] == name]
        out[f"uar_{name}"] = uar([r["label"] for r in some], [r["answer"] for r in some], rule.LABELS) if some else math.nan
    return out


ANSWERS = (*rule.LABELS, rule.UNKNOWN)


def spelled(values):
    """Labels as one character each, `-` for what is none: what a bootstrap needs, small enough to keep."""
    return "".join(str(ANSWERS.index(v)) if v in ANSWERS else "-" for v in values)


def write(path, records, about):
    """`path` gets the numbers and the labels, `.answers.jsonl` beside it every answer."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".answers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"about": about, "report": report(records), "labels": spelled(r["label"] for r in records),
                                "answers": spelled(r["answer"] for r in records)}, indent=1) + "\n")
    part.rename(path)
