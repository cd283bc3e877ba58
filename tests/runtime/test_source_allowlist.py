"""Which places a user may name as a source."""

import pathlib

import pytest

from polytok import errors
from services.runtime import hub
from services.runtime.settings import ConfigurationError
from services.runtime.source_allowlist import SourceAllowlist, SourceSettings


@pytest.mark.parametrize(
    "uri",
    [
        "/proc/self/environ",
        "file:///sys/kernel/notes",
        "local:///dev/zero",
        "/dev/../proc/1/environ",
        "/proc",
        "/dev/sd*",
    ],
)
def test_the_kernels_folders_are_never_read(uri: str) -> None:
    for settings in (SourceSettings(), SourceSettings(allowlist="/")):
        with pytest.raises(errors.PermissionDenied) as caught:
            SourceAllowlist(settings).check(uri)
        assert caught.value.reason == "SOURCE_REFUSED"
        assert "POLYTOK_SOURCE_ALLOWLIST" not in caught.value.message, "no root allows it"
        assert not caught.value.retryable


def test_without_roots_everything_else_is_read(tmp_path: pathlib.Path) -> None:
    for uri in (str(tmp_path), "/dev/shm/docs.txt", "s3://bucket/key", "https://example.org/a.csv", "/process/a.txt"):
        SourceAllowlist().check(uri)
    SourceAllowlist().check_repository("openai-community/gpt2")


def test_with_roots_nothing_else_is_read(tmp_path: pathlib.Path) -> None:
    inside, outside = tmp_path / "corpora", tmp_path / "corpora-2"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.txt").write_text("hello")
    (inside / "link.txt").symlink_to(outside / "a.txt")
    (outside / "link.txt").symlink_to(inside / "a.txt")
    roots = SourceAllowlist(SourceSettings(allowlist=f"{inside}, s3://bucket/public,hf://org"))
    for uri in (f"{inside}/a.txt", f"file://{inside}/a.txt", f"{inside}/*.txt", f"{inside}", f"{outside}/link.txt"):
        roots.check(uri)
    for uri in ("s3://bucket/public", "s3://bucket/public/a.txt", f"{outside}/../corpora/a.txt"):
        roots.check(uri)
    roots.check_repository("org/model")
    roots.check_repository(str(inside))
    for uri in (
        f"{outside}/a.txt",
        f"{inside}/link.txt",
        f"{inside}/../corpora-2/a.txt",
        f"{inside}/%2e%2e/../../corpora-2/a.txt",
        str(tmp_path),
        "s3://bucket/public-not/a.txt",
        "s3://bucket/public/../private/a.txt",
        "s3://bucket/public/%2e%2e/private/a.txt",
        "s3://other",
        "http://169.254.169.254/latest/meta-data",
    ):
        with pytest.raises(errors.PermissionDenied) as caught:
            roots.check(uri)
        assert caught.value.reason == "SOURCE_REFUSED"
        assert "POLYTOK_SOURCE_ALLOWLIST" in caught.value.message
    for repository in ("orgs/model", "other/model", str(outside), "../corpora-2"):
        with pytest.raises(errors.PermissionDenied):
            roots.check_repository(repository)


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(errors.PermissionDenied) as caught:
        SourceAllowlist(SourceSettings(allowlist="/corpora")).check(
            "https://me:secret@example.org/a.csv?signature=secret"
        )
    for value in ("https://example.org/a.csv", "/corpora", "POLYTOK_SOURCE_ALLOWLIST"):
        assert value in caught.value.message
    assert "secret" not in caught.value.message


def test_a_model_outside_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("POLYTOK_SOURCE_ALLOWLIST", str(tmp_path / "models"))
    for repository in (str(tmp_path / "model"), "openai-community/gpt2"):
        with pytest.raises(errors.PermissionDenied) as caught:
            hub.folder(repository)
        assert caught.value.reason == "SOURCE_REFUSED"
        assert repository in caught.value.message


def test_relative_root_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"POLYTOK_SOURCE_ALLOWLIST .*'corpora'"):
        SourceSettings(allowlist="/data,corpora")
