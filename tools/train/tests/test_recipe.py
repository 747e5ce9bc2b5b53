"""The whole recipe at smoke size, as a user runs it: killed, resumed, and as published."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]


def start(work, *args, size="smoke", processes=1):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    return subprocess.Popen([sys.executable, *several, "recipe.py", *args, "--size", size, "--work", str(work)], cwd=HERE, env=env,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(run, code=0):
    said, _ = run.communicate(timeout=600)
    assert run.returncode == code, said[-3000:]
    return said


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def steps(work, stage):
    log = work / "seed-1" / stage / "log.jsonl"
    return [json.loads(x)["step"] for x in log.read_text().splitlines() if x.endswith("}")] if log.exists() else []


def kill(run):
    run.send_signal(signal.SIGKILL)
    run.wait()


def until(run, there):
    """Waits while `run` goes on until something is there."""
    end = time.time() + 500
    while not there() and time.time() < end and run.poll() is None:
        time.sleep(0.05)
    assert run.poll() is None, run.communicate()[0][-3000:]


def test_a_relative_folder_is_one_folder_for_every_process(tmp_path):
    subprocess.run([sys.executable, HERE / "recipe.py", "world", "--size", "smoke", "--work", "here"], cwd=tmp_path, check=True)
    assert (tmp_path / "here" / "clips" / "ood-order.jsonl").exists() and [p.name for p in tmp_path.iterdir()] == ["here"]


def test_everything_from_world_to_table_through_a_kill(work):
    run = start(work, "all")
    until(run, lambda: list(work.glob("results/2.0/1/*.ood.json")))
    kill(run)
    time.sleep(1)
    before = sorted(p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file())
    time.sleep(2)
    assert before == sorted(p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file()), "nothing goes on behind a kill"
    said = finish(start(work, "all"))
    assert "base: done already" in said and "the best with reasons" in said
    for stage in ("sight", "hearing", "base"):
        folder = work / "start" / stage
        assert (folder / "model" / "R1-Omni-0.5B" / "model.safetensors").exists()
        assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    results = json.loads((work / "results" / "2.0" / "1" / "grpo.test.json").read_text())
    answers = (work / "results" / "2.0" / "1" / "grpo.test.answers.jsonl").read_text().splitlines()
    assert results["report"]["clips"] == 8 == len(answers) == len(results["labels"]) == len(results["answers"])
    # The winner and the label baseline answer every held-out set.
    assert len(list((work / "results" / "3.0" / "1").glob("*.ood-*.json"))) == 2 * 8
    (work / "contest.png").unlink()
    table = finish(start(work, "table"))
    assert (work / "contest.png").exists() and not (HERE / "contest.png").exists()
    assert [line.split()[:3] for line in table.splitlines() if line.startswith("ood-room")][0][1] == "label"


def test_a_killed_stage_goes_on_from_its_last_checkpoint(work):
    run = start(work, "cold")
    until(run, lambda: len(steps(work, "cold")) >= 7)
    kill(run)
    # Every 3 steps a checkpoint: the seventh step is at most one interval past the last.
    kept = json.loads((work / "seed-1" / "cold" / "state" / "step.json").read_text())["step"]
    assert kept >= len(steps(work, "cold")) - 3
    for stage in ("cold", "label", "grpo", "grpo-no-cues"):
        finish(start(work, stage))
        assert (work / "seed-1" / stage / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert steps(work, "cold") == list(range(30))


def test_the_published_setting_and_a_second_run_that_has_nothing_to_do(work):
    finish(start(work, "grpo-paper"))
    log = [json.loads(x) for x in (work / "seed-1" / "grpo-paper" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 8 and all("kl" in x for x in log) and "cues" not in log[0]
    assert finish(start(work, "grpo-paper")).count("done already") == 1


def test_a_stage_that_is_stopped_says_how_to_go_on(work):
    said = finish(start(work, "grpo", "--seed", "2"), code=1)
    assert "run `cold` first" in said
    said = finish(start(work, "label", "--seed", "2", "--stop-after", "2"), code=3)
    assert "run again to go on" in said


def test_two_processes_take_the_steps_of_one_and_go_on_where_one_was_stopped(work, tmp_path):
    def logged(folder, stage):
        return [json.loads(x) for x in (folder / "seed-1" / stage / "log.jsonl").read_text().splitlines()]

    shared = tmp_path / "shared"
    shutil.copytree(work, shared, ignore=shutil.ignore_patterns("seed-*", "results"))
    finish(start(shared, "cold", "--stop-after", "3"), code=3)
    finish(start(shared, "cold", processes=2))
    finish(start(shared, "grpo", processes=2))
    for stage in ("cold", "grpo"):
        one, two = logged(work, stage), logged(shared, stage)
        assert len(one) == len(two)
        for a, b in zip(one, two):
            assert {k: v for k, v in b.items() if k != "seconds"} == {
                k: pytest.approx(v, rel=1e-3, abs=1e-5) if isinstance(v, float) else v for k, v in a.items() if k != "seconds"}
    # Groups that teach nothing were among them: whoever drew such a group went along.
    assert any(x["useful"] < 1 for x in logged(shared, "grpo"))
    said = finish(start(shared, "label", processes=9), code=1)
    assert "8 clips cannot be shared by 9 processes" in said


def test_a_contest_of_recipes_at_one_budget(work):
    def contest(*args):
        return subprocess.run([sys.executable, "contest.py", *args], cwd=HERE, capture_output=True, text=True, timeout=600,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})

    assert "run the contest first" in contest("show", "--results", str(work / "gone")).stderr
    run = ("run", "--work", str(work), "--size", "smoke", "--budgets", "2", "--seeds", "1")
    for path in work.glob("results/2.0/1/*.ood.json"):
        told = json.loads(path.read_text())
        about = told["about"]
        assert told["report"]["clips"] == 8 and about["seconds"] > 0
        # Whole steps, and answers that are longer or shorter than as a rule; a model that knows nothing answers nothing well.
        assert (0.2 if about["recipe"] == "best-of-n" else 0.3) * about["asked_gflop"] < about["gflop"] < 2.5 * about["asked_gflop"], about
    assert contest(*run).stdout == "", "nothing is done twice"
    refused = contest(*run[:-2], "--seeds", "2", "--recipes", "best-of-n")
    assert refused.returncode == 0 and "there is nothing to teach" in refused.stdout
    shown = contest("show", "--results", str(work / "results"), "--out", str(work / "contest.png"))
    names = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("ood ") and line.split()[2] == "2"]
    assert names == ["label", "explained", "explained-grpo", "grpo", "grpo-no-cues", "grpo-from-label", "best-of-n"]
    assert (work / "contest.png").read_bytes()[:4] == b"\x89PNG"
    nobody = contest("run", "--work", str(work / "gone"), "--size", "smoke")
    assert nobody.returncode == 1 and "tools/train/run base" in nobody.stderr


def test_own_clips_and_a_given_checkpoint(work, tmp_path):
    lines = [json.loads(x) for x in (work / "clips" / "train.jsonl").read_text().splitlines()[:12]]
    own = [{"id": x["id"], "clip": str(work / "clips" / x["clip"]), "label": x["label"], "reason": "He looks at me."} for x in lines]
    manifest = tmp_path / "own.jsonl"
    manifest.write_text("".join(json.dumps(x) + "\n" for x in own))
    given = work / "seed-1" / "cold" / "model"
    for stage in ("cold", "grpo-paper"):
        finish(start(tmp_path / "w", stage, "--checkpoint", str(given), "--manifest", str(manifest)))
    assert (tmp_path / "w" / "seed-1" / "grpo-paper" / "model" / "whisper-large-v3" / "config.json").exists()
    manifest.write_text(json.dumps({**own[0], "clip": "gone.avi"}) + "\n")
    assert "gone.avi" in finish(start(tmp_path / "w2", "cold", "--checkpoint", str(given), "--manifest", str(manifest)), code=1)
