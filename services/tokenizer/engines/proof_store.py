"""Results of comparing engines with the reference, kept in the process and in files shared by a worker's processes.

A file is named by the sha256 of everything that its content depends on, and holds JSON after a line with its sha256. A
damaged or unwritable file counts as missing: the comparison is made again.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from dataclasses import dataclass, field

from services.runtime.telemetry import logging

_log = logging.get(__name__)


@dataclass
class Verdicts:
    """The results for one part of an engine's proof."""

    agrees: bool
    """Whether everything but code points matched the reference; otherwise the engine is unusable."""
    compared: set[int] = field(default_factory=set)
    """Blocks of code points that were compared."""
    refused: set[int] = field(default_factory=set)
    """Code points in these blocks that differ."""

    def merge(self, other: "Verdicts") -> None:
        """Merge the results of another process."""
        self.agrees = self.agrees and other.agrees
        self.compared |= other.compared
        self.refused |= other.refused


class ProofStore:
    """Results by the identity of what was compared."""

    def __init__(self, folder: pathlib.Path | None = None) -> None:
        """Keep files in a folder, which is created when needed; without a folder, keep nothing on disk."""
        self._folder = folder
        self._known: dict[str, Verdicts] = {}

    def get(self, identity: str) -> Verdicts | None:
        """Return the known results."""
        found = self._known.get(identity) or self._read(identity)
        if found is not None:
            self._known[identity] = found
        return found

    def put(self, identity: str, verdicts: Verdicts) -> None:
        """Store results, merged with those that other processes wrote meanwhile."""
        if (other := self._read(identity)) is not None:
            verdicts.merge(other)
        self._known[identity] = verdicts
        if self._folder is None:
            return
        content = json.dumps(
            {
                "identity": identity,
                "agrees": verdicts.agrees,
                "compared": sorted(verdicts.compared),
                "refused": sorted(verdicts.refused),
            }
        ).encode()
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
                    file.flush()
                    os.fsync(file.fileno())
                pathlib.Path(name).replace(self._path(identity))
            except OSError:
                pathlib.Path(name).unlink(missing_ok=True)
                raise

    def _path(self, identity: str) -> pathlib.Path:
        assert self._folder is not None
        return self._folder / f"{identity}.json"

    def _read(self, identity: str) -> Verdicts | None:
        if self._folder is None:
            return None
        try:
            digest, _, content = self._path(identity).read_bytes().partition(b"\n")
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest().encode() != digest:
            _log.warning("proof_damaged", file=str(self._path(identity)))
            return None
        found = json.loads(content)
        if found["identity"] != identity:
            return None
        return Verdicts(found["agrees"], set(found["compared"]), set(found["refused"]))
