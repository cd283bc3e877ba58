"""How an error that a worker had is shown: its class, violations and metadata, for people and for programs."""

import json
from typing import Any

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2
from polytok.cli.render import json_documents, output, tables, training_tables
from polytok.errors import codec
from polytok.trainer.v1 import trainings_pb2

SENT = errors.InvalidArgument(
    "Two columns are wrong.",
    reason="COLUMN_INVALID",
    metadata={"row": "17"},
    violations=[errors.FieldViolation("parameters.text_column", "holds a null")],
)
FAILED = {"error_reason": SENT.reason, "error_message": SENT.message, "error": codec.to_message(SENT)}


def printed(out: output.Output, capsys: pytest.CaptureFixture[str], document: Any, text: Any) -> str:
    out.result(document, text)
    return capsys.readouterr().out


def test_a_record_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    record = datasets_pb2.Dataset(name="datasets/docs", state="STATE_ERROR", **FAILED)
    document = json_documents.record(record)
    out = output.Output(as_json=False)
    shown = printed(out, capsys, document, tables.details(out, record, document))
    for text in (
        "InvalidArgument",
        "COLUMN_INVALID",
        "Two columns are wrong.",
        "text_column",
        "holds a null",
        "row=17",
    ):
        assert shown.count(text) == 1, (text, shown)
    reported = json.loads(printed(output.Output(as_json=True), capsys, document, ""))["error"]
    assert reported == json_documents.error(SENT)["error"]


def test_a_training_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    record = trainings_pb2.Training(name="trainings/first", state="STATE_ERROR", **FAILED)
    out = output.Output(as_json=False)
    shown = printed(out, capsys, {}, training_tables.details(out, record))
    for text in ("InvalidArgument", "Two columns are wrong.", "text_column", "holds a null", "row=17"):
        assert shown.count(text) == 1, (text, shown)


def test_the_end_of_a_watch_adds_what_its_message_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    output.Output(as_json=False).failure(SENT)
    assert capsys.readouterr().err == ("Error: Two columns are wrong.\n  parameters.text_column: holds a null\n")
    plain = errors.InvalidArgument("holds a null.", violations=[errors.FieldViolation("column", "holds a null")])
    output.Output(as_json=False).failure(plain)
    assert capsys.readouterr().err == "Error: holds a null.\n"
