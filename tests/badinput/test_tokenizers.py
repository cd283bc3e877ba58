"""Tokenizers that cannot be loaded, now or later."""

import json
import pathlib
import shutil

import pytest

from tests.badinput.commands import Bystander, Command
from tests.client import samples
from tests.support.messages import check_names


def _empty(folder: pathlib.Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "tokenizer.json"


def _cut(folder: pathlib.Path) -> str:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])
    return str(folder)


def _another(folder: pathlib.Path) -> str:
    (folder / "tokenizer.json").write_text('{"text": "no tokenizer"}')
    return "'added_tokens'"


def _gone(folder: pathlib.Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return str(folder)


@pytest.mark.parametrize("spoil", [_empty, _cut, _another, _gone])
def test_tokenizer_cannot_be_loaded(
    command: Command, tmp_path: pathlib.Path, bystander: Bystander, spoil: object
) -> None:
    assert callable(spoil)
    name, folder = samples.unique("model"), samples.write_model(tmp_path / "model")
    what = spoil(folder)
    message = command.refused("model", "add", name, folder, code=1)
    check_names(message, f"models/{name}", folder, what)
    shown = json.loads(command.done("model", "show", name, "--json"))
    assert (shown["state"], shown["error_reason"]) == ("ERROR", "TOKENIZER_INVALID")
    refused = command.refused("tokenize", bystander.dataset, "--model", name, code=5)
    check_names(refused, f"models/{name}", "ERROR", f"`polytok model retry {name}`")
    samples.write_model(folder)
    command.done("model", "retry", name)
    assert json.loads(command.done("model", "show", name, "--json"))["state"] == "READY"


def test_tokenizer_changed_since_registration(command: Command, tmp_path: pathlib.Path, bystander: Bystander) -> None:
    name, folder = samples.unique("model"), samples.write_model(tmp_path / "model")
    command.done("model", "add", name, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content))
    # Under another name for it, since the worker keeps the tokenizers that it used last.
    for _ in range(3):
        other = samples.write_model(tmp_path / samples.unique("other"))
        changed = json.loads((other / "tokenizer.json").read_text())
        changed["added_tokens"][0]["content"] = samples.unique("<token>")
        (other / "tokenizer.json").write_text(json.dumps(changed))
        command("model", "add", samples.unique("model"), other)
    message = command.refused("tokenize", bystander.dataset, "--model", name, "--watch", code=1)
    check_names(message, f"'{folder}'", "changed")
