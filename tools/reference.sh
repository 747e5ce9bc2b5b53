# What the parity lanes share. Source it after lib.sh.
# shellcheck shell=bash

# Where the reference programs are, when this machine has them.
reference=${MIEN_REFERENCE:-$root/../shared/reference}

# reference_need: a virtual environment with what the reference programs import, in .cache/reference.
reference_need() {
    python=${MIEN_PYTHON:-$cache/reference/bin/python}
    "$python" -c 'import torch, transformers, timm, PIL, safetensors' 2>/dev/null && return
    [ -z "${MIEN_PYTHON:-}" ] || die "$MIEN_PYTHON cannot import torch, transformers, timm, PIL and safetensors"
    command -v python3 >/dev/null || apt_need python3 python3-venv
    python3 -c 'import ensurepip' 2>/dev/null || apt_need python3-venv
    say "installing torch, transformers and timm into .cache/reference (about 1 GB, once)"
    python3 -m venv "$cache/reference"
    "$cache/reference/bin/pip" install -q --index-url https://download.pytorch.org/whl/cpu torch==2.5.1 ||
        "$cache/reference/bin/pip" install -q torch==2.5.1
    "$cache/reference/bin/pip" install -q transformers==4.49.0 timm==1.0.15 tokenizers==0.21.0 pillow==11.1.0 numpy==1.26.4 \
        safetensors==0.8.0
}

# unpack DUMP.npz FOLDER: one .npy per stage, channels last, as tests/parity_lane.rs reads them.
unpack() {
    mkdir -p "$2"
    "$python" - "$1" "$2" <<'EOF'
import sys
import numpy as np

for name, value in np.load(sys.argv[1]).items():
    if name.endswith(("_s1", "_s2")):
        value = value.transpose(0, 2, 3, 1)     # frames, channels, rows, columns
    elif name.endswith("_sampler"):
        value = value.transpose(1, 2, 3, 0)     # channels, frames, rows, columns
    elif name == "mel":
        value = value.T
    if value.dtype.kind in "if":
        value = value.astype("<i4" if value.dtype.kind == "i" else "<f4")
    np.save(f"{sys.argv[2]}/{name}.npy", np.ascontiguousarray(value))
EOF
}

# compare ARGUMENT...: one table of tests/parity_lane.rs; a failure is kept for the end.
failures=0
compare() {
    echo
    echo "-- $1"
    shift
    "$lane_program" "$@" || failures=$((failures + 1))
}

# lane_build: builds mien and the comparing program, once for all tables. MIEN_LANE_PROFILE=dev builds faster and runs slower.
lane_build() {
    local profile=${MIEN_LANE_PROFILE:-release} folder
    say "building mien and the parity lane ($profile)"
    # One command for both: cargo builds the program that integration tests may run, with the same features.
    lane_program=$(cargo test --locked --quiet --profile "$profile" --no-run --test parity_lane --message-format json |
        sed -n 's/.*"executable":"\([^"]*parity_lane[^"]*\)".*/\1/p' | tail -n1)
    [ -x "$lane_program" ] || die "cargo did not say where it built the parity lane"
    folder=$profile
    [ "$profile" != dev ] || folder=debug
    mien=${CARGO_TARGET_DIR:-$root/target}/$folder/mien
    [ -x "$mien" ] || die "cargo did not build $mien"
}
