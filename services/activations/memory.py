"""Available memory, and errors that mean that it did not suffice."""

import os
import pathlib
import resource

import torch

_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_CPU_ALLOCATION_FAILED = ("can't allocate memory", "DefaultCPUAllocator: not enough memory")


def available_bytes(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_system(), *(_group(*files) for files in _GROUPS), _data_limit()]
    return max(0, min(limit for limit in limits if limit is not None))


def total_bytes(device: torch.device) -> int:
    """Return the bytes that a device has in total: the same on every run."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error means that memory could not be allocated."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch has no exception class for a failed malloc.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_ALLOCATION_FAILED)


def format_bytes(num_bytes: int) -> str:
    """Format a number of bytes for messages."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def _system() -> int:
    path = pathlib.Path("/proc/meminfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return total_bytes(torch.device("cpu"))


def _group(limit: str, used: str) -> int | None:
    """Return what the control group leaves, by which containers are limited."""
    try:
        text = pathlib.Path(limit).read_text().strip()
        return None if text == "max" else int(text) - int(pathlib.Path(used).read_text())
    except (OSError, ValueError):
        return None


def _data_limit() -> int | None:
    """Return what the limit on allocated memory leaves, which workers set for their task processes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        # Pages of data and stack: the sixth number (proc(5)).
        return soft - int(pathlib.Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return soft
