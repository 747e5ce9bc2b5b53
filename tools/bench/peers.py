"""mien beside its peers: every row of the table of targets, ours and theirs in turn in one run. Started by `tools/bench/peers`.

Units: milliseconds inside, seconds in the table. A pair is ours and theirs one after the other, their order changing from pair to
pair; a row's ratio is the median of its pairs' ratios. Every program is started once, stays, and does its work once before it counts.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
THREADS = 2
TOKENS, TOKENS_QUICK = 150, 20              # of a reason
UPSTREAM_TOKENS = {"bf16": 16, "f32": 8}    # PyTorch's steps are alike: so many are timed, and scaled
MEMORY_GB = 15

# What each row of the table needs to have run.
JOBS = {"vision": ["vision"], "audio": ["audio"], "prefill": ["prefill"], "decode": ["decode"], "hop": ["hop"], "cold": ["cold"],
        "memory": ["memory"], "window": ["vision", "audio", "prefill", "decode", "window", "window_f32"]}
# Jobs that run by themselves at the end, for the peer takes 10 GB.
ALONE = ["window_f32"]

# Variants of each peer for a work: the fastest here is the one that mien is paired with. `(what it is, program, step)`
LLAMA = [("flash attention on", "on-512"), ("flash attention off", "off-512"), ("flash attention on, 1024 rows", "on-1024")]
VARIANTS = {
    "vision": [("ONNX Runtime int8, 8 frames at once", "onnx-vision", "run"),
               ("ONNX Runtime int8, frame by frame", "onnx-vision-1", "run"), ("PyTorch bf16", "torch-bf16", "vision")],
    "branches": [("PyTorch bf16", "torch-bf16", "branches")],
    "audio": [("ONNX Runtime int8", "onnx-audio", "run"), ("CTranslate2 int8", "ctranslate2", "run"),
              ("PyTorch bf16", "torch-bf16", "audio")],
    "prefill": [("PyTorch bf16", "torch-bf16", "prefill")] + [
        (f"llama.cpp {q.upper()}, {what}", f"llama-{q}-{how}", "prefill") for q in ("q8_0", "q4_0") for what, how in LLAMA],
} | {f"decode-{q}": [(f"llama.cpp {q.upper()}, {what}", f"llama-{q}-{how}", "decode 32") for what, how in LLAMA[:2]]
     for q in ("q8_0", "q4_0")}


def say(text):
    print(f"\033[1m== {text}\033[0m", file=sys.stderr, flush=True)


def cpu_ticks(pid):
    """Busy ticks of the machine (also those stolen from it), and of one process."""
    machine = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    own = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(machine) - machine[3] - machine[4], int(own[11]) + int(own[12])


class Program:
    """A peer or mien, waiting for steps."""

    foreign = []        # share of the machine that others took, one per step

    def __init__(self, name, command, log):
        self.name = name
        self.errors = open(log, "w+")
        environment = dict(os.environ, OMP_NUM_THREADS=str(THREADS), RUST_LOG="warn",
                           LLAMA_CPP_LIB_PATH=str(log.parent.parent / "llama"))
        # Neither finds the libraries that lie beside its own.
        libraries = {"llama": environment["LLAMA_CPP_LIB_PATH"], "whisper.cpp": sysconfig.get_path("purelib")}
        if (kind := name.split("-")[0]) in libraries:
            environment["LD_LIBRARY_PATH"] = libraries[kind]
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                        env=environment)
        self.facts = self.answer()
        self.start_ms = (time.perf_counter() - self.begun) * 1e3

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f"error: {self.name} stopped; the end of what it said:\n" + "".join(self.errors.readlines()[-15:]))
        return json.loads(line)

    def step(self, name):
        pid, ticks, begun = self.process.pid, cpu_ticks(self.process.pid), time.perf_counter()
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        busy, own = (b - a for a, b in zip(ticks, cpu_ticks(pid)))
        whole = (time.perf_counter() - begun) * os.sysconf("SC_CLK_TCK") * os.cpu_count()
        if whole > 50:
            Program.foreign.append(max(0.0, (busy - own) / whole))
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Fleet:
    """Programs by name, started when first asked for and warmed once."""

    def __init__(self, mien, cache, tokens):
        self.mien, self.cache, self.tokens, self.running = mien, cache, tokens, {}
        (cache / "weights").mkdir(exist_ok=True)
        (cache / "logs").mkdir(exist_ok=True)

    def weights(self, kind, ending):
        path = self.cache / "weights" / (kind + ending)
        if not path.exists():
            say(f"making random weights: {path.name}")
            subprocess.run([sys.executable, HERE / "weights.py", kind, path], check=True, stdout=subprocess.DEVNULL,
                           stderr=open(self.cache / "logs" / "weights.log", "w"))
        return str(path)

    def bundle(self, quant):
        path = self.cache / "weights" / f"mien-{quant}.gguf"
        if not path.exists():
            say(f"making a bundle with random weights: {path.name}")
            part = path.with_suffix(".part")
            subprocess.run([self.mien, "pack", "--synthetic", "r1-omni-0.5b", "--seed", "1", "--quant", quant, "-o", part], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            part.rename(path)
        return path

    def command(self, name):
        kind, _, rest = name.partition("-")
        if kind == "mien":
            quant, _, context = rest.partition("-")
            more = ["--audio-context", context] if context else []
            return [self.mien, "bench", "--bundle", self.bundle(quant), "--steps", "--threads", str(THREADS), "--tokens",
                    str(self.tokens), *more]
        worker = [sys.executable, HERE / "worker.py", kind, "--threads", str(THREADS)]
        if kind == "llama":
            quant, flash, rows = rest.split("-")
            flash = ["--flash-attention"] if flash == "on" else []
            return worker + ["--weights", self.weights(f"gguf-{quant}", ".gguf"), "--rows", rows, *flash]
        if kind == "onnx":
            return worker + ["--weights", self.weights(name, ".onnx")]
        if kind == "torch":
            return worker + ["--type", rest]
        if kind == "ctranslate2":
            return worker + ["--weights", self.weights(kind, ""), "--type", "int8"]
        return worker + ["--weights", self.weights(kind, ".bin"), "--flash-attention"]

    def start(self, name):
        return Program(name, [str(part) for part in self.command(name)], self.cache / "logs" / f"{name}.log")

    def warm_up(self, name):
        kind = name.split("-")[0]
        if kind == "mien":
            return ["window", "hop"]
        if kind == "llama":
            return ["prefill", "decode 8"]
        if kind == "torch":
            return ["vision", "branches", "gate", *(["audio"] if name.endswith("bf16") else []), "prefill", "decode 2"]
        return ["run"]

    def __getitem__(self, name):
        if name not in self.running:
            say(f"starting {name}")
            program = self.running[name] = self.start(name)
            program.warmed = [program.step(step) for step in self.warm_up(name)]
        return self.running[name]

    def close(self, name):
        self.running.pop(name).close()

    def versions(self):
        return {name: program.facts for name, program in sorted(self.running.items())}


def survey(fleet, works):
    """Times every variant of each work and returns `{work: [{what, program, step, ms}, fastest first]}`."""
    found = {work: [] for work in works}
    wanted = [(program, work, what, step) for work in works for what, program, step in VARIANTS[work]]
    for program in dict.fromkeys(w[0] for w in wanted):
        peer = fleet[program]
        for _, work, what, step in (w for w in wanted if w[0] == program):
            ms = peer.step(step)["ms"]
            if ms < 3000:
                ms = min(ms, peer.step(step)["ms"])
            found[work].append({"what": what, "program": program, "step": step, "ms": ms, "version": peer.facts.get("version")})
            print(f"   {work:<12} {what:<48} {ms / 1e3:8.3f} s", file=sys.stderr, flush=True)
        if not program.startswith("torch"):         # slow to start, and every run takes it
            fleet.close(program)
    return {work: sorted(variants, key=lambda v: v["ms"]) for work, variants in found.items()}


class Run:
    """The pairs of one run: `series` holds a list of milliseconds for each thing that was timed, one per pair."""

    def __init__(self, fleet, best):
        self.fleet, self.best, self.series, self.turn = fleet, best, {}, 0
        self.shares, self.memory = [], {}

    def keep(self, name, ms):
        self.series.setdefault(name, []).append(ms)
        return ms

    def pair(self, ours, theirs):
        for one in (ours, theirs) if self.turn % 2 == 0 else (theirs, ours):
            one()

    def ours(self, quant, step, stage, name):
        answer = self.fleet[f"mien-{quant}"].step(step)
        facts = answer["stages"][stage]
        self.keep(name, facts["ms"])
        return facts

    def theirs(self, work, step=None, name=None):
        variant = self.best[work]
        return self.keep(name or f"peer {work}", self.fleet[variant["program"]].step(step or variant["step"])["ms"])

    def vision(self):
        def ours():
            answer = self.fleet["mien-q8_0"].step("vision")["stages"]
            self.keep("mien vision", answer["vision"]["ms"])
            self.keep("mien branches", answer["branches"]["ms"])
        self.pair(ours, lambda: self.theirs("vision"))
        self.theirs("branches")

    def audio(self):
        ceilings = self.fleet["mien-q8_0"].step("ceilings")["said"]

        def ours():
            facts = self.ours("q8_0", "audio", "audio", "mien audio")
            self.keep("share audio", facts["product_operations"] / facts["product_ms"] * 1e3 / ceilings["int8_per_s"])
        self.shares.append(ceilings)
        self.pair(ours, lambda: self.theirs("audio"))

    def prefill(self):
        self.ours("q8_0", "prefill", "prefill", "mien prefill q8_0")
        self.theirs("prefill")
        self.ours("q4_0", "prefill", "prefill", "mien prefill q4_0")

    def decode(self):
        for quant in ("q8_0", "q4_0"):
            ours = self.fleet[f"mien-{quant}"]

            def reading():
                self.shares.append(ours.step("ceilings")["said"])
                return self.shares[-1]["read_bytes_per_s"]

            def decode():
                before = reading()
                facts = self.ours(quant, "decode", "decode", f"mien decode {quant}")
                if facts["calls"] != self.fleet.tokens:
                    sys.exit(f"error: mien's answer ended after {facts['calls']} tokens, not {self.fleet.tokens}")
                # A virtual machine's share of the memory changes by the second.
                ceiling = (before + reading()) / 2
                self.keep(f"share decode {quant}", facts["bytes"] / facts["ms"] * 1e3 / ceiling)
            self.pair(decode, lambda: self.theirs(f"decode-{quant}", f"decode {self.fleet.tokens}"))

    def upstream(self, kind, torch):
        steps = ["vision", "branches", "gate", "audio", "prefill", f"decode {UPSTREAM_TOKENS[kind]}"]
        ms = [torch.step(step)["ms"] for step in steps]
        self.keep(f"upstream {kind}", sum(ms[:-1]) + ms[-1] * self.fleet.tokens / UPSTREAM_TOKENS[kind])

    def own_window(self, name="mien window"):
        self.keep(name, self.fleet["mien-q4_0"].step("window")["ms"])

    def window(self):
        self.pair(self.own_window, lambda: self.upstream("bf16", self.fleet["torch-bf16"]))

    def window_f32(self):
        self.pair(lambda: self.own_window("mien window beside f32"), lambda: self.upstream("f32", self.fleet["torch-f32"]))

    def hop(self):
        if len(self.series.get("mien window", [])) <= self.turn:
            self.own_window()
        self.keep("mien hop", self.fleet["mien-q4_0"].step("hop")["ms"])
        if self.fleet.short_audio:
            self.keep("mien short hop", self.fleet["mien-q4_0-speech"].step("hop")["ms"])
            self.keep("mien brief hop", self.fleet["mien-q4_0-brief"].step("hop")["ms"])

    def cold(self):
        def ours():
            program = self.fleet.start("mien-q4_0")
            first = program.step("label")
            total = (time.perf_counter() - program.begun) * 1e3
            program.close()
            towers = sum(s["ms"] for name, s in first["stages"].items() if name not in ("prefill", "score"))
            self.keep("mien ready", program.start_ms)
            self.keep("mien first scores", total)
            self.keep("mien first scores without towers", total - towers)

        def theirs():
            program = self.fleet.start(self.best["decode-q4_0"]["program"])
            self.keep("peer first token", program.facts["load_ms"] + program.step("prefill")["ms"])
            self.keep("peer load", program.facts["load_ms"])
            program.close()
        self.pair(ours, theirs)

    def measure_memory(self):
        for quant in ("q4_0", "q8_0"):
            program = self.fleet[f"mien-{quant}"]
            self.memory[quant] = {"file_bytes": program.facts["file_bytes"],
                                  "peak_bytes": max(step["peak_bytes"] for step in program.warmed)}


def main():
    ask = argparse.ArgumentParser(prog="tools/bench/peers", description="mien beside its peers on this machine, in one run.")
    ask.add_argument("--pairs", type=int, default=5, help="pairs of each row (default 5)")
    ask.add_argument("--only", choices=sorted(JOBS), action="append", help="these rows only; repeatable")
    ask.add_argument("--quick", action="store_true", help="one pair and short answers: shows that everything works, measures little")
    ask.add_argument("--survey", action="store_true", help="time the variants of the peers again, and choose the fastest anew")
    ask.add_argument("--whisper-cpp", action="store_true",
                     help="whisper.cpp among the variants too: slow to build, and about five times slower than ONNX Runtime")
    ask.add_argument("--keep", action="store_true", help="make this run tools/bench/result.json and quote it in tools/bench/README.md")
    ask.add_argument("--redraw", action="store_true", help="no run: picture and README.md beside it from tools/bench/result.json")
    ask.add_argument("--mien", type=Path, help=argparse.SUPPRESS)
    ask.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = ask.parse_args()
    if args.redraw:
        return report.quote(json.loads((HERE / "result.json").read_text()))
    if args.keep and (args.only or args.quick or args.pairs < 5):
        ask.error("--keep wants every row and at least five pairs")

    free = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable")) / 1e6
    jobs = list(dict.fromkeys(job for row in args.only or JOBS for job in JOBS[row]))
    if "window" in jobs and free < MEMORY_GB:
        sys.exit(f"error: {free:.0f} GB of memory are free; all peers at once want {MEMORY_GB}. Choose rows with --only")
    fleet = Fleet(args.mien, args.cache, TOKENS_QUICK if args.quick else TOKENS)
    said = subprocess.run([args.mien, "bench", "--help"], capture_output=True, text=True, check=True).stdout
    fleet.short_audio = "--audio-context" in said
    if args.whisper_cpp:
        VARIANTS["audio"].append(("whisper.cpp f16, flash attention on", "whisper.cpp", "run"))
    else:
        say("whisper.cpp is left out: about five times slower than ONNX Runtime and slow to build; --whisper-cpp takes it in")

    works = {"vision": ["vision", "branches"], "audio": ["audio"], "prefill": ["prefill"], "decode": ["decode-q8_0", "decode-q4_0"],
             "cold": ["decode-q4_0"]}
    needed = list(dict.fromkeys(work for job in jobs for work in works.get(job, [])))
    stored, machine = args.cache / "survey.json", report.machine()
    known = json.loads(stored.read_text()) if stored.exists() and not args.survey else {}
    known = known if known.get("machine") == machine else {"machine": machine}
    unknown = [w for w in needed if {v[1] for v in VARIANTS[w]} - {v["program"] for v in known.get(w, [])}]
    if unknown and args.quick:
        say("the variants of the peers have not been compared on this machine: the first of each work is taken")
        for work in unknown:
            what, program, step = VARIANTS[work][0]
            known[work] = [{"what": what, "program": program, "step": step, "ms": 0.0, "version": None}]
    elif unknown:
        say("timing the variants of the peers, once: the fastest of each work is paired with mien")
        known |= survey(fleet, unknown)
        stored.write_text(json.dumps(known, indent=1))

    run = Run(fleet, {work: known[work][0] for work in needed})
    begun, pairs, versions = time.perf_counter(), 1 if args.quick else args.pairs, {}
    if "memory" in jobs:
        run.measure_memory()
        jobs.remove("memory")
    for phase in ([job for job in jobs if job not in ALONE], [job for job in jobs if job in ALONE]):
        for run.turn in range(pairs if phase else 0):
            for job in phase:
                print(f"   pair {run.turn + 1} of {pairs}: {job}", file=sys.stderr, flush=True)
                getattr(run, job)()
            say(f"pair {run.turn + 1} of {pairs}, {time.perf_counter() - begun:.0f} s")
        versions |= fleet.versions()
        for name in list(fleet.running):
            fleet.close(name)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    result = {
        "machine": machine, "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "commit": commit, "threads": THREADS,
        "pairs": pairs, "tokens": fleet.tokens, "took_s": round(time.perf_counter() - begun),
        "foreign_load": round(median(Program.foreign or [0]), 4), "foreign_load_most": round(max(Program.foreign or [0]), 4),
        "survey": {work: known[work] for work in needed},
        "programs": versions, "memory": run.memory,
        "series": {name: [round(value, 4) for value in values] for name, values in run.series.items()},
        "ceilings": {key: median(c[key] for c in run.shares) for key, value in (run.shares or [{}])[0].items() if value},
        "short_audio": fleet.short_audio,
    }
    result["rows"] = report.rows(result)
    print(report.table(result))
    (args.cache / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.cache / "peers.svg").write_text(report.picture(result))
    say(f"written: {args.cache}/result.json and peers.svg")
    if args.keep:
        (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        report.quote(result)


if __name__ == "__main__":
    main()
