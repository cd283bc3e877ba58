"""Compare an engine with the reference: sequences of classes, the vocabulary, added tokens and all code points.

For byte-level engines the comparison has two parts. *Where texts are split* is compared with a tokenizer that reveals
it (`boundaries`); the result holds for every tokenizer that splits texts in the same way. *Which ids the pieces have*
is compared with the tokenizer itself. `spans` asks the reference for both, and needs only the second part.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from services.runtime.telemetry import logging
from services.tokenizer.engines import Engine, EngineMismatchError, boundaries, encode_or_mismatch, probes, structure
from services.tokenizer.engines.proof_store import Verdicts
from services.tokenizer.engines.reference import VERSION as REFERENCE_VERSION
from services.tokenizer.sequences.ragged import Ragged

VERSION = 2
"""Incremented when the compared texts change, so that results of older versions are not used."""
LEAST_BLOCKS = (0,)
"""Blocks of code points without which an engine cannot be used."""

Make = Callable[[tokenizers.Tokenizer], Engine | None]
"""Creates an engine for a tokenizer."""

_log = logging.get(__name__)


@dataclass(frozen=True)
class Subject:
    """What is compared: an engine, created for a tokenizer."""

    name: str
    """The engine's name."""
    version: str
    make: Make
    backend: tokenizers.Tokenizer
    fingerprint: str
    """The tokenizer's fingerprint."""
    structure: structure.Structure | None
    """None for an engine that has no tables of its own for splitting texts."""

    def identity(self, what: str) -> str:
        """Return the sha256, hexadecimal, of everything that a part of the proof depends on."""
        depends = (VERSION, self.name, self.version, REFERENCE_VERSION, what)
        return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


class BoundaryProof:
    """Where texts are split."""

    def __init__(self, subject: Subject, form: structure.Structure) -> None:
        self._subject = subject
        self._structure = form
        self._classes = probes.representatives(form)
        unicode = probes.UNICODE if form.composes else ""
        self.identity = subject.identity(form.splitting + unicode)

    def agrees(self) -> bool:
        """Return whether all sequences of classes are split as by the reference."""
        texts = [*probes.sequences(self._classes), *probes.runs(self._classes), *probes.contractions(self._classes)]
        if self._structure.composes:
            texts += probes.compositions()
        return not self._differing(texts).any()

    def refused(self, block: int) -> list[int]:
        """Return the code points of a block around which texts are split differently."""
        found = probes.characters(block)
        texts = [text for c in found for text in probes.around(c, self._classes, composes=self._structure.composes)]
        if not found:
            return []
        differing = np.logical_or.reduce(self._differing(texts).reshape(len(found), -1), axis=1)
        if self._structure.composes:
            differing |= [not probes.is_composed_alike(character) for character in found]
        return _codes(found, differing)

    def _differing(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        if not texts:
            return np.empty(0, np.bool_)
        backend, expected = boundaries.reveal(self._structure, texts)
        engine = create_engine(self._subject.name, lambda: self._subject.make(backend))
        return _differing(engine, texts, lambda _: expected)


class IdProof:
    """Which ids a tokenizer returns."""

    def __init__(self, subject: Subject, engine: Engine | None, reference: Engine) -> None:
        self._subject = subject
        self._engine = engine
        self._reference = reference
        self._odd: dict[int, set[int]] = {}
        self.identity = subject.identity(subject.fingerprint)

    def agrees(self) -> bool:
        """Return whether texts, words, added tokens and every entry of the vocabulary have the reference's ids.

        Texts that the engine will not see are ignored.
        """
        form = self._subject.structure
        needles = form.needles if form else ()
        for texts in self._texts():
            seen = [text for text in texts if not any(needle in text for needle in needles)]
            for place in np.flatnonzero(_differing(self._engine, seen, self._reference.encode)).tolist():
                if not self._refuses(seen[place]):
                    _log.info("engine_differs", engine=self._subject.name, text=seen[place][:100])
                    return False
        return True

    def _refuses(self, text: str) -> bool:
        """Return whether a text contains a character that has different ids wherever it is."""
        codes = {ord(character) for character in text if not character.isascii()}
        for block in {code // probes.BLOCK for code in codes} - self._odd.keys():
            self._odd[block] = set(self.refused(block))
        return any(code in self._odd[code // probes.BLOCK] for code in codes)

    def _texts(self) -> Iterable[Sequence[str]]:
        form, vocab = self._subject.structure, self._subject.backend.get_vocab(with_added_tokens=False)
        yield probes.STRINGS
        if form is None:
            entries = [entry.replace("\u2581", " ").removeprefix("##") for entry in vocab]
        else:
            entries = list(structure.entries(self._subject.backend))
            yield [*form.ties, *(f"a{tie}b {tie}" for tie in form.ties)]
            yield list(probes.added(form.visible))
        yield list(probes.words(entries))
        whole = set(entries)
        yield [*entries, *(f" {entry}" for entry in entries if f" {entry}" not in whole)]

    def refused(self, block: int) -> list[int]:
        """Return the code points of a block that have different ids."""
        found = probes.characters(block)
        texts = [probes.plain(c) for c in found]
        if self._subject.structure is None:
            texts = ["\n".join(probes.around(c, "a1! \t\n.é中\u0301", composes=True)) for c in found]
        return _codes(found, _differing(self._engine, texts, self._reference.encode))


def _codes(found: Sequence[str], differing: NDArray[np.bool_]) -> list[int]:
    return [ord(found[place]) for place in np.flatnonzero(differing).tolist()]


def create_engine(name: str, maker: Callable[[], Engine | None]) -> Engine | None:
    """Create an engine, or return None if it rejects the tokenizer with any error."""
    try:
        return maker()
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # Native code may reject a tokenizer with any error, even a panic, which is not an Exception.
    except BaseException as error:
        _log.info("engine_refuses", engine=name, error=str(error)[:200])
        return None


def _differing(
    engine: Engine | None, texts: Sequence[str], expected: Callable[[pa.Array], Ragged]
) -> NDArray[np.bool_]:
    """Return which texts get other ids than the reference's; all of them if an engine fails."""
    strings = pa.array(texts, pa.large_string())
    try:
        if engine is None:
            return np.ones(len(texts), np.bool_)
        found = encode_or_mismatch(engine, strings)
    except EngineMismatchError as error:
        _log.info("engine_fails", engine=error.engine, detail=error.detail)
        return np.ones(len(texts), np.bool_)
    return differing_rows(found, expected(strings))


def differing_rows(found: Ragged, expected: Ragged) -> NDArray[np.bool_]:
    """Return which rows differ."""
    differs: NDArray[np.bool_] = found.lengths != expected.lengths
    if not differs.any():
        wrong = np.flatnonzero(found.values[: found.offsets[-1]] != expected.values[: expected.offsets[-1]])
        differs[np.searchsorted(found.offsets, wrong, side="right") - 1] = True
        return differs
    for row in np.flatnonzero(~differs):
        a, b = (rows.values[rows.offsets[row] : rows.offsets[row + 1]] for rows in (found, expected))
        differs[row] = not np.array_equal(a, b)
    return differs


Part = BoundaryProof | IdProof


def begin_proof(part: Part) -> Verdicts:
    """Compare everything but code points, and the code points of LEAST_BLOCKS.

    An engine that differs there is unusable.
    """
    verdicts = Verdicts(agrees=part.agrees())
    if verdicts.agrees:
        extend_proof(part, verdicts, LEAST_BLOCKS)
        verdicts.agrees = not any(code < 128 for code in verdicts.refused)
    return verdicts


def extend_proof(part: Part, verdicts: Verdicts, blocks: Iterable[int]) -> None:
    """Compare the code points of additional blocks."""
    for block in blocks:
        if block not in verdicts.compared:
            verdicts.refused.update(part.refused(block))
            verdicts.compared.add(block)
