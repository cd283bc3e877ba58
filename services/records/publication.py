"""Small files are staged by a worker, and get their final names inside the transaction that publishes.

The transaction may be undone after this; what was moved is then overwritten by the next attempt, and no record names
it until then. Doing it twice does no harm.
"""

import asyncio
import posixpath
from collections.abc import Collection, Iterable, Sequence

from polytok import errors, manifests
from polytok.catalog.v1.tasks_pb2 import StagedFile
from services.runtime.storage import Storage


def stage(storage: Storage, folder: str, name: str, data: bytes, tag: str) -> StagedFile:
    """Write a small file of a folder under a name of the attempt that `tag` identifies."""
    stem, extension = posixpath.splitext(name)
    staged_key = f"{folder}/{stem}-{tag}{extension}"
    return StagedFile(staged_key=staged_key, final_key=f"{folder}/{name}", sha256=storage.write_bytes(staged_key, data))


async def publish(
    storage: Storage, folder: str, files: Sequence[StagedFile], *, names: Collection[str] = manifests.NAMES
) -> None:
    """Check the staged files and move each to its place in the folder; `names` are those that they may have."""
    check_inside(folder, [file.staged_key for file in files])
    for file in files:
        if file.final_key not in {f"{folder}/{name}" for name in names}:
            raise _outside(folder, file.final_key)
    await asyncio.to_thread(move, storage, files)


def check_inside(folder: str, keys: Iterable[str]) -> None:
    """Refuse files that lie elsewhere than in the folder of the record: they could be another's."""
    for key in keys:
        if key.rpartition("/")[0] != folder:
            raise _outside(folder, key)


def _outside(folder: str, key: str) -> errors.Internal:
    return errors.Internal(
        f"A worker wants to publish {key!r}, which does not belong in {folder!r}; "
        "its version does not fit this service's.",
        retryable=False,
    )


def move(storage: Storage, files: Sequence[StagedFile]) -> None:
    """Check staged files and give them their final names; raises DataLoss for one with other bytes."""
    for file in files:
        if storage.exists(file.staged_key):
            storage.verify(file.staged_key, file.sha256)
            storage.move(file.staged_key, file.final_key)
        else:
            # A call that is repeated after its transaction was undone finds the file moved.
            storage.verify(file.final_key, file.sha256)
