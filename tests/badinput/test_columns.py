"""Columns that hold something else than text in every row."""

import json
import pathlib

import pytest

import polytok
from polytok import errors
from tests.badinput.commands import Bystander, Command
from tests.client import samples
from tests.support.messages import check_names


def add(command: Command, path: pathlib.Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = samples.unique("columns")
    command.done("dataset", "add", name, path)
    return name


def test_row_without_text(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    rows: list[dict[str, object]] = [{"text": text, "title": "t"} for text in samples.TEXTS]
    rows[7]["text"] = None
    name = add(command, tmp_path / "docs.jsonl", rows)
    message = command.refused("tokenize", name, "--model", bystander.model, "--watch", code=1)
    check_names(message, f"datasets/{name}/tokenizations/{bystander.model}", "'text'", "row 7", f"datasets/{name}")
    # The dataset is as it was, and what else it holds can be tokenized.
    assert json.loads(command.done("dataset", "show", name, "--json"))["state"] == "READY"
    command.done("tokenize", name, "--model", bystander.model, "--variant", "titles", "--column", "title", "--watch")
    with pytest.raises(errors.FailedPrecondition) as caught:
        client.load(name, bystander.model)
    assert caught.value.reason == "NOT_READY"
    assert caught.value.metadata["state"] == "ERROR"


def test_row_number_counts_all_files(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    samples.write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": "fine", "number": 1}\n{"text": null, "number": 2}\n')
    name = samples.unique("columns")
    client.datasets.create(name, files=[tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    client.datasets.wait(name, timeout=120)
    row = len(samples.TEXTS) + 1
    message = command.refused("tokenize", name, "--model", bystander.model, "--watch", code=1)
    check_names(message, f"row {row}", f"datasets/{name}")


def test_column_of_nulls(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name = add(command, tmp_path / "docs.jsonl", [{"text": None, "title": "t"}] * 3)
    message = command.refused("tokenize", name, "--model", bystander.model, code=2)
    check_names(message, "'text'", f"datasets/{name}", "nulls", "title")


def test_column_of_numbers(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    arguments = ("tokenize", dataset, "--model", model, "--variant", "other", "--column", "number")
    message = command.refused(*arguments, code=2)
    check_names(message, "'number'", f"datasets/{dataset}", "int64", "text")


def test_ambiguous_columns_of_text(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name = add(command, tmp_path / "docs.jsonl", [{"title": "t", "summary": "s"}])
    message = command.refused("tokenize", name, "--model", bystander.model, code=2)
    check_names(message, f"datasets/{name}", "title, summary", "--column")
