"""Resolve a repository to a folder: a local folder as it is, a repository of the Hugging Face hub by downloading it.

Only the requested files are fetched, never code. Files fetched earlier are used again while the hub is unavailable.
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
"""The files of a repository with its tokenizer and model configuration; no weights."""
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
    """Return a folder with the files of a local or hub repository; `reason` is that of errors about a folder.

    Raise PermissionDenied (SOURCE_REFUSED) if `POLYTOK_SOURCE_ALLOWLIST` does not allow it.
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
    """Return the commit of the files in a folder that `folder` returned; empty for a local repository."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else ""


def _local(path: pathlib.Path, reason: str) -> pathlib.Path:
    if not path.is_absolute():
        raise errors.InvalidArgument(
            f"{path} is not an absolute path. Give the absolute path: workers run in other directories.",
            reason=reason,
        )
    try:
        is_folder = path.is_dir()
        if is_folder:
            next(path.iterdir(), None)
    except OSError as error:
        raise errors.InvalidArgument(
            f"The folder {path} cannot be read ({error.strerror}). Make it readable for the worker's user.",
            reason=reason,
        ) from error
    if not is_folder:
        raise errors.InvalidArgument(
            f"The folder {path} does not exist on the worker's machine. Put the model's files there, "
            "or register the model again with another folder.",
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
            f"The hub repository {repo_id!r} has no revision {revision!r}. Register the model with an existing one.",
            reason="HUB_UNAVAILABLE",
        ) from error
    # Any other failure: the client passes on errors of its HTTP library, which has changed before.
    except Exception as error:
        raise _refused(what, error) from error


def _refused(what: str, error: Exception) -> errors.PolytokError:
    status = _status(error) or _status(error.__cause__)
    if status in {401, 403, 404}:
        return errors.PermissionDenied(
            f"The hub refused {what} (HTTP {status}): the repository does not exist, or it is private or gated. "
            "Check the name, and set HF_TOKEN of the worker to a token that may read it.",
            reason="HUB_UNAVAILABLE",
        )
    detail = f"HTTP {status}" if status else str(error).strip().split("\n")[0][:300] or type(error).__name__
    return errors.Unavailable(
        f"The hub did not return {what} ({detail}). Check the worker's connection to the hub, or register the model "
        "with a local folder.",
        reason="HUB_UNAVAILABLE",
    )


def _status(error: BaseException | None) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))
