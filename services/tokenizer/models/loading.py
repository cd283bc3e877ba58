"""Loads a tokenizer as `transformers` does: fast tokenizers only, no code and no pickle of the repository's own."""

import collections
import json
import pathlib
from dataclasses import dataclass

import numpy as np
import tokenizers
import transformers

from polytok import errors
from polytok.tokenizer.v1 import tasks_pb2
from services.tokenizer.models import fingerprints, hub
from services.tokenizer.rows import sequences

_MAIN_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer."""

    backend: tokenizers.Tokenizer
    """The tokenizer itself; its truncation and padding are off."""
    fingerprint: str
    """sha256 of its content."""
    class_name: str
    """Its class in `transformers`."""
    vocab_size: int
    """Tokens, added ones included."""
    special_tokens: tuple[tuple[str, str, int], ...]
    """Role, text and id of each special token."""
    model_max_length: int
    """The longest sequence that the tokenizer says its model takes; 0 if it says nothing."""
    frame: sequences.Frame
    """What its post-processor puts around a document."""
    unknown: int | None
    """The id that stands for text that the vocabulary lacks, if there is such text."""
    pretrained: transformers.PreTrainedTokenizerFast
    """The tokenizer as `transformers` has it, around the same backend: it knows chat templates."""

    def special(self, role: str) -> int | None:
        """Returns the id of the special token of a role, or None."""
        return next((token for name, _, token in self.special_tokens if name == role), None)


class Tokenizers:
    """The tokenizers that were used last, kept loaded."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._loaded: collections.OrderedDict[tuple[str, str, str], Tokenizer] = collections.OrderedDict()

    def get(self, reference: tasks_pb2.TokenizerReference) -> Tokenizer:
        """Returns the tokenizer, which must have the reference's fingerprint if that has one."""
        # Without a fingerprint there is no telling whether the files are still those that were loaded before.
        found = self._loaded.get((reference.repo_id, reference.revision, reference.fingerprint))
        if found is None:
            found = load(hub.folder(reference.repo_id, reference.revision))
            _check_fingerprint(reference, found.fingerprint)
        key = (reference.repo_id, reference.revision, found.fingerprint)
        self._loaded[key] = found
        self._loaded.move_to_end(key)
        while len(self._loaded) > self._size:
            self._loaded.popitem(last=False)
        return found


def _check_fingerprint(reference: tasks_pb2.TokenizerReference, found: str) -> None:
    if reference.fingerprint and found != reference.fingerprint:
        raise invalid(
            f"The tokenizer in {reference.repo_id!r} changed since the model was registered: its fingerprint is "
            f"{found[:12]}…, not {reference.fingerprint[:12]}…. Bring the old files back, "
            "or register a model for the new ones."
        )


def invalid(message: str) -> errors.InvalidArgument:
    """Returns the error for a tokenizer that cannot be used."""
    return errors.InvalidArgument(message, reason="TOKENIZER_INVALID")


def load(folder: pathlib.Path) -> Tokenizer:
    """Loads the tokenizer of a folder."""
    loaded = _from_pretrained(folder)
    backend = loaded.backend_tokenizer
    # What transformers does before each call of its own, for a call without truncation and padding.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(loaded.split_special_tokens)
    special_tokens = _special_tokens(loaded)
    return Tokenizer(
        backend=backend,
        fingerprint=fingerprints.fingerprint(backend, dict(loaded.special_tokens_map)),
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
        raise invalid(
            f"{folder} holds no tokenizer.json. Save the tokenizer there: "
            f"AutoTokenizer.from_pretrained(…).save_pretrained({str(folder)!r})."
        )
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    # Broken files surface as anything: OSError, ValueError, KeyError, and plain Exception from the Rust side.
    except Exception as error:
        raise invalid(_explanation(folder, error)) from error
    if not getattr(loaded, "is_fast", False):
        raise invalid(
            f"The tokenizer in {folder} ({type(loaded).__name__}) has no fast form. Convert it to a tokenizer.json, "
            "as `PreTrainedTokenizerFast.save_pretrained` writes it."
        )
    return loaded


def _explanation(folder: pathlib.Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"The tokenizer in {folder} is code of the repository's own, which Polytok does not run. "
            "Convert it to a tokenizer.json, as `PreTrainedTokenizerFast.save_pretrained` writes it."
        )
    detail = (str(error).strip() or type(error).__name__).split("\n")[0][:300]
    if isinstance(error, KeyError):
        detail = f"a part of it is missing, {detail}"
    return (
        f"The tokenizer in {folder} cannot be loaded: {detail}. Check that its files are whole and were saved by a "
        f"`transformers` that {transformers.__version__} understands."
    )


def _special_tokens(loaded: transformers.PreTrainedTokenizerFast) -> tuple[tuple[str, str, int], ...]:
    roles = [
        (role, str(text))
        for role, texts in loaded.special_tokens_map.items()
        for text in (texts if isinstance(texts, list | tuple) else [texts])
    ]
    vocabulary = {text: loaded.convert_tokens_to_ids(text) for _, text in roles}
    return tuple((role, text, int(vocabulary[text])) for role, text in roles if vocabulary[text] is not None)


def _frame(backend: tokenizers.Tokenizer, folder: pathlib.Path) -> sequences.Frame:
    """Finds what the post-processor puts around a text, and that it does no more than that."""
    probe = backend.encode("a")
    inner = [place for place, added in enumerate(probe.special_tokens_mask) if not added]
    if not inner:
        raise invalid(f"The tokenizer in {folder} gives no token for the text 'a'. Check that its vocabulary is whole.")
    found = sequences.Frame(np.array(probe.ids[: inner[0]], np.int32), np.array(probe.ids[inner[-1] + 1 :], np.int32))
    for text in ("", "a", "Two words.\n"):
        plain = backend.encode(text, add_special_tokens=False).ids
        if [*found.prefix.tolist(), *plain, *found.suffix.tolist()] != backend.encode(text).ids:
            raise invalid(
                f"The tokenizer in {folder} has a post-processor that does more than put special tokens before and "
                "after a text. Set add_special_tokens in its configuration, or use a TemplateProcessing."
            )
    return found


def _unknown(backend: tokenizers.Tokenizer) -> int | None:
    # Not transformers' unk_token: GPT-2 calls its end of text so, although no text is unknown to it.
    model = json.loads(backend.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    text = model.get("unk_token")
    token = backend.token_to_id(text) if text else None
    return None if token is None else int(token)


def warm() -> None:
    """Imports what the first load would wait for, and starts the threads that encode."""
    tokenizers.Tokenizer(tokenizers.models.BPE()).encode_batch_fast(["", ""])
    # Its attribute access imports the module of the tokenizer classes.
    assert transformers.AutoTokenizer is not None
