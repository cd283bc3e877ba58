"""Names that nothing has, and names that nothing may have."""

import pathlib

import pytest

from tests.badinput.commands import Bystander, Command
from tests.client import material


def test_an_unknown_model(command: Command, bystander: Bystander) -> None:
    close = bystander.model[:-1]
    message = command.refused("tokenize", bystander.dataset, "--model", close, code=4)
    # Other tests' models may be as close.
    assert message.startswith(f"No model is called {close!r}. Did you mean ")
    assert repr(bystander.model) in message
    assert message.endswith("? `polytok model list` shows the models that exist.")


def test_an_unknown_dataset(command: Command, bystander: Bystander) -> None:
    message = command.refused("tokenize", "no-such-corpus", "--model", bystander.model, code=4)
    assert message == ("No dataset is called 'no-such-corpus'. `polytok dataset list` shows the datasets that exist.")


def test_an_unknown_tokenization(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    message = command.refused("tokenization", "path", dataset, model, "--variant", "packed", code=4)
    assert f"datasets/{dataset}/tokenizations/{model}~packed does not exist." in message
    assert f"`polytok tokenize {dataset} --model {model} --variant packed` makes it" in message


def test_an_unknown_column(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    arguments = ("tokenize", dataset, "--model", model, "--variant", "other", "--column", "txet")
    message = command.refused(*arguments, code=2)
    assert message == f"datasets/{dataset} has no column 'txet'; it has: text, number. Did you mean 'text'?"


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("../docs", 2, "'../docs' names no dataset. Name it by its id, as `polytok dataset list` shows it"),
        ("docs/../../etc", 2, "'docs/../../etc' names no dataset."),
        ("..", 2, "must look like 'datasets/{id}'"),
        ("a..b", 4, "No dataset is called 'a..b'."),
    ],
)
def test_a_dataset_called_like_a_way_out(
    command: Command, tmp_path: pathlib.Path, bystander: Bystander, name: str, code: int, what: str
) -> None:
    message = command.refused("dataset", "add", name, material.write_jsonl(tmp_path / "docs.jsonl"), code=2)
    assert "dataset_id" in message
    assert "'..'" in message or name in message
    assert what in command.refused("tokenize", name, "--model", bystander.model, code=code)
    assert what in command.refused("dataset", "delete", name, code=code)


def test_a_model_called_like_a_way_out(command: Command, tmp_path: pathlib.Path) -> None:
    message = command.refused("model", "add", "../m", material.write_model(tmp_path / "model"), code=2)
    assert "model_id" in message
    assert "'../m' names no model." in command.refused("model", "show", "../m", code=2)


def test_a_variant_called_like_a_way_out(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    message = command.refused("tokenize", dataset, "--model", model, "--variant", "../raw", code=2)
    assert "variant" in message
