"""The interface between text and token ids: Arrow strings in, flat arrays out, no Python object per token.

An engine adds no special tokens, cuts nothing and pads nothing: that is arithmetic over its result, the same for all
engines. Its ids must be exactly those of the Hugging Face fast tokenizer, the reference.
"""

from typing import Protocol

import pyarrow as pa

from services.tokenizer.sequences.ragged import Ragged


class Engine(Protocol):
    """Turns text into token ids."""

    @property
    def name(self) -> str:
        """The name in the record, such as `reference`."""

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text, one row per text. `texts` holds large strings without nulls."""


def max_text_bytes(engine: Engine) -> int:
    """Return the maximum number of bytes of a text that the engine encodes in the way that was compared."""
    return int(getattr(engine, "longest", 1 << 62))


class EngineMismatchError(Exception):
    """Raised when an engine fails, or its ids differ from the reference's: none of its output may be kept."""

    def __init__(self, engine: str, detail: str) -> None:
        super().__init__(f"The engine {engine} {detail}.")
        self.engine = engine
        self.detail = detail


def encode_or_mismatch(engine: Engine, texts: pa.Array) -> Ragged:
    """Encode; convert any failure of the engine, including a panic of native code, to EngineMismatchError."""
    try:
        rows = engine.encode(texts)
    # Insufficient memory says nothing about the engine's ids.
    except (EngineMismatchError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # A panic is not an Exception: pyo3 derives it from BaseException.
    except BaseException as error:
        raise EngineMismatchError(engine.name, f"failed ({type(error).__name__}: {str(error)[:200]})") from error
    if rows.num_rows != len(texts):
        raise EngineMismatchError(engine.name, f"returned {rows.num_rows} rows for {len(texts)} texts")
    return rows
