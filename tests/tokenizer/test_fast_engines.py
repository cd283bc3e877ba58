"""Fast engines give the reference's ids or are not used: nothing that they get wrong reaches the output."""

import pathlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from services.runtime.storage import Storage
from services.tokenizer.engines import Engine, EngineMismatchError, probes, selection, spot_check
from services.tokenizer.engines.fastokens import Fastokens
from services.tokenizer.engines.gigatoken import Gigatoken
from services.tokenizer.engines.reference import Reference
from services.tokenizer.models import loader
from services.tokenizer.sequences.ragged import Ragged
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters
from tests.tokenizer.test_packing import rows_of

TEXTS = [*samples.ADVERSARIAL, *probes.STRINGS, *samples.DOCUMENTS[:20]]


def strings(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


class Native(BaseException):
    """What pyo3 raises for a panic is no Exception either."""


class Wrong:
    """The reference, but for texts with a certain word: there it does what the test sets."""

    name = "gigatoken"

    def __init__(self, reference: Engine, word: str, act: Callable[[Ragged], Ragged]) -> None:
        self._reference = reference
        self._word = word
        self._act = act
        self.calls = 0

    def encode(self, texts: pa.Array) -> Ragged:
        self.calls += 1
        rows = self._reference.encode(texts)
        return self._act(rows) if any(self._word in text for text in texts.to_pylist()) else rows


def other_ids(rows: Ragged) -> Ragged:
    return Ragged(np.where(rows.values > 5, rows.values - 1, rows.values), rows.offsets)


def panic(_: Ragged) -> Ragged:
    raise Native("index out of bounds")


def failure(_: Ragged) -> Ragged:
    raise ValueError("no such token")


def too_few(rows: Ragged) -> Ragged:
    return Ragged(rows.values, rows.offsets[:-1])


ACTS = [other_ids, panic, failure, too_few]


def selector(word: str, act: Callable[[Ragged], Ragged], made: list[Wrong]) -> selection.EngineSelector:
    def make(tokenizer: loader.Tokenizer, content: str, parallel: bool) -> Wrong:
        made.append(Wrong(Reference(tokenizer.backend), word, act))
        return made[-1]

    return selection.EngineSelector(makers={"gigatoken": make})


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("parallel", [True, False])
def test_engines_equal_the_reference(folders: dict[str, pathlib.Path], kind: str, parallel: bool) -> None:
    tokenizer = loader.load(folders[kind])
    content = tokenizer.backend.to_str()
    # A slice of an array, as the reader gives it: its buffers begin before it.
    texts = strings(["before", *TEXTS, "after"])[1:-1]
    expected = rows_of(Reference(tokenizer.backend).encode(texts))
    assert expected == [tokenizer.backend.encode(text, add_special_tokens=False).ids for text in TEXTS]
    for engine in (Gigatoken(content, parallel=parallel), Fastokens(content, split_special_tokens=False)):
        assert rows_of(engine.encode(texts)) == expected, engine.name
        assert rows_of(engine.encode(strings([]))) == []
        assert rows_of(engine.encode(strings(["", ""]))) == [[], []]


@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4"])
def test_auto_takes_a_fast_engine_for_real_tokenizers(shared: pathlib.Path, name: str) -> None:
    tokenizer = loader.load(shared / "tokenizers" / name)
    corpus = pq.read_table(shared / "corpus" / "mix32.parquet", columns=["text"])["text"].to_pylist()
    texts = strings([*TEXTS, *corpus[::20]])
    engine = task_runner.shared_proofs_selector().choose(tokenizer, "mix32", texts)
    assert engine.name != "reference"
    expected = Reference(tokenizer.backend).encode(texts)
    found = engine.encode(texts)
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found.offsets, expected.offsets)


@pytest.mark.parametrize("act", ACTS)
def test_an_engine_that_fails_its_proof_is_not_used(
    folders: dict[str, pathlib.Path], act: Callable[[Ragged], Ragged]
) -> None:
    tokenizer = loader.load(folders["byte_level"])
    made: list[Wrong] = []
    engines = selector("x=1;", act, made)
    for dataset in ("one", "two"):
        assert engines.choose(tokenizer, dataset, strings(["plain words"])).name == "reference"
        asked = sum(wrong.calls for wrong in made)
        assert asked
    # It is compared once for a tokenizer, not once for a dataset.
    assert engines.choose(tokenizer, "three", strings(["plain words"])).name == "reference"
    assert sum(wrong.calls for wrong in made) == asked


@pytest.mark.parametrize("act", ACTS)
def test_wrong_ids_are_encoded_again(
    storage: Storage, folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch, act: Callable[[Ragged], Ragged]
) -> None:
    # Every document is of the sample.
    monkeypatch.setattr(spot_check, "SHARE", 1.0)
    made: list[Wrong] = []
    runner = task_runner.TaskRunner(storage, folders["byte_level"], selector("zebra", act, made))
    texts = ["first of all", *samples.DOCUMENTS[:5], "then a zebra came"]
    parameters = Parameters(max_length=64)
    result = runner.tokenize(task_runner.text_shard(storage, texts), parameters)
    backend = runner.tokenizers.get(runner.reference).backend
    assert task_runner.rows(storage, result) == [backend.encode(text).ids[:64] for text in texts]
    assert (result.statistics.engine, result.statistics.num_engine_mismatches) == ("reference", 1)
    assert result.statistics.num_documents == len(texts)
    assert storage.list(task_runner.TOKENIZED) == [key for file in result.files for key in (file.key, file.counts_key)]
    # The dataset's next shard is not given to that engine again.
    calls = sum(wrong.calls for wrong in made)
    again = runner.tokenize(task_runner.text_shard(storage, texts[:3]), parameters, ordinal=1, count=2)
    assert (again.statistics.engine, again.statistics.num_engine_mismatches) == ("reference", 0)
    assert sum(wrong.calls for wrong in made) == calls
    merged = runner.publish([result, again], parameters).statistics
    assert (merged.engine, merged.num_engine_mismatches) == ("reference", 1)


@pytest.mark.parametrize(("most", "share"), [(40_000, 1.0), (1 << 30, 0.01)])
def test_the_sample_covers_the_shard(
    folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch, most: int, share: float
) -> None:
    monkeypatch.setattr(spot_check, "BYTES", most)
    monkeypatch.setattr(spot_check, "SHARE", share)
    backend = loader.load(folders["byte_level"]).backend
    seen: list[str] = []

    class Recording(Reference):
        def encode(self, texts: pa.Array) -> Ragged:
            seen.extend(texts.to_pylist())
            return super().encode(texts)

    documents = [f"document {place}: " + "words " * 100 for place in range(20_000)]
    size = sum(map(len, documents))
    most = min(most, round(size * share))
    engine = spot_check.SpotCheckedEngine(Reference(backend), Recording(backend), seed=5, shard_bytes=size)
    for start in range(0, 20_000, 5000):
        engine.encode(strings(documents[start : start + 5000]))
    assert 0.5 * most < sum(map(len, seen)) < 2 * most
    quarters = [int(text.split()[1][:-1]) // 5000 for text in seen]
    assert set(quarters) == {0, 1, 2, 3}


def test_samples_of_unusual_shards(folders: dict[str, pathlib.Path]) -> None:
    reference = Reference(loader.load(folders["byte_level"]).backend)
    for texts in (["", "zebra", ""], ["zebra " * 100_000]):
        engine = spot_check.SpotCheckedEngine(
            Wrong(reference, "zebra", other_ids), reference, seed=1, shard_bytes=600_000
        )
        with pytest.raises(EngineMismatchError) as caught:
            engine.encode(strings(texts))
        assert caught.value.engine == "gigatoken"


@pytest.mark.parametrize(
    "backend",
    [
        tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], 0)),
        tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, "<unk>")),
        tokenizers.Tokenizer(models.BPE({"a": 0}, [], dropout=0.5)),
    ],
    ids=["unigram", "word level", "dropout"],
)
def test_unknown_tokenizers_have_no_candidates(backend: tokenizers.Tokenizer) -> None:
    import json

    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert selection.candidates(json.loads(backend.to_str())) == ()


@pytest.mark.parametrize("wanted", ["reference", "gigatoken", "fastokens"])
def test_an_operator_chooses_the_engine(storage: Storage, folders: dict[str, pathlib.Path], wanted: str) -> None:
    runner = task_runner.TaskRunner(storage, folders["byte_level"], task_runner.shared_proofs_selector(wanted))
    result = runner.tokenize(task_runner.text_shard(storage, TEXTS), Parameters(max_length=64))
    assert result.statistics.engine == wanted
    backend = runner.tokenizers.get(runner.reference).backend
    assert task_runner.rows(storage, result) == [backend.encode(text).ids[:64] for text in TEXTS]


def test_an_unsuitable_engine_gives_way(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    runner = task_runner.TaskRunner(storage, folders["wordpiece"], task_runner.shared_proofs_selector("gigatoken"))
    result = runner.tokenize(task_runner.text_shard(storage, TEXTS), Parameters(max_length=64))
    assert result.statistics.engine == "reference"
