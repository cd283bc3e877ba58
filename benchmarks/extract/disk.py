"""What the disk takes."""

import os
import pathlib
import time


def write(size: int, target: pathlib.Path) -> float:
    """Second that a plain write of so many bytes takes, until they are on the disk."""
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    with target.open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began
