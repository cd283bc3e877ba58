"""Manifests: `polytok.json` lists the files of a published folder with their checksums.

A record keeps the sha256 of its manifest, so no file of the folder can change unnoticed. A folder of Arrow files also
has two small files with which `datasets.load_from_disk` opens it; the manifest does not list them.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

NAME = "polytok.json"
INFO = "dataset_info.json"
STATE = "state.json"
SIDECARS = (INFO, STATE)
NAMES = frozenset({NAME, *SIDECARS})
FORMAT = 1
"""Version of the layout of manifests."""


class File(Protocol):
    """An Arrow file of the folder, as described in the result of the task that wrote it."""

    key: str
    num_rows: int
    size_bytes: int
    sha256: str


def encode(content: Mapping[str, Any]) -> bytes:
    """Return a manifest as bytes."""
    return _to_json({"format": FORMAT, **content})


def decode(data: bytes) -> dict[str, Any]:
    """Return the content of a manifest."""
    content: dict[str, Any] = json.loads(data)
    return content


def decode_checked(data: bytes, sha256: str) -> dict[str, Any] | None:
    """Return the content of the manifest with this digest, or None if it is another one."""
    return decode(data) if digest(data) == sha256 else None


def digest(data: bytes) -> str:
    """Return the sha256 of a manifest, or of a file that it lists."""
    return hashlib.sha256(data).hexdigest()


def describe_file(file: File, folder: str) -> dict[str, Any]:
    """Return the entry of an Arrow file in the manifest of a folder."""
    return {
        "name": posixpath.relpath(file.key, folder),
        "num_rows": file.num_rows,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    import importlib.metadata  # noqa: PLC0415  the command line, which needs none, would start later

    return {name: importlib.metadata.version(name) for name in packages}


def info(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `dataset_info.json` for columns described as `datasets` features."""
    return {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}


def state(names: Iterable[str], sha256: str) -> dict[str, Any]:
    """Return the content of `state.json` for Arrow files in row order, and a digest of what they hold."""
    return {
        "_data_files": [{"filename": name} for name in names],
        # `datasets` keeps 16 hexadecimal digits.
        "_fingerprint": sha256[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def sidecars(features: Mapping[str, Any], names: Iterable[str], sha256: str) -> dict[str, bytes]:
    """Return the files beside a manifest with that digest: name → content."""
    return {INFO: _to_json(info(features)), STATE: _to_json(state(names, sha256))}


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
