"""Labels that records of every kind share."""

import io
import re
import sys

import pytest

from polytok.cli.render import output, training_tables
from polytok.trainer.v1 import trainings_pb2


def test_how_often_data_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    lineage = trainings_pb2.TrainingLineage(available_samples=231)
    training = trainings_pb2.Training(name="trainings/a", lineage=lineage, passes=30.3)
    out = output.Output(as_json=False)
    out.result({}, training_tables.details(out, training))
    (line,) = (line for line in sys.stdout.getvalue().splitlines() if "passes" in line)
    assert re.findall(r"[\d.]+", line) == ["30.3", "231"]
    assert "several times" in line


def test_a_failed_training_is_labelled_as_other_records_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    out = output.Output(as_json=False)
    failed = trainings_pb2.Training(name="trainings/a", state=trainings_pb2.Training.STATE_ERROR, error_message="Why.")
    out.result({}, training_tables.details(out, failed))
    assert [line.split() for line in sys.stdout.getvalue().splitlines() if "Why." in line] == [
        ["error_message", "Why."]
    ]
