"""Evaluates a manifest on a Ray cluster, a shard a task, and makes one report.

    python shards.py COUNT BUNDLE --manifest FILE --out OUT [OPTION of mien eval...]

Needs `ray` (tested with 2.x). Joins the cluster of RAY_ADDRESS, else starts Ray on this machine. Every machine has `mien` on its PATH, or
MIEN names it, and sees BUNDLE, FILE and OUT under the same names. A shard that was stopped goes on where it was. The report is that of one process.
"""

import os
import subprocess
import sys
from pathlib import Path

import ray


def shard(command, folder):
    """What `mien eval` says of a shard, and its exit status."""
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stderr.strip().splitlines()[-1:] or [""]


def main(count, *options):
    mien, options = os.environ.get("MIEN", "mien"), list(options)
    if "--out" not in options[:-1] or "--shard" in options or not count.isdigit() or int(count) < 1:
        sys.exit(__doc__)
    count, out = int(count), options[options.index("--out") + 1]
    ray.init(log_to_driver=False)
    task, folder = ray.remote(shard), os.getcwd()
    running = {task.remote([mien, "eval", *options, "--shard", f"{i}/{count}"], folder): i for i in range(1, count + 1)}
    failed = []
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        i = running.pop(ready)
        status, last = ray.get(ready)
        print(f"shard {i} of {count}: {'done' if status == 0 else last[0]}", flush=True)
        failed += [str(i)] if status else []
    if failed:
        sys.exit(f"error: shard {', '.join(failed)} of {count} failed; the same command goes on with them")
    parts = [f"{out}.{i}-of-{count}.jsonl" for i in range(1, count + 1)]
    sys.exit(subprocess.run([mien, "eval", "merge", *parts, "--out", out]).returncode)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 2 else sys.exit(__doc__)
