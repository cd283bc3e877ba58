"""What `import polytok` offers."""

import importlib.resources
import subprocess
import sys
from typing import Any

import pytest

import polytok
from polytok import states
from polytok.catalog.v1 import datasets_pb2, models_pb2, tokenizations_pb2
from polytok.extractor.v1 import extractions_pb2
from polytok.trainer.v1 import trainings_pb2

MESSAGES: list[Any] = [
    datasets_pb2.Dataset,
    models_pb2.Model,
    tokenizations_pb2.Tokenization,
    extractions_pb2.Extraction,
    trainings_pb2.Training,
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_states_are_those_of_the_contract(message: Any) -> None:
    enum = getattr(states, message.__name__)
    expected = {name.removeprefix("STATE_"): value for name, value in message.State.items() if value}
    assert {state.name: int(state) for state in enum} == expected
    record = message(state=message.STATE_READY)
    assert record.state == enum.READY
    assert str(enum(record.state)) == f"{enum.READY}" == "READY"


def test_names_are_listed_before_they_are_imported() -> None:
    code = "import polytok, sys; print(*dir(polytok)); assert 'polytok.client' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(polytok.__all__) <= set(listed)
    for name in polytok.__all__:
        assert getattr(polytok, name) is not None


def test_types_are_shipped() -> None:
    assert importlib.resources.files("polytok").joinpath("py.typed").is_file()
