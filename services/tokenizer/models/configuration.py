"""A model's configuration, read as JSON: no model library is needed for a model's width and depth."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from services.tokenizer.models import loader

# Names of one setting in the config.json of different architectures.
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "model_dim", "embed_dim")
_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")


class Configuration(NamedTuple):
    """The values of a model's config.json; empty and 0 if missing."""

    architecture: str = ""
    d_model: int = 0
    n_layers: int = 0
    context_length: int = 0


def read(folder: pathlib.Path) -> Configuration:
    """Read the config.json of a folder; a folder without one holds a tokenizer only."""
    path = folder / "config.json"
    if not path.is_file():
        return Configuration()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise loader.invalid_tokenizer_error(
            f"{path} cannot be read as JSON ({error}). Save the model's configuration there again, or remove the file."
        ) from error
    if not isinstance(content, dict):
        raise loader.invalid_tokenizer_error(
            f"{path} does not hold a JSON object. Save the model's configuration there again."
        )
    # Multimodal models keep the configuration of the language model in a section of its own.
    text = content.get("text_config")
    parts = [content, *([text] if isinstance(text, dict) else [])]
    architectures = content.get("architectures")
    return Configuration(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        d_model=_number(parts, _WIDTH),
        n_layers=_number(parts, _DEPTH),
        context_length=_number(parts, _CONTEXT),
    )


def _number(parts: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> int:
    for part in parts:
        for name in names:
            value = part.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
                return value
    return 0
