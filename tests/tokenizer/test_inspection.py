"""A model's tokenizer and configuration, as the task `model.inspect` tells them."""

import json
import pathlib
import shutil

import pytest

from polytok import errors
from polytok.catalog.v1 import models_pb2
from polytok.tokenizer.v1 import tasks_pb2
from services.tokenizer.models import configuration, loader
from services.tokenizer.worker.tasks import inspect_task
from tests.support.messages import words


@pytest.fixture
def model(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    """Return a model's folder, without a configuration."""
    return shutil.copytree(folders["sentencepiece"], tmp_path / "model")


def inspected(folder: pathlib.Path, model: pathlib.Path | None = None) -> tasks_pb2.InspectModelResult:
    reference = tasks_pb2.TokenizerReference(repo_id=str(folder))
    task = tasks_pb2.InspectModelTask(tokenizer=reference, repo_id=str(model or folder))
    return inspect_task.inspect(task, loader.TokenizerCache(1))


def test_tokenizer_and_configuration(model: pathlib.Path) -> None:
    content = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2}
    (model / "config.json").write_text(json.dumps({**content, "max_position_embeddings": 128}))
    loaded = loader.load(model)
    assert inspected(model) == tasks_pb2.InspectModelResult(
        tokenizer_fingerprint=loaded.fingerprint,
        tokenizer_class="TokenizersBackend",
        vocab_size=loaded.vocab_size,
        special_tokens=[
            models_pb2.SpecialToken(role="bos_token", text="<s>", id=1),
            models_pb2.SpecialToken(role="eos_token", text="</s>", id=2),
            models_pb2.SpecialToken(role="unk_token", text="<unk>", id=0),
        ],
        architecture="LlamaForCausalLM",
        d_model=64,
        n_layers=2,
        context_length=128,
    )


def test_a_tokenizer_of_another_repository(model: pathlib.Path, folders: dict[str, pathlib.Path]) -> None:
    (model / "config.json").write_text(json.dumps({"n_embd": 32, "n_layer": 3, "n_positions": 99}))
    found = inspected(folders["byte_level"], model)
    assert found.tokenizer_fingerprint == loader.load(folders["byte_level"]).fingerprint
    assert (found.d_model, found.n_layers, found.context_length) == (32, 3, 99)


def test_a_folder_with_a_tokenizer_alone(model: pathlib.Path) -> None:
    found = inspected(model)
    assert (found.architecture, found.d_model, found.n_layers) == ("", 0, 0)
    # The tokenizer's own.
    assert found.context_length == 256


def test_an_unknown_context_length(folders: dict[str, pathlib.Path]) -> None:
    assert inspected(folders["wordpiece"]).context_length == 0


def test_the_tokenizer_is_read_again(model: pathlib.Path) -> None:
    tokenizers = loader.TokenizerCache(2)
    task = tasks_pb2.InspectModelTask(tokenizer=tasks_pb2.TokenizerReference(repo_id=str(model)), repo_id=str(model))
    before = inspect_task.inspect(task, tokenizers).tokenizer_fingerprint
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (model / "tokenizer.json").write_text(json.dumps(content))
    assert inspect_task.inspect(task, tokenizers).tokenizer_fingerprint != before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"text_config": {"hidden_size": 5, "num_hidden_layers": 6, "n_ctx": 7}}, ("", 5, 6, 7)),
        ({"architectures": [], "d_model": True, "num_layers": "many", "n_ctx": -1}, ("", 0, 0, 0)),
        ({"architectures": ["A", "B"], "d_model": 8, "num_layers": 9}, ("A", 8, 9, 0)),
        ({"hidden_size": 1 << 40}, ("", 0, 0, 0)),
    ],
)
def test_configurations(tmp_path: pathlib.Path, content: dict[str, object], expected: tuple[object, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert configuration.read(tmp_path) == expected


@pytest.mark.parametrize(("content", "keyword"), [("{", "column"), ("[1]", "object")])
def test_a_broken_configuration(tmp_path: pathlib.Path, content: str, keyword: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(errors.InvalidArgument) as caught:
        configuration.read(tmp_path)
    assert {str(tmp_path / "config.json"), "JSON", keyword} <= words(caught.value.message)
    assert caught.value.reason == "TOKENIZER_INVALID"
