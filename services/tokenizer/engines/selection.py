"""Create and cache encoding plans, for the fastest engine that rarely needs the reference."""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import llvmlite.binding
import numpy as np
import pyarrow as pa

from services.runtime.telemetry import logging
from services.tokenizer.engines import Engine, encoding_plan, proof, spans, structure, versions
from services.tokenizer.engines.fastokens import Fastokens
from services.tokenizer.engines.gigatoken import Gigatoken
from services.tokenizer.engines.proof_store import ProofStore
from services.tokenizer.engines.reference import Reference
from services.tokenizer.models import loader
from services.tokenizer.sequences import bounded_runs

Maker = Callable[[loader.Tokenizer, str, bool], Engine | None]
"""Creates an engine from a tokenizer, its content as JSON, and whether it may use several threads;
None if it cannot.
"""

MAKERS: Mapping[str, Maker] = {
    "spans": lambda tokenizer, *_: spans.create_engine(tokenizer.backend),
    "gigatoken": lambda _, content, parallel: Gigatoken(content, parallel=parallel),
    "fastokens": lambda tokenizer, content, _: Fastokens(
        content, split_special_tokens=bool(tokenizer.backend.encode_special_tokens)
    ),
}
"""Every fast engine."""

FEW = 0.01
"""The maximum share of bytes for the reference before another engine is tried."""
_REMEMBERED = 64

_log = logging.get(__name__)


def candidates(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the engines that may support a tokenizer, fastest first."""
    model = content["model"]
    # With dropout the same text has different ids every time.
    if model["type"] == "BPE" and not model.get("dropout"):
        # SentencePiece BPE falls back to one token per byte.
        return ("spans",) if model["byte_fallback"] else ("gigatoken", "fastokens")
    return ("spans",) if model["type"] == "WordPiece" else ()


class KnownTokenizer:
    """A tokenizer's reference, and the plans created for it so far."""

    def __init__(
        self,
        tokenizer: loader.Tokenizer,
        makers: Mapping[str, Maker],
        proof_store: ProofStore,
        *,
        parallel: bool,
        patience: int,
    ) -> None:
        self.reference = Reference(tokenizer.backend)
        self._tokenizer = tokenizer
        self._makers = makers
        self._ledger = proof_store
        self._parallel = parallel
        self._patience = patience
        self._plans: dict[str, encoding_plan.EncodingPlan | None] = {}
        self.encoded = 0
        """Bytes that the reference encoded because no engine was compared with it yet."""

    @functools.cached_property
    def candidates(self) -> tuple[str, ...]:
        """The engines that may support the tokenizer."""
        return tuple(name for name in candidates(self._content) if name in self._makers)

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        """The tokenizer's `tokenizer.json`; released once a plan is created, because it takes much memory."""
        content: dict[str, Any] = json.loads(self._tokenizer.backend.to_str())
        return content

    def get(self, name: str) -> encoding_plan.EncodingPlan | None:
        """Return the plan for an engine, or None if it cannot be used."""
        if name not in self._plans:
            self._plans[name] = self._made(name)
            self.__dict__.pop("_content", None)
        return self._plans[name]

    def has_plan(self) -> bool:
        """Return whether a plan was created."""
        return any(self._plans.values())

    def _made(self, name: str) -> encoding_plan.EncodingPlan | None:
        try:
            are_split = bool(self._tokenizer.backend.encode_special_tokens)
            form = None if name == "spans" else structure.read(self._content, splits_special_tokens=are_split)
        except structure.UnsupportedTokenizer as error:
            _log.info("engine_not_tried", engine=name, detail=str(error))
            return None
        subject = proof.Subject(
            name,
            _version(name),
            lambda backend: self._makers[name](
                dataclasses.replace(self._tokenizer, backend=backend), backend.to_str(), self._parallel
            ),
            self._tokenizer.backend,
            self._tokenizer.fingerprint,
            form,
        )
        return encoding_plan.create_plan(subject, self.reference, self._ledger, patience=self._patience)


@functools.cache
def _version(name: str) -> str:
    """Return what an engine's results depend on besides the tokenizer: its code, ours, and the kind of processor."""
    digest = hashlib.sha256(llvmlite.binding.get_host_cpu_features().flatten().encode())
    for file in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return f"{versions.format_name_and_version(name)} {digest.hexdigest()}"


class EngineSelector:
    """Creates and caches plans."""

    def __init__(
        self,
        wanted: str = "auto",
        *,
        parallel: bool = True,
        kept: int = 2,
        makers: Mapping[str, Maker] = MAKERS,
        folder: pathlib.Path | None = None,
        patience: int = 0,
    ) -> None:
        """Use the given engine, or any with `auto`.

        Results of comparisons are kept in `folder`. Up to `patience` bytes of text are encoded by the reference before
        an engine is compared with it: for less text the comparison would take longer than the encoding.
        """
        self._wanted = wanted
        self._parallel = parallel
        self._kept = kept
        self._makers = makers
        self._ledger = ProofStore(folder)
        self._patience = patience if wanted == "auto" else 0
        self._known: collections.OrderedDict[str, KnownTokenizer] = collections.OrderedDict()
        # Engines that returned wrong ids for a tokenizer and a dataset in spite of their proof.
        self._distrusted: collections.OrderedDict[tuple[str, str, str], None] = collections.OrderedDict()

    def reference(self, tokenizer: loader.Tokenizer) -> Reference:
        """Return the reference of a tokenizer."""
        return self._of(tokenizer).reference

    def choose(
        self, tokenizer: loader.Tokenizer, dataset: str, texts: pa.Array, distrusted: Collection[str] = ()
    ) -> Engine:
        """Return the engine for a dataset with these first texts.

        Engines in `distrusted`, by name and version as returned by `versions.format_name_and_version`, are excluded.
        """
        known = self._of(tokenizer)
        size = int(bounded_runs.ends_of(texts)[-1])
        if known.encoded + size < self._patience and not known.has_plan():
            known.encoded += size
            return known.reference
        best: tuple[float, Engine] = (1.0, known.reference)
        for name in known.candidates if self._wanted == "auto" else (self._wanted,):
            if name not in known.candidates or versions.format_name_and_version(name) in distrusted:
                continue
            if (tokenizer.fingerprint, dataset, name) in self._distrusted:
                continue
            made = known.get(name)
            if made is not None:
                share = _share(made, texts)
                if share <= FEW:
                    return made
                best = min(best, (share, made), key=lambda each: each[0])
        if best[1] is known.reference and self._wanted not in {"auto", "reference"}:
            _log.warning("engine_not_exact", engine=self._wanted, dataset=dataset, instead="reference")
        return best[1]

    def distrust(self, tokenizer: loader.Tokenizer, dataset: str, name: str) -> None:
        """Exclude an engine from the dataset's other shards."""
        self._distrusted[tokenizer.fingerprint, dataset, name] = None
        while len(self._distrusted) > _REMEMBERED:
            self._distrusted.popitem(last=False)

    def _of(self, tokenizer: loader.Tokenizer) -> KnownTokenizer:
        known = self._known.get(tokenizer.fingerprint)
        if known is None:
            known = self._known[tokenizer.fingerprint] = KnownTokenizer(
                tokenizer, self._makers, self._ledger, parallel=self._parallel, patience=self._patience
            )
        self._known.move_to_end(tokenizer.fingerprint)
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return known


def _share(made: encoding_plan.EncodingPlan, texts: pa.Array) -> float:
    """Return the share of bytes that the engine may not see."""
    sizes = np.diff(bounded_runs.ends_of(texts))
    return float(sizes[made.refuses(texts)].sum() / max(1, sizes.sum()))
