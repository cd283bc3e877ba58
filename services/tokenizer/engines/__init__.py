"""The seam between text and token ids: Arrow strings in, flat arrays out, no Python object a token in between.

An engine adds no special tokens, cuts nothing and pads nothing: that is arithmetic over its result, the same for all
engines. What it must keep is the ids, exactly those of the Hugging Face fast tokenizer: the reference.
"""

from typing import Protocol

import pyarrow as pa

from services.tokenizer.sequences.ragged import Ragged


class Engine(Protocol):
    """Turns text into token ids."""

    @property
    def name(self) -> str:
        """What the record says ran, such as `reference`."""

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text, one row a text. `texts` holds large strings, none of them null."""


def max_text_bytes(engine: Engine) -> int:
    """Return how many bytes a text may have that the engine encodes in the way that was compared."""
    return int(getattr(engine, "longest", 1 << 62))


class EngineMismatchError(Exception):
    """An engine failed, or gave ids that are not the reference's: nothing that it made may be kept."""

    def __init__(self, engine: str, detail: str) -> None:
        super().__init__(f"The engine {engine} {detail}.")
        self.engine = engine
        self.detail = detail


def encode_or_mismatch(engine: Engine, texts: pa.Array) -> Ragged:
    """Encode; whatever goes wrong in the engine is raised as EngineMismatchError, a panic of native code too."""
    try:
        rows = engine.encode(texts)
    # Too little memory says nothing about the engine's ids.
    except (EngineMismatchError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # A panic is no Exception: pyo3 derives it from BaseException.
    except BaseException as error:
        raise EngineMismatchError(engine.name, f"failed ({type(error).__name__}: {str(error)[:200]})") from error
    if rows.num_rows != len(texts):
        raise EngineMismatchError(engine.name, f"gave {rows.num_rows} rows for {len(texts)} texts")
    return rows
