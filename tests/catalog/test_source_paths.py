"""Source paths are checked before there is a record, where the catalog can see them."""

import pathlib

import pytest

from polytok import errors
from services.catalog.server.service import source_paths
from tests.support.messages import check_names

FIELD = "dataset.source.files.uris[0]"


def check(path: object) -> None:
    source_paths.check([(FIELD, str(path))])


def test_close_names_are_suggested(tmp_path: pathlib.Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "docs.jsonl").touch()
    check(tmp_path / "corpus")
    check(tmp_path / "corpus" / "docs.jsonl")
    for wrong, close in (("corpus/dosc.jsonl", "corpus/docs.jsonl"), ("corpsu/docs.jsonl", "corpus")):
        with pytest.raises(errors.NotFound) as caught:
            check(tmp_path / wrong)
        assert caught.value.reason == "SOURCE_NOT_FOUND"
        assert [violation.field for violation in caught.value.violations] == [FIELD]
        check_names(caught.value.message, tmp_path / wrong, tmp_path / close)


def test_a_file_in_place_of_a_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "docs.jsonl").touch()
    with pytest.raises(errors.NotFound):
        check(tmp_path / "docs.jsonl" / "x")


@pytest.mark.parametrize("value", ["s3://bucket/none", "file:///none", "/none/*.jsonl", "owner/name", "/none::x"])
def test_what_is_left_to_the_workers(value: str) -> None:
    check(value)


def test_nothing_outside_the_allowlist_is_looked_at(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "secret.txt").touch()
    monkeypatch.setenv("POLYTOK_SOURCE_ALLOWLIST", str(tmp_path / "open"))
    for name in ("secret.txt", "secrets.txt"):
        with pytest.raises(errors.PermissionDenied) as caught:
            check(tmp_path / name)
        assert caught.value.reason == "SOURCE_REFUSED"
    with pytest.raises(errors.NotFound) as missing:
        check(tmp_path / "open" / "secret.txt")
    assert "secret.txt" not in missing.value.message.replace(str(tmp_path / "open" / "secret.txt"), "")
