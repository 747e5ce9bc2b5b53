"""Launches that an emulated driver wrote down (MIEN_EMULATED_DRY), in short: what kernels/launches.json holds.

usage: launches.py LAUNCHES.RS OUT NAME=DRY...      NAME as 8/q8_0/whole: multiprocessors, bundle, audio_context

A stage is a list of [kernel, blocks, numbers among its arguments, how often]. Addresses are left out; of a matrix stay its sizes and kind,
of a norm whether it is there, of what a kernel asks for ahead its bytes. `issued` are the instructions that the warps of a block in the
middle were given. The stage `token` is the last of the tokens that were made; `order` has its launches one after the other, by their places in it.
"""

import json
import re
import struct
import sys


def signatures(path):
    """Name of a kernel, and its arguments as (name, type)."""
    table = open(path).read().split("\nkernels! {", 1)[1]
    return {name: re.findall(r"(\w+): (\w+)", args) for name, args in re.findall(r"(\w+)\[\d+\]\(([^)]*)\)", table)}


def numbers(signature, words):
    out = {}
    for (name, kind), word in zip(signature, words, strict=True):
        raw = bytes.fromhex(word)
        if kind == "i32":
            out[name] = struct.unpack("<i", raw)[0]
        elif kind == "i64":
            out[name] = struct.unpack("<q", raw)[0]
        elif kind == "Weights":
            out |= zip(("w_rows", "w_cols", "w_width", "w_kind"), struct.unpack("<4i", raw[16:32]))
        elif kind == "Ahead":
            out[name] = struct.unpack("<i", raw[8:12])[0]
        elif kind == "Norm":
            out["norm"] = int(struct.unpack("<Q", raw[:8])[0] != 0)
    return out


def stages(path, known):
    out, stage = {}, "start"
    for line in open(path):
        if line.startswith("= "):
            stage = line[2:].strip()
            continue
        name, x, y, z, issued, *words = line.split()
        out.setdefault(stage, []).append((name, (int(x), int(y), int(z)), numbers(known[name], words) | {"issued": int(issued)}))
    decode = out.pop("decode")
    ends = [at for at, launch in enumerate(decode) if launch[0] == "highest_join"]
    out["token"] = decode[ends[-2] + 1:ends[-1] + 1]
    out.pop("start", None)
    return out


def short(launches):
    counts = {}
    for launch in launches:
        key = json.dumps(launch)
        counts[key] = counts.get(key, 0) + 1
    return [[*json.loads(key), count] for key, count in counts.items()]


def main(rust, out, *runs):
    known = signatures(rust)
    found = {}
    for run in runs:
        name, path = run.split("=", 1)
        parts = stages(path, known)
        found[name] = {stage: short(launches) for stage, launches in parts.items()}
        places = {json.dumps(row[:3]): at for at, row in enumerate(found[name]["token"])}
        found[name]["order"] = [places[json.dumps(launch)] for launch in parts["token"]]
    with open(out, "w") as file:
        file.write("{\n")
        rows = []
        for name, parts in found.items():
            lines = [f'  "{stage}": {json.dumps(launches, separators=(",", ":"))}' for stage, launches in parts.items()]
            rows.append(f' "{name}": {{\n' + ",\n".join(lines) + "\n }")
        file.write(",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
