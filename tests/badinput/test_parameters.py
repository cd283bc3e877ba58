"""Parameters out of range, and the same name with other parameters."""

import pathlib

import pytest

from tests.badinput.commands import Bystander, Command
from tests.client import samples
from tests.support.messages import check_names


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", (1,)), ("-1", (1,)), ("1000000", ()), ("65", (65, 64, "models/{}"))],
)
def test_max_length_out_of_range(
    command: Command, bystander: Bystander, value: str, expected: tuple[object, ...]
) -> None:
    dataset, model, _ = bystander
    arguments = ("tokenize", dataset, "--model", model, "--variant", "other", "--max-length", value)
    message = command.refused(*arguments, code=2)
    check_names(message, "parameters.max_length", *(str(each).format(model) for each in expected))


def test_max_length_is_not_a_number(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    result = command("tokenize", dataset, "--model", model, "--max-length", "many")
    assert result.returncode == 2
    assert "--max-length" in result.stderr


def test_tokenization_exists_with_other_parameters(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    message = command.refused("tokenize", dataset, "--model", model, "--max-length", "32", code=5)
    check_names(message, f"datasets/{dataset}/tokenizations/{model}", "max_length", 16, 32, "--variant")
    command.done("tokenize", dataset, "--model", model, "--max-length", "16")


def test_dataset_exists_with_another_source(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    other = samples.write_jsonl(tmp_path / "others.jsonl", ["another corpus"])
    message = command.refused("dataset", "add", bystander.dataset, other, code=5)
    check_names(message, f"datasets/{bystander.dataset}", "others.jsonl")


def test_model_exists_with_another_tokenizer(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    other = samples.write_model(tmp_path / "other")
    message = command.refused("model", "add", bystander.model, other, code=5)
    check_names(message, f"models/{bystander.model}", other)
