"""Resource names, uids and storage keys: how each is made and read.

A resource is named by the id its creator chose, or by its record's uid.
"""

import re
import secrets
import uuid
from typing import NamedTuple

from polytok import errors

_ID = r"[a-z0-9][a-z0-9._-]{0,62}"
_DATASET = re.compile(rf"datasets/({_ID})")
_MODEL = re.compile(rf"models/({_ID})")
_TOKENIZATION = re.compile(rf"datasets/({_ID})/tokenizations/({_ID})(?:~([a-z0-9-]{{1,32}}))?")
_MODEL_UID = re.compile(r"m_[0-9a-f]{8}")

ANY = "-"
"""Stands for every dataset in the parent of a list (AIP-159)."""


class TokenizationName(NamedTuple):
    """The ids in a tokenization's name."""

    dataset: str
    model: str
    variant: str


def dataset(identifier: str) -> str:
    """Names a dataset."""
    return f"datasets/{identifier}"


def model(identifier: str) -> str:
    """Names a model."""
    return f"models/{identifier}"


def tokenization(dataset_id: str, model_id: str, variant: str) -> str:
    """Names a tokenization."""
    return f"datasets/{dataset_id}/tokenizations/{model_id}" + (f"~{variant}" if variant else "")


def parse_dataset(name: str) -> str:
    """Read the id out of `datasets/{id}`."""
    return _parsed(_DATASET, name, "datasets/{dataset}")[1]


def parse_parent(name: str) -> str:
    """Read the id out of `datasets/{id}`, or ANY out of `datasets/-`."""
    return ANY if name == dataset(ANY) else parse_dataset(name)


def parse_model(name: str) -> str:
    """Read the id out of `models/{id}`."""
    return _parsed(_MODEL, name, "models/{model}")[1]


def parse_tokenization(name: str) -> TokenizationName:
    """Read the ids out of a tokenization's name."""
    found = _parsed(_TOKENIZATION, name, "datasets/{dataset}/tokenizations/{model}")
    return TokenizationName(found[1], found[2], found[3] or "")


def _parsed(pattern: re.Pattern[str], name: str, form: str) -> re.Match[str]:
    found = pattern.fullmatch(name)
    if found is None:
        message = f"{name!r} is not of the form {form}: ids are lower-case letters, digits, '.', '_' and '-'."
        raise errors.InvalidArgument(message, violations=[errors.FieldViolation("name", message)])
    return found


def dataset_uid(identifier: str) -> uuid.UUID | None:
    """Read a dataset's uid; None if the id is one that somebody chose."""
    if len(identifier) != 36:
        return None
    try:
        return uuid.UUID(identifier)
    except ValueError:
        return None


def is_model_uid(identifier: str) -> bool:
    """Tell a model's uid from an id that somebody chose."""
    return _MODEL_UID.fullmatch(identifier) is not None


def new_model_uid() -> str:
    """Make up a model's uid."""
    return f"m_{secrets.token_hex(4)}"


def tokenization_uid(dataset_id: uuid.UUID, model_id: str, variant: str) -> str:
    """Return the uid of a tokenization, which follows from what it is of."""
    return f"tok_{dataset_id}_{model_id}" + (f"_{variant}" if variant else "")


DATASETS_KEY = "datasets"
"""Storage key of the folder that holds every dataset's folder."""


def dataset_key(dataset_id: uuid.UUID) -> str:
    """Storage key of all that belongs to a dataset, its tokenizations included."""
    return f"{DATASETS_KEY}/{dataset_id}"


def raw_key(dataset_id: uuid.UUID) -> str:
    """Storage key of the folder of a dataset's raw shards."""
    return f"{dataset_key(dataset_id)}/raw"


def upload_key(dataset_id: uuid.UUID) -> str:
    """Storage key of the folder of the rows that were uploaded, until they are read in."""
    return f"{dataset_key(dataset_id)}/upload"


def tokenized_key(raw: str, model_id: str, variant: str) -> str:
    """Storage key of the folder of a tokenization."""
    return f"{raw}_tokenized_{model_id}" + (f"_{variant}" if variant else "")
