"""Objects of JSON and tools reach the template as their file has them."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pytest
import transformers

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage
from services.tokenizer.models import loader
from services.tokenizer.text import chat_templates
from tests.support.messages import words
from tests.tokenizer import task_runner
from tests.tokenizer.test_chats import plain, with_template

CALLS = """{% for message in messages %}{{ message.role }}
{%- if message.content is defined %}:{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %} {{ call.name }}({{ call.arguments | tojson }}){% endfor %};{% endfor %}"""
TOOLS = "{% if tools is none %}none {% else %}{{ tools | tojson }} {% endif %}" + CALLS
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"b": 1, "a": None, "c": 9007199254740993}},
}


def call(arguments: str) -> str:
    return (
        '[{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": '
        '[{"name": "f", "arguments": ' + arguments + "}]}]"
    )


CONVERSATIONS = [
    call('{"x": 1}'),
    call('{"x": 1.5}'),
    call('{"x": 9007199254740993, "y": 123456789012345678901234567890}'),
    call('{"days": 1, "city": "Oslo"}'),
    call('{"city": null, "days": [2, 2.0, "2", null, {"deep": null}]}'),
    call("{}"),
    call('{"a": 1, "a": 2}'),
    call('{"big": 1e400, "none": NaN, "text": "\\u00e9\\ud83d\\ude00"}'),
    '[{"role": "user", "content": [{"type": "text", "text": "parts"}]}]',
]


def json_column(texts: list[str | None]) -> pa.Array:
    return pa.array(texts, pa.json_())


def list_column(texts: list[str | None]) -> pa.Array:
    """List of JSON, as `datasets` keeps objects of mixed fields."""
    lists = [None if text is None else [json.dumps(each) for each in json.loads(text)] for text in texts]
    flat = pa.array([each for some in lists for each in some or []], pa.json_())
    ends = [0]
    for some in lists:
        ends.append(ends[-1] + len(some or []))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, mask=pa.array([some is None for some in lists]))


@pytest.mark.parametrize("column", [json_column, list_column])
def test_ids_equal_those_of_the_source(
    storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, column: Any
) -> None:
    model = with_template(folders["byte_level"], tmp_path / "model", CALLS)
    runner = task_runner.TaskRunner(storage, model)
    texts = CONVERSATIONS if column is json_column else CONVERSATIONS[:-2]
    raw = task_runner.raw_shard(storage, [pa.record_batch({"messages": column(texts)})])
    oracle = transformers.AutoTokenizer.from_pretrained(model)
    expected = [oracle.apply_chat_template(json.loads(text), tokenize=True)["input_ids"] for text in texts]
    assert task_runner.rows(storage, runner.tokenize(raw, plain())) == expected
    assert "9007199254740993" in oracle.decode(expected[2])


@pytest.mark.parametrize(
    ("column", "exact"),
    [
        (pa.array([json.dumps([WEATHER]), None, "", "[]"]), True),
        (json_column([json.dumps([WEATHER]), None, "null", "[]"]), True),
        (json_column([json.dumps(json.dumps([WEATHER])), None, '""', "[]"]), True),
        (list_column([json.dumps([WEATHER]), None, None, "[]"]), True),
        (pa.array([[json.dumps(WEATHER)], None, None, []]), True),
        # Arrow's own structs do not tell null from what is not there.
        (pa.array([[WEATHER], None, None, []]), False),
    ],
)
def test_a_template_is_given_the_tools_of_each_row(
    storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, column: pa.Array, *, exact: bool
) -> None:
    model = with_template(folders["byte_level"], tmp_path / "model", TOOLS)
    runner = task_runner.TaskRunner(storage, model)
    turns = [{"role": "user", "content": "w"}]
    batch = pa.record_batch({"messages": json_column([json.dumps(turns)] * 4), "tools": column})
    result = runner.tokenize(task_runner.raw_shard(storage, [batch]), plain(tools_column="tools"))
    tool = WEATHER if exact else json.loads(json.dumps(WEATHER).replace('"a": null, ', ""))
    oracle = transformers.AutoTokenizer.from_pretrained(model)
    assert task_runner.rows(storage, result) == [
        oracle.apply_chat_template(turns, tools=tools, tokenize=True)["input_ids"] for tools in ([tool], None, None, [])
    ]
    assert (result.statistics.num_with_tools, result.statistics.num_tools_unused) == (1, 0)


def test_unused_tools_are_counted(storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model = with_template(folders["byte_level"], tmp_path / "model", CALLS)
    runner = task_runner.TaskRunner(storage, model)
    batch = pa.record_batch(
        {"messages": json_column(CONVERSATIONS[:2]), "functions": json_column([json.dumps([WEATHER]), None])}
    )
    raw = task_runner.raw_shard(storage, [batch])
    parameters = plain(tools_column="functions")
    published = runner.publish([runner.tokenize(raw, parameters)], parameters)
    assert (published.statistics.num_with_tools, published.statistics.num_tools_unused) == (1, 1)
    # One that is for tools alone does.
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = {"default": CALLS, "tool_use": TOOLS}
    tokenizer.save_pretrained(tmp_path / "two")
    runner = task_runner.TaskRunner(storage, tmp_path / "two")
    result = runner.tokenize(raw, parameters, epoch=2)
    assert (result.statistics.num_with_tools, result.statistics.num_tools_unused) == (1, 0)
    assert task_runner.rows(storage, result) == [
        tokenizer.apply_chat_template(json.loads(text), tools=tools, tokenize=True)["input_ids"]
        for text, tools in zip(CONVERSATIONS, ([WEATHER], None), strict=False)
    ]


@pytest.mark.parametrize(
    ("tools", "named"),
    [
        ('{"name": "f"}', {"list", "object"}),
        ('[{"name": "f"}, 5]', {"tool", "2", "number"}),
        ('["{"]', {"text", "tools", "JSON"}),
    ],
)
def test_malformed_tools(folders: dict[str, pathlib.Path], tools: str, named: set[str]) -> None:
    chat = tokenizations_pb2.Chat(template=TOOLS, tools_column="functions")
    column = chat_templates.ConversationColumn("messages", chat, loader.load(folders["byte_level"]))
    rows = pa.record_batch({"messages": json_column(CONVERSATIONS[:1]), "functions": json_column([tools])})
    column.check(rows.schema, "datasets/chats")
    with pytest.raises(errors.InvalidArgument) as malformed:
        column.texts(rows, "datasets/chats", 7)
    assert malformed.value.reason == "COLUMN_INVALID"
    assert {"functions", "7", "datasets/chats", *named} <= words(malformed.value.message)
    with pytest.raises(errors.NotFound) as missing:
        column.check(pa.schema([("messages", pa.json_())]), "datasets/chats")
    assert (missing.value.reason, missing.value.metadata) == ("COLUMN_NOT_FOUND", {"columns": "messages"})
    assert {"functions", "datasets/chats"} <= words(missing.value.message)
