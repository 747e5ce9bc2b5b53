# A board in the emulator, for lanes that source this: its power, its ssh, and its events, decoded at the other end of its serial line. Whoever
# sources it sets `seen`, the folder for what is seen, `packages`, the folder of tools/release, and `mien`, the program at the other end; and, where
# the board is to reach a broker and a web server of this machine, `broker_port` and `web_port`; and `beside`, a second disk.
# shellcheck shell=bash

port=2297
work=$(mktemp -d /tmp/mien.XXXXXX)
disk=$work/board.img
board='' pids=()
login=(-q -i "$work/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null)
leave() {
    local code=$?
    [ -z "$board" ] || kill -KILL "$board" 2>/dev/null || true
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    rm -rf "$work"
    [ $code = 0 ] || say "THE LANE DID NOT PASS; what it saw is in $seen"
    exit $code
}
trap leave EXIT
rm -rf "$seen"
mkdir -p "$seen"

checks=0
holds() { # WHAT COMMAND...
    local what=$1
    shift
    "$@" >/dev/null || die "does not hold: $what"
    printf '   %s\n' "$what" >&2
    checks=$((checks + 1))
}

# A key and a certificate of each name.
signers() { # NAME...
    local name
    for name in "$@"; do
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=$name" -keyout "$work/$name.key" -out "$work/$name.pem" 2>/dev/null
    done
}

# An image with mien on it, whose config names this bundle: flashed BUNDLE [OPTIONS of tools/board/flash]
flashed() {
    tools/vm/image "$disk"
    ssh-keygen -q -t ed25519 -N '' -f "$work/key"
    cat >"$work/site.toml" <<SITE
device = "vm"
state_dir = "/var/lib/mien"

[model]
bundle = "$1"

[camera]
width = 320
height = 180
frames_per_second = 5

[mic]
device = "hw:Loopback,1,0"

[window]
window_ms = 2000
hop_ms = 2000

[policy]
enter = 0.02
exit = 0.01
dwell_ms = 0

[sink.serial]
tty = "/dev/ttyS0"

[privacy]
purpose = "museum-guide"
SITE
    [ -z "${broker_port:-}" ] || printf '\n[sink.mqtt]\nhost = "10.0.2.100"\n' >>"$work/site.toml"
    tools/board/flash "$disk" --write --packages "$packages" --config "$work/site.toml" --board generic-arm64 --ssh-key "$work/key.pub" "${@:2}"
}

# The other end of its serial line.
listen() {
    socat "pty,raw,echo=0,link=$work/inside" "pty,raw,echo=0,link=$work/outside" &
    pids+=($!)
    for _ in $(seq 50); do [ ! -e "$work/outside" ] || break; sleep 0.1; done
    "$mien" watch "$work/outside" --json >"$seen/watch.jsonl" 2>"$seen/watch.log" &
    pids+=($!)
}

power_on() {
    tools/vm/run "$disk" "$seen/console.log" "$work/inside" --ssh $port ${broker_port:+--reach "$broker_port" "$web_port"} \
        ${beside:+--beside "$beside"} >>"$seen/qemu.log" 2>&1 &
    board=$!
}
cut_power() {
    kill -KILL "$board"
    wait "$board" 2>/dev/null || true
    board=''
}
on() { # COMMAND...
    ssh -n "${login[@]}" -o ConnectTimeout=5 -o ServerAliveInterval=5 -p $port root@127.0.0.1 "$@"
}
up() {
    local i
    for i in $(seq 120); do ! on true 2>/dev/null || return 0; sleep 1; done
    tail -n 3 "$seen/console.log" >&2
    die "the board does not answer after $i tries"
}
bring() { # FILE...
    scp "${login[@]}" -P $port "$@" root@127.0.0.1:/root/
}

mark=0
set_mark() { mark=$(wc -l <"$seen/watch.jsonl"); }
# The seconds until an event comes, from the mark.
event() { # SECONDS
    local begin=$SECONDS
    while [ $((SECONDS - begin)) -lt "$1" ]; do
        if tail -n "+$((mark + 1))" "$seen/watch.jsonl" | grep -q '"event":"begin"'; then echo $((SECONDS - begin)); return 0; fi
        sleep 0.5
    done
    return 1
}

# What a receiver keeps: each event once, by its boot and number; the begin that a power cut came upon may be told again.
events_pair() {
    python3 - "$seen/watch.jsonl" <<'CHECK' || die "events do not add up"
import collections, json, sys
told = {}
for line in open(sys.argv[1]):
    line = json.loads(line)
    if line["type"] == "event":
        told[line.get("boot"), line["seq"]] = line
count = lambda kind: collections.Counter(event["episode"] for event in told.values() if event["event"] == kind)
began, ended = count("begin"), count("end")
print(f"   {len(began)} episodes began and {len(ended)} ended, over {len({boot for boot, _ in told})} boots of the daemon", file=sys.stderr)
assert set(began) == set(ended), f"began or ended alone: {set(began) ^ set(ended)}"
assert set(began.values()) == set(ended.values()) == {1}, f"twice: {began + ended}"
CHECK
    holds "one end for each begin" true
}
