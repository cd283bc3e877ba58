"""The whole demo, as a user runs it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from polytok.demo import demo_models, demo_tokenizers, scenario
from tests.support import stacks

PROGRAM = pathlib.Path(sys.executable).with_name("polytok")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Yield a home of its own, which does not exist yet."""
    with stacks.new_home() as home:
        found = {**os.environ, "POLYTOK_HOME": str(home)}
        found.pop("POLYTOK_CATALOG_ADDRESS", None)
        yield found


def _demo(environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [PROGRAM, "demo", "--json"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_twice(environment: dict[str, str]) -> None:
    first = _demo(environment)
    assert len(first["made"]) == 9
    # What bars show of each is its id.
    assert len({name.rpartition("/")[2] for name in first["made"] if "/tokenizations/" not in name}) == 7
    assert [each["state"] for each in first["tokenizations"]] == ["READY", "READY"]
    assert {each["vocab_size"] for each in first["tokenizations"]} == {demo_tokenizers.VOCABULARY}
    assert {row["model"] for row in first["rows"]} == {recipe.model_id for recipe in demo_models.RECIPES}
    assert [each["state"] for each in first["extractions"]] == ["READY", "READY"]
    assert [each["state"] for each in first["trainings"]] == ["READY", "READY"]
    for each in first["trainings"]:
        (result,) = each["results"]
        figures = result["evaluation"]["figures"]
        assert 0 < figures["explained_variance"] <= 1
        # The models know something: there is something to recover.
        assert figures["cross_entropy_clean"] < figures["cross_entropy_chance"] - 1
        assert figures["cross_entropy_recovered"] is not None
        assert (pathlib.Path(result["path"]) / "sae_weights.safetensors").exists()
    for each in first["extractions"]:
        assert 90_000 < each["statistics"]["num_tokens"] <= scenario.EXTRACTED_TOKENS
        assert [hook["hook"] for hook in each["statistics"]["hooks"]] == [scenario.HOOK]
    again = _demo(environment)
    assert again["made"] == []
    assert again["tokenizations"] == first["tokenizations"]
    assert again["extractions"] == first["extractions"]
    assert again["trainings"] == first["trainings"]
    assert not (pathlib.Path(environment["POLYTOK_HOME"]) / "stack.json").exists()


@pytest.mark.long
def test_interrupted(environment: dict[str, str]) -> None:
    process = subprocess.Popen([PROGRAM, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    while b"Corpus" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130
    assert b"Stopped" in out
    assert b"Traceback" not in err
    assert not (pathlib.Path(environment["POLYTOK_HOME"]) / "stack.json").exists()
