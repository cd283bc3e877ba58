"""What a record that is not READY is said to be, by whatever needs it READY."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from polytok.cli import exit_codes
from polytok.cli.render import json_documents
from polytok.client import files, hub_export, trainings, transport, watch_stream
from polytok.extractor.v1 import extractions_pb2
from polytok.trainer.v1 import trainings_pb2

Training, Extraction = trainings_pb2.Training, extractions_pb2.Extraction
LATER: Any = 99
"""A state that this client's contracts do not have."""


@pytest.mark.parametrize("needs", [trainings.sae_path, hub_export.list_exports, watch_stream.ready])
@pytest.mark.parametrize("state", ["QUEUED", "PROCESSING"])
def test_a_training_at_work_is_not_called_failed(needs: Callable[[Training], Any], state: str) -> None:
    record = Training(name="trainings/first", state=Training.State.Value(f"STATE_{state}"))
    with pytest.raises(errors.FailedPrecondition, match=f"first.*{state}.*READY") as caught:
        needs(record)
    assert caught.value.reason == "NOT_READY"
    assert caught.value.metadata == {"resource": "trainings/first", "state": state}
    assert "`polytok training watch first`" in caught.value.message
    assert exit_codes.code(caught.value) == exit_codes.CONFLICT


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (datasets_pb2.Dataset(name="datasets/docs", state="STATE_DOWNLOADING"), "dataset watch docs"),
        (models_pb2.Model(name="models/gpt2", state="STATE_PENDING"), "model watch gpt2"),
        (
            tokenizations_pb2.Tokenization(name="datasets/docs/tokenizations/gpt2", state="STATE_QUEUED"),
            "tokenization watch docs/gpt2",
        ),
        (Extraction(name="extractions/acts", state="STATE_PROCESSING"), "extraction watch acts"),
    ],
    ids=["dataset", "model", "tokenization", "extraction"],
)
def test_other_records_under_way_are_reported_alike(record: Any, command: str) -> None:
    with pytest.raises(errors.FailedPrecondition, match=record.name) as caught:
        watch_stream.ready(record)
    assert caught.value.reason == "NOT_READY"
    assert f"`polytok {command}`" in caught.value.message


def test_an_extraction_at_work_has_no_path() -> None:
    with pytest.raises(errors.FailedPrecondition, match=r"extractions/acts.*QUEUED") as caught:
        files.extraction_path(Extraction(name="extractions/acts", state="STATE_QUEUED"))
    assert caught.value.reason == "NOT_READY"
    assert caught.value.metadata == {"resource": "extractions/acts", "state": "QUEUED"}


def test_a_failure_keeps_its_message() -> None:
    record = Training(
        name="trainings/first", state="STATE_ERROR", error_reason="NOT_FINITE", error_message="It diverged."
    )
    with pytest.raises(errors.FailedPrecondition, match=r"trainings/first: It diverged\.") as caught:
        trainings.sae_path(record)
    assert caught.value.reason == "NOT_FINITE"


def test_a_state_of_a_newer_server_is_shown_and_refused() -> None:
    record = Training(name="trainings/first", state=LATER)
    assert json_documents.record(record)["state"] == 99
    with pytest.raises(errors.FailedPrecondition, match=r"UNKNOWN_99.*client") as caught:
        trainings.sae_path(record)
    assert caught.value.metadata == {"resource": "trainings/first", "state": "UNKNOWN_99"}


async def test_watching_ends_where_a_newer_server_ends_it() -> None:
    record = Training(name="trainings/first", state=LATER)
    opened = 0

    async def replies(_: float | None) -> AsyncGenerator[Training, None]:
        nonlocal opened
        opened += 1
        yield record

    class NoWait:
        async def sleep(self, _: float) -> None:
            return

    via: transport.Transport = NoWait()  # type: ignore[assignment]
    found = [each async for each in watch_stream.follow(via, replies)]
    assert (opened, found) == (2, [record, record])
