"""What a window and a token take at least on a board, from the launches of the code that ships and from the machine code of its kernels.

Called by tools/sass.py, with its counts and two files: kernels/launches.json and the report of a card that was measured.

For every launch: clocks of the unit that bounds its hot loop, times how often the loop runs, or the instructions that a block in the middle was
given (of the PTX, executed), whatever is more, over the blocks that a multiprocessor gets one after the other; bytes from DRAM, those of a
tiled product by its order of blocks and an L2 that keeps what was used last; the longer of both, and what lies between two launches. Of a
token, DRAM brings what a product asks for ahead while nothing else is asked of it. Latency, bank conflicts and clocks that fall are not in it: it is a floor that the code sets itself,
not a forecast. How far a floor lies below a measurement is shown on the card that was measured (tests/gpu).
"""

import json
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Board:
    """By NVIDIA's data sheets (Orin Nano 8 GB Super, AGX Orin 64 GB, H200 SXM); reading and products of the H200 as `mien bench` measured them."""

    multiprocessors: int
    hertz: float
    bytes_a_second: float
    l2_bytes: float
    between_s: float  # two kernels of a stream or graph: an assumption
    tensor: float = 8.0  # clocks of m16n8k16 on a quarter

    def scaled(self, kind):
        return self.tensor / 8.0 if kind == "tensor" else 1.0


# Orins read at three quarters of their pins' rate at best (an assumption).
BOARDS = {
    "orin nano": Board(8, 1.02e9, 0.75 * 102.4e9, 2e6, 1.8e-6),
    "agx orin": Board(16, 1.3e9, 0.75 * 204.8e9, 4e6, 1.6e-6),
    # 632 TFLOP/s of f16 products on registers: 6 clocks a product and quarter.
    "h200": Board(132, 1.755e9, 4.05e12, 50e6, 1.2e-6, 6.0),
}
BYTES = {0: 4.0, 1: 2.0, 2: 34 / 32, 3: 18 / 32, 4: 17 / 32}  # a weight, by its kind in kernels/parts.cuh
MMA = 16 * 8 * 16  # products of one instruction of a warp
POSITION = 1100  # of the token: its keys and values are those of a recorded step
GATED = 2  # the mode of kernels/linear_row.cu
STRIPS = int(re.search(r"\bSTRIPS = (\d+)", (Path(__file__).parents[1] / "kernels" / "linear_tile.cu").read_text())[1])


@dataclass
class Work:
    loops: float = 0.0  # of a warp's hot loop in a block
    read: float = 0.0
    write: float = 0.0
    least: float = 0.0  # bytes that must be read

    @property
    def dram(self):
        return self.read + self.write


def tiled(name, grid, a, row, board):
    high, across = (128 if "tile" in name else 64), (64 if a["mode"] == GATED else 128)
    outputs = a["w_rows"] // (2 if a["mode"] == GATED else 1)
    strips, columns = math.ceil(a["rows"] / high), math.ceil(outputs / across)
    strip, column = high * a["width"] * 2, 128 * a["w_width"] * BYTES[a["w_kind"]]
    kept, room, read = OrderedDict(), board.l2_bytes, 0.0
    at_once = board.multiprocessors * row["blocks"]
    for wave in range(0, grid[0], at_once):
        wanted = {}
        for block in range(wave, min(wave + at_once, grid[0])):
            band, place = divmod(block, STRIPS * columns)
            tall = min(STRIPS, strips - band * STRIPS)
            wanted["x", band * STRIPS + place % tall] = strip
            wanted["w", place // tall] = column
        for key, size in wanted.items():
            if key not in kept:
                read += size
            kept[key] = size
            kept.move_to_end(key)
        # What a wave does not use goes first; a wave that is larger than the cache keeps nothing beside it.
        while sum(kept.values()) > room and len(kept) > 1:
            kept.popitem(last=False)
    per_warp = high / 16 * 4 * a["width"] / 16
    least = strips * strip + columns * column
    return Work(per_warp / row["counts"]["tensor"], read, 4 * a["rows"] * outputs, least)


def few(grid, a, row):
    weights, x = a["w_rows"] * a["w_width"] * BYTES[a["w_kind"]], a["rows"] * a["width"] * 2
    return Work(4 * a["width"] / 16 / 8 / row["counts"]["tensor"], weights + x, 4 * a["rows"] * a["w_rows"], weights + x)


def single(grid, a, row):
    """A row through a matrix: each dp4a is 128 products of a warp, each FMA 32."""
    weights = a["w_rows"] * a["w_width"] * BYTES[a["w_kind"]]
    a_loop = row["counts"]["dot"] * 128 or row["counts"]["fma"] * 32
    warps = grid[0] * row["threads"] / 32
    return Work(a["w_rows"] * a["w_width"] / warps / a_loop, weights, 4 * a["w_rows"], weights)


def attention(name, grid, a, row):
    width, batch = int(name.rsplit("_", 1)[1]), grid[2]
    keys = -a["start"] if a["start"] < 0 else a["start"] + a["rows"] / 2
    read = batch * (a["rows"] * a["n_heads"] * a["head_dim"] * 4 + a["n_kv"] * a["pitch"] * width * 4)
    return Work(2 * keys * width / MMA * 16 / row["counts"]["tensor"], read, batch * a["rows"] * a["n_heads"] * a["head_dim"] * 4, read)


def split(name, grid, a, row):
    width = int(name.rsplit("_", 1)[1])
    read = a["n_kv"] * POSITION * width * 4
    return Work(2 * POSITION / grid[0] / 4 * width / MMA * 16 / row["counts"]["tensor"], read, 0, read)


def moved(name, grid, a):
    """Bytes read and written by kernels without products, as their headers state them."""
    blocks = grid[0] * grid[1] * grid[2]
    if name in ("layer_norm", "rms_norm", "rms_norm_quantised"):
        return blocks * a["cols"] * 4, blocks * a["cols"] * (5 if "quantised" in name else 4)
    if name == "narrow":
        return blocks * a["cols"] * 4, blocks * a["width"] * 2
    if name == "quantise":
        return a["cols"] * 4, a["width"]
    if name == "embed":
        return grid[0] * a["w_width"] * BYTES[a["w_kind"]], grid[0] * a["w_width"] * 4
    if name.startswith("heads"):
        values = grid[2] * a.get("all", a["rows"]) * 2 * a["n_kv"] * a["head_dim"]
        return values * 4, values * 2
    if name.startswith("rope_store"):
        q, kv = grid[0] * a["n_heads"] * a["head_dim"], grid[0] * 2 * a["n_kv"] * a["head_dim"]
        return 4 * (q + kv), 4 * q + 2 * kv
    if name == "likelihood":
        return grid[0] * a["len"] * 4, 0
    if name.startswith("highest"):
        return (a["len"] * 8 if name == "highest_parts" else 0), 0
    if name == "pool_rows":
        return grid[1] * a["group"] * a["cols"] * 4, grid[1] * a["cols"] * 4
    reads = {"add": 2, "mix": 2, "excite": 1, "halve": 4, "depthwise": 1, "unfold_patches": 1, "unfold_rows": 1 / 3, "unfold_time": 0.5}[name]
    return reads * a["count"] * 4, a["count"] * 4


def work(name, grid, a, row, board):
    if name.startswith(("linear_tile", "linear_low")):
        return tiled(name, grid, a, row, board)
    if name.startswith("linear_few"):
        return few(grid, a, row)
    if "_row_" in name:
        return single(grid, a, row)
    if name.startswith("attend_split"):
        return split(name, grid, a, row)
    if name.startswith("attend_"):
        return attention(name, grid, a, row)
    read, write = moved(name, grid, a)
    return Work(0, read, write, read)


def launch_s(name, grid, a, row, board):
    """Seconds of one launch's instructions at least, and its work."""
    w = work(name, grid, a, row, board)
    # Four quarters of a multiprocessor take the warps of a block between them.
    bound = max(clocks * board.scaled(kind) for kind, clocks in row["clocks"].items()) * row["threads"] / 128
    a_block = max(w.loops * bound, a["issued"] / 4)
    blocks = grid[0] * grid[1] * grid[2]
    core = math.ceil(blocks / board.multiprocessors) * a_block / board.hertz
    return core, w


def stage_s(launches, found, board):
    total = 0.0
    for name, grid, a, count in launches:
        core, w = launch_s(name, grid, a, found[name], board)
        total += count * (max(core, w.dram / board.bytes_a_second) + board.between_s)
    return total


def token_s(parts, found, board, ahead=True):
    """The launches of a token in their order. `asked` are bytes that the next product will find, as far as DRAM had time for them."""
    total, asked, brought = 0.0, 0.0, 0.0
    for place in parts["order"]:
        name, grid, a, _ = parts["token"][place]
        core, w = launch_s(name, grid, a, found[name], board)
        product = "_row_" in name
        dram = w.dram - (brought if product else 0.0)
        took = max(core, dram / board.bytes_a_second)
        if product:
            asked, brought = a.get("ahead", 0) if ahead else 0.0, 0.0
            idle = board.between_s
        else:
            idle = took - dram / board.bytes_a_second + board.between_s
        more = min(asked, idle * board.bytes_a_second)
        asked, brought = asked - more, brought + more
        total += took + board.between_s
    return total


def products(launches, found, board):
    """Bytes that tiled products read, over those that they must."""
    works = [(count, launch_s(name, grid, a, found[name], board)[1]) for name, grid, a, count in launches if name.startswith(("linear_tile", "linear_low"))]
    least = sum(count * w.least for count, w in works)
    return sum(count * w.read for count, w in works) / least if least else 0.0


def measured_ms(window):
    """Of the stages, and of a token."""
    return {row["stage"]: row["median_ms"] for row in window} | {"token": row["median_ms"] / row["calls"] for row in window if row["stage"] == "decode"}


def report(found, launches, measured):
    """Prints the table; returns ms of a window and of a token, bytes that products read and nodes of a token, run by run."""
    card = {name.split()[-1]: measured_ms(step["bench"]["window"]) for name, step in measured["steps"].items() if name.startswith("bench r1-omni")}
    stages = ("vision", "branches", "audio", "prefill", "score")
    print("\nmilliseconds at least, R1-Omni 0.5B: eight pictures, four seconds of sound (`whole` encodes 30), prompt, label scores; a token; all of them and 150 tokens")
    print(f"{'board':10} {'bundle and context':18}" + "".join(f"{stage:>10}" for stage in (*stages, "a token", "not ahead", "window")) + "   products read, of the least")
    out = {}
    for run, parts in launches.items():
        multiprocessors, quant, context = run.split("/")
        name, board = next((name, board) for name, board in BOARDS.items() if board.multiprocessors == int(multiprocessors))
        ms = {stage: 1e3 * stage_s(parts[stage], found, board) for stage in stages} | {"token": 1e3 * token_s(parts, found, board)}
        window = sum(ms[stage] for stage in stages) + 150 * ms["token"]
        read = max(products(parts[stage], found, board) for stage in ("vision", "audio", "prefill"))
        row = "".join(f"{ms[stage]:10.2f}" for stage in (*stages, "token"))
        print(f"{name:10} {quant + ' ' + context:18}{row}{1e3 * token_s(parts, found, board, ahead=False):10.2f}{window:10.0f}   {read:.2f}")
        if name == "h200" and context == "whole" and quant in card:
            print(f"{'':10} {'measured':18}" + "".join(f"{card[quant][stage]:10.2f}" for stage in (*stages, "token")))
            print(f"{'':10} {'times the floor':18}" + "".join(f"{card[quant][stage] / ms[stage]:10.1f}" for stage in (*stages, "token")))
        out[run] = {"window": round(window, 1), "token": round(ms["token"], 2), "read": round(read, 2), "nodes": sum(count for *_, count in parts["token"])}
    return out


def main(found, launches, measured):
    with open(launches) as a, open(measured) as b:
        return report(found, json.load(a), json.load(b))
