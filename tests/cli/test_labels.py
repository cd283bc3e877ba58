"""Labels that records of every kind share."""

import io
import re
import sys

import pytest

from polytok.cli.render import output, training_tables
from polytok.trainer.v1 import saes_pb2, trainings_pb2


def test_how_often_data_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    lineage = trainings_pb2.TrainingLineage(available_samples=231)
    training = trainings_pb2.Training(name="trainings/a", lineage=lineage, passes=30.3)
    out = output.Output(as_json=False)
    out.result({}, training_tables.details(out, training))
    (line,) = (line for line in sys.stdout.getvalue().splitlines() if "passes" in line)
    assert re.findall(r"[\d.]+", line) == ["30.3", "231"]
    assert "several times" in line


def test_learning_rates_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    out = output.Output(as_json=False)
    training = trainings_pb2.Training(name="trainings/a", parameters=trainings_pb2.TrainingParameters(seed=7))
    training.saes.add(name="default", hook="hook_embed", topk=saes_pb2.TopK(k=4))
    training.saes.add(name="own", hook="hook_embed", topk=saes_pb2.TopK(k=4), seed=5).optimizer.lr = 0.001
    out.result({}, training_tables.details(out, training))
    lines = sys.stdout.getvalue().splitlines()
    assert ["seed", "7"] in [line.split() for line in lines]
    for name, rate, seed in (("default", "0.0003", 0), ("own", "0.001", 5)):
        (line,) = (line for line in lines if f"{name}: " in line)
        assert f"learning rate {rate}, seed {seed}" in line


def test_a_failed_training_is_labelled_as_other_records_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    out = output.Output(as_json=False)
    failed = trainings_pb2.Training(name="trainings/a", state=trainings_pb2.Training.STATE_ERROR, error_message="Why.")
    out.result({}, training_tables.details(out, failed))
    assert [line.split() for line in sys.stdout.getvalue().splitlines() if "Why." in line] == [
        ["error_message", "Why."]
    ]
