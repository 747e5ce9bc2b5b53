"""Two steps of supervised training and of GRPO on a random checkpoint with the sizes of the real one, from files as a user has them."""

import gc
import json
import shutil

import pytest
import torch

import checkpoint
import topology
from test_recipe import finish, start
from world import clip

GB = 1 << 30


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("full")
    if shutil.disk_usage(out).free < 8 * GB:
        pytest.fail(f"{out} needs 8 GB of free disk for a checkpoint with the real sizes")
    made = checkpoint.create(out, topology.FULL, seed=1, dtype=torch.bfloat16)
    assert made.sizes.hidden == 896 and made.sizes.vocab == 151936
    del made        # 5 GB that the trainer needs
    gc.collect()
    yield out
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for i in range(2):
        plan = clip.plan(1, "train", i)
        data, begin, end = clip.render(plan)
        (folder / f"{i}.avi").write_bytes(data)
        lines.append(clip.truth(plan, begin, end, f"{i}.avi"))
    (folder / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "own.jsonl"


@pytest.mark.parametrize("stage", ["cold", "grpo"])
def test_two_steps(root, manifest, stage, tmp_path_factory):
    work = tmp_path_factory.getbasetemp() / "full-work"
    if stage == "grpo":
        (work / "seed-1" / "cold").mkdir(parents=True, exist_ok=True)
        (work / "seed-1" / "cold" / "model").symlink_to(root)      # as if the cold start had been done
    said = finish(start(work, stage, "--checkpoint", str(root), "--manifest", str(manifest), "--stop-after", "2", "--max-new", "8",
                        size="full"), code=3)
    assert "stopped at step 2" in said
    log = [json.loads(x) for x in (work / "seed-1" / stage / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in log] == [0, 1]
    if stage == "cold":
        assert all(x["norm"] > 0 and x["loss"] > 5 for x in log)
    else:
        assert all(x["tokens"] == 8 and x["useful"] == 0 for x in log), "random weights say nothing that earns a reward"
