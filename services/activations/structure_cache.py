"""The structures of models, for servers without torch: requested from a separate process, and cached.

Creating a record waits for it only a short while. A model whose files the server cannot reach (they may lie on the
workers' machines only) is not checked here: the first task checks it, as for every model.
"""

import asyncio
import contextlib
import pathlib
import sys
import time
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple, TypeVar

from polytok import errors
from polytok.catalog.v1 import models_pb2
from polytok.extractor.v1 import structures_pb2
from services.activations import hook_names
from services.jobs.subprocess_client import SubprocessClient
from services.runtime.telemetry import logging

_COMMAND = (sys.executable, "-m", "services.activations.structure_process")
_KIND = "structure"
_REMEMBERED = 64
_LOADING_SECONDS = 180.0
"""How long torch may take to load, on a very busy machine."""
_UNKNOWN_SECONDS = 60.0
"""How long to remember that a model's structure could not be read."""

_log = logging.get(__name__)

Value = TypeVar("Value")


class _Key(NamedTuple):
    repo_id: str
    revision: str
    fingerprint: str
    changed: tuple[int, int]
    """Modification time and length of a folder's config.json."""


class ModelStructureCache:
    """Caches the structures of models, and requests missing ones."""

    def __init__(self, *, service: str, seconds: float) -> None:
        """Return within `seconds`, with whatever is known then; 0 never requests anything."""
        self._answering = SubprocessClient(
            _COMMAND,
            service=f"{service}-structures",
            about="The model",
            # No caller waits this long; later ones find the answer.
            answer_seconds=_LOADING_SECONDS,
        )
        self._seconds = seconds
        self._known: OrderedDict[_Key, hook_names.ModelStructure] = OrderedDict()
        self._unknown: OrderedDict[_Key, float] = OrderedDict()
        self._asked: dict[_Key, asyncio.Task[hook_names.ModelStructure | None]] = {}

    @property
    def pid(self) -> int:
        """The process id of the structure process; 0 while it does not run."""
        return self._answering.pid

    async def of(self, model: models_pb2.Model, names: Collection[str]) -> hook_names.ModelStructure | None:
        """Return a model's structure for checking names; None if they need no check, or it is not available now."""
        if not self._seconds or all(hook_names.is_common(name, model.n_layers) for name in names):
            return None
        changed = await asyncio.to_thread(_changed, model.repo_id)
        if changed is None:
            return None
        key = _Key(model.repo_id, model.commit or model.revision, model.tokenizer_fingerprint, changed)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        if time.monotonic() < self._unknown.get(key, 0.0):
            return None
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._ask(key), name="structure")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                # A caller that cancels or times out leaves the request running for later callers.
                return await asyncio.shield(task)
        return None

    async def close(self) -> None:
        """End the process."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        await self._answering.close()

    async def _ask(self, key: _Key) -> hook_names.ModelStructure | None:
        try:
            answer = await self._answer(key)
        except errors.PolytokError as error:
            _log.info("structure unknown", model=key.repo_id, error=error.message)
            _remember(self._unknown, key, time.monotonic() + _UNKNOWN_SECONDS)
            return None
        finally:
            del self._asked[key]
        found = hook_names.ModelStructure(
            kind=answer.kind,
            n_layers=answer.n_layers,
            blocks=answer.blocks,
            points=tuple(answer.points),
            sparse=frozenset(answer.sparse),
            modules=frozenset(answer.modules),
        )
        _remember(self._known, key, found)
        return found

    async def _answer(self, key: _Key) -> structures_pb2.ModelStructure:
        question = structures_pb2.ModelStructureRequest(repo_id=key.repo_id, revision=key.revision)
        try:
            return await self._answering.ask(_KIND, question, structures_pb2.ModelStructure)
        except errors.Unavailable as error:
            if error.reason != "WORKER_LOST":
                raise
            # The process may have died long ago, while there were no requests.
            return await self._answering.ask(_KIND, question, structures_pb2.ModelStructure)


def _remember(kept: OrderedDict[_Key, Value], key: _Key, value: Value) -> None:
    kept[key] = value
    while len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def _changed(repo_id: str) -> tuple[int, int] | None:
    """Return when a folder's config.json changed; None if there is none, (0, 0) for a hub repository."""
    if not repo_id.startswith("/"):
        return (0, 0)
    try:
        status = (pathlib.Path(repo_id) / "config.json").stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size)
