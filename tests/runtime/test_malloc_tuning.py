"""Freed memory stays with the process that asked for it, until it is released."""

import subprocess
import sys

import pytest

from services.runtime import malloc_tuning

_PROGRAM = """
import ctypes, resource, sys, threading
from services.runtime import malloc_tuning

kept = malloc_tuning.tune_malloc() if sys.argv[1] == "keep" else None

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * (48 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

faults()
found = [faults()]
thread = threading.Thread(target=lambda: found.append(faults()))
thread.start()
thread.join()
before = resident()
malloc_tuning.trim()
print(kept, max(found), before - resident())
"""


def _run(how: str) -> tuple[str, int, int]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    kept, faults, given = done.stdout.split()
    return kept, int(faults), int(given)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_is_kept_and_released() -> None:
    kept, faults, given = _run("keep")
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert given > 40 << 20
    _, usual, _ = _run("leave")
    # Ten blocks of 48 MiB have 122,880 pages, or 240 large ones; those of the first block are there already.
    assert usual > 5 * faults + 50


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
        ("glibc.malloc.check=1", {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"}),
        ("glibc.malloc.hugetlb=0", {}),
    ],
)
def test_huge_pages_keep_chosen_tunables(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: dict[str, str]
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", chosen)
    assert malloc_tuning.huge_pages() == expected
