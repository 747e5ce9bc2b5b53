"""Compiles kernels/*.cu with NVRTC, the CUDA compiler as a library: no GPU, no CUDA toolkit, no header but ours.

usage: nvrtc.py LIBNVRTC OUT ARCH...    ARCH: sm_NN makes OUT/sm_NN.cubin, compute_NN makes OUT/compute_NN.ptx

Prints one line per kernel and architecture (registers, shared memory, spills) and fails where a kernel spills. All kernels of an
architecture are one image: they are joined in the order of their names, with line marks that keep messages pointing at their files.
"""

import ctypes
import glob
import os
import re
import sys


def joined(folder):
    """One program of all kernels, with every header of ours written out where it is first asked for."""
    seen = set()

    def text(name):
        if name in seen:
            return ""
        seen.add(name)
        out = [f'#line 1 "{name}"\n']
        with open(os.path.join(folder, name), encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                include = re.match(r'#include "(.+)"', line)
                if include:
                    out += [text(include[1]), f'#line {number + 1} "{name}"\n']
                elif not line.startswith("#pragma once"):
                    out.append(line)
        return "".join(out)

    return "".join(text(os.path.basename(p)) for p in sorted(glob.glob(os.path.join(folder, "*.cu"))))


def compile_one(nvrtc, source, arch, out):
    def ok(code, what):
        if code:
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            sys.exit(f"error: NVRTC, {what}: {nvrtc.nvrtcGetErrorString(code).decode()}")

    def fetched(size, get):
        length = ctypes.c_size_t()
        ok(size(program, ctypes.byref(length)), "asking for a size")
        room = ctypes.create_string_buffer(length.value)
        ok(get(program, room), "fetching a result")
        return room.raw[: length.value]

    binary = arch.startswith("sm_")
    program = ctypes.c_void_p()
    ok(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None), "creating a program")
    options = [f"--gpu-architecture={arch}", "--std=c++17"]
    if binary:
        options.append("--ptxas-options=-v")
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
    log = fetched(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).rstrip(b"\0").decode()
    if failed:
        sys.exit(f"error: {arch}: the kernels do not compile\n{log}")
    if binary:
        image, path = fetched(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), f"{arch}.cubin"
    else:
        image, path = fetched(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX), f"{arch}.ptx"
    with open(os.path.join(out, path), "wb") as file:
        file.write(image)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return report(arch, log) if binary else ([f"{arch:<11} {len(image)} bytes of PTX"], False)


def report(arch, log):
    """Lines for people, and whether a kernel spills. Warnings of the compiler are passed on."""
    lines, spilt = [], False
    entry = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        re.S,
    )
    for name, stack, stores, loads, registers, shared in entry.findall(log):
        spills = int(stores) + int(loads)
        spilt |= spills > 0
        lines.append(
            f"{arch:<11} {name:<18} {registers:>4} registers {shared or 0:>6} B shared {stack:>4} B stack {spills:>4} B spilt"
            + ("   SPILLS" if spills else "")
        )
    lines += [line for line in log.splitlines() if "warning" in line]
    return lines, spilt


def main():
    library, out, archs = sys.argv[1], sys.argv[2], sys.argv[3:]
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kernels")
    for builtins in glob.glob(os.path.join(os.path.dirname(library), "libnvrtc-builtins.so.*")):
        ctypes.CDLL(builtins, ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(library)
    source = joined(folder)
    os.makedirs(out, exist_ok=True)
    spilt = False
    for arch in archs:
        lines, spills = compile_one(nvrtc, source, arch, out)
        print("\n".join(lines), flush=True)
        spilt |= spills
    sys.exit("error: kernels spill registers to memory (see above)" if spilt else 0)


if __name__ == "__main__":
    main()
