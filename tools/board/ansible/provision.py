"""Brings boards over ssh to one state and sees that they work: plan, apply, verify, a table, an inventory by serial number."""

import argparse
import csv
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
# Without a master connection: one that hangs hides that the link is cut.
SSH = (
    "-o ControlMaster=no -o ServerAliveInterval=3 -o ServerAliveCountMax=2 -o ConnectTimeout=10 "
    "-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={known}"
)
SPARE_BYTES = 16_000_000


def refuse(text):
    print(f"refused: {text}", file=sys.stderr)
    sys.exit(3)


def arguments():
    parser = argparse.ArgumentParser(
        prog="tools/board/provision",
        description="Brings boards that are reached over ssh to one state: packages, config, board, service, and a first event seen. "
        "Without --apply it looks, says what it would do, and changes nothing.",
        epilog="Exit codes: 0 every board is well, 1 some are not, 2 wrong arguments, 3 refused: nothing was changed.",
    )
    parser.add_argument("hosts", nargs="*", metavar="[SERIAL=]HOST[:PORT]", help="a board, with the serial number that it must have")
    parser.add_argument("--hosts", dest="file", type=Path, help="a file with a board on each line, in the same form")
    parser.add_argument("--apply", action="store_true", help="do it")
    parser.add_argument("--resume", action="store_true", help="only boards that were not well the last time")
    parser.add_argument("--reinstall", action="store_true", help="also boards that have it already")
    parser.add_argument("--packages", type=Path, default=ROOT / "target/packages", help="what tools/release made")
    parser.add_argument("--config", type=Path, help="the site's config; without it a board keeps its own")
    parser.add_argument("--board", help="a folder of board/; without it the package finds it")
    parser.add_argument("--user", default="root", help="who logs in; another than root needs sudo without a password")
    parser.add_argument("--key", type=Path, help="the private ssh key")
    parser.add_argument("--first", choices=["event", "window"], default="event", help="what has to come from each board")
    parser.add_argument("--within", type=int, default=60, metavar="SECONDS", help="how soon it has to come")
    parser.add_argument("--state", type=Path, default=ROOT / ".cache/provision", help="where host keys, the log and the inventory are kept")
    parser.add_argument("--csv", type=Path, help="write the table")
    parser.add_argument("--json", type=Path, help="write the table, with what mien doctor said")
    return parser.parse_args()


def read_hosts(args):
    """Boards by name: address, port, and the serial number that is expected, or ''."""
    words = list(args.hosts)
    if args.file:
        if not args.file.is_file():
            refuse(f"there is no file {args.file}")
        lines = (line.split("#")[0].strip() for line in args.file.read_text(encoding="utf-8").splitlines())
        words += [line for line in lines if line]
    if not words:
        refuse("no board was named: tools/board/provision HOST..., or --hosts FILE")
    boards, serials = {}, {}
    for word in words:
        serial, _, place = word.rpartition("=")
        address, port = re.fullmatch(r"(\[[^]]+\]|[^:]+|[^:]*:[^:]*:.*)(?::(\d+))?", place).groups() if place else ("", None)
        if not address or not re.fullmatch(r"[\w.:%\[\]-]+", address):
            refuse(f"'{word}' is no board: [SERIAL=]HOST[:PORT]")
        # Ansible takes what follows a colon in a name for a port.
        name = re.sub(r"[^\w.-]+", "-", place).strip("-")
        if name in boards:
            refuse(f"{place} is named twice")
        if serial and serial in serials:
            refuse(f"{place} and {serials[serial]} are to have one serial number, {serial}")
        serials[serial] = place
        boards[name] = {"place": place, "ansible_host": address.strip("[]"), "ansible_port": int(port or 22), "expected": serial}
    return boards


@functools.cache
def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Packages:
    """What tools/release made, checked against its own list."""

    def __init__(self, folder):
        self.debs = {}
        for path in sorted(folder.glob("mien_*.deb")):
            self.debs[path.stem.rsplit("_", 1)[1]] = path
        self.bundles = sorted(folder.glob("mien-*-bundle_*_all.deb"))
        if not self.debs:
            refuse(f"{folder} has no mien_*.deb: tools/release makes them")
        sums = folder / "SHA256SUMS"
        if sums.is_file():
            for line in sums.read_text(encoding="utf-8").splitlines():
                digest, name = line.split(maxsplit=1)
                path = folder / name.lstrip("*")
                if path.is_file() and sha256(path) != digest:
                    refuse(f"{path} is not what SHA256SUMS says: bring it again, or make it with tools/release")

    @functools.cache
    def field(self, path, name):
        return subprocess.run(["dpkg-deb", "-f", path, name], check=True, capture_output=True, text=True).stdout.strip()

    def for_arch(self, arch):
        return [self.debs[arch], *self.bundles]

    def need_bytes(self, arch):
        sizes = [int(self.field(path, "Installed-Size") or 0) * 1024 + 2 * path.stat().st_size for path in self.for_arch(arch)]
        return sum(sizes) + SPARE_BYTES

    @functools.cache
    def program_sha256(self, arch):
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", self.debs[arch]], check=True, capture_output=True).stdout
        program = subprocess.run(["tar", "-xO", "./usr/bin/mien"], input=tar, check=True, capture_output=True).stdout
        return hashlib.sha256(program).hexdigest()

    def manifest(self, arch, config, board):
        """The same as tools/board/flash writes."""
        lines = [f"version {self.field(self.debs[arch], 'Version')}"]
        files = self.for_arch(arch) + ([config] if config else [])
        lines += [f"{sha256(path)} {path.name}" for path in files]
        lines.append(f"board {board or 'found at the first start'}")
        return "\n".join(lines) + "\n"


def play(args, book, boards, work):
    """Runs a playbook; what each board said, and how it failed."""
    inventory, results = work / "inventory.json", work / "results.json"
    args.state.mkdir(parents=True, exist_ok=True)
    shared = {
        "ansible_user": args.user,
        "ansible_ssh_common_args": SSH.format(known=args.state.resolve() / "known_hosts"),
        "ansible_python_interpreter": "/usr/bin/python3",
        "escalate": args.user != "root",
    }
    if args.key:
        shared["ansible_ssh_private_key_file"] = str(args.key.resolve())
    inventory.write_text(json.dumps({"all": {"hosts": boards, "vars": shared}}), encoding="utf-8")
    results.unlink(missing_ok=True)
    env = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
        "ANSIBLE_STDOUT_CALLBACK": "boards",
        "ANSIBLE_SSH_ARGS": "",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_LOG_PATH": str(args.state / "log"),
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_DEPRECATION_WARNINGS": "0",
        "MIEN_RESULTS": str(results),
    }
    command = ["ansible-playbook", "-i", inventory, "--forks", "16", "--timeout", "10", HERE / book]
    done = subprocess.run(command, env=env, cwd=work, stdin=subprocess.DEVNULL, check=False)
    if not results.is_file():
        sys.exit(f"error: ansible-playbook ended with {done.returncode} and said nothing of any board: see {args.state / 'log'}")
    said = json.loads(results.read_text(encoding="utf-8"))
    nothing = {"said": {}, "changed": 0, "failed": "said nothing", "step": ""}
    return {name: said.get(name, nothing) for name in boards}


def look(args, boards, packages, work):
    """Rows of the table, with what is wrong with each board before anything is done."""
    rows = {}
    for name, told in play(args, "look.yml", boards, work).items():
        facts = {}
        for line in told["said"].get("Looking", "").splitlines():
            key, _, value = line.strip().partition("=")
            facts[key] = value
        row = {"host": boards[name]["place"], "serial": facts.get("serial", ""), "model": facts.get("model", "")}
        row.update(system=facts.get("system", ""), arch=facts.get("arch", ""), before=facts.get("installed", ""))
        row.update(wrong=told["failed"], plan="", first_s="", state="", doctor=[])
        rows[name] = row
        if row["wrong"]:
            continue
        expected, arch = boards[name]["expected"], row["arch"]
        if expected and expected != row["serial"]:
            row["wrong"] = f"its serial number is {row['serial']}, not {expected}: is it another board?"
        elif "missing" in facts:
            row["wrong"] = f"it has no {facts['missing']}: bring it along, or flash the board with tools/board/flash"
        elif arch not in packages.debs:
            row["wrong"] = f"it is {arch}, and there are packages for {', '.join(packages.debs)}: tools/release makes others"
        elif int(facts["free"]) < packages.need_bytes(arch):
            need = packages.need_bytes(arch) // 1_000_000
            row["wrong"] = f"/var has {int(facts['free']) // 1_000_000} MB free, and {need} are needed"
        else:
            manifest = packages.manifest(arch, args.config, args.board)
            same = hashlib.sha256(manifest.encode()).hexdigest() == facts["manifest"]
            version = packages.field(packages.debs[arch], "Version")
            row["plan"] = "nothing" if same and not args.reinstall else f"{row['before'] or 'none'} -> {version}"
    seen = {}
    for row in rows.values():
        if row["serial"]:
            seen.setdefault(row["serial"], []).append(row)
    for serial, twins in seen.items():
        if len(twins) > 1:
            names = " and ".join(row["host"] for row in twins)
            for row in twins:
                row["wrong"] = f"{names} have one serial number, {serial}: is it one board, or a copied image?"
    return rows


def apply(args, boards, rows, packages, work):
    ready = {}
    for name, row in rows.items():
        if row["wrong"]:
            continue
        arch = row["arch"]
        manifest = work / f"manifest-{arch}"
        manifest.write_text(packages.manifest(arch, args.config, args.board), encoding="utf-8")
        ready[name] = {
            **boards[name],
            "install": row["plan"] != "nothing",
            "packages": [str(path.resolve()) for path in packages.for_arch(arch)],
            "config": str(args.config.resolve()) if args.config else "",
            "board": args.board or "",
            "program_sha256": packages.program_sha256(arch),
            "manifest": str(manifest),
            "first": args.first,
            "within": args.within,
        }
    if not ready:
        return
    for name, told in play(args, "apply.yml", ready, work).items():
        row = rows[name]
        row["changed"] = told["changed"]
        if told["failed"]:
            row["wrong"] = f"{told['step'].lower()}: {told['failed']}" if told["step"] else told["failed"]
        said = told["said"].get(f"Waiting for the first {args.first}", "")
        if said:
            row["first_s"], _, row["state"] = said.strip().splitlines()[-1].partition(" ")
        try:
            row["doctor"] = json.loads(told["said"].get("doctor") or "[]")
        except json.JSONDecodeError:
            row["doctor"] = []


def table(args, rows):
    columns = ["board", "serial", "system", "mien", f"first {args.first}", "how it stands"]
    lines = []
    for row in rows.values():
        how = row["wrong"] or ("well" if args.apply else "ready")
        if args.apply and not row["wrong"]:
            how = f"well, {row['changed']} changes" if row["changed"] else "well, nothing to do"
        first = f"{row['first_s']} s" if row["first_s"] else "-"
        lines.append([row["host"], row["serial"] or "-", row["system"] or "-", row["plan"] or "-", first, how])
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns) - 1)]
    for line in [columns, *lines]:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths)), line[-1]]))


def keep(args, rows):
    """The inventory by serial number: every board that was ever provisioned from here, as it was the last time."""
    path = args.state / "boards.json"
    inventory = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for row in rows.values():
        key = row["serial"] if row["serial"] and "one serial number" not in row["wrong"] else f"at {row['host']}"
        inventory[key] = {**row, "at": now}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(inventory, indent=1), encoding="utf-8")
    new.replace(path)


def unwell(args, boards):
    """The boards that were not well the last time, or never seen."""
    path = args.state / "boards.json"
    if not path.is_file():
        return boards
    known = json.loads(path.read_text(encoding="utf-8")).values()
    last = {}
    for row in sorted(known, key=lambda row: row["at"]):
        last[row["host"]] = row["wrong"]
    return {name: board for name, board in boards.items() if last.get(board["place"], "new")}


def main():
    args = arguments()
    if args.config and not args.config.is_file():
        refuse(f"there is no config {args.config}")
    if args.board and not (ROOT / "board" / args.board / "profile.toml").is_file():
        names = sorted(path.parent.name for path in (ROOT / "board").glob("*/profile.toml"))
        refuse(f"there is no board/{args.board}; boards are {', '.join(names)}")
    if args.key and not args.key.is_file():
        refuse(f"there is no key {args.key}")
    boards = read_hosts(args)
    packages = Packages(args.packages)
    if args.resume:
        boards = unwell(args, boards)
        if not boards:
            print("nothing to do: every board was well the last time")
            return 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = look(args, boards, packages, work)
        if args.apply:
            apply(args, boards, rows, packages, work)
    table(args, rows)
    if args.apply:
        keep(args, rows)
    else:
        print("nothing was changed; --apply does it")
    if args.json:
        args.json.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            names = ["host", "serial", "model", "system", "arch", "before", "plan", "first_s", "state", "wrong"]
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows.values())
    return int(any(row["wrong"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
