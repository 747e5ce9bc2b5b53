"""What `tools/gpu check` runs on the machine with the GPU: parity, sanitizer, benchmark, peers; one JSON and one table of all of it.

Needs Python 3.8 and what the pack carries; PyTorch with transformers and llama-cpp-python are peers where they are installed with CUDA.
With --emulated the device is tests/cuda/emulator's: every step runs, and no figure means anything.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

STEPS = 32
DECODED = 150


class Failed(Exception):
    pass


class Check:
    def __init__(self, args):
        self.args, self.folder = args, Path(args.folder).resolve()
        self.work = self.folder / "work"
        self.work.mkdir(exist_ok=True)
        commit = self.folder / "commit"
        self.report = {"emulated": args.emulated, "commit": commit.read_text().strip() if commit.exists() else "", "steps": {}}

    def run(self, program, *arguments, within=3600, **settings):
        """Standard output of one of the carried programs."""
        command = [str(self.folder / "bin" / program), *map(str, arguments)] if "/" not in program else [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, env={**os.environ, **settings}, cwd=str(self.work))
        if done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr + done.stdout)[-800:].strip()}")
        return done.stdout

    def step(self, name, work):
        """One row of the report: what it found, or why it failed or could not be."""
        print(f"== {name}", file=sys.stderr, flush=True)
        begun = time.time()
        try:
            row = {"state": "passed", **(work() or {})}
        except Absent as why:
            row = {"state": "absent", "why": str(why)}
        except (Failed, subprocess.TimeoutExpired, KeyError, ValueError) as why:
            row = {"state": "failed", "why": str(why)}
        self.report["steps"][name] = {**row, "took_s": round(time.time() - begun, 1)}
        print(f"   {row['state']}{': ' + row['why'] if 'why' in row else ''}", file=sys.stderr, flush=True)

    # Parity.

    def ops(self):
        some = ["norms", "highest", "unfolds"] if self.args.tiny else []
        said = self.run("ops", "--test-threads", 1, *some)
        return {"said": re.search(r"test result: .*", said).group(0)}

    def golden(self):
        kept = self.work / "golden.json"
        self.run("golden", "instructions", MIEN_GOLDEN_OUT=str(kept))
        words = {name: len(values) for name, values in json.loads(kept.read_text()).items() if name != "device"}
        if not self.args.emulated:
            shutil.copy(kept, Path(self.args.out) / "golden.json")
        return {"words": words}

    def bundle(self, size, kind):
        path = self.work / f"{size}-{kind}.gguf"
        if not path.exists():
            self.run("mien", "pack", "--synthetic", size, "--quant", kind, "-o", path)
        return path

    def model(self, size, kind, judge, off_max):
        """Label scores and greedy tokens beside another backend's."""
        answers = {}
        for backend in (judge, "cuda"):
            said = self.run("mien", "infer", self.folder / "clip.avi", "--bundle", self.bundle(size, kind), "--backend", backend, "--json",
                            "--max-new-tokens", 4 if self.args.emulated else STEPS)
            answers[backend] = json.loads(said)
        ours, theirs = answers["cuda"], answers[judge]
        p, q = (a["scores"]["probabilities"] for a in (ours, theirs))
        off = max(abs(p[label] - q[label]) for label in q)
        texts = [a["reason"]["text"] for a in (ours, theirs)]
        row = {"judge": judge, "scores_off": off, "same_text": texts[0] == texts[1], "tokens": ours["reason"]["tokens"],
               "same_characters": len(os.path.commonprefix(texts))}
        if not off < off_max:
            raise Failed(f"label scores are {off:.3f} off those of {judge}, of which {off_max} are allowed: {row}")
        return row

    def sanitize(self, tool):
        found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if self.args.emulated or not Path(found).exists():
            raise Absent("the emulated device has guards of its own" if self.args.emulated else "compute-sanitizer is not installed")
        self.run(found, "--tool", tool, "--error-exitcode", 9, self.folder / "bin/ops", "--test-threads", 1, within=7200)

    # Speed.

    def bench(self, size, kind):
        few = ["--windows", 1, "--tokens", 2] if self.args.emulated else ["--windows", 5, "--tokens", DECODED]
        said = json.loads(self.run("mien", "bench", "--backend", "cuda", "--synthetic", size, "--quant", kind, "--json", *few))
        self.report.setdefault("device", said["device"])
        return {"bench": said}

    def peer(self, name):
        if self.args.emulated:
            raise Absent("peers need a GPU")
        command = [sys.executable, __file__, "--folder", str(self.folder), "--peer", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, cwd=str(self.work))
        if done.returncode == 3:
            raise Absent(done.stderr.strip().splitlines()[-1])
        if done.returncode:
            raise Failed(done.stderr[-800:])
        return {"peer": json.loads(done.stdout.splitlines()[-1])}

    def all(self):
        self.step("instructions", self.golden)
        self.step("ops", self.ops)
        for tool in ("memcheck", "racecheck"):
            self.step(tool, lambda: self.sanitize(tool))
        self.step("model tiny f32", lambda: self.model("tiny", "f32", "scalar", 1e-3))
        if not self.args.tiny:
            for kind in ("f16", "q8_0", "q4_0"):
                self.step(f"model tiny {kind}", lambda: self.model("tiny", kind, "scalar", 0.1))
            # The CPU's int8 activations are further from the truth than CUDA's: what is allowed is theirs.
            for kind in ("f16", "q8_0", "q4_0"):
                self.step(f"model full {kind}", lambda: self.model("r1-omni-0.5b", kind, "cpu", 0.1))
        for kind in ("q8_0",) if self.args.tiny else ("q8_0", "q4_0", "f16"):
            size = "tiny" if self.args.tiny else "r1-omni-0.5b"
            self.step(f"bench {size} {kind}", lambda: self.bench(size, kind))
        for name in PEERS:
            self.step(f"peer {name}", lambda: self.peer(name))
        return self.write()

    def table(self):
        lines = [f"# {self.report.get('device', 'no device')}", "", f"commit {self.report['commit']}"]
        if self.report["emulated"]:
            lines += ["", "EMULATED DEVICE: no figure here means anything."]
        lines += ["", "| step | state | found |", "|---|---|---|"]
        for name, row in self.report["steps"].items():
            found = {k: v for k, v in row.items() if k not in ("state", "bench", "peer", "took_s")}
            lines.append(f"| {name} | {row['state']} | {json.dumps(found) if found else ''} |")
        for name, row in self.report["steps"].items():
            if "bench" in row:
                b = row["bench"]
                lines += ["", f"## {name}", "",
                          f"ceilings: f16 {b['f16_per_s'] / 1e12:.2f} TFLOP/s, int8 {b['int8_per_s'] / 1e12:.2f} TOP/s, reading "
                          f"{b['read_bytes_per_s'] / 1e9:.1f} GB/s", "", "| stage | calls | floor ms | ms | share | launches |",
                          "|---|---|---|---|---|---|"]
                for s in b["window"]:
                    share = 100 * s["floor_ms"] / s["median_ms"] if s["median_ms"] else 0
                    lines.append(f"| {s['stage']} | {s['calls']} | {s['floor_ms']:.3f} | {s['median_ms']:.3f} | {share:.0f}% | {s['launches']} |")
                lines.append(f"| all | | | {b['window_ms']:.2f} | | |")
            if "peer" in row:
                lines += ["", f"## {name}", "", "| step | ms |", "|---|---|"]
                lines += [f"| {k} | {v:.3f} |" for k, v in row["peer"].items() if isinstance(v, float)]
        return "\n".join(lines) + "\n"

    def write(self):
        device = self.report.get("device", "unknown").split(",")[1:2] or ["unknown"]
        name = ("emulated-" if self.report["emulated"] else "") + re.sub(r"[^a-z0-9]+", "-", device[0].lower()).strip("-")
        out = Path(self.args.out)
        (out / f"{name}.json").write_text(json.dumps(self.report, indent=1) + "\n")
        (out / f"{name}.md").write_text(self.table())
        print(self.table())
        return 1 if any(row["state"] == "failed" for row in self.report["steps"].values()) else 0


class Absent(Exception):
    """What a step needs is not on this machine; not a failure."""


def timed(torch, work, calls=10):
    """Median milliseconds of a call, three to warm up."""
    times = []
    for i in range(calls + 3):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) * 1e3)
    return sorted(times[3:])[calls // 2]


def torch_peer(folder):
    """The published model's modules in f16: eager, then compiled, the token as a CUDA graph over a static cache; and plain products."""
    try:
        import torch
        import transformers
    except ImportError as why:
        raise Absent(str(why))
    if not torch.cuda.is_available():
        raise Absent("PyTorch has no CUDA here")
    sys.path[:0] = [str(folder / "tools/bench"), str(folder / "tools/train")]
    from worker import IMAGE, IMAGES, MELS, COLUMNS, PROMPT, ROOM
    import topology
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "gpu": torch.cuda.get_device_name()}
    with torch.inference_mode():
        torch.set_default_dtype(torch.float16)
        with torch.device("cuda"):
            model = topology.Omni(topology.FULL).eval()
        torch.set_default_dtype(torch.float32)
        for values in model.parameters():
            values.normal_(std=0.02)
        rand = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.float16) * 0.5
        pixels, mel, seen, rows = rand(1, IMAGES, 3, IMAGE, IMAGE), rand(1, MELS, COLUMNS), rand(1, IMAGES, 196, 768), rand(1, PROMPT, 896)
        stages = {
            "vision": lambda: model.see(pixels),
            "branches": lambda: model.mm_projector(seen),
            "audio": lambda: model.model.audio_projector(model.hear(mel)),
            "prefill": lambda: model(inputs_embeds=rows, use_cache=True, logits_to_keep=1),
        }
        for name, work in stages.items():
            out[f"{name} eager ms"] = timed(torch, work)
        first = model(inputs_embeds=rows, use_cache=True, logits_to_keep=1)
        token = first.logits[:, -1:].argmax(-1)

        def eager():
            first.past_key_values.crop(PROMPT)
            model(input_ids=token, past_key_values=first.past_key_values, use_cache=True, logits_to_keep=1)
        out["token eager ms"] = timed(torch, eager, 30)
        try:
            for name, work in stages.items():
                out[f"{name} compiled ms"] = timed(torch, torch.compile(work))
            from transformers import StaticCache
            cache = StaticCache(config=model.config, max_cache_len=ROOM)
            model(inputs_embeds=rows, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=torch.arange(PROMPT, device="cuda"))
            place = torch.tensor([PROMPT], device="cuda")
            step = lambda: model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=place)
            for _ in range(3):
                step()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            out["token CUDA graph ms"] = timed(torch, graph.replay, 50)
        except Exception as why:
            out["compiled"] = f"failed: {why}"[:400]
        for m, n, k in ((1500, 3840, 1280), (1500, 5120, 1280), (1568, 3072, 768), (974, 9728, 896)):
            a, b = rand(m, k), rand(n, k)
            ms = timed(torch, lambda: torch.nn.functional.linear(a, b), 30)
            out[f"cuBLAS {m} x {n} x {k} ms"] = ms
    return out


def llama_peer(folder):
    """The decoder alone, every layer on the GPU."""
    try:
        import llama_cpp
    except ImportError as why:
        raise Absent(str(why))
    if not llama_cpp.llama_supports_gpu_offload():
        raise Absent("llama-cpp-python is installed without CUDA")
    sys.path[:0] = [str(folder / "tools/bench"), str(folder / "tools/train")]
    from worker import PROMPT, ROOM
    out = {"llama_cpp": llama_cpp.__version__}
    for kind in ("q8_0", "q4_0"):
        weights = folder / "work" / f"llama-{kind}.gguf"
        if not weights.exists():
            made = subprocess.run([sys.executable, str(folder / "tools/bench/weights.py"), f"gguf-{kind}", str(weights)])
            if made.returncode:
                raise Absent("weights for llama.cpp cannot be made: numpy and gguf are needed")
        llama = llama_cpp.Llama(str(weights), n_gpu_layers=-1, n_ctx=ROOM, n_batch=ROOM, flash_attn=True, verbose=False)
        tokens = [(7919 * i + 13) % 150_000 for i in range(PROMPT)]
        times = {"prefill": [], "token": []}
        for _ in range(5):
            llama.reset()
            begun = time.perf_counter()
            llama.eval(tokens)
            times["prefill"].append((time.perf_counter() - begun) * 1e3)
            begun = time.perf_counter()
            for i in range(DECODED):
                llama.eval([tokens[i]])
            times["token"].append((time.perf_counter() - begun) * 1e3 / DECODED)
        for name, all_ms in times.items():
            out[f"{kind} {name} ms"] = sorted(all_ms)[2]
    return out


PEERS = {"torch": torch_peer, "llama.cpp": llama_peer}


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--folder", required=True, help="what the pack was unpacked to")
    ask.add_argument("--out", default=".", help="where the report goes")
    ask.add_argument("--emulated", action="store_true", help="the device is the emulated one")
    ask.add_argument("--tiny", action="store_true", help="nothing at full size, a few ops only")
    ask.add_argument("--peer", choices=PEERS, help="one peer, in a process of its own")
    args = ask.parse_args()
    if args.peer:
        try:
            print(json.dumps(PEERS[args.peer](Path(args.folder).resolve())))
        except Absent as why:
            print(why, file=sys.stderr)
            sys.exit(3)
        return
    sys.exit(Check(args).all())


if __name__ == "__main__":
    main()
