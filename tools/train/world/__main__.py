"""`python -m world make|demo|sheet|ceilings`: the world's commands."""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from . import VERSION, clip, demo, rule, sheet


def _write(job):
    out, seed, split, index = job
    plan = clip.plan(seed, split, index)
    data, begin, end = clip.render(plan)
    name = f"{split}/{plan.clip}.avi"
    path = Path(out) / name
    if not path.exists() or path.read_bytes() != data:
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.rename(path)
    return clip.truth(plan, begin, end, name), len(data)


def make(args):
    """Clips and a manifest; what is there already with the same bytes is left alone."""
    out = Path(args.out)
    (out / args.split).mkdir(parents=True, exist_ok=True)
    jobs = [(args.out, args.seed, args.split, i) for i in range(args.count)]
    began, size, lines = time.time(), 0, []
    with ProcessPoolExecutor(args.jobs) as pool:
        for done, (line, count) in enumerate(pool.map(_write, jobs, chunksize=8) if args.jobs > 1 else map(_write, jobs), 1):
            lines.append(line)
            size += count
            if done % 20 == 0 or done == len(jobs):
                rate = done / (time.time() - began)
                print(f"\r{args.split} {done}/{len(jobs)} clips, {rate:.1f} clips/s, {size / 1e6:.1f} MB", end="", file=sys.stderr)
    print(file=sys.stderr)
    manifest = out / f"{args.split}.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(manifest)


def show(args):
    lines = [json.loads(line) for line in Path(args.manifest).read_text().splitlines()][: args.count]
    root = Path(args.manifest).parent
    sheet.draw([((root / line["clip"]).read_bytes(), line) for line in lines]).save(args.out)
    print(args.out)


def make_demo(args):
    data, lines = demo.make(args.seed)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo.avi").write_bytes(data)
    (out / "demo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{out / 'demo.avi'}: {len(data) / 1e6:.2f} MB, {lines[-1]['end_ms'] / 1000:.0f} s")


def ceilings(_):
    print(f"world {VERSION}: best possible UAR of a classifier with perfect sight of the named modalities")
    whole, fusion = rule.ceilings(), rule.ceilings("fusion")
    for seen in whole:
        print(f"  {' + '.join(seen):22s} all {100 * whole[seen]:5.1f} %   fusion-necessary {100 * fusion[seen]:5.1f} %")


def main():
    top = argparse.ArgumentParser(prog="python -m world", description=__doc__)
    sub = top.add_subparsers(required=True)
    p = sub.add_parser("make", help="write clips and a manifest")
    p.add_argument("--out", required=True)
    p.add_argument("--split", choices=list(clip.SPLITS), default="train")
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--jobs", type=int, default=1)
    p.set_defaults(run=make)
    p = sub.add_parser("sheet", help="draw a contact sheet of a manifest")
    p.add_argument("manifest")
    p.add_argument("--out", required=True)
    p.add_argument("--count", type=int, default=24)
    p.set_defaults(run=show)
    p = sub.add_parser("demo", help="write the demo clip and its truth")
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, default=3)
    p.set_defaults(run=make_demo)
    p = sub.add_parser("ceilings", help="what single modalities can reach")
    p.set_defaults(run=ceilings)
    args = top.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
