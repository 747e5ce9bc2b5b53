"""What `tools/gpu check` runs on the machine with the GPU: parity, sanitizer, benchmark, peers; one JSON and one table of all of it.

Needs Python 3.8 and what the pack carries; PyTorch with transformers and llama-cpp-python are peers where they are installed with CUDA.
The report is written after every step, so that a run which is cut short leaves what it found. `--only` runs some steps and puts them
into the report that is there. With --emulated the device is tests/cuda/emulator's: every step runs, and no figure means anything.
"""

import argparse
import csv
import inspect
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

# What Nsight Compute counts of a kernel, and its name here.
METRICS = {
    "gpu__time_duration.sum": "ns",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": "tensor %",
    "sm__inst_issued.avg.pct_of_peak_sustained_active": "issue %",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram %",
}

# Which kernels Nsight Compute watches: the towers and the prompt come first, and a token's are its own.
KERNELS = {
    "window": ["--launch-count", 900],
    "token": ["--kernel-name", "regex:row|split|join|quantised|highest", "--launch-count", 420],
}


def without_folders(why):
    """A report says nothing of where things lay on the machine."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", str(why))


class Failed(Exception):
    pass


class Check:
    def __init__(self, args):
        self.args, self.folder = args, Path(args.folder).resolve()
        self.work = self.folder / "work"
        self.work.mkdir(exist_ok=True)
        commit = self.folder / "commit"
        self.report = {"emulated": args.emulated, "commit": commit.read_text().strip() if commit.exists() else "", "steps": {}}
        self.report["device"] = self.device()
        name = ("emulated-" if args.emulated else "") + re.sub(r"[^a-z0-9]+", "-", self.report["device"].split(",")[1].lower()).strip("-")
        self.path = Path(args.out) / name
        kept = self.path.with_suffix(".json")
        if args.only and kept.exists():
            self.report["steps"] = json.loads(kept.read_text())["steps"]

    def run(self, program, *arguments, within=3600, **settings):
        """Standard output of one of the carried programs."""
        command = [str(self.folder / "bin" / program), *map(str, arguments)] if "/" not in program else [program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, env={**os.environ, **settings}, cwd=str(self.work))
        if done.returncode:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr + done.stdout)[-800:].strip()}")
        return done.stdout

    def device(self):
        """The device as the instructions' test names it."""
        kept = self.work / "golden.json"
        self.run("golden", "instructions", MIEN_GOLDEN_OUT=str(kept))
        return json.loads(kept.read_text())["device"]

    def step(self, name, work):
        """One row of the report: what it found, or why it failed or could not be."""
        if self.args.only and not any(name.startswith(begin) for begin in self.args.only):
            return
        print(f"== {name}", file=sys.stderr, flush=True)
        begun = time.time()
        try:
            row = {"state": "passed", **(work() or {})}
        except Absent as why:
            row = {"state": "absent", "why": without_folders(why)}
        except subprocess.TimeoutExpired as why:
            row = {"state": "failed", "why": f"{Path(why.cmd[0]).name} did not end within {why.timeout:.0f} s"}
        except (Failed, KeyError, ValueError) as why:
            row = {"state": "failed", "why": without_folders(why)}
        took_s = round(time.time() - begun, 1)
        self.report["steps"][name] = {**row, "took_s": took_s}
        print(f"   {row['state']} in {took_s} s{': ' + row['why'] if 'why' in row else ''}", file=sys.stderr, flush=True)
        self.write()

    # Parity.

    def ops(self):
        some = ["norms", "highest", "unfolds"] if self.args.tiny else []
        said = self.run("ops", "--test-threads", 1, *some)
        return {"said": re.search(r"test result: .*", said).group(0)}

    def golden(self):
        kept = self.work / "golden.json"
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

    def stages(self, size, kind, judge, limit):
        """Every stage beside another backend's: the largest error over the largest value, and the same of root mean squares. Weights are
        random, so that logits say more than the answers that they lead to."""
        said = self.run("parity_lane", "--bundle", self.bundle(size, kind), "--device", "cuda", "--beside", judge, "--steps", STEPS)
        rows = re.findall(r"^(\w+) +\d+ x \d+ +(\S+) +(\S+)$", said, re.M)
        errors = {name: [float(largest), float(rms)] for name, largest, rms in rows}
        above = [name for name, (_, rms) in errors.items() if not rms < limit]
        row = {"judge": judge, "limit_rms": limit, "stages": errors, "tokens": re.search(r"greedy tokens: (.*)", said).group(1)}
        if above:
            raise Failed(f"above {limit}: {', '.join(above)}: {row}")
        return row

    def sanitize(self, tool):
        found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if self.args.emulated or not Path(found).exists():
            raise Absent("the emulated device has guards of its own" if self.args.emulated else "compute-sanitizer is not installed")
        self.run(found, "--tool", tool, "--error-exitcode", 9, self.folder / "bin/ops", "--test-threads", 1, within=self.args.within)

    def kernels(self, size, kind, which):
        """Time, share of the tensor cores and memory of every kernel, by Nsight Compute; kernels alone, so without the gaps between them,
        and with cold caches."""
        found = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
        if self.args.emulated or not Path(found).exists():
            raise Absent("the emulated device has no clock" if self.args.emulated else "ncu is not installed")
        said = self.run(found, "--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(METRICS), *which,
                        self.folder / "bin/mien", "infer", self.folder / "clip.avi", "--bundle", self.bundle(size, kind), "--backend", "cuda",
                        "--json", "--max-new-tokens", 3, within=self.args.within)
        lines = said.splitlines()
        head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
        if head is None:
            raise Failed(f"ncu printed no table: {said[-400:]}")
        rows, sums = csv.DictReader(lines[head:]), {}
        for row in rows:
            if not row["ID"]:
                continue        # the units
            name = f"{row['Kernel Name'].split('(')[0]} {row['Grid Size'].replace(' ', '')}"
            one = sums.setdefault(name, {"calls": 0, **{short: 0.0 for short in METRICS.values()}})
            one["calls"] += 1
            for metric, short in METRICS.items():
                one[short] += float(row[metric].replace(",", "") or 0)
        for one in sums.values():
            one["us"] = round(one.pop("ns") / 1e3, 1)
            for share in ("tensor %", "issue %", "dram %"):
                one[share] = round(one[share] / one["calls"], 1)
        return {"kernels": dict(sorted(sums.items(), key=lambda item: -item[1]["us"]))}

    # Speed.

    def bench(self, size, kind):
        few = ["--windows", 1, "--tokens", 2] if self.args.emulated else ["--windows", 5, "--tokens", DECODED]
        said = json.loads(self.run("mien", "bench", "--backend", "cuda", "--synthetic", size, "--quant", kind, "--json", *few))
        return {"bench": said}

    def peer(self, name):
        """The last line that the peer printed: it says all it has after each of its steps."""
        if self.args.emulated:
            raise Absent("peers need a GPU")
        command = [sys.executable, __file__, "--folder", str(self.folder), "--peer", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.args.within, cwd=str(self.work))
            said, code, error = done.stdout, done.returncode, done.stderr
        except subprocess.TimeoutExpired as late:
            said, code, error = (late.stdout or b"").decode(), 0, "out of time"
        if code == 3:
            raise Absent(error.strip().splitlines()[-1])
        if code or not said.strip():
            raise Failed(error[-800:])
        return {"peer": json.loads(said.strip().splitlines()[-1])}

    def all(self):
        self.step("instructions", self.golden)
        self.step("ops", self.ops)
        self.step("model tiny f32", lambda: self.model("tiny", "f32", "scalar", 1e-3))
        if not self.args.tiny:
            for kind in ("f16", "q8_0", "q4_0"):
                self.step(f"model tiny {kind}", lambda: self.model("tiny", kind, "scalar", 0.1))
            # The CPU's int8 activations are further from the truth than CUDA's: what is allowed is theirs.
            for kind, limit in (("f16", 1e-2), ("q8_0", 5e-2), ("q4_0", 5e-2)):
                self.step(f"stages full {kind}", lambda: self.stages("r1-omni-0.5b", kind, "cpu", limit))
        for kind in ("q8_0",) if self.args.tiny else ("q8_0", "q4_0", "f16"):
            size = "tiny" if self.args.tiny else "r1-omni-0.5b"
            self.step(f"bench {size} {kind}", lambda: self.bench(size, kind))
        for kind in ("q8_0", "q4_0"):
            for part, which in KERNELS.items():
                self.step(f"kernels {kind} {part}", lambda: self.kernels("r1-omni-0.5b", kind, which))
        for name in PEERS:
            self.step(f"peer {name}", lambda: self.peer(name))
        # Last: they take longest.
        for tool in ("memcheck", "racecheck"):
            self.step(tool, lambda: self.sanitize(tool))
        print(self.table())
        return 1 if any(row["state"] == "failed" for row in self.report["steps"].values()) else 0

    def table(self):
        lines = [f"# {self.report.get('device', 'no device')}", "", f"commit {self.report['commit']}"]
        if self.report["emulated"]:
            lines += ["", "EMULATED DEVICE: no figure here means anything."]
        lines += ["", "| step | state | found |", "|---|---|---|"]
        for name, row in self.report["steps"].items():
            found = {k: v for k, v in row.items() if k not in ("state", "bench", "peer", "kernels", "took_s")}
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
            if "kernels" in row:
                lines += ["", f"## {name}", "", "| kernel, grid | calls | us | tensor % | issue % | memory % |",
                          "|---|---|---|---|---|---|"]
                for kernel, k in list(row["kernels"].items())[:40]:
                    lines.append(f"| {kernel} | {k['calls']} | {k['us']} | {k['tensor %']} | {k['issue %']} | {k['dram %']} |")
            if "peer" in row:
                lines += ["", f"## {name}", "", "| step | ms |", "|---|---|"]
                lines += [f"| {k} | {v:.3f} |" for k, v in row["peer"].items() if isinstance(v, float)]
        return "\n".join(lines) + "\n"

    def write(self):
        self.path.with_suffix(".json").write_text(json.dumps(self.report, indent=1) + "\n")
        self.path.with_suffix(".md").write_text(self.table())


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


def through(layer, x):
    """A layer of a tower, called as this or an older transformers wants it."""
    wanted = inspect.signature(layer.forward).parameters
    out = layer(x, **{name: None for name in ("attention_mask", "layer_head_mask") if name in wanted})
    return out[0] if isinstance(out, tuple) else out


def torch_model(torch, topology, device):
    """The published model's modules in f16, and its stages as calls without arguments."""
    from worker import IMAGE, IMAGES, MELS, COLUMNS, PROMPT
    torch.set_default_dtype(torch.float16)
    with torch.device(device):
        model = topology.Omni(topology.FULL).eval()
    torch.set_default_dtype(torch.float32)
    for values in model.parameters():
        values.normal_(std=0.02)
    rand = lambda *shape: torch.randn(*shape, device=device, dtype=torch.float16) * 0.5
    pixels, mel, seen, rows = rand(IMAGES, 3, IMAGE, IMAGE), rand(1, MELS, COLUMNS), rand(1, IMAGES, 196, 768), rand(1, PROMPT, 896)
    vision, audio, inner = getattr(model.vision, "vision_model", model.vision), model.audio, model.model

    def see():
        x = vision.embeddings(pixels)
        for layer in vision.encoder.layers[:-1]:
            x = through(layer, x)

    def hear():
        gelu = torch.nn.functional.gelu
        x = gelu(audio.conv2(gelu(audio.conv1(mel)))).transpose(1, 2) + audio.embed_positions.weight[: COLUMNS // 2]
        for layer in audio.layers:
            x = through(layer, x)
        x = torch.nn.functional.avg_pool1d(audio.layer_norm(x).transpose(1, 2), 3).transpose(1, 2)
        inner.audio_projector(x)

    prefill = lambda: model(inputs_embeds=rows, use_cache=True, logits_to_keep=1)
    return model, {"vision": see, "branches": lambda: inner.mm_projector(seen), "audio": hear, "prefill": prefill}


def torch_peer(folder, say):
    """Eager, then each stage as one CUDA graph, a token over a static cache; and plain products. Compiled where there is time left."""
    try:
        import torch
        import transformers
    except ImportError as why:
        raise Absent(str(why))
    if not torch.cuda.is_available():
        raise Absent("PyTorch has no CUDA here")
    sys.path[:0] = [str(folder / "tools/bench"), str(folder / "tools/train")]
    import topology
    from worker import PROMPT, ROOM
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "gpu": torch.cuda.get_device_name()}

    def attempt(name, work):
        try:
            out[name] = work()
        except Exception as why:
            out[name] = f"failed: {why}"[:300]
        say(out)

    def recorded(work, calls=10):
        for _ in range(3):
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return timed(torch, graph.replay, calls)

    with torch.inference_mode():
        for m, n, k in ((1500, 3840, 1280), (1500, 5120, 1280), (1500, 1280, 5120), (1568, 3072, 768), (974, 9728, 896)):
            rand = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.float16) * 0.5
            a, b = rand(m, k), rand(n, k)
            attempt(f"cuBLAS {m} x {n} x {k} ms", lambda: timed(torch, lambda: torch.nn.functional.linear(a, b), 30))
        model, stages = torch_model(torch, topology, "cuda")
        for name, work in stages.items():
            attempt(f"{name} eager ms", lambda: timed(torch, work))
            attempt(f"{name} CUDA graph ms", lambda: recorded(work))
        first = stages["prefill"]()
        token = first.logits[:, -1:].argmax(-1)

        def eager():
            first.past_key_values.crop(PROMPT)
            model(input_ids=token, past_key_values=first.past_key_values, use_cache=True, logits_to_keep=1)
        attempt("token eager ms", lambda: timed(torch, eager, 30))

        def static():
            cache = transformers.StaticCache(config=model.config, max_cache_len=ROOM)
            place = torch.arange(PROMPT, device="cuda")
            rows = torch.randn(1, PROMPT, 896, device="cuda", dtype=torch.float16) * 0.5
            model(inputs_embeds=rows, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=place)
            next_place = torch.tensor([PROMPT], device="cuda")
            step = lambda: model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1, cache_position=next_place,
                                 position_ids=next_place[None])
            return recorded(step, 50)
        attempt("token CUDA graph ms", static)
        for name, work in stages.items():
            attempt(f"{name} compiled ms", lambda: timed(torch, torch.compile(work)))
    return out


def llama_peer(folder, say):
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
    ask.add_argument("--only", type=lambda names: names.split(","), help="steps by the beginnings of their names, comma between them")
    ask.add_argument("--within", type=int, default=7200, help="seconds that a sanitizer, a profile or a peer may take")
    ask.add_argument("--peer", choices=PEERS, help="one peer, in a process of its own")
    args = ask.parse_args()
    if args.peer:
        try:
            say = lambda out: print(json.dumps(out), flush=True)
            say(PEERS[args.peer](Path(args.folder).resolve(), say))
        except Absent as why:
            print(why, file=sys.stderr)
            sys.exit(3)
        return
    sys.exit(Check(args).all())


if __name__ == "__main__":
    main()
