"""Which engine a shard gets: the fastest that proved itself for this tokenizer on this dataset, else the reference."""

import collections
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyarrow as pa

from services.runtime.telemetry import logging
from services.tokenizer.engines import Engine, proving, routing, spans, versions
from services.tokenizer.engines.fastokens import Fastokens
from services.tokenizer.engines.gigatoken import Gigatoken
from services.tokenizer.engines.reference import Reference
from services.tokenizer.models import loading

Maker = Callable[[loading.Tokenizer, str, bool], Engine | None]
"""Makes an engine of a tokenizer, its content as JSON, and whether it may use several threads; None if it cannot."""

MAKERS: Mapping[str, Maker] = {
    "spans": lambda tokenizer, *_: spans.make(tokenizer.backend),
    "gigatoken": lambda _, content, parallel: Gigatoken(content, parallel=parallel),
    "fastokens": lambda tokenizer, content, _: Fastokens(
        content, split_special_tokens=bool(tokenizer.backend.encode_special_tokens)
    ),
}
"""Every fast engine."""

_REMEMBERED = 64

_log = logging.get(__name__)


def candidates(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Names the engines that may know a tokenizer, the fastest first."""
    model = content["model"]
    # With dropout the same text has other ids every time.
    if model["type"] == "BPE" and not model.get("dropout"):
        # SentencePiece's kind falls back to a token for each byte.
        return ("spans", "gigatoken", "fastokens") if model["byte_fallback"] else ("gigatoken", "fastokens")
    return ("spans",) if model["type"] == "WordPiece" else ()


class Known:
    """A tokenizer's reference, and its fast engines as far as they were asked for."""

    def __init__(self, tokenizer: loading.Tokenizer, makers: Mapping[str, Maker], *, parallel: bool) -> None:
        self.reference = Reference(tokenizer.backend)
        self._tokenizer = tokenizer
        self._content = tokenizer.backend.to_str()
        self._makers = makers
        self._parallel = parallel
        self._proven: dict[str, routing.Routed | None] = {}
        self.candidates = tuple(name for name in candidates(json.loads(self._content)) if name in makers)

    def engine(self, name: str) -> routing.Routed | None:
        """Returns an engine that gave the reference's ids for the adversarial texts."""
        if name not in self._proven:
            make = self._makers[name]
            self._proven[name] = proving.proven(
                lambda: make(self._tokenizer, self._content, self._parallel), self.reference, self._content
            )
        return self._proven[name]


class Chooser:
    """Chooses engines, and remembers what they proved."""

    def __init__(
        self, wanted: str = "auto", *, parallel: bool = True, kept: int = 2, makers: Mapping[str, Maker] = MAKERS
    ) -> None:
        self._wanted = wanted
        self._parallel = parallel
        self._kept = kept
        self._makers = makers
        self._known: collections.OrderedDict[str, Known] = collections.OrderedDict()
        # For a tokenizer and a dataset: whether an engine gave the reference's ids for its documents.
        self._trusted: collections.OrderedDict[tuple[str, str, str], bool] = collections.OrderedDict()

    def reference(self, tokenizer: loading.Tokenizer) -> Reference:
        """Returns the reference of a tokenizer."""
        return self._of(tokenizer).reference

    def choose(
        self, tokenizer: loading.Tokenizer, dataset: str, texts: pa.Array, distrusted: Collection[str] = ()
    ) -> Engine:
        """Returns the engine for a dataset, of which these are the texts at hand.

        Those that are `distrusted`, each by name and version as `versions.versioned` gives them, are left out.
        """
        known = self._of(tokenizer)
        names = known.candidates if self._wanted == "auto" else (self._wanted,)
        for name in names:
            if versions.versioned(name) in distrusted:
                continue
            engine = known.engine(name) if name in known.candidates else None
            if engine is not None and self._trusts(
                engine, known.reference, (tokenizer.fingerprint, dataset, name), texts
            ):
                return engine
        if self._wanted not in {"auto", "reference"}:
            _log.warning("engine_not_exact", engine=self._wanted, dataset=dataset, instead="reference")
        return known.reference

    def distrust(self, tokenizer: loading.Tokenizer, dataset: str, name: str) -> None:
        """Keeps an engine from the dataset's other shards."""
        self._remember((tokenizer.fingerprint, dataset, name), trusted=False)

    def _trusts(self, engine: Engine, reference: Engine, key: tuple[str, str, str], texts: pa.Array) -> bool:
        if key not in self._trusted:
            self._remember(key, trusted=proving.same(engine, reference, proving.probe(texts)))
        return self._trusted[key]

    def _remember(self, key: tuple[str, str, str], *, trusted: bool) -> None:
        self._trusted[key] = trusted
        self._trusted.move_to_end(key)
        while len(self._trusted) > _REMEMBERED:
            self._trusted.popitem(last=False)

    def _of(self, tokenizer: loading.Tokenizer) -> Known:
        known = self._known.get(tokenizer.fingerprint)
        if known is None:
            known = self._known[tokenizer.fingerprint] = Known(tokenizer, self._makers, parallel=self._parallel)
        self._known.move_to_end(tokenizer.fingerprint)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return known
