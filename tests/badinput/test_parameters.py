"""Parameters out of range, and the same name with other parameters."""

import pathlib

import pytest

from tests.badinput.commands import Bystander, Command
from tests.client import material


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0", "parameters.max_length: must be greater than or equal to 1"),
        ("-1", "parameters.max_length: must be greater than or equal to 1"),
        ("1000000", "parameters.max_length: must be"),
        ("65", "parameters.max_length: 65 is more than the 64 tokens that models/{} takes; ask for at most 64."),
    ],
)
def test_max_length_out_of_range(command: Command, bystander: Bystander, value: str, what: str) -> None:
    dataset, model, _ = bystander
    arguments = ("tokenize", dataset, "--model", model, "--variant", "other", "--max-length", value)
    assert what.format(model) in command.refused(*arguments, code=2)


def test_max_length_that_is_no_number(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    result = command("tokenize", dataset, "--model", model, "--max-length", "many")
    assert result.returncode == 2
    assert "--max-length" in result.stderr


def test_a_tokenization_again_with_other_parameters(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    message = command.refused("tokenize", dataset, "--model", model, "--max-length", "32", code=5)
    assert message == (
        f"datasets/{dataset}/tokenizations/{model} exists with max_length 16, not 32. Give this one a variant of its "
        "own (`--variant NAME`), or delete the other first."
    )
    command.done("tokenize", dataset, "--model", model, "--max-length", "16")


def test_a_dataset_again_with_another_source(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    other = material.write_jsonl(tmp_path / "others.jsonl", ["another corpus"])
    message = command.refused("dataset", "add", bystander.dataset, other, code=5)
    assert f"datasets/{bystander.dataset} exists" in message
    assert "others.jsonl" in message


def test_a_model_again_with_another_tokenizer(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    other = material.write_model(tmp_path / "other")
    message = command.refused("model", "add", bystander.model, other, code=5)
    assert f"models/{bystander.model} exists" in message
    assert str(other) in message
