"""The content of a model's safetensors files, read from their headers alone.

Format: https://github.com/huggingface/safetensors#format: eight bytes of length, little-endian, followed by as much
JSON.
"""

import json
import math
import pathlib
import struct
from typing import Any, NamedTuple

from polytok import errors

_HEADER_LIMIT = 100_000_000
"""Maximum size of a header in bytes, as in the format's own library."""


class Weights(NamedTuple):
    """The tensors of a model directory."""

    num_parameters: int
    num_bytes: int
    """As they are stored."""


def invalid_model_error(message: str) -> errors.FailedPrecondition:
    """Return the error for an unusable model."""
    return errors.FailedPrecondition(message, reason="MODEL_INVALID")


def read_weights(folder: pathlib.Path) -> Weights:
    """Count the parameters of a model directory; raises FailedPrecondition if there is nothing to load."""
    tensors = [tensor for path in find_weight_files(folder) for tensor in _tensors(path)]
    return Weights(sum(count for count, _ in tensors), sum(size for _, size in tensors))


def find_config(folder: pathlib.Path) -> pathlib.Path:
    """Return the path of a model's config.json. Raises FailedPrecondition if there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise invalid_model_error(
            f"{folder} does not contain a config.json, so it is not a model directory. Choose another directory."
        )
    return path


def find_weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of a model's weights. Raises FailedPrecondition if there are none."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        raise invalid_model_error(_nothing(folder))
    places = _json_object(index.read_bytes(), index).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    for name in names:
        # The index is untrusted: it must not name files elsewhere.
        if pathlib.PurePath(name).name != name or not (folder / name).is_file():
            raise invalid_model_error(
                f"{index} names {name!r}, which is not in {folder}. Copy all of the model's files there."
            )
    if not names:
        raise invalid_model_error(f"{index} names no files. Copy the model's files there again.")
    return [folder / name for name in names]


def _nothing(folder: pathlib.Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return (
            f"{folder} contains only pickled weights, which can run code when they are loaded. Convert them "
            "to safetensors if you trust them: "
            "AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder)."
        )
    return (
        f"{folder} contains no weights: neither model.safetensors nor model.safetensors.index.json. Copy the "
        "model's weights there, or choose a directory or repository that has them."
    )


def _tensors(path: pathlib.Path) -> list[tuple[int, int]]:
    """Yield elements and bytes of each tensor of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
        if not 0 < length <= min(_HEADER_LIMIT, size - 8):
            raise invalid_model_error(
                f"{path} is not a safetensors file, or is truncated ({size} bytes). Copy it there again."
            )
        header = _json_object(file.read(length), path)
    header.pop("__metadata__", None)
    try:
        spans = [(math.prod(tensor["shape"]), *tensor["data_offsets"]) for tensor in header.values()]
        found = [(count, last - first) for count, first, last in spans]
        end = max((last for _, _, last in spans), default=0)
    except (KeyError, TypeError, ValueError) as error:
        raise invalid_model_error(
            f"{path}: its header describes no tensors ({error!r}). Copy the file there again."
        ) from error
    if 8 + length + end != size:
        raise invalid_model_error(f"{path} has {size} bytes instead of {8 + length + end}. Copy the file there again.")
    return found


def _json_object(data: bytes, path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise invalid_model_error(f"{path} cannot be read as JSON ({error}). Copy the file there again.") from error
    if not isinstance(content, dict):
        raise invalid_model_error(f"{path} does not contain a JSON object. Copy the file there again.")
    return content
