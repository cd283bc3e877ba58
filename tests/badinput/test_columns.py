"""Columns that hold something else than text in every row."""

import json
import pathlib

import pytest

import polytok
from polytok import errors
from tests.badinput.commands import Bystander, Command
from tests.client import material


def add(command: Command, path: pathlib.Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = material.unique("columns")
    command.done("dataset", "add", name, path)
    return name


def test_a_row_without_text(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    rows: list[dict[str, object]] = [{"text": text, "title": "t"} for text in material.TEXTS]
    rows[7]["text"] = None
    name = add(command, tmp_path / "docs.jsonl", rows)
    message = command.refused("tokenize", name, "--model", bystander.model, "--watch", code=1)
    assert message.startswith(
        f"datasets/{name}/tokenizations/{bystander.model}: Column 'text' has no value in row 7 of datasets/{name} "
        "(the first row is 0)"
    )
    assert message.endswith("Remove such rows from the source, or put an empty text there, and add the dataset again.")
    # The dataset is as it was, and what else it holds can be tokenized.
    assert json.loads(command.done("dataset", "show", name, "--json"))["state"] == "READY"
    command.done("tokenize", name, "--model", bystander.model, "--variant", "titles", "--column", "title", "--watch")
    with pytest.raises(errors.FailedPrecondition, match="is ERROR"):
        client.load(name, bystander.model)


def test_the_row_is_counted_through_all_files(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    material.write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": "fine", "number": 1}\n{"text": null, "number": 2}\n')
    name = material.unique("columns")
    client.datasets.create(name, files=[tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    client.datasets.wait(name, timeout=120)
    row = len(material.TEXTS) + 1
    assert f"in row {row} of datasets/{name} " in command.refused(
        "tokenize", name, "--model", bystander.model, "--watch", code=1
    )


def test_nothing_but_nulls(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name = add(command, tmp_path / "docs.jsonl", [{"text": None, "title": "t"}] * 3)
    message = command.refused("tokenize", name, "--model", bystander.model, code=2)
    assert f"Column 'text' of datasets/{name} holds nothing but nulls, not text. Columns of text: title." in message


def test_numbers(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    arguments = ("tokenize", dataset, "--model", model, "--variant", "other", "--column", "number")
    message = command.refused(*arguments, code=2)
    assert f"Column 'number' of datasets/{dataset} holds int64, not text. Columns of text: text." in message


def test_several_columns_of_text_and_none_called_text(
    command: Command, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    name = add(command, tmp_path / "docs.jsonl", [{"title": "t", "summary": "s"}])
    message = command.refused("tokenize", name, "--model", bystander.model, code=2)
    assert f"datasets/{name} has several columns of text: title, summary. " in message
    assert "Name the one to tokenize: `--column" in message
