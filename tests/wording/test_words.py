"""Words that must not come back, and modules whose names do not distinguish them."""

import collections
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Private vocabulary; docs/glossary.md has the standard terms.
BANNED = {
    "doorbell": "dispatch",
    "let_go": "release",
    "gives back": "releases, returns",
    "hands back": "returns",
    "wanted_back": "pause_requested",
    "toyshop": "a name that says what it is",
    "toychild": "task process",
    "anew": "again",
    "mend": "fix, repair",
    "mended": "fixed, repaired",
    "told": "was informed, received, recorded",
    "whoever": "the one that",
    "teller": "reporter, sender",
    "lets go": "releases",
    "give_back": "release",
    "given back": "released, returned",
}
# What the code outside of the tests still has.
REMAINING = {"give_back"}

# Packages with one module for each kind of record, of the same names in each.
PARALLEL = {"api", "service", "repository", "jobs"}
# Of one meaning in every server, or named after the record in a client or a library too.
SAME_NAME = {"__init__", "__main__", "settings", "tables", "datasets", "models", "tokenizations", "extractions"}


def _tracked(*patterns: str) -> list[pathlib.Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (pathlib.Path(name) for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if "_pb2" not in path.name and (ROOT / path).exists()]


def test_no_private_vocabulary() -> None:
    found = []
    banned = re.compile(rf"\b({'|'.join(map(re.escape, BANNED))})s?\b", re.IGNORECASE)
    for path in _tracked("*.py", "*.md", "*.proto", "*.toml", "Makefile"):
        if path.parts[:2] == ("tests", "wording"):
            continue
        allowed = set() if path.parts[0] == "tests" else REMAINING
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1):
            words = {word.lower() for word in banned.findall(line)} - allowed
            found += [f"{path}:{number}: {word!r}: {BANNED[word]}" for word in sorted(words)]
    assert not found, "\n".join(found)


def test_module_names_are_distinct_within_a_service() -> None:
    names = collections.defaultdict(set)
    for path in _tracked("services/*.py", "polytok/*.py"):
        if path.stem not in SAME_NAME and "versions" not in path.parts:
            parallel = path.parent.parent if path.parent.name in PARALLEL else path
            names[path.parts[:2], path.stem].add(parallel)
    repeated = {name: sorted(map(str, paths)) for (_, name), paths in names.items() if len(paths) > 1}
    assert not repeated


def test_names_of_tests_are_short() -> None:
    names = []
    for path in _tracked("tests/*.py"):
        names += re.findall(r"^ *(?:async )?def (test_\w+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 1000
    assert [name for name in names if len(name) > 60] == []
