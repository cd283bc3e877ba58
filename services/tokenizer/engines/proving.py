"""Whether an engine gives the reference's ids for a tokenizer, and for which documents it does not."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.runtime.telemetry import logging
from services.tokenizer.engines import Engine, Untrustworthy, adversarial, attempt, routing, searching
from services.tokenizer.rows import slicing

PROBE_DOCUMENTS = 256
"""How many documents of a dataset an engine is asked before it is trusted with the others."""
PROBE_BYTES = 128 << 10
"""How many bytes they have together, at most."""
_TOKENS = 512
_BEGINNING_CHARACTERS = 16 << 10

_log = logging.get(__name__)


def proven(make: Callable[[], Engine | None], reference: Engine, content: str) -> routing.Routed | None:
    """Makes an engine and returns it if it knows the tokenizer; documents that it gets wrong go to the reference."""
    try:
        engine = make()
    # Native code refuses a tokenizer with anything, a panic among it, which is no Exception.
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _log.info("engine_refuses", error=str(error)[:200])
        return None
    return None if engine is None else _routed(engine, reference, json.loads(content))


def _routed(engine: Engine, reference: Engine, content: dict[str, Any]) -> routing.Routed | None:
    added = [token["content"] for token in content["added_tokens"] if token["content"]]
    texts = pa.array(adversarial.STRINGS, pa.large_string())
    with_added = searching.holding(texts, added)
    if not same(engine, reference, texts.filter(pa.array(~with_added))):
        return None
    needles: list[str] = []
    if not (same(engine, reference, texts.filter(pa.array(with_added))) and _exact(engine, reference, added[:_TOKENS])):
        if content["normalizer"] and any(token["normalized"] for token in content["added_tokens"]):
            # Such a token is found in the normalised text, which cannot be searched before it is there.
            return None
        needles += added
    if not _exact(engine, reference, adversarial.YOUNG):
        needles += adversarial.YOUNG
    return routing.Routed(engine, reference, needles)


def _exact(engine: Engine, reference: Engine, needles: Sequence[str]) -> bool:
    texts = adversarial.around_all(needles) if needles else []
    return same(engine, reference, pa.array(texts, pa.large_string()))


def probe(texts: pa.Array) -> pa.Array:
    """Returns a bounded choice of texts, spread over all of them; of long ones the beginning."""
    chosen = texts.take(pa.array(np.unique(np.linspace(0, len(texts) - 1, PROBE_DOCUMENTS).astype(np.int64))))
    chosen = pc.utf8_slice_codeunits(chosen, 0, _BEGINNING_CHARACTERS)
    ends = slicing.ends_of(chosen)
    if ends[-1] > PROBE_BYTES:
        # Evenly fewer of them.
        step = -(-int(ends[-1]) // PROBE_BYTES)
        chosen = chosen.take(pa.array(np.arange(0, len(chosen), step)))
    return chosen


def same(engine: Engine, reference: Engine, texts: pa.Array) -> bool:
    """Tells whether an engine gives the reference's ids; one that fails does not."""
    try:
        found = attempt(engine, texts)
    except Untrustworthy as error:
        _log.info("engine_fails", engine=engine.name, detail=error.detail)
        return False
    expected = reference.encode(texts)
    return np.array_equal(found.offsets, expected.offsets) and np.array_equal(found.values, expected.values)
