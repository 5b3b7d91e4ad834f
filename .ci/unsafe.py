#!/usr/bin/env python3
"""Which crates of the program have unsafe code, and whether docs/unsafe.md gives a reason for each.

Looks at what the release is built from, on Linux x86_64: crates that are linked into it, and those that
run while it is built. Needs their sources, which any build has fetched. Says what is new and what is
stale, and ends with 1 if anything is. `--list` prints them with how often they say it.
"""

import json
import pathlib
import re
import subprocess
import sys

TARGET = "x86_64-unknown-linux-gnu"
LIST = pathlib.Path(__file__).parent.parent / "docs" / "unsafe.md"
# Comments, strings and character literals, in which the word means nothing.
NO_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(?P<hashes>\#*)".*?"(?P=hashes)|b?"(?:\\.|[^"\\])*"|b?'(?:\\.|[^'\\])'""",
    re.DOTALL,
)
UNSAFE = re.compile(r"\bunsafe\b\s*(?:\{|fn\b|impl\b|trait\b|extern\b|\()")
# Not compiled into what others use.
LEFT_OUT = {"tests", "benches", "examples", "fuzz", "target"}


def cargo(*arguments):
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def crates(edges):
    """Name and version of each that these edges lead to."""
    shown = cargo("tree", "--target", TARGET, "--edges", edges, "--prefix", "none", "--format", "{p}")
    named = {tuple(line.split()[:2]) for line in shown.splitlines() if line.strip()}
    return {(name, version.removeprefix("v")) for name, version in named} - {OURS}


def packages():
    metadata = json.loads(cargo("metadata", "--format-version", "1"))
    return {(it["name"], it["version"]): it for it in metadata["packages"]}


def uses(package):
    """How often a crate's own sources say it."""
    folder = pathlib.Path(package["manifest_path"]).parent
    count = 0
    for path in folder.rglob("*.rs"):
        parts = path.relative_to(folder).parts
        if LEFT_OUT.isdisjoint(parts[:-1]):
            text = NO_CODE.sub(" ", path.read_text(encoding="utf-8", errors="replace"))
            count += len(UNSAFE.findall(text))
    return count


def listed():
    """The crates that the document has a row for: its first cell names them, in backticks."""
    rows = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


PACKAGES = packages()
OURS = next(key for key in PACKAGES if key[0] == "backstop")


def main():
    linked = crates("normal,no-proc-macro")
    counts = {key: uses(PACKAGES[key]) for key in crates("normal,build")}
    have = {key: count for key, count in counts.items() if count}
    if "--list" in sys.argv:
        for (name, version), count in sorted(have.items()):
            where = "linked" if (name, version) in linked else "build"
            print(f"{name:<28} {version:<16} {where:<7} {count}")
        return 0

    names = {name for name, _ in have}
    known = listed()
    for name in sorted(names - known):
        print(f"{name} has unsafe code and no row in docs/unsafe.md: read it, and say there why it is trusted")
    for name in sorted(known - names):
        print(f"{name} has a row in docs/unsafe.md and is not there any more, or has no unsafe code: take it out")
    if names != known:
        return 1
    print(f"{len(names)} of {len(counts)} crates have unsafe code, each with its reason in docs/unsafe.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
