"""Labels that records of every kind share."""

import io
import sys

import pytest

from polytok.cli import curves, output
from polytok.trainer.v1 import trainings_pb2


def test_a_failed_training_is_labelled_as_other_records_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    out = output.Output(as_json=False)
    failed = trainings_pb2.Training(name="trainings/a", state=trainings_pb2.Training.STATE_ERROR, error_message="Why.")
    out.result({}, curves.details(out, failed))
    assert [line.split() for line in sys.stdout.getvalue().splitlines() if "Why." in line] == [
        ["error_message", "Why."]
    ]
