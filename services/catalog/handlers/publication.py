"""Gives the small files that a worker staged their final names, inside the transaction that publishes.

The transaction may be undone after this; what was moved is then overwritten by the next attempt, and no record names
it until then. Doing it twice does no harm.
"""

import asyncio
from collections.abc import Iterable, Sequence

from polytok import errors
from polytok.catalog.v1 import tasks_pb2
from services.catalog.domain import names
from services.runtime.storage import Storage


async def publish(storage: Storage, folder: str, files: Sequence[tasks_pb2.StagedFile]) -> None:
    """Checks the staged files and moves each to its place in the folder."""
    check_inside(folder, [file.staged_key for file in files])
    for file in files:
        if file.final_key not in {f"{folder}/{name}" for name in names.MANIFESTS}:
            raise _outside(folder, file.final_key)
    await asyncio.to_thread(_move, storage, files)


def check_inside(folder: str, keys: Iterable[str]) -> None:
    """Refuses files that lie elsewhere than in the folder of the record: they could be another's."""
    for key in keys:
        if key.rpartition("/")[0] != folder:
            raise _outside(folder, key)


def _outside(folder: str, key: str) -> errors.Internal:
    return errors.Internal(
        f"A worker wants to publish {key!r}, which does not belong in {folder!r}; "
        "its version does not fit this catalog's.",
        retryable=False,
    )


def _move(storage: Storage, files: Sequence[tasks_pb2.StagedFile]) -> None:
    for file in files:
        if storage.exists(file.staged_key):
            storage.verify(file.staged_key, file.sha256)
            storage.move(file.staged_key, file.final_key)
        else:
            # A call that is repeated after its transaction was undone finds the file moved.
            storage.verify(file.final_key, file.sha256)
