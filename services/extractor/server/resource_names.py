"""Resource names, ids and storage keys of extractions."""

import difflib
import hashlib
import re
import uuid
from collections.abc import Sequence

from polytok import errors

_EXTRACTION = re.compile(r"extractions/([a-z0-9][a-z0-9._-]{0,62})")
_LONGEST_ID = 63
_DIGEST_LETTERS = 8

EXTRACTIONS_KEY = "extractions"
"""Storage key of the folder that holds every extraction's folder."""
SIDECARS = frozenset({"statistics.safetensors", "blocks.safetensors"})
"""Files that `polytok.json` names: what was seen at each dimension, and digests of the blocks of all Arrow files."""


def format_name(identifier: str) -> str:
    """Names an extraction."""
    return f"extractions/{identifier}"


def storage_key(uid: uuid.UUID) -> str:
    """Storage key of the folder of an extraction."""
    return f"{EXTRACTIONS_KEY}/{uid}"


def parse_name(name: str) -> str:
    """Read the id out of `extractions/{id}`."""
    found = _EXTRACTION.fullmatch(name)
    if found is None:
        message = f"{name!r} is not of the form extractions/{{extraction}}."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("name", message)])
    return found[1]


def parse_uid(identifier: str) -> uuid.UUID | None:
    """Read an extraction's uid; None if the id is one that somebody chose."""
    if len(identifier) != 36:
        return None
    try:
        return uuid.UUID(identifier)
    except ValueError:
        return None


def default_id(dataset: str, model: str, variant: str, parameters: bytes) -> str:
    """Return an id for an extraction whose creator chose none: the same for the same."""
    digest = hashlib.sha256(b"\0".join([dataset.encode(), model.encode(), variant.encode(), parameters])).hexdigest()
    of = "-".join(part for part in (dataset.partition("/")[2], model.partition("/")[2], variant) if part)
    return f"{of[: _LONGEST_ID - _DIGEST_LETTERS - 1]}-{digest[:_DIGEST_LETTERS]}"


def not_found_error(identifier: str, known: Sequence[str]) -> errors.NotFound:
    """Tell that there is no such extraction."""
    close = difflib.get_close_matches(identifier, known, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    return errors.NotFound(
        f"No extraction is called {identifier!r}.{hint} `polytok extraction list` shows the extractions that exist.",
        metadata={"resource": format_name(identifier)},
    )
