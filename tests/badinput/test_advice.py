"""Advice in an error, followed, leads to a dataset or tokenization that is READY."""

import json
import pathlib
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from tests.badinput.commands import Bystander, Command
from tests.client import samples


def added(command: Command, *arguments: object) -> dict[str, str]:
    """Return the types of the columns of a dataset, which is added."""
    name = samples.unique("advice")
    command.done("dataset", "add", name, *arguments)
    shown = json.loads(command.done("dataset", "show", name, "--json"))
    assert shown["state"] == "READY"
    return {column["name"]: column["type"] for column in shown["columns"]}


def test_a_saved_dataset_dict(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    rows = datasets.Dataset.from_dict({"text": samples.TEXTS})
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    message = command.refused("dataset", "add", samples.unique("saved"), tmp_path / "saved", code=1)
    (path,) = re.findall(r"for example (\S+);", message)
    assert added(command, path) == {"text": "string"}


def test_an_array_named_as_lines(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps([{"text": text} for text in samples.TEXTS]))
    message = command.refused("dataset", "add", samples.unique("array"), tmp_path / "a.jsonl", code=1)
    (file_format,) = re.findall(r"set the format to (\w+)", message)
    assert added(command, tmp_path / "a.jsonl", "--format", file_format) == {"text": "string"}


def test_columns_that_only_some_files_have(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "url": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n')
    message = command.refused("dataset", "add", samples.unique("some"), tmp_path, code=1)
    assert "set columns" in message
    assert added(command, tmp_path, "--columns", "text") == {"text": "string"}
    message = command.refused("dataset", "add", samples.unique("some"), tmp_path, "--columns", "texts,url", code=1)
    (close,) = re.findall(r"Did you mean '(\w+)'", message)
    assert added(command, tmp_path, "--columns", close) == {"text": "string"}


def test_numbers_in_one_table_and_words_in_another(
    command: Command, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    (tmp_path / "a.csv").write_text("text,n\n007,1\n")
    (tmp_path / "b.csv").write_text("text,n\nwords,2\n")
    assert added(command, tmp_path) == {"text": "string", "n": "int64"}


def test_documents_without_text(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name = samples.unique("nulls")
    pq.write_table(pa.table({"text": [*samples.TEXTS, None]}), tmp_path / "a.parquet")
    command.done("dataset", "add", name, tmp_path / "a.parquet")
    arguments = ("tokenize", name, "--model", bystander.model, "--watch")
    message = command.refused(*arguments, code=1)
    options = re.findall(r"`(--null-text) (\w+)`", message)
    assert [value for _, value in options] == ["drop", "empty"]
    for option, value in options:
        command.done(*arguments, "--variant", value, option, value)
        shown = json.loads(command.done("tokenization", "show", name, bystander.model, "--variant", value, "--json"))
        assert shown["state"] == "READY"
        counted = {"drop": "num_null_dropped", "empty": "num_null_empty"}[value]
        assert int(shown["statistics"][counted]) == 1
