"""Files that cannot be read as what they say they are: an ERROR on their dataset, with a way to mend it."""

import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import polytok
from tests.badinput.commands import Bystander, Command
from tests.client import material

LINES = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in material.TEXTS)


def cut_parquet(path: pathlib.Path) -> None:
    pq.write_table(pa.table({"text": material.TEXTS}), path)
    path.write_bytes(path.read_bytes()[:-200])


def add(command: Command, path: pathlib.Path, reason: str) -> str:
    """Adds a file as a dataset, which fails, and gives the message without the dataset's name."""
    name = material.unique("bad")
    message = command.refused("dataset", "add", name, path, code=1)
    shown = json.loads(command.done("dataset", "show", name, "--json"))
    assert shown["state"] == "ERROR"
    assert shown["error_reason"] == reason
    assert message == f"datasets/{name}: {shown['error_message']}"
    return str(shown["error_message"])


def test_a_file_that_is_missing(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    path = tmp_path / "docs.jsonl"
    message = add(command, path, "SOURCE_NOT_FOUND")
    assert str(path) in message
    assert "exist" in message


def test_a_dataset_in_error_is_not_tokenized_until_its_file_is_there(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    name, path = material.unique("late"), tmp_path / "docs.jsonl"
    command.refused("dataset", "add", name, path, code=1)
    message = command.refused("tokenize", name, "--model", bystander.model, code=5)
    assert message.startswith(f"datasets/{name} is ERROR; mend the cause and try again with ")
    assert f"`polytok dataset retry {name}`" in message
    assert str(path) in message
    material.write_jsonl(path)
    command.done("dataset", "retry", name)
    command.done("tokenize", name, "--model", bystander.model, "--watch")
    assert len(client.load(name, bystander.model)) == len(material.TEXTS)


def test_a_compressed_file_that_was_cut_off(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-40])
    message = add(command, path, "SOURCE_INVALID")
    assert str(path) in message
    assert "ends in the middle of its gzip data" in message
    assert "Copy it again." in message


def test_a_parquet_file_that_was_cut_off(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.parquet"
    cut_parquet(path)
    message = add(command, path, "SOURCE_INVALID")
    assert str(path) in message
    assert "Parquet" in message


def test_a_line_that_was_cut_off(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(LINES[:-20])
    message = add(command, path, "SOURCE_INVALID")
    assert f"{path}, line {len(material.TEXTS)}" in message


def test_a_file_that_is_not_utf8(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.txt"
    path.write_bytes("first line\nnaïve\n".encode("latin-1"))
    message = add(command, path, "SOURCE_INVALID")
    assert str(path) in message
    assert "line 2" in message
    assert "UTF-8" in message


@pytest.mark.parametrize("name", ["docs.parquet", "docs.jsonl.gz", "docs.arrow", "docs.csv.zst"])
def test_a_file_that_is_not_what_its_name_says(command: Command, tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(LINES)
    message = add(command, path, "SOURCE_INVALID")
    assert str(path) in message


def test_a_picture_with_the_name_of_a_corpus(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    assert str(path) in add(command, path, "SOURCE_INVALID")


def test_an_ending_that_nothing_has(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.docx"
    path.write_bytes(b"PK\x03\x04")
    message = add(command, path, "SOURCE_INVALID")
    assert str(path) in message
    assert "format" in message


def test_an_empty_file(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.touch()
    message = add(command, path, "SOURCE_EMPTY")
    assert str(path) in message


def test_a_file_without_rows(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    add(command, path, "SOURCE_EMPTY")
