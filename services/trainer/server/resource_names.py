"""Resource names, uids and storage keys of trainings: how each is made and read."""

import difflib
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from polytok import errors

_ID = r"[a-z0-9][a-z0-9._-]{0,62}"
_TRAINING = re.compile(rf"trainings/({_ID})")
_LONGEST = 63
_DIGEST_LETTERS = 8

ROOT_KEY = "trainings"
"""Storage key of the folder that holds every training's folder."""


def format_name(identifier: str) -> str:
    """Names a training."""
    return f"trainings/{identifier}"


def parse_name(name: str) -> str:
    """Read the id out of `trainings/{id}`."""
    found = _TRAINING.fullmatch(name)
    if found is None:
        message = (
            f"{name!r} is not of the form trainings/{{training}}: ids are lower-case letters, digits, '.', '_', '-'."
        )
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("name", message)])
    return found[1]


def parse_uid(identifier: str) -> uuid.UUID | None:
    """Read a training's uid; None if the id is one that somebody chose."""
    if len(identifier) != 36:
        return None
    try:
        return uuid.UUID(identifier)
    except ValueError:
        return None


def default_id(words: Sequence[str], row: Mapping[str, Any]) -> str:
    """Return an id for a training whose creator chose none: the same for the same."""
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{'-'.join(word for word in words if word)[: _LONGEST - _DIGEST_LETTERS - 1]}-{digest}"


def storage_key(identifier: uuid.UUID) -> str:
    """Storage key of all that belongs to a training: a folder for each attempt."""
    return f"{ROOT_KEY}/{identifier}"


def attempt_folder(task_id: uuid.UUID, epoch: int) -> str:
    """Return the folder of an attempt, below the training's: no other attempt ever has the same."""
    return f"{task_id.hex[:12]}-e{epoch}"


def not_found_error(identifier: str, known: Sequence[str]) -> errors.NotFound:
    """Tell that there is no such training, and which names are close."""
    close = difflib.get_close_matches(identifier, known, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return errors.NotFound(
        f"No training is called {identifier!r}.{hint} `polytok training list` shows the trainings that exist.",
        metadata={"resource": format_name(identifier)},
    )
