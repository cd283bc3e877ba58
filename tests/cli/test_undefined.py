"""Figures that are undefined are a dash and a reason for people, null and a reason for scripts."""

import io
import json
import math
import sys

import pytest

from polytok.catalog.v1 import tokenizations_pb2
from polytok.cli.render import json_documents, output, tables, training_tables
from polytok.trainer.v1 import metrics_pb2, trainings_pb2

REASON = "the model predicts by chance"
EVALUATION = metrics_pb2.EvaluationFigures(
    figures={"explained_variance": 0.9, "cross_entropy_recovered": math.nan, "kl_divergence": 0.25},
    undefined={"cross_entropy_recovered": REASON},
    notes={"caveats.explained_variance": "few vectors"},
)
TRAINING = trainings_pb2.Training(
    name="trainings/a",
    state=trainings_pb2.Training.STATE_READY,
    results=[trainings_pb2.TrainedSae(name="s", evaluation=EVALUATION)],
)


def _lines(monkeypatch: pytest.MonkeyPatch, shown: object) -> list[str]:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    output.Output(as_json=False).result({}, shown)  # type: ignore[arg-type]
    return sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines(monkeypatch, training_tables.results(output.Output(as_json=False), [TRAINING]))
    assert lines[1].split()[-2:] == [tables.UNDEFINED, "0.25"]
    assert lines[2:] == ["* explained variance: few vectors (s)", f"{tables.UNDEFINED} CE recovered: {REASON} (s)"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_digits_are_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    figures = {"mse": 14.86, "explained_variance": 0.4952, "kl_divergence": 0.1396}
    long = trainings_pb2.TrainedSae(
        name="blocks.1.hook_resid_mid-topk",
        architecture="topk",
        d_sae=65536,
        evaluation=metrics_pb2.EvaluationFigures(figures=figures),
    )
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    out = output.Output(as_json=False)
    out.result({}, training_tables.results(out, [trainings_pb2.Training(name="trainings/a", results=[long, long])]))
    printed = terminal.getvalue()
    for whole in (long.name, "explained variance", "65,536", "14.86", "0.4952", "0.1396"):
        assert printed.count(whole) >= (1 if whole == "explained variance" else 2), printed


def test_json() -> None:
    document = json.loads(json.dumps(json_documents.record(TRAINING), allow_nan=False))
    evaluation = document["results"][0]["evaluation"]
    assert evaluation["figures"] == {"cross_entropy_recovered": None, "explained_variance": 0.9, "kl_divergence": 0.25}
    assert evaluation["undefined"] == {"cross_entropy_recovered": REASON}


def test_rates_and_shares_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.rate(100, 0.0) == tables.UNDEFINED
    assert tables.rate(100, 0.5) == "200"
    statistics = tokenizations_pb2.TokenizationStatistics(num_files=1)
    empty = tokenizations_pb2.Tokenization(name="datasets/a/tokenizations/b", statistics=statistics)
    lines = _lines(monkeypatch, tables.details(output.Output(as_json=False), empty, json_documents.record(empty)))
    shares = [line.split() for line in lines if "_share" in line]
    assert shares
    assert {value for _, *value_ in shares for value in value_} == {tables.UNDEFINED}
