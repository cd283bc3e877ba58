# ruff: noqa: RUF001 (the letters that look alike are the point)
"""Filters keep what plain Python keeps, count the rest, and change nothing that they were not asked to change."""

import pathlib
import re
import unicodedata
from collections.abc import Callable

import pytest
import transformers

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from services.tokenizer.text import shard_reader
from tests.support.messages import words
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters

Filters = tokenizations_pb2.Filters
TEXTS = [
    *samples.DOCUMENTS[:20],
    "",
    "short",
    "café cafe\u0301 ﬁn Ｆｕｌｌ ½",
    "中文分词没有空格，日本語の文章です。",
    "#$%^&*()!!",
    " \t\n\v\f\r\x85\u2028\u3000",
    "שלום עולם مرحبا \u0301\u0302",
    "half!!!!",
    "Name: value\nname: other",
    "line\nName: value",
]


@pytest.fixture
def runner(
    storage: Storage, folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> task_runner.TaskRunner:
    """Run tasks with the byte-level tokenizer, on small slices."""
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 5000)
    return task_runner.TaskRunner(storage, folders["byte_level"])


def is_junk(character: str) -> bool:
    return unicodedata.category(character)[0] not in "LMNZ" and character not in "\t\n\v\f\r\x85"


def junk(text: str) -> float:
    return sum(map(is_junk, text)) / len(text) if text else 0.0


@pytest.mark.parametrize(
    ("filters", "counter", "keeps"),
    [
        (Filters(min_characters=6), "num_too_short", lambda text: len(text) >= 6),
        (Filters(max_characters=1000), "num_too_long", lambda text: len(text) <= 1000),
        (
            Filters(keep_pattern="^[A-Z]\\w+:? "),
            "num_unmatched",
            lambda text: re.search("^[A-Z]\\w+:? ", text, re.ASCII),
        ),
        (Filters(drop_pattern="(?m)^Name"), "num_matched", lambda text: not re.search("(?m)^Name", text)),
        (Filters(max_junk=0.5), "num_junk", lambda text: junk(text) <= 0.5),
        (Filters(max_junk=0.03), "num_junk", lambda text: junk(text) <= 0.03),
        (Filters(max_junk=0), "num_junk", lambda text: junk(text) <= 0),
    ],
    ids=lambda value: str(value).strip() if isinstance(value, Filters) else "",
)
def test_filters_equal_python(
    runner: task_runner.TaskRunner, storage: Storage, filters: Filters, counter: str, keeps: Callable[[str], object]
) -> None:
    expected = [text for text in TEXTS if keeps(text)]
    assert 0 < len(expected) < len(TEXTS)
    result = runner.tokenize(
        task_runner.text_shard(storage, TEXTS[:9], TEXTS[9:]), Parameters(max_length=64, filters=filters)
    )
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id)
    assert task_runner.rows(storage, result) == plain(expected, truncation=True, max_length=64)["input_ids"]
    assert getattr(result.statistics, counter) == len(TEXTS) - len(expected)
    assert result.statistics.num_documents == len(TEXTS)
    assert result.statistics.text_bytes == sum(len(text.encode()) for text in TEXTS)


def test_dropped_documents_are_counted_once(runner: task_runner.TaskRunner, storage: Storage) -> None:
    filters = Filters(min_characters=2, max_characters=4, keep_pattern="a", drop_pattern="b", max_junk=0.5)
    texts = ["", "!", "aaaaa!", "cc", "ab", "a!!", "aa"]
    result = runner.tokenize(task_runner.text_shard(storage, texts), Parameters(max_length=8, filters=filters))
    found = result.statistics
    counted = (found.num_too_short, found.num_too_long, found.num_unmatched, found.num_matched, found.num_junk)
    assert counted == (2, 1, 1, 1, 1)
    assert (found.num_documents, found.num_sequences) == (7, 1)


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_normalization_equals_python(runner: task_runner.TaskRunner, storage: Storage, form: str) -> None:
    parameters = Parameters(
        max_length=64,
        normalization=Parameters.Normalization.Value(f"NORMALIZATION_{form}"),
        # As long as it is after normalization.
        filters=Filters(max_characters=len(unicodedata.normalize(form, TEXTS[22]))),
    )
    expected = [unicodedata.normalize(form, text) for text in TEXTS]
    expected = [text for text in expected if len(text) <= parameters.filters.max_characters]
    assert any(text not in TEXTS for text in expected)
    result = runner.tokenize(task_runner.text_shard(storage, TEXTS), parameters)
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id)
    assert task_runner.rows(storage, result) == plain(expected, truncation=True, max_length=64)["input_ids"]


@pytest.mark.parametrize(("first_row", "taken"), [(0, 12), (5, 7), (11, 1), (12, 0), (40, 0)])
def test_the_first_documents_of_the_dataset(
    runner: task_runner.TaskRunner, storage: Storage, first_row: int, taken: int
) -> None:
    shard = task_runner.text_shard(storage, TEXTS[:9], TEXTS[9:])
    result = runner.tokenize(shard, Parameters(max_length=16, max_documents=12), first_row=first_row)
    plain = transformers.AutoTokenizer.from_pretrained(runner.reference.repo_id)
    expected = plain(TEXTS[:taken], truncation=True, max_length=16)["input_ids"] if taken else []
    assert task_runner.rows(storage, result) == expected
    assert result.statistics.num_documents == taken
    assert result.statistics.text_bytes == sum(len(text.encode()) for text in TEXTS[:taken])


def test_a_flipped_bit_behind_the_limit(runner: task_runner.TaskRunner, storage: Storage) -> None:
    shard = task_runner.text_shard(storage, *[samples.DOCUMENTS[:10]] * 5)
    data = bytearray(storage.read_bytes(shard.key))
    data[int(len(data) * 0.9)] ^= 0x10
    storage.write_bytes(shard.key, bytes(data))
    with pytest.raises(errors.DataLoss):
        runner.tokenize(shard, Parameters(max_length=8, max_documents=2))


def test_filters_that_drop_everything(runner: task_runner.TaskRunner, storage: Storage) -> None:
    parameters = Parameters(max_length=8, filters=Filters(min_characters=10**6))
    result = runner.tokenize(task_runner.text_shard(storage, TEXTS), parameters)
    assert list(result.files) == []
    with pytest.raises(errors.FailedPrecondition) as caught:
        runner.publish([result], parameters)
    assert caught.value.reason == "SOURCE_EMPTY"
    assert {"filters", str(len(TEXTS))} <= words(caught.value.message)
