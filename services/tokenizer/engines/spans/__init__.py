"""Polytok's own engine for SentencePiece BPE and WordPiece: texts are cut into spans, each encoded once.

No token can span a cut. `sentencepiece` and `wordpiece` say where a cut is exact, and why; the reference encodes the
spans.
"""

import json

import tokenizers

from services.tokenizer.engines import Engine
from services.tokenizer.engines.spans import sentencepiece, wordpiece

_MAKERS = {"BPE": sentencepiece.derive, "WordPiece": wordpiece.derive}


def create_engine(backend: tokenizers.Tokenizer) -> Engine | None:
    """Return an engine for a tokenizer, or None if its cuts are not known to be exact."""
    content = json.loads(backend.to_str())
    derive = _MAKERS.get(content["model"]["type"])
    cuts = derive(backend, content) if derive else None
    if cuts is None or backend.encode("", add_special_tokens=False).ids:
        return None
    # Loads the compiler, which other kinds of tokenizers do not need.
    from services.tokenizer.engines.spans import span_engine  # noqa: PLC0415

    return span_engine.SpanEngine(backend, cuts)
