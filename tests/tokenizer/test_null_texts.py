"""Documents without text."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from tests.support.messages import check_names, words
from tests.tokenizer import task_runner

Parameters = tokenizations_pb2.TokenizationParameters
TEXTS = ["first", None, "", None, "last words"]


@pytest.fixture
def runner(storage: Storage, folders: dict[str, pathlib.Path]) -> task_runner.TaskRunner:
    return task_runner.TaskRunner(storage, folders["byte_level"])


def run(runner: task_runner.TaskRunner, **parameters: Any) -> tuple[list[list[int]], Any]:
    shard = task_runner.text_shard(runner.storage, TEXTS[:2], TEXTS[2:])
    result = runner.tokenize(shard, Parameters(max_length=16, add_special_tokens=False, **parameters))
    return task_runner.rows(runner.storage, result), result.statistics


@pytest.mark.parametrize("choice", [Parameters.NULL_TEXT_UNSPECIFIED, Parameters.NULL_TEXT_ERROR])
def test_an_error_by_default(runner: task_runner.TaskRunner, choice: Parameters.NullText.ValueType) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        run(runner, null_text=choice)
    assert caught.value.reason == "COLUMN_INVALID"
    check_names(caught.value.message, "'text'", "null_text", "--null-text drop", "--null-text empty")
    assert {"1"} <= words(caught.value.message)


def test_dropped(runner: task_runner.TaskRunner) -> None:
    rows, counted = run(runner, null_text=Parameters.NULL_TEXT_DROP)
    encode = runner.tokenizers.get(runner.reference).backend.encode
    assert rows == [encode(text, add_special_tokens=False).ids for text in TEXTS if text is not None]
    assert (counted.num_documents, counted.num_null_dropped, counted.num_null_empty) == (5, 2, 0)


def test_empty(runner: task_runner.TaskRunner) -> None:
    rows, counted = run(runner, null_text=Parameters.NULL_TEXT_EMPTY)
    encode = runner.tokenizers.get(runner.reference).backend.encode
    assert rows == [encode(text or "", add_special_tokens=False).ids for text in TEXTS]
    assert (counted.num_documents, counted.num_null_dropped, counted.num_null_empty) == (5, 0, 2)


def test_empty_texts_are_filtered(runner: task_runner.TaskRunner) -> None:
    filters = tokenizations_pb2.Filters(min_characters=1)
    _, counted = run(runner, null_text=Parameters.NULL_TEXT_EMPTY, filters=filters)
    assert (counted.num_null_empty, counted.num_too_short) == (2, 3)
    _, counted = run(runner, null_text=Parameters.NULL_TEXT_DROP, filters=filters)
    assert (counted.num_null_dropped, counted.num_too_short) == (2, 1)


@pytest.mark.parametrize("value", [None, "null"])
def test_conversations(runner: task_runner.TaskRunner, value: str | None) -> None:
    turns = json.dumps([{"role": "user", "content": "hello"}])
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array([turns, value], pa.string()))
    shard = task_runner.raw_shard(runner.storage, [pa.record_batch({"messages": column})])
    chat = tokenizations_pb2.Chat(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    parameters = Parameters(text_column="messages", max_length=16, chat=chat)
    with pytest.raises(errors.InvalidArgument) as caught:
        runner.tokenize(shard, parameters)
    check_names(caught.value.message, "'messages'", "null_text")
    parameters.null_text = Parameters.NULL_TEXT_DROP
    assert runner.tokenize(shard, parameters).statistics.num_null_dropped == 1
