"""Identify a model's weights: the commit of a hub repository, or a fingerprint of the files in a local folder.

A commit's files do not change; those of a folder may, between two tasks that must load the same model. The fingerprint
is the sha256 of the name, the size and the XXH3 digests (128 bits, one for every 4 MiB) of each file that is loaded.
"""

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Sequence
from concurrent import futures

import xxhash

from polytok import errors
from services.activations import weights
from services.runtime import hub

_BLOCK_BYTES = 4 << 20
_SETTLED_NS = 2_000_000_000
"""A file that changed more recently than this may change again without a later timestamp: file
systems' clocks are coarse.
"""

_Stamp = list[tuple[str, int, int, int, int]]
_known: dict[pathlib.Path, tuple[_Stamp, str]] = {}


def check_fingerprint(repo_id: str, folder: pathlib.Path, expected: str, reader: str, advice: str) -> str:
    """Return the fingerprint of a model: the commit of a hub repository, or a sha256 over a local folder's files.

    Files that did not change since they were last read are not read again. Raises FailedPrecondition (MODEL_INVALID)
    if it differs from `expected` (unless that is empty), and if there is nothing to load. `reader` is what needs the
    files unchanged, and `advice` the suggested fix, both for the message.
    """
    found = _of_files(folder) if repo_id.startswith("/") else hub.commit(folder)
    if expected and found != expected:
        raise errors.FailedPrecondition(
            f"The model in {repo_id!r} changed since {reader} began to read it: the fingerprint of its "
            f"weights and config.json is {found[:12]}…, not {expected[:12]}…. {advice}",
            reason="MODEL_INVALID",
            metadata={"expected": expected, "found": found},
        )
    return found


def _of_files(folder: pathlib.Path) -> str:
    paths = [weights.find_config(folder), *weights.find_weight_files(folder)]
    stamp = _stamp(paths)
    known, fingerprint = _known.get(folder, (None, ""))
    if known != stamp:
        fingerprint = _read(paths)
        if _stamp(paths) != stamp:
            raise weights.invalid_model_error(
                f"The files in {folder} changed while they were read. Retry once all are in place."
            )
        if time.time_ns() - max(changed for *_, changed, _ in stamp) > _SETTLED_NS:
            _known[folder] = (stamp, fingerprint)
    return fingerprint


def _stamp(paths: Sequence[pathlib.Path]) -> _Stamp:
    found = [(path.name, path.stat()) for path in paths]
    return [(name, each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino) for name, each in found]


def _read(paths: Sequence[pathlib.Path]) -> str:
    sizes = [path.stat().st_size for path in paths]
    # Reading and hashing release the GIL: one thread per core.
    with futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = [
            (path.name, size, [pool.submit(_digest, path, start) for start in range(0, size, _BLOCK_BYTES)])
            for path, size in zip(paths, sizes, strict=True)
        ]
        found = [[name, size, [digest.result() for digest in digests]] for name, size, digests in pending]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _digest(path: pathlib.Path, start: int) -> str:
    # Not memory-mapped: a mapped file that is truncated meanwhile would end the process.
    try:
        with path.open("rb") as file:
            file.seek(start)
            block = file.read(_BLOCK_BYTES)
    except OSError as error:
        raise weights.invalid_model_error(
            f"{path} cannot be read ({error.strerror}). Make it readable for the user that the worker runs as."
        ) from error
    return xxhash.xxh3_128_hexdigest(block)
