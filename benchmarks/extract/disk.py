"""The speed of the disk."""

import os
import pathlib
import time


def write(size: int, target: pathlib.Path) -> float:
    """Return the seconds of a plain write of this many bytes, until they are on disk."""
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    with target.open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began
