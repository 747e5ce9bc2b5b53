"""Bugs to plant in the kernels and in the emulated driver, one at a time, and the op tests that must notice. Used by tools/lane/cuda.

usage: plants.py list KIND              one line per plant: NAME TEST
       plants.py plant NAME TREE        changes that one thing in TREE/kernels or TREE/emulator, copies of those folders

A plant of the kind `order` must change what comes out, in one order of the threads or another. One of the kind `race` may change nothing: it
is the build that watches accesses that must see it. One of the kind `late` shows where the driver does everything at the latest moment, one of
the kind `ptx` where the compiled PTX is executed: it stands in the assembly that other lanes replace.

A plant whose place is not found exactly once is an error: the kernel changed, and the net has to be mended with it.
"""

import os
import sys

ORDER = {
    "barrier-missing-in-a-sum": (
        "norms",
        "parts.cuh",
        "    if (threadIdx.x % 32 == 0) room[warp] = x;\n    __syncthreads();\n    float sum = 0.0f;",
        "    if (threadIdx.x % 32 == 0) room[warp] = x;\n    float sum = 0.0f;",
    ),
    "barrier-missing-before-a-buffer-is-filled-again": (
        "linear",
        "linear_f32.cu",
        "sums[p][i / 2][i % 2]);\n        __syncthreads();",
        "sums[p][i / 2][i % 2]);",
    ),
    "barrier-missing-between-two-buffers": (
        "linear",
        "linear_tile.cu",
        "        copy_wait<1>();\n        __syncthreads();\n        if (step + 2",
        "        copy_wait<1>();\n        if (step + 2",
    ),
    "barrier-missing-before-keys-are-read": (
        "attend",
        "attend.cu",
        "        copy_wait<0>();\n        __syncthreads();\n        if (at + keys",
        "        copy_wait<0>();\n        if (at + keys",
    ),
    "barrier-missing-in-the-join-of-warps": (
        "cached_attention",
        "attend_split.cu",
        "        if (lane % 4 == 0) mine[padded] = state.top[h], mine[padded + 1] = state.sum[h];\n    }\n    __syncthreads();",
        "        if (lane % 4 == 0) mine[padded] = state.top[h], mine[padded + 1] = state.sum[h];\n    }",
    ),
    "first-block-joins": ("cached_attention", "attend_split.cu", "atomicInc(turn, count - 1) == count - 1", "atomicInc(turn, count - 1) == 0"),
    "bit-of-a-short-scale": ("linear", "parts.cuh", "* 128 & 0xbfff", "* 128 & 0xffff"),
    "barrier-missing-before-weights-are-replaced": (
        "attend",
        "attend_exact.cu",
        "value[(size_t)p * step + thread], mixed);\n        __syncthreads();",
        "value[(size_t)p * step + thread], mixed);",
    ),
    "barrier-missing-before-warps-compare": (
        "highest",
        "highest.cu",
        "room[threadIdx.x / 32] = key;\n    __syncthreads();",
        "room[threadIdx.x / 32] = key;",
    ),
    "wait-one-group-short": (
        "linear",
        "linear_tile.cu",
        "        copy_wait<1>();\n        __syncthreads();\n        if (step + 2",
        "        copy_wait<2>();\n        __syncthreads();\n        if (step + 2",
    ),
    "columns-in-another-order": ("linear", "narrow.cu", "column_at(p % GROUP)", "p % GROUP"),
    "offset-of-a-nibble": ("linear", "fragment.cuh", "0xe408e408u", "0xe407e408u"),
    "barrier-missing-before-warps-add-up": (
        "linear",
        "linear_few.cu",
        "= sums[t][i];\n    __syncthreads();",
        "= sums[t][i];",
    ),
    "barrier-missing-before-a-norm-is-read": (
        "a_norm",
        "linear_row.cu",
        "norm.out[c] = y;\n    }\n    __syncthreads();",
        "norm.out[c] = y;\n    }",
    ),
    "share-of-a-row-lost": ("linear", "linear_row.cu", "other < share; ++other", "other < share - 1; ++other"),
    "tail-of-rows-not-cut": ("linear", "linear_tile.cu", "            if (row >= e.rows) break;\n", ""),
    "tail-of-keys-read": ("attend", "attention.cuh", "const bool valid = first + row < count;", "const bool valid = true;"),
    "mask-one-too-wide": ("cached_attention", "attention.cuh", "+ i % 2 >= limit[i / 2])", "+ i % 2 > limit[i / 2])"),
    "shuffle-of-half-a-warp": (
        "norms",
        "parts.cuh",
        "    for (int step = 16; step; step /= 2) x += ",
        "    for (int step = 8; step; step /= 2) x += ",
    ),
    "shuffle-where-lanes-part": (
        "attend",
        "attention.cuh",
        "        state.sum[h] += __shfl_xor_sync(FULL, state.sum[h], 1);",
        "        if (state.sum[h] > 1.5f) state.sum[h] += __shfl_xor_sync(FULL, state.sum[h], 1);",
    ),
}

RACE = {
    "warp-barrier-missing-before-keys-are-read": (
        "cached_attention",
        "attend_split.cu",
        "        copy_wait<0>();\n        __syncwarp();",
        "        copy_wait<0>();",
    ),
    "warp-barrier-missing-before-keys-are-replaced": (
        "cached_attention",
        "attend_split.cu",
        "limit, scale);\n        __syncwarp();",
        "limit, scale);",
    ),
    "blocks-that-all-store-a-row": ("a_repeated_step", "attend_split.cu", "if (frequency && from <= start && start < stop) {", "if (frequency) {"),
    "fence-missing-before-a-turn": (
        "cached_attention",
        "attend_split.cu",
        "        __threadfence();\n        *last = ",
        "        *last = ",
    ),
    "fence-missing-behind-a-turn": (
        "cached_attention",
        "attend_split.cu",
        "== count - 1;\n        __threadfence();",
        "== count - 1;",
    ),
    "barrier-missing-before-a-turn": (
        "cached_attention",
        "attend_split.cu",
        "DEVICE bool last_of(unsigned count, unsigned *turn, int *last) {\n    __syncthreads();",
        "DEVICE bool last_of(unsigned count, unsigned *turn, int *last) {",
    ),
    "barrier-missing-before-a-tile-is-filled-again": (
        "linear",
        "linear_f32.cu",
        "sums[p][i / 2][i % 2]);\n        __syncthreads();",
        "sums[p][i / 2][i % 2]);",
    ),
}

# In the emulated driver: nobody waits, as where the launch code forgot to.
LATE = {
    "wait-forgotten": (
        "norms",
        "../emulator/driver.cpp",
        "CAPTURE_UNSUPPORTED : finish(stream_of(s));",
        "CAPTURE_UNSUPPORTED : SUCCESS;",
    ),
}

PTX = {
    "halves-packed-the-other-way": ("linear", "ptx.cuh", '"f"(high), "f"(low)', '"f"(low), "f"(high)'),
    "fragments-in-another-order": ("linear", "ptx.cuh", '"r"(a[0]), "r"(a[1]), "r"(a[2])', '"r"(a[0]), "r"(a[2]), "r"(a[1])'),
    "matrix-not-transposed": ("attend", "ptx.cuh", "ldmatrix.sync.aligned.m8n8.x4.trans.shared", "ldmatrix.sync.aligned.m8n8.x4.shared"),
    "words-of-a-load-exchanged": ("linear", "ptx.cuh", '"=r"(v.x), "=r"(v.y)', '"=r"(v.y), "=r"(v.x)'),
    "wait-for-no-copy": ("attend", "ptx.cuh", '"cp.async.wait_group %0;" ::"n"(pending)', '"cp.async.wait_group %0;" ::"n"(pending + 1)'),
}

KINDS = {"order": ORDER, "race": RACE, "late": LATE, "ptx": PTX}


def main():
    if sys.argv[1] == "list":
        for name, (test, *_) in KINDS[sys.argv[2]].items():
            print(name, test)
        return
    _, file, there, instead = (ORDER | RACE | LATE | PTX)[sys.argv[2]]
    path = os.path.normpath(os.path.join(sys.argv[3], "kernels", file))
    with open(path, encoding="utf-8") as lines:
        text = lines.read()
    if text.count(there) != 1:
        sys.exit(f"error: the place for `{sys.argv[2]}` stands {text.count(there)} times in {file}, not once")
    with open(path, "w", encoding="utf-8") as lines:
        lines.write(text.replace(there, instead))


if __name__ == "__main__":
    main()
