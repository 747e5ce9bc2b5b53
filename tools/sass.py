"""What the compiled kernels ask of a GPU, from their machine code alone: no GPU, no run.

usage: sass.py NVDISASM CUBIN COMPILED LAUNCHES KEPT WINDOW MEASURED [--keep]

WINDOW and MEASURED are for tools/roofline.py: the launches of a window, and a card's report. COMPILED is what tools/nvrtc.py printed (registers, shared memory, spills), LAUNCHES the launch table (threads of a block), KEPT the figures
that were committed. Prints a table and the bounds that kernels/README.md states, and fails where a kernel spills, fewer blocks fit on a
multiprocessor, a kernel or its hot loop has over 3 % more instructions than were kept, or a window or a token takes over 3 % longer by them.

Counts are exact, clocks are a model: of a warp on its quarter of a multiprocessor of compute capability 8.7, with the rates of NVIDIA's CUDA
C++ Programming Guide (arithmetic instructions) and of the tensor cores of GA10x (512 f16 FMA a clock and quarter at half of it with f32
sums). Nothing is known of caches, bank conflicts or latencies. The hot loop is the innermost one with products of the tensor cores, else of bytes,
else of floats.
"""

import json
import re
import subprocess
import sys

import roofline

# Compute capability 8.7: CUDA C++ Programming Guide, technical specifications.
THREADS_MAX, BLOCKS_MAX, REGISTERS, SHARED = 1536, 16, 65536, 164 * 1024
# A block's own shared memory, and steps in which registers are given to a warp.
SHARED_OWN, REGISTER_STEP = 1024, 256

UNITS = {
    "tensor": ("HMMA", "IMMA"),
    "dot": ("IDP", "IDP4A"),
    "fma": ("FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2", "FMNMX", "FSETP", "FSEL"),
    "int": ("IMAD", "IADD3", "LOP3", "SHF", "LEA", "ISETP", "PRMT", "SEL", "IABS", "IMNMX", "VIADD", "PLOP3", "MOV", "BFE", "SGXT"),
    "xu": ("MUFU", "I2F", "F2I", "F2F", "F2FP", "I2I", "POPC", "FLO", "BREV", "I2FP"),
    "shared": ("LDS", "STS", "LDSM", "ATOMS"),
    "global": ("LDG", "STG", "LDGSTS", "RED", "ATOM", "ATOMG", "LD", "ST"),
}
# Clocks that an instruction of a warp holds its unit for.
CLOCKS = {"tensor": 8, "dot": 2, "fma": 1, "int": 2, "xu": 8}
# Four quarters share 128 bytes a clock.
BYTES_A_CLOCK = 32
SLACK = 1.03

PRODUCTS = ("linear_tile_q8", "linear_tile_q4", "linear_tile_q4s", "linear_low_q8", "linear_low_q4", "linear_low_q4s", "linear_low_f16")


def unit(op):
    base = op.split(".")[0]
    return next((name for name, ops in UNITS.items() if base in ops), "other")


def shared_bytes(op):
    """Bytes of a warp's access to shared memory."""
    if op.startswith("LDSM"):
        return 128 * int((re.search(r"M88\.(\d)", op) or [0, 1])[1])
    width = re.search(r"\.(32|64|128)\b", op)
    return 32 * (int(width[1]) // 8 if width else 4)


def functions(text):
    """Name, and its instructions as (label or opcode) with the target of a branch."""
    for part in re.split(r"^//-+ \.text\.", text, flags=re.M)[1:]:
        name = re.match(r"\w+", part)[0]
        lines = []
        for line in part.splitlines():
            label = re.match(r"(\.L_\w+):", line)
            if label:
                lines.append(("label", label[1]))
            found = re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)(.*);", line)
            if found:
                target = re.search(r"`\((\.L_\w+)\)", found[2])
                lines.append((found[1], target[1] if target else None))
        yield name, lines


def body(lines):
    """Opcodes up to the last exit: what follows is padding."""
    ops = [(at, op) for at, (op, _) in enumerate(lines) if op != "label"]
    last = max((at for at, op in ops if op in ("EXIT", "BRA")), default=len(lines))
    return [op for at, op in ops if at <= last and op != "NOP"]


def hot_loop(lines):
    """Opcodes of the loop with most products, without what holds such a loop; of two, the longer."""
    places = {target: at for at, (op, target) in enumerate(lines) if op == "label"}
    # What jumps to itself is the padding behind a kernel.
    spans = [(places[target], at) for at, (op, target) in enumerate(lines) if op.startswith("BRA") and places.get(target, at) < at - 1]
    loops = [(a, b, [op for op, _ in lines[a:b + 1] if op != "label"]) for a, b in spans]
    for kind in ("tensor", "dot", "fma", None):
        def products(ops):
            return sum(kind is None or unit(op) == kind for op in ops)
        some = [loop for loop in loops if products(loop[2])]
        inner = [(a, b, ops) for a, b, ops in some if not any(a <= c and d <= b and (a, b) != (c, d) for c, d, _ in some)]
        if inner:
            return max((ops for _, _, ops in inner), key=lambda ops: (products(ops), len(ops)))
    return []


def blocks_of(threads, registers, shared):
    warps = -(-threads // 32)
    a_warp = -(-registers * 32 // REGISTER_STEP) * REGISTER_STEP
    fits = [BLOCKS_MAX, THREADS_MAX // threads, REGISTERS // a_warp // warps, SHARED // (shared + SHARED_OWN)]
    return min(fits)


def measure(nvdisasm, cubin, compiled, launches):
    threads = {name: int(count) for name, count in re.findall(r"^    (\w+)\[(\d+)\]\(", open(launches).read(), re.M)}
    sizes = {}
    for arch, name, registers, shared, spilt in re.findall(r"^(\w+)\s+(\w+)\s+(\d+) registers\s+(\d+) B shared\s+\d+ B stack\s+(\d+) B spilt", open(compiled).read(), re.M):
        if cubin.endswith(f"{arch}.cubin"):
            sizes[name] = (int(registers), int(shared), int(spilt))
    text = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    out = {}
    for name, lines in functions(text):
        if name not in threads or name not in sizes:
            sys.exit(f"error: the kernel {name} is not in {launches if name not in threads else compiled}")
        registers, shared, spilt = sizes[name]
        loop = hot_loop(lines)
        counts = {kind: sum(unit(op) == kind for op in loop) for kind in (*UNITS, "other")}
        clocks = {kind: counts[kind] * CLOCKS[kind] for kind in CLOCKS}
        clocks["shared"] = sum(shared_bytes(op) for op in loop if unit(op) == "shared") // BYTES_A_CLOCK
        clocks["issue"] = len(loop)
        out[name] = {"threads": threads[name], "registers": registers, "shared": shared, "spilt": spilt, "blocks": blocks_of(threads[name], registers, shared),
                     "instructions": len(body(lines)), "loop": len(loop), "counts": counts, "clocks": clocks}
    missing = threads.keys() - out.keys()
    if missing:
        sys.exit(f"error: {cubin} has no kernel {', '.join(sorted(missing))}")
    return out


def table(found):
    print(f"{'kernel':20} threads  regs shared blocks  instr. | hot loop: instr. tensor shared   dot   fma   int    xu  clocks, bound by")
    for name, row in sorted(found.items()):
        clocks = row["clocks"]
        bound = max(clocks, key=clocks.get) if row["loop"] else "no loop"
        numbers = "".join(f"{clocks[kind]:6d}" for kind in ("tensor", "shared", "dot", "fma", "int", "xu"))
        print(f"{name:20} {row['threads']:7d} {row['registers']:5d} {row['shared']:6d} {row['blocks']:6d} {row['instructions']:7d} | {row['loop']:16d} {numbers}  {bound}")


def bounds(found, windows):
    """What kernels/README.md asks for, and how it stands."""
    rows, nano = [], windows["8/q4/brief"]
    for name in PRODUCTS:
        clocks = found[name]["clocks"]
        rows += [(f"{name}: {kind} clocks, of its tensor clocks", clocks[kind] / clocks["tensor"], limit, "<=") for kind, limit in (("shared", 0.7), ("issue", 0.8))]
    rows.append(("attend_split_64: instructions", found["attend_split_64"]["instructions"], 1200, "<="))
    rows.append(("gated_row_q8: blocks on a multiprocessor", found["gated_row_q8"]["blocks"], 2, ">="))
    rows += [("Orin Nano, q4 and brief: a window, ms at least", nano["window"], 1000, "<="), ("Orin Nano, q4 and brief: a token, ms at least", nano["token"], 3.8, "<="),
             ("the same: tiled products' bytes, of the least", nano["read"], 2.0, "<="), ("the same: nodes of a token's graph", nano["nodes"], 125, "<=")]
    print("\nbound                                                      is   asked")
    for what, value, limit, way in rows:
        held = value <= limit if way == "<=" else value >= limit
        shown = f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
        print(f"{what:52} {shown:>8} {way} {limit:,}  {'holds' if held else 'short'}")


def worse(found, windows, kept):
    was = kept.pop("windows")
    out = [f"{run}: {what} {value}, {was[run][what]} before" for run, row in windows.items() for what, value in row.items()
           if value > was.get(run, row)[what] * SLACK]
    for name, row in found.items():
        if row["spilt"]:
            out.append(f"{name} spills {row['spilt']} bytes")
        was = kept.get(name)
        if was is None:
            out.append(f"{name} is new")
            continue
        if row["blocks"] < was["blocks"]:
            out.append(f"{name}: {row['blocks']} blocks fit on a multiprocessor, {was['blocks']} did")
        out += [f"{name}: {row[what]} instructions in {place}, {was[what]} before" for what, place in (("instructions", "all"), ("loop", "its hot loop"))
                if row[what] > was[what] * SLACK]
    return out + [f"{name} is gone" for name in kept.keys() - found.keys()]


def main(nvdisasm, cubin, compiled, launches, kept, window, measured, *options):
    found = measure(nvdisasm, cubin, compiled, launches)
    table(found)
    windows = roofline.main(found, window, measured)
    bounds(found, windows)
    few = {name: {what: row[what] for what in ("blocks", "instructions", "loop")} for name, row in sorted(found.items())}
    if "--keep" in options:
        spills = [name for name, row in found.items() if row["spilt"]]
        if spills:
            sys.exit(f"error: {', '.join(spills)} spill: nothing was kept")
        rows = ",\n".join(f' {json.dumps(name)}: {json.dumps(row)}' for name, row in {**few, "windows": windows}.items())
        with open(kept, "w") as file:
            file.write("{\n" + rows + "\n}\n")
        return
    problems = worse(found, windows, json.load(open(kept)))
    if problems:
        sys.exit("error: " + "; ".join(problems) + "\n(tools/kernels report --keep takes the new figures over)")


if __name__ == "__main__":
    main(*sys.argv[1:])
