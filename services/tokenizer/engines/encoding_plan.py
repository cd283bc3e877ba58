"""The encoding plan of a tokenizer: an engine, what it may not see, and the proof that its ids are the reference's.

An engine sees a text only if all its code points were compared and did not differ, and if it contains none of the
added tokens that it may find in other places than the reference. The reference encodes all other texts. Code points
are compared in blocks, when a text first contains one of a block; the results are kept in the proof store.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.runtime.telemetry import logging
from services.tokenizer.engines import Engine, code_point_filter, encode_or_mismatch, max_text_bytes, proof
from services.tokenizer.engines.proof_store import ProofStore, Verdicts
from services.tokenizer.sequences import bounded_runs, ragged
from services.tokenizer.sequences.ragged import Ragged

BLOCK_BYTES = 256 << 10
"""While one block is compared, the reference encodes this many bytes: fewer are not worth it."""

_log = logging.get(__name__)


class EncodingPlan:
    """An engine that returns the reference's ids for every text, because it sees only texts for which it does."""

    def __init__(
        self,
        engine: Engine,
        reference: Engine,
        parts: Sequence[proof.Part],
        proof_store: ProofStore,
        needles: Sequence[str],
        refused: Iterable[int],
        *,
        patience: int = 0,
    ) -> None:
        self._engine = engine
        self._reference = reference
        self._parts = parts
        self._ledger = proof_store
        self._admission = code_point_filter.CodePointFilter(needles, max_text_bytes(engine))
        self._always = frozenset(refused)
        self._patience = patience
        self._owed = 0
        self._admit()

    @property
    def name(self) -> str:
        """The name of the engine."""
        return self._engine.name

    @property
    def identity(self) -> tuple[str, ...]:
        """The identity of the proof: one sha256 for each part."""
        return tuple(part.identity for part in self._parts)

    @property
    def refused(self) -> list[int]:
        """The code points that were compared and that the engine may not see."""
        return sorted(self._always.union(*(verdicts.refused for verdicts in self._verdicts())))

    def encode(self, texts: pa.Array) -> Ragged:
        """Return the ids of each text."""
        apart = self.apart(texts)
        if not apart.any():
            return encode_or_mismatch(self._engine, texts)
        if apart.all():
            return self._reference.encode(texts)
        fast = encode_or_mismatch(self._engine, texts.filter(pa.array(~apart)))
        return ragged.interleave(fast, self._reference.encode(texts.filter(pa.array(apart))), apart)

    def apart(self, texts: pa.Array) -> NDArray[np.bool_]:
        """Return which texts the reference encodes; compare the code points in them, if that is worth it."""
        found, blocks = self._admission.classify(texts)
        if blocks:
            self._owed += int(np.diff(bounded_runs.ends_of(texts))[found == code_point_filter.UNKNOWN].sum())
            if not self._patience or self._owed >= BLOCK_BYTES * len(blocks):
                self._owed = 0
                self.compare(blocks)
                found, _ = self._admission.classify(texts)
        apart: NDArray[np.bool_] = found != code_point_filter.FREE
        return apart

    def refuses(self, texts: pa.Array) -> NDArray[np.bool_]:
        """Return which texts are refused because of a difference, not because they were not compared."""
        self.apart(texts)
        found, _ = self._admission.classify(texts)
        refused: NDArray[np.bool_] = found == code_point_filter.REFUSED
        return refused

    def compare(self, blocks: Iterable[int]) -> None:
        """Compare the code points of some blocks."""
        blocks = list(blocks)
        for part, verdicts in zip(self._parts, self._verdicts(), strict=True):
            if not verdicts.compared.issuperset(blocks):
                proof.extend_proof(part, verdicts, blocks)
                self._ledger.put(part.identity, verdicts)
        self._admit()

    def _admit(self) -> None:
        compared = set.intersection(*(verdicts.compared for verdicts in self._verdicts()))
        self._admission.allow(compared, self.refused)

    def _verdicts(self) -> list[Verdicts]:
        found = [self._ledger.get(part.identity) for part in self._parts]
        return [verdicts for verdicts in found if verdicts is not None]


def create_plan(
    subject: proof.Subject, reference: Engine, proof_store: ProofStore, *, patience: int = 0
) -> EncodingPlan | None:
    """Return the plan for an engine, or None if the engine cannot be used for the tokenizer.

    The engine is compared with the reference unless that was done before.
    """
    form = subject.structure
    engine = proof.create_engine(subject.name, lambda: subject.make(subject.backend))
    if engine is None:
        return None
    parts: list[proof.Part] = [proof.IdProof(subject, engine, reference)]
    if form is not None:
        parts.insert(0, proof.BoundaryProof(subject, form))
    for part in parts:
        verdicts = proof_store.get(part.identity)
        if verdicts is None:
            verdicts = proof.begin_proof(part)
            proof_store.put(part.identity, verdicts)
        if not verdicts.agrees:
            _log.info("engine_not_exact", engine=subject.name, part=type(part).__name__.lower())
            return None
    return EncodingPlan(
        engine,
        reference,
        parts,
        proof_store,
        form.needles if form else (),
        form.refused if form else (),
        patience=patience,
    )
