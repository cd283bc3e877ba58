"""Where a repository's files are: a local folder as it is, a repository of the Hugging Face hub once it is downloaded.

Only the files that are asked for are fetched, never code. What was fetched before serves again when the hub is away.
Needs the package `huggingface_hub`, which workers have.
"""

import pathlib
import re
from collections.abc import Sequence

import huggingface_hub
from huggingface_hub import errors as hub_errors

from polytok import errors
from services.runtime.source_allowlist import SourceAllowlist

TOKENIZER = (
    "config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*.jinja",
)
"""The files of a repository that a tokenizer and a model's configuration consist of; no weights."""
MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
"""The files that a model consists of."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def folder(
    repo_id: str,
    revision: str = "",
    *,
    files: Sequence[str] = TOKENIZER,
    reason: str = "TOKENIZER_INVALID",
    endpoint: str | None = None,
) -> pathlib.Path:
    """Return a folder with the files of a local or a hub repository; `reason` is that of an error about a folder.

    Raises PermissionDenied (SOURCE_REFUSED) where `POLYTOK_SOURCE_ALLOWLIST` does not allow it.
    """
    SourceAllowlist().check_repository(repo_id)
    if repo_id.startswith(("/", ".", "~")):
        return _local(pathlib.Path(repo_id), reason)
    if not _REPOSITORY.fullmatch(repo_id):
        raise errors.InvalidArgument(
            f"{repo_id!r} is neither the absolute path of a folder nor a hub repository such as "
            "'openai-community/gpt2'.",
            reason=reason,
        )
    return _downloaded(repo_id, revision, files, endpoint)


def commit(folder: pathlib.Path) -> str:
    """Return the commit whose files a folder that `folder` returned has; empty for a local repository."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else ""


def _local(path: pathlib.Path, reason: str) -> pathlib.Path:
    if not path.is_absolute():
        raise errors.InvalidArgument(
            f"{path} is no absolute path; workers run in folders of their own, so give the whole path.",
            reason=reason,
        )
    try:
        is_folder = path.is_dir()
        if is_folder:
            next(path.iterdir(), None)
    except OSError as error:
        raise errors.InvalidArgument(
            f"The folder {path} cannot be read ({error.strerror}). Let the user that the worker runs as read it.",
            reason=reason,
        ) from error
    if not is_folder:
        raise errors.InvalidArgument(
            f"There is no folder {path} on the worker's machine. Put the model's files there, "
            "or register the model again with the folder that has them.",
            reason=reason,
        )
    return path


def _downloaded(repo_id: str, revision: str, files: Sequence[str], endpoint: str | None) -> pathlib.Path:
    what = f"{repo_id!r}" + (f" at {revision!r}" if revision else "")
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                repo_id, revision=revision or None, allow_patterns=list(files), endpoint=endpoint
            )
        )
    except hub_errors.RevisionNotFoundError as error:
        raise errors.NotFound(
            f"The hub's repository {repo_id!r} has no revision {revision!r}. Register the model with one that exists.",
            reason="HUB_UNAVAILABLE",
        ) from error
    # Whatever else goes wrong: the client lets errors of the HTTP library below it through, and changed that before.
    except Exception as error:
        raise _refused(what, error) from error


def _refused(what: str, error: Exception) -> errors.PolytokError:
    status = _status(error) or _status(error.__cause__)
    if status in {401, 403, 404}:
        return errors.PermissionDenied(
            f"The hub refused {what} (HTTP {status}): there is no such repository, or it is private or gated. "
            "Check the name, and set HF_TOKEN for the worker to a token that may read it.",
            reason="HUB_UNAVAILABLE",
        )
    detail = f"HTTP {status}" if status else str(error).strip().split("\n")[0][:300] or type(error).__name__
    return errors.Unavailable(
        f"The hub did not give {what} ({detail}). Check the worker's way to the hub, or register the model with "
        "a local folder.",
        reason="HUB_UNAVAILABLE",
    )


def _status(error: BaseException | None) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))
