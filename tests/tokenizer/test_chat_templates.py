"""The chat templates of a tokenizer are part of what a model is: changed ones are refused wherever they render."""

import json
import pathlib
import shutil

import pytest

from polytok import errors
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2
from services.runtime.storage import Storage
from services.tokenizer.checks import verification
from services.tokenizer.models import description, fingerprints, loader
from services.tokenizer.worker.tasks import inspect_task
from tests.support.messages import words
from tests.tokenizer import task_runner
from tests.tokenizer.test_chats import LLAMA, OPENAI, expected, plain, shard, with_template


@pytest.fixture
def model(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    return with_template(folders["sentencepiece"], tmp_path / "model", LLAMA)


def inspected(model: pathlib.Path) -> tasks_pb2.TokenizerReference:
    """Return the reference that workers are given once the model is registered."""
    reference = tasks_pb2.TokenizerReference(repo_id=str(model))
    task = tasks_pb2.InspectModelTask(tokenizer=reference, repo_id=str(model))
    found = inspect_task.inspect(task, loader.TokenizerCache(1))
    reference.fingerprint = found.tokenizer_fingerprint
    reference.chat_template_fingerprint = found.chat_template_fingerprint
    return reference


def change(model: pathlib.Path, template: str = "{{ messages[0].role }}") -> None:
    (model / "chat_template.jinja").write_text(template)


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_changed_template_is_refused(storage: Storage, model: pathlib.Path, *, is_warm: bool) -> None:
    runner = task_runner.TaskRunner(storage, model)
    runner.reference.CopyFrom(inspected(model))
    raw = shard(storage, OPENAI[:2])
    before = runner.tokenize(raw, plain())
    assert task_runner.rows(storage, before) == expected(model, OPENAI[:2])
    change(model)
    if not is_warm:
        runner.tokenizers = loader.TokenizerCache(1)
    with pytest.raises(errors.InvalidArgument, match="chat template") as caught:
        runner.tokenize(raw, plain(), epoch=2)
    assert caught.value.reason == "TOKENIZER_INVALID"
    registered, found = runner.reference.chat_template_fingerprint, inspected(model).chat_template_fingerprint
    assert {str(model), registered[:12], found[:12]} <= words(caught.value.message)
    # Nothing else depends on it: text, and a template that comes with the tokenization.
    runner.reference.chat_template_fingerprint = ""
    assert task_runner.rows(storage, runner.tokenize(raw, plain(template=LLAMA), epoch=3)) == task_runner.rows(
        storage, before
    )
    # The old files again are the old model again.
    change(model, LLAMA)
    runner.reference.CopyFrom(inspected(model))
    assert task_runner.rows(storage, runner.tokenize(raw, plain(), epoch=4)) == task_runner.rows(storage, before)


def test_verification_compares_templates(storage: Storage, model: pathlib.Path) -> None:
    runner = task_runner.TaskRunner(storage, model)
    runner.reference.CopyFrom(inspected(model))
    raw = shard(storage, OPENAI[:2])
    parameters = plain()
    published = runner.publish([runner.tokenize(raw, parameters)], parameters)
    task_runner.opened(storage, published)
    manifest = json.loads(storage.read_bytes(f"{task_runner.TOKENIZED}/polytok.json"))
    assert manifest["tokenizer"]["chat_template_fingerprint"] == runner.reference.chat_template_fingerprint != ""
    raw_folder, _, name = raw.key.rpartition("/")
    storage.write_bytes(f"{raw_folder}/state.json", json.dumps({"_data_files": [{"filename": name}]}).encode())
    task = answers_pb2.VerifyTask(
        tokenized_path=storage.uri(task_runner.TOKENIZED),
        manifest_digest=published.manifest_digest,
        raw_path=storage.uri(raw_folder),
        sample=9,
    )
    assert not verification.verify(task, storage, runner.tokenizers, runner.context()).findings
    change(model)
    with pytest.raises(errors.InvalidArgument, match="chat template") as caught:
        verification.verify(task, storage, runner.tokenizers, runner.context())
    assert caught.value.reason == "TOKENIZER_INVALID"


def test_inspection_of_a_changed_template(model: pathlib.Path) -> None:
    reference, tokenizers = inspected(model), loader.TokenizerCache(1)
    assert description.inspect(reference, tokenizers).chat_template == LLAMA
    change(model)
    with pytest.raises(errors.InvalidArgument, match="chat template") as caught:
        description.inspect(reference, tokenizers)
    assert caught.value.reason == "TOKENIZER_INVALID"


def test_a_changed_tokenizer_that_is_loaded(model: pathlib.Path) -> None:
    reference, tokenizers = inspected(model), loader.TokenizerCache(1)
    tokenizers.get(reference)
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (model / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(errors.InvalidArgument) as caught:
        tokenizers.get(reference)
    assert caught.value.reason == "TOKENIZER_INVALID"
    found = loader.load(model).fingerprint
    assert {str(model), reference.fingerprint[:12], found[:12]} <= words(caught.value.message)
    # A folder that is gone harms nobody who has what it held.
    shutil.rmtree(model)
    kept = loader.TokenizerCache(1)
    with pytest.raises(errors.InvalidArgument) as caught:
        kept.get(reference)
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert str(model) in words(caught.value.message)


def test_template_fingerprints() -> None:
    of, tokens = fingerprints.chat_template_fingerprint, {"bos_token": "<s>"}
    assert of(None, tokens) == of("", tokens) == ""
    assert of("a", tokens) == of({"default": "a"}, tokens)
    others = [of("b", tokens), of("a", {}), of({"default": "a", "tool_use": "b"}, tokens)]
    assert len({of("a", tokens), *others}) == 4
