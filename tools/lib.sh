# What the scripts in tools/ share. Source it: . "$(dirname "$0")/lib.sh"
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
export PATH="$HOME/.cargo/bin:$PATH"

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "this needs root: run it as root, or install sudo, then run it again. It wanted to run: $*"
    fi
}

# apt_need PACKAGE...: installs the Debian or Ubuntu packages that are missing, and names them.
apt_need() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "apt-get is missing: this script knows Debian and Ubuntu. Install by hand: ${missing[*]}"
    say "installing packages: ${missing[*]}"
    as_root apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}

rust_at_least() { # MAJOR.MINOR
    command -v cargo >/dev/null && command -v rustc >/dev/null &&
        [ "$(printf '%s\n' "$1" "$(rustc --version | cut -d' ' -f2)" | sort -V | head -n1)" = "$1" ]
}

# rust_need: a Rust toolchain of at least Cargo.toml's rust-version, from rustup or, on Debian 12, from its security suite.
rust_need() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    rust_at_least "$wanted" && return
    apt_need ca-certificates curl
    if curl -fsS -o /dev/null --max-time 20 https://sh.rustup.rs; then
        say "installing the Rust toolchain with rustup (in $HOME/.cargo)"
        curl -fsS https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c clippy -c rustfmt >&2
    else
        say "rustup cannot be reached: trying the distribution's newest Rust"
        apt_need rustc-web cargo-web rustfmt-web rust-web-clippy
    fi
    hash -r
    rust_at_least "$wanted" || die "Rust $wanted or newer is needed; install it from https://rustup.rs and run this again"
}

# What building mien needs, beside Rust: a C toolchain, ALSA's and V4L2's headers, libclang for the V4L2 bindings.
build_need() {
    apt_need build-essential pkg-config libasound2-dev libclang-dev
    rust_need
}

# python_need NAME REQUIREMENTS: prints the Python of .cache/NAME, which holds what the file asks for.
python_need() {
    local env=$cache/$1
    if ! cmp -s "$2" "$env/requirements.txt"; then
        apt_need python3 python3-venv
        say "installing $(tr '\n' ' ' <"$2")into .cache/$1"
        python3 -m venv "$env" >&2
        "$env/bin/pip" install -q --disable-pip-version-check -r "$2" >&2
        cp "$2" "$env/requirements.txt"
    fi
    echo "$env/bin/python"
}

# root_remove FOLDER: removes a root file system; what a cut-off debootstrap left mounted in it goes first.
root_remove() {
    local at
    while read -r at; do as_root umount "$at" || die "$at is mounted and in use: umount it"; done < <(awk -v in_it="$1/" 'index($2, in_it) == 1 {print $2}' /proc/self/mounts | sort -r)
    as_root rm -rf --one-file-system "$1"
}

# debian_root SUITE [PACKAGE,...]: prints the folder of a small root file system of this machine's architecture, with what mien's package
# needs, and with these packages.
debian_root() {
    local base
    apt_need debootstrap
    base=$cache/$1-$(dpkg --print-architecture)${2:+-$(sha256sum <<<"$2" | cut -c1-8)}
    if [ ! -f "$base/ready" ]; then
        say "a Debian root, $1 (a minute, once)"
        mkdir -p "$cache"
        root_remove "$base"
        as_root debootstrap --variant=minbase --include="adduser,libasound2${2:+,$2}" "$1" "$base" http://deb.debian.org/debian >"$cache/debootstrap.log" 2>&1 ||
            die "debootstrap failed: $(tail -n1 "$cache/debootstrap.log")"
        as_root touch "$base/ready"
    fi
    echo "$base"
}

# packages_whole FOLDER: whether what tools/release made there is what its SHA256SUMS says, where it has one.
packages_whole() {
    [ ! -f "$1/SHA256SUMS" ] || (cd "$1" && sha256sum --quiet --ignore-missing --check SHA256SUMS >/dev/null 2>&1)
}

# packages_for FOLDER ARCH...: prints the folder with the packages of these architectures. Without a FOLDER they are made, in a folder of their own,
# so that what tools/release left in target/packages stays.
packages_for() {
    local folder=${1:-target/packages-tested} arch debian
    [ -n "$1" ] || tools/release --out "$root/$folder" "${@:2}" >&2
    for arch in "${@:2}"; do
        debian=$(debian_of "$arch")
        ls "$folder"/mien_*_"$debian".deb >/dev/null 2>&1 || die "$folder has no mien_*_$debian.deb: tools/release $arch makes it"
    done
    echo "$folder"
}

# foreign_need ARCH: programs of another architecture start here through qemu, in a chroot too.
foreign_need() {
    local registered=/proc/sys/fs/binfmt_misc
    [ "$(uname -m)" != "$1" ] || return 0
    apt_need qemu-user-static
    [ -e $registered/register ] || as_root mount -t binfmt_misc binfmt_misc $registered
    [ -e "$registered/qemu-$1" ] || as_root sh -c "cat /usr/lib/binfmt.d/qemu-$1.conf >$registered/register" ||
        die "this machine cannot start programs for $1: its kernel has no binfmt_misc"
}

# debian_of ARCH: what Debian calls it.
debian_of() {
    case $1 in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) die "no packages for '$1'; there are x86_64 and aarch64" ;;
    esac
}

# sysroot_need ARCH: headers and libasound of an architecture in .cache/sysroot-ARCH, beside the system's: nothing is installed.
sysroot_need() {
    local debian folder=$cache/sysroot-$1
    debian=$(debian_of "$1")
    [ ! -f "$folder/ready" ] || return 0
    say "fetching libasound for $debian"
    mkdir -p "$folder/lists/partial" "$folder/debs/partial"
    local apt=(-oAPT::Architecture="$debian" -oAPT::Architectures="$debian" -oDir::State::Lists="$folder/lists" -oDir::Cache::archives="$folder/debs")
    apt-get "${apt[@]}" update -q >&2
    (cd "$folder/debs" && apt-get "${apt[@]}" download -q libasound2 libasound2-dev linux-libc-dev libc6-dev >&2)
    local package
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder"; done
    # Of glibc the headers alone: zig brings the library.
    find "$folder/usr/lib" \( -name '*.so' -o -name '*.a' -o -name '*.o' \) ! -name 'libasound*' -delete
    touch "$folder/ready"
}

# rust_target_need TRIPLE: the Rust library of another target.
rust_target_need() {
    [ ! -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ] || return 0
    command -v rustup >/dev/null || die "the Rust toolchain has no library for $1, and there is no rustup to add it"
    say "adding the Rust library for $1"
    rustup --quiet target add "$1" >&2
}

# kernels_fresh: whether the images in .cache/kernels are of the kernels as they stand.
kernels_fresh() {
    diff -rq --exclude '*.md' --exclude '*.json' "$root/kernels" "$cache/kernels/sources" >/dev/null 2>&1
}

# node_red_need: prints the folder of Node-RED, with PostgreSQL's client for its function nodes in pg/.
node_red_need() {
    local home=$cache/node-red
    command -v npm >/dev/null || apt_need nodejs npm
    if [ ! -f "$home/ready" ]; then
        say "fetching Node-RED (half a minute, once)"
        mkdir -p "$home/pg"
        (cd "$home" && npm install --silent --no-audit --no-fund --omit=dev node-red@4.1.15) >&2
        echo "{}" >"$home/pg/package.json"
        (cd "$home/pg" && npm install --silent --no-audit --no-fund --omit=dev pg@8.23.1) >&2
        touch "$home/ready"
    fi
    echo "$home"
}

# broker_start FOLDER PORT: a mosquitto that listens on this machine, its number in $broker; by FOLDER/broker.conf where that is there.
broker_start() {
    [ -f "$1/broker.conf" ] || printf 'listener %s 127.0.0.1\nallow_anonymous true\n' "$2" >"$1/broker.conf"
    PATH=$PATH:/usr/sbin mosquitto -c "$1/broker.conf" >>"$1/broker.log" 2>&1 &
    # shellcheck disable=SC2034
    broker=$!
    for _ in $(seq 100); do ! mosquitto_pub -p "$2" -t trial -n 2>/dev/null || return 0; sleep 0.1; done
    die "mosquitto does not start: $(tail -n1 "$1/broker.log")"
}
