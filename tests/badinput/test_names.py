"""Names that nothing has, and names that nothing may have."""

import pathlib

import pytest

from tests.badinput.commands import Bystander, Command
from tests.client import samples
from tests.support.messages import check_names


def test_unknown_model(command: Command, bystander: Bystander) -> None:
    close = bystander.model[:-1]
    message = command.refused("tokenize", bystander.dataset, "--model", close, code=4)
    check_names(message, repr(close), repr(bystander.model), "`polytok model list`")


def test_unknown_dataset(command: Command, bystander: Bystander) -> None:
    message = command.refused("tokenize", "no-such-corpus", "--model", bystander.model, code=4)
    check_names(message, "'no-such-corpus'", "`polytok dataset list`")


def test_unknown_tokenization(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    message = command.refused("tokenization", "path", dataset, model, "--variant", "packed", code=4)
    command_line = f"`polytok tokenize {dataset} --model {model} --variant packed`"
    check_names(message, f"datasets/{dataset}/tokenizations/{model}~packed", command_line)


def test_unknown_column(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    arguments = ("tokenize", dataset, "--model", model, "--variant", "other", "--column", "txet")
    message = command.refused(*arguments, code=2)
    check_names(message, f"datasets/{dataset}", "'txet'", "text, number", "'text'")


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("../docs", 2, ("'../docs'", "`polytok dataset list`")),
        ("docs/../../etc", 2, ("'docs/../../etc'", "`polytok dataset list`")),
        ("..", 2, ("'datasets/{id}'",)),
        ("a..b", 4, ("'a..b'", "`polytok dataset list`")),
    ],
)
def test_dataset_name_with_path_traversal(
    command: Command, tmp_path: pathlib.Path, bystander: Bystander, name: str, code: int, expected: tuple[str, ...]
) -> None:
    message = command.refused("dataset", "add", name, samples.write_jsonl(tmp_path / "docs.jsonl"), code=2)
    assert "dataset_id" in message
    assert "'..'" in message or name in message
    check_names(command.refused("tokenize", name, "--model", bystander.model, code=code), *expected)
    check_names(command.refused("dataset", "delete", name, code=code), *expected)


def test_model_name_with_path_traversal(command: Command, tmp_path: pathlib.Path) -> None:
    message = command.refused("model", "add", "../m", samples.write_model(tmp_path / "model"), code=2)
    assert "model_id" in message
    check_names(command.refused("model", "show", "../m", code=2), "'../m'")


def test_variant_with_path_traversal(command: Command, bystander: Bystander) -> None:
    dataset, model, _ = bystander
    message = command.refused("tokenize", dataset, "--model", model, "--variant", "../raw", code=2)
    assert "variant" in message
