"""Commands that come too early: before a dataset is READY, and while something is being made."""

import os
import pathlib
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import polytok
from polytok.client import watch_stream
from tests.badinput.commands import Bystander, Command
from tests.client import samples
from tests.support.messages import check_names
from tests.support.servers import await_condition

if TYPE_CHECKING:
    from tests.support.stacks import Stack


@pytest.fixture
def held_ingest(stack: "Stack") -> Iterator[None]:
    """No dataset is read in meanwhile."""
    pid = stack.facts["pids"]["ingest"]
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


@pytest.fixture
def held_tokenizer(stack: "Stack") -> Iterator[None]:
    """Yield the worker takes a task and gets nowhere with it: its child is stopped."""
    (child,) = children(stack.facts["pids"]["tokenizer-1"], "services.tokenizer.worker.child")
    os.kill(child, signal.SIGSTOP)
    yield
    if child in children(stack.facts["pids"]["tokenizer-1"], "services.tokenizer.worker.child"):
        os.kill(child, signal.SIGCONT)


def begin(client: polytok.Client, dataset: str, model: str, path: pathlib.Path) -> None:
    """Have a tokenization made of a new dataset; returns once a worker is at it."""
    client.datasets.create(dataset, files=path)
    client.datasets.wait(dataset, timeout=120)
    client.tokenizations.create(dataset, model)
    await_condition(
        lambda: watch_stream.state(client.tokenizations.get(dataset, model)) == "PROCESSING", "the tokenization is made"
    )


def children(pid: int, module: str) -> list[int]:
    """Return the children of a process that run a module."""
    found = [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if module in pathlib.Path(f"/proc/{child}/cmdline").read_text().split("\0")]


@pytest.mark.usefixtures("held_ingest")
def test_tokenize_before_the_dataset_is_ready(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name = samples.unique("early")
    command.done("dataset", "add", name, samples.write_jsonl(tmp_path / "docs.jsonl"), "--no-watch")
    message = command.refused("tokenize", name, "--model", bystander.model, code=5)
    check_names(message, f"datasets/{name}", "PENDING", f"`polytok dataset watch {name}`")
    # A pending dataset is deleted at once.
    command.done("dataset", "delete", name)
    command.refused("dataset", "show", name, code=4)


@pytest.mark.usefixtures("held_tokenizer")
def test_delete_a_running_tokenization(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    name, model = samples.unique("busy"), bystander.model
    begin(client, name, model, samples.write_jsonl(tmp_path / "docs.jsonl"))
    message = command.refused("dataset", "delete", name, code=5)
    tokenization = f"datasets/{name}/tokenizations/{model}"
    check_names(message, f"datasets/{name}", 1, tokenization, f"`polytok dataset delete {name} --force`")
    for arguments in (("tokenization", "path", name, model), ("tokenization", "retry", name, model)):
        check_names(command.refused(*arguments, code=5), tokenization, "PROCESSING")
    path = client.tokenizations.get(name, model).tokenized_path
    command.done("tokenization", "delete", name, model)
    command.refused("tokenization", "show", name, model, code=4)
    client.tokenizations.create(name, model)
    assert client.tokenizations.wait(name, model, timeout=120).tokenized_path == path
    assert len(client.load(name, model)) == len(samples.TEXTS)


@pytest.mark.usefixtures("held_tokenizer")
def test_delete_a_dataset_with_a_running_tokenization(
    command: Command, client: polytok.Client, tmp_path: pathlib.Path, bystander: Bystander
) -> None:
    name, model = samples.unique("busy"), bystander.model
    begin(client, name, model, samples.write_jsonl(tmp_path / "docs.jsonl"))
    folder = pathlib.Path(client.datasets.get(name).raw_path).parent
    command.done("dataset", "delete", name, "--force")
    command.refused("dataset", "show", name, code=4)
    await_condition(lambda: not folder.exists(), "its files are gone")


def test_delete_a_model_in_use(command: Command, bystander: Bystander) -> None:
    message = command.refused("model", "delete", bystander.model, code=5)
    check_names(message, f"models/{bystander.model}", f"tokenizations/{bystander.model}")
