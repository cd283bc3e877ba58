"""Conversations and columns on the command line, as a user has them: on the whole stack."""

import json
import pathlib
from typing import Any

import datasets
import pytest
import transformers

from tests.cli.conftest import Run
from tests.client import samples

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHATS = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": f"That is {place} of them."}]
    for place, text in enumerate(samples.TEXTS)
]
SHAREGPT = [
    [{"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]} for turn in chat]
    for chat in CHATS
]


def jsonl(path: pathlib.Path, rows: list[dict[str, Any]]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a model whose tokenizer has a chat template."""
    folder = samples.write_model(tmp_path_factory.mktemp("chat-model"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE, "model_max_length": 512}))
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_positions": 512}))
    return folder


def oracle(folder: pathlib.Path, **how: Any) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [tokenizer.apply_chat_template(chat, tokenize=True, **how)["input_ids"] for chat in CHATS]


@pytest.mark.long
def test_conversations_of_both_forms(polytok_: Run, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = samples.unique("chat-model")
    polytok_("model", "add", model, folder)
    for column, chats in (("messages", CHATS), ("conversations", SHAREGPT)):
        name = samples.unique("chats")
        rows = [{"id": f"c{place}", "source": "test", column: chat} for place, chat in enumerate(chats)]
        assert polytok_("dataset", "add", name, jsonl(tmp_path / f"{column}.jsonl", rows)).code == 0
        reported = polytok_("tokenize", name, "-m", model, "--watch")
        assert reported.code == 0, reported.err
        reason = "it is the only column of conversations"
        assert f"column `{column}` of {name}" in reported.out
        made = polytok_("tokenization", "show", name, model, "--json").json()
        assert (made["parameters"]["text_column"], made["parameters"]["column_choice"]) == (column, reason)
        assert made["parameters"]["add_special_tokens"] is False
        assert datasets.load_from_disk(made["tokenized_path"])["input_ids"][:] == oracle(folder)
        manifest = json.loads(pathlib.Path(made["tokenized_path"], "polytok.json").read_text())
        assert manifest["parameters"]["column_choice"] == reason
        checked = polytok_("tokenization", "verify", name, model, "--sample", "5", "--json")
        assert checked.json()["sampled_documents"] == 5
    # What takes stages renders them the same.
    command = ("tokenize", name, "-m", model, "--variant", "mixed", "--shuffle-seed", "3", "--drop-duplicates")
    mixed = polytok_(*command, "--watch", "--json").json()["tokenizations"][0]
    assert sorted(datasets.load_from_disk(mixed["tokenized_path"])["input_ids"][:]) == sorted(oracle(folder))


def test_a_template_of_ones_own(polytok_: Run, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plain, name = samples.unique("plain-model"), samples.unique("chats")
    polytok_("model", "add", plain, samples.write_model(tmp_path / "plain"))
    polytok_(
        "dataset", "add", name, jsonl(tmp_path / "chats.jsonl", [{"text": "x", "messages": chat} for chat in CHATS])
    )
    # Without a template the model cannot; the message names it, and what helps.
    refused = polytok_("tokenize", name, "-m", plain, "--column", "messages", "--watch")
    assert refused.code == 1
    assert [named for named in (f"models/{plain}", "`--chat-template FILE`") if named not in refused.err] == []
    failed = polytok_("tokenization", "show", name, plain, "--json").json()
    assert (failed["state"], failed["error_reason"]) == ("ERROR", "TOKENIZER_INVALID")
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATE)
    command = ("tokenize", name, "-m", plain, "--variant", "own", "--chat-template", file, "--generation-prompt")
    made = polytok_(*command, "--max-length", "64", "--watch", "--json").json()["tokenizations"][0]
    assert made["parameters"]["chat"] == {"add_generation_prompt": True, "template": TEMPLATE, "tools_column": ""}
    assert made["parameters"]["text_column"] == "messages"
    expected = oracle(folder, add_generation_prompt=True, truncation=True, max_length=64)
    assert datasets.load_from_disk(made["tokenized_path"])["input_ids"][:] == expected
    # Another template is another tokenization, reported without printing both.
    file.write_text(TEMPLATE + " ")
    other = polytok_(*command, "--max-length", "64")
    assert other.code == 5
    assert "chat.template" in other.err
    assert f"of {len(TEMPLATE)} bytes" in other.err
    assert TEMPLATE not in other.err
    file.write_bytes(b"\xff")
    undecodable = polytok_(*command)
    assert undecodable.code == 2
    assert [named for named in ("--chat-template", "UTF-8") if named not in undecodable.err] == []
    file.write_text("x" * 70_000)
    assert "parameters.chat.template" in polytok_(*command).err


def test_a_malformed_turn_is_found_in_the_users_file(
    polytok_: Run, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model, name = samples.unique("chat-model"), samples.unique("chats")
    polytok_("model", "add", model, folder)
    rows: list[dict[str, Any]] = [{"messages": chat} for chat in CHATS]
    rows[17] = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]}
    polytok_("dataset", "add", name, jsonl(tmp_path / "chats.jsonl", rows))
    refused = polytok_("tokenize", name, "-m", model, "--watch")
    assert refused.code == 1
    places = (
        "'messages'",
        f"row 17 of datasets/{name}",
        "row 17 of chats.jsonl",
        "turn 2 of 2",
        "'assistant'",
        "content",
    )
    assert [place for place in places if place not in refused.err] == []


def test_the_text_column_is_reported(polytok_: Run, ready: tuple[str, str], tmp_path: pathlib.Path) -> None:
    _, model = ready
    name = samples.unique("columns")
    polytok_("dataset", "add", name, jsonl(tmp_path / "a.jsonl", [{"title": "t", "content": text} for text in "abc"]))
    reported = polytok_("tokenize", name, "-m", model).out
    chosen = polytok_("tokenization", "show", name, model, "--json").json()["parameters"]["column_choice"]
    (line,) = (line for line in reported.splitlines() if "`content`" in line)
    assert name in line
    assert chosen in line
    assert "`content`" not in polytok_("tokenize", name, "-m", model, "--column", "content").out


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"x": None}}}
EXACT = [
    '{"messages": [{"role": "user", "content": "a", "calls": {"b": 1, "a": null}}], "tools": ['
    + json.dumps(TOOL)
    + "]}",
    '{"messages": [{"role": "user", "content": "b", "calls": {"a": 1.5}}], "tools": null}',
    '{"messages": [{"content": "c", "role": "user", "calls": {"a": 9007199254740993}}], "documents": []}',
]
"""Rows that no one type of Arrow holds, with tools."""
WITH_TOOLS = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ m.content }}{{ m.calls | tojson }};{% endfor %}"
)


def test_conversations_follow_the_registered_template(polytok_: Run, tmp_path: pathlib.Path) -> None:
    folder = samples.write_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(WITH_TOOLS)
    model, name = samples.unique("tools-model"), samples.unique("tools")
    polytok_("model", "add", model, folder)
    (tmp_path / "tools.jsonl").write_text("\n".join(EXACT))
    polytok_("dataset", "add", name, tmp_path / "tools.jsonl")
    reported = polytok_("tokenize", name, "-m", model, "--truncation", "none", "--watch")
    assert reported.code == 0, reported.err
    assert "column `tools`" in reported.out
    assert "column `documents`" in reported.out
    made = polytok_("tokenization", "show", name, model, "--json").json()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(row) for row in EXACT]
    expected = [tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"))["input_ids"] for row in rows]
    assert datasets.load_from_disk(made["tokenized_path"])["input_ids"][:] == expected
    manifest = json.loads(pathlib.Path(made["tokenized_path"], "polytok.json").read_text())
    registered = polytok_("model", "show", model, "--json").json()["chat_template_fingerprint"]
    assert made["chat_template_fingerprint"] == manifest["tokenizer"]["chat_template_fingerprint"] == registered
    assert made["parameters"]["chat"]["tools_column"] == manifest["parameters"]["chat"]["tools_column"] == "tools"
    assert polytok_("tokenization", "verify", name, model, "--sample", "9", "--json").json()["sampled_documents"] == 3
    command = ("tokenize", name, "-m", model, "--truncation", "none", "--variant", "plain", "--no-tools")
    plain = polytok_(*command, "--watch", "--json").json()
    without = [tokenizer.apply_chat_template(row["messages"])["input_ids"] for row in rows]
    assert datasets.load_from_disk(plain["tokenizations"][0]["tokenized_path"])["input_ids"][:] == without
    # A template that changed is refused, whatever the worker has in its memory.
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    refused = polytok_("tokenize", name, "-m", model, "--variant", "after", "--watch")
    assert refused.code == 1
    after = polytok_("tokenization", "show", name, model, "--variant", "after", "--json").json()
    assert after["error_reason"] == "TOKENIZER_INVALID"
    assert "changed" in refused.err
    for failure in (refused, polytok_("tokenization", "verify", name, model, "--sample", "9")):
        assert f"chat template in '{folder}'" in failure.err
    other = samples.unique("without")
    polytok_("model", "add", other, folder)
    reported = polytok_("tokenize", name, "-m", other, "--watch")
    (line,) = (line for line in reported.out.splitlines() if f"models/{other}" in line and "--no-tools" in line)
    assert "1 conversations" in line
