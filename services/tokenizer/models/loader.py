"""Load a tokenizer as `transformers` does: fast tokenizers only, no code and no pickle from the repository."""

import json
import pathlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tokenizers
import transformers

from polytok import errors
from polytok.tokenizer.v1 import tasks_pb2
from services.runtime import hub
from services.tokenizer.models import fingerprints
from services.tokenizer.sequences import base

_MAIN_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer."""

    backend: tokenizers.Tokenizer
    """The tokenizer itself; its truncation and padding are off."""
    fingerprint: str
    """The sha256 of its content."""
    chat_template_fingerprint: str
    """The sha256 of its chat templates and of the special tokens passed to them; empty without templates."""
    class_name: str
    """Its class in `transformers`."""
    vocab_size: int
    """Number of tokens, including added ones."""
    special_tokens: tuple[tuple[str, str, int], ...]
    """Role, text and id of each special token."""
    model_max_length: int
    """The maximum sequence length according to the tokenizer; 0 if unknown."""
    frame: base.Frame
    """The special tokens that its post-processor puts around a document."""
    unknown: int | None
    """The id for text that the vocabulary lacks, if such text exists."""
    pretrained: transformers.PreTrainedTokenizerFast
    """The `transformers` tokenizer around the same backend; it applies chat templates."""

    def special(self, role: str) -> int | None:
        """Return the id of the special token of a role, or None."""
        return next((token for name, _, token in self.special_tokens if name == role), None)


class _Kept(NamedTuple):
    """A cached tokenizer."""

    repo_id: str
    revision: str
    stamp: tuple[object, ...] | None
    """State of the folder's files when it was loaded; see `_stamp`."""
    tokenizer: Tokenizer


class TokenizerCache:
    """Caches the most recently used tokenizers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[_Kept] = []

    def get(self, reference: tasks_pb2.TokenizerReference) -> Tokenizer:
        """Return the tokenizer with the reference's fingerprints.

        Raises InvalidArgument (TOKENIZER_INVALID) if the files have changed, even if the right tokenizer is cached:
        whether a task fails must not depend on what its worker did before.
        """
        stamp = _stamp(reference.repo_id)
        found = next((kept for kept in self._kept if _serves(kept, reference, stamp)), None)
        if found is None:
            loaded = load(hub.folder(reference.repo_id, reference.revision))
            _check_fingerprints(reference, loaded)
            found = _Kept(reference.repo_id, reference.revision, stamp, loaded)
        others = [kept for kept in self._kept if kept is not found]
        self._kept = [*others, found][-self._size :]
        return found.tokenizer


def _serves(kept: _Kept, reference: tasks_pb2.TokenizerReference, stamp: tuple[object, ...] | None) -> bool:
    # Without a fingerprint, it is unknown whether the files are still those of the cached tokenizer.
    return (
        bool(reference.fingerprint)
        and (kept.repo_id, kept.revision) == (reference.repo_id, reference.revision)
        and kept.tokenizer.fingerprint == reference.fingerprint
        and reference.chat_template_fingerprint in {"", kept.tokenizer.chat_template_fingerprint}
        and stamp in {None, kept.stamp}
    )


def _stamp(repo_id: str) -> tuple[object, ...] | None:
    """Return the files of a local tokenizer and their modification times.

    None for a hub repository, whose commits do not change, and for an unreadable folder.
    """
    if not repo_id.startswith("/"):
        return None
    folder = pathlib.Path(repo_id)
    try:
        paths = sorted({path for pattern in hub.TOKENIZER for path in folder.glob(pattern)})
        found = [(str(path), path.stat()) for path in paths]
    except OSError:
        return None
    return tuple((name, each.st_mtime_ns, each.st_ctime_ns, each.st_size, each.st_ino) for name, each in found) or None


def _check_fingerprints(reference: tasks_pb2.TokenizerReference, found: Tokenizer) -> None:
    for what, wanted, actual, more in (
        ("tokenizer", reference.fingerprint, found.fingerprint, ""),
        (
            "chat template",
            reference.chat_template_fingerprint,
            found.chat_template_fingerprint,
            ", or set the template for the tokenization (`--chat-template FILE`, `chat.template` in a request)",
        ),
    ):
        if wanted and actual != wanted:
            its = f"its fingerprint is {actual[:12]}…, not {wanted[:12]}…" if actual else "it no longer exists"
            raise invalid_tokenizer_error(
                f"The {what} in {reference.repo_id!r} changed since the model was registered: {its}. Restore "
                f"the old files, or register a model for the new ones{more}."
            )


def invalid_tokenizer_error(message: str) -> errors.InvalidArgument:
    """Return the error for an unusable tokenizer."""
    return errors.InvalidArgument(message, reason="TOKENIZER_INVALID")


def load(folder: pathlib.Path) -> Tokenizer:
    """Load the tokenizer of a folder."""
    loaded = _from_pretrained(folder)
    backend = loaded.backend_tokenizer
    # What transformers does before each of its own calls without truncation and padding.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(loaded.split_special_tokens)
    special_tokens = _special_tokens(loaded)
    return Tokenizer(
        backend=backend,
        fingerprint=fingerprints.fingerprint(backend, dict(loaded.special_tokens_map)),
        chat_template_fingerprint=fingerprints.chat_template_fingerprint(
            loaded.chat_template, dict(loaded.special_tokens_map)
        ),
        class_name=type(loaded).__name__,
        vocab_size=len(loaded),
        special_tokens=special_tokens,
        model_max_length=loaded.model_max_length if loaded.model_max_length < 1 << 30 else 0,
        frame=_frame(backend, folder),
        unknown=_unknown(backend),
        pretrained=loaded,
    )


def _from_pretrained(folder: pathlib.Path) -> transformers.PreTrainedTokenizerFast:
    if not any((folder / name).is_file() for name in _MAIN_FILES):
        raise invalid_tokenizer_error(
            f"{folder} does not contain a tokenizer.json. Save the tokenizer there: "
            f"AutoTokenizer.from_pretrained(…).save_pretrained({str(folder)!r})."
        )
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    # Broken files raise anything: OSError, ValueError, KeyError, and plain Exception from Rust.
    except Exception as error:
        raise invalid_tokenizer_error(_explanation(folder, error)) from error
    if not getattr(loaded, "is_fast", False):
        raise invalid_tokenizer_error(
            f"The tokenizer in {folder} ({type(loaded).__name__}) has no fast version. Convert it to a "
            "tokenizer.json, as `PreTrainedTokenizerFast.save_pretrained` writes it."
        )
    return loaded


def _explanation(folder: pathlib.Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"The tokenizer in {folder} needs code from its repository, which Polytok does not run. Convert "
            "it to a tokenizer.json, as `PreTrainedTokenizerFast.save_pretrained` writes it."
        )
    detail = (str(error).strip() or type(error).__name__).split("\n")[0][:300]
    if isinstance(error, KeyError):
        detail = f"a part of it is missing, {detail}"
    return (
        f"The tokenizer in {folder} cannot be loaded: {detail}. Check that its files are complete and were "
        f"saved by a version of `transformers` compatible with {transformers.__version__}."
    )


def _special_tokens(loaded: transformers.PreTrainedTokenizerFast) -> tuple[tuple[str, str, int], ...]:
    roles = [
        (role, str(text))
        for role, texts in loaded.special_tokens_map.items()
        for text in (texts if isinstance(texts, list | tuple) else [texts])
    ]
    vocabulary = {text: loaded.convert_tokens_to_ids(text) for _, text in roles}
    return tuple((role, text, int(vocabulary[text])) for role, text in roles if vocabulary[text] is not None)


def _frame(backend: tokenizers.Tokenizer, folder: pathlib.Path) -> base.Frame:
    """Return the special tokens that the post-processor adds, and check that it does nothing else."""
    probe = backend.encode("a")
    inner = [place for place, added in enumerate(probe.special_tokens_mask) if not added]
    if not inner:
        raise invalid_tokenizer_error(
            f"The tokenizer in {folder} returns no token for the text 'a'. Check that its vocabulary is complete."
        )
    found = base.Frame(np.array(probe.ids[: inner[0]], np.int32), np.array(probe.ids[inner[-1] + 1 :], np.int32))
    for text in ("", "a", "Two words.\n"):
        plain = backend.encode(text, add_special_tokens=False).ids
        if [*found.prefix.tolist(), *plain, *found.suffix.tolist()] != backend.encode(text).ids:
            raise invalid_tokenizer_error(
                f"The tokenizer in {folder} has a post-processor that does more than put special tokens before and "
                "after a text. Set add_special_tokens in its configuration, or use a TemplateProcessing."
            )
    return found


def _unknown(backend: tokenizers.Tokenizer) -> int | None:
    # Not transformers' unk_token: GPT-2 sets it to its end-of-text token, although no text is unknown to it.
    model = json.loads(backend.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    text = model.get("unk_token")
    token = backend.token_to_id(text) if text else None
    return None if token is None else int(token)


def warm() -> None:
    """Import what the first load would wait for, and start the threads that encode."""
    tokenizers.Tokenizer(tokenizers.models.BPE()).encode_batch_fast(["", ""])
    # Its attribute access imports the module of the tokenizer classes.
    assert transformers.AutoTokenizer is not None
