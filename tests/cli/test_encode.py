"""`polytok encode`."""

import io
import itertools
import sys

import pytest

from polytok.cli.commands import encode
from polytok.tokenizer.v1 import tokenizer_pb2 as pb
from tests.cli.conftest import Run

TEXT = "The sea,  the wind → 中.\n"


def test_the_pieces_of_a_text(polytok_: Run, ready: tuple[str, str]) -> None:
    _, model = ready
    (encoding,) = polytok_("encode", TEXT, "--model", model, "--json").json()["encodings"]
    assert encoding["model"] == f"models/{model}"
    assert encoding["exact_offsets"] is True
    data = TEXT.encode()
    assert b"".join(data[token["start"] : token["end"]] for token in encoding["tokens"]) == data
    lines = polytok_("encode", TEXT, "--model", model).out.splitlines()
    pieces = [token["piece"] for token in encoding["tokens"]]
    assert lines == [f"{model}: {len(pieces)} tokens", " ".join(pieces)]


def test_several_models_and_standard_input(
    polytok_: Run, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = ready
    other = f"{model}-too"
    polytok_("model", "add", other, polytok_("model", "show", model, "--json").json()["repo_id"], "--json").json()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\r\nb")))
    first, second = polytok_("encode", "-", "-m", model, "-m", other, "--no-special-tokens", "--json").json()[
        "encodings"
    ]
    assert (first["model"], second["model"]) == (f"models/{model}", f"models/{other}")
    assert first["tokens"] == second["tokens"]
    assert first["tokens"][-1]["end"] == 4
    assert polytok_("model", "delete", other).code == 0


def test_invalid_requests_are_reported(polytok_: Run, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = ready
    assert polytok_("encode", "a", "-m", "absent").code == 4
    refused = polytok_("encode", "a" * ((1 << 20) + 1), "-m", model, "--json")
    assert refused.code == 2
    assert "1 MiB" in refused.error()["message"]
    assert "UTF-8" in polytok_("encode", "\udc80", "-m", model).err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert "iconv" in polytok_("encode", "-", "-m", model).err


def test_another_catalog_has_another_tokenizer(polytok_: Run, stack: object) -> None:
    del stack
    refused = polytok_("encode", "a", "-m", "gpt2", "--catalog", "192.0.2.1:9")
    assert refused.code == 6
    assert "POLYTOK_TOKENIZER_ADDRESS" in refused.err


def test_colours_show_every_byte_once() -> None:
    data = "[x] a→b\x1b".encode()
    spans = [(0, 3), (4, 5), (5, 6), (6, 8), (8, 9), (9, 10)]
    tokens = [pb.Token(id=0, piece="<s>", added=True)]
    tokens += [pb.Token(id=1, piece="?", start=start, end=end) for start, end in spans]
    text = encode._coloured(data, pb.Encoding(tokens=tokens))
    assert text.plain == "<s>[x] a\\xe2\\x86\\x92b\\x1b"
    colours = [str(span.style) for span in text.spans]
    assert colours[0] == "bold red"
    assert all(one != next_ for one, next_ in itertools.pairwise(colours))


def test_a_shared_character_is_shown_once() -> None:
    tokens = [pb.Token(id=1, piece="e", start=0, end=2), pb.Token(id=2, piece="~", start=0, end=2)]
    assert encode._coloured("é".encode(), pb.Encoding(tokens=tokens)).plain == "é~"
