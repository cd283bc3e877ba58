"""What docs/extracting.md says of the options is what there is."""

import pathlib
import re
from typing import Any

import pytest

from polytok.client.extractions import Parameters
from tests.support import messages

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "extracting.md").read_text(encoding="utf-8")


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from polytok.cli import main

    monkeypatch.setenv("COLUMNS", "200")
    assert main.run(["extract", "--help"]) == 0
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    others = {"--model", "--watch", "--no-watch", "--catalog", "--json", "--help", "--special-tokens", "--no-compile"}
    assert {option for option in options - others if f"`{option}`" not in PAGE} == set()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"compute_format": "float8"}, ["compute_format", "'float8'", "float32", "float16", "bfloat16"]),
        ({"nonfinite": "drop"}, ["nonfinite", "'drop'", "fail", "keep"]),
        ({"contxt_size": 3}, ["contxt_size", *Parameters.__annotations__]),
    ],
)
def test_wrong_parameters_make_no_request(given: Any, expected: list[str]) -> None:
    import polytok
    from polytok import errors

    with polytok.Client("127.0.0.1:1") as client, pytest.MonkeyPatch.context() as environment:
        environment.setenv("POLYTOK_EXTRACTOR_ADDRESS", "127.0.0.1:1")
        with pytest.raises(errors.InvalidArgument) as caught:
            client.extractions.create("docs", "gpt2", hooks=["blocks.0.hook_mlp_out"], **given)
    assert caught.value.reason == "INVALID_FIELD"
    messages.check_names(caught.value.message, *expected)
