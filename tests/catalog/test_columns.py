"""Which column is tokenized, and why; what is refused instead of being guessed."""

import dataclasses

import pyarrow as pa
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.catalog.server.domain import columns, parameters, records, sources
from tests.catalog import test_domain as domain
from tests.support.messages import check_names

Parameters = tokenizations_pb2.TokenizationParameters
Chat = tokenizations_pb2.Chat
TURN = [("role", pa.string()), ("content", pa.string())]
OPENAI = str(pa.list_(pa.struct(TURN)))
SHAREGPT = str(pa.list_(pa.struct([("value", pa.string()), ("from", pa.string()), ("weight", pa.float64())])))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.list_(pa.struct(TURN)), True),
        (pa.large_list(pa.struct(TURN)), True),
        (pa.list_(pa.field("element", pa.struct(TURN), nullable=False)), True),
        (pa.list_(pa.struct([pa.field("role", pa.string(), nullable=False), ("content", pa.null())])), True),
        (
            pa.list_(
                pa.struct([("calls", pa.list_(pa.struct([("a", pa.int64()), ("b", pa.map_("str", "int8"))]))), *TURN])
            ),
            True,
        ),
        (pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(pa.struct([("type", pa.string())])))])), True),
        (pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])), True),
        (pa.list_(pa.struct([("from", pa.string()), ("value", pa.int64())])), False),
        (pa.list_(pa.struct([("role", pa.int64()), ("content", pa.string())])), False),
        (pa.list_(pa.struct([("role", pa.string())])), False),
        (pa.list_(pa.struct([("x", pa.struct(TURN))])), False),
        (pa.struct(TURN), False),
        (pa.list_(pa.string()), False),
        (pa.string(), False),
    ],
)
def test_conversations_are_known_by_their_type(kind: pa.DataType, *, expected: bool) -> None:
    assert columns.is_chat(str(kind)) == expected


@pytest.mark.parametrize(
    ("of", "column", "why"),
    [
        ({"id": "string", "text": "string", "messages": OPENAI}, "text", columns.CALLED_TEXT),
        ({"text": SHAREGPT, "id": "string"}, "text", columns.CALLED_TEXT),
        ({"prompt": "string", "prompt_id": "string", "messages": OPENAI}, "messages", columns.ONLY_CHATS),
        ({"title": "string", "content": "string", "url": "string"}, "content", columns.ONLY_USUAL),
        ({"id": "int64", "poem": "string"}, "poem", columns.ONLY_TEXT),
    ],
)
def test_the_choice_and_its_reason(of: dict[str, str], column: str, why: str) -> None:
    found = domain.completed(of=domain.dataset(**of))
    assert (found.text_column, found.column_choice) == (column, why)
    assert found.HasField("chat") == (of[column] in {OPENAI, SHAREGPT})
    # Naming it makes the same tokenization, and says so.
    named = domain.completed(Parameters(text_column=column), of=domain.dataset(**of))
    assert named.column_choice == columns.ASKED
    assert sources.differences(parameters.as_fields(found), parameters.as_fields(named)) == []
    assert domain.completed(found, of=domain.dataset(**of)) == found


@pytest.mark.parametrize(
    ("of", "asked", "reason", "metadata", "names"),
    [
        (
            {"chosen": OPENAI, "rejected": OPENAI, "content": "string"},
            Parameters(),
            "COLUMN_NOT_FOUND",
            {"columns": "chosen, rejected"},
            ("conversations", "--column", "text_column"),
        ),
        (
            {"content": "string", "body": "string", "id": "string"},
            Parameters(),
            "COLUMN_NOT_FOUND",
            {"columns": "content, body"},
            ("text", "--column", "text_column"),
        ),
        ({"text": "string"}, Parameters(chat=Chat()), "COLUMN_NOT_FOUND", {"columns": "text"}, ("conversations",)),
        (
            {"id": "int64", "messages": OPENAI},
            Parameters(text_column="id"),
            "COLUMN_INVALID",
            {"column": "id", "type": "int64"},
            ("conversations", "messages"),
        ),
    ],
)
def test_no_column_is_guessed(
    of: dict[str, str], asked: Parameters, reason: str, metadata: dict[str, str], names: tuple[str, ...]
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        domain.completed(asked, of=domain.dataset(**of))
    assert (caught.value.reason, caught.value.metadata) == (reason, metadata)
    check_names(caught.value.message, "datasets/docs", *metadata.values(), *names)
    assert [violation.field for violation in caught.value.violations] == ["parameters.text_column"]


def test_chat_parameters_choose_conversations() -> None:
    both = domain.dataset(text="string", messages=OPENAI)
    assert domain.completed(Parameters(chat=Chat()), of=both).text_column == "messages"
    with pytest.raises(errors.InvalidArgument) as caught:
        domain.completed(Parameters(chat=Chat(), text_column="text"), of=both)
    assert [violation.field for violation in caught.value.violations] == ["parameters.chat"]
    check_names(caught.value.message, "'text'", "conversations")


def test_special_tokens_are_not_added_twice() -> None:
    of = domain.dataset(messages=OPENAI)
    assert not domain.completed(of=of).add_special_tokens
    assert not domain.completed(Parameters(packing=tokenizations_pb2.Packing()), of=of).add_special_tokens
    with pytest.raises(errors.InvalidArgument) as caught:
        domain.completed(Parameters(add_special_tokens=True), of=of)
    assert [violation.field for violation in caught.value.violations] == ["parameters.add_special_tokens"]


def test_other_renderings_are_other_tokenizations() -> None:
    of = domain.dataset(messages=OPENAI)
    plain = parameters.as_fields(domain.completed(of=of))
    for chat, names in (
        (Chat(add_generation_prompt=True), ("chat.add_generation_prompt", False, True)),
        (Chat(template="x" * 9000), ("chat.template", "unset", 9000, "sha256")),
    ):
        (differing,) = sources.differences(plain, parameters.as_fields(domain.completed(Parameters(chat=chat), of=of)))
        check_names(differing, *names)


JSON = str(pa.json_())


def of_json(*chats: str, **columns: str) -> records.Dataset:
    """Return a dataset of which some columns of JSON hold conversations."""
    found = domain.dataset(**columns)
    listed = [{**each, "content": "CONVERSATIONS"} if each["name"] in chats else each for each in found.columns]
    return dataclasses.replace(found, columns=listed)


def test_json_conversations_are_known_by_the_record() -> None:
    found = domain.completed(of=of_json("messages", messages=JSON, tools=JSON, meta=JSON, id="string"))
    assert (found.text_column, found.column_choice) == ("messages", columns.ONLY_CHATS)
    with pytest.raises(errors.InvalidArgument) as caught:
        domain.completed(Parameters(text_column="meta"), of=of_json("messages", messages=JSON, meta=JSON))
    assert (caught.value.reason, caught.value.metadata) == ("COLUMN_INVALID", {"column": "meta", "type": JSON})
    check_names(caught.value.message, "'meta'", "datasets/docs", "JSON", "conversations")


@pytest.mark.parametrize(
    ("of", "asked", "expected"),
    [
        ({}, None, ""),
        ({"tools": JSON}, None, "tools"),
        ({"tools": "string"}, None, "tools"),
        ({"tools": str(pa.list_(pa.json_()))}, None, "tools"),
        ({"tools": str(pa.list_(pa.string()))}, None, "tools"),
        ({"tools": str(pa.list_(pa.struct([("type", pa.string())])))}, None, "tools"),
        # By that name alone no other column is taken, and none that cannot hold tools.
        ({"tools": "int64", "functions": JSON}, None, ""),
        ({"tools": JSON, "functions": JSON}, "functions", "functions"),
        ({"tools": JSON}, "", ""),
    ],
)
def test_the_column_of_tools(of: dict[str, str], asked: str | None, expected: str) -> None:
    dataset = of_json("messages", messages=JSON, **of)
    parameters = Parameters(chat={} if asked is None else {"tools_column": asked})
    found = domain.completed(parameters, of=dataset)
    assert found.chat.HasField("tools_column")
    assert found.chat.tools_column == expected
    assert domain.completed(found, of=dataset) == found


@pytest.mark.parametrize(("asked", "reason"), [("nothing", "COLUMN_NOT_FOUND"), ("n", "COLUMN_INVALID")])
def test_column_without_tools_is_refused(asked: str, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        domain.completed(Parameters(chat={"tools_column": asked}), of=of_json("messages", messages=JSON, n="int64"))
    assert caught.value.reason == reason
    assert [violation.field for violation in caught.value.violations] == ["parameters.chat.tools_column"]


def test_other_tools_are_another_tokenization() -> None:
    dataset = of_json("messages", messages=JSON, tools=JSON)
    with_tools, without = (
        parameters.as_fields(domain.completed(Parameters(chat=chat), of=dataset)) for chat in ({}, {"tools_column": ""})
    )
    assert len(sources.differences(with_tools, without)) == 1
