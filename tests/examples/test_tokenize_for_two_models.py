"""The example runs on a stack as a user has it, leaves nothing behind, and its page shows what it does."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import polytok
from polytok.client import tokenization_arguments

if TYPE_CHECKING:
    from tests.support.stacks import Stack

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "tokenize_for_two_models.py"
PAGE = ROOT / "docs" / "example-tokenize.md"


def used(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(used, value.values()))


def test_every_option_is_in_the_story() -> None:
    spec = importlib.util.spec_from_file_location("example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    kinds = (
        tokenization_arguments.Parameters,
        tokenization_arguments.Filters,
        tokenization_arguments.Padding,
        tokenization_arguments.Packing,
        tokenization_arguments.Chat,
    )
    options = {option for kind in kinds for option in kind.__annotations__}
    reported = {option for variant in example.VARIANTS.values() for option in used(variant)}
    (chat,) = re.findall(r"chat=(\{.+\})", SCRIPT.read_text())
    chat = {"chat", *re.findall(r'"(\w+)": ', chat)}
    assert reported | chat == options


def test_the_page_shows_what_the_script_has() -> None:
    script, page = SCRIPT.read_text(encoding="utf-8"), PAGE.read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.+?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(snippets) > 4
    flat = " ".join(script.split())
    assert [snippet for snippet in snippets if " ".join(snippet.split()) not in flat] == []


@pytest.mark.long
def test_the_example_runs_and_cleans_up(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT], env=stack.env, capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    for reported in ("example-chats: ", "windows", "Verified: ", "example-marks: column messages"):
        assert reported in " ".join(done.stdout.split())
    assert not (stack.home / "example").exists()
    with polytok.Client(stack.catalog_address) as client:
        assert not [each.name for each in client.datasets.list() if "example" in each.name]
        assert not [each.name for each in client.models.list() if "example" in each.name]
