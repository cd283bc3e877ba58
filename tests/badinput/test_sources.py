"""Files that are not what their names say: an ERROR on their dataset, which names the file."""

import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import polytok
from tests.badinput.commands import Bystander, Command
from tests.client import samples
from tests.support.messages import check_names

LINES = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in samples.TEXTS)


def cut_parquet(path: pathlib.Path) -> None:
    pq.write_table(pa.table({"text": samples.TEXTS}), path)
    path.write_bytes(path.read_bytes()[:-200])


def add(command: Command, path: pathlib.Path, reason: str) -> str:
    """Add a file as a dataset, which fails, and return the message without the dataset's name."""
    name = samples.unique("bad")
    message = command.refused("dataset", "add", name, path, code=1)
    shown = json.loads(command.done("dataset", "show", name, "--json"))
    assert shown["state"] == "ERROR"
    assert shown["error_reason"] == reason
    assert message == f"datasets/{name}: {shown['error_message']}"
    return str(shown["error_message"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("dataset", "add", "NAME", "PATH/dosc.jsonl"),
        ("dataset", "add", "NAME", "PATH/docs.jsonl", "PATH/dosc.jsonl"),
        ("dataset", "add", "NAME", "--hub", "PATH/dosc.jsonl", "--split", "train"),
        ("model", "add", "NAME", "PATH/dosc.jsonl"),
    ],
)
def test_missing_path_leaves_no_record(
    command: Command, tmp_path: pathlib.Path, bystander: Bystander, arguments: tuple[str, ...]
) -> None:
    samples.write_jsonl(tmp_path / "docs.jsonl")
    name = samples.unique("missing")
    given = [each.replace("PATH", str(tmp_path)).replace("NAME", name) for each in arguments]
    message = command.refused(*given, code=4)
    check_names(message, tmp_path / "dosc.jsonl", tmp_path / "docs.jsonl")
    command.refused(given[0], "show", name, code=4)
    if "--hub" not in given and given[0] == "dataset":
        command.done("dataset", "add", name, tmp_path / "docs.jsonl")


def test_repeating_after_the_file_is_gone(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name, path = samples.unique("gone"), samples.write_jsonl(tmp_path / "docs.jsonl")
    command.done("dataset", "add", name, path)
    pathlib.Path(path).unlink()
    command.done("dataset", "add", name, path)


def test_tokenize_after_retry_of_a_failed_dataset(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    name, path = samples.unique("late"), tmp_path / "docs.jsonl"
    path.touch()
    command.refused("dataset", "add", name, path, code=1)
    message = command.refused("tokenize", name, "--model", bystander.model, code=5)
    check_names(message, f"datasets/{name}", "ERROR", f"`polytok dataset retry {name}`", path)
    samples.write_jsonl(path)
    command.done("dataset", "retry", name)
    command.done("tokenize", name, "--model", bystander.model, "--watch")
    assert len(client.load(name, bystander.model)) == len(samples.TEXTS)


def test_truncated_compressed_file(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-40])
    message = add(command, path, "SOURCE_INVALID")
    check_names(message, path, "gzip")


def test_truncated_parquet_file(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.parquet"
    cut_parquet(path)
    message = add(command, path, "SOURCE_INVALID")
    check_names(message, path, "Parquet")


def test_truncated_line(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(LINES[:-20])
    message = add(command, path, "SOURCE_INVALID")
    check_names(message, path, f"line {len(samples.TEXTS)}")


def test_file_is_not_utf8(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.txt"
    path.write_bytes("first line\nnaïve\n".encode("latin-1"))
    message = add(command, path, "SOURCE_INVALID")
    check_names(message, path, "line 2", "UTF-8")


@pytest.mark.parametrize("name", ["docs.parquet", "docs.jsonl.gz", "docs.arrow", "docs.csv.zst"])
def test_file_is_not_what_its_name_says(command: Command, tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(LINES)
    message = add(command, path, "SOURCE_INVALID")
    assert str(path) in message


def test_picture_named_jsonl(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    assert str(path) in add(command, path, "SOURCE_INVALID")


def test_unknown_extension(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.docx"
    path.write_bytes(b"PK\x03\x04")
    message = add(command, path, "SOURCE_INVALID")
    check_names(message, path, ".jsonl", ".parquet")


def test_empty_file(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.touch()
    message = add(command, path, "SOURCE_EMPTY")
    assert str(path) in message


def test_file_without_rows(command: Command, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    add(command, path, "SOURCE_EMPTY")
