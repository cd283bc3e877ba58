"""The demo's corpus."""

import ast
import json
import pathlib

import pytest

from polytok.demo import corpus


def test_pieces_joined_are_the_source() -> None:
    source = pathlib.Path(ast.__file__).read_text()
    pieces = list(corpus.cut(source, ast.parse(source)))
    assert "".join(pieces) == source
    assert len(pieces) > 10


def test_the_standard_library_without_installed_packages() -> None:
    files = list(corpus.source_files())
    assert pathlib.Path(ast.__file__) in files
    assert not [path for path in files if "site-packages" in path.parts]


def test_written_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tenth is like the whole, which takes ten times as long.
    tenth = list(corpus.source_files())[::10]
    monkeypatch.setattr(corpus, "source_files", lambda: iter(tenth))
    path = tmp_path / "demo" / "corpus.jsonl"
    corpus.write(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert {row["kind"] for row in rows} == {"topic", "docstring", "source"}
    assert all(row["text"].strip() for row in rows)
    assert path.stat().st_size > 1e6
    assert list(path.parent.iterdir()) == [path]
    assert len(list(corpus.texts(path, every=2))) == (len(rows) + 1) // 2
