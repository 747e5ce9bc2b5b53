"""What a run of the peers says: rows with their targets, the table, the picture, and the block in tools/bench/README.md that quotes them."""

import platform
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
MARKS = ("<!-- peers: written by tools/bench/peers -->", "<!-- end of peers -->")


def machine():
    """The machine in words: processor, how many, what it multiplies with, memory, system."""
    facts, flags = {}, set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
        if key.strip() in ("flags", "Features"):
            flags |= set(value.split())
    known = {"avx2": "AVX2", "avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16", "asimddp": "dot product", "i8mm": "i8mm"}
    named = [name for flag, name in known.items() if flag in flags]
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    virtual = "virtual " if "hypervisor" in flags else ""
    model = facts.get("model name", platform.machine())
    return f"{model}, {cores} {virtual}processors ({', '.join(named)}), {memory:.0f} GiB, {platform.system()}"


def row(name, work, peer, theirs, ours, ratio, target, unit="s", note=""):
    """`target` is `(">=" or "<=", bound)` for the ratio. The shortfall is how far the ratio is from its bound."""
    sign, bound = target
    short = bound - ratio if sign == ">=" else ratio - bound
    return {"row": name, "work": work, "peer": peer, "theirs": theirs, "ours": ours, "ratio": ratio, "target": f"{sign} {bound:g}",
            "bound": bound, "sign": sign, "unit": unit, "pass": short <= 0, "short": max(0.0, short / bound), "note": note}


def rows(result):
    """Every row whose series the run has; each ratio is the median over the pairs."""
    s, out, tokens = result["series"], [], result["tokens"]
    best = {work: variants[0]["what"] for work, variants in result["survey"].items()}

    def has(*names):
        return all(name in s for name in names)

    def seconds(name):
        return median(s[name]) / 1e3

    def ratios(ours, theirs):
        return median(a / b for a, b in zip(s[ours], s[theirs]))

    def time(name, work, peer, ours, theirs, bound, note=""):
        if has(ours, theirs):
            out.append(row(name, work, peer, seconds(theirs), seconds(ours), ratios(ours, theirs), ("<=", bound), note=note))

    for quant, rate, share in (("q4_0", 1.4, 0.8), ("q8_0", 1.25, 0.85)):
        ours, theirs, read = f"mien decode {quant}", f"peer decode-{quant}", f"share decode {quant}"
        if not has(ours, theirs):
            continue
        # The first of mien's tokens takes the head alone, so that one step less is counted.
        out.append(row(f"decode {quant.upper()}", f"decode, {tokens} tokens after 974, {quant.upper()}", best[f"decode-{quant}"],
                       tokens / seconds(theirs), (tokens - 1) / seconds(ours), (tokens - 1) / tokens / ratios(ours, theirs),
                       (">=", rate), "tok/s"))
        ceiling = result["ceilings"]["read_bytes_per_s"] / 1e9
        out.append(row(f"read share {quant.upper()}", "the same, share of the read bandwidth", "measured ceiling", ceiling,
                       median(s[read]) * ceiling, median(s[read]), (">=", share), "GB/s"))
    for quant in ("q8_0", "q4_0"):
        time(f"prefill {quant.upper()}", f"prefill, 974 tokens, {quant.upper()}", best.get("prefill"), f"mien prefill {quant}",
             "peer prefill", 0.5)
    time("audio", "audio tower, 1500 positions", best.get("audio"), "mien audio", "peer audio", 0.75)
    if has("share audio"):
        ceiling = result["ceilings"]["int8_per_s"] / 1e9
        out.append(row("int8 share", "its products with weights, share of the int8 ceiling", "measured ceiling", ceiling,
                       median(s["share audio"]) * ceiling, median(s["share audio"]), (">=", 0.65), "GOP/s"))
    time("vision", "vision tower, 8 frames, the 11 layers that are read", best.get("vision"), "mien vision", "peer vision", 0.8)
    parts = ["peer vision", "peer branches", "peer audio", "peer prefill", "peer decode-q4_0"]
    if has("mien window", *parts):
        s["best of each stage"] = [sum(values) for values in zip(*(s[part] for part in parts))]
        time("window", f"whole window, label and {tokens} tokens, Q4_0", "sum of the best peer of each stage", "mien window",
             "best of each stage", 0.7)
    time("window, bf16", "the same", "upstream PyTorch bf16", "mien window", "upstream bf16", 0.3)
    time("window, f32", "the same", "upstream PyTorch f32", "mien window beside f32", "upstream f32", 0.16)
    time("hop", "a hop of one frame, label only, Q4_0", "our own whole window", "mien hop", "mien window", 0.65)
    time("short hop", "the same with the short audio context", "our own whole window", "mien short hop", "mien window", 0.2)
    time("brief hop", "the same with the brief audio context", "our own whole window", "mien brief hop", "mien window", 0.15)
    if has("mien brief hop"):
        out.append(row("kiosk", f"that hop, on {result['threads']} cores", "1.0 s", 1.0, seconds("mien brief hop"), seconds("mien brief hop"),
                       ("<=", 1.0)))
    time("cold start", "process start to first scores without the towers, Q4_0", "llama.cpp: load, 974 tokens, first token",
         "mien first scores without towers", "peer first token", 1.0,
         "page cache warm; the peer has no towers, and its process start is not counted")
    if has("mien ready"):
        out.append(row("start", "process start to the first window's compute, Q4_0", "1.5 s", 1.5, seconds("mien ready"),
                       seconds("mien ready") / 1.5, ("<=", 1.0), note=f"first scores after {seconds('mien first scores'):.2f} s"))
    for quant, sizes in result["memory"].items():
        allowed, peak = sizes["file_bytes"] / 1e6 + 250, sizes["peak_bytes"] / 1e6
        out.append(row(f"memory {quant.upper()}", f"peak memory, {quant.upper()}", "file + 250 MB", allowed, peak, peak / allowed,
                       ("<=", 1.0), "MB"))
    return out


def verdict(r):
    return "pass" if r["pass"] else f"short by {100 * r['short']:.1f} %"


def value(number, unit):
    return f"{number:.0f} {unit}" if unit in ("MB", "GOP/s") else f"{number:.1f} {unit}" if unit != "s" else f"{number:.2f} s"


HEAD = ("work", "peer", "peer's", "ours", "ratio", "target", "")


def cells(r):
    return (r["work"], r["peer"], value(r["theirs"], r["unit"]), value(r["ours"], r["unit"]), f"{r['ratio']:.2f}", r["target"], verdict(r))


def missing(result):
    """What of the table this run cannot say."""
    if "mien hop" in result["series"] and not result["short_audio"]:
        return ["a hop with the short audio context: not measured, mien bench has no --audio-context (target <= 0.2)"]
    return []


def table(result):
    lines = [HEAD, *map(cells, result["rows"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]

    def aligned(line):
        return "  ".join(cell.rjust(w) if 2 <= i <= 4 else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip()

    typical, most = (f"{100 * result[key]:.0f} %" for key in ("foreign_load", "foreign_load_most"))
    out = [result["machine"], f"mien {result['commit']}, {result['threads']} threads, {result['pairs']} pairs, {result['took_s']} s; "
           f"others took {typical} of the machine in the median step, {most} at most", ""]
    out += [aligned(HEAD), *(aligned(cells(r)) for r in result["rows"]), *missing(result), ""]
    out += [f"  {r['row']}: {r['note']}" for r in result["rows"] if r["note"]]
    out += ["", "variants of the peers, the fastest of each work is the peer above:"]
    for work, variants in result["survey"].items():
        out += [f"  {work:<12} {v['ms'] / 1e3:8.3f} s  {v['what']}, version {v['version']}" for v in variants if v["ms"]]
    flags = next((f["flags"] for f in result["programs"].values() if "flags" in f), None)
    out += [f"  llama.cpp: {flags.strip()}"] if flags else []
    passed = f"{sum(r['pass'] for r in result['rows'])} of {len(result['rows'])} rows pass"
    return "\n".join([*out, "", f"{passed}, {len(missing(result))} not measured" if missing(result) else passed])


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def picture(result):
    """One bar a row: our time as a share of the peer's, a tick where the target is. Shorter is better."""
    # Rates are turned round, so that every bar is a time or a size.
    bars = [(r, 1 / r["ratio"], 1 / r["bound"]) if r["sign"] == ">=" else (r, r["ratio"], r["bound"]) for r in result["rows"]
            if "share" not in r["row"]]
    left, wide, step, top = 330, 430, 30, 70
    most = max([1.05, *(share for _, share, _ in bars), *(bound for _, _, bound in bars)])
    scale, height = wide / most, top + step * len(bars) + 40
    at = lambda share: left + share * scale
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 180} {height}" font-family="sans-serif" font-size="13">',
           '<rect width="100%" height="100%" fill="#ffffff"/>',
           '<text x="16" y="26" font-size="16" font-weight="bold" fill="#1b1f24">mien beside the fastest peer: our time as a share of '
           'theirs</text>',
           f'<text x="16" y="46" fill="#57606a">{escape(result["machine"])}; {result["threads"]} threads, '
           f'median of {result["pairs"]} pairs</text>']
    for tick in range(0, int(most * 4) + 1):
        x = at(tick / 4)
        out += [f'<line x1="{x:.1f}" y1="{top - 8}" x2="{x:.1f}" y2="{height - 30}" stroke="{"#8c959f" if tick == 4 else "#eaeef2"}"/>',
                f'<text x="{x:.1f}" y="{height - 14}" text-anchor="middle" fill="#57606a">{25 * tick} %</text>']
    for i, (r, share, bound) in enumerate(bars):
        y = top + step * i
        colour = "#2f7d4f" if r["pass"] else "#c4622d"
        out += [f'<text x="{left - 10}" y="{y + 12}" text-anchor="end" fill="#1b1f24">{escape(r["row"])}'
                f'<tspan fill="#57606a">\u00a0· {escape(r["peer"].split(",")[0])}</tspan></text>',
                f'<rect x="{left}" y="{y}" width="{share * scale:.1f}" height="16" rx="2" fill="{colour}"/>',
                f'<line x1="{at(bound):.1f}" y1="{y - 3}" x2="{at(bound):.1f}" y2="{y + 19}" stroke="#1b1f24" stroke-width="2"/>',
                f'<text x="{left + wide + 12}" y="{y + 12}" fill="#1b1f24">{escape(value(r["ours"], r["unit"]))} / '
                f'{escape(value(r["theirs"], r["unit"]))}</text>']
    out.append(f'<text x="{left + wide + 12}" y="{height - 14}" fill="#57606a">ours / theirs; | target</text></svg>')
    return "\n".join(out) + "\n"


def markdown(result):
    load = f"{100 * result['foreign_load']:.0f} %"
    lines = [f"On {result['date']}: {result['machine']}. {result['threads']} threads, random weights of R1-Omni's shapes, ours and the",
             f"peer's in turn, median of {result['pairs']} pairs; others took {load} of the machine. Every figure and every variant",
             "that was tried: `result.json`.", "",
             "| " + " | ".join(HEAD) + " |", "|---|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cells(r)).replace("<=", "≤").replace(">=", "≥") + " |" for r in result["rows"]]
    lines += [line for what in missing(result) for line in ("", f"Not in the table: {what}.")]
    lines += ["", "![Our time as a share of the fastest peer's](peers.svg)"]
    return "\n".join(lines)


def quote(result):
    """The picture beside result.json, and the block of the page beside it."""
    (ROOT / "tools/bench/peers.svg").write_text(picture(result))
    readme = ROOT / "tools/bench/README.md"
    text = readme.read_text()
    if any(text.count(mark) != 1 for mark in MARKS):
        raise SystemExit(f"error: tools/bench/README.md must hold {MARKS[0]} and {MARKS[1]} once each; put them back and run --redraw")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text(f"{before}{MARKS[0]}\n{markdown(result)}\n{MARKS[1]}{after}")
    print("written: tools/bench/peers.svg and the block in tools/bench/README.md")
