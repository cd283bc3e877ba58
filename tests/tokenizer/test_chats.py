"""Conversations get the ids that `apply_chat_template` of transformers gives for each of them."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pytest
import transformers

from polytok import errors
from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import answers_pb2
from services.runtime.storage import Storage
from services.tokenizer.checks import verification
from services.tokenizer.models import loader
from services.tokenizer.sequences.packing import Boundaries
from services.tokenizer.text import chat_templates, conversations, shard_reader
from tests.support.messages import words
from tests.tokenizer import task_runner
from tests.tokenizer.pipeline import Pipeline
from tests.tokenizer.saelens import batched
from tests.tokenizer.task_runner import Parameters
from tests.tokenizer.test_permutation import shuffled

Chat = tokenizations_pb2.Chat

CHATML = """{%- for message in messages -%}
<|im_start|>{{ message.role }}{% if message.name is defined %} ({{ message.name }}){% endif %}

{%- if message.content is defined %}

{{ message.content | trim }}{% endif %}
{%- for call in message.tool_calls or [] %}

<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA = """{{ bos_token }}{% for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('System comes first') }}{% endif %}
{%- if message.role == 'assistant' %} {{ message.content }} {{ eos_token }}
{%- else %}[INST] {{ message.content }} [/INST]{% endif %}{% endfor %}"""

OPENAI: list[list[dict[str, Any]]] = [
    [
        {"role": "user", "content": "  Why is the sea salt?\n"},
        {"role": "assistant", "content": "Rivers — 河 — bring it."},
    ],
    [{"role": "system", "content": "Be brief. <|im_end|> </s> <s>"}, {"role": "user", "content": ""}],
    [
        {"role": "user", "content": "Weather in Oslo?", "name": "Kari"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": '{"degrees": -3}'},
        {"role": "assistant", "content": "Cold.", "tool_calls": []},
    ],
    [{"role": "user", "content": "don't 👩‍👩‍👧 e\u0301" * 30}],
]
SHAREGPT = [
    [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}],
    [{"from": "user", "value": "1+1"}, {"from": "chatgpt", "value": "2"}, {"from": "observation", "value": "ok"}],
]
AS_OPENAI = [
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
    ],
    [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}, {"role": "tool", "content": "ok"}],
]


def shard(storage: Storage, rows: list[Any], column: str = "messages") -> catalog_tasks_pb2.RawShard:
    # Each row a batch of its own, under the one schema that all of them fit in, as the ingest writes them.
    kind = pa.array(rows).type
    batches = [pa.record_batch({column: pa.array([row], kind)}) for row in rows]
    return task_runner.raw_shard(storage, batches)


def with_template(folder: pathlib.Path, to: pathlib.Path, template: str | None, *added: str) -> pathlib.Path:
    """Return a copy of a tokenizer with a chat template and further tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(to)
    return to


def expected(folder: pathlib.Path, conversations: list[Any], **how: Any) -> list[list[int]]:
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    return [oracle.apply_chat_template(each, tokenize=True, **how)["input_ids"] for each in conversations]


def plain(**chat: Any) -> Parameters:
    return Parameters(
        text_column="messages", truncation=Parameters.TRUNCATION_NONE, add_special_tokens=False, chat=Chat(**chat)
    )


@pytest.mark.parametrize("prompt", [False, True])
def test_the_ids_are_those_of_transformers(
    storage: Storage, folder: pathlib.Path, tmp_path: pathlib.Path, *, prompt: bool
) -> None:
    model = with_template(folder, tmp_path / "model", CHATML, "<|im_start|>", "<|im_end|>")
    runner = task_runner.TaskRunner(storage, model)
    result = runner.tokenize(shard(storage, OPENAI), plain(add_generation_prompt=prompt))
    oracle = expected(model, OPENAI, add_generation_prompt=prompt)
    assert task_runner.rows(storage, result) == oracle
    begin = runner.tokenizers.get(runner.reference).backend.token_to_id("<|im_start|>")
    assert [row.count(begin) for row in oracle] == [len(turns) + prompt for turns in OPENAI]
    assert result.statistics.num_documents == len(OPENAI)
    # Cut as transformers cuts them.
    cut = plain(add_generation_prompt=prompt)
    cut.truncation, cut.max_length = Parameters.TRUNCATION_RIGHT, 24
    again = runner.tokenize(shard(storage, OPENAI), cut, epoch=2)
    assert task_runner.rows(storage, again) == expected(
        model, OPENAI, add_generation_prompt=prompt, truncation=True, max_length=24
    )


def test_special_tokens_are_there_once(
    storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    model = with_template(folders["sentencepiece"], tmp_path / "model", LLAMA)
    runner = task_runner.TaskRunner(storage, model)
    rows = task_runner.rows(storage, runner.tokenize(shard(storage, OPENAI[:2]), plain()))
    assert rows == expected(model, OPENAI[:2])
    begin = runner.tokenizers.get(runner.reference).special("bos_token")
    # The second conversation has the text of the token in it, which is that token wherever it stands.
    assert [row.count(begin) for row in rows] == [1, 2]


def test_the_form_of_sharegpt(storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model = with_template(folders["byte_level"], tmp_path / "model", CHATML, "<|im_start|>", "<|im_end|>")
    runner = task_runner.TaskRunner(storage, model)
    rows = task_runner.rows(storage, runner.tokenize(shard(storage, SHAREGPT), plain()))
    assert rows == expected(model, AS_OPENAI)


def test_a_template_of_ones_own(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    runner = task_runner.TaskRunner(storage, folders["byte_level"])
    rows = task_runner.rows(storage, runner.tokenize(shard(storage, OPENAI), plain(template=CHATML)))
    assert rows == expected(folders["byte_level"], OPENAI, chat_template=CHATML)


@pytest.mark.parametrize("name", ["gpt2", "llama2", "phi4"])
def test_real_tokenizers(storage: Storage, shared: pathlib.Path, name: str) -> None:
    folder = shared / "tokenizers" / name
    runner = task_runner.TaskRunner(storage, folder)
    rows = task_runner.rows(storage, runner.tokenize(shard(storage, OPENAI), plain(template=CHATML)))
    assert rows == expected(folder, OPENAI, chat_template=CHATML)


def test_conversations_are_packed_and_padded(
    storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    runner = task_runner.TaskRunner(storage, folders["byte_level"])
    parameters = plain(template=CHATML)
    parameters.max_length = 16
    parameters.packing.begin_of_batch = parameters.packing.separator = tokenizations_pb2.Packing.BOUNDARY_NONE
    rows = task_runner.rows(storage, runner.tokenize(shard(storage, OPENAI), parameters))
    stream = [token for row in expected(folders["byte_level"], OPENAI, chat_template=CHATML) for token in row]
    assert rows == [stream[start : start + 16] for start in range(0, len(stream) - 15, 16)]


def rendered(folder: pathlib.Path, given: Any, template: str, date: str = "", model: str = "models/small") -> list[str]:
    column = chat_templates.ConversationColumn(
        "messages", Chat(template=template), loader.load(folder), model=model, date=date
    )
    array = given if isinstance(given, pa.Array) else pa.array(given)
    rows = pa.record_batch({"messages": array})
    column.check(rows.schema, "datasets/chats")
    texts: list[str] = column.texts(rows, "datasets/chats", 40, None).to_pylist()
    return texts


def as_json(*texts: str | None) -> pa.Array:
    return pa.array(texts, pa.json_())


def test_the_date_is_that_of_the_tokenization(folders: dict[str, pathlib.Path]) -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    folder = folders["byte_level"]
    assert rendered(folder, OPENAI[:1], template, date="2024-02-29") == ["29 Feb 2024"]
    assert rendered(folder, OPENAI[:1], template, date="2025-12-31") == ["31 Dec 2025"]


@pytest.mark.parametrize(
    ("turns", "named"),
    [
        (None, {"no", "value", "null_text"}),
        ([], {"no", "turns"}),
        ([{"role": "user", "content": "a"}, None], {"turn", "2", "empty"}),
        ([{"role": None, "content": "a"}], {"turn", "1", "no", "role"}),
        ([{"role": "user", "content": None}], {"turn", "1", "user", "no", "content"}),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], {"template", "System", "first"}),
        ([{"from": "human", "value": None}], {"turn", "1", "human", "no", "value"}),
        ([{"from": "alien", "value": "x"}], {"turn", "1", "alien", *conversations.ROLES}),
    ],
)
def test_malformed_conversations(folders: dict[str, pathlib.Path], turns: Any, named: set[str]) -> None:
    fine = [{"from": "human", "value": "x"}] if "from" in str(turns) else OPENAI[0]
    with pytest.raises(errors.InvalidArgument) as caught:
        rendered(folders["byte_level"], [fine, turns], LLAMA)
    assert caught.value.reason == "COLUMN_INVALID"
    assert {"messages", "41", "datasets/chats", *named} <= words(caught.value.message)
    assert ("template" in words(caught.value.message)) == ("template" in named)


def test_a_tokenizer_without_a_template(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        rendered(folders["byte_level"], OPENAI, "")
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert {"models/small", "--chat-template", "chat.template"} <= words(caught.value.message)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["byte_level"])
    tokenizer.chat_template = {"rag": LLAMA, "tool_use": CHATML}
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(errors.InvalidArgument) as caught:
        rendered(tmp_path, OPENAI, "")
    assert caught.value.reason == "TOKENIZER_INVALID"
    assert {"models/small", "rag", "tool_use", "default"} <= words(caught.value.message)


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{% include 'x' %}", {"loader"}),
        ("{{ messages.__class__.__mro__ }}", {"__class__"}),
        ("{{ messages[0].content.x.y }}", {"x"}),
        ("{{ 1 / 0 }}", {"division", "zero"}),
    ],
)
def test_templates_that_fail(folders: dict[str, pathlib.Path], template: str, named: set[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        rendered(folders["byte_level"], OPENAI, template)
    assert caught.value.reason == "COLUMN_INVALID"
    assert {"messages", "40", "datasets/chats", "template", *named} <= words(caught.value.message)


def test_a_template_with_a_syntax_error(folders: dict[str, pathlib.Path]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        rendered(folders["byte_level"], OPENAI, "{% for m in messages %}\n{{ m.role }")
    assert [violation.field for violation in caught.value.violations] == ["parameters.chat.template"]
    for text in (caught.value.message, caught.value.violations[0].description):
        assert {"line", "2"} <= words(text)


def test_a_column_of_text(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    runner = task_runner.TaskRunner(storage, folders["byte_level"])
    parameters = plain(template=LLAMA)
    parameters.text_column = "text"
    with pytest.raises(errors.InvalidArgument) as wrong:
        runner.tokenize(task_runner.text_shard(storage, ["x"]), parameters)
    assert wrong.value.reason == "COLUMN_INVALID"
    assert {"text", "string", "conversations"} <= words(wrong.value.message)
    parameters.text_column = "nothing"
    with pytest.raises(errors.NotFound) as missing:
        runner.tokenize(task_runner.text_shard(storage, ["x"]), parameters)
    assert (missing.value.reason, missing.value.metadata) == ("COLUMN_NOT_FOUND", {"columns": "text"})
    assert "nothing" in words(missing.value.message)


def test_a_shard_of_conversations_is_read_in_pieces(
    storage: Storage, folders: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_reader, "SLICE_BYTES", 64)
    runner = task_runner.TaskRunner(storage, folders["byte_level"])
    rows = task_runner.rows(storage, runner.tokenize(shard(storage, OPENAI * 3), plain(template=CHATML)))
    assert rows == expected(folders["byte_level"], OPENAI, chat_template=CHATML) * 3


def test_shuffled_and_packed_conversations(
    storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    folder = with_template(folders["sentencepiece"], tmp_path / "model", LLAMA)
    rows = [OPENAI[0], OPENAI[3], OPENAI[0], AS_OPENAI[1], OPENAI[1]]
    runner = task_runner.TaskRunner(storage, folder)
    parameters = Parameters(
        text_column="messages",
        max_length=16,
        add_special_tokens=False,
        chat={},
        packing={},
        shuffle_seed=2,
        filters={"drop_duplicates": True},
    )
    raw = shard(storage, rows)
    pipeline = Pipeline(runner, parameters)
    published = runner.publish(pipeline.assembled([raw]), parameters, counted=pipeline.counted)
    order = [row for row in shuffled(2, len(rows)) if row != 2]
    ids = expected(folder, [rows[row] for row in order])
    packed = batched(ids, 16, Boundaries(1, None, 1))
    assert task_runner.opened(storage, published)["input_ids"][:] == packed
    assert (published.statistics.num_documents, published.statistics.num_duplicates) == (5, 1)
    raw_folder, _, name = raw.key.rpartition("/")
    storage.write_bytes(f"{raw_folder}/state.json", json.dumps({"_data_files": [{"filename": name}]}).encode())
    task = answers_pb2.VerifyTask(
        tokenized_path=storage.uri(task_runner.TOKENIZED),
        manifest_digest=published.manifest_digest,
        raw_path=storage.uri(raw_folder),
        sample=100,
    )
    result = verification.verify(task, storage, runner.tokenizers, runner.context())
    assert (list(result.findings), result.sampled_documents) == ([], 4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"role": "user"}', {"list", "turns"}),
        ('["user"]', {"turn", "1", "object"}),
        ('[{"role": 1, "content": "x"}]', {"turn", "1", "role", "text"}),
        ('[{"from": ["human"], "value": "x"}]', {"turn", "1", "human", *conversations.ROLES}),
        ('[{"role": "user", "content": "\\ud83d"}]', {"surrogate", r"\ud83d"}),
        ("[{]", {"JSON"}),
        ("[" * 5000, {"JSON"}),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_malformed_json(folders: dict[str, pathlib.Path], text: str, named: set[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        rendered(folders["byte_level"], as_json(text), "{{ messages[0].content }}")
    assert caught.value.reason == "COLUMN_INVALID"
    assert {"messages", "40", "datasets/chats", *named} <= words(caught.value.message)
