"""Clips of a manifest in a few tar files: a shared file system is slow at many small ones.

    python shards.py MANIFEST --out DIR [--size 512]      # DIR/NAME-000000.tar, ... and DIR/NAME.jsonl

A tar holds `KEY.EXT`, the clip as it is, and `KEY.json`, its line of the manifest: what the webdataset package reads too. In a manifest a clip of a
tar is `NAME-000000.tar/KEY.EXT`.
"""

import argparse
import io
import json
import sys
import tarfile
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm


def _parts(path):
    """The tar and the name in it; None where no folder of the path is a tar file."""
    path = Path(path)
    tar = next((p for p in path.parents if p.suffix == ".tar"), None)
    return (tar, path.relative_to(tar).as_posix()) if tar else None


@lru_cache(maxsize=64)
def _places(tar):
    """Where each file of a tar lies in it, and its size."""
    try:
        with tarfile.open(tar) as whole:
            return {member.name: (member.offset_data, member.size) for member in whole if member.isfile()}
    except tarfile.TarError as error:
        raise ValueError(f"{tar} is no whole tar file: {error}; pack it again") from error


def exists(path):
    parts = _parts(path)
    if parts is None:
        return Path(path).exists()
    return parts[0].is_file() and parts[1] in _places(parts[0])


def read(path):
    """The bytes of a file, in a tar or not."""
    parts = _parts(path)
    if parts is None:
        return Path(path).read_bytes()
    begin, size = _places(parts[0])[parts[1]]
    with parts[0].open("rb") as whole:
        whole.seek(begin)
        return whole.read(size)


def write(manifest, out, size=512):
    """Packs the clips of a manifest; returns the new one. Nothing half-written gets a final name."""
    manifest, out = Path(manifest), Path(out)
    lines = [json.loads(raw) for raw in manifest.read_text(encoding="utf-8").splitlines()]
    gone = [line["clip"] for line in lines if not exists(manifest.parent / line["clip"])]
    if gone:
        raise FileNotFoundError(f"{manifest}: no file {gone[0]}" + (f", and {len(gone) - 1} more" if gone[1:] else ""))
    out.mkdir(parents=True, exist_ok=True)
    packed = []
    for first in tqdm(range(0, len(lines), size), desc="shards", unit="tar", leave=False):
        name = f"{manifest.stem}-{first // size:06}.tar"
        with tarfile.open(out / f"{name}.part", "w") as tar:
            for number, line in enumerate(lines[first:first + size], first):
                clip = f"{number:08}{Path(line['clip']).suffix}"
                packed.append({**line, "clip": f"{name}/{clip}"})
                for member, data in ((clip, read(manifest.parent / line["clip"])), (f"{number:08}.json", json.dumps(line).encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        (out / f"{name}.part").rename(out / name)
    target = out / f"{manifest.stem}.jsonl"
    target.with_suffix(".part").write_text("".join(json.dumps(line) + "\n" for line in packed), encoding="utf-8")
    target.with_suffix(".part").rename(target)
    return target


def main():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("manifest")
    top.add_argument("--out", required=True)
    top.add_argument("--size", type=int, default=512, help="clips in a tar")
    args = top.parse_args()
    if args.size < 1:
        top.error("--size is the number of clips in a tar: 1 or more")
    try:
        print(write(args.manifest, args.out, args.size))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
