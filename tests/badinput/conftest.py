"""Commands as a user gives them, and a tokenization made before, which every mistake must leave as it was."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import polytok
from tests.badinput import commands
from tests.badinput.commands import Bystander
from tests.client import samples

if TYPE_CHECKING:
    from tests.support.stacks import Stack


@pytest.fixture
def command(stack: Stack) -> commands.Command:
    return commands.Command(stack.env)


@pytest.fixture(scope="package")
def client(stack: Stack) -> Iterator[polytok.Client]:
    with polytok.Client(stack.catalog_address) as client:
        yield client


@pytest.fixture(scope="package")
def bystander(client: polytok.Client, tmp_path_factory: pytest.TempPathFactory) -> Bystander:
    """Return what was READY before anything went wrong."""
    folder = tmp_path_factory.mktemp("bystander")
    dataset, model = samples.unique("bystander"), samples.unique("model")
    client.datasets.create(dataset, files=samples.write_jsonl(folder / "docs.jsonl"))
    client.models.create(model, str(samples.write_model(folder / "model")))
    client.datasets.wait(dataset, timeout=120)
    client.models.wait(model, timeout=120)
    client.tokenizations.create(dataset, model, max_length=16)
    tokenization = client.tokenizations.wait(dataset, model, timeout=120)
    return Bystander(dataset, model, tokenization.tokenized_path)


@pytest.fixture(autouse=True)
def _nothing_else_was_harmed(client: polytok.Client, bystander: Bystander) -> Iterator[None]:
    """Whatever a test does: what was READY is untouched, and the workers go on with the next job."""
    records, files = _records(client, bystander), _checksums(client, bystander)
    yield
    assert _records(client, bystander) == records
    assert _checksums(client, bystander) == files
    assert len(client.load(bystander.dataset, bystander.model)) == len(samples.TEXTS)
    client.tokenizations.create(bystander.dataset, bystander.model, variant="next", max_length=8)
    client.tokenizations.wait(bystander.dataset, bystander.model, variant="next", timeout=120)
    client.tokenizations.delete(bystander.dataset, bystander.model, variant="next")


def _records(client: polytok.Client, bystander: Bystander) -> list[object]:
    return [
        client.datasets.get(bystander.dataset),
        client.models.get(bystander.model),
        client.tokenizations.get(bystander.dataset, bystander.model),
    ]


def _checksums(client: polytok.Client, bystander: Bystander) -> dict[str, str]:
    folders = [bystander.tokenized_path, client.datasets.get(bystander.dataset).raw_path]
    files = [path for folder in folders for path in pathlib.Path(folder).iterdir()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
